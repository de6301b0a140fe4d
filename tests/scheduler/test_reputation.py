"""What a device thinks of others: from what it saw itself first, and what those say it knows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.standing import OWN, reputation_of

from p2p.observations import Observed, observed_in
from scheduler.reputation import (
    AGE_ROW,
    HOUR_US,
    OBSERVATIONS_BYTES_MAX,
    OBSERVERS_MAX,
    TELL_EVERY_US,
    TELL_SOON_US,
    AgeDue,
    AgeRow,
    ObservationsDue,
    ObservationsDurable,
    Reputation,
)
from telemetry.measurement import Measurements
from telemetry.outcomes import HALF_LIFE_H, Counts, Outcomes
from wire.effects import Persist, SetTimer
from wire.ids import PeerId
from wire.records import OBSERVATIONS_MAX, Observations
from wire.signed import encode_body

SUBJECT, ALICE, BOB = (PeerId(letter * 32) for letter in (b"s", b"a", b"b"))


def identity(number: int) -> PeerId:
    return PeerId(number.to_bytes(32, "big"))


class Bench:
    """One device's reputation core, and what others told."""

    def __init__(self) -> None:
        self.told: dict[PeerId, Observed] = {}
        self.measurements = Measurements()
        self.reputation: Reputation = reputation_of(self.measurements, self.told.get)

    def see(self, peer: PeerId, *, valid: int = 0, failed: int = 0, disputed: int = 0) -> None:
        if valid:
            self.measurements.on_success(peer, count=valid)
        for _ in range(failed):
            self.measurements.on_device_failure(peer)
        for _ in range(disputed):
            self.measurements.on_dispute(peer)
        self.reputation.on_outcome(peer, now_us=0)

    def hear(
        self,
        observer: PeerId,
        subject: PeerId = SUBJECT,
        *,
        valid: int = 0,
        failed: int = 0,
        disputed: int = 0,
        generation: int = 0,
    ) -> None:
        counts = {(subject, "any"): Counts(valid, failed, disputed)}
        told = Observed((1, generation), counts)
        held = self.told.get(observer)
        self.told[observer] = told if held is None else held.joined(told)
        self.reputation.on_observed(observer)

    def grow_older(self, hours: int) -> None:
        for _ in range(hours):
            self.reputation.on_age_due()

    def tell(self, now_us: int = 0) -> Observations | None:
        """Return what is told when it is durable, None if it is no news."""
        for effect in self.reputation.on_observations_due(now_us=now_us):
            assert isinstance(effect, Persist)
            (durable,) = effect.then
            assert isinstance(durable, SetTimer)
            assert isinstance(durable.key, ObservationsDurable)
            subjects = {one.subject for one in durable.key.told.slots}
            assert subjects == {PeerId(row.key) for row in effect.rows}
            return durable.key.told
        return None


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_newcomer_is_neutral(bench: Bench) -> None:
    assert bench.reputation.reputation(SUBJECT) == 0.5
    assert bench.reputation.weight(SUBJECT) == 0


def test_the_formula_is_that_of_health(bench: Bench) -> None:
    bench.see(SUBJECT, valid=9, failed=1, disputed=1)
    assert bench.reputation.reputation(SUBJECT) == pytest.approx(0.9 - 0.05)
    bench.see(SUBJECT, disputed=50)
    assert bench.reputation.reputation(SUBJECT) == pytest.approx(0.9 - 0.3)


def test_who_did_good_work_is_heard_about_strangers_and_less_than_what_was_seen_here(
    bench: Bench,
) -> None:
    bench.see(ALICE, valid=100)
    bench.hear(ALICE, failed=100)
    assert bench.reputation.reputation(SUBJECT) < 0.2
    bench.see(SUBJECT, valid=4)
    assert bench.reputation.reputation(SUBJECT) > 0.8


def test_observers_count_by_their_own_standing(bench: Bench) -> None:
    bench.see(ALICE, valid=100)
    bench.see(BOB, valid=50, failed=50, disputed=10)
    bench.hear(ALICE, valid=100)
    bench.hear(BOB, failed=100)
    assert bench.reputation.weight(BOB) < bench.reputation.weight(ALICE) / 3
    assert bench.reputation.reputation(SUBJECT) > 0.6
    assert [one.observer for one in bench.reputation.heard(SUBJECT)] == [ALICE, BOB]


