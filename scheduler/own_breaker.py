"""This device's own circuit breaker: fed with its temperature, closed again by a probe lease."""

from __future__ import annotations

from dataclasses import dataclass

from telemetry.breaker import Breaker, BreakerState, ProbeEnd
from telemetry.measurement import Measured
from telemetry.sample import Sample
from wire.effects import Effect, SetTimer
from wire.ids import PeerId
from wire.messages import LeaseRef


@dataclass(frozen=True, slots=True)
class OwnBreakerDue:
    """Timer: the cooldown of this device's breaker is over."""


@dataclass(slots=True)
class OwnBreaker:
    """A breaker with its timer."""

    breaker: Breaker

    @property
    def allows_work(self) -> bool:
        """Whether a lease may be taken now."""
        return self.breaker.allows_work

    @property
    def is_probing(self) -> bool:
        """Whether only one lease may be at work, to see whether the device bears it."""
        return self.breaker.state is BreakerState.HALF_OPEN

    def on_sample(self, sample: Sample, *, now_us: int) -> list[Effect]:
        """Read the device's sensors."""
        self.breaker.on_readings(Measured(), sample, now_us=now_us)
        return self._timer(now_us)

    def on_due(self, *, now_us: int) -> list[Effect]:
        """Let a probe through if the device has cooled down."""
        self.breaker.on_timer_due(now_us=now_us)
        return self._timer(now_us)

    def on_lease_begins(self, steward: PeerId, lease: LeaseRef, *, now_us: int) -> None:
        """A lease is taken that `allows_work` allowed."""
        self.breaker.on_lease_granted((steward, lease), now_us=now_us)

    def on_lease_ends(
        self, steward: PeerId, lease: LeaseRef, end: ProbeEnd, *, now_us: int
    ) -> list[Effect]:
        """A lease showed how the device does, or that it will not show it."""
        self.breaker.on_lease_ended((steward, lease), end, now_us=now_us)
        return self._timer(now_us)

    def _timer(self, now_us: int) -> list[Effect]:
        if self.breaker.due_us is None:
            return []
        return [SetTimer(OwnBreakerDue(), max(1, self.breaker.due_us - now_us))]
