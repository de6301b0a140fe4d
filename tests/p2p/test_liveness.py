"""Liveness: silence ends a link, lateness does not, and a round trip is what it says."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.liveness import (
    ROUND_TRIP_EVERY_US,
    SILENCE_US_MAX,
    STEADY_GAP_US_MAX,
    UNANSWERED_MAX,
    UNWATCHED_EVERY_US,
    WATCHED_EVERY_US,
    HeartbeatDue,
    Liveness,
)
from telemetry.measurement import Measured, Measurements
from wire.effects import Effect, Hangup, Send, SetTimer
from wire.ids import PeerId
from wire.messages import Heartbeat, HeartbeatAcknowledged

PEER, OTHER = PeerId(b"p" * 32), PeerId(b"o" * 32)
US_PER_S = 1_000_000


@dataclass
class Bench:
    """Liveness with a clock and a timer, and one link, which is watched."""

    now_us: int = 5_000 * US_PER_S
    measurements: Measurements = field(default_factory=Measurements)
    due_us: int = 0
    tokens: list[int] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.liveness = Liveness(measurements=self.measurements, rng=random.Random(1))
        self.liveness.watch({PEER}, now_us=self.now_us)
        self.take(self.liveness.on_link_up(PEER, now_us=self.now_us))

    def take(self, effects: list[Effect]) -> list[Effect]:
        """Keep what came, set the timer."""
        self.effects = effects
        for effect in effects:
            if isinstance(effect, SetTimer):
                assert effect.key == HeartbeatDue()
                self.due_us = self.now_us + effect.after_us
            match effect:
                case Send(message=Heartbeat(token=int(token))):
                    self.tokens.append(token)
        return effects

    @property
    def token(self) -> int:
        """The token that was sent last."""
        return self.tokens[-1]

    def beat(self, *, late_us: int = 0) -> list[Effect]:
        """Let the timer run out."""
        assert self.due_us > self.now_us, "no timer is set"
        self.now_us = self.due_us + late_us
        return self.take(self.liveness.on_heartbeat_due(now_us=self.now_us))

    def ask(self) -> int:
        """Beat until another token was sent; return it."""
        tokens_count = len(self.tokens)
        while len(self.tokens) == tokens_count:
            self.hear()
            self.beat()
        return self.token

    def hear(self, *, after_us: int = 0) -> None:
        self.now_us += after_us
        self.liveness.on_heard(PEER, now_us=self.now_us)

    def answer(self, token: int, *, after_us: int = 0, peer: PeerId = PEER) -> None:
        self.now_us += after_us
        acknowledged = HeartbeatAcknowledged(token=token)
        before = self.measurements.of(peer).round_trips_count
        round_trip_us = self.liveness.on_acknowledged(peer, acknowledged, now_us=self.now_us)
        if round_trip_us is None:
            assert self.measurements.of(peer).round_trips_count == before

    def measured(self) -> Measured:
        return self.measurements.of(PEER)


def numbered(number: int) -> PeerId:
    return PeerId(bytes([number]) * 32)


def is_hung_up(effects: list[Effect]) -> bool:
    return any(isinstance(effect, Hangup) for effect in effects)


# --- silence --------------------------------------------------------------------------------


def beats_us(bench: Bench, *, count: int) -> list[int]:
    """Return the pauses between `count` heartbeats to a peer that is heard."""
    pauses = []
    for _ in range(count):
        bench.hear()
        before_us = bench.now_us
        bench.beat()
        pauses.append(bench.now_us - before_us)
    return pauses


def test_a_new_link_is_asked_at_once_and_a_watched_one_told_each_second() -> None:
    bench = Bench()
    assert len(bench.tokens) == 1
    assert beats_us(bench, count=4) == [WATCHED_EVERY_US] * 4


def test_a_link_that_is_not_watched_is_told_each_ten_seconds_and_at_once_more_when_it_is() -> None:
    bench = Bench()
    bench.take(bench.liveness.watch(set(), now_us=bench.now_us))
    bench.beat()  # the timer of the watched second finds nobody due
    assert not any(isinstance(effect, Send) for effect in bench.effects)
    bench.beat()
    assert beats_us(bench, count=3) == [UNWATCHED_EVERY_US] * 3
    bench.take(bench.liveness.watch({PEER}, now_us=bench.now_us))
    assert beats_us(bench, count=3) == [WATCHED_EVERY_US] * 3


def test_each_twenty_seconds_a_heartbeat_wants_an_answer_and_others_do_not() -> None:
    bench = Bench()
    asked_us = []
    for _ in range(3):
        bench.ask()
        asked_us.append(bench.now_us)
    assert [then - now for now, then in itertools.pairwise(asked_us)] == [ROUND_TRIP_EVERY_US] * 2


def test_a_silent_link_is_hung_up_after_ten_seconds_and_not_before() -> None:
    bench = Bench()
    began_us = bench.now_us
    while not is_hung_up(bench.beat()):
        assert bench.now_us - began_us <= SILENCE_US_MAX
    assert SILENCE_US_MAX < bench.now_us - began_us <= SILENCE_US_MAX + WATCHED_EVERY_US
    assert bench.effects == [Hangup(PEER, "silent for 11 s")], "and no timer more"


def test_a_peer_that_is_only_late_keeps_its_link() -> None:
    bench = Bench()
    for _ in range(20):
        for _ in range(9):
            assert not is_hung_up(bench.beat())
        bench.hear(after_us=900_000)


def test_steady_is_who_was_heard_without_a_gap() -> None:
    bench = Bench()
    for _ in range(5):
        bench.hear(after_us=STEADY_GAP_US_MAX)
    assert bench.liveness.steady_us(PEER) == 5 * STEADY_GAP_US_MAX
    bench.hear(after_us=STEADY_GAP_US_MAX + 1)
    assert bench.liveness.steady_us(PEER) == 0
    bench.hear(after_us=700_000)
    assert bench.liveness.steady_us(PEER) == 700_000
    assert bench.liveness.steady_us(OTHER) == 0


def test_hearing_another_peer_is_no_sign_of_life_of_this_one() -> None:
    bench = Bench()
    for _ in range(10):
        bench.beat()
        bench.liveness.on_heard(OTHER, now_us=bench.now_us)
    assert is_hung_up(bench.beat())


def test_a_heartbeat_is_answered_with_its_token_if_it_has_one() -> None:
    bench = Bench()
    assert bench.liveness.on_heartbeat(OTHER, Heartbeat(token=77)) == [
        Send(OTHER, HeartbeatAcknowledged(token=77))
    ]
    assert bench.liveness.on_heartbeat(OTHER, Heartbeat()) == []


# --- suspension -----------------------------------------------------------------------------


def test_after_a_suspension_the_peer_is_given_ten_seconds() -> None:
    bench = Bench()
    bench.beat()
    bench.hear()
    assert not is_hung_up(bench.beat(late_us=3_600 * US_PER_S))
    resumed_us = bench.now_us
    while not is_hung_up(bench.beat()):
        assert bench.now_us - resumed_us <= SILENCE_US_MAX
    assert bench.now_us - resumed_us <= SILENCE_US_MAX + WATCHED_EVERY_US


def test_silence_before_a_suspension_still_counts() -> None:
    bench = Bench()
    for _ in range(9):
        bench.beat()
    assert not is_hung_up(bench.beat(late_us=3_600 * US_PER_S))
    assert is_hung_up(bench.beat()), "10 s before, 1 s after"


@given(st.lists(st.integers(0, 3 * US_PER_S), max_size=20))
def test_a_device_that_is_late_itself_gives_its_peers_as_much_more_time(lates: list[int]) -> None:
    bench = Bench()
    for beats_count, late_us in enumerate(lates, start=1):
        effects = bench.beat(late_us=late_us)
        assert is_hung_up(effects) is (beats_count * WATCHED_EVERY_US > SILENCE_US_MAX)
        if is_hung_up(effects):
            return


def test_the_hour_of_a_suspension_is_no_round_trip() -> None:
    bench = Bench()
    bench.answer(bench.token, after_us=3_600 * US_PER_S)
    assert bench.measured().round_trip_us is None


# --- round trips ----------------------------------------------------------------------------


def test_the_round_trip_is_from_asking_to_the_answer() -> None:
    bench = Bench()
    bench.answer(bench.token, after_us=40_000)
    assert bench.measured().round_trip_us == 40_000


def test_an_answer_counts_once_and_only_with_its_token() -> None:
    bench = Bench()
    bench.answer(bench.token + 1, after_us=10_000)
    bench.answer(0)
    assert bench.measured().round_trips_count == 0
    bench.answer(bench.token, after_us=10_000)
    bench.answer(bench.token, after_us=10_000)
    assert bench.measured().round_trips_count == 1
    assert bench.measured().round_trip_us == 20_000


def test_an_answer_from_somebody_else_measures_nobody() -> None:
    bench = Bench()
    bench.liveness.on_link_up(OTHER, now_us=bench.now_us)
    bench.answer(bench.token, after_us=10_000, peer=OTHER)
    bench.answer(bench.token, peer=PeerId(b"x" * 32))
    assert bench.measurements.peers() == ()


def test_a_round_trip_longer_than_the_pause_between_heartbeats_is_measured_too() -> None:
    bench = Bench()
    first = bench.token
    bench.beat()
    bench.beat()
    bench.answer(first, after_us=1_000_000)
    assert bench.measured().round_trip_us == 2 * WATCHED_EVERY_US + 1_000_000


@pytest.mark.parametrize("asked_count", [10, 300])
def test_unanswered_heartbeats_are_bounded(asked_count: int) -> None:
    bench = Bench()
    for _ in range(asked_count):
        bench.ask()
    assert len(bench.liveness._pulses[PEER].asked_us) == UNANSWERED_MAX
    for token in bench.tokens:
        bench.answer(token)
    assert bench.measured().round_trips_count == 1, "of the one before it was too long ago"


def test_tokens_cannot_be_guessed_from_earlier_ones() -> None:
    bench = Bench()
    for _ in range(10):
        bench.ask()
    pairs = itertools.pairwise(bench.tokens)
    assert all(abs(later - earlier) > 1 << 32 for earlier, later in pairs)
    assert all(0 <= token < 1 << 63 for token in bench.tokens)


# --- ends -----------------------------------------------------------------------------------


def test_after_a_link_is_down_nothing_is_asked_heard_or_kept() -> None:
    bench = Bench()
    token = bench.token
    bench.liveness.on_link_down(PEER)
    bench.liveness.on_link_down(PEER)
    assert bench.liveness.on_heartbeat_due(now_us=bench.now_us) == []
    bench.hear()
    bench.answer(token)
    assert bench.measured() == Measured()
    assert bench.liveness.heard_us(PEER) is None


def test_links_come_to_be_told_together_which_wakes_the_device_once_a_second() -> None:
    bench = Bench()
    together, later = numbered(1), numbered(2)
    bench.liveness.watch({PEER, together, later}, now_us=bench.now_us)
    bench.now_us += 400_000
    bench.take(bench.liveness.on_link_up(together, now_us=bench.now_us))
    bench.now_us += 200_000
    bench.take(bench.liveness.on_link_up(later, now_us=bench.now_us))
    told = [[one.peer for one in bench.beat() if isinstance(one, Send)] for _ in range(4)]
    everybody = [PEER, together, later]
    assert told == [[PEER, together], everybody, everybody, everybody]


def test_a_link_that_ends_leaves_the_timer_to_the_others() -> None:
    bench = Bench()
    bench.take(bench.liveness.on_link_up(OTHER, now_us=bench.now_us))
    bench.liveness.on_link_down(PEER)
    told: list[PeerId] = []
    while not told:
        told = [effect.peer for effect in bench.beat() if isinstance(effect, Send)]
    assert told == [OTHER]


def test_a_new_link_to_the_same_peer_begins_anew() -> None:
    bench = Bench()
    old = bench.token
    for _ in range(9):
        bench.beat()
    bench.liveness.on_link_down(PEER)
    bench.take(bench.liveness.on_link_up(PEER, now_us=bench.now_us))
    bench.answer(old)
    assert bench.measured().round_trips_count == 0
    for _ in range(9):
        assert not is_hung_up(bench.beat())
