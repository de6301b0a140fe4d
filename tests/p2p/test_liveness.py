"""Liveness: silence ends a link, lateness does not, and a round trip is what it says."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.liveness import (
    HEARTBEAT_EVERY_US,
    SILENCE_US_MAX,
    UNANSWERED_MAX,
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
    """Liveness with a clock and the timer of one link."""

    now_us: int = 5_000 * US_PER_S
    measurements: Measurements = field(default_factory=Measurements)

    def __post_init__(self) -> None:
        self.liveness = Liveness(measurements=self.measurements, rng=random.Random(1))
        self.effects: list[Effect] = self.liveness.on_link_up(PEER, now_us=self.now_us)

    @property
    def token(self) -> int:
        """The token of the heartbeat that was sent last."""
        [token] = [
            effect.message.token
            for effect in self.effects
            if isinstance(effect, Send) and isinstance(effect.message, Heartbeat)
        ]
        return token

    def beat(self, *, late_us: int = 0) -> list[Effect]:
        """Let the timer run out."""
        assert SetTimer(HeartbeatDue(), HEARTBEAT_EVERY_US) in self.effects
        self.now_us += HEARTBEAT_EVERY_US + late_us
        self.effects = self.liveness.on_heartbeat_due(now_us=self.now_us)
        return self.effects

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


def test_a_new_link_is_asked_at_once_and_then_every_two_seconds() -> None:
    bench = Bench()
    tokens = {bench.token}
    for _ in range(4):
        bench.beat()
        tokens.add(bench.token)
    assert len(tokens) == 5


def test_a_silent_link_is_hung_up_after_ten_seconds_and_not_before() -> None:
    bench = Bench()
    began_us = bench.now_us
    while not is_hung_up(bench.beat()):
        assert bench.now_us - began_us <= SILENCE_US_MAX
    assert SILENCE_US_MAX < bench.now_us - began_us <= SILENCE_US_MAX + HEARTBEAT_EVERY_US
    assert bench.effects == [Hangup(PEER, "silent for 12 s")], "and no timer more"


def test_a_peer_that_is_only_late_keeps_its_link() -> None:
    bench = Bench()
    for _ in range(20):
        for _ in range(4):
            assert not is_hung_up(bench.beat())
        bench.hear(after_us=SILENCE_US_MAX - 4 * HEARTBEAT_EVERY_US)
        bench.now_us -= SILENCE_US_MAX - 4 * HEARTBEAT_EVERY_US  # it came between two beats


def test_hearing_another_peer_is_no_sign_of_life_of_this_one() -> None:
    bench = Bench()
    for _ in range(5):
        bench.beat()
        bench.liveness.on_heard(OTHER, now_us=bench.now_us)
    assert is_hung_up(bench.beat())


def test_a_heartbeat_is_answered_with_its_token() -> None:
    bench = Bench()
    assert bench.liveness.on_heartbeat(OTHER, Heartbeat(token=77)) == [
        Send(OTHER, HeartbeatAcknowledged(token=77))
    ]


# --- suspension -----------------------------------------------------------------------------


def test_after_a_suspension_the_peer_is_asked_and_given_ten_seconds() -> None:
    bench = Bench()
    bench.beat()
    bench.hear()
    assert not is_hung_up(bench.beat(late_us=3_600 * US_PER_S))
    resumed_us = bench.now_us
    while not is_hung_up(bench.beat()):
        assert bench.now_us - resumed_us <= SILENCE_US_MAX
    assert bench.now_us - resumed_us <= SILENCE_US_MAX + HEARTBEAT_EVERY_US


def test_silence_before_a_suspension_still_counts() -> None:
    bench = Bench()
    for _ in range(4):
        bench.beat()
    assert not is_hung_up(bench.beat(late_us=3_600 * US_PER_S))
    assert is_hung_up(bench.beat()), "8 s before, 4 s after"


def test_a_peer_that_answers_after_a_suspension_stays() -> None:
    bench = Bench()
    bench.beat(late_us=3_600 * US_PER_S)
    bench.hear(after_us=50_000)
    bench.now_us -= 50_000
    for _ in range(4):
        assert not is_hung_up(bench.beat())


@given(st.lists(st.integers(0, 3 * US_PER_S), max_size=20))
def test_a_device_that_is_late_itself_gives_its_peers_as_much_more_time(lates: list[int]) -> None:
    bench = Bench()
    for beats_count, late_us in enumerate(lates, start=1):
        effects = bench.beat(late_us=late_us)
        assert is_hung_up(effects) is (beats_count * HEARTBEAT_EVERY_US > SILENCE_US_MAX)
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
    second = bench.token
    bench.answer(first, after_us=1_000_000)
    assert bench.measured().round_trip_us == HEARTBEAT_EVERY_US + 1_000_000
    bench.answer(second)
    assert bench.measured().round_trips_count == 2


@pytest.mark.parametrize("asked_count", [10, 1_000])
def test_unanswered_heartbeats_are_bounded(asked_count: int) -> None:
    bench = Bench()
    tokens = [bench.token]
    for _ in range(asked_count):
        bench.beat()
        bench.hear()
        tokens.append(bench.token)
    assert len(bench.liveness._pulses[PEER].asked_us) == UNANSWERED_MAX
    for token in tokens:
        bench.answer(token)
    assert bench.measured().round_trips_count == UNANSWERED_MAX


def test_tokens_cannot_be_guessed_from_earlier_ones() -> None:
    bench = Bench()
    tokens = [bench.token]
    for _ in range(10):
        bench.beat()
        bench.hear()
        tokens.append(bench.token)
    assert all(abs(later - earlier) > 1 << 32 for earlier, later in itertools.pairwise(tokens))
    assert all(0 <= token < 1 << 63 for token in tokens)


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
    assert bench.liveness == Liveness(measurements=bench.measurements, rng=bench.liveness.rng)


def test_links_of_about_the_same_age_share_a_timer_and_others_are_not_asked_with_them() -> None:
    bench = Bench()
    came_us = {1: 0, 2: 300_000, 3: 400_000, 4: 1_000_000}
    for number, after_us in came_us.items():
        bench.liveness.on_link_up(numbered(number), now_us=bench.now_us + after_us)
    asked_us: dict[PeerId, list[int]] = {}
    due_us = bench.now_us + HEARTBEAT_EVERY_US
    timers_count = 0
    while due_us <= bench.now_us + 5 * HEARTBEAT_EVERY_US:
        timers_count += 1
        effects = bench.liveness.on_heartbeat_due(now_us=due_us)
        for effect in effects:
            if isinstance(effect, Send):
                asked_us.setdefault(effect.peer, []).append(due_us - bench.now_us)
                bench.liveness.on_heard(effect.peer, now_us=due_us)
        [after_us] = [effect.after_us for effect in effects if isinstance(effect, SetTimer)]
        due_us += after_us
    assert asked_us[PEER] == asked_us[numbered(1)] == asked_us[numbered(3)]
    assert asked_us[PEER] == [number * HEARTBEAT_EVERY_US for number in range(1, 6)]
    assert asked_us[numbered(4)] == [each_us + 1_000_000 for each_us in asked_us[PEER][:-1]]
    assert timers_count == 9, "two each two seconds, for five links"


def test_a_link_that_ends_leaves_the_timer_to_the_others() -> None:
    bench = Bench()
    bench.liveness.on_link_up(OTHER, now_us=bench.now_us + 1_000_000)
    bench.liveness.on_link_down(PEER)
    due_us = bench.now_us + HEARTBEAT_EVERY_US
    assert bench.liveness.on_heartbeat_due(now_us=due_us) == [SetTimer(HeartbeatDue(), 1_000_000)]
    [asked, _] = bench.liveness.on_heartbeat_due(now_us=due_us + 1_000_000)
    assert isinstance(asked, Send)
    assert asked.peer == OTHER


def test_a_new_link_to_the_same_peer_begins_anew() -> None:
    bench = Bench()
    old = bench.token
    for _ in range(5):
        bench.beat()
    bench.liveness.on_link_down(PEER)
    bench.effects = bench.liveness.on_link_up(PEER, now_us=bench.now_us)
    bench.answer(old)
    assert bench.measured().round_trips_count == 0
    for _ in range(5):
        assert not is_hung_up(bench.beat())
