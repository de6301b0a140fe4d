"""The outcome register: each task's outcome, written once, durable before it is told.

The rules are those of `scheduler.paxos`. Here they meet the disk and the other stewards: a vote is
durable before it is told, an outcome before anybody hears that it stands. What was proposed is told
again until a majority has voted. Two values of one steward for one task in one epoch would convict
it, so a task that has an outcome, or one on its way, is never proposed again in that epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import TypeAlias

from msgspec.structs import replace

from scheduler.batch import DECISION_ROW, Batch, DecisionRow, decision_key
from scheduler.moves import Stewards, moved_to
from scheduler.paxos import Ballot
from scheduler.stewardship import Stewardship
from wire.effects import Effect, Persist, Row, SetTimer
from wire.ids import BatchId, PeerId
from wire.messages import Proposed, Voted
from wire.signed import Signed, sign
from wire.tasks import (
    Epoch,
    Lease,
    LeasedResult,
    Outcome,
    OutcomeKind,
    ProvenResult,
    Steward,
    Vote,
    result_digest,
)

# A vote is decoded with at most 512 KiB, and each reason may be 1 KiB long.
VOTE_OUTCOMES_MAX = 256
REASON_CHARACTERS_MAX = 256
PROPOSAL_BYTES_MAX = 512 * 1024  # of results: a frame holds votes and chains beside them
PROPOSAL_RETRY_FIRST_US = 1_000_000
PROPOSAL_RETRY_MAX_US = 30_000_000

Agreeing: TypeAlias = Mapping[int, tuple[LeasedResult, ...]]
_NOBODY: Agreeing = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class DecisionDurable:
    """Timer of no delay: votes or outcomes are durable, so they may be told."""

    key: bytes


@dataclass(frozen=True, slots=True)
class ProposalRetry:
    """Timer: ask those again who have not voted."""

    batch: BatchId
    key: bytes


@dataclass(slots=True, kw_only=True)
class Register:
    """Votes, and what waits for the disk or for a majority."""

    office: Stewardship
    _writing: dict[bytes, DecisionRow] = field(default_factory=dict)
    _to_write: dict[bytes, DecisionRow] = field(default_factory=dict)  # after what is being written
    # What was voted for here and has no majority yet: by batch, then by key.
    _voted: dict[BatchId, dict[bytes, DecisionRow]] = field(default_factory=dict)
    _retry_us: dict[bytes, int] = field(default_factory=dict)  # of what was proposed here

    # --- proposing --------------------------------------------------------------------------

    def choose(
        self,
        batch: Batch,
        lease: Signed[Lease],
        results: dict[int, ProvenResult],
        agreeing: Agreeing = _NOBODY,
        reasons: Mapping[int, str] = MappingProxyType({}),
    ) -> list[Effect]:
        """Propose results of one lease, with equal ones of others, the same others for all."""
        effects: list[Effect] = []
        for part in _parts_by_bytes(results, agreeing, batch):
            outcomes = {
                index: Outcome(
                    kind=OutcomeKind.RESULT,
                    result=result_digest(one.received),
                    reason=reasons.get(index, ""),
                )
                for index, one in part.items()
            }
            effects += self._propose(batch, outcomes, part, lease, agreeing)
        return effects

    def close(self, batch: Batch, kind: OutcomeKind, reasons: dict[int, str]) -> list[Effect]:
        """Propose that tasks end without a result."""
        outcomes = {
            index: Outcome(kind=kind, reason=text[:REASON_CHARACTERS_MAX])
            for index, text in reasons.items()
            if batch.progress[index].is_open
        }
        effects: list[Effect] = []
        for part in _parts(outcomes):
            effects += self._propose(batch, part, {}, None)
        return effects

    def propose_again(self, batch: Batch, row: DecisionRow, indices: Iterable[int]) -> list[Effect]:
        """Propose in this epoch what may have been chosen in one before."""
        outcomes = {
            index: row.outcomes[index] for index in indices if batch.progress[index].decided is None
        }
        results = {index: one for index, one in row.results.items() if index in outcomes}
        if not outcomes:
            return []
        return self._propose(batch, outcomes, results, row.lease, row.agreeing, row.stewards)

    def move(self, batch: Batch, stewards: Stewards) -> list[Effect]:
        """Propose that others decide all that is open. One vote names all of it, or none.

        So tasks of one batch never move to different stewards.
        """
        outcomes = dict.fromkeys(batch.open_indices(), moved_to(stewards))
        return self._propose(batch, outcomes, {}, None, stewards=stewards)

    # --- voting -----------------------------------------------------------------------------

    def vote_for(self, batch: Batch, proposal: DecisionRow) -> list[Effect]:
        """Vote for another steward's proposal, whose outputs are here. Raises StaleEpoch."""
        batch.acceptor.vote(proposal.epoch, proposal.outcomes)
        own = self._own_vote(batch, proposal.epoch, proposal.outcomes)
        votes = {vote.signer: vote for vote in (*proposal.votes, own)}
        return self._write(replace(proposal, votes=tuple(votes.values())))

    def learn(self, decision: DecisionRow) -> list[Effect]:
        """Keep what a majority has voted for."""
        return self._write(decision)

    def on_restarted(self, batch: Batch, rows: list[DecisionRow]) -> None:
        """Take up the votes of before that did not decide."""
        own = self.office.own
        for row in rows:
            if row.epoch.move < len(batch.moves):
                continue  # what was voted for among the stewards of before decides nothing now
            if any(vote.signer == own for vote in row.votes):
                for index, outcome in row.outcomes.items():
                    before = batch.acceptor.votes.get(index)
                    if before is None or before.epoch < row.epoch:
                        batch.acceptor.votes[index] = Ballot(row.epoch, outcome)
                # A vote is a promise, too.
                batch.acceptor.promised = max(batch.acceptor.promised, row.epoch)
                if len(row.votes) < batch.majority_count:
                    self._keep(row)

    def voted(self, batch: BatchId) -> list[DecisionRow]:
        """Return what this steward has voted for in a batch and is not known to be decided."""
        writing = {key: row for key, row in self._writing.items() if row.batch == batch}
        return list({**self._voted.get(batch, {}), **writing}.values())

    def highest(self, batch: Batch) -> list[DecisionRow]:
        """Return of these what holds the highest vote of some task."""
        votes = batch.acceptor.votes
        return [
            row
            for row in self.voted(batch.batch)
            if any(index in votes and votes[index].epoch == row.epoch for index in row.outcomes)
        ]

    def prune(self, batch: Batch) -> list[Effect]:
        """Forget votes whose tasks were all decided otherwise."""
        over = [
            row.key
            for row in self._voted.get(batch.batch, {}).values()
            if all(batch.progress[index].decided is not None for index in row.outcomes)
        ]
        for key in over:
            self._forget(batch.batch, key)
        return [Persist(tuple(Row(DECISION_ROW, key, None) for key in over))] if over else []

    def leave(self, batch: Batch) -> list[Effect]:
        """Forget what was voted for before a move, and does not count any more."""
        over = [key for key in self._voted.get(batch.batch, {}) if key not in batch.move_rows]
        for key in over:
            self._forget(batch.batch, key)
        return [Persist(tuple(Row(DECISION_ROW, key, None) for key in over))] if over else []

    # --- what happens -----------------------------------------------------------------------

    def on_durable(self, durable: DecisionDurable) -> tuple[DecisionRow | None, list[Effect]]:
        """Return what is decided now, and what to tell the other stewards."""
        row = self._writing.pop(durable.key)
        following = self._to_write.pop(durable.key, None)
        decided, effects = self._on_row_durable(row)
        if following is not None and decided is None:
            effects += self._write(following)
        return decided, effects

    def _on_row_durable(self, row: DecisionRow) -> tuple[DecisionRow | None, list[Effect]]:
        batch = self.office.batch(row.batch)
        if batch is None:
            return None, []
        proposer = batch.steward_of(row.epoch)
        is_decided = len(row.votes) >= batch.majority_count
        if proposer is None or (not is_decided and row.epoch.move < len(batch.moves)):
            return None, [Persist((Row(DECISION_ROW, row.key, None),))]  # others decide now
        self._keep(row)
        effects: list[Effect] = []
        if proposer.peer != self.office.own:
            own = [vote for vote in row.votes if vote.signer == self.office.own]
            for vote in own:
                effects += self.office.send(proposer.peer, Voted(vote=vote))
        elif batch.proposer is not None and batch.proposer.epoch == row.epoch:
            batch.proposer.on_vote(batch.rank, row.outcomes)
            effects += self._tell(batch, row)
            if not is_decided:
                self._retry_us[row.key] = PROPOSAL_RETRY_FIRST_US
                effects.append(SetTimer(ProposalRetry(row.batch, row.key), PROPOSAL_RETRY_FIRST_US))
        if not is_decided:
            return None, effects
        self._forget(row.batch, row.key)
        return row, effects

    def on_voted(self, peer: PeerId, vote: Signed[Vote]) -> list[Effect]:
        """Count a vote for what was proposed here."""
        batch = self.office.batch(vote.body.batch)
        row = self._voted.get(vote.body.batch, {}).get(decision_key(vote.body))
        if row is None or batch is None or batch.proposer is None:
            return []
        named = Steward(vote.signer, vote.body.store)
        stewards = batch.stewards
        is_good = vote.signer == peer and named in stewards and vote.body.outcomes == row.outcomes
        if not is_good or any(one.signer == peer for one in row.votes):
            return []
        row = replace(row, votes=(*row.votes, vote))
        self._keep(row)
        chosen = batch.proposer.on_vote(stewards.index(named), row.outcomes)
        return self._write(row) if chosen else []

    def on_retry(self, retry: ProposalRetry) -> list[Effect]:
        """Ask again, less and less often."""
        batch = self.office.batch(retry.batch)
        row = self._voted.get(retry.batch, {}).get(retry.key)
        if row is None or batch is None or retry.key not in self._retry_us:
            return []
        pause_us = min(2 * self._retry_us[retry.key], PROPOSAL_RETRY_MAX_US)
        self._retry_us[retry.key] = pause_us
        return [*self._tell(batch, row), SetTimer(retry, pause_us)]

    def stand_down(self, batch: Batch) -> None:
        """Propose nothing any more in the epoch of before; what was voted for stays so.

        Nor is anything to be proposed whose output has not come yet.
        """
        for row in self.voted(batch.batch):
            self._retry_us.pop(row.key, None)
        batch.withdraw(index for index, task in enumerate(batch.progress) if task.is_deciding)

    # --- details ----------------------------------------------------------------------------

    def _propose(
        self,
        batch: Batch,
        outcomes: dict[int, Outcome],
        results: dict[int, ProvenResult],
        lease: Signed[Lease] | None,
        agreeing: Agreeing = _NOBODY,
        stewards: Stewards = (),
    ) -> list[Effect]:
        office, proposer = self.office, batch.proposer
        if proposer is None or not proposer.is_established or not outcomes:
            return []  # another steward leads it now
        values = proposer.propose(outcomes)
        batch.acceptor.vote(proposer.epoch, values)
        signers = {batch.contract.signer, office.own, *batch.co_stewards()}
        agreeing = {index: agreeing[index] for index in outcomes if agreeing.get(index)}
        leases = [] if lease is None else [lease]
        leases += [one.lease for others in agreeing.values() for one in others]
        for each in leases:
            signers |= {each.body.executor, each.signer}
        signers |= {one.peer for one in stewards}
        signers |= {vote.signer for move in batch.moves for vote in move.votes}
        row = DecisionRow(
            votes=(self._own_vote(batch, proposer.epoch, values),),
            lease=lease,
            results=results,
            chains=office.chains_of(sorted(signers), batch.chains),
            decided_wall_us=office.wall_us(),
            attempts={index: batch.progress[index].attempts for index in outcomes},
            agreeing=agreeing,
            stewards=stewards,
        )
        batch.begin_deciding(outcomes)
        return self._write(row)

    def _own_vote(self, batch: Batch, epoch: Epoch, outcomes: dict[int, Outcome]) -> Signed[Vote]:
        store = self.office.store
        vote = Vote(batch=batch.batch, store=store, epoch=epoch, outcomes=outcomes)
        return sign(vote, self.office.signer)

    def _write(self, row: DecisionRow) -> list[Effect]:
        key = row.key
        if key in self._writing:
            self._to_write[key] = row
            return []
        self._writing[key] = row
        return [Persist((Row(DECISION_ROW, key, row),), (SetTimer(DecisionDurable(key), 0),))]

    def _keep(self, row: DecisionRow) -> None:
        self._voted.setdefault(row.batch, {})[row.key] = row

    def _forget(self, batch: BatchId, key: bytes) -> None:
        self._retry_us.pop(key, None)
        rows = self._voted.get(batch, {})
        rows.pop(key, None)
        if not rows:
            self._voted.pop(batch, None)

    def _tell(self, batch: Batch, row: DecisionRow) -> list[Effect]:
        voters = {vote.signer for vote in row.votes}
        return [
            effect
            for peer in batch.co_stewards()
            if peer not in voters
            for effect in self.office.send(peer, proposed(row))
        ]


