"""Quorums and disputes as rules: what results add up to, in whatever order they come."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.agreement import DISPUTE_ROUNDS_MAX, DISPUTE_RUNS, Ruling, Tally

P, A, N, X = Ruling.OPEN, Ruling.AGREED, Ruling.NO_MAJORITY, Ruling.NOT_COMPARABLE


def rulings(tally: Tally[int], answers: str) -> list[Ruling]:
    """Give answers in turn, a letter for each likeness, `-` for what is never compared."""
    return [tally.add(n, None if a == "-" else a) for n, a in enumerate(answers)]


@pytest.mark.parametrize(
    ("quorum", "replicas", "answers", "expected", "runs_wanted"),
    [
        (1, 1, "a", [A], 1),
        (2, 2, "aa", [P, A], 2),
        (2, 3, "aa", [P, A], 3),
        (3, 3, "aaa", [P, P, A], 3),
        # Two differ: two more run it, and more than half of the four have to be equal.
        (2, 2, "ab", [P, P], 4),
        (2, 2, "abaa", [P, P, P, A], 4),
        (2, 2, "abab", [P, P, P, P], 6),
        (2, 2, "ababaa", [P, P, P, P, P, A], 6),
        (2, 3, "abaa", [P, P, P, A], 4),
        (3, 3, "aaba", [P, P, P, A], 5),
        (2, 2, "abababab", [P, P, P, P, P, P, P, N], 8),
        (2, 2, "abcdefgh", [P, P, P, P, P, P, P, N], 8),
        # What is never compared neither agrees nor contradicts: another device runs it.
        (2, 2, "a-a", [P, P, A], 3),
        (2, 2, "-a", [P, P], 3),
        (2, 2, "--", [P, X], 3),
        (3, 3, "--", [P, P], 5),
    ],
)
def test_results_add_up(
    quorum: int, replicas: int, answers: str, expected: list[Ruling], runs_wanted: int
) -> None:
    tally = Tally[int](equal_wanted=quorum, runs_wanted=replicas)
    assert rulings(tally, answers) == expected
    assert tally.runs_wanted == runs_wanted


def test_a_device_counts_once_whatever_it_says_later() -> None:
    tally = Tally[int](equal_wanted=2, runs_wanted=2)
    assert tally.add(1, "a") is P
    assert tally.add(1, "a") is P
    assert tally.add(1, "b") is P
    assert not tally.is_disputed


@pytest.mark.parametrize(
    ("answers", "expected"), [("a", P), ("ab", N), ("aba", A), ("abab", N), ("ab-", N)]
)
def test_when_nobody_else_can_be_asked_a_majority_of_what_is_here_decides_a_dispute(
    answers: str, expected: Ruling
) -> None:
    tally = Tally[int](equal_wanted=2, runs_wanted=2)
    rulings(tally, answers)
    assert tally.settle() is expected


def test_those_who_differ_from_the_majority_are_known() -> None:
    tally = Tally[int](equal_wanted=2, runs_wanted=2)
    rulings(tally, "ab-aa")
    assert (tally.agreeing(), tally.differing()) == ([0, 3, 4], [1])


@given(
    replicas=st.integers(2, 7),
    shortfall=st.integers(0, 5),
    answers=st.lists(st.sampled_from("aaab-"), min_size=40, max_size=40),
)
def test_a_task_ends_after_a_bounded_number_of_runs_and_never_by_a_minority(
    replicas: int, shortfall: int, answers: list[str]
) -> None:
    quorum = max(2, replicas - shortfall)
    quorum = min(quorum, replicas)
    tally = Tally[int](equal_wanted=quorum, runs_wanted=replicas)
    for number, answer in enumerate(answers):
        before = tally.runs_wanted
        ruling = tally.add(number, None if answer == "-" else answer)
        assert tally.runs_wanted >= before
        if ruling is not P:
            break
        assert tally.runs_wanted > len(tally.answers) or len(tally.answers) < replicas
    assert ruling is not P
    compared = Counter(one for one in tally.answers.values() if one is not None)
    incomparable_count = len(tally.answers) - compared.total()
    bound = replicas + DISPUTE_RUNS * DISPUTE_ROUNDS_MAX + incomparable_count
    assert len(tally.answers) <= bound
    if ruling is A:
        agreeing = len(tally.agreeing())
        assert agreeing >= quorum
        assert 2 * agreeing > compared.total()
        assert not set(tally.agreeing()) & set(tally.differing())
