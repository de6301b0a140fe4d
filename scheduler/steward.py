"""The steward: keeps a batch's contract and outcomes, finds executors, decides once.

A batch is kept by the submitting device alone (`durability: local`), or by it and two others, of
which one leads at a time. What has to be durable before anything follows from it goes through
`Persist`, whose `then` sets a timer of no delay: the timer is the event "it is durable". Its parts
share a `Stewardship`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from msgspec import Struct

from scheduler.batch import Batch, BatchRow, DecisionRow, PromiseRow
from scheduler.comparing import Comparing, PatienceOver
from scheduler.convening import Colleague, ConveneDue, Convening
from scheduler.dispatch import Dispatch, OfferUnanswered
from scheduler.hedging import HedgeDue
from scheduler.keeping import forgotten_batch, kept_batch, offered_blobs
from scheduler.leadership import (
    Leadership,
    OutcomesDue,
    PrepareRetry,
    PromiseDurable,
    TakeoverDue,
)
from scheduler.lease_history import LeaseRow
from scheduler.leases import LEASE_US, GrantedLeaseEnds, LeaseBook
from scheduler.leasing import Leasing
from scheduler.outcomes import DeadlineDue, Outcomes
from scheduler.paxos import Proposer
from scheduler.placement import Placements
from scheduler.proposals import Proposals
from scheduler.register import DecisionDurable, ProposalRetry, Register
from scheduler.replication import (
    GiveAgain,
    ReplicaDurable,
    Replication,
)
from scheduler.retelling import Retelling
from scheduler.selection import Candidate
from scheduler.spot_checks import LOTS_SECRET_BYTES, Lots, SpotChecks
from scheduler.standing import Standings
from scheduler.stewardship import Stewardship
from scheduler.submission import BatchDurable, Submissions, UnconfirmedDue
from scheduler.succession import GONE_US, AbsenceReview, Succession
from scheduler.verification import Verification
from scheduler.waiting import PlacementReview, WaitingBatches
from wire.answers import Refused
from wire.commands import Plan, Submit
from wire.convictions import Conviction
from wire.effects import Effect, Persist, Row, SetTimer, Trace
from wire.events import Fetched, FetchFailed, Loaded
from wire.ids import BATCH_ID_BYTES, BatchId, PeerId
from wire.messages import (
    BatchDeclined,
    BatchGiven,
    BatchKept,
    BatchUnknown,
    Leading,
    LeaseEnded,
    LeaseProgress,
    NotPromised,
    OfferAccepted,
    OfferRejected,
    OutcomesWanted,
    Prepare,
    Promised,
    Proposed,
    ResultsOffered,
    StewardAgreed,
    StewardAsked,
    StewardDeclined,
    StewardMessage,
    Voted,
)
from wire.tasks import Contract, Durability

LEASE_RESTART_MARGIN_PERCENT = 2

# What wakes stewards for each other's sake.
StewardTimer: TypeAlias = (
    AbsenceReview
    | ConveneDue
    | UnconfirmedDue
    | GiveAgain
    | HedgeDue
    | ReplicaDurable
    | ProposalRetry
    | PromiseDurable
    | PrepareRetry
    | TakeoverDue
    | OutcomesDue
)

ROUND_ROW = "round"
_ROUND_KEY = b"own"


class RoundRow(Struct, frozen=True, kw_only=True):
    """The round of this start. A restarted steward never leases or votes in one of before."""

    round: int


@dataclass(frozen=True, slots=True)
class RoundDurable:
    """Timer of no delay: this start's round is durable, so leases may be given."""


@dataclass(frozen=True, slots=True)
class EarlierLeasesEnd:
    """Timer: leases of before this start have run out, so their tasks may go elsewhere."""


