"""The leases a steward has granted: who works on what, and until when it may be silent."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    is_started: bool = False


@dataclass(slots=True, kw_only=True)
class LeaseBook:
    """Counts leases from when the steward heard the executor: the holder counts from earlier."""

    lease_us: int = LEASE_US
    _granted: dict[LeaseRef, Granted] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._granted)

    def grant(
        self, lease: LeaseRef, executor: PeerId, indices: tuple[int, ...], *, now_us: int
    ) -> list[Effect]:
        """Note a new lease."""
        self._granted[lease] = Granted(
            executor=executor, indices=set(indices), expires_us=now_us + self.lease_us
        )
        return [SetTimer(GrantedLeaseEnds(lease), self.lease_us)]

    def of(self, lease: LeaseRef, executor: PeerId) -> Granted | None:
        """Return the lease if it is out, and out to this device."""
        granted = self._granted.get(lease)
        return granted if granted is not None and granted.executor == executor else None

    def renew(self, lease: LeaseRef, executor: PeerId, *, now_us: int) -> Granted | None:
        """Count anew; None if the lease is over."""
        granted = self.of(lease, executor)
        if granted is not None:
            granted.expires_us = now_us + self.lease_us
        return granted

    def end_task(self, lease: LeaseRef, index: int) -> None:
        """A task of a lease has ended; the lease ends with its last."""
        granted = self._granted.get(lease)
        if granted is None:
            return
        granted.indices.discard(index)
        if not granted.indices:
            del self._granted[lease]

    def held_by(self, executor: PeerId, batch: BatchId, index: int) -> list[LeaseRef]:
        """Return the leases under which a device works on a task."""
        return [
            ref
            for ref, granted in self._granted.items()
            if granted.executor == executor and ref.batch == batch and index in granted.indices
        ]

    def on_timer_due(
        self, ends: GrantedLeaseEnds, *, now_us: int
    ) -> tuple[Granted | None, list[Effect]]:
        """Return the lease if it has run out, or the timer for what is left of it."""
        granted = self._granted.get(ends.lease)
        if granted is None:
            return None, []
        if now_us < granted.expires_us:  # renewed since the timer was set
            return None, [SetTimer(ends, granted.expires_us - now_us)]
        del self._granted[ends.lease]
        return granted, []
