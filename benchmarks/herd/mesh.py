"""A mesh that only places tasks, in virtual time: who knows what of whom, and how late.

Every device hands out tasks and takes them. What one knows of another's room is what gossip brought
last, and what the other told with an answer to an offer, if that is later; the rest is as it ships.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from functools import partial
from random import Random

from benchmarks.herd.executor import (
    ENGINE_PROFILE,
    SLOTS_PER_WORKER,
    ExecutorSide,
    room_told,
)
from benchmarks.herd.submitter import SubmitterSide
from scheduler.selection import Candidate
from simulations.crypto import StandInMaker
from simulations.engine import US_PER_S, Engine
from telemetry.breaker import BreakerState
from wire.effects import Effect, Execute, Persist, RunId, Send, SetTimer, Trace
from wire.ids import BatchId, MeshId, PeerId
from wire.messages import (
    LeaseGranted,
    LeaseProgress,
    Message,
    Offer,
    OfferAccepted,
    OfferRejected,
    OfferReleased,
)
from wire.tasks import Strategy

WORKERS = (1, 2, 4, 8)
SPEEDS = (7, 13)  # tenths of the mean
PATH_US = (500, 20_000)  # of a device to the middle of the network: round trips are 2 to 80 ms
PROPAGATION_US = 200_000
WORK_MEAN_US = US_PER_S
DRAIN_S = 300
_EVENTS_MAX = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class HerdSettings:
    """One run. `stale_s` is between which times a device tells its room anew; None: always."""

    strategy: Strategy
    stale_s: tuple[float, float] | None
    nodes_count: int = 1_000
    links_count: int = 24
    load: float = 0.7
    seconds: int = 40
    warm_s: int = 10
    seed: int = 1


@dataclass(slots=True, kw_only=True)
class Figures:
    """What came of a run. Latencies are microseconds from a task's submission to its result."""

    submitted_count: int = 0
    done_count: int = 0
    offers_count: int = 0
    refusals_count: int = 0
    busiest_count: int = 0  # the most leases that one device held at once
    latencies_us: list[int] = field(default_factory=list)

    @property
    def lost_count(self) -> int:
        """How many tasks never ended."""
        return self.submitted_count - self.done_count

    def latency_us(self, share: float) -> int:
        """Return a percentile."""
        in_order = sorted(self.latencies_us)
        return in_order[min(len(in_order) - 1, int(share * len(in_order)))]


