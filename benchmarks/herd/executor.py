"""A device that takes tasks: the admission and the leases that ship, and workers in turns."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random

from scheduler.admission import Admission, ExecutorSettings, Reservation, ReservationEnds
from scheduler.held_leases import HeldLeaseEnds, HeldLeases, ProgressDue
from scheduler.own_breaker import OwnBreaker
from telemetry.breaker import Breaker, ProbeEnd
from wire.effects import Effect, Execute, RunId
from wire.ids import MeshId, PeerId
from wire.limits import Limits
from wire.messages import LeaseGranted, Offer, OfferReleased
from wire.records import Record
from wire.signed import Signed
from wire.tasks import open_task

ENGINE_PROFILE = "engine/1"
SLOTS_PER_WORKER = 4  # as `executor.tasks_max` 0 says
_SPEED_UNIT = 10  # a device of mean speed


@dataclass(slots=True, kw_only=True)
class ExecutorSide:
    """What one device does for others. `speed` is in tenths of the mean."""

    peer: PeerId
    mesh: MeshId
    rng: Random
    workers_count: int
    speed: int
    running: set[RunId] = field(default_factory=set)
    _queue: deque[RunId] = field(default_factory=deque)
    _versions: int = 0
    held: HeldLeases = field(init=False)
    admission: Admission = field(init=False)

    def __post_init__(self) -> None:
        """Make the cores."""
        breaker = OwnBreaker(Breaker(random=self.rng))
        self.held = HeldLeases(is_reachable=lambda _: True, breaker=breaker)
        self.admission = Admission(
            own=self.peer,
            mesh=self.mesh,
            settings=ExecutorSettings(
                engine_profile=ENGINE_PROFILE,
                workers_count=self.workers_count,
                task_slots=SLOTS_PER_WORKER * self.workers_count,
                caps=Limits(),
            ),
            held=self.held,
            breaker=breaker,
            may=lambda *_: True,
            lacks=lambda _: [],
            telemetry=self._telemetry,
        )

    @property
    def slots_free(self) -> int:
        """How many more tasks it would take."""
        return self.admission.slots_free

    @property
    def workers_free(self) -> int:
        """How many tasks would start at once."""
        return max(0, self.workers_count - self.held.runs_count)

    def took_us(self, work_us: int) -> int:
        """Return how long it takes here what takes `work_us` on a device of mean speed."""
        return work_us * _SPEED_UNIT // self.speed

    def on_offer(self, steward: PeerId, offer: Offer, *, now_us: int) -> list[Effect]:
        """Reserve room, or say why not."""
        return self.admission.on_offer(steward, offer, now_us=now_us)

    def on_released(self, steward: PeerId, released: OfferReleased) -> None:
        """Another device was taken."""
        self.admission.take(steward, released.offer)

    def on_granted(self, steward: PeerId, granted: LeaseGranted, *, now_us: int) -> list[Effect]:
        """Begin the tasks of a lease, for which there is room for two seconds."""
        reservation: Reservation | None = self.admission.take(steward, granted.offer)
        if reservation is None:
            raise AssertionError("a lease came for which nothing is reserved")
        contract = granted.contract.body
        return self.held.begin(
            steward,
            granted.lease,
            contract,
            contract.stewards,
            [open_task(proven, contract) for proven in granted.tasks],
            submitter=granted.contract.signer,
            since_us=reservation.accepted_us,
            now_us=now_us,
        )

    def on_timer(self, key: object, *, now_us: int) -> list[Effect]:
        """Return what to do about a timer of these cores."""
        match key:
            case ReservationEnds():
                self.admission.on_reservation_ends(key, now_us=now_us)
                return []
            case ProgressDue():
                return self.held.on_progress_due(key, now_us=now_us)
            case HeldLeaseEnds():
                return self.held.on_lease_ends(key, now_us=now_us)
            case _:
                raise AssertionError(f"no core set the timer {key!r}")

    def on_execute(self, execute: Execute) -> RunId | None:
        """Return the run if a worker is free for it; else it waits."""
        if len(self.running) < self.workers_count:
            self.running.add(execute.run)
            return execute.run
        self._queue.append(execute.run)
        return None

    def on_done(self, run: RunId, took_us: int, *, now_us: int) -> tuple[PeerId, RunId | None]:
        """A run is over; return for whom it was, and the next one, which begins."""
        held, _ = self.held.end_run(run, ProbeEnd.SUCCEEDED, now_us=now_us)
        if held is None:
            raise AssertionError("nothing is called off here")
        self.held.on_run_took(took_us)
        self.running.discard(run)
        if not self._queue:
            return held.steward, None
        following = self._queue.popleft()
        self.running.add(following)
        return held.steward, following

    def _telemetry(self, _: int) -> Signed[Record]:
        """Return how much room there is, in a record that only this benchmark reads."""
        self._versions += 1
        body = self.slots_free.to_bytes(4, "big")
        record = Record(
            owner=self.peer, kind="room", incarnation=1, counter=self._versions, body=body
        )
        return Signed(body=record, received=body, signer=self.peer, signature=b"")


def room_told(telemetry: Signed[Record]) -> int:
    """Return how much room a device said it has."""
    return int.from_bytes(telemetry.body.body, "big")
