"""What follows from who observes whom, and who is not heard."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.directory import Directory
from p2p.verdicts import ALIVE, UNOBSERVED_US_MAX, Liveliness, Verdicts
from wire.ids import PeerId
from wire.records import Watch


@dataclass
class Member:
    """As much of a directory's member as a verdict reads."""

    peer: PeerId
    watch: Watch | None = None
    has_left: bool = False


@dataclass
class Roster:
    """As much of a directory as a verdict reads."""

    members: dict[PeerId, Member] = field(default_factory=dict)
    watch_revision: int = 0

    def __iter__(self) -> object:
        return iter(list(self.members.values()))

    def get(self, peer: PeerId) -> Member | None:
        return self.members.get(peer)


def peer_of(number: int) -> PeerId:
    return PeerId(bytes([number]) * 32)


class Bench:
    """Devices by number; 0 judges."""

    def __init__(self, count: int = 10) -> None:
        self.roster = Roster({peer_of(n): Member(peer_of(n)) for n in range(count)})
        self.linked: set[PeerId] = set()
        self.now_us = 1_000_000
        self.verdicts = Verdicts(
            own=peer_of(0),
            directory=cast(Directory, self.roster),
            is_linked=self.linked.__contains__,
        )

    def says(self, number: int, *, observers: list[int], silent: list[int] | None = None) -> None:
        self.roster.members[peer_of(number)].watch = Watch(
            observers=tuple(map(peer_of, observers)), silent=tuple(map(peer_of, silent or []))
        )
        self.roster.watch_revision += 1

    def leaves(self, number: int) -> None:
        self.roster.members[peer_of(number)].has_left = True
        self.roster.watch_revision += 1

    def states(self) -> dict[int, str]:
        """Return all who are not alive."""
        judged = self.verdicts.judged(now_us=self.now_us)
        return {peer[0]: str(verdict.state) for peer, verdict in judged.items()}


def ring_of(bench: Bench, count: int, *, observers_count: int) -> None:
    """Let each be observed by those that follow."""
    for number in range(count):
        observers = [(number + step) % count for step in range(1, observers_count + 1)]
        bench.says(number, observers=observers)


def test_three_of_its_observers_kill_and_fewer_make_it_degraded() -> None:
    bench = Bench()
    ring_of(bench, 10, observers_count=6)
    assert bench.states() == {}
    for accuser, state in ((2, "degraded"), (3, "degraded"), (4, "dead")):
        bench.says(accuser, observers=[accuser + 1, accuser + 2], silent=[1])
        assert bench.states() == {1: state}
    assert bench.verdicts.of(peer_of(1), now_us=0).reason == "not heard by 3 of its 6 observers"
    assert bench.verdicts.of(peer_of(2), now_us=0) is ALIVE
    assert peer_of(1) in bench.verdicts.dead(now_us=0)


def test_others_than_its_observers_cannot_accuse_a_device() -> None:
    bench = Bench()
    ring_of(bench, 10, observers_count=2)
    for stranger in (5, 6, 7, 8):
        bench.says(stranger, observers=[9, 0], silent=[1])
    assert bench.states() == {}


def test_a_device_with_two_observers_dies_by_the_word_of_both() -> None:
    bench = Bench(4)
    ring_of(bench, 4, observers_count=2)
    bench.says(2, observers=[3, 0], silent=[1])
    assert bench.states() == {1: "degraded"}
    bench.says(3, observers=[0, 1], silent=[1])
    assert bench.states() == {1: "dead"}


@pytest.mark.parametrize(
    ("number", "observers", "state"), [(1, [5, 6, 7], None), (4, [5, 6], "degraded")]
)
def test_it_lives_again_when_it_names_others_or_an_accusation_is_taken_back(
    number: int, observers: list[int], state: str | None
) -> None:
    bench = Bench()
    ring_of(bench, 10, observers_count=3)
    for accuser in (2, 3, 4):
        bench.says(accuser, observers=[accuser + 1, accuser + 2], silent=[1])
    assert bench.states()[1] == "dead"
    bench.says(number, observers=observers)
    assert bench.states().get(1) == state


def test_an_island_learns_of_the_death_of_all_beyond() -> None:
    bench = Bench(6)
    island, beyond = [0, 1, 2], [3, 4, 5]
    for number in range(6):
        others = [one for one in range(6) if one != number]
        bench.says(number, observers=others, silent=beyond if number in island else [])
    assert bench.states() == dict.fromkeys(beyond, "dead")


def test_alone_this_device_believes_itself() -> None:
    bench = Bench(3)
    bench.says(0, observers=[], silent=[1, 2])
    bench.says(1, observers=[0, 2])
    bench.says(2, observers=[0, 1])
    assert bench.states() == {1: "dead", 2: "dead"}


