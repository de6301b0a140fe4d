"""An onlooker who counts all votes notices a second outcome and whoever voted twice."""

from __future__ import annotations

import pytest
from support.tasks import finished_task, vote_of

from simulations.errors import InvariantBroken
from simulations.register import Register
from wire.ids import StoreId
from wire.tasks import Epoch, Outcome, OutcomeKind, batch_id_of

TASK = finished_task(stewards_count=3)
STEWARDS = TASK.mesh.devices[:3]
BATCH = batch_id_of(TASK.contract)
FIRST, SECOND = Epoch(0, 1, 0), Epoch(0, 2, 1)
CANCELLED = Outcome(kind=OutcomeKind.CANCELLED, reason="cancelled")
FAILED = Outcome(kind=OutcomeKind.FAILED, reason="too late")


def register() -> Register:
    counting = Register()
    counting.add_contract(TASK.contract)
    return counting


def test_a_majority_in_one_epoch_decides_and_not_before() -> None:
    counting = register()
    counting.add_vote(vote_of(TASK.contract, {0: CANCELLED}, steward=STEWARDS[0], epoch=FIRST))
    counting.add_vote(vote_of(TASK.contract, {0: CANCELLED}, steward=STEWARDS[1], epoch=SECOND))
    assert counting.outcomes == {}
    counting.add_vote(vote_of(TASK.contract, {0: CANCELLED}, steward=STEWARDS[2], epoch=FIRST))
    assert counting.outcomes == {(BATCH, 0): CANCELLED}


def test_a_second_outcome_in_a_later_epoch_breaks_s2() -> None:
    counting = register()
    for steward in STEWARDS[:2]:
        counting.add_vote(vote_of(TASK.contract, {0: CANCELLED}, steward=steward, epoch=FIRST))
    counting.add_vote(vote_of(TASK.contract, {0: FAILED}, steward=STEWARDS[2], epoch=SECOND))
    with pytest.raises(InvariantBroken, match=r"^S2"):
        counting.add_vote(vote_of(TASK.contract, {0: FAILED}, steward=STEWARDS[1], epoch=SECOND))


def test_two_values_of_one_voter_in_one_epoch_break_s8_and_the_same_value_does_not() -> None:
    counting = register()
    vote = vote_of(TASK.contract, {0: CANCELLED}, steward=STEWARDS[0], epoch=FIRST)
    counting.add_vote(vote)
    counting.add_vote(vote)
    with pytest.raises(InvariantBroken, match=r"^S8: .* voted twice"):
        counting.add_vote(vote_of(TASK.contract, {0: FAILED}, steward=STEWARDS[0], epoch=FIRST))


def test_a_vote_under_a_store_that_the_contract_does_not_name_breaks_s8() -> None:
    stranger = vote_of(
        TASK.contract,
        {0: CANCELLED},
        steward=STEWARDS[0],
        changes={"store": StoreId(b"another store id")},
    )
    with pytest.raises(InvariantBroken, match=r"^S8: .* no steward of its store"):
        register().add_vote(stranger)


def test_a_vote_on_a_batch_that_nobody_kept_breaks_s1() -> None:
    vote = vote_of(TASK.contract, {0: CANCELLED}, steward=STEWARDS[0])
    with pytest.raises(InvariantBroken, match=r"^S1"):
        Register().add_vote(vote)