def proposed(row: DecisionRow, *, promise: Epoch | None = None) -> Proposed:
    """Return the message that tells other stewards what is in a row."""
    return Proposed(
        votes=row.votes,
        lease=row.lease,
        results=tuple(row.results.values()),
        chains=row.chains,
        promise=promise,
        agreeing=tuple(one for others in row.agreeing.values() for one in others),
        stewards=row.stewards,
    )


def _parts(outcomes: dict[int, Outcome]) -> Iterator[dict[int, Outcome]]:
    left: Iterable[tuple[int, Outcome]] = iter(outcomes.items())
    while part := dict(islice(left, VOTE_OUTCOMES_MAX)):
        yield part


def _parts_by_bytes(
    results: dict[int, ProvenResult], agreeing: Agreeing, batch: Batch
) -> Iterator[dict[int, ProvenResult]]:
    part: dict[int, ProvenResult] = {}
    part_bytes = 0
    for index, one in results.items():
        if not batch.progress[index].is_open:
            continue
        size_bytes = len(one.received)
        for other in agreeing.get(index, ()):
            size_bytes += len(other.result.received) + len(other.lease.received)
        if part and part_bytes + size_bytes > PROPOSAL_BYTES_MAX:
            yield part
            part, part_bytes = {}, 0
        part[index] = one
        part_bytes += size_bytes
    if part:
        yield part
