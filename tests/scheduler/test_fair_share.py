"""No submitter starves another one at an executor, and none is held back for nobody."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from scheduler.fair_share import SUBMITTERS_MAX, WANTED_US, FairShare
from wire.ids import PeerId

GREEDY, MODEST, THIRD = (PeerId(bytes([number]) * 32) for number in range(3))


def test_one_submitter_may_have_all_slots_while_nobody_waits() -> None:
    shares = FairShare(task_slots=8)
    assert shares.slots_of(GREEDY, {GREEDY: 8}, now_us=0) == 8


def test_while_another_one_waits_each_has_an_equal_part_until_it_got_something() -> None:
    shares = FairShare(task_slots=8)
    held = {GREEDY: 7, THIRD: 1}
    shares.on_refused(MODEST, held, now_us=0)

    assert shares.slots_of(GREEDY, held, now_us=1) == 2  # three want slots
    assert shares.slots_of(MODEST, held, now_us=1) == 8  # nobody else waits
    shares.on_accepted(MODEST)
    assert shares.slots_of(GREEDY, held, now_us=2) == 8


def test_who_waits_no_more_holds_nobody_back() -> None:
    shares = FairShare(task_slots=8)
    shares.on_refused(MODEST, {GREEDY: 8}, now_us=0)
    assert shares.slots_of(GREEDY, {GREEDY: 8}, now_us=WANTED_US - 1) == 4
    assert shares.slots_of(GREEDY, {GREEDY: 8}, now_us=WANTED_US) == 8


def test_who_has_its_part_already_is_not_waited_for() -> None:
    shares = FairShare(task_slots=8)
    shares.on_refused(GREEDY, {GREEDY: 8}, now_us=0)
    assert shares.slots_of(MODEST, {GREEDY: 8}, now_us=1) == 8


def test_those_who_wait_are_bounded() -> None:
    shares = FairShare(task_slots=8)
    for number in range(SUBMITTERS_MAX + 5):
        shares.on_refused(PeerId(number.to_bytes(32, "big")), {GREEDY: 8}, now_us=number)
    assert len(shares._refused_us) == SUBMITTERS_MAX
    assert shares.slots_of(GREEDY, {GREEDY: 8}, now_us=SUBMITTERS_MAX + 5) == 1


@given(
    slots=st.integers(1, 32),
    wanted=st.lists(st.sampled_from([GREEDY, MODEST, THIRD]), max_size=60),
)
def test_a_submitter_without_slots_gets_one_when_one_comes_free(
    slots: int, wanted: list[PeerId]
) -> None:
    shares, held, now_us = FairShare(task_slots=slots), Counter({GREEDY: slots}), 0
    for submitter in [*wanted, MODEST]:
        now_us += 10_000
        shares.on_refused(submitter, held, now_us=now_us)
    held[GREEDY] -= 1
    room = {one: shares.slots_of(one, held, now_us=now_us) - held[one] for one in (GREEDY, MODEST)}
    assert room[MODEST] >= 1
    assert slots == 1 or room[GREEDY] <= 0 or slots - held[GREEDY] > 1
