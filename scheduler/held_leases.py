"""The leases an executor holds and the tasks it runs under them.

A lease only saves work: the holder stops when its own count of the lease runs out, a little before
the steward's, and counts anew whenever it told a steward that can hear it that it works on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from scheduler.moves import Stewards
from scheduler.own_breaker import OwnBreaker
from telemetry.breaker import ProbeEnd
from wire.effects import Effect, Execute, Kill, RunId, Send, SetTimer, Trace
from wire.ids import PeerId
from wire.messages import LeaseProgress, LeaseRef
from wire.signed import Signed
from wire.tasks import LEASE_TASKS_MAX, Contract, Lease, Task

PROGRESS_EVERY_US = 3_000_000
HOLDER_MARGIN_PERCENT = 2
# Whatever a steward grants: its silence must not keep the room, nor timers, for longer.
LEASE_US_MAX = 600_000_000
RUN_GUESS_US = 1_000_000


@dataclass(frozen=True, slots=True)
class ProgressDue:
    """Timer: renew the leases of one steward."""

    steward: PeerId


@dataclass(frozen=True, slots=True)
class HeldLeaseEnds:
    """Timer: see whether a held lease has run out."""

    steward: PeerId
    lease: LeaseRef


@dataclass(slots=True, kw_only=True)
class HeldLease:
    """A lease this device works under. `tasks` are those not ended yet."""

    steward: PeerId
    lease: Signed[Lease]
    contract: Contract
    stewards: Stewards  # who settles its results
    submitter: PeerId
    tasks: dict[int, Task]
    expires_us: int

    @property
    def ref(self) -> LeaseRef:
        """The lease's name."""
        return lease_ref(self.lease.body)