def test_who_hears_nobody_kills_nobody_for_others() -> None:
    bench = Bench()
    ring_of(bench, 10, observers_count=4)
    half_cut = 5
    bench.says(half_cut, observers=[6, 7, 8, 9], silent=[1, 2, 3, 4])
    assert bench.states() == dict.fromkeys((1, 2, 3, 4), "degraded")


def test_the_dead_and_those_who_left_are_not_waited_for() -> None:
    bench = Bench()
    ring_of(bench, 10, observers_count=3)
    bench.says(1, observers=[2, 3, 4], silent=[])
    bench.says(2, observers=[3, 4, 5], silent=[1])
    assert bench.states()[1] == "degraded"
    bench.leaves(3)
    bench.says(4, observers=[5, 6, 7])
    assert bench.states()[1] == "degraded", "4 may still speak"
    bench.leaves(4)
    assert bench.states()[1] == "dead"
    assert 3 not in bench.states(), "who left is not dead"


def test_a_device_whose_observers_are_all_gone_is_dead_after_a_while_and_back_with_them() -> None:
    bench = Bench()
    ring_of(bench, 10, observers_count=3)
    bench.says(1, observers=[2])
    bench.leaves(2)
    assert bench.states() == {}
    bench.now_us += UNOBSERVED_US_MAX - 1
    assert bench.states() == {}
    bench.now_us += 1
    assert bench.states() == {1: "dead"}
    assert bench.verdicts.of(peer_of(1), now_us=bench.now_us).reason == (
        "nobody who observed it is left"
    )
    bench.says(1, observers=[3])
    assert bench.states() == {}


def test_a_link_is_as_good_as_an_observer_for_a_device_that_has_none_left() -> None:
    bench = Bench()
    ring_of(bench, 10, observers_count=3)
    bench.says(1, observers=[2])
    bench.leaves(2)
    bench.linked.add(peer_of(1))
    bench.states()
    bench.now_us += 2 * UNOBSERVED_US_MAX
    assert bench.states() == {}
    bench.linked.clear()
    bench.verdicts.on_links_changed()
    assert bench.states() == {}
    bench.now_us += UNOBSERVED_US_MAX
    assert bench.states() == {1: "dead"}
    bench.linked.add(peer_of(1))
    bench.verdicts.on_links_changed()
    assert bench.states() == {}


def test_this_device_never_judges_itself() -> None:
    bench = Bench()
    ring_of(bench, 10, observers_count=3)
    for accuser in (1, 2, 3):
        bench.says(accuser, observers=[4, 5], silent=[0])
    assert bench.states() == {}


WATCHES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 7), max_size=6, unique=True),
        st.lists(st.integers(0, 7), max_size=6, unique=True),
    ),
    min_size=8,
    max_size=8,
)


@given(WATCHES, st.permutations(range(8)))
def test_a_verdict_does_not_depend_on_the_order_of_what_was_heard(
    watches: list[tuple[list[int], list[int]]], order: list[int]
) -> None:
    first, second = Bench(8), Bench(8)
    for number in range(8):
        observers, silent = watches[number]
        first.says(number, observers=observers, silent=silent)
        first.states()
    for number in order:
        observers, silent = watches[number]
        second.says(number, observers=observers, silent=silent)
    for bench in (first, second):
        bench.states()
        bench.now_us += 10 * UNOBSERVED_US_MAX
        bench.roster.watch_revision += 1
    dead = {number for number, state in first.states().items() if state == Liveliness.DEAD}
    assert dead == {number for number, state in second.states().items() if state == "dead"}


@pytest.mark.parametrize("accused", range(1, 8))
def test_one_more_accusation_never_revives_anybody(accused: int) -> None:
    bench = Bench(8)
    ring_of(bench, 8, observers_count=4)
    dead_before: set[int] = set()
    for accuser in range(1, 8):
        observers = [(accuser + step) % 8 for step in range(1, 5)]
        bench.says(accuser, observers=observers, silent=sorted({accused, (accuser + 7) % 8}))
        dead = {number for number, state in bench.states().items() if state == "dead"}
        assert dead_before <= dead
        dead_before = dead


def test_a_verdict_is_told_when_it_changes_and_not_again() -> None:
    bench = Bench()
    ring_of(bench, 10, observers_count=6)

    def told() -> list[tuple[int, str]]:
        changes = bench.verdicts.changes(now_us=bench.now_us)
        return [(peer[0], str(verdict.state)) for peer, verdict in changes]

    assert told() == []
    bench.says(2, observers=[3], silent=[1])
    assert told() == [(1, "degraded")]
    bench.says(3, observers=[4], silent=[1])
    assert told() == []
    bench.says(4, observers=[5], silent=[1])
    assert told() == [(1, "dead")]
    bench.says(1, observers=[5, 6])
    assert told() == [(1, "alive")]
    assert told() == []
