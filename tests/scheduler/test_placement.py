"""Offers that are out: who is asked, who counts as busy, and what is remembered of refusals."""

from __future__ import annotations

from random import Random

import pytest
from support.candidates import candidate
from support.meshes import small_mesh
from support.tasks import contract_of, tasks_of

from scheduler.placement import (
    LASTING,
    PAUSED_MAX,
    PLACEMENTS_MAX,
    REFUSED_PAUSE_US,
    Placements,
    chunk_size,
    is_permanent,
)
from scheduler.selection import Candidate, Exclusion, Sampler
from telemetry.breaker import BreakerState
from wire.ids import BatchId, PeerId
from wire.messages import OfferRefusal

CONTRACT = contract_of(small_mesh(1), tasks_of(3)).body
BATCH, OTHER_BATCH = BatchId(bytes(20)), BatchId(b"o" * 20)
ONE, TWO, THREE = candidate(1), candidate(2), candidate(3)


def placements() -> Placements:
    return Placements(sampler=Sampler(rng=Random(5)))


def excluded_of(
    made: Placements, *candidates: Candidate, batch: BatchId = BATCH, now_us: int = 0
) -> dict[PeerId, Exclusion]:
    _, excluded = made.exclusions(batch, CONTRACT, candidates, now_us=now_us)
    return {peer: reason for peer, (reason, _) in excluded.items()}


def test_a_placement_is_answered_when_all_who_were_asked_have_answered() -> None:
    made = placements()
    offer, placement = made.open(BATCH, CONTRACT, (0, 1), [ONE, TWO])

    assert made.on_accepted(offer, ONE.peer, tasks_count=2, wait_us=9) is placement
    assert not placement.is_answered
    assert placement.silent == [TWO.peer]
    made.on_rejected(offer, TWO.peer, OfferRefusal.SLOTS_FULL, "", now_us=0)
    assert placement.is_answered
    assert placement.losers() == []
    best = placement.best()
    assert best is not None
    assert (best.candidate.peer, best.tasks_count) == (ONE.peer, 2)


def test_the_loser_and_the_silent_are_released_and_the_refuser_is_not() -> None:
    made = placements()
    urgent = contract_of(small_mesh(1), tasks_of(3), changes={"priority": 2}).body
    offer, placement = made.open(BATCH, urgent, (0,), [ONE, TWO, THREE])
    made.on_accepted(offer, ONE.peer, tasks_count=1, wait_us=0)
    made.on_rejected(offer, TWO.peer, OfferRefusal.STOPPING, "", now_us=0)

    assert placement.losers() == [THREE.peer]


def test_answers_of_strangers_and_answers_too_late_change_nothing() -> None:
    made = placements()
    offer, placement = made.open(BATCH, CONTRACT, (0,), [ONE])

    assert made.on_accepted(offer, TWO.peer, tasks_count=1, wait_us=0) is None
    assert made.on_rejected(offer, TWO.peer, OfferRefusal.SLOTS_FULL, "", now_us=0) is None
    assert excluded_of(made, TWO) == {}
    assert made.close(offer) is placement
    assert made.close(offer) is None
    assert made.on_accepted(offer, ONE.peer, tasks_count=1, wait_us=0) is None


def test_a_device_that_changes_its_mind_is_counted_once() -> None:
    made = placements()
    offer, placement = made.open(BATCH, CONTRACT, (0,), [ONE, TWO])
    made.on_accepted(offer, ONE.peer, tasks_count=1, wait_us=0)
    made.on_rejected(offer, ONE.peer, OfferRefusal.SLOTS_FULL, "", now_us=0)

    assert not placement.is_answered
    assert placement.best() is None
    assert made.on_accepted(offer, ONE.peer, tasks_count=1, wait_us=0) is None


@pytest.mark.parametrize("reason", OfferRefusal)
def test_a_refusal_pauses_the_device_or_stands_for_the_batch(reason: OfferRefusal) -> None:
    made = placements()
    offer, _ = made.open(BATCH, CONTRACT, (0,), [ONE])
    made.on_rejected(offer, ONE.peer, reason, "why", now_us=0)
    made.close(offer)

    later_us = 2 * REFUSED_PAUSE_US
    if reason in LASTING:
        assert excluded_of(made, ONE, now_us=later_us) == {ONE.peer: Exclusion.REFUSED}
        assert excluded_of(made, ONE, batch=OTHER_BATCH) == {}
        made.forget(BATCH)
    else:
        assert excluded_of(made, ONE, batch=OTHER_BATCH) == {ONE.peer: Exclusion.REFUSED_RECENTLY}
    assert excluded_of(made, ONE, now_us=later_us) == {}


