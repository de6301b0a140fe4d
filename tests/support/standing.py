"""Standings of a device that heard nothing from others yet."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from p2p.observations import Observed
from scheduler.reputation import Reputation
from scheduler.standing import Standings
from telemetry.breaker import BreakerConfig
from telemetry.measurement import Measurements
from telemetry.sample import Sample
from wire.ids import PeerId

OWN = PeerId(b"-" * 32)


def reputation_of(
    measurements: Measurements,
    observed_by: Callable[[PeerId], Observed | None] = lambda _: None,
    *,
    members_count: int = 3,
) -> Reputation:
    """Return what is thought of devices that were measured."""
    return Reputation(
        own=OWN,
        measurements=measurements,
        observed_by=observed_by,
        members_count=lambda: members_count,
    )


def standings_of(
    measurements: Measurements,
    *,
    sample_of: Callable[[PeerId], Sample | None] = lambda _: None,
    observed_by: Callable[[PeerId], Observed | None] = lambda _: None,
    breaker_config: BreakerConfig = BreakerConfig(),  # noqa: B008 - it is frozen
) -> Standings:
    """Return the standings of devices that were measured."""
    return Standings(
        sample_of=sample_of,
        rng=Random(1),
        measurements=measurements,
        reputation=reputation_of(measurements, observed_by),
        breaker_config=breaker_config,
    )
