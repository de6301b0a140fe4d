"""What the votes of a run add up to: at most one outcome for each task, however it is told.

Only votes that were durable or told count: one that was lost with an unsynced write never was.
"""

from __future__ import annotations

from collections.abc import Callable

from scheduler.moves import Stewards, majority_of
from simulations.errors import InvariantBroken
from wire.ids import BatchId, Digest, PeerId
from wire.signed import Signed
from wire.tasks import (
    Contract,
    Epoch,
    Outcome,
    OutcomeKind,
    Steward,
    Vote,
    batch_id_of,
    stewards_digest,
)


class Register:
    """The outcomes of all tasks of a run, as an onlooker who forgets nothing counts them."""

    def __init__(
        self,
        is_liar: Callable[[PeerId], bool] = lambda _: False,
        now_us: Callable[[], int] = lambda: 0,
        on_decided: Callable[[BatchId, int, Outcome], None] = lambda *_: None,
    ) -> None:
        self.outcomes: dict[tuple[BatchId, int], Outcome] = {}
        self.decided_us: dict[tuple[BatchId, int], int] = {}
        self._decided_in: dict[tuple[BatchId, int], int] = {}  # after how many moves
        self._is_liar = is_liar
        self._now_us = now_us
        self.on_decided = on_decided
        self._contracts: dict[BatchId, Contract] = {}
        self._named: dict[Digest, Stewards] = {}
        self._sets: dict[BatchId, list[Stewards]] = {}  # by move
        self._moved: dict[tuple[BatchId, int, int], Outcome] = {}  # by batch, index and move
        self._votes: dict[tuple[BatchId, int, Epoch], dict[PeerId, Outcome]] = {}

    def add_contract(self, contract: Signed[Contract]) -> None:
        """Learn who the stewards of a batch are."""
        self._contracts[batch_id_of(contract)] = contract.body

    def add_stewards(self, stewards: Stewards) -> None:
        """Learn whom votes for a move mean by a digest."""
        self._named[stewards_digest(stewards)] = stewards

    def add_vote(self, vote: Signed[Vote]) -> None:
        """Count a vote. Raises InvariantBroken for a second value of a voter or of a task.

        What liars sign binds nobody: their votes are not counted.
        """
        if self._is_liar(vote.signer):
            return
        body = vote.body
        contract = self._contracts.get(body.batch)
        if contract is None:
            raise InvariantBroken(f"S1: a vote for {body.batch.hex()}, whose contract nobody kept")
        sets = self._sets.setdefault(body.batch, [contract.stewards])
        if body.epoch.move >= len(sets):
            if self.has_lying_steward(body.batch):
                return  # whose votes decide, and are not counted here
            raise InvariantBroken(f"S8: {vote.signer.hex()} votes after a move that nobody decided")
        stewards = sets[body.epoch.move]
        if Steward(vote.signer, body.store) not in stewards:
            raise InvariantBroken(f"S8: {vote.signer.hex()} voted and is no steward of its store")
        for index, outcome in body.outcomes.items():
            if body.epoch.move and (body.batch, index, body.epoch.move - 1) not in self._moved:
                raise InvariantBroken(f"S8: {vote.signer.hex()} votes on what did not move to it")
            ballot = self._votes.setdefault((body.batch, index, body.epoch), {})
            if ballot.setdefault(vote.signer, outcome) != outcome:
                raise InvariantBroken(
                    f"S8: {vote.signer.hex()} voted twice on {body.batch.hex()}.{index}"
                    f" in {body.epoch}: {ballot[vote.signer]} and {outcome}"
                )
            if sum(value == outcome for value in ballot.values()) < majority_of(stewards):
                continue
            if outcome.kind is OutcomeKind.MOVED:
                self._move(body.batch, index, body.epoch.move, outcome)
            else:
                self._decide(body.batch, index, outcome, move=body.epoch.move)

    def has_counted(self, vote: Signed[Vote]) -> bool:
        """Say whether a vote was given before, whoever keeps it again now."""
        body = vote.body
        return all(
            self._votes.get((body.batch, index, body.epoch), {}).get(vote.signer) == outcome
            for index, outcome in body.outcomes.items()
        )

    def stewards(self, batch: BatchId) -> Stewards:
        """Return the stewards that a batch has now."""
        return self._sets.get(batch, [self._contracts[batch].stewards])[-1]

    def quorum(self, batch: BatchId) -> int:
        """Return how many equal results its contract wants."""
        return self._contracts[batch].quorum

    def stewards_count(self, batch: BatchId) -> int:
        """Return how many they are."""
        return len(self._contracts[batch].stewards)

    def is_kept(self, batch: BatchId, stores: set[Steward]) -> bool:
        """Say whether a majority of a batch's stewards is among `stores`."""
        stewards = self.stewards(batch)
        return len(stores & set(stewards)) >= majority_of(stewards)

    def has_lying_steward(self, batch: BatchId) -> bool:
        """Say whether a vote may decide that is not counted."""
        contract = self._contracts.get(batch)
        if contract is None:
            return False
        sets = self._sets.get(batch, [contract.stewards])
        return any(self._is_liar(one.peer) for stewards in sets for one in stewards)

    def _move(self, batch: BatchId, index: int, move: int, outcome: Outcome) -> None:
        """S2: a task moves once from its stewards, to those that its whole batch moves to."""
        stewards = self._named.get(outcome.result or Digest(b""))
        if stewards is None:
            raise InvariantBroken(f"S2: {batch.hex()}.{index} moves to nobody knows whom")
        if self._moved.setdefault((batch, index, move), outcome) != outcome:
            raise InvariantBroken(f"S2: {batch.hex()}.{index} moves to two sets of stewards")
        sets = self._sets[batch]
        if len(sets) == move + 1:
            sets.append(stewards)
        if sets[move + 1] != stewards:
            raise InvariantBroken(f"S2: tasks of {batch.hex()} move to different stewards")
        if self._decided_in.get((batch, index), move + 1) <= move:
            raise InvariantBroken(f"S2: {batch.hex()}.{index} is decided, and moves")

    def _decide(self, batch: BatchId, index: int, outcome: Outcome, *, move: int) -> None:
        if (batch, index, move) in self._moved:
            raise InvariantBroken(f"S2: {batch.hex()}.{index} moved, and {outcome} is decided")
        self._decided_in.setdefault((batch, index), move)
        first = self.outcomes.get((batch, index))
        if first is None:
            self.outcomes[batch, index] = outcome
            self.decided_us[batch, index] = self._now_us()
            self.on_decided(batch, index, outcome)
        elif first != outcome:
            raise InvariantBroken(f"S2: {batch.hex()}.{index} is {first} and {outcome}")
