"""The outcome register: each task's outcome, written once, durable before it is told.

The steward is the submitting device alone (`durability: local`), so a majority of the stewards is
its own durable vote. Two votes for one task with different values would convict it, so a task that
has an outcome, or one on its way to the disk, is never voted on again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from scheduler.batch import DECISION_ROW, Batch, DecisionRow, decision_key
from scheduler.stewardship import Stewardship
from wire.effects import Effect, Persist, Row, SetTimer
from wire.signed import Signed, sign
from wire.tasks import Lease, Outcome, OutcomeKind, ProvenResult, Vote, result_digest

# A vote is decoded with at most 512 KiB, and each reason may be 1 KiB long.
VOTE_OUTCOMES_MAX = 256
REASON_CHARACTERS_MAX = 256


@dataclass(frozen=True, slots=True)
class DecisionDurable:
    """Timer of no delay: outcomes are durable, so they may be told."""

    key: bytes


@dataclass(slots=True, kw_only=True)
class Register:
    """Votes, and what waits for the disk to keep it."""

    office: Stewardship
    _deciding: dict[bytes, DecisionRow] = field(default_factory=dict)

    def choose(
        self, batch: Batch, lease: Signed[Lease], results: dict[int, ProvenResult]
    ) -> list[Effect]:
        """Vote for results of one lease."""
        chosen = {index: one for index, one in results.items() if batch.progress[index].is_open}
        outcomes = {
            index: Outcome(kind=OutcomeKind.RESULT, result=result_digest(one.received))
            for index, one in chosen.items()
        }
        return self._vote(batch, outcomes, chosen, lease) if outcomes else []

    def close(self, batch: Batch, kind: OutcomeKind, reasons: dict[int, str]) -> list[Effect]:
        """Vote for tasks to end without a result."""
        outcomes = {
            index: Outcome(kind=kind, reason=text[:REASON_CHARACTERS_MAX])
            for index, text in reasons.items()
            if batch.progress[index].is_open
        }
        effects: list[Effect] = []
        for part in _parts(outcomes):
            effects += self._vote(batch, part, {}, None)
        return effects

    def on_durable(self, durable: DecisionDurable) -> DecisionRow:
        """Return the decision that is durable now."""
        return self._deciding.pop(durable.key)

    def _vote(
        self,
        batch: Batch,
        outcomes: dict[int, Outcome],
        results: dict[int, ProvenResult],
        lease: Signed[Lease] | None,
    ) -> list[Effect]:
        office = self.office
        vote = Vote(batch=batch.batch, store=office.store, epoch=office.epoch, outcomes=outcomes)
        signers = {batch.contract.signer, office.own}
        if lease is not None:
            signers.add(lease.body.executor)
        chains = (office.chain_of(peer) for peer in sorted(signers))
        row = DecisionRow(
            vote=sign(vote, office.signer),
            lease=lease,
            results=results,
            chains=tuple(chain for chain in chains if chain is not None),
            decided_wall_us=office.wall_us(),
            attempts={index: batch.progress[index].attempts for index in outcomes},
        )
        key = decision_key(batch.batch, min(outcomes))
        self._deciding[key] = row
        batch.begin_deciding(outcomes)
        return [Persist((Row(DECISION_ROW, key, row),), (SetTimer(DecisionDurable(key), 0),))]


def _parts(outcomes: dict[int, Outcome]) -> Iterator[dict[int, Outcome]]:
    left: Iterable[tuple[int, Outcome]] = iter(outcomes.items())
    while part := dict(islice(left, VOTE_OUTCOMES_MAX)):
        yield part
