"""What a steward thinks of a device, from what the device showed."""

from __future__ import annotations

from support.standing import standings_of

from scheduler.reputation import MEASUREMENT_ROW
from scheduler.standing import BreakerDue, Standings
from telemetry.breaker import BreakerConfig, BreakerState, ProbeEnd
from telemetry.measurement import PEERS_MAX, Measurements
from wire.effects import Effect, Persist, SetTimer
from wire.ids import PeerId

PEER, OTHER = PeerId(b"p" * 32), PeerId(b"o" * 32)
ERRORS_MAX = 3


def standings() -> Standings:
    config = BreakerConfig(errors_in_a_row_count_max=ERRORS_MAX)
    return standings_of(Measurements(), breaker_config=config)


def fail(made: Standings, peer: PeerId = PEER, *, lease: str = "lease") -> None:
    made.on_lease_ended(peer, lease, ProbeEnd.DEVICE_FAILED, now_us=0)


def probe(made: Standings) -> int:
    """Let a device fail until only a probe is left; return when that was."""
    for _ in range(ERRORS_MAX + 1):
        fail(made)
    due_us = made.breaker(PEER).due_us
    assert due_us is not None
    made.on_breaker_due(BreakerDue(PEER), now_us=due_us)
    return due_us


def test_failures_in_a_row_close_a_device_to_work_and_others_stay_open() -> None:
    made = standings()
    for _ in range(ERRORS_MAX):
        fail(made)
    assert made.allows_work(PEER)
    effects = made.on_lease_ended(PEER, "lease", ProbeEnd.DEVICE_FAILED, now_us=0)

    assert not made.allows_work(PEER)
    assert made.allows_work(OTHER)
    assert made.state(OTHER) is BreakerState.CLOSED
    assert any(
        isinstance(effect, SetTimer) and effect.key == BreakerDue(PEER) for effect in effects
    )


def test_a_kept_result_ends_the_errors_in_a_row() -> None:
    made = standings()
    for _ in range(5 * ERRORS_MAX):
        fail(made)
        made.on_results_kept(PEER, "lease", count=1, now_us=0)
    assert made.allows_work(PEER)


def test_each_kept_result_counts_and_is_written_once_for_all() -> None:
    made = standings()
    effects = made.on_results_kept(PEER, "lease", count=64, now_us=0)

    (persist,) = [effect for effect in effects if isinstance(effect, Persist)]
    assert [(row.kind, row.key) for row in persist.rows] == [(MEASUREMENT_ROW, PEER)]
    assert made.measurements.of(PEER).successes_count == 64


def test_what_shows_nothing_is_not_written_and_does_not_count() -> None:
    made = standings()
    assert made.on_lease_ended(PEER, "lease", ProbeEnd.INCONCLUSIVE, now_us=0) == []
    assert made.measurements.of(PEER).failures_count == 0


def test_a_probe_that_shows_nothing_leaves_room_for_the_next() -> None:
    made = standings()
    due_us = probe(made)
    made.on_lease_granted(PEER, "first", now_us=due_us)
    assert not made.allows_work(PEER)
    made.on_lease_ended(PEER, "another", ProbeEnd.SUCCEEDED, now_us=due_us)
    assert not made.allows_work(PEER)

    made.on_lease_ended(PEER, "first", ProbeEnd.INCONCLUSIVE, now_us=due_us)

    assert made.allows_work(PEER)
    assert made.state(PEER) is BreakerState.HALF_OPEN


def test_a_probe_of_several_tasks_ends_with_the_first_that_shows_something() -> None:
    made = standings()
    due_us = probe(made)
    made.on_lease_granted(PEER, "first", now_us=due_us)
    made.on_results_kept(PEER, "first", count=2, now_us=due_us)
    made.on_lease_ended(PEER, "first", ProbeEnd.DEVICE_FAILED, now_us=due_us)

    assert made.state(PEER) is BreakerState.CLOSED


def test_measurements_survive_a_restart() -> None:
    made, again = standings(), standings()
    made.on_results_kept(PEER, "lease", count=3, now_us=0)
    made.on_dispute(PEER, now_us=0)

    again.on_restarted([made.measurements.to_record(PEER)])

    assert again.measurements.of(PEER) == made.measurements.of(PEER)
    assert again.health(PEER).score == made.health(PEER).score


def test_breakers_are_bounded_and_those_that_are_open_are_kept() -> None:
    made = standings()
    for _ in range(ERRORS_MAX + 1):
        fail(made)
    for number in range(2 * PEERS_MAX):
        made.breaker(PeerId(number.to_bytes(32, "big")))
    assert len(made._breakers) <= PEERS_MAX
    assert not made.allows_work(PEER)


def measure(made: Standings, round_trip_us: int) -> list[Effect]:
    """Let a heartbeat of the peer be answered so late."""
    made.measurements.on_round_trip(PEER, round_trip_us)
    return made.on_round_trip(PEER, round_trip_us, now_us=0)


def test_round_trips_within_the_limit_leave_a_closed_breaker_closed() -> None:
    made = standings()
    limit_us = made.breaker_config.round_trip_us_max
    assert [measure(made, limit_us) for _ in range(20)] == [[]] * 20
    assert made.state(PEER) is BreakerState.CLOSED


def test_slow_round_trips_open_the_breaker_and_fast_ones_let_a_probe_through() -> None:
    made = standings()
    limit_us = made.breaker_config.round_trip_us_max
    for _ in range(20):
        measure(made, 2 * limit_us)
    assert made.state(PEER) is BreakerState.OPEN
    for _ in range(100):
        measure(made, limit_us // 2)
    due_us = made.breaker(PEER).due_us
    assert due_us is not None
    made.on_breaker_due(BreakerDue(PEER), now_us=due_us)
    assert made.state(PEER) is BreakerState.HALF_OPEN
