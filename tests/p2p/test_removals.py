"""Removals: who may sign them, what follows from a set of them, and that order does not matter."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.meshes import keys_of
from support.removing import (
    ADMIN,
    DEEPER,
    FOUNDER,
    GENESIS,
    HALL,
    KITCHEN,
    LAPTOP,
    MEMBERS,
    OTHER_ADMIN,
    Member,
    member,
    removal,
)

from p2p.removals import LONG_BYTES, LONG_MAX, REMOVAL_ROW, RemovalRow, Removals
from wire.effects import Persist, Row
from wire.ids import MeshId, PeerId
from wire.membership import PaperId, Removal, paper_id
from wire.signed import Signed

STRANGER = Member(keys_of(9), FOUNDER.chain)


def removals_of(*signed: Signed[Removal], most: int = 10_000, long_max: int = 256) -> Removals:
    removals = Removals(genesis=GENESIS, removals_max=most, long_max=long_max)
    removals.add(signed)
    return removals


def standing(removals: Removals) -> frozenset[PeerId]:
    return frozenset(
        one.peer
        for one in MEMBERS
        if not removals.is_removed(one.peer) and not removals.is_void(one.chain)
    )


def names_out(removals: Removals) -> set[PeerId]:
    return {one.peer for one in MEMBERS} - standing(removals)


# --- who may remove -------------------------------------------------------------------------


def test_a_device_that_an_admin_removed_is_out_and_the_others_stay() -> None:
    removals = removals_of(removal(HALL, OTHER_ADMIN))
    assert names_out(removals) == {HALL.peer}


@pytest.mark.parametrize(
    ("signed", "why"),
    [
        (removal(HALL, KITCHEN), "no admin"),
        (removal(HALL, STRANGER), "certificate 0 is for"),
        (removal(HALL, FOUNDER, mesh=MeshId(b"o" * 32)), "of mesh"),
        (removal(ADMIN, ADMIN), "removes itself"),
    ],
    ids=["not an admin", "papers of another", "another mesh", "itself"],
)
def test_a_removal_by_nobody_who_may_is_refused_and_changes_nothing(
    signed: Signed[Removal], why: str
) -> None:
    removals = Removals(genesis=GENESIS)
    added = removals.add([signed])
    assert why in " ".join(added.refused)
    assert (len(removals), added.news, added.effects) == (0, (), ())


def test_a_removal_by_an_admin_who_was_removed_by_a_higher_one_does_not_count() -> None:
    removals = removals_of(removal(ADMIN, FOUNDER), removal(HALL, ADMIN))
    assert HALL.peer not in names_out(removals)
    assert len(removals) == 2, "it is kept: it counts again if its signer's removal falls"


def test_a_removal_by_an_admin_whose_papers_are_void_does_not_count() -> None:
    removals = removals_of(removal(ADMIN, FOUNDER), removal(HALL, DEEPER))
    assert removals.is_void(DEEPER.chain)
    assert HALL.peer not in names_out(removals)


def test_the_removals_of_a_removed_admin_that_are_kept_by_name_count() -> None:
    hall = removal(HALL, ADMIN)
    removals = removals_of(removal(ADMIN, FOUNDER, kept=(paper_id(hall),)), hall)
    assert HALL.peer in names_out(removals)


# --- what removing an admin does ------------------------------------------------------------


def test_removing_an_admin_voids_all_that_it_signed_before_or_after() -> None:
    later = member(10, ADMIN)
    removals = removals_of(removal(ADMIN, FOUNDER))
    assert names_out(removals) == {one.peer for one in (ADMIN, DEEPER, LAPTOP, KITCHEN)}
    assert removals.is_void(later.chain)
    assert removals.voided_by(later.chain) == ADMIN.peer


def test_the_certificates_that_are_kept_by_name_stay_with_what_hangs_on_them() -> None:
    removals = removals_of(removal(ADMIN, FOUNDER, kept=(DEEPER.paper,)))
    assert names_out(removals) == {ADMIN.peer, KITCHEN.peer}


def test_a_device_whose_papers_are_void_stands_again_with_those_of_another_admin() -> None:
    removals = removals_of(removal(ADMIN, FOUNDER))
    assert not removals.is_void(member(5, OTHER_ADMIN).chain)
    assert not removals.is_removed(KITCHEN.peer)


def test_a_device_that_was_removed_itself_is_out_whatever_papers_it_gets() -> None:
    removals = removals_of(removal(KITCHEN, ADMIN))
    assert removals.is_removed(member(5, OTHER_ADMIN).peer)


def test_of_two_removals_of_an_admin_the_higher_one_says_what_stays() -> None:
    lower = removal(ADMIN, OTHER_ADMIN, kept=(KITCHEN.paper, DEEPER.paper))
    removals = removals_of(lower, removal(ADMIN, FOUNDER, kept=(KITCHEN.paper,)))
    assert DEEPER.peer in names_out(removals)
    assert KITCHEN.peer not in names_out(removals)


def test_of_two_removals_of_one_rank_both_keep_what_they_name() -> None:
    third = member(7, FOUNDER)
    one = removal(ADMIN, OTHER_ADMIN, kept=(KITCHEN.paper,))
    removals = removals_of(one, removal(ADMIN, third, kept=(DEEPER.paper,)))
    assert names_out(removals) == {ADMIN.peer}


# --- ranks ----------------------------------------------------------------------------------


def test_a_longer_chain_that_removed_a_shorter_one_is_undone_by_it() -> None:
    removals = removals_of(removal(FOUNDER, ADMIN))
    assert FOUNDER.peer in names_out(removals)
    removals.add([removal(ADMIN, FOUNDER, kept=(DEEPER.paper, KITCHEN.paper))])
    assert names_out(removals) == {ADMIN.peer}


def test_two_admins_of_one_rank_put_each_other_out() -> None:
    keeping = tuple(one.paper for one in (DEEPER, KITCHEN))
    removals = removals_of(removal(OTHER_ADMIN, ADMIN), removal(ADMIN, OTHER_ADMIN, kept=keeping))
    assert names_out(removals) == {ADMIN.peer, OTHER_ADMIN.peer}


def test_what_an_admin_signed_counts_on_where_only_its_equals_removed_it() -> None:
    hall = removal(HALL, ADMIN)
    removals = removals_of(hall, removal(ADMIN, OTHER_ADMIN))
    assert HALL.peer in names_out(removals)
    assert removals.removals_by(ADMIN.peer) == [paper_id(hall)], "a removal of it has to name this"
    removals.add([removal(ADMIN, FOUNDER)])
    assert removals.removals_by(ADMIN.peer) == []


def test_the_recovery_key_outranks_the_founder_and_nobody_undoes_it() -> None:
    every = tuple(one.paper for one in (ADMIN, OTHER_ADMIN, HALL))
    removals = removals_of(removal(ADMIN, FOUNDER), removal(FOUNDER, None, kept=every))
    assert names_out(removals) == {FOUNDER.peer}, "what the founder removed stands again"
    removals.add([removal(keys_of(200).peer, ADMIN), removal(ADMIN, FOUNDER)])
    assert names_out(removals) == {FOUNDER.peer}


# --- the order does not matter --------------------------------------------------------------

ADMINS = (FOUNDER, ADMIN, OTHER_ADMIN, DEEPER, None)
PAPERS = tuple(one.paper for one in MEMBERS)
MANY_PAPERS = tuple(PaperId(number.to_bytes(16, "big")) for number in range(LONG_BYTES // 16))


@st.composite
def some_removals(draw: st.DrawFn) -> list[Signed[Removal]]:
    count = draw(st.integers(1, 9))
    found: list[Signed[Removal]] = []
    for _ in range(count):
        by = draw(st.sampled_from(ADMINS))
        subject = draw(st.sampled_from([one for one in MEMBERS if one is not by]))
        papers: list[PaperId] = [*PAPERS, *(paper_id(signed) for signed in found)]
        kept = draw(st.lists(st.sampled_from(papers), max_size=4, unique=True))
        others = MANY_PAPERS if draw(st.booleans()) else ()
        found.append(removal(subject, by, kept=(*kept, *others)))
    return found


@settings(deadline=None)
@given(some_removals(), st.randoms(use_true_random=False), st.integers(1, 12))
def test_the_same_removals_in_any_order_leave_the_same_members_standing(
    signed: list[Signed[Removal]], rng: object, most: int
) -> None:
    shuffled = signed[:]
    rng.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    at_once = removals_of(*signed, most=most)
    one_by_one = removals_of(most=most)
    for one in shuffled + signed:
        one_by_one.add([one])
    assert standing(at_once) == standing(one_by_one)
    assert at_once.all() == one_by_one.all()
    assert at_once.state_hash == one_by_one.state_hash
    assert len(at_once) <= most + LONG_MAX


@settings(deadline=None)
@given(some_removals(), some_removals(), some_removals(), st.integers(1, 6), st.integers(0, 3))
def test_merging_is_associative_also_at_the_bounds(
    a: list[Signed[Removal]],
    b: list[Signed[Removal]],
    c: list[Signed[Removal]],
    most: int,
    long_max: int,
) -> None:
    def merged(*parts: Signed[Removal]) -> tuple[Signed[Removal], ...]:
        return removals_of(*parts, most=most, long_max=long_max).all()

    assert merged(*merged(*a, *b), *c) == merged(*a, *merged(*b, *c)) == merged(*a, *b, *c)


# --- bounds and rows ------------------------------------------------------------------------


def rows_of(persisted: object) -> tuple[Row, ...]:
    assert isinstance(persisted, Persist)
    return persisted.rows


def test_what_is_new_is_kept_as_rows_and_read_again_after_a_restart() -> None:
    signed = [removal(HALL, FOUNDER), removal(ADMIN, FOUNDER)]
    added = Removals(genesis=GENESIS).add([*signed, signed[0]])
    [persist] = added.effects
    rows = rows_of(persist)
    assert {row.key for row in rows} == {paper_id(one) for one in signed}
    assert all(row.kind == REMOVAL_ROW for row in rows)
    again = Removals(genesis=GENESIS)
    again.on_restarted([row.value for row in rows if isinstance(row.value, RemovalRow)])
    assert standing(again) == standing(removals_of(*signed))
    assert not again.add(signed).news


def test_at_the_bound_the_last_in_order_is_left_out_and_its_row_deleted() -> None:
    signed = [removal(PeerId(bytes([n]) * 32), ADMIN) for n in range(100, 120)]
    removals = removals_of(*signed[:10], most=10)
    assert removals.is_full
    outranking = removals.add([removal(HALL, None)])
    [row, deleted] = rows_of(outranking.effects[0])
    assert row.value is not None
    assert deleted.value is None
    assert len(removals) == 10
    assert removals.is_removed(HALL.peer)
    before = removals.all()
    added = removals.add([removal(HALL, DEEPER)])
    assert (added.news, added.effects, removals.all()) == ((), (), before)


def test_ids_are_listed_in_order_from_any_place() -> None:
    removals = removals_of(*(removal(one, FOUNDER) for one in MEMBERS[1:]))
    ids = list(removals.ids_after(b""))
    assert all(one < other for one, other in pairwise(ids))
    assert list(removals.ids_after(ids[2])) == ids[3:]
    assert [paper_id(signed) for signed in removals.all()] == ids
