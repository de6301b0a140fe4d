"""This device as its own node sees it: its clocks, its sensors, its room for work, its breaker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from meshd.settings import NodeSettings
from scheduler.own_breaker import OwnBreaker
from telemetry.breaker import Breaker
from telemetry.sample import Sample, occupied
from wire.effects import Effect
from wire.events import WallClockRead
from wire.ids import PeerId


@dataclass(frozen=True, slots=True)
class Occupation:
    """How much work is here."""

    slots_free: int
    leases_count: int


@dataclass(slots=True, kw_only=True)
class Device:
    """`now_us` is the time of the event that is being handled; the node sets it."""

    own: PeerId
    settings: NodeSettings
    rng: Random
    occupation: Callable[[], Occupation]
    now_us: int = 0
    started_us: int | None = None
    own_breaker: OwnBreaker = field(init=False)
    _sensed: Sample = field(default_factory=Sample)
    _wall_us: int = 0
    _wall_read_us: int = 0

    def __post_init__(self) -> None:
        """Make the breaker, closed."""
        self.own_breaker = OwnBreaker(Breaker(random=self.rng, config=self.settings.breaker))

    @property
    def breaker(self) -> Breaker:
        """This device's own breaker."""
        return self.own_breaker.breaker

    @property
    def uptime_us(self) -> int:
        """How long the node has run."""
        return 0 if self.started_us is None else self.now_us - self.started_us

    def wall_us(self) -> int:
        """Return the wall clock as of its last reading, 0 while it is not known."""
        return self._wall_us + self.now_us - self._wall_read_us if self._wall_us else 0

    def on_wall_clock_read(self, reading: WallClockRead) -> None:
        """Take up a reading; one whose error is not known says nothing."""
        self._wall_us = 0 if reading.uncertainty_us is None else reading.wall_us
        self._wall_read_us = self.now_us

    def on_sampled(self, sample: Sample) -> list[Effect]:
        """Take up what the sensors say."""
        self._sensed = sample
        return self.own_breaker.on_sample(self.sample(), now_us=self.now_us)

    def sample(self) -> Sample:
        """Return what the sensors said last, with what the node knows of its own work."""
        work = self.occupation()
        slots = self.settings.task_slots
        return occupied(
            self._sensed,
            task_slots_total=slots,
            task_slots_free=min(slots, work.slots_free),
            leases_count=work.leases_count,
            uptime_us=self.uptime_us,
        )