@dataclass(slots=True, kw_only=True)
class _Device:
    number: int
    submitter: SubmitterSide
    executor: ExecutorSide
    health: float
    path_us: int
    links: list[int] = field(default_factory=list)
    rooms: dict[int, tuple[int, int]] = field(default_factory=dict)  # when it was so, and how much
    timers: dict[Hashable, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Task:
    submitted_us: int
    work_us: int  # on a device of mean speed


class Herd:
    """One run. With fresh and with stale state the same tasks are submitted at the same times."""

    def __init__(self, settings: HerdSettings) -> None:
        self._settings = settings
        self._engine = Engine()
        self._rng = Random(f"herd {settings.seed}")  # noqa: S311 - repeatable on purpose
        self._arrivals = Random(f"herd {settings.seed} tasks")  # noqa: S311 - as above
        self._mesh = MeshId(bytes(32))
        self._makers = StandInMaker()
        self._devices = [self._device(number) for number in range(settings.nodes_count)]
        self._numbers = {one.executor.peer: one.number for one in self._devices}
        self._link()
        per_us = sum(
            one.executor.workers_count / one.executor.took_us(WORK_MEAN_US) for one in self._devices
        )
        self._tasks_per_s = per_us * US_PER_S  # that all devices do together
        self._tasks: dict[BatchId, _Task] = {}
        self.figures = Figures()

    def run(self) -> Figures:
        """Submit for some seconds, then let all tasks end."""
        settings, engine = self._settings, self._engine
        for device in self._devices:
            self._submit_later(device)
            if settings.stale_s is not None:
                self._publish_later(device, 0, settings.stale_s[1])
        engine.run(until_us=settings.seconds * US_PER_S, events_max=_EVENTS_MAX)
        engine.run(
            until_us=(settings.seconds + DRAIN_S) * US_PER_S,
            events_max=_EVENTS_MAX,
            is_reached=lambda: not self._tasks,
        )
        return self.figures

    # --- the mesh ---------------------------------------------------------------------------

    def _device(self, number: int) -> _Device:
        rng = Random(f"herd {self._settings.seed} {number}")  # noqa: S311 - as above
        signer = self._makers.make(number.to_bytes(32, "big"))
        executor = ExecutorSide(
            peer=signer.peer,
            mesh=self._mesh,
            rng=rng,
            workers_count=rng.choice(WORKERS),
            speed=rng.randint(*SPEEDS),
        )
        submitter = SubmitterSide(
            signer=signer, mesh=self._mesh, rng=rng, candidates=partial(self._candidates, number)
        )
        return _Device(
            number=number,
            submitter=submitter,
            executor=executor,
            health=rng.uniform(0.3, 1.0),
            path_us=rng.randint(*PATH_US),
        )

    def _link(self) -> None:
        """Link everybody with random others: half of the links are those of the other end."""
        count = min(self._settings.links_count, len(self._devices) - 1)
        links: list[set[int]] = [set() for _ in self._devices]
        for device in self._devices:
            while len(links[device.number]) < count // 2 + (count == 1):
                other = self._rng.randrange(len(self._devices))
                if other != device.number:
                    links[device.number].add(other)
                    links[other].add(device.number)
        for device, linked in zip(self._devices, links, strict=True):
            device.links = sorted(linked)
            for other in device.links:
                device.rooms[other] = 0, self._devices[other].executor.slots_free

    def _candidates(self, number: int) -> list[Candidate]:
        own = self._devices[number]
        others = [self._candidate(own, self._devices[other]) for other in own.links]
        return [self._candidate(own, own), *others]

    def _candidate(self, viewer: _Device, device: _Device) -> Candidate:
        executor, is_self = device.executor, viewer is device
        is_fresh = is_self or self._settings.stale_s is None
        return Candidate(
            peer=executor.peer,
            name="",
            is_self=is_self,
            is_linked=True,
            is_executor=True,
            has_left=False,
            capabilities=frozenset(),
            node_type=None,
            engine_profiles=(ENGINE_PROFILE,),
            breaker=BreakerState.CLOSED,
            allows_work=True,
            health=device.health,
            slots_free=executor.slots_free if is_fresh else viewer.rooms[device.number][1],
            slots_total=SLOTS_PER_WORKER * executor.workers_count,
            workers_free=executor.workers_free if is_self else None,
            speed=executor.speed,
            round_trip_us=0 if is_self else 2 * (viewer.path_us + device.path_us),
        )

    def _publish_later(self, device: _Device, lowest_s: float, highest_s: float) -> None:
        after_us = int(self._rng.uniform(lowest_s, highest_s) * US_PER_S)
        self._engine.after(after_us, partial(self._publish, device))

    def _publish(self, device: _Device) -> None:
        """Tell all that are linked how much room there is, which they hear a little later."""
        room = self._engine.now_us, device.executor.slots_free
        self._engine.after(PROPAGATION_US, partial(self._hear, device.number, room))
        if self._settings.stale_s is not None:
            self._publish_later(device, *self._settings.stale_s)

    def _hear(self, number: int, room: tuple[int, int]) -> None:
        for other in self._devices[number].links:
            rooms = self._devices[other].rooms
            rooms[number] = max(rooms[number], room)

    # --- tasks ------------------------------------------------------------------------------

    def _submit_later(self, device: _Device) -> None:
        per_s = self._settings.load * self._tasks_per_s / len(self._devices)
        wait_us = int(self._arrivals.expovariate(per_s) * US_PER_S)
        if self._engine.now_us + wait_us < self._settings.seconds * US_PER_S:
            self._engine.after(wait_us, partial(self._submit, device))

    def _submit(self, device: _Device) -> None:
        now_us = self._engine.now_us
        batch, effects = device.submitter.submit(self._settings.strategy, now_us=now_us)
        self._tasks[batch] = _Task(now_us, int(self._arrivals.expovariate(1) * WORK_MEAN_US))
        self.figures.submitted_count += 1
        self._carry_out(device, effects)
        self._submit_later(device)

    def _done(self, device: _Device, run: RunId, took_us: int) -> None:
        now_us = self._engine.now_us
        steward, following = device.executor.on_done(run, took_us, now_us=now_us)
        owner = self._devices[self._numbers[steward]]
        path_us = self._path_us(device, owner)
        self._engine.after(path_us, partial(self._came, owner, device.executor.peer, run.batch))
        if following is not None:
            self._work(device, following)

    def _came(self, owner: _Device, executor: PeerId, batch: BatchId) -> None:
        now_us = self._engine.now_us
        submitted_us = self._tasks.pop(batch).submitted_us
        self.figures.done_count += 1
        if submitted_us >= self._settings.warm_s * US_PER_S:
            self.figures.latencies_us.append(now_us - submitted_us)
        self._carry_out(owner, owner.submitter.on_result(executor, batch, now_us=now_us))

    def _work(self, device: _Device, run: RunId) -> None:
        took_us = device.executor.took_us(self._tasks[run.batch].work_us)
        self._engine.after(took_us, partial(self._done, device, run, took_us))

    # --- effects ----------------------------------------------------------------------------

    def _carry_out(self, device: _Device, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(peer, message):
                    target = self._devices[self._numbers[peer]]
                    receive = partial(self._receive, target, device, message)
                    self._engine.after(self._path_us(device, target), receive)
                case SetTimer(key, after_us):
                    due_us = device.timers[key] = self._engine.now_us + after_us
                    self._engine.at(due_us, partial(self._ring, device, key, due_us))
                case Execute():
                    run = device.executor.on_execute(effect)
                    if run is not None:
                        self._work(device, run)
                case Persist() | Trace():
                    pass
                case _:
                    raise AssertionError(f"nothing of this benchmark wants {effect!r}")

    def _path_us(self, one: _Device, other: _Device) -> int:
        return 0 if one is other else one.path_us + other.path_us

    def _ring(self, device: _Device, key: Hashable, due_us: int) -> None:
        if device.timers.get(key) != due_us:
            return  # it was set again
        del device.timers[key]
        effects = device.submitter.on_timer(key, now_us=due_us)
        if effects is None:
            effects = device.executor.on_timer(key, now_us=due_us)
        self._carry_out(device, effects)

    def _receive(self, device: _Device, sender: _Device, message: Message) -> None:
        now_us, peer = self._engine.now_us, sender.executor.peer
        executor, figures = device.executor, self.figures
        match message:
            case Offer():
                figures.offers_count += 1
                self._carry_out(device, executor.on_offer(peer, message, now_us=now_us))
            case OfferReleased():
                executor.on_released(peer, message)
            case LeaseGranted():
                self._carry_out(device, executor.on_granted(peer, message, now_us=now_us))
                figures.busiest_count = max(figures.busiest_count, len(executor.held))
            case OfferAccepted() | OfferRejected() | LeaseProgress():
                if isinstance(message, OfferRejected):
                    figures.refusals_count += 1
                if not isinstance(message, LeaseProgress) and message.telemetry is not None:
                    self._heard_fresh(device, sender, room_told(message.telemetry))
                effects = device.submitter.on_message(peer, message, now_us=now_us)
                self._carry_out(device, effects)
            case _:
                raise AssertionError(f"nothing of this benchmark sends {message!r}")

    def _heard_fresh(self, device: _Device, sender: _Device, room: int) -> None:
        """An answer tells its sender's room as of when it was sent."""
        if device is not sender:
            sent_us = self._engine.now_us - self._path_us(sender, device)
            device.rooms[sender.number] = max(device.rooms[sender.number], (sent_us, room))


def figures_of(settings: HerdSettings) -> Figures:
    """Carry out one run."""
    return Herd(settings).run()