@dataclass(slots=True, kw_only=True)
class HeldLeases:
    """All leases held, of all stewards."""

    is_reachable: Callable[[PeerId], bool]
    breaker: OwnBreaker
    _held: dict[tuple[PeerId, LeaseRef], HeldLease] = field(default_factory=dict)
    _runs: dict[RunId, tuple[PeerId, LeaseRef]] = field(default_factory=dict)
    _renewing: set[PeerId] = field(default_factory=set)  # whose ProgressDue is set
    _run_us: int = RUN_GUESS_US

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, name: tuple[PeerId, LeaseRef]) -> bool:
        return name in self._held

    @property
    def runs_count(self) -> int:
        """How many tasks are running or waiting for a worker."""
        return len(self._runs)

    def slots_held(self) -> Counter[PeerId]:
        """Return how many tasks of each submitter are running or waiting for a worker."""
        counts: Counter[PeerId] = Counter()
        for held in self._held.values():
            counts[held.submitter] += len(held.tasks)
        return counts

    def wait_us(self, workers_count: int) -> int:
        """Return how long one more task would wait for a worker, by the runs of late."""
        ahead_count = max(0, len(self._runs) - workers_count + 1)
        return self._run_us * ahead_count // workers_count

    def is_running_any(self, lease: Lease) -> bool:
        """Say whether a run that the lease would start is under way, for another steward.

        Runs are named by batch, epoch and attempt: honest stewards of one batch differ in those.
        """
        return any(_run_id(lease, index) in self._runs for index in lease.indices)

    def begin(
        self,
        steward: PeerId,
        lease: Signed[Lease],
        contract: Contract,
        stewards: Stewards,
        tasks: list[Task],
        *,
        submitter: PeerId,
        since_us: int,
        now_us: int,
    ) -> list[Effect]:
        """Start the tasks of a lease; the first progress message acknowledges it."""
        held = HeldLease(
            steward=steward,
            lease=lease,
            contract=contract,
            stewards=stewards,
            submitter=submitter,
            tasks={task.index: task for task in tasks},
            expires_us=since_us + _holder_us(lease.body.duration_us),
        )
        self._held[steward, held.ref] = held
        self.breaker.on_lease_begins(steward, held.ref, now_us=now_us)
        effects: list[Effect] = [
            Send(steward, LeaseProgress(leases=(held.ref,))),
            SetTimer(HeldLeaseEnds(steward, held.ref), max(0, held.expires_us - now_us)),
        ]
        if steward not in self._renewing:  # else short leases would put off the renewal of a long
            self._renewing.add(steward)
            effects.append(SetTimer(ProgressDue(steward), PROGRESS_EVERY_US))
        return effects + [self._execute(held, task) for task in tasks]

    def on_progress_due(self, due: ProgressDue, *, now_us: int) -> list[Effect]:
        """Renew all leases of a steward that can hear it."""
        held = [held for held in self._held.values() if held.steward == due.steward]
        if not held:
            self._renewing.discard(due.steward)
            return []
        effects: list[Effect] = [SetTimer(ProgressDue(due.steward), PROGRESS_EVERY_US)]
        if not self.is_reachable(due.steward):
            return effects
        for start in range(0, len(held), LEASE_TASKS_MAX):
            refs = tuple(one.ref for one in held[start : start + LEASE_TASKS_MAX])
            effects.append(Send(due.steward, LeaseProgress(leases=refs)))
        for one in held:
            one.expires_us = now_us + _holder_us(one.lease.body.duration_us)
        return effects

    def on_lease_ends(self, ends: HeldLeaseEnds, *, now_us: int) -> list[Effect]:
        """Stop working for a steward that was not heard for a whole lease."""
        held = self._held.get((ends.steward, ends.lease))
        if held is None:
            return []
        if now_us < held.expires_us:
            return [SetTimer(ends, held.expires_us - now_us)]
        trace = Trace("lease.ran_out", {"batch": held.lease.body.batch.hex()})
        return [*self.drop(held, tuple(held.tasks), now_us=now_us), trace]

    def drop_tasks(
        self, steward: PeerId, lease: LeaseRef, indices: tuple[int, ...], *, now_us: int
    ) -> list[Effect]:
        """Stop tasks of a lease that its steward wants no more; none named are all."""
        held = self._held.get((steward, lease))
        if held is None:
            return []
        return self.drop(held, indices or tuple(held.tasks), now_us=now_us)

    def drop(self, held: HeldLease, indices: Iterable[int], *, now_us: int) -> list[Effect]:
        """Stop tasks of a lease."""
        lease = held.lease.body
        effects: list[Effect] = []
        for index in indices:
            run = _run_id(lease, index)
            if self._runs.pop(run, None) is not None:
                del held.tasks[index]
                effects.append(Kill(run))
        end = ProbeEnd.INCONCLUSIVE
        return effects + self._over_if_empty(held, end, now_us=now_us)

    def end_run(
        self, run: RunId, end: ProbeEnd, *, now_us: int
    ) -> tuple[HeldLease | None, list[Effect]]:
        """Return the lease of a run that has come to an end; None if it was stopped before."""
        name = self._runs.pop(run, None)
        if name is None:
            return None, []
        held = self._held[name]
        del held.tasks[run.index]
        if end is ProbeEnd.INCONCLUSIVE:
            return held, self._over_if_empty(held, end, now_us=now_us)
        effects = self.breaker.on_lease_ends(held.steward, held.ref, end, now_us=now_us)
        return held, effects + self._over_if_empty(held, end, now_us=now_us)

    def on_run_took(self, run_us: int) -> None:
        """Note how long a run took, for what is told about waiting."""
        self._run_us = (3 * self._run_us + run_us) // 4

    def all(self) -> list[HeldLease]:
        """Return all leases held."""
        return list(self._held.values())

    def _over_if_empty(self, held: HeldLease, end: ProbeEnd, *, now_us: int) -> list[Effect]:
        if held.tasks or self._held.pop((held.steward, held.ref), None) is None:
            return []
        return self.breaker.on_lease_ends(held.steward, held.ref, end, now_us=now_us)

    def _execute(self, held: HeldLease, task: Task) -> Effect:
        lease = held.lease.body
        run = _run_id(lease, task.index)
        self._runs[run] = held.steward, held.ref
        return Execute(
            run=run,
            module=held.contract.module,
            input=task.input,
            sources=(held.steward,),
            box=lease.key,
            limits=held.contract.limits,
            seed=lease.batch + task.index.to_bytes(2, "big"),
        )


def lease_ref(lease: Lease) -> LeaseRef:
    """Return the name of a lease."""
    return LeaseRef(lease.batch, lease.epoch, lease.attempt)


def _run_id(lease: Lease, index: int) -> RunId:
    return RunId(lease.batch, index, lease.epoch, lease.attempt)


def _holder_us(duration_us: int) -> int:
    return min(duration_us, LEASE_US_MAX) * (100 - HOLDER_MARGIN_PERCENT) // 100
