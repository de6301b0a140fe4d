"""Which steward leads a batch: it gives the leases and proposes the outcomes.

The steward that made a batch leads it in its first epoch. Another one that has not heard of it for
a lease and more prepares a higher epoch (Paxos, phase 1), and so does a steward that restarted and
led. Two that try at once do no harm: the higher epoch wins, and the other stands down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random

from msgspec.structs import replace

from scheduler.batch import PROMISE_ROW, Batch, DecisionRow, PromiseRow
from scheduler.errors import StaleEpoch
from scheduler.leasing import Leasing
from scheduler.paxos import Ballot, Proposer
from scheduler.proposals import Proposals
from scheduler.register import Register, proposed
from scheduler.replication import Replication
from scheduler.retelling import Retelling, rows_of
from scheduler.stewardship import Stewardship
from wire.effects import Effect, Persist, Row, SetTimer, Trace
from wire.ids import BatchId, PeerId
from wire.messages import (
    LEADING_MAX,
    BatchUnknown,
    Leading,
    NotPromised,
    Prepare,
    Promised,
    Proposed,
)
from wire.tasks import Epoch

TAKEOVER_US = 10_000_000  # a lease: by then the leases of before have run out as well
TAKEOVER_RANK_US = 3_000_000
OUTCOMES_EVERY_US = 10_000_000
OUTCOMES_ASKED_MAX = 64
PREPARE_RETRY_FIRST_US = 1_000_000
PREPARE_RETRY_MAX_US = 10_000_000


@dataclass(frozen=True, slots=True)
class PromiseDurable:
    """Timer of no delay: a promise is durable, so it may be told."""

    batch: BatchId
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class PrepareRetry:
    """Timer: ask for promises again."""

    batch: BatchId
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class OutcomesDue:
    """Timer: ask the leaders for what was missed."""


@dataclass(frozen=True, slots=True)
class TakeoverDue:
    """Timer: see whether a steward is still gone."""

    leader: PeerId


@dataclass(slots=True)
class _Candidacy:
    """What came before a promise, by the steward that promises."""

    told: dict[PeerId, dict[bytes, DecisionRow]] = field(default_factory=dict)
    announced: dict[PeerId, int] = field(default_factory=dict)  # how many rows come in all
    rows: dict[bytes, DecisionRow] = field(default_factory=dict)
    is_over: bool = False  # what was promised cannot be kept: prepare anew
    retry_us: int = PREPARE_RETRY_FIRST_US


@dataclass(slots=True, kw_only=True)
class Leadership:
    """Prepares, promises, takes over and stands down."""

    office: Stewardship
    register: Register
    leasing: Leasing
    proposals: Proposals
    replication: Replication
    retelling: Retelling
    rng: Random
    on_leading: Callable[[Batch], list[Effect]]  # this device leads a batch from now on
    _candidacies: dict[BatchId, _Candidacy] = field(default_factory=dict)
    # What those know who were promised to, until the promise is durable.
    _known_to: dict[BatchId, tuple[int, ...]] = field(default_factory=dict)
    _is_asking: bool = False  # its timer is set

    # --- who leads --------------------------------------------------------------------------

    def on_restarted(self, batch: Batch) -> list[Effect]:
        """Lead again what this device led, in a higher epoch; watch the leaders of the others."""
        if batch.is_steward and batch.leader == self.office.own:
            return self._begin(batch)
        return [*self.watch(batch.leader), *self.ask_later()]

    def watch(self, leader: PeerId) -> list[Effect]:
        """See after a while whether a leader that was not heard is still gone."""
        led = self._followed(leader)
        if not led:
            return []
        ranks = min((batch.rank - batch.epoch.rank) % len(batch.stewards) for batch in led)
        pause_us = TAKEOVER_US + ranks * TAKEOVER_RANK_US + self.rng.randrange(1_000_000)
        due: list[Effect] = [SetTimer(TakeoverDue(leader), pause_us)]
        # A link that was one too many is no death: it comes back before the time is over.
        return due if self.office.is_linked(leader) else [*due, *self.office.reach(leader)]

    def on_link_up(self, peer: PeerId) -> list[Effect]:
        """Tell a co-steward what this device leads with it; expect the same of it."""
        led = sorted(
            batch.batch
            for batch in self.office.ledger.undecided.values()
            if batch.proposer is not None and peer in batch.co_stewards()
        )
        pages = [led[start : start + LEADING_MAX] for start in range(0, len(led), LEADING_MAX)]
        effects: list[Effect] = []
        after = b""
        for number, page in enumerate(pages or [[]]):
            is_last = number >= len(pages) - 1
            if page or any(peer in one.co_stewards() for one in self._all_undecided()):
                told = Leading(after=after, batches=tuple(page), is_last=is_last)
                effects += self.office.send(peer, told)
            after = page[-1] if page else b""
        return effects + self.watch(peer)

    def on_link_down(self, peer: PeerId) -> list[Effect]:
        """Its batches wait for it, but not for ever."""
        for batch in self._followed(peer):
            batch.is_claimed = False
        return self.watch(peer)

    def ask_later(self) -> list[Effect]:
        """Return the timer of the next question for outcomes, while any batch is followed."""
        is_due = any(batch.proposer is None for batch in self._all_undecided())
        if self._is_asking or not is_due:
            return []
        self._is_asking = True
        return [SetTimer(OutcomesDue(), OUTCOMES_EVERY_US)]

    def on_outcomes_due(self) -> list[Effect]:
        """Ask the leaders for outcomes that were missed, of OUTCOMES_ASKED_MAX batches a time."""
        self._is_asking = False
        followed = [batch for batch in self._all_undecided() if batch.proposer is None]
        if len(followed) > OUTCOMES_ASKED_MAX:
            followed = self.rng.sample(followed, OUTCOMES_ASKED_MAX)
        effects = self.ask_later()
        for batch in followed:
            # Who is no steward does not hear who leads: whoever is there knows something.
            asked = [batch.leader] if batch.is_steward else batch.co_stewards()
            for peer in filter(self.office.is_linked, asked):
                effects += self.retelling.ask(peer, batch)
        return effects

    def on_takeover_due(self, due: TakeoverDue, *, now_us: int) -> list[Effect]:
        """Take over from a leader that is gone, or that does not say that it leads."""
        is_here = self.office.is_linked(due.leader)
        effects: list[Effect] = []
        for batch in self._followed(due.leader):
            if not (is_here and batch.is_claimed):
                effects += self.prepare(batch, now_us=now_us)
        return effects

    def on_leading_told(self, peer: PeerId, told: Leading) -> list[Effect]:
        """A steward says what it leads. Of what it leads no more it may know the outcome."""
        effects: list[Effect] = []
        for batch_id in told.batches:
            batch = self.office.batch(batch_id)
            if batch is None or peer not in batch.co_stewards():
                continue
            if batch.is_decided:
                effects += self.retelling.tell(
                    peer, batch, range(len(batch.progress)), moves_from=0
                )
            elif batch.leader == peer:
                batch.is_claimed = True
            else:
                refused = NotPromised(batch=batch.batch, promised=batch.epoch)
                effects += self.office.send(peer, refused)
        if not told.is_last:
            return effects
        for batch in self._all_undecided():
            if peer in batch.co_stewards() and batch.proposer is None:
                effects += self.retelling.ask(peer, batch)
        return effects

    # --- preparing --------------------------------------------------------------------------

    def prepare(self, batch: Batch, *, now_us: int) -> list[Effect]:
        """Try to lead a batch, in an epoch above all that were heard of."""
        if self.office.is_stopping:
            return []
        stood_down = self._stand_down(batch, "this device prepares to lead it", now_us=now_us)
        return [*stood_down, *self._begin(batch)]

    def _begin(self, batch: Batch) -> list[Effect]:
        if not batch.is_durable or not batch.is_steward:
            return []
        epoch = Epoch(batch.epoch.move, batch.epoch.round + 1, batch.rank)
        self._known_to.pop(batch.batch, None)
        batch.acceptor.promise(epoch)
        batch.proposer = Proposer(epoch=epoch, majority_count=batch.majority_count)
        self._candidacies[batch.batch] = _Candidacy()
        return self._persist_promise(batch)

    def on_promise_durable(self, durable: PromiseDurable) -> list[Effect]:
        """Ask the others, or tell who asked."""
        batch = self.office.batch(durable.batch)
        if batch is None or batch.epoch != durable.epoch:
            return []  # a higher one was promised since
        if durable.epoch.rank != batch.rank:
            return self._promised(batch)
        proposer = batch.proposer
        if proposer is None or proposer.epoch != durable.epoch:
            return []
        proposer.on_promise(batch.rank, batch.acceptor.votes)
        for row in self.register.voted(batch.batch):
            self._candidacies[batch.batch].rows[row.key] = row
        if proposer.is_established:  # it is the only steward
            return self._lead(batch)
        retry = PrepareRetry(batch.batch, durable.epoch)
        return [*self._ask(batch), SetTimer(retry, PREPARE_RETRY_FIRST_US)]

    def on_prepare_retry(self, retry: PrepareRetry, *, now_us: int) -> list[Effect]:
        """Ask those again who have not promised."""
        batch, candidacy = self.office.batch(retry.batch), self._candidacies.get(retry.batch)
        if batch is None or batch.is_decided:
            self._candidacies.pop(retry.batch, None)
            return []
        if candidacy is None or batch.epoch != retry.epoch:
            return []  # the candidacy is over; one in a later epoch has its own timer
        if candidacy.is_over:
            return self.prepare(batch, now_us=now_us)
        candidacy.retry_us = min(2 * candidacy.retry_us, PREPARE_RETRY_MAX_US)
        return [*self._ask(batch), SetTimer(retry, candidacy.retry_us)]

    def on_prepare(self, peer: PeerId, prepare: Prepare, *, now_us: int) -> list[Effect]:
        """Promise, if nothing higher was promised."""
        batch, epoch = self.office.batch(prepare.batch), prepare.epoch
        if batch is None or not batch.is_durable:
            return self.office.send(peer, BatchUnknown(batch=prepare.batch))
        if epoch.move > len(batch.moves):
            return self.retelling.ask(peer, batch)
        proposer = batch.steward_of(epoch)
        if proposer is None or proposer.peer != peer:
            return []
        if batch.is_decided:
            indices = range(len(batch.progress))
            return self.retelling.tell(peer, batch, indices, moves_from=epoch.move)
        if epoch.move < len(batch.moves):
            return self.retelling.tell(peer, batch, (), moves_from=epoch.move)
        if not batch.is_steward:
            return []
        before = batch.epoch
        try:
            batch.acceptor.promise(epoch)
        except StaleEpoch:
            return self.office.send(peer, NotPromised(batch=batch.batch, promised=before))
        effects: list[Effect] = []
        if epoch > before:
            name = f"{peer.hex()[:8]} prepares to lead it"
            effects += self._stand_down(batch, name, now_us=now_us)
        batch.is_claimed = True
        self._known_to[batch.batch] = prepare.decided
        return [*effects, *self._persist_promise(batch), *self.watch(peer)]

    def on_promised(self, peer: PeerId, promised: Promised) -> list[Effect]:
        """A steward promised; what it voted for may still be on its way."""
        batch, candidacy = self.office.batch(promised.batch), self._candidacies.get(promised.batch)
        if batch is None or candidacy is None or batch.epoch != promised.epoch:
            return []
        if peer not in batch.co_stewards():
            return []
        candidacy.announced[peer] = promised.proposals_count
        return self._take_promise(peer, batch, candidacy)

    def _take_promise(self, peer: PeerId, batch: Batch, candidacy: _Candidacy) -> list[Effect]:
        """Take up a promise, if all that was voted for came with it: else it is asked again."""
        told = candidacy.told.get(peer, {})
        announced = candidacy.announced.get(peer)
        if batch.proposer is None or announced is None or len(told) < announced:
            return []
        if candidacy.is_over:
            return []  # it is about to prepare anew
        votes: dict[int, Ballot] = {}
        for row in told.values():
            for index, outcome in row.outcomes.items():
                before = votes.get(index)
                if before is None or before.epoch < row.epoch:
                    votes[index] = Ballot(row.epoch, outcome)
            candidacy.rows[row.key] = row
        rank = next(rank for rank, one in enumerate(batch.stewards) if one.peer == peer)
        batch.proposer.on_promise(rank, votes)
        return self._lead(batch) if batch.proposer.is_established else []

    def on_told_with_promise(self, peer: PeerId, told: Proposed, epoch: Epoch) -> list[Effect]:
        """Note what a steward that is about to promise has voted for, or knows to be decided."""
        batch_id = told.votes[0].body.batch
        batch, candidacy = self.office.batch(batch_id), self._candidacies.get(batch_id)
        if batch is None or candidacy is None or batch.epoch != epoch:
            return []
        row, _ = self.proposals.read(batch, told)
        if row is None or peer not in batch.co_stewards():
            return []
        candidacy.told.setdefault(peer, {})[row.key] = row
        return self._take_promise(peer, batch, candidacy)

    def on_proposed(self, peer: PeerId, message: Proposed, *, now_us: int) -> list[Effect]:
        """Follow whoever proposes in a higher epoch: its question for a promise may be lost."""
        vote = message.votes[0].body
        batch = self.office.batch(vote.batch)
        if batch is None or message.promise is not None or vote.epoch <= batch.epoch:
            return []
        proposer = batch.steward_of(vote.epoch)
        if proposer is None or proposer.peer != peer or not batch.is_steward:
            return []
        effects = self._stand_down(batch, "another steward leads it", now_us=now_us)
        batch.acceptor.promise(vote.epoch)
        batch.is_claimed = True
        return [*effects, *self._persist_promise(batch), *self.watch(peer)]

    def on_not_promised(self, peer: PeerId, refused: NotPromised, *, now_us: int) -> list[Effect]:
        """Somebody else leads, or tries to: follow it."""
        batch = self.office.batch(refused.batch)
        if batch is None or peer not in batch.co_stewards() or refused.promised <= batch.epoch:
            return []
        if refused.promised.move > len(batch.moves):
            return self.retelling.ask(peer, batch)
        if batch.steward_of(refused.promised) is None or not batch.is_steward:
            return []
        effects = self._stand_down(batch, "another steward leads it", now_us=now_us)
        if refused.promised.rank == batch.rank:  # of before this device's restart
            batch.acceptor.promise(refused.promised)
            return effects + self.prepare(batch, now_us=now_us)
        batch.acceptor.promise(refused.promised)
        return [*effects, *self._persist_promise(batch), *self.watch(batch.leader)]

    def on_unknown(self, peer: PeerId, unknown: BatchUnknown, *, now_us: int) -> list[Effect]:
        """A steward does not have the batch: give it; lead it, if that one should."""
        batch = self.office.batch(unknown.batch)
        if batch is None or peer not in batch.co_stewards() or batch.is_decided:
            return []
        if batch.proposer is not None:
            return self.replication.on_unknown(peer, batch)
        return self.prepare(batch, now_us=now_us) if batch.leader == peer else []

    # --- details ----------------------------------------------------------------------------

    def _lead(self, batch: Batch) -> list[Effect]:
        candidacy = self._candidacies.pop(batch.batch, None)
        if candidacy is None or batch.proposer is None:
            return []
        bound = batch.proposer.bound
        effects: list[Effect] = [
            Trace("batch.led", {"batch": batch.batch.hex(), "round": batch.epoch.round})
        ]
        for row in sorted(candidacy.rows.values(), key=lambda row: row.epoch, reverse=True):
            again = [
                index
                for index, outcome in row.outcomes.items()
                if bound.get(index) == outcome and batch.progress[index].is_open
            ]
            if again:  # the highest row with this value comes first
                batch.begin_deciding(again)
                holders = tuple(vote.signer for vote in row.votes)
                effects += self.proposals.fetch(
                    holders,
                    batch,
                    _part(row, again),
                    taken=partial(self._propose_again, epoch=batch.epoch, indices=again),
                    lost=partial(self._prepare_again, epoch=batch.epoch),
                    led_in=batch.epoch,
                )
        return effects + self.on_leading(batch)

    def move(self, batch: Batch, row: DecisionRow, *, now_us: int) -> list[Effect]:
        """Other stewards decide from now on: the first of them leads, at once if it is this one."""
        effects = self._stand_down(batch, "other stewards decide it now", now_us=now_us)
        effects += self.register.leave(batch)
        self._candidacies.pop(batch.batch, None)
        self._known_to.pop(batch.batch, None)
        batch.take_move(row, self.office.named)
        effects.append(self._promise_row(batch))
        if batch.rank == 0:  # nobody could vote in this epoch before, so no vote can be older
            batch.proposer = Proposer(
                epoch=batch.epoch, majority_count=batch.majority_count, is_first=True
            )
            return [*effects, *self.on_leading(batch)]
        return [*effects, *self.watch(batch.leader), *self.ask_later()]

    def _stand_down(self, batch: Batch, reason: str, *, now_us: int) -> list[Effect]:
        if batch.proposer is None:
            return []
        batch.proposer = batch.moving_to = None
        self._candidacies.pop(batch.batch, None)
        self.register.stand_down(batch)
        ended = self.leasing.stand_down(batch, reason, now_us=now_us)
        return [*ended, *self.ask_later()]

    def _propose_again(
        self, batch: Batch, row: DecisionRow, *, epoch: Epoch, indices: list[int]
    ) -> list[Effect]:
        """What may have been chosen is proposed in the epoch that found it, or in none."""
        return self.register.propose_again(batch, row, indices) if batch.epoch == epoch else []

    def _prepare_again(self, batch: Batch, _: DecisionRow, *, epoch: Epoch) -> list[Effect]:
        """An output that may have been chosen cannot be had: ask who else has voted."""
        if batch.proposer is None or batch.epoch != epoch:
            return []  # another epoch has begun since, and asks for itself
        retry = PrepareRetry(batch.batch, batch.epoch)
        self._candidacies[batch.batch] = _Candidacy(is_over=True)
        return [SetTimer(retry, PREPARE_RETRY_MAX_US)]

    def _ask(self, batch: Batch) -> list[Effect]:
        prepare = Prepare(batch=batch.batch, epoch=batch.epoch, decided=batch.decided_indices())
        return [e for peer in batch.co_stewards() for e in self.office.send(peer, prepare)]

    def _persist_promise(self, batch: Batch) -> list[Effect]:
        durable = SetTimer(PromiseDurable(batch.batch, batch.epoch), 0)
        return [Persist(self._promise_row(batch).rows, (durable,))]

    def _promise_row(self, batch: Batch) -> Persist:
        return Persist((Row(PROMISE_ROW, batch.batch, PromiseRow(epoch=batch.epoch)),))

    def _promised(self, batch: Batch) -> list[Effect]:
        epoch, leader = batch.epoch, batch.leader
        known = set(self._known_to.pop(batch.batch, ()))
        open_there = [index for index in range(len(batch.progress)) if index not in known]
        rows = self.register.highest(batch)
        effects: list[Effect] = []
        for row in rows:
            effects += self.office.send(leader, proposed(row, promise=epoch))
        effects += self.retelling.tell(leader, batch, open_there, promise=epoch)
        count = len(rows) + len(rows_of(batch, open_there))
        promised = Promised(batch=batch.batch, epoch=epoch, proposals_count=count)
        return effects + self.office.send(leader, promised)

    def _all_undecided(self) -> list[Batch]:
        undecided = self.office.ledger.undecided.values()
        return [batch for batch in undecided if len(batch.stewards) > 1]

    def _followed(self, leader: PeerId) -> list[Batch]:
        return [
            batch
            for batch in self._all_undecided()
            if batch.is_steward and batch.proposer is None and batch.leader == leader
        ]


def _part(row: DecisionRow, indices: list[int]) -> DecisionRow:
    """Return what a row says of some of its tasks; its votes stay whole."""
    results = {index: one for index, one in row.results.items() if index in indices}
    agreeing = {index: others for index, others in row.agreeing.items() if index in indices}
    return replace(row, results=results, agreeing=agreeing)
