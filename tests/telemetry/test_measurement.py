"""What is measured about peers: medians, rates, outcomes, and the bound on peers."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.measurement import (
    BITS_PER_SECOND_MAX,
    TRANSFER_BYTES_MIN,
    Measured,
    MeasurementRecord,
    Measurements,
)
from wire.ids import PeerId

ALICE, BOB, CAROL = (PeerId(letter * 32) for letter in (b"a", b"b", b"c"))


def test_an_unmeasured_peer_is_unknown_not_zero() -> None:
    assert Measurements().of(ALICE) == Measured()
    assert Measurements().of(ALICE).round_trip_us is None


def test_the_round_trip_is_the_median_of_the_last_twenty() -> None:
    measurements = Measurements()
    for _ in range(50):
        measurements.on_round_trip(ALICE, 1_000_000)  # a bad start is forgotten
    for round_trip_us in range(1, 21):
        measurements.on_round_trip(ALICE, round_trip_us)
    measured = measurements.of(ALICE)
    assert (measured.round_trip_us, measured.round_trips_count) == (10, 20)
    measurements.on_round_trip(ALICE, 10_000_000)
    assert measurements.of(ALICE).round_trip_us == 11  # 2..20 and the outlier: (11 + 12) // 2


@given(st.lists(st.integers(0, 10_000_000), min_size=1, max_size=60))
def test_the_median_is_bounded_by_the_last_twenty(round_trips_us: list[int]) -> None:
    measurements = Measurements()
    for round_trip_us in round_trips_us:
        measurements.on_round_trip(ALICE, round_trip_us)
    last, median = round_trips_us[-20:], measurements.of(ALICE).round_trip_us
    assert median is not None
    assert 2 * sum(value <= median for value in last) >= len(last)
    assert 2 * sum(value >= median for value in last) >= len(last)


def test_small_transfers_say_nothing_about_the_rate() -> None:
    measurements = Measurements()
    measurements.on_received(ALICE, TRANSFER_BYTES_MIN - 1, 1)
    measurements.on_sent(ALICE, TRANSFER_BYTES_MIN - 1, 1)
    assert measurements.peers() == ()


def test_rates_are_kept_by_direction_and_follow_slowly() -> None:
    measurements = Measurements()
    measurements.on_received(ALICE, 1_000_000, 1_000_000)
    assert measurements.of(ALICE).up_bits_per_second == 8_000_000
    assert measurements.of(ALICE).down_bits_per_second is None
    measurements.on_received(ALICE, 1_000_000, 500_000)
    assert measurements.of(ALICE).up_bits_per_second == 10_000_000  # (3 * 8 + 16) / 4
    measurements.on_sent(ALICE, 1_000_000, 2_000_000)
    assert measurements.of(ALICE).down_bits_per_second == 4_000_000


def test_a_transfer_in_no_time_gives_a_bounded_rate() -> None:
    measurements = Measurements()
    measurements.on_sent(ALICE, 1 << 40, 0)
    assert measurements.of(ALICE).down_bits_per_second == BITS_PER_SECOND_MAX


def test_a_success_ends_the_errors_in_a_row_and_keeps_the_failures() -> None:
    measurements = Measurements()
    for _ in range(3):
        measurements.on_device_failure(ALICE)
    assert measurements.of(ALICE).errors_in_a_row_count == 3
    measurements.on_success(ALICE)
    measurements.on_dispute(ALICE)
    assert measurements.of(ALICE) == Measured(
        successes_count=1, failures_count=3, errors_in_a_row_count=0, disputes_count=1
    )


def test_one_peer_s_figures_do_not_touch_another_s() -> None:
    measurements = Measurements()
    measurements.on_round_trip(ALICE, 5)
    measurements.on_device_failure(BOB)
    assert measurements.of(ALICE).failures_count == 0
    assert measurements.of(BOB).round_trip_us is None


def test_the_peer_measured_longest_ago_is_forgotten() -> None:
    measurements = Measurements(peers_max=2)
    measurements.on_success(ALICE)
    measurements.on_success(BOB)
    measurements.on_round_trip(ALICE, 1)
    measurements.of(BOB)  # asking is not measuring
    measurements.on_success(CAROL)
    assert measurements.peers() == (ALICE, CAROL)
    assert measurements.of(BOB) == Measured()


@pytest.mark.parametrize("transfers_count", [0, 1])
def test_outcomes_and_rates_survive_a_restart_and_round_trips_do_not(transfers_count: int) -> None:
    measurements = Measurements()
    measurements.on_success(ALICE)
    measurements.on_device_failure(ALICE)
    measurements.on_dispute(ALICE)
    measurements.on_round_trip(ALICE, 5)
    for _ in range(transfers_count):
        measurements.on_sent(ALICE, 1 << 20, 1_000)
    stored = msgspec.msgpack.encode(measurements.to_record(ALICE))

    restarted = Measurements()
    restarted.from_record(msgspec.msgpack.decode(stored, type=MeasurementRecord))
    assert restarted.to_record(ALICE) == measurements.to_record(ALICE)
    assert restarted.of(ALICE).errors_in_a_row_count == 1
    assert restarted.of(ALICE).round_trip_us is None
