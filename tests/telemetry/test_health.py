"""The health formula: exact vectors, bounds, monotonicity and renormalisation."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from telemetry.health import (
    NOTHING_KNOWN_SCORE,
    Evidence,
    Health,
    HealthReferences,
    HealthWeights,
    Terms,
    health_of,
    reputation_of,
    score_of,
)
from telemetry.measurement import Measured
from telemetry.outcomes import Remembered
from telemetry.sample import Sample

shares = st.floats(0, 1)
terms = st.builds(
    Terms,
    bandwidth=st.none() | shares,
    latency=st.none() | shares,
    compute=st.none() | shares,
    reputation=st.none() | shares,
)
weights = st.builds(
    HealthWeights,
    bandwidth=st.floats(0, 10),
    latency=st.floats(0, 10),
    compute=st.floats(0, 10),
    reputation=st.floats(0, 10),
)
counts = st.integers(0, 1_000)
rates = st.none() | st.integers(0, 1 << 40)
measurements = st.builds(
    Measured,
    round_trip_us=st.none() | st.integers(0, 10_000_000),
    up_bits_per_second=rates,
    down_bits_per_second=rates,
    successes_count=counts,
    failures_count=counts,
    disputes_count=counts,
)

GIB = 1 << 30


def evidence_of(measured: Measured) -> Evidence:
    """Return what speaks for a device whose outcomes were all seen here, just now."""
    own = Remembered(measured.successes_count, measured.failures_count, measured.disputes_count)
    return Evidence(own=own)


def seen(measured: Measured, claimed: Sample | None, **settings: object) -> Health:
    return health_of(measured, claimed, evidence_of(measured), **settings)  # type: ignore[arg-type]


WORKED_EXAMPLE = Measured(
    round_trip_us=20_000,
    up_bits_per_second=250_000_000,
    down_bits_per_second=400_000_000,
    successes_count=9,
    failures_count=1,
    disputes_count=1,
)
HALF_IDLE = Sample(cpu_idle_permille=500, memory_total_bytes=8 * GIB, memory_free_bytes=6 * GIB)


@pytest.mark.parametrize(
    ("measured", "claimed", "expected_terms", "expected_score"),
    [
        # A stranger: its reputation of one half is all there is.
        (Measured(), None, (None, None, None, 0.5), 0.5),
        # Everything measured and claimed, the worked example of docs/health.md.
        (
            WORKED_EXAMPLE,
            HALF_IDLE,
            (0.25, 0.8, 0.625, 0.85),
            0.55,
        ),
        # No bandwidth: weights 0.3, 0.2 and 0.1 are divided by 0.6.
        (
            Measured(round_trip_us=20_000, successes_count=1),
            HALF_IDLE,
            (None, 0.8, 0.625, 1.0),
            (0.3 * 0.8 + 0.2 * 0.625 + 0.1) / 0.6,
        ),
        # Beyond the references: clamped, both ways.
        (
            Measured(
                round_trip_us=250_000,
                up_bits_per_second=10**10,
                down_bits_per_second=10**10,
                failures_count=3,
                disputes_count=9,
            ),
            Sample(cpu_idle_permille=0),
            (1.0, 0.0, 0.0, 0.0),
            0.4,
        ),
        # Disputes cost at most 0.3.
        (
            Measured(round_trip_us=0, successes_count=1, disputes_count=100),
            None,
            (None, 1.0, None, 0.7),
            (0.3 + 0.07) / 0.4,
        ),
        # A new device that lost a dispute.
        (Measured(disputes_count=2), None, (None, None, None, 0.4), 0.4),
        # Memory alone is known: it is the compute term.
        (
            Measured(),
            Sample(memory_total_bytes=4 * GIB, memory_free_bytes=GIB),
            (None, None, 0.25, 0.5),
            (0.2 * 0.25 + 0.1 * 0.5) / 0.3,
        ),
    ],
)
def test_exact_vectors(
    measured: Measured,
    claimed: Sample | None,
    expected_terms: tuple[float | None, ...],
    expected_score: float,
) -> None:
    health = seen(measured, claimed)
    found = health.terms
    assert (found.bandwidth, found.latency, found.compute, found.reputation) == pytest.approx(
        expected_terms
    )
    assert health.score == pytest.approx(expected_score)


def test_the_page_s_worked_example_ends_in_the_score_of_the_vector() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "health.md").read_text(encoding="utf-8")
    found = re.search(
        r"0\.4 \* ([\d.]+) \+ 0\.3 \* ([\d.]+) \+ 0\.2 \* ([\d.]+) \+ 0\.1 \* ([\d.]+) = ([\d.]+)",
        page,
    )
    assert found is not None
    health = seen(WORKED_EXAMPLE, HALF_IDLE)
    terms_of_code = msgspec.structs.astuple(health.terms)
    assert [*map(float, found.groups())] == pytest.approx([*terms_of_code, health.score])


def test_the_default_weights_are_those_of_the_formula() -> None:
    alone = HealthWeights()
    assert (alone.bandwidth, alone.latency, alone.compute, alone.reputation) == (0.4, 0.3, 0.2, 0.1)


def test_what_was_measured_outranks_what_is_claimed_in_each_direction() -> None:
    claimed = Sample(
        network_up_bits_per_second=1_000_000_000, network_down_bits_per_second=600_000_000
    )
    assert health_of(Measured(), claimed).terms.bandwidth == 0.6
    slow_up = Measured(up_bits_per_second=100_000_000)
    assert health_of(slow_up, claimed).terms.bandwidth == 0.1
    fast_down = Measured(down_bits_per_second=900_000_000)
    assert health_of(fast_down, claimed).terms.bandwidth == 0.9


def test_references_are_configuration() -> None:
    references = HealthReferences(
        round_trip_us=1_000_000, bandwidth_bits_per_second=100_000_000, reputation_new=0.2
    )
    found = health_of(
        Measured(round_trip_us=250_000, up_bits_per_second=50_000_000), None, references=references
    ).terms
    assert (found.latency, found.bandwidth, found.reputation) == (0.75, 0.5, 0.2)


def test_nothing_known_is_neutral() -> None:
    assert score_of(Terms()) == NOTHING_KNOWN_SCORE == 0.5
    only_latency = HealthWeights(bandwidth=0, latency=1, compute=0, reputation=0)
    assert seen(Measured(successes_count=9), None, weights=only_latency).score == 0.5


@given(terms, weights)
@example(Terms(compute=0.5), HealthWeights(bandwidth=0, latency=0, compute=5e-324, reputation=0))
def test_a_score_is_in_bounds_and_between_its_terms(found: Terms, weight: HealthWeights) -> None:
    score = score_of(found, weight)
    assert 0 <= score <= 1
    weighed = [
        term
        for term, each in (
            (found.bandwidth, weight.bandwidth),
            (found.latency, weight.latency),
            (found.compute, weight.compute),
            (found.reputation, weight.reputation),
        )
        if term is not None and each > 0
    ]
    if weighed:
        assert min(weighed) - 1e-9 <= score <= max(weighed) + 1e-9


@given(shares, st.sets(st.sampled_from(["bandwidth", "latency", "compute", "reputation"])))
def test_equal_terms_give_their_own_value_whatever_is_unknown(term: float, known: set[str]) -> None:
    assume(known)
    assert score_of(Terms(**dict.fromkeys(known, term))) == pytest.approx(term)


@given(terms, st.sampled_from(["bandwidth", "latency", "compute", "reputation"]), shares, shares)
def test_a_better_term_never_lowers_the_score(
    found: Terms, name: str, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    assert score_of(replace(found, **{name: low})) <= score_of(replace(found, **{name: high}))


@given(measurements, st.integers(0, 1_000), st.integers(0, 1_000))
def test_every_term_is_in_bounds(measured: Measured, idle: int, free: int) -> None:
    sample = Sample(cpu_idle_permille=idle, memory_total_bytes=1_000, memory_free_bytes=free)
    health = seen(measured, sample)
    found = health.terms
    for term in (found.bandwidth, found.latency, found.compute, found.reputation, health.score):
        assert term is None or 0 <= term <= 1


@given(measurements)
def test_slower_or_failing_devices_never_score_better(measured: Measured) -> None:
    worse = [replace(measured, failures_count=measured.failures_count + 1)]
    worse.append(replace(measured, disputes_count=measured.disputes_count + 1))
    if measured.round_trip_us is not None:
        worse.append(replace(measured, round_trip_us=measured.round_trip_us + 1_000))
    if measured.up_bits_per_second is not None:
        worse.append(replace(measured, up_bits_per_second=measured.up_bits_per_second // 2))
    score = seen(measured, HALF_IDLE).score
    for each in worse:
        assert seen(each, HALF_IDLE).score <= score


recent = st.floats(0, 50)
evidences = st.builds(
    Evidence,
    own=st.builds(Remembered, recent, recent, recent),
    others_rate=shares,
    others_weight=shares,
)


@given(evidences)
def test_all_that_others_say_moves_a_reputation_less_than_one_own_outcome(told: Evidence) -> None:
    alone = replace(told, others_weight=0.0)
    moved = abs(reputation_of(told) - reputation_of(alone))
    assert moved <= 1 / max(1.0, told.own.count) + 1e-9


@given(evidences)
def test_what_was_forgotten_leaves_a_device_as_new(told: Evidence) -> None:
    little = Remembered(told.own.valid / 1e6, told.own.failed / 1e6, told.own.disputed / 1e6)
    assert reputation_of(Evidence(own=little)) == pytest.approx(0.5, abs=1e-3)
