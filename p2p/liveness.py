"""Is the other end of a link there? A heartbeat every two seconds, and an end to silence.

TCP alone keeps a dead link for minutes. A link that has brought nothing for ten seconds is hung up;
until then its peer is only late. Heartbeats also measure the round trip.

All links share one timer: whoever is due within half a second is asked with the first, and from
then on at the same time.

Time that this device did not live through, because it was suspended or stalled, is not silence:
by as much as its own timer came late, it listens longer. Tokens are drawn at random, so that no
peer can answer before it was asked and seem nearer than it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
from random import Random

from telemetry.measurement import Measurements
from wire.effects import Effect, Hangup, Send, SetTimer
from wire.ids import PeerId
from wire.messages import Heartbeat, HeartbeatAcknowledged

HEARTBEAT_EVERY_US = 2_000_000
EARLY_US_MAX = 500_000
SILENCE_US_MAX = 10_000_000
UNANSWERED_MAX = SILENCE_US_MAX // HEARTBEAT_EVERY_US + 1


@dataclass(frozen=True, slots=True)
class HeartbeatDue:
    """Timer: ask for a sign of life whoever was not asked for two seconds."""


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
    # The one that is due first comes first: all wait equally long, so who is asked goes to the end.
    _pulses: dict[PeerId, _Pulse] = field(default_factory=dict)
    _is_timer_set: bool = False

    def on_link_up(self, peer: PeerId, *, now_us: int) -> list[Effect]:
        """Ask at once: the round trip is wanted."""
        self._pulses.pop(peer, None)
        heartbeat = self._ask(peer, _Pulse(heard_us=now_us, due_us=now_us), now_us=now_us)
        return [heartbeat, *self._timer(now_us)]

    def on_link_down(self, peer: PeerId) -> None:
        """Stop asking; a timer that is still on its way finds nothing."""
        self._pulses.pop(peer, None)
        self._is_timer_set = self._is_timer_set and bool(self._pulses)

    def on_heard(self, peer: PeerId, *, now_us: int) -> None:
        """Anything that comes is a sign of life."""
        pulse = self._pulses.get(peer)
        if pulse is not None:
            pulse.heard_us = now_us

    def on_heartbeat_due(self, *, now_us: int) -> list[Effect]:
        """Ask those who are due again, or hang up after too long a silence."""
        self._is_timer_set = False
        until_us = now_us + EARLY_US_MAX
        due = list(takewhile(lambda item: item[1].due_us <= until_us, self._pulses.items()))
        effects = [self._beat(peer, pulse, now_us=now_us) for peer, pulse in due]
        return effects + self._timer(now_us)

    def _beat(self, peer: PeerId, pulse: _Pulse, *, now_us: int) -> Effect:
        del self._pulses[peer]
        late_us = max(0, now_us - pulse.due_us)
        pulse.heard_us = min(now_us, pulse.heard_us + late_us)
        silence_us = now_us - pulse.heard_us
        if silence_us > SILENCE_US_MAX:
            return Hangup(peer, f"silent for {silence_us // 1_000_000} s")
        return self._ask(peer, pulse, now_us=now_us)

    def _ask(self, peer: PeerId, pulse: _Pulse, *, now_us: int) -> Effect:
        token = self.rng.getrandbits(63)
        pulse.asked_us[token] = now_us
        if len(pulse.asked_us) > UNANSWERED_MAX:
            del pulse.asked_us[next(iter(pulse.asked_us))]
        pulse.due_us = now_us + HEARTBEAT_EVERY_US
        self._pulses[peer] = pulse
        return Send(peer, Heartbeat(token=token))

    def _timer(self, now_us: int) -> list[Effect]:
        """Set the timer for whoever is due first, if there is anybody and it is not set."""
        if self._is_timer_set or not self._pulses:
            return []
        self._is_timer_set = True
        first = next(iter(self._pulses.values()))
        return [SetTimer(HeartbeatDue(), max(1, first.due_us - now_us))]

    def on_heartbeat(self, peer: PeerId, heartbeat: Heartbeat) -> list[Effect]:
        """Answer."""
        return [Send(peer, HeartbeatAcknowledged(token=heartbeat.token))]

    def on_acknowledged(
        self, peer: PeerId, acknowledged: HeartbeatAcknowledged, *, now_us: int
    ) -> int | None:
        """Measure the round trip of the heartbeat that is answered, once; None if it is none."""
        pulse = self._pulses.get(peer)
        asked_us = None if pulse is None else pulse.asked_us.pop(acknowledged.token, None)
        # Longer than any silence: this device was suspended in between.
        if asked_us is None or now_us - asked_us > SILENCE_US_MAX:
            return None
        self.measurements.on_round_trip(peer, now_us - asked_us)
        return now_us - asked_us