@given(st.integers(1, 400), st.booleans(), st.booleans())
def test_a_flood_of_new_identities_gains_nothing(
    count: int, is_praise: bool, is_after_the_work: bool
) -> None:
    bench = Bench()
    flood = [identity(number) for number in range(count)]

    def strangers_speak() -> None:
        for number, stranger in enumerate(flood):
            praised = flood[(number + 1) % count]
            for subject in (SUBJECT, ALICE, praised):
                much = 1 << 50
                bench.hear(stranger, subject, valid=much * is_praise, failed=much * (not is_praise))

    if not is_after_the_work:
        strangers_speak()
    bench.see(ALICE, valid=20)
    bench.see(SUBJECT, valid=1, failed=1)
    bench.hear(ALICE, valid=10, failed=10)
    before = bench.reputation.reputation(SUBJECT)
    strangers_speak()
    assert bench.reputation.reputation(SUBJECT) == before
    assert all(bench.reputation.reputation(stranger) == 0.5 for stranger in flood)
    assert bench.reputation.reputation(ALICE) == 1.0


def test_nobody_has_a_say_about_itself(bench: Bench) -> None:
    bench.see(ALICE, valid=5, failed=5)
    before = bench.reputation.reputation(ALICE)
    bench.hear(ALICE, ALICE, valid=10**9)
    assert bench.reputation.reputation(ALICE) == before
    assert bench.reputation.heard(ALICE) == []


def test_a_great_number_weighs_no_more_than_much_experience(bench: Bench) -> None:
    bench.see(ALICE, valid=100)
    bench.see(BOB, valid=100)
    bench.hear(ALICE, valid=1 << 50)
    bench.hear(BOB, failed=90)
    assert 0.45 < bench.reputation.reputation(SUBJECT) < 0.6


def test_what_was_seen_and_heard_is_forgotten_by_halves(bench: Bench) -> None:
    bench.see(SUBJECT, failed=4)
    bench.see(ALICE, valid=40)
    bench.hear(ALICE, BOB, failed=40)
    assert bench.reputation.reputation(SUBJECT) == 0
    about_bob = bench.reputation.reputation(BOB)
    bench.grow_older(HALF_LIFE_H)
    assert bench.reputation.evidence(SUBJECT).own.failed == pytest.approx(2)
    bench.grow_older(9 * HALF_LIFE_H)
    assert bench.reputation.reputation(SUBJECT) == pytest.approx(0.5, abs=0.01)
    assert about_bob < bench.reputation.reputation(BOB) == pytest.approx(0.5, abs=0.02)
    assert bench.measurements.of(SUBJECT).failures_count == 4  # what is told never falls


def test_a_word_repeated_is_not_a_new_one(bench: Bench) -> None:
    bench.see(ALICE, valid=40)
    bench.hear(ALICE, failed=8)
    bench.grow_older(HALF_LIFE_H)
    bench.hear(ALICE, failed=8)
    (heard,) = bench.reputation.heard(SUBJECT)
    assert heard.remembered.failed == pytest.approx(4)
    bench.hear(ALICE, failed=10)
    (heard,) = bench.reputation.heard(SUBJECT)
    assert heard.remembered.failed == pytest.approx(6)


def test_who_is_no_member_any_more_has_no_say(bench: Bench) -> None:
    bench.see(ALICE, valid=100)
    bench.hear(ALICE, failed=100)
    del bench.told[ALICE]
    bench.grow_older(1)
    assert bench.reputation.reputation(SUBJECT) == 0.5


def test_a_slot_that_its_observer_dropped_is_dropped(bench: Bench) -> None:
    bench.see(ALICE, valid=100)
    bench.hear(ALICE, SUBJECT, failed=100)
    bench.hear(ALICE, BOB, failed=100, generation=1)
    assert bench.reputation.heard(SUBJECT) == []
    assert len(bench.reputation.heard(BOB)) == 1


def test_observers_are_bounded_and_those_that_are_gone_make_room(bench: Bench) -> None:
    for number in range(OBSERVERS_MAX + 5):
        bench.see(identity(number), valid=10)
        bench.hear(identity(number), failed=1)
    assert len(bench.reputation.heard(SUBJECT)) == OBSERVERS_MAX
    del bench.told[identity(3)]
    bench.see(ALICE, valid=10)
    bench.hear(ALICE, failed=1)
    heard = [one.observer for one in bench.reputation.heard(SUBJECT)]
    assert len(heard) == OBSERVERS_MAX
    assert ALICE in heard


# --- what is told to others -----------------------------------------------------------------------


