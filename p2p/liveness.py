"""Is the other end of a link there? A heartbeat a second or two, and an end to silence.

TCP alone keeps a dead link for minutes. A link that has brought nothing for ten seconds is hung up;
until then its peer is only late. Heartbeats also measure the round trip.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from telemetry.measurement import Measurements
from wire.effects import Effect, Hangup, Send, SetTimer
from wire.ids import PeerId
from wire.messages import Heartbeat, HeartbeatAcknowledged

HEARTBEAT_EVERY_US = 2_000_000
SILENCE_US_MAX = 10_000_000


@dataclass(frozen=True, slots=True)
class HeartbeatDue:
    """Timer: ask one peer for a sign of life."""

    peer: PeerId


@dataclass(slots=True)
class _Pulse:
    heard_us: int
    token: int = 0
    asked_us: int | None = None


@dataclass(slots=True, kw_only=True)
class Liveness:
    """When each link was last heard. Times are microseconds on the caller's clock."""

    measurements: Measurements
    _pulses: dict[PeerId, _Pulse] = field(default_factory=dict)

    def on_link_up(self, peer: PeerId, *, now_us: int) -> list[Effect]:
        """Ask at once: the round trip is wanted."""
        self._pulses[peer] = _Pulse(heard_us=now_us)
        return self.on_heartbeat_due(peer, now_us=now_us)

    def on_link_down(self, peer: PeerId) -> None:
        """Stop asking; a timer that is still on its way finds nothing."""
        self._pulses.pop(peer, None)

    def on_heard(self, peer: PeerId, *, now_us: int) -> None:
        """Anything that comes is a sign of life."""
        pulse = self._pulses.get(peer)
        if pulse is not None:
            pulse.heard_us = now_us

    def on_heartbeat_due(self, peer: PeerId, *, now_us: int) -> list[Effect]:
        """Ask again, or hang up after too long a silence."""
        pulse = self._pulses.get(peer)
        if pulse is None:
            return []
        silence_us = now_us - pulse.heard_us
        if silence_us > SILENCE_US_MAX:
            return [Hangup(peer, f"silent for {silence_us // 1_000_000} s")]
        pulse.token += 1
        pulse.asked_us = now_us
        return [
            Send(peer, Heartbeat(token=pulse.token)),
            SetTimer(HeartbeatDue(peer), HEARTBEAT_EVERY_US),
        ]

    def on_heartbeat(self, peer: PeerId, heartbeat: Heartbeat) -> list[Effect]:
        """Answer."""
        return [Send(peer, HeartbeatAcknowledged(token=heartbeat.token))]

    def on_acknowledged(
        self, peer: PeerId, acknowledged: HeartbeatAcknowledged, *, now_us: int
    ) -> list[Effect]:
        """Measure the round trip of the latest heartbeat; a late answer to another says nothing."""
        pulse = self._pulses.get(peer)
        if pulse is not None and pulse.asked_us is not None and pulse.token == acknowledged.token:
            self.measurements.on_round_trip(peer, now_us - pulse.asked_us)
            pulse.asked_us = None
        return []
