"""Who keeps a batch after each move: proven by the votes of a majority of those before.

A vote for a move names nothing but that move, for every task that was open. So the first stewards
are those of the contract, and each later set is what a majority of the one before it decided.
"""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.errors import MoveNotProven
from wire.ids import BatchId
from wire.signed import Signed
from wire.tasks import (
    Contract,
    Move,
    Outcome,
    OutcomeKind,
    Steward,
    Vote,
    batch_id_of,
    stewards_digest,
)

Stewards = tuple[Steward, ...]


def majority_of(stewards: Stewards) -> int:
    """Return how many of them decide."""
    return len(stewards) // 2 + 1


def moved_to(stewards: Stewards) -> Outcome:
    """Return what is voted for where these are to decide from now on."""
    return Outcome(kind=OutcomeKind.MOVED, result=stewards_digest(stewards))


def is_move(vote: Vote) -> bool:
    """Say whether a vote is for a move, at least for some tasks."""
    return any(outcome.kind is OutcomeKind.MOVED for outcome in vote.outcomes.values())


def steward_sets(contract: Signed[Contract], moves: Iterable[Move]) -> list[Stewards]:
    """Return the stewards before and after each move, in order. Raises MoveNotProven."""
    batch, sets = batch_id_of(contract), [contract.body.stewards]
    for move in moves:
        fault = _fault(move, batch, sets)
        if fault is not None:
            raise MoveNotProven(f"move {len(sets)}: {fault}")
        sets.append(move.stewards)
    return sets


def succession_fault(before: Stewards, after: Stewards) -> str | None:
    """Return why stewards cannot be followed by others, None if they can."""
    if len(before) == 1:
        return "who keeps a batch alone is not replaced"
    if len(after) != len(before) or len({one.peer for one in after}) != len(after):
        return f"{len(before)} stewards are followed by as many others"
    # So those who decided it and those who decide from now on have one in common.
    if len(set(before) & set(after)) < majority_of(before):
        return "a majority stays"
    return None


def _fault(move: Move, batch: BatchId, sets: list[Stewards]) -> str | None:
    before, first = sets[-1], move.votes[0].body
    wanted = moved_to(move.stewards)
    voters = {Steward(vote.signer, vote.body.store) for vote in move.votes}
    named = (batch, first.epoch, first.outcomes)
    rules = (
        (first.epoch.move != len(sets) - 1, "votes of another move"),
        (not voters <= set(before), "a vote of somebody else"),
        (len(voters) != len(move.votes), "one steward's vote is counted twice"),
        (len(voters) < majority_of(before), f"{len(voters)} votes are no majority"),
        (
            any((one.body.batch, one.body.epoch, one.body.outcomes) != named for one in move.votes),
            "the votes differ",
        ),
        (
            any(outcome != wanted for outcome in first.outcomes.values()),
            "the votes are not for these stewards",
        ),
    )
    fault = next((text for applies, text in rules if applies), None)
    return succession_fault(before, move.stewards) if fault is None else fault
