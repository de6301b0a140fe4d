"""What another steward proposes: checked, its outputs fetched, then voted for, or learnt.

A vote for a result says that the voter holds the output, so what a majority chose outlives any
minority of the stewards. What cannot be fetched is not voted for: it comes again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from scheduler.agreement import quorum_fault
from scheduler.batch import Batch, DecisionRow
from scheduler.errors import StaleEpoch, TwoValues
from scheduler.moves import is_move, moved_to, succession_fault
from scheduler.register import Register
from scheduler.retelling import Retelling
from scheduler.stewardship import Stewardship
from scheduler.verification import result_fault, results_of
from wire.effects import Effect, Fetch, Offer, OutputCheck, Trace
from wire.events import Fetched, FetchFailed
from wire.ids import PeerId
from wire.messages import BatchUnknown, NotPromised, Proposed
from wire.signed import Signed
from wire.tasks import (
    Epoch,
    Lease,
    LeasedResult,
    OutcomeKind,
    Result,
    Steward,
    Vote,
    open_result,
    result_digest,
)

PROPOSALS_MAX = 1_000  # whose outputs are being fetched


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What waits for outputs: a row, and the epoch in which this device means to propose it.

    The same row may also have come from whoever led before: then there is no epoch.
    """

    row: bytes
    led_in: Epoch | None


@dataclass(frozen=True, slots=True)
class ProposalToken:
    """Names the fetch of one output to the host."""

    waiting: _Waiting
    index: int


# What to do about a proposal once its outputs are here, or when one cannot be had.
Then = Callable[[Batch, DecisionRow], list[Effect]]


@dataclass(slots=True)
class _Proposal:
    row: DecisionRow
    taken: Then
    lost: Then
    missing: set[int]