def test_outcomes_are_told_soon_and_then_once_a_minute(bench: Bench) -> None:
    bench.measurements.on_success(SUBJECT)
    assert bench.reputation.on_outcome(SUBJECT, now_us=7) == [
        SetTimer(ObservationsDue(), TELL_SOON_US)
    ]
    assert bench.reputation.on_outcome(SUBJECT, now_us=8) == []
    told = bench.tell(now_us=TELL_SOON_US)
    assert told is not None
    assert [(one.subject, one.valid_count) for one in told.slots] == [(SUBJECT, 1)]
    assert bench.reputation.on_outcome(SUBJECT, now_us=2 * TELL_SOON_US) == [
        SetTimer(ObservationsDue(), TELL_EVERY_US - TELL_SOON_US)
    ]
    assert bench.tell(now_us=TELL_EVERY_US) is None  # it is no news


def test_own_work_is_nobody_else_s_business(bench: Bench) -> None:
    bench.measurements.on_success(OWN)
    assert bench.reputation.on_outcome(OWN, now_us=0) == []
    assert bench.tell() is None


def test_observations_tell_kinds_of_tasks_apart(bench: Bench) -> None:
    bench.measurements.on_success(SUBJECT, task_kind="gpu", count=3)
    bench.measurements.on_device_failure(SUBJECT)
    bench.reputation.on_outcome(SUBJECT, now_us=0)
    told = bench.tell()
    assert told is not None
    assert [(one.task_kind, one.valid_count, one.failed_count) for one in told.slots] == [
        ("any", 0, 1),
        ("gpu", 3, 0),
    ]


def test_the_latest_are_told_and_dropping_one_begins_a_generation(bench: Bench) -> None:
    for number in range(OBSERVATIONS_MAX):
        bench.see(identity(number), valid=1)
    first = bench.tell()
    bench.see(identity(0), valid=1)
    second = bench.tell()
    bench.see(ALICE, valid=1)
    third = bench.tell()
    assert first is not None
    assert second is not None
    assert third is not None
    assert (first.generation, second.generation, third.generation) == (0, 0, 1)
    assert len(third.slots) == OBSERVATIONS_MAX
    subjects = {one.subject for one in third.slots}
    assert {identity(0), ALICE} <= subjects
    assert identity(1) not in subjects


def test_long_names_of_kinds_make_no_long_record(bench: Bench) -> None:
    for number in range(OBSERVATIONS_MAX):
        bench.measurements.on_success(identity(number), task_kind="\N{SNOWMAN}" * 64)
        bench.reputation.on_outcome(identity(number), now_us=0)
    told = bench.tell()
    assert told is not None
    assert len(told.slots) > 5
    assert len(encode_body(told)) <= OBSERVATIONS_BYTES_MAX


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 2), st.booleans()), max_size=90))
def test_what_is_told_only_grows_within_a_generation(
    steps: Sequence[tuple[int, int, bool]],
) -> None:
    bench = Bench()
    heard = Observed()
    for number, how, is_told in steps:
        bench.see(identity(number), **{("valid", "failed", "disputed")[how]: 1})
        told = bench.tell() if is_told else None
        if told is not None:
            now = observed_in(1, told)
            assert heard.joined(now) == now, "the newest says all that was said"
            heard = now


def test_what_is_remembered_and_its_age_survive_a_restart(bench: Bench) -> None:
    bench.see(SUBJECT, failed=8)
    (persist, timer) = bench.reputation.on_age_due()
    assert timer == SetTimer(AgeDue(), HOUR_US)
    assert isinstance(persist, Persist)
    assert [(row.kind, row.value) for row in persist.rows] == [(AGE_ROW, AgeRow(hours=1))]
    bench.grow_older(HALF_LIFE_H - 1)

    again = Bench()
    again.measurements.from_record(bench.measurements.to_record(SUBJECT))
    effects = again.reputation.on_restarted([AgeRow(hours=HALF_LIFE_H)])
    assert SetTimer(ObservationsDue(), TELL_SOON_US) in effects
    assert again.reputation.evidence(SUBJECT).own.failed == pytest.approx(4)
    told = again.tell()
    assert told is not None
    assert told.slots[0].failed_count == 8


def test_an_outcome_is_remembered_in_thousandths() -> None:
    held = Outcomes()
    for age_h in range(0, 40 * HALF_LIFE_H, HALF_LIFE_H):
        held = held.plus(Counts(1), age_h=age_h)
    assert held.remembered(age_h=held.at_h).valid == pytest.approx(2, abs=0.01)
    assert held.counts.valid_count == 40
