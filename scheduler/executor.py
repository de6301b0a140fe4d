"""The executor: it admits work to its device, keeps its leases, and signs what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from scheduler.admission import Admission, ExecutorSettings, ReservationEnds
from scheduler.errors import MoveNotProven
from scheduler.held_leases import HeldLeaseEnds, HeldLeases, ProgressDue, lease_ref
from scheduler.moves import Stewards, steward_sets
from scheduler.own_breaker import OwnBreaker
from scheduler.results import ResultRetry, ResultRow, Results
from telemetry.breaker import ProbeEnd
from wire.effects import Effect, Send
from wire.errors import MalformedFrame
from wire.events import Executed, ExecutionFailed
from wire.ids import MeshId, PeerId
from wire.membership import Role
from wire.messages import (
    LeaseEnded,
    LeaseGranted,
    LeaseProgress,
    Offer,
    OfferReleased,
    Settled,
)
from wire.records import Record
from wire.signed import Signed, Signer
from wire.tasks import Result, Task, batch_id_of, open_task
from wire.tasks import Steward as NamedSteward

REASON_CHARACTERS_MAX = 256
DETAIL_CHARACTERS_MAX = 512


class Executor:
    """The leases this device holds and the results it has not been rid of."""

    def __init__(
        self,
        *,
        signer: Signer,
        mesh: MeshId,
        settings: ExecutorSettings,
        breaker: OwnBreaker,
        may: Callable[[PeerId, Role], bool],
        lacks: Callable[[Iterable[str]], list[str]],
        telemetry: Callable[[int], Signed[Record]],
        is_linked: Callable[[PeerId], bool],
    ) -> None:
        self._signer = signer
        self._settings = settings
        self._breaker = breaker

        def is_reachable(steward: PeerId) -> bool:
            return steward == signer.peer or is_linked(steward)

        self._held = HeldLeases(is_reachable=is_reachable, breaker=breaker)
        self._results = Results(signer=signer, is_reachable=is_reachable)
        self._admission = Admission(
            own=signer.peer,
            mesh=mesh,
            settings=settings,
            held=self._held,
            breaker=breaker,
            may=may,
            lacks=lacks,
            telemetry=telemetry,
        )

    @property
    def runs_count(self) -> int:
        """How many tasks are running or waiting for a worker."""
        return self._held.runs_count

    @property
    def leases_count(self) -> int:
        """How many leases are held."""
        return len(self._held)

    @property
    def unsettled_count(self) -> int:
        """How many rows of results no steward has settled."""
        return len(self._results)

    @property
    def slots_free(self) -> int:
        """How many more tasks the device would take now."""
        return self._admission.slots_free

    def on_restarted(self, rows: list[tuple[bytes, ResultRow]]) -> list[Effect]:
        """Take up the results that were not settled."""
        return self._results.on_restarted(rows)

    def on_link_up(self, steward: PeerId) -> list[Effect]:
        """Offer a steward that is back what it has not settled."""
        return self._results.on_link_up(steward)

    def on_stopping(self, *, now_us: int) -> list[Effect]:
        """Give all leases back, so that nobody waits for them; keep the results that are there."""
        self._admission.is_stopping = True
        effects: list[Effect] = []
        for held in self._held.all():
            indices = tuple(held.tasks)
            effects += self._held.drop(held, indices, now_us=now_us)
            ended = LeaseEnded(lease=held.ref, indices=indices, reason="the device is stopping")
            effects.append(Send(held.steward, ended))
        return effects + self._results.on_tick()

    # --- offers and leases ------------------------------------------------------------------

    def on_offer(self, steward: PeerId, offer: Offer, *, now_us: int) -> list[Effect]:
        """Somebody asks for room."""
        return self._admission.on_offer(steward, offer, now_us=now_us)

    def on_offer_released(self, steward: PeerId, released: OfferReleased) -> list[Effect]:
        """The steward took another device."""
        self._admission.take(steward, released.offer)
        return []

    def on_reservation_ends(self, ends: ReservationEnds, *, now_us: int) -> list[Effect]:
        """Nobody came."""
        self._admission.on_reservation_ends(ends, now_us=now_us)
        return []

    def on_lease_granted(
        self, steward: PeerId, granted: LeaseGranted, *, now_us: int
    ) -> list[Effect]:
        """Start the tasks of a lease that was reserved for, and no others."""
        lease = granted.lease.body
        ref = lease_ref(lease)
        if (steward, ref) in self._held:
            return [Send(steward, LeaseProgress(leases=(ref,)))]
        reservation = self._admission.take(steward, granted.offer)
        try:
            tasks, stewards = self._open_lease(steward, granted)
        except (MalformedFrame, MoveNotProven) as error:
            return [_refused(steward, granted, str(error))]
        if self._admission.is_stopping or not self._breaker.allows_work:
            return [_refused(steward, granted, "the device takes no work now")]
        if (
            reservation is None
            or reservation.batch != lease.batch
            or len(tasks) > reservation.tasks_count
        ):
            return [_refused(steward, granted, "no room was reserved for it")]
        if self._held.is_running_any(lease):
            return [_refused(steward, granted, "another steward's lease of that name is held")]
        return self._held.begin(
            steward,
            granted.lease,
            granted.contract.body,
            stewards,
            tasks,
            submitter=granted.contract.signer,
            since_us=reservation.accepted_us,
            now_us=now_us,
        )

    def on_progress_due(self, due: ProgressDue, *, now_us: int) -> list[Effect]:
        """It is time to renew the leases of a steward."""
        return self._held.on_progress_due(due, now_us=now_us)

    def on_held_lease_ends(self, ends: HeldLeaseEnds, *, now_us: int) -> list[Effect]:
        """A lease may have run out."""
        return self._held.on_lease_ends(ends, now_us=now_us)

    def on_lease_ended(self, steward: PeerId, ended: LeaseEnded, *, now_us: int) -> list[Effect]:
        """The steward wants no more of this."""
        return self._held.drop_tasks(steward, ended.lease, ended.indices, now_us=now_us)

    def _open_lease(self, steward: PeerId, granted: LeaseGranted) -> tuple[list[Task], Stewards]:
        lease, contract = granted.lease.body, granted.contract.body
        stewards = steward_sets(granted.contract, granted.moves)[-1]
        by_rank = dict(enumerate(stewards))
        is_ours = (
            granted.lease.signer == steward
            and lease.epoch.move == len(granted.moves)
            and by_rank.get(lease.epoch.rank) == NamedSteward(steward, lease.store)
            and lease.executor == self._signer.peer
            and lease.batch == batch_id_of(granted.contract)
        )
        if not is_ours:
            raise MalformedFrame("the lease is not by a steward of its contract, or not for us")
        tasks = [open_task(proven, contract) for proven in granted.tasks]
        if sorted(task.index for task in tasks) != sorted(lease.indices):
            raise MalformedFrame("the tasks are not those of the lease")
        return tasks, stewards

    def on_devices_removed(self, removed: frozenset[PeerId], *, now_us: int) -> list[Effect]:
        """Stewards are out of the mesh: stop working for them, and keep no results for them."""
        effects = self._results.on_devices_removed(removed)
        for held in self._held.all():
            if held.steward in removed:
                effects += self._held.drop(held, tuple(held.tasks), now_us=now_us)
        return effects

    # --- runs and results -------------------------------------------------------------------

    def on_executed(self, executed: Executed, *, now_us: int) -> list[Effect]:
        """A program ran to an end, whichever."""
        held, effects = self._held.end_run(executed.run, ProbeEnd.SUCCEEDED, now_us=now_us)
        if held is None:
            return []
        self._held.on_run_took(executed.wall_us)
        lease = held.lease.body
        result = Result(
            batch=lease.batch,
            index=executed.run.index,
            executor=self._signer.peer,
            epoch=lease.epoch,
            attempt=lease.attempt,
            engine_profile=self._settings.engine_profile,
            status=executed.status,
            exit_code=executed.exit_code,
            output_digest=executed.output_digest,
            output=executed.output,
            log=executed.log,
            detail=executed.detail[:DETAIL_CHARACTERS_MAX],
            fuel_used=executed.fuel_used,
            wall_us=executed.wall_us,
        )
        return effects + self._results.put(held, result)

    def on_execution_failed(self, failed: ExecutionFailed, *, now_us: int) -> list[Effect]:
        """This device could not run it: the steward has to find another."""
        is_own = failed.reason.is_of_device
        end = ProbeEnd.DEVICE_FAILED if is_own else ProbeEnd.INCONCLUSIVE
        held, effects = self._held.end_run(failed.run, end, now_us=now_us)
        if held is None:
            return []
        reason = f"{failed.reason}: {failed.detail}"[:REASON_CHARACTERS_MAX]
        ended = LeaseEnded(lease=held.ref, indices=(failed.run.index,), reason=reason)
        return [*effects, Send(held.steward, ended)]

    def on_results_tick(self) -> list[Effect]:
        """Sign what came out since the last tick."""
        return self._results.on_tick()

    def on_result_retry(self, retry: ResultRetry) -> list[Effect]:
        """Offer results again."""
        return self._results.on_retry(retry)

    def on_settled(self, steward: PeerId, settled: Settled) -> list[Effect]:
        """A steward says how tasks ended."""
        return self._results.on_settled(steward, settled)


def _refused(steward: PeerId, granted: LeaseGranted, reason: str) -> Effect:
    ref = lease_ref(granted.lease.body)
    return Send(steward, LeaseEnded(lease=ref, indices=(), reason=reason[:REASON_CHARACTERS_MAX]))