@dataclass(slots=True, kw_only=True)
class Proposals:
    """The proposals of other stewards, PROPOSALS_MAX at a time."""

    office: Stewardship
    register: Register
    retelling: Retelling
    _waiting: dict[_Waiting, _Proposal] = field(default_factory=dict)

    def on_proposed(self, peer: PeerId, message: Proposed) -> list[Effect]:
        """Vote for a proposal, or keep what is decided, when its outputs are here."""
        batch = self.office.batch(message.votes[0].body.batch)
        if batch is None or not batch.is_durable:
            unknown = BatchUnknown(batch=message.votes[0].body.batch)
            return self.office.send(peer, unknown) if batch is None else []
        if message.votes[0].body.epoch.move > len(batch.moves):
            return self.retelling.ask(peer, batch)  # it moved, and that was not heard here
        row, fault = self.read(batch, message)
        if row is None:
            return [Trace("proposal.refused", {"peer": peer.hex(), "reason": fault})]
        if row.is_move and row.epoch.move < len(batch.moves):
            return []  # known
        if all(batch.progress[index].decided for index in row.outcomes):
            return self.retelling.tell(peer, batch, row.outcomes) if len(row.votes) == 1 else []
        if len(row.votes) >= batch.majority_count:
            return self.fetch((peer,), batch, row, taken=self._learn)
        if message.promise is not None:
            return []  # told for another epoch to be begun
        if row.epoch.move < len(batch.moves):
            return self.retelling.tell(peer, batch, (), moves_from=row.epoch.move)
        proposer = batch.steward_of(row.epoch)
        if proposer is None or peer != proposer.peer or not batch.is_steward:
            return []  # only the steward of an epoch proposes in it
        if row.epoch < batch.acceptor.promised:
            return self._refuse(peer, batch)
        return self.fetch((peer,), batch, row, taken=self._vote)

    def fetch(
        self,
        holders: tuple[PeerId, ...],
        batch: Batch,
        row: DecisionRow,
        *,
        taken: Then,
        lost: Then = lambda _, __: [],
        led_in: Epoch | None = None,
    ) -> list[Effect]:
        """Have the outputs of a proposal here, and then call `taken`, or `lost` without one.

        `led_in` is the epoch in which this device is to propose it again.
        """
        waiting = _Waiting(row.key, led_in)
        if waiting in self._waiting:
            self._waiting[waiting].row = row  # it may have more votes now
            return []
        if len(self._waiting) >= PROPOSALS_MAX:
            return lost(batch, row)
        effects: list[Effect] = []
        lease = row.lease
        results = [] if lease is None else results_of(row.results.values(), lease.body)
        proposal = _Proposal(row, taken, lost, {result.index for _, result in results})
        if not proposal.missing:
            return taken(batch, row)
        self._waiting[waiting] = proposal
        for _, result in results:
            sources = tuple(dict.fromkeys((*holders, result.executor)))
            effects.append(
                Fetch(
                    content=result.output,
                    sources=sources,
                    token=ProposalToken(waiting, result.index),
                    check=OutputCheck(
                        box=batch.own_key(self.office.own),
                        index=result.index,
                        digest=result.output_digest,
                    ),
                )
            )
        return effects

    def on_fetched(self, fetched: Fetched) -> list[Effect]:
        """An output is here."""
        proposal = self._of(fetched.token)
        if proposal is None or not isinstance(fetched.token, ProposalToken):
            return []
        proposal.missing.discard(fetched.token.index)
        if proposal.missing:
            return []
        row = self._waiting.pop(fetched.token.waiting).row
        batch = self.office.batch(row.batch)
        if batch is None:
            return []
        outputs = (open_result(proven) for proven in row.results.values())
        kept: list[Effect] = [
            Offer(one.output.blob, batch.batch) for one in outputs if one.output.blob is not None
        ]
        return kept + proposal.taken(batch, row)

    def on_fetch_failed(self, failed: FetchFailed) -> list[Effect]:
        """An output is not to be had now: the proposal comes again."""
        if self._of(failed.token) is None or not isinstance(failed.token, ProposalToken):
            return []
        proposal = self._waiting.pop(failed.token.waiting)
        batch = self.office.batch(proposal.row.batch)
        fields = {"batch": proposal.row.batch.hex(), "reason": failed.reason}
        effects: list[Effect] = [Trace("proposal.without_output", {**fields})]
        return effects if batch is None else effects + proposal.lost(batch, proposal.row)

    def _refuse(self, peer: PeerId, batch: Batch) -> list[Effect]:
        refused = NotPromised(batch=batch.batch, promised=batch.acceptor.promised)
        return self.office.send(peer, refused)

    def _vote(self, batch: Batch, row: DecisionRow) -> list[Effect]:
        try:
            return self.register.vote_for(batch, row)
        except StaleEpoch:
            proposer = batch.steward_of(row.epoch)
            return [] if proposer is None else self._refuse(proposer.peer, batch)
        except TwoValues as conflict:
            return [Trace("steward.two_values", {"conflict": str(conflict)})]

    def _learn(self, batch: Batch, row: DecisionRow) -> list[Effect]:
        return self.register.learn(row)

    def read(self, batch: Batch, message: Proposed) -> tuple[DecisionRow | None, str]:
        """Return the row of a proposal that keeps to the contract, or what is wrong with it."""
        first = message.votes[0].body
        if not all(_agrees(vote.body, first) for vote in message.votes):
            return None, "its votes differ"
        if first.epoch.move >= len(batch.steward_sets):
            return None, "a move that is not known here"
        stewards = batch.steward_sets[first.epoch.move]
        named = {Steward(vote.signer, vote.body.store) for vote in message.votes}
        if not named <= set(stewards) or len(named) != len(message.votes):
            return None, "a vote of somebody else"
        if first.epoch.rank >= len(stewards) or max(first.outcomes) >= len(batch.progress):
            return None, "no such steward or task"
        move = moved_to(message.stewards)
        if is_move(first) and (
            any(outcome != move for outcome in first.outcomes.values())
            or succession_fault(stewards, message.stewards) is not None
        ):
            return None, "no move of this batch"
        wanted = {
            index: outcome.result
            for index, outcome in first.outcomes.items()
            if outcome.kind is OutcomeKind.RESULT
        }
        lease = message.lease
        if lease is None:
            found = []
        elif lease.body.batch != batch.batch or not _is_named_lease(lease, message, batch):
            return None, "its lease is not of this batch"
        else:
            found = results_of(message.results, lease.body)
        for _, result in found:
            fault = result_fault(result, batch.contract.body, may=self.office.may)
            if fault is not None and len(message.votes) < batch.majority_count:
                return None, fault
        results = {result.index: proven for proven, result in found}
        digests = {index: result_digest(proven.received) for index, proven in results.items()}
        if digests != wanted:
            return None, "its results are not those voted for"
        agreeing = _agreeing(message, {result.index: result for _, result in found}, batch)
        if agreeing is None:
            return None, "its results have no quorum"
        row = DecisionRow(
            votes=message.votes,
            lease=lease,
            results=results,
            chains=message.chains,
            decided_wall_us=self.office.wall_us(),
            agreeing=agreeing,
            stewards=message.stewards if is_move(first) else (),
        )
        return row, ""

    def _of(self, token: Hashable) -> _Proposal | None:
        return self._waiting.get(token.waiting) if isinstance(token, ProposalToken) else None


def _agrees(vote: Vote, first: Vote) -> bool:
    names = (vote.batch, vote.epoch, vote.outcomes)
    return names == (first.batch, first.epoch, first.outcomes)


def _is_named_lease(lease: Signed[Lease], message: Proposed, batch: Batch) -> bool:
    """Say whether a steward gave the lease, at the epoch of the votes or before."""
    if lease.body.epoch > message.votes[0].body.epoch:
        return False
    return batch.steward_of(lease.body.epoch) == Steward(lease.signer, lease.body.store)


def _agreeing(
    message: Proposed, results: dict[int, Result], batch: Batch
) -> dict[int, tuple[LeasedResult, ...]] | None:
    """Return the equal results of others by task; None if they make no quorum."""
    agreeing: dict[int, list[LeasedResult]] = {index: [] for index in results}
    opened: dict[int, list[Result]] = {index: [] for index in results}
    for one in message.agreeing:
        lease = one.lease.body
        if lease.batch != batch.batch or not _is_named_lease(one.lease, message, batch):
            return None
        for _, result in results_of((one.result,), lease):
            if result.index in agreeing:
                agreeing[result.index].append(one)
                opened[result.index].append(result)
    quorum = batch.contract.body.quorum
    for index, result in results.items():
        if quorum_fault(result, opened[index], quorum=quorum) is not None:
            return None
    return {index: tuple(others) for index, others in agreeing.items() if others}
