"""Is the other end of a link there? A heartbeat every two seconds, and an end to silence.

TCP alone keeps a dead link for minutes. A link that has brought nothing for ten seconds is hung up;
until then its peer is only late. Heartbeats also measure the round trip.

Time that this device did not live through, because it was suspended or stalled, is not silence:
by as much as its own timer came late, it listens longer. Tokens are drawn at random, so that no
peer can answer before it was asked and seem nearer than it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from telemetry.measurement import Measurements
from wire.effects import Effect, Hangup, Send, SetTimer
from wire.ids import PeerId
from wire.messages import Heartbeat, HeartbeatAcknowledged

HEARTBEAT_EVERY_US = 2_000_000
SILENCE_US_MAX = 10_000_000
UNANSWERED_MAX = SILENCE_US_MAX // HEARTBEAT_EVERY_US + 1


@dataclass(frozen=True, slots=True)
class HeartbeatDue:
    """Timer: ask one peer for a sign of life."""

    peer: PeerId


@dataclass(slots=True)
class _Pulse:
    heard_us: int
    due_us: int  # when the next heartbeat should be sent
    # Those not answered yet: a round trip may be longer than the pause between two.
    asked_us: dict[int, int] = field(default_factory=dict)  # by token


@dataclass(slots=True, kw_only=True)
class Liveness:
    """When each link was last heard. Times are microseconds on the caller's clock."""

    measurements: Measurements
    rng: Random
    _pulses: dict[PeerId, _Pulse] = field(default_factory=dict)

    def on_link_up(self, peer: PeerId, *, now_us: int) -> list[Effect]:
        """Ask at once: the round trip is wanted."""
        self._pulses[peer] = _Pulse(heard_us=now_us, due_us=now_us)
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
        late_us = max(0, now_us - pulse.due_us)
        pulse.heard_us = min(now_us, pulse.heard_us + late_us)
        silence_us = now_us - pulse.heard_us
        if silence_us > SILENCE_US_MAX:
            return [Hangup(peer, f"silent for {silence_us // 1_000_000} s")]
        token = self.rng.getrandbits(63)
        pulse.asked_us[token] = now_us
        if len(pulse.asked_us) > UNANSWERED_MAX:
            del pulse.asked_us[next(iter(pulse.asked_us))]
        pulse.due_us = now_us + HEARTBEAT_EVERY_US
        return [
            Send(peer, Heartbeat(token=token)),
            SetTimer(HeartbeatDue(peer), HEARTBEAT_EVERY_US),
        ]

    def on_heartbeat(self, peer: PeerId, heartbeat: Heartbeat) -> list[Effect]:
        """Answer."""
        return [Send(peer, HeartbeatAcknowledged(token=heartbeat.token))]

    def on_acknowledged(
        self, peer: PeerId, acknowledged: HeartbeatAcknowledged, *, now_us: int
    ) -> list[Effect]:
        """Measure the round trip of the heartbeat that is answered, once."""
        pulse = self._pulses.get(peer)
        asked_us = None if pulse is None else pulse.asked_us.pop(acknowledged.token, None)
        # Longer than any silence: this device was suspended in between.
        if asked_us is not None and now_us - asked_us <= SILENCE_US_MAX:
            self.measurements.on_round_trip(peer, now_us - asked_us)
        return []