def test_a_pause_ends_when_the_device_has_finished_something() -> None:
    made = placements()
    made.pause(ONE.peer, REFUSED_PAUSE_US, now_us=0)
    assert excluded_of(made, ONE) == {ONE.peer: Exclusion.REFUSED_RECENTLY}
    made.on_room(ONE.peer)
    assert excluded_of(made, ONE) == {}


def test_a_device_is_not_asked_for_more_than_it_has_room_for() -> None:
    made = placements()
    offers = []
    for _ in range(2):
        offer, _ = made.open(BATCH, CONTRACT, (0, 1), [ONE])
        offers.append(offer)
    assert excluded_of(made, ONE) == {ONE.peer: Exclusion.REFUSED_RECENTLY}

    made.close(offers[0])

    eligible, _ = made.exclusions(BATCH, CONTRACT, [ONE], now_us=0)
    assert [one.slots_free for one in eligible] == [2]


@pytest.mark.parametrize("slots_free", [None, 0])
def test_a_device_that_did_not_tell_its_room_is_asked_once_at_a_time(
    slots_free: int | None,
) -> None:
    made = placements()
    unknown = candidate(1, slots_free=slots_free)
    assert excluded_of(made, unknown) == {}
    made.open(BATCH, CONTRACT, (0,), [unknown])
    assert excluded_of(made, unknown) == {unknown.peer: Exclusion.REFUSED_RECENTLY}


def test_a_device_on_probation_is_offered_one_thing_at_a_time() -> None:
    made = placements()
    probed = candidate(1, breaker=BreakerState.HALF_OPEN)
    assert excluded_of(made, probed) == {}
    made.open(BATCH, CONTRACT, (0,), [probed])
    assert excluded_of(made, probed) == {probed.peer: Exclusion.BREAKER_OPEN}


def test_those_engaged_are_not_asked_again_and_those_who_failed_only_when_nobody_else_is_left() -> (
    None
):
    made = placements()
    failed = {TWO.peer: "worker_died: it crashed"}

    eligible, excluded = made.exclusions(
        BATCH, CONTRACT, [ONE, TWO, THREE], engaged=(ONE.peer,), failed_on=failed, now_us=0
    )
    assert eligible == [THREE]
    assert excluded[ONE.peer][0] is Exclusion.ENGAGED
    assert excluded[TWO.peer] == (Exclusion.FAILED_THIS_TASK, "worker_died: it crashed")

    eligible, excluded = made.exclusions(
        BATCH, CONTRACT, [ONE, TWO], engaged=(ONE.peer,), failed_on=failed, now_us=0
    )
    assert eligible == [TWO]
    assert excluded.keys() == {ONE.peer}


def test_offers_out_are_bounded() -> None:
    made = placements()
    offers = [made.open(BATCH, CONTRACT, (0,), [ONE])[0] for _ in range(PLACEMENTS_MAX)]
    assert not made.has_room
    made.close(offers[3])
    assert made.has_room


def test_pauses_that_are_over_are_forgotten() -> None:
    made = placements()
    for number in range(PAUSED_MAX):
        made.pause(PeerId(number.to_bytes(32, "big")), 1_000, now_us=0)
    made.pause(ONE.peer, 1_000, now_us=10_000)
    assert len(made._paused_until_us) == 1


@pytest.mark.parametrize(
    ("waiting", "slots", "chunk"), [(1_024, 4, 64), (100, 8, 7), (9, 8, 1), (1, 1, 1), (10, 1, 5)]
)
def test_chunks_shrink_as_fewer_tasks_wait(waiting: int, slots: int, chunk: int) -> None:
    assert chunk_size(waiting, [candidate(1, slots_total=slots)]) == chunk


def test_nobody_at_all_or_only_lasting_reasons_are_permanent() -> None:
    assert is_permanent([])
    assert is_permanent([Exclusion.NODE_TYPE, Exclusion.CAPABILITY_MISSING])
    assert not is_permanent([Exclusion.NODE_TYPE, Exclusion.NOT_LINKED])
