"""The circuit breaker: what opens it, and that only a probe closes it."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from telemetry.breaker import (
    TRANSITIONS,
    Breaker,
    BreakerCause,
    BreakerConfig,
    BreakerEvent,
    BreakerReason,
    BreakerState,
    ProbeEnd,
)
from telemetry.errors import BreakerRefused
from telemetry.measurement import Measured
from telemetry.sample import Sample

COOL = Sample(temperature_millicelsius=40_000)
HOT = Sample(temperature_millicelsius=85_001)
FINE = Measured()
FAILING = Measured(errors_in_a_row_count=26)
SLOW = Measured(round_trip_us=100_001, round_trips_count=20)


def opened(measured: Measured = FAILING, claimed: Sample = COOL) -> Breaker:
    breaker = Breaker(random=Random(1))
    breaker.on_readings(measured, claimed, now_us=0)
    assert breaker.state is BreakerState.OPEN
    return breaker


def half_opened() -> Breaker:
    breaker = opened()
    assert breaker.due_us is not None
    breaker.on_timer_due(now_us=breaker.due_us)
    assert breaker.state is BreakerState.HALF_OPEN
    return breaker


@pytest.mark.parametrize(
    ("measured", "claimed", "reason"),
    [
        (FINE, HOT, BreakerReason(cause=BreakerCause.TOO_HOT, observed=85_001, limit=85_000)),
        (SLOW, None, BreakerReason(cause=BreakerCause.TOO_SLOW, observed=100_001, limit=100_000)),
        (FAILING, COOL, BreakerReason(cause=BreakerCause.TOO_MANY_ERRORS, observed=26, limit=25)),
    ],
)
def test_it_opens_above_each_limit_and_says_why(
    measured: Measured, claimed: Sample | None, reason: BreakerReason
) -> None:
    breaker = Breaker(random=Random(1))
    breaker.on_readings(measured, claimed, now_us=0)
    assert breaker.state is BreakerState.OPEN
    assert breaker.reasons == (reason,)
    assert not breaker.allows_work


@pytest.mark.parametrize(
    ("measured", "claimed"),
    [
        (FINE, None),
        (FINE, Sample()),  # no thermometer is not a hot device
        (FINE, Sample(temperature_millicelsius=85_000)),
        (Measured(errors_in_a_row_count=25), COOL),
        (Measured(round_trip_us=100_000, round_trips_count=20), COOL),
        (Measured(round_trip_us=900_000, round_trips_count=19), COOL),  # a cold dial, not a path
    ],
)
def test_it_stays_closed_at_the_limit_and_for_unknown_readings(
    measured: Measured, claimed: Sample | None
) -> None:
    breaker = Breaker(random=Random(1))
    breaker.on_readings(measured, claimed, now_us=0)
    assert breaker.state is BreakerState.CLOSED
    assert breaker.allows_work
    assert (breaker.reasons, breaker.due_us) == ((), None)


def test_all_reasons_of_an_opening_are_kept_until_it_closes() -> None:
    breaker = opened(FAILING, HOT)
    breaker.on_readings(FAILING, COOL, now_us=1)
    causes = [reason.cause for reason in breaker.reasons]
    assert causes == [BreakerCause.TOO_HOT, BreakerCause.TOO_MANY_ERRORS]


def test_a_wide_area_profile_allows_a_slow_path() -> None:
    breaker = Breaker(random=Random(1), config=BreakerConfig(round_trip_us_max=1_000_000))
    breaker.on_readings(SLOW, COOL, now_us=0)
    assert breaker.state is BreakerState.CLOSED


def test_a_probe_that_succeeds_closes_it() -> None:
    breaker = half_opened()
    assert breaker.allows_work
    breaker.on_lease_granted("probe", now_us=1)
    assert not breaker.allows_work
    breaker.on_lease_ended("probe", ProbeEnd.SUCCEEDED, now_us=2)
    assert breaker.state is BreakerState.CLOSED
    assert breaker.reasons == ()


def test_a_second_probe_is_refused() -> None:
    breaker = half_opened()
    breaker.on_lease_granted("probe", now_us=1)
    with pytest.raises(BreakerRefused):
        breaker.on_lease_granted("another", now_us=1)


def test_no_lease_is_granted_while_open() -> None:
    with pytest.raises(BreakerRefused):
        opened().on_lease_granted("lease", now_us=1)


def test_a_lease_from_before_the_opening_does_not_close_it() -> None:
    breaker = Breaker(random=Random(1))
    breaker.on_lease_granted("early", now_us=0)
    breaker.on_readings(FAILING, COOL, now_us=1)
    assert breaker.due_us is not None
    breaker.on_timer_due(now_us=breaker.due_us)
    breaker.on_lease_granted("probe", now_us=breaker.due_us or 0)
    breaker.on_lease_ended("early", ProbeEnd.SUCCEEDED, now_us=breaker.due_us or 0)
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.allows_work


def test_a_cancelled_probe_lets_the_next_one_through() -> None:
    breaker = half_opened()
    breaker.on_lease_granted("probe", now_us=1)
    breaker.on_lease_ended("probe", ProbeEnd.INCONCLUSIVE, now_us=2)
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.allows_work


def test_old_errors_in_a_row_do_not_prevent_the_probe() -> None:
    breaker = half_opened()
    breaker.on_readings(FAILING, COOL, now_us=1)
    assert breaker.allows_work


def test_heat_reopens_a_half_open_breaker_and_ends_its_probe() -> None:
    breaker = half_opened()
    breaker.on_lease_granted("probe", now_us=1)
    breaker.on_readings(FINE, HOT, now_us=2)
    assert breaker.state is BreakerState.OPEN
    breaker.on_lease_ended("probe", ProbeEnd.SUCCEEDED, now_us=3)
    assert breaker.state is BreakerState.OPEN


def test_a_device_that_stays_hot_stays_open_without_a_longer_cooldown() -> None:
    breaker = opened(FINE, HOT)
    for _ in range(10):
        due_us = breaker.due_us
        assert due_us is not None
        breaker.on_timer_due(now_us=due_us)
        assert breaker.state is BreakerState.OPEN
        assert breaker.due_us is not None
        assert 30_000_000 <= breaker.due_us - due_us <= 37_500_000
    breaker.on_readings(FINE, COOL, now_us=breaker.due_us or 0)
    breaker.on_timer_due(now_us=breaker.due_us or 0)
    assert breaker.state is BreakerState.HALF_OPEN


def test_the_cooldown_doubles_with_each_failed_probe_up_to_its_cap_and_starts_anew() -> None:
    breaker, cooldowns_s, now_us = opened(), [], 0
    for _ in range(40):
        due_us = breaker.due_us
        assert due_us is not None
        cooldowns_s.append((due_us - now_us) / 1_000_000)
        now_us = due_us
        breaker.on_timer_due(now_us=now_us)
        breaker.on_lease_granted("probe", now_us=now_us)
        breaker.on_lease_ended("probe", ProbeEnd.DEVICE_FAILED, now_us=now_us)
    for cooldown_s, base_s in zip(cooldowns_s, [30, 60, 120, 240, 480] + [600] * 35, strict=True):
        assert base_s <= cooldown_s <= base_s * 1.25
    assert len(set(cooldowns_s[5:])) > 1  # jitter: observers do not probe all at once

    breaker.on_timer_due(now_us=now_us + 10**12)
    breaker.on_lease_granted("probe", now_us=now_us)
    breaker.on_lease_ended("probe", ProbeEnd.SUCCEEDED, now_us=now_us)
    breaker.on_readings(FINE, HOT, now_us=0)
    assert breaker.due_us is not None
    assert breaker.due_us <= 37_500_000


def test_a_timer_that_comes_early_changes_nothing() -> None:
    breaker = opened()
    breaker.on_timer_due(now_us=1)
    assert breaker.state is BreakerState.OPEN


def test_only_half_open_leads_to_closed() -> None:
    closing = {pair for pair, after in TRANSITIONS.items() if after is BreakerState.CLOSED}
    assert closing == {(BreakerState.HALF_OPEN, BreakerEvent.PROBE_SUCCEEDED)}
    half_opening = {
        before
        for (before, event), after in TRANSITIONS.items()
        if after is BreakerState.HALF_OPEN and event is BreakerEvent.COOLED
    }
    assert half_opening == {BreakerState.OPEN}


class BreakerMachine(RuleBasedStateMachine):
    """Any order of readings, timers and leases, checked against a model of the leases."""

    @initialize(seed=st.integers(0, 1_000))
    def start(self, seed: int) -> None:
        self.breaker = Breaker(random=Random(seed))
        self.now_us = 0
        self.leases: dict[int, BreakerState] = {}  # running, with the state they were granted in
        self.next_lease = 0
        self.before = BreakerState.CLOSED
        self.probe: int | None = None

    @rule(
        errors_count=st.sampled_from([0, 25, 26]),
        round_trip_us=st.sampled_from([None, 1_000, 200_000]),
        claimed=st.sampled_from([None, Sample(), COOL, HOT]),
    )
    def read(self, errors_count: int, round_trip_us: int | None, claimed: Sample | None) -> None:
        self.before = self.breaker.state
        measured = Measured(
            errors_in_a_row_count=errors_count,
            round_trip_us=round_trip_us,
            round_trips_count=0 if round_trip_us is None else 20,
        )
        self.breaker.on_readings(measured, claimed, now_us=self.now_us)
        if claimed is HOT or round_trip_us == 200_000:
            assert self.breaker.state is BreakerState.OPEN
        assert not (self.before is not BreakerState.CLOSED and self.breaker.state == "closed")

    @rule(passed_us=st.integers(0, 1_000_000_000))
    def wait(self, passed_us: int) -> None:
        self.now_us += passed_us
        self.before = self.breaker.state
        self.breaker.on_timer_due(now_us=self.now_us)
        assert self.breaker.state is self.before or self.before is BreakerState.OPEN
        assert self.breaker.state is not BreakerState.CLOSED or self.before is BreakerState.CLOSED

    @rule()
    def grant(self) -> None:
        self.before = self.breaker.state
        if not self.breaker.allows_work:
            with pytest.raises(BreakerRefused):
                self.breaker.on_lease_granted(self.next_lease, now_us=self.now_us)
            return
        self.breaker.on_lease_granted(self.next_lease, now_us=self.now_us)
        self.leases[self.next_lease] = self.before
        if self.before is BreakerState.HALF_OPEN:
            self.probe = self.next_lease
        self.next_lease += 1

    @precondition(lambda self: bool(self.leases))
    @rule(pick=st.randoms(use_true_random=False), end=st.sampled_from(ProbeEnd))
    def end(self, pick: Random, end: ProbeEnd) -> None:
        lease = pick.choice(sorted(self.leases))
        granted_in = self.leases.pop(lease)
        self.before = self.breaker.state
        self.breaker.on_lease_ended(lease, end, now_us=self.now_us)
        after = self.breaker.state
        if self.before is not BreakerState.CLOSED and after is BreakerState.CLOSED:
            assert self.before is BreakerState.HALF_OPEN
            assert granted_in is BreakerState.HALF_OPEN
            assert (lease, end) == (self.probe, ProbeEnd.SUCCEEDED)
        if lease != self.probe:
            assert after is self.before

    @invariant()
    def the_state_and_what_it_promises_agree(self) -> None:
        if not hasattr(self, "breaker"):
            return
        breaker = self.breaker
        assert (breaker.due_us is not None) is (breaker.state is BreakerState.OPEN)
        assert bool(breaker.reasons) is (breaker.state is not BreakerState.CLOSED)
        assert breaker.state is not BreakerState.OPEN or not breaker.allows_work
        assert breaker.state is not BreakerState.CLOSED or breaker.allows_work

    @invariant()
    def at_most_one_probe_runs_while_half_open(self) -> None:
        if not hasattr(self, "breaker") or self.breaker.state is not BreakerState.HALF_OPEN:
            return
        if self.before is not BreakerState.HALF_OPEN:
            self.probe = None  # newly half-open: probes of before have nothing to say any more
        if self.probe in self.leases:
            assert not self.breaker.allows_work
        else:
            assert self.breaker.allows_work


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
