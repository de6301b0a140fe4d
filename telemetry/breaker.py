"""The circuit breaker of one device: no work while it is too hot, too slow or failing in a row.

Closed: work as usual. Open: none, for a cooldown that doubles with every failed probe. Half-open:
one probe lease at a time, whose success closes the breaker. Nothing else closes it.

A device keeps one for itself, fed with its own temperature, and one for each peer, fed with the
temperature the peer tells, the round trips the observer measured and the outcomes it saw.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from random import Random
from types import MappingProxyType
from typing import Annotated

from msgspec import Meta, Struct

from telemetry.errors import BreakerRefused
from telemetry.measurement import ROUND_TRIPS_MAX, Measured
from telemetry.sample import Sample

_DOUBLINGS_MAX = 32


class BreakerState(enum.StrEnum):
    """Whether a device gets work: all, none, or one probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerEvent(enum.Enum):
    """What moves a breaker."""

    TRIPPED = enum.auto()  # a reading is over its limit
    COOLED = enum.auto()  # the cooldown is over and nothing is over its limit
    PROBE_SUCCEEDED = enum.auto()
    PROBE_FAILED = enum.auto()
    PROBE_INCONCLUSIVE = enum.auto()  # cancelled before it showed anything: the next may probe


TRANSITIONS: Mapping[tuple[BreakerState, BreakerEvent], BreakerState] = MappingProxyType(
    {
        (BreakerState.CLOSED, BreakerEvent.TRIPPED): BreakerState.OPEN,
        (BreakerState.OPEN, BreakerEvent.TRIPPED): BreakerState.OPEN,
        (BreakerState.OPEN, BreakerEvent.COOLED): BreakerState.HALF_OPEN,
        (BreakerState.HALF_OPEN, BreakerEvent.TRIPPED): BreakerState.OPEN,
        (BreakerState.HALF_OPEN, BreakerEvent.PROBE_SUCCEEDED): BreakerState.CLOSED,
        (BreakerState.HALF_OPEN, BreakerEvent.PROBE_FAILED): BreakerState.OPEN,
        (BreakerState.HALF_OPEN, BreakerEvent.PROBE_INCONCLUSIVE): BreakerState.HALF_OPEN,
    }
)


class BreakerCause(enum.StrEnum):
    """Why a breaker is not closed."""

    TOO_HOT = "too_hot"  # degrees: thousandths Celsius
    TOO_SLOW = "too_slow"  # median round trip: microseconds
    TOO_MANY_ERRORS = "too_many_errors"  # failures of the device in a row
    PROBE_FAILED = "probe_failed"  # 1 probe failed, none may


# What passes by itself; errors in a row end with a probe's success only.
_CONDITIONS = frozenset({BreakerCause.TOO_HOT, BreakerCause.TOO_SLOW})


class BreakerReason(Struct, frozen=True, kw_only=True):
    """One reason in numbers: what was read, and the limit it is over, in the cause's unit."""

    cause: BreakerCause
    observed: int
    limit: int


class BreakerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a breaker opens and for how long.

    `round_trip_us_max` is 100 ms in profile `lan`, 1,000 in `wan`; lower keeps slow peers out. A
    cooldown starts at `cooldown_us` and doubles up to `cooldown_us_max`; up to a quarter is added
    to it at random, so that many observers do not probe a recovering device at once.
    """

    temperature_millicelsius_max: int = 85_000
    round_trip_us_max: Annotated[int, Meta(ge=1)] = 100_000
    errors_in_a_row_count_max: Annotated[int, Meta(ge=0)] = 25
    cooldown_us: Annotated[int, Meta(ge=1)] = 30_000_000
    cooldown_us_max: Annotated[int, Meta(ge=1)] = 600_000_000


class ProbeEnd(enum.Enum):
    """How a lease ended, as far as the device is to blame for it."""

    SUCCEEDED = enum.auto()  # the device kept it, whatever the program's own end was
    DEVICE_FAILED = enum.auto()  # the worker died, the lease ran out
    INCONCLUSIVE = enum.auto()  # cancelled or released before the device could show anything


@dataclass(slots=True, kw_only=True)
class Breaker:
    """Times are microseconds on the caller's clock. The caller keeps a timer for `due_us`."""

    random: Random
    config: BreakerConfig = field(default_factory=BreakerConfig)
    _state: BreakerState = BreakerState.CLOSED
    _reasons: dict[BreakerCause, BreakerReason] = field(default_factory=dict)
    _is_hot_or_slow: bool = False  # at the last reading
    _due_us: int | None = None
    _openings_count: int = 0
    _probe: Hashable | None = None

    @property
    def state(self) -> BreakerState:
        """Return whether the device gets work."""
        return self._state

    @property
    def reasons(self) -> tuple[BreakerReason, ...]:
        """Return why the breaker is not closed; empty when it is."""
        return tuple(self._reasons.values())

    @property
    def due_us(self) -> int | None:
        """Return when `on_timer_due` is wanted; None unless open."""
        return self._due_us

    @property
    def allows_work(self) -> bool:
        """Return whether a lease may be granted now: closed, or half-open without a probe."""
        if self._state is BreakerState.HALF_OPEN:
            return self._probe is None
        return self._state is BreakerState.CLOSED

    def on_readings(self, measured: Measured, claimed: Sample | None, *, now_us: int) -> None:
        """Open if a reading is over its limit. Call it after each sample and each outcome.

        Outcomes go into the measurements first: a kept lease must have ended the errors in a row.
        """
        over = self._over_limit(measured, claimed)
        if self._state is not BreakerState.CLOSED:
            # They stay until a probe succeeds, so they must not prevent the probe.
            over.pop(BreakerCause.TOO_MANY_ERRORS, None)
        self._is_hot_or_slow = not over.keys().isdisjoint(_CONDITIONS)
        self._reasons |= over
        if over and self._state is not BreakerState.OPEN:
            self._move(BreakerEvent.TRIPPED, now_us=now_us)

    def on_timer_due(self, *, now_us: int) -> None:
        """Let a probe through if the cooldown is over and the device is neither hot nor slow."""
        if self._due_us is None or now_us < self._due_us:
            return  # opened again since the timer was set: a later one is on its way
        event = BreakerEvent.TRIPPED if self._is_hot_or_slow else BreakerEvent.COOLED
        self._move(event, now_us=now_us)

    def on_lease_granted(self, lease: Hashable, *, now_us: int) -> None:
        """Note that the device got `lease`; when half-open, it is the probe.

        Raises BreakerRefused if it may not have one: check `allows_work` just before granting.
        """
        if not self.allows_work:
            raise BreakerRefused(f"a lease at {now_us} us while {self._state}")
        if self._state is BreakerState.HALF_OPEN:
            self._probe = lease

    def on_lease_ended(self, lease: Hashable, end: ProbeEnd, *, now_us: int) -> None:
        """Note how `lease` ended, expiry included. Only the probe's end moves the breaker."""
        if self._probe is None or lease != self._probe:
            return  # granted before the breaker opened: the errors in a row have counted it
        match end:
            case ProbeEnd.SUCCEEDED:
                self._move(BreakerEvent.PROBE_SUCCEEDED, now_us=now_us)
            case ProbeEnd.INCONCLUSIVE:
                self._move(BreakerEvent.PROBE_INCONCLUSIVE, now_us=now_us)
            case ProbeEnd.DEVICE_FAILED:
                cause = BreakerCause.PROBE_FAILED
                self._reasons[cause] = BreakerReason(cause=cause, observed=1, limit=0)
                self._move(BreakerEvent.PROBE_FAILED, now_us=now_us)

    def _move(self, event: BreakerEvent, *, now_us: int) -> None:
        before = self._state
        self._state = TRANSITIONS[before, event]
        self._probe = None  # every move ends the probe: it succeeded, failed or came too late
        self._due_us = None
        if self._state is BreakerState.CLOSED:
            self._reasons.clear()
            self._openings_count = 0
        elif self._state is BreakerState.OPEN:
            # Waiting on in the heat is not a failed probe, so it does not double the cooldown.
            self._openings_count += before is not BreakerState.OPEN
            self._due_us = now_us + self._cooldown_us()

    def _cooldown_us(self) -> int:
        doublings_count = min(self._openings_count - 1, _DOUBLINGS_MAX)
        cooldown_us = min(self.config.cooldown_us << doublings_count, self.config.cooldown_us_max)
        return cooldown_us + self.random.randrange(cooldown_us // 4 + 1)

    def _over_limit(
        self, measured: Measured, claimed: Sample | None
    ) -> dict[BreakerCause, BreakerReason]:
        # A short history says more about a cold dial than about the path.
        round_trip_us = (
            measured.round_trip_us if measured.round_trips_count >= ROUND_TRIPS_MAX else None
        )
        readings = (
            (
                BreakerCause.TOO_HOT,
                None if claimed is None else claimed.temperature_millicelsius,
                self.config.temperature_millicelsius_max,
            ),
            (BreakerCause.TOO_SLOW, round_trip_us, self.config.round_trip_us_max),
            (
                BreakerCause.TOO_MANY_ERRORS,
                measured.errors_in_a_row_count,
                self.config.errors_in_a_row_count_max,
            ),
        )
        return {
            cause: BreakerReason(cause=cause, observed=observed, limit=limit)
            for cause, observed, limit in readings
            if observed is not None and observed > limit
        }
