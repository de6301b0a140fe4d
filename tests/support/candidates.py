"""Devices as selection sees them, all alike but for what a test says."""

from __future__ import annotations

from dataclasses import replace

from support.tasks import ENGINE_PROFILE

from scheduler.selection import Candidate
from telemetry.breaker import BreakerState
from wire.ids import PeerId

LIKELY = Candidate(
    peer=PeerId(bytes(32)),
    name="device",
    is_self=False,
    is_linked=True,
    is_executor=True,
    has_left=False,
    capabilities=frozenset({"runtime:wasi-p1"}),
    node_type="any",
    engine_profiles=(ENGINE_PROFILE,),
    breaker=BreakerState.CLOSED,
    allows_work=True,
    health=0.5,
    slots_free=4,
    slots_total=4,
    speed=1,
    round_trip_us=1_000,
)


def candidate(number: int, **changes: object) -> Candidate:
    """Return device `number`, linked and idle, with the fields in `changes` replaced."""
    own: dict[str, object] = {"peer": PeerId(bytes([number]) * 32), "name": f"device-{number}"}
    return replace(LIKELY, **{**own, **changes})  # type: ignore[arg-type]  # any field
