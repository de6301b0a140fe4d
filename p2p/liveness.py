"""Is the other end of a link there? Heartbeats, and an end to silence.

TCP alone keeps a dead link for minutes. Watched links, those between a device and its observers or
to one that has named none yet, carry a heartbeat a second each way, so that a silence is noticed
soon, and are hung up when they have brought nothing for ten seconds; the others carry one in ten
seconds, and end after 25. Every twenty seconds a heartbeat carries a token that the other end
answers: that measures the round trip.

All links share one timer: whoever is due within half a second is told with the first.

Time that this device did not live through, because it was suspended or stalled, is not silence: by
as much as its own timer came late, it listens longer. Tokens are drawn at random, so that no peer
can answer before it was asked and seem nearer than it is.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from random import Random

from telemetry.measurement import Measurements
from wire.effects import Effect, Hangup, Send, SetTimer
from wire.ids import PeerId
from wire.messages import Heartbeat, HeartbeatAcknowledged

WATCHED_EVERY_US = 1_000_000
UNWATCHED_EVERY_US = 10_000_000
EARLY_US_MAX = 500_000
SILENCE_US_MAX = 10_000_000
UNWATCHED_SILENCE_US_MAX = 25_000_000
ROUND_TRIP_EVERY_US = 20_000_000
UNANSWERED_MAX = 2
STEADY_GAP_US_MAX = 2_000_000  # longer than this between two signs of life is not steady
_HEARTBEAT = Heartbeat()  # nearly all that an idle mesh sends


@dataclass(frozen=True, slots=True)
class HeartbeatDue:
    """Timer: send a sign of life on the links that are due."""


@dataclass(slots=True)
class _Pulse:
    heard_us: int
    steady_since_us: int  # since then no gap was too long
    beaten_us: int
    due_us: int  # when the next heartbeat should be sent
    token_due_us: int
    # Those not answered yet: a round trip may be longer than the pause between two.
    asked_us: dict[int, int] = field(default_factory=dict)  # by token


@dataclass(slots=True, kw_only=True)
class Liveness:
    """When each link was last heard. Times are microseconds on the caller's clock."""

    measurements: Measurements
    rng: Random
    _pulses: dict[PeerId, _Pulse] = field(default_factory=dict)
    _watched: Set[PeerId] = frozenset()
    _timer_due_us: int | None = None

    def on_link_up(self, peer: PeerId, *, now_us: int) -> list[Effect]:
        """Ask at once: the round trip is wanted."""
        pulse = _Pulse(
            heard_us=now_us,
            steady_since_us=now_us,
            beaten_us=now_us,
            due_us=now_us,
            token_due_us=now_us,
        )
        self._pulses[peer] = pulse
        return [self._beat(peer, pulse, now_us=now_us), *self._timer(now_us)]

    def on_link_down(self, peer: PeerId) -> None:
        """Stop asking; a timer that is still on its way finds nothing."""
        self._pulses.pop(peer, None)
        if not self._pulses:
            self._timer_due_us = None

    def on_heard(self, peer: PeerId, *, now_us: int) -> None:
        """Anything that comes is a sign of life."""
        pulse = self._pulses.get(peer)
        if pulse is not None:
            if now_us - pulse.heard_us > STEADY_GAP_US_MAX:
                pulse.steady_since_us = now_us
            pulse.heard_us = now_us

    def heard_us(self, peer: PeerId) -> int | None:
        """Return when a linked peer was heard last, None without a link."""
        pulse = self._pulses.get(peer)
        return None if pulse is None else pulse.heard_us

    def steady_us(self, peer: PeerId) -> int:
        """Return for how long a watched peer was heard without a gap, 0 without a link."""
        pulse = self._pulses.get(peer)
        return 0 if pulse is None else pulse.heard_us - pulse.steady_since_us

    def watch(self, peers: Set[PeerId], *, now_us: int) -> list[Effect]:
        """Let the links with `peers`, and no others, carry a heartbeat a second."""
        if peers == self._watched:
            return []
        self._watched = peers
        for peer, pulse in self._pulses.items():
            pulse.due_us = pulse.beaten_us + self._pause_us(peer)
        return self._timer(now_us)

    def on_heartbeat_due(self, *, now_us: int) -> list[Effect]:
        """Tell those who are due that this device is there, or hang up after too long a silence."""
        if self._timer_due_us is not None:
            self.on_stood_still(now_us - self._timer_due_us, now_us=now_us)
            self._timer_due_us = None
        effects: list[Effect] = []
        for peer, pulse in list(self._pulses.items()):
            if pulse.due_us <= now_us + EARLY_US_MAX:
                effects.append(self._beat_or_hang_up(peer, pulse, now_us=now_us))
        return effects + self._timer(now_us)

    def on_stood_still(self, late_us: int, *, now_us: int) -> None:
        """Do not take time that this device did not live through for silence."""
        if late_us <= 0:
            return
        for pulse in self._pulses.values():
            pulse.heard_us = min(now_us, pulse.heard_us + late_us)

    def _beat_or_hang_up(self, peer: PeerId, pulse: _Pulse, *, now_us: int) -> Effect:
        silence_us = now_us - pulse.heard_us
        if silence_us > (SILENCE_US_MAX if peer in self._watched else UNWATCHED_SILENCE_US_MAX):
            del self._pulses[peer]
            return Hangup(peer, f"silent for {silence_us // 1_000_000} s")
        return self._beat(peer, pulse, now_us=now_us)

    def _beat(self, peer: PeerId, pulse: _Pulse, *, now_us: int) -> Effect:
        pulse.beaten_us = now_us
        pulse.due_us = now_us + self._pause_us(peer)
        if pulse.token_due_us > now_us + EARLY_US_MAX:
            return Send(peer, _HEARTBEAT)
        pulse.token_due_us = now_us + ROUND_TRIP_EVERY_US
        token = self.rng.getrandbits(63)
        pulse.asked_us[token] = now_us
        if len(pulse.asked_us) > UNANSWERED_MAX:
            del pulse.asked_us[next(iter(pulse.asked_us))]
        return Send(peer, Heartbeat(token=token))

    def _pause_us(self, peer: PeerId) -> int:
        return WATCHED_EVERY_US if peer in self._watched else UNWATCHED_EVERY_US

    def _timer(self, now_us: int) -> list[Effect]:
        """Set the timer for whoever is due first, unless it is set for then or before."""
        if not self._pulses:
            return []
        due_us = max(now_us + 1, min(pulse.due_us for pulse in self._pulses.values()))
        if self._timer_due_us is not None and self._timer_due_us <= due_us:
            return []
        self._timer_due_us = due_us
        return [SetTimer(HeartbeatDue(), due_us - now_us)]

    def on_heartbeat(self, peer: PeerId, heartbeat: Heartbeat) -> list[Effect]:
        """Answer, if an answer is wanted."""
        if heartbeat.token is None:
            return []
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