class Steward:
    """The batches this device is steward of. Times are microseconds on the caller's clock."""

    def __init__(
        self,
        office: Stewardship,
        *,
        standings: Standings,
        placements: Placements,
        leases: LeaseBook,
        candidates: Callable[[], list[Candidate]],
        colleagues: Callable[[], list[Colleague]],
        gone_us: int = GONE_US,
        checks: SpotChecks[PeerId],
        convict: Callable[[Conviction], list[Effect]],
    ) -> None:
        self._office = office
        self.leases = leases
        self._waiting = waiting = WaitingBatches()
        register = Register(office=office)
        self._leasing = leasing = Leasing(
            office=office, register=register, waiting=waiting, standings=standings, leases=leases
        )
        self._dispatch = Dispatch(
            office=office,
            waiting=waiting,
            placements=placements,
            leasing=leasing,
            standings=standings,
            candidates=candidates,
            lots=self._lots,
        )
        self._rng = placements.sampler.rng
        self._drawn_lots: Lots | None = None
        self._comparing = Comparing(
            office=office,
            register=register,
            leasing=leasing,
            standings=standings,
            checks=checks,
            lots=self._lots,
            convict=convict,
            has_partner=self._dispatch.has_partner,
        )
        self._verification = Verification(
            office=office,
            register=register,
            leasing=leasing,
            standings=standings,
            comparing=self._comparing,
        )
        self._outcomes = Outcomes(
            office=office,
            register=register,
            leasing=leasing,
            waiting=waiting,
            placements=placements,
            standings=standings,
            comparing=self._comparing,
        )
        self._retelling = Retelling(office=office)
        self._proposals = Proposals(office=office, register=register, retelling=self._retelling)
        self._replication = Replication(office=office)
        self._register = register
        self._submissions = Submissions(
            office=office,
            waiting=waiting,
            placements=placements,
            outcomes=self._outcomes,
            replication=self._replication,
            candidates=candidates,
        )
        self._convening = Convening(
            office=office, colleagues=colleagues, found=self._submissions.found
        )
        self._leadership = Leadership(
            office=office,
            register=register,
            leasing=leasing,
            proposals=self._proposals,
            replication=self._replication,
            retelling=self._retelling,
            rng=placements.sampler.rng,
            on_leading=self._on_leading,
        )
        self._succession = Succession(
            office=office,
            register=register,
            leadership=self._leadership,
            replication=self._replication,
            convening=self._convening,
            retelling=self._retelling,
            resume=self._on_leading,
            gone_us=gone_us,
        )
        self._holds_leases_of_before = False
        # What only one part decides is that part's.
        self.refusal: Callable[[Submit], Refused | None] = self._submissions.refusal
        self.nobody_eligible: Callable[[Submit], Refused | None] = self._submissions.nobody_eligible
        self.contract_of_plan: Callable[[Plan], Contract] = self._submissions.contract_of_plan
        self.would_ask: Callable[[Durability | None], list[Colleague]] = self._convening.would_ask

    @property
    def batches(self) -> dict[BatchId, Batch]:
        """All batches that are kept, by id, oldest first."""
        return self._office.ledger.batches

    # --- start and stop ---------------------------------------------------------------------

    def on_restarted(
        self,
        *,
        rounds: list[RoundRow],
        batches: list[BatchRow],
        promises: list[tuple[bytes, PromiseRow]],
        decisions: list[DecisionRow],
        leases: Sequence[tuple[bytes, LeaseRow]] = (),
    ) -> list[Effect]:
        """Take up the batches of before. Their leases may still be out: wait for those to end."""
        office = self._office
        office.round = max((row.round for row in rounds), default=0) + 1
        promised = {key: row.epoch for key, row in promises}
        votes: dict[BatchId, list[DecisionRow]] = {}
        for decision in decisions:
            votes.setdefault(decision.batch, []).append(decision)
        for row in batches:
            batch = kept_batch(row, office)
            batch.is_durable = True
            rows = sorted(votes.get(batch.batch, ()), key=lambda one: one.epoch)
            for one in rows:
                is_next = one.is_move and one.epoch.move == len(batch.moves)
                if is_next and len(one.votes) >= batch.majority_count:
                    batch.take_move(one, office.named)
            before = promised.get(batch.batch, row.epoch)
            batch.acceptor.promised = max(batch.acceptor.promised, before)
            if batch.majority_count == 1:  # this start's round is above all of before
                batch.acceptor.promised = office.first_epoch
                batch.proposer = Proposer(epoch=office.first_epoch, majority_count=1, is_first=True)
            for task in batch.progress:
                task.reason = "this device restarted; waiting for leases of before to run out"
            office.ledger.add(batch)
            self._register.on_restarted(batch, rows)
            for decision in rows:
                if len(decision.votes) >= batch.majority_count:
                    office.ledger.decide(decision)
        for key, lease_row in leases:
            led = office.batch(BatchId(key[:BATCH_ID_BYTES]))
            if led is not None:
                executor = PeerId(key[BATCH_ID_BYTES:])
                led.lease_history.on_restarted(executor, lease_row, is_decided=led.is_decided)
        effects = self._give_up_batches_of_another_store()
        row_of_round = Row(ROUND_ROW, _ROUND_KEY, RoundRow(round=office.round))
        effects.append(Persist((row_of_round,), (SetTimer(RoundDurable(), 0),)))
        for batch in office.ledger.batches.values():
            effects += self._succession.provided(batch)
        for batch in office.ledger.undecided.values():
            effects += offered_blobs(batch)
            if batch.is_leading:
                effects.append(self._outcomes.deadline(batch))
            else:
                effects += self._leadership.on_restarted(batch)
        effects += self._succession.review_later()
        if office.ledger.undecided:
            self._holds_leases_of_before = True
            lease_us = max(LEASE_US, self.leases.lease_us)
            hold_us = lease_us * (100 + LEASE_RESTART_MARGIN_PERCENT) // 100
            effects.append(SetTimer(EarlierLeasesEnd(), hold_us))
        return effects

    def _lots(self) -> Lots:
        """Return the lots of this start: its secret is never told, nor written down."""
        if self._drawn_lots is None:
            self._drawn_lots = Lots(self._rng.randbytes(LOTS_SECRET_BYTES))
        return self._drawn_lots

    def _on_leading(self, batch: Batch) -> list[Effect]:
        """Give the tasks of a batch away that this device leads from now on."""
        if batch.moving_to is not None:
            return self._succession.on_leading(batch)
        for index in batch.open_indices():
            batch.progress[index].reason = "waiting for a device again: its steward changed"
        if self._holds_leases_of_before:  # of the same steward, before its restart
            return [self._outcomes.deadline(batch)]
        self._waiting.put(batch)
        return [self._outcomes.deadline(batch), SetTimer(PlacementReview(), 0)]

    def _give_up_batches_of_another_store(self) -> list[Effect]:
        """Forget undecided batches that name another store of this device as their steward.

        This home was put back from a copy: what became of them after it was made is not known here,
        so a vote might be the second one. What the copy shows as decided stays so.
        """
        office = self._office
        given_up = [
            batch
            for batch in office.ledger.undecided.values()
            if batch.joining is None
            and not any(office.named in stewards for stewards in batch.steward_sets)
        ]
        effects: list[Effect] = []
        for batch in given_up:
            office.ledger.give_up(batch)
            effects += forgotten_batch(batch)
        if given_up:
            effects.append(Trace("batches.of_another_store", {"count": len(given_up)}))
        return effects

    def on_round_durable(self, *, now_us: int) -> list[Effect]:
        """Leases may be given now."""
        self._dispatch.is_ready = True
        return self.on_devices_changed(now_us=now_us)

    def on_earlier_leases_end(self, *, now_us: int) -> list[Effect]:
        """Nobody can still be at a task of before; if somebody is, the result counts too."""
        self._holds_leases_of_before = False
        for batch in self._office.ledger.undecided.values():
            self._waiting.put(batch)
        return self.on_devices_changed(now_us=now_us)

    def on_wall_clock_read(self) -> list[Effect]:
        """The wall clock may be known now."""
        return self._outcomes.on_wall_clock_read()

    def on_stopping(self) -> None:
        """Take no new work and give none away."""
        self._office.is_stopping = True

    # --- submission and placement -----------------------------------------------------------

    def on_submit(self, request: int, submit: Submit) -> list[Effect]:
        """Take in a batch that `refusal` does not refuse."""
        return self._convening.on_submit(request, submit)

    def on_batch_durable(self, durable: BatchDurable, *, now_us: int) -> list[Effect]:
        """Accepted."""
        effects = self._submissions.on_batch_durable(durable, now_us=now_us)
        return effects + self._succession.review_later()

    def on_steward_message(
        self, peer: PeerId, message: StewardMessage, *, now_us: int
    ) -> list[Effect]:
        """Another steward says something, or a device that looks for stewards."""
        match message:
            case StewardAsked():
                return self._convening.on_asked(peer, message)
            case StewardAgreed():
                return self._convening.on_agreed(peer, message)
            case StewardDeclined():
                return self._convening.on_declined(peer, message)
            case BatchGiven():
                return self._replication.on_given(peer, message)
            case BatchKept():
                accepted = self._submissions.on_kept(peer, message, now_us=now_us)
                return accepted + self._succession.on_kept(peer, message, now_us=now_us)
            case BatchUnknown():
                return self._leadership.on_unknown(peer, message, now_us=now_us)
            case BatchDeclined():
                self._succession.on_declined(peer, message)
                return self._replication.on_declined(peer, message)
            case Prepare():
                return self._leadership.on_prepare(peer, message, now_us=now_us)
            case Promised():
                return self._leadership.on_promised(peer, message)
            case NotPromised():
                return self._leadership.on_not_promised(peer, message, now_us=now_us)
            case Proposed(promise=epoch):
                effects = self._leadership.on_proposed(peer, message, now_us=now_us)
                effects += self._proposals.on_proposed(peer, message)
                if epoch is None:
                    return effects
                return effects + self._leadership.on_told_with_promise(peer, message, epoch)
            case Voted(vote=vote):
                return self._register.on_voted(peer, vote)
            case Leading():
                return self._leadership.on_leading_told(peer, message)
            case OutcomesWanted():
                return self._retelling.on_outcomes_wanted(peer, message)

    def on_steward_timer(self, key: StewardTimer, *, now_us: int) -> list[Effect]:
        """A timer of the work among stewards has run out."""
        match key:
            case ConveneDue():
                return self._convening.on_due(key)
            case UnconfirmedDue():
                return self._submissions.on_unconfirmed(key)
            case GiveAgain():
                return self._replication.on_give_again(key)
            case ReplicaDurable():
                kept = self._replication.on_durable(key)
                follow = [*self._leadership.ask_later(), *self._succession.review_later()]
                return [*kept, *follow]
            case ProposalRetry():
                return self._register.on_retry(key)
            case PromiseDurable():
                return self._leadership.on_promise_durable(key)
            case PrepareRetry():
                return self._leadership.on_prepare_retry(key, now_us=now_us)
            case TakeoverDue():
                return self._leadership.on_takeover_due(key, now_us=now_us)
            case OutcomesDue():
                return self._leadership.on_outcomes_due()
            case HedgeDue():
                return self._leasing.hedging.on_due(now_us=now_us)
            case AbsenceReview():
                return self._succession.on_review(now_us=now_us)

    def on_link_up(self, peer: PeerId) -> list[Effect]:
        """A device is there that may keep batches with this one."""
        return self._leadership.on_link_up(peer)

    def on_link_down(self, peer: PeerId) -> list[Effect]:
        """A device that may lead batches is gone, perhaps for a moment."""
        return self._leadership.on_link_down(peer)

    def on_devices_changed(self, *, now_us: int) -> list[Effect]:
        """Devices came, went, or tell something new: see whether what waits can go to one."""
        return self._waiting.review_in(0, now_us=now_us) if len(self._waiting) else []

    def on_placement_review(self, *, now_us: int) -> list[Effect]:
        """Offer what is waiting."""
        return self._dispatch.on_review(now_us=now_us)

    def on_offer_accepted(
        self, executor: PeerId, accepted: OfferAccepted, *, now_us: int
    ) -> list[Effect]:
        """A device would take tasks."""
        return self._dispatch.on_offer_accepted(executor, accepted, now_us=now_us)

    def on_offer_rejected(
        self, executor: PeerId, rejected: OfferRejected, *, now_us: int
    ) -> list[Effect]:
        """A device would not."""
        return self._dispatch.on_offer_rejected(executor, rejected, now_us=now_us)

    def on_offer_unanswered(self, unanswered: OfferUnanswered, *, now_us: int) -> list[Effect]:
        """Somebody was silent."""
        return self._dispatch.on_offer_unanswered(unanswered, now_us=now_us)

    # --- leases -----------------------------------------------------------------------------

    def on_lease_progress(
        self, executor: PeerId, progress: LeaseProgress, *, now_us: int
    ) -> list[Effect]:
        """An executor works on."""
        effects = self._leasing.on_progress(executor, progress, now_us=now_us)
        return effects + self._leasing.hedging.watch()

    def on_granted_lease_ends(self, ends: GrantedLeaseEnds, *, now_us: int) -> list[Effect]:
        """An executor may have been silent for a whole lease."""
        return self._leasing.on_run_out(ends, now_us=now_us)

    def on_devices_removed(self, removed: frozenset[PeerId], *, now_us: int) -> list[Effect]:
        """Devices are out of the mesh: what they were at goes elsewhere."""
        return [
            *self._leasing.on_devices_removed(removed, now_us=now_us),
            *self._verification.on_devices_removed(removed, now_us=now_us),
        ]

    def on_lease_ended(self, executor: PeerId, ended: LeaseEnded, *, now_us: int) -> list[Effect]:
        """An executor gives tasks back."""
        if not ended.indices and self.leases.of(ended.lease, executor) is not None:
            self._dispatch.on_not_wanted(executor, now_us=now_us)
        return self._leasing.on_ended(executor, ended, now_us=now_us)

    # --- results and outcomes ---------------------------------------------------------------

    def on_results_offered(
        self, sender: PeerId, offered: ResultsOffered, *, now_us: int
    ) -> list[Effect]:
        """Results came."""
        return self._verification.on_results_offered(sender, offered, now_us=now_us)

    def on_fetched(self, fetched: Fetched) -> list[Effect]:
        """An output, an input or a module is here."""
        return [
            *self._verification.on_fetched(fetched),
            *self._proposals.on_fetched(fetched),
            *self._replication.on_fetched(fetched),
        ]

    def on_fetch_failed(self, failed: FetchFailed, *, now_us: int) -> list[Effect]:
        """Such a thing is not to be had, or wrong."""
        return [
            *self._verification.on_fetch_failed(failed, now_us=now_us),
            *self._proposals.on_fetch_failed(failed),
            *self._replication.on_fetch_failed(failed),
        ]

    def on_loaded(self, loaded: Loaded) -> list[Effect]:
        """A row for another steward came from the store."""
        return self._retelling.on_loaded(loaded)

    def on_decision_tick(self, *, now_us: int) -> list[Effect]:
        """Vote on what was checked."""
        return self._verification.on_decision_tick(now_us=now_us)

    def on_patience_over(self, over: PatienceOver, *, now_us: int) -> list[Effect]:
        """A task waits for a device to compare with."""
        return self._comparing.on_patience_over(over, now_us=now_us)

    def on_cancel(self, batch: Batch, index: int) -> list[Effect]:
        """Somebody cancels a task."""
        return self._outcomes.on_cancel(batch, index)

    def on_deadline_due(self, due: DeadlineDue) -> list[Effect]:
        """A batch's time is over."""
        return self._outcomes.on_deadline_due(due)

    def on_decision_durable(self, durable: DecisionDurable, *, now_us: int) -> list[Effect]:
        """Outcomes stand, or others decide them from now on."""
        row, effects = self._register.on_durable(durable)
        if row is None:
            return effects
        if row.is_move:
            return effects + self._succession.on_moved(row, now_us=now_us)
        effects += self._outcomes.on_decided(row, now_us=now_us)
        return effects + self._succession.on_decided(row)
