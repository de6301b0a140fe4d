"""The leases a steward has granted: who works on what, and until when it may be silent.

A device has a task under one lease at a time: the book refuses a second. Several devices may have
it, each under a lease of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.errors import TaskLeased
from wire.effects import Effect, SetTimer
from wire.ids import BatchId, PeerId
from wire.messages import LeaseRef

LEASE_US = 10_000_000


@dataclass(frozen=True, slots=True)
class GrantedLeaseEnds:
    """Timer: see whether a granted lease has run out."""

    lease: LeaseRef


@dataclass(slots=True, kw_only=True)
class Granted:
    """A lease that is out. `indices` are the tasks not ended yet."""

    executor: PeerId
    indices: set[int]
    expires_us: int
    granted_us: int
    is_started: bool = False


@dataclass(slots=True, kw_only=True)
class LeaseBook:
    """Counts leases from when the steward heard the executor: the holder counts from earlier."""

    lease_us: int = LEASE_US
    _granted: dict[LeaseRef, Granted] = field(default_factory=dict)
    _by_task: dict[tuple[BatchId, int], dict[PeerId, LeaseRef]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._granted)

    def __contains__(self, lease: LeaseRef) -> bool:
        return lease in self._granted

    def grant(
        self, lease: LeaseRef, executor: PeerId, indices: tuple[int, ...], *, now_us: int
    ) -> list[Effect]:
        """Note a new lease.

        Raises TaskLeased if one of its tasks is out to this device already, or its name is out.
        """
        places = [(lease.batch, index) for index in indices]
        if lease in self._granted or any(executor in self._by_task.get(p, ()) for p in places):
            raise TaskLeased(f"attempt {lease.attempt} of {lease.epoch}: {indices}")
        for place in places:
            self._by_task.setdefault(place, {})[executor] = lease
        self._granted[lease] = Granted(
            executor=executor,
            indices=set(indices),
            expires_us=now_us + self.lease_us,
            granted_us=now_us,
        )
        return [SetTimer(GrantedLeaseEnds(lease), self.lease_us)]

    def all(self) -> list[tuple[LeaseRef, Granted]]:
        """Return all leases that are out, the first to be given first."""
        return list(self._granted.items())

    def under(self, lease: LeaseRef) -> Granted | None:
        """Return the lease if it is out."""
        return self._granted.get(lease)

    def of(self, lease: LeaseRef, executor: PeerId) -> Granted | None:
        """Return the lease if it is out, and out to this device."""
        granted = self._granted.get(lease)
        return granted if granted is not None and granted.executor == executor else None

    def of_task(self, batch: BatchId, index: int) -> list[tuple[LeaseRef, Granted]]:
        """Return the leases that a task is under, those given first first."""
        leases = self._by_task.get((batch, index), {})
        return [(lease, self._granted[lease]) for lease in leases.values()]

    def out_to(self, executors: frozenset[PeerId]) -> list[tuple[LeaseRef, Granted]]:
        """Return the leases that these devices hold."""
        return [
            (lease, granted)
            for lease, granted in self._granted.items()
            if granted.executor in executors
        ]

    def renew(self, lease: LeaseRef, executor: PeerId, *, now_us: int) -> Granted | None:
        """Count anew; None if the lease is over."""
        granted = self.of(lease, executor)
        if granted is not None:
            granted.expires_us = now_us + self.lease_us
        return granted

    def end_task(self, lease: LeaseRef, index: int) -> bool:
        """Say whether a task was under a lease, and end that; the lease ends with its last task."""
        granted = self._granted.get(lease)
        if granted is None or index not in granted.indices:
            return False
        granted.indices.discard(index)
        of_task = self._by_task[lease.batch, index]
        del of_task[granted.executor]
        if not of_task:
            del self._by_task[lease.batch, index]
        if not granted.indices:
            del self._granted[lease]
        return True

    def on_timer_due(
        self, ends: GrantedLeaseEnds, *, now_us: int
    ) -> tuple[Granted | None, list[Effect]]:
        """Return the lease if it has run out, or the timer for what is left of it.

        What has run out is still in the book until its tasks are ended.
        """
        granted = self._granted.get(ends.lease)
        if granted is None:
            return None, []
        if now_us < granted.expires_us:  # renewed since the timer was set
            return None, [SetTimer(ends, granted.expires_us - now_us)]
        return granted, []
