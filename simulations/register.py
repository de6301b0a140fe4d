"""What the votes of a run add up to: at most one outcome for each task, however it is told.

Only votes that were durable or told count: one that was lost with an unsynced write never was.
"""

from __future__ import annotations

from collections.abc import Callable

from simulations.errors import InvariantBroken
from wire.ids import BatchId, PeerId
from wire.signed import Signed
from wire.tasks import Contract, Epoch, Outcome, Steward, Vote, batch_id_of, majority_count


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
        self._is_liar = is_liar
        self._now_us = now_us
        self.on_decided = on_decided
        self._contracts: dict[BatchId, Contract] = {}
        self._votes: dict[tuple[BatchId, int, Epoch], dict[PeerId, Outcome]] = {}

    def add_contract(self, contract: Signed[Contract]) -> None:
        """Learn who the stewards of a batch are."""
        self._contracts[batch_id_of(contract)] = contract.body

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
        if Steward(vote.signer, body.store) not in contract.stewards:
            raise InvariantBroken(f"S8: {vote.signer.hex()} voted and is no steward of its store")
        for index, outcome in body.outcomes.items():
            ballot = self._votes.setdefault((body.batch, index, body.epoch), {})
            if ballot.setdefault(vote.signer, outcome) != outcome:
                raise InvariantBroken(
                    f"S8: {vote.signer.hex()} voted twice on {body.batch.hex()}.{index}"
                    f" in {body.epoch}: {ballot[vote.signer]} and {outcome}"
                )
            if sum(value == outcome for value in ballot.values()) >= majority_count(contract):
                self._decide(body.batch, index, outcome)

    def stewards(self, batch: BatchId) -> tuple[Steward, ...]:
        """Return the stewards that a batch's contract names."""
        return self._contracts[batch].stewards

    def quorum(self, batch: BatchId) -> int:
        """Return how many equal results its contract wants."""
        return self._contracts[batch].quorum

    def stewards_count(self, batch: BatchId) -> int:
        """Return how many they are."""
        return len(self._contracts[batch].stewards)

    def is_kept(self, batch: BatchId, stores: set[Steward]) -> bool:
        """Say whether a majority of a batch's stewards is among `stores`."""
        contract = self._contracts[batch]
        return len(stores & set(contract.stewards)) >= majority_count(contract)

    def has_lying_steward(self, batch: BatchId) -> bool:
        """Say whether a vote may decide that is not counted."""
        contract = self._contracts.get(batch)
        return contract is not None and any(self._is_liar(one.peer) for one in contract.stewards)

    def _decide(self, batch: BatchId, index: int, outcome: Outcome) -> None:
        first = self.outcomes.get((batch, index))
        if first is None:
            self.outcomes[batch, index] = outcome
            self.decided_us[batch, index] = self._now_us()
            self.on_decided(batch, index, outcome)
        elif first != outcome:
            raise InvariantBroken(f"S2: {batch.hex()}.{index} is {first} and {outcome}")
