"""The half of the node about work: this device as executor, as steward, and its answers."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from random import Random

from meshd.device import Device, Occupation
from meshd.neighbourhood import Neighbourhood
from meshd.rows import RowsByKind
from meshd.settings import NodeSettings
from p2p.capability import missing
from p2p.directory import Member
from scheduler.admission import ReservationEnds
from scheduler.batch import (
    BATCH_ROW,
    DECISION_ROW,
    PROMISE_ROW,
    Batch,
    BatchRow,
    DecisionRow,
    PromiseRow,
)
from scheduler.comparing import PatienceOver
from scheduler.convening import STEWARDS_COUNT, Colleague
from scheduler.convictions import (
    CONVICTION_ROW,
    PARDON_ROW,
    ConvictionDurable,
    ConvictionRow,
    Convictions,
    PardonRow,
)
from scheduler.dispatch import OfferUnanswered
from scheduler.enquiries import Enquiries
from scheduler.executor import Executor
from scheduler.explainer import Explainer
from scheduler.forwarding import ForwardDue, Forwarding
from scheduler.held_leases import HeldLeaseEnds, ProgressDue
from scheduler.histories import GatheringDue, Histories
from scheduler.history import HISTORY_ROW, History, HistoryDue, HistoryRow
from scheduler.lease_history import LEASE_ROW, LeaseRow
from scheduler.leases import GrantedLeaseEnds, LeaseBook
from scheduler.outcomes import DeadlineDue
from scheduler.placement import Placements
from scheduler.references import resolve
from scheduler.register import DecisionDurable
from scheduler.replication import ReplicaDurable
from scheduler.resubmission import resubmission
from scheduler.results import RESULT_ROW, ResultRetry, ResultRow, ResultsTick
from scheduler.selection import Candidate, Sampler
from scheduler.spot_checks import SpotChecks
from scheduler.steward import (
    ROUND_ROW,
    EarlierLeasesEnd,
    RoundDurable,
    RoundRow,
    Steward,
    StewardTimer,
)
from scheduler.stewardship import Stewardship
from scheduler.submission import BatchDurable, sketch
from scheduler.verification import DecisionTick
from scheduler.waiting import PlacementReview
from telemetry.sample import Sample
from wire.answers import Refused, WhyView
from wire.commands import GetHistory, Plan, Submit
from wire.effects import Answer, Effect, Send
from wire.errors import MalformedId
from wire.events import (
    AskedNoMore,
    Event,
    Executed,
    ExecutionFailed,
    Fetched,
    FetchFailed,
    LinkDown,
    LinkUp,
    Loaded,
    WallClockRead,
)
from wire.ids import BatchId, MeshId, PeerId, StoreId, task_id_from_text
from wire.membership import Genesis, Role
from wire.messages import (
    BatchGiven,
    ConvictionGiven,
    ConvictionsHeld,
    LeaseEnded,
    LeaseGranted,
    LeaseProgress,
    Message,
    Offer,
    OfferAccepted,
    OfferRejected,
    OfferReleased,
    PardonGiven,
    Question,
    ResultsOffered,
    Settled,
    StewardMessage,
    TaskAnswer,
    TaskEnquiry,
)
from wire.signed import Signed, Signer
from wire.tasks import Durability, task_id_of

# A core that hashes a thousand blocks of 64 KiB a second, a small board's, has the speed 1.
BLOCKS_PER_SPEED = 1_024


class Work:
    """The cores of tasks. Each method answers None to what is none of its business."""

    def __init__(
        self,
        *,
        settings: NodeSettings,
        signer: Signer,
        genesis: Signed[Genesis],
        mesh: MeshId,
        rng: Random,
        device: Device,
        neighbours: Neighbourhood,
    ) -> None:
        self._settings = settings
        self._signer = signer
        self._genesis = genesis
        self._mesh = mesh
        self._rng = rng
        self._device = device
        self._neighbours = neighbours
        self._is_begun = False
        self.history = History(wall_us=device.wall_us)
        self.histories = Histories(
            own=neighbours.own,
            history=self.history,
            candidates=self._candidates,
            is_linked=neighbours.links.__contains__,
            reach=self._reach,
            name_of=neighbours.name_of,
        )
        self.convictions = Convictions(
            signer=signer,
            mesh=mesh,
            may=neighbours.may,
            linked=lambda: sorted(neighbours.links),
        )
        self.executor = Executor(
            signer=signer,
            mesh=mesh,
            settings=settings.executor,
            breaker=device.own_breaker,
            may=neighbours.may,
            lacks=self._lacks,
            telemetry=neighbours.own_telemetry,
            is_linked=neighbours.links.__contains__,
        )

    def occupation(self) -> Occupation:
        """Return how much work is here."""
        return Occupation(
            slots_free=self.executor.slots_free, leases_count=self.executor.leases_count
        )

    # --- start and stop ---------------------------------------------------------------------

    def on_restarted(self, store: StoreId, rows: RowsByKind) -> list[Effect]:
        """Begin: the store's id is in what a steward signs."""
        neighbours, settings = self._neighbours, self._settings
        office = Stewardship(
            signer=self._signer,
            mesh=self._mesh,
            store=store,
            engine_profile=settings.engine_profile,
            may=self._may,
            chain_of=neighbours.chain_of,
            wall_us=self._device.wall_us,
            on_changed=self._on_tasks_changed,
            is_linked=neighbours.links.__contains__,
            reach=self._reach,
        )
        placements = Placements(sampler=Sampler(rng=self._rng))
        self.explainer = Explainer(
            office=office,
            placements=placements,
            candidates=self._candidates,
            name_of=neighbours.name_of,
        )
        self.steward = Steward(
            office,
            standings=neighbours.standings,
            placements=placements,
            leases=LeaseBook(lease_us=settings.lease_us),
            candidates=self._candidates,
            colleagues=self._colleagues,
            gone_us=settings.steward_gone_us,
            checks=SpotChecks(
                valid_in_a_row=neighbours.standings.valid_in_a_row,
                floor_permille=settings.spot_check_floor_permille,
                is_enabled=settings.spot_checks,
            ),
            convict=self.convictions.on_found,
        )
        self.enquiries = Enquiries(
            own=neighbours.own,
            genesis=self._genesis,
            batches=self.steward.batches,
            name_of=neighbours.name_of,
            cancel=self.steward.on_cancel,
            is_convicted=self.convictions.is_convicted,
            why=self._why,
        )
        self.forwarding = Forwarding(
            own=neighbours.own,
            enquiries=self.enquiries,
            candidates=self._candidates,
            is_linked=neighbours.links.__contains__,
            reach=self._reach,
        )
        self._is_begun = True
        self.history.on_restarted(rows.keyed(HISTORY_ROW, HistoryRow))
        self.convictions.on_restarted(
            rows.values(CONVICTION_ROW, ConvictionRow), rows.values(PARDON_ROW, PardonRow)
        )
        return [
            *self.executor.on_restarted(rows.keyed(RESULT_ROW, ResultRow)),
            *self.steward.on_restarted(
                rounds=rows.values(ROUND_ROW, RoundRow),
                batches=rows.values(BATCH_ROW, BatchRow),
                promises=rows.keyed(PROMISE_ROW, PromiseRow),
                decisions=rows.values(DECISION_ROW, DecisionRow),
                leases=rows.keyed(LEASE_ROW, LeaseRow),
            ),
        ]

    def on_stopping(self) -> list[Effect]:
        """Take no new work, give leases back."""
        self.steward.on_stopping()
        return self.executor.on_stopping(now_us=self._device.now_us)

    # --- events -----------------------------------------------------------------------------

    def on_event(self, event: Event) -> list[Effect] | None:
        """Return what to do about an event that is about work."""
        match event:
            case Executed(run=run, status=status):
                self.history.note(run.batch, "ran", (run.index,), detail=str(status))
                return self.executor.on_executed(event, now_us=self._device.now_us)
            case ExecutionFailed(run, reason, detail):
                text = f"{reason}: {detail}"
                self.history.note(run.batch, "run_failed", (run.index,), detail=text)
                return self.executor.on_execution_failed(event, now_us=self._device.now_us)
            case Fetched():
                return self.steward.on_fetched(event) + self.forwarding.on_fetched(event)
            case FetchFailed():
                effects = self.steward.on_fetch_failed(event, now_us=self._device.now_us)
                return effects + self.forwarding.on_fetched(event)
            case Loaded():
                told = self.forwarding.redirected(self.enquiries.on_loaded(event))
                told += self.histories.on_loaded(event)
                return told + self.steward.on_loaded(event)
            case LinkUp(peer=peer):
                return [
                    *self.executor.on_link_up(peer),
                    *self.steward.on_link_up(peer),
                    *self.convictions.on_link_up(peer),
                ]
            case LinkDown(peer=peer):
                return self.steward.on_link_down(peer)
            case WallClockRead():
                return self.steward.on_wall_clock_read()
            case AskedNoMore(request):
                self.enquiries.on_asked_no_more(request)
                self.forwarding.on_asked_no_more(request)
                self.histories.on_asked_no_more(request)
                return []
            case _:
                return None

    def on_message(self, peer: PeerId, message: Message) -> list[Effect] | None:
        """Return what to do about a message that is about tasks."""
        now_us = self._device.now_us
        match message:
            case Offer(chain=chain):
                self._neighbours.introduce(() if chain is None else (chain,))
                return self.executor.on_offer(peer, message, now_us=now_us)
            case BatchGiven(chains=chains):
                self._neighbours.introduce(chains)
                return self.steward.on_steward_message(peer, message, now_us=now_us)
            case OfferAccepted(telemetry=telemetry):
                effects = self._neighbours.on_fresh_telemetry(peer, telemetry)
                return effects + self.steward.on_offer_accepted(peer, message, now_us=now_us)
            case OfferRejected(telemetry=telemetry):
                effects = self._neighbours.on_fresh_telemetry(peer, telemetry)
                return effects + self.steward.on_offer_rejected(peer, message, now_us=now_us)
            case OfferReleased():
                return self.executor.on_offer_released(peer, message)
            case LeaseGranted():
                return self._on_lease_granted(peer, message)
            case LeaseProgress():
                return self.steward.on_lease_progress(peer, message, now_us=now_us)
            case LeaseEnded():
                self._note(
                    message.lease.batch, "lease_ended", message.indices, peer, message.reason
                )
                # Both sides may end a lease; each side knows only those it has.
                return [
                    *self.executor.on_lease_ended(peer, message, now_us=now_us),
                    *self.steward.on_lease_ended(peer, message, now_us=now_us),
                ]
            case ResultsOffered():
                return self.steward.on_results_offered(peer, message, now_us=now_us)
            case Settled(batch=batch, outcomes=outcomes):
                self._note(batch, "outcome_heard", tuple(outcomes), peer)
                return self.executor.on_settled(peer, message)
            case TaskEnquiry(question=Question.HISTORY):
                return self.histories.on_enquiry(peer, message)
            case TaskEnquiry():
                return self.forwarding.on_enquiry(peer, message)
            case TaskAnswer():
                told = self.histories.on_answer(peer, message)
                return told + self.forwarding.on_answer(peer, message)
            case ConvictionGiven(conviction=conviction):
                self._neighbours.introduce(conviction.chains)
                return self.convictions.on_message(peer, message)
            case ConvictionsHeld() | PardonGiven():
                return self.convictions.on_message(peer, message)
            case message if isinstance(message, StewardMessage):
                return self.steward.on_steward_message(peer, message, now_us=now_us)
            case _:
                return None

    def on_timer(self, key: Hashable) -> list[Effect] | None:
        """Return what to do about a timer of these cores."""
        match key:
            case ForwardDue():
                return self.forwarding.on_due(key)
            case GatheringDue():
                return self.histories.on_due(key)
            case HistoryDue():
                return self.history.on_due()
        effects = self._on_executor_timer(key)
        return self._on_steward_timer(key) if effects is None else effects

    def on_devices_changed(self) -> list[Effect]:
        """Devices came, went or changed: perhaps one is eligible now."""
        if not self._is_begun:
            return []
        return self.steward.on_devices_changed(now_us=self._device.now_us)

    def on_devices_removed(self, removed: frozenset[PeerId]) -> list[Effect]:
        """Devices are out of the mesh: no work goes on with them."""
        if not self._is_begun or not removed:
            return []
        now_us = self._device.now_us
        return [
            *self.executor.on_devices_removed(removed, now_us=now_us),
            *self.steward.on_devices_removed(removed, now_us=now_us),
        ]

    def on_submit(self, request: int, submit: Submit) -> list[Effect]:
        """Take a batch, or say why not; who could run it may have to be looked up first."""
        refused = self.steward.refusal(submit)
        if refused is not None:
            return [Answer(request, refused)]
        if not submit.requirements or self.steward.nobody_eligible(submit) is None:
            return self._accept_if_eligible(request, submit)

        def after_lookup(_: str, __: list[Member]) -> list[Effect]:
            return self._accept_if_eligible(request, submit)

        return self._neighbours.lookups.find(submit.requirements, via="any", then=after_lookup)

    def on_resubmit(self, request: int, reference: str) -> list[Effect]:
        """Make a new batch of a stuck one, kept by as many devices as there are now."""
        found = resolve(self.steward.batches, reference)
        if isinstance(found, Refused):
            return [Answer(request, found)]
        others = self.steward.would_ask(Durability.MESH)
        is_mesh = len(others) >= STEWARDS_COUNT - 1
        durability = Durability.MESH if is_mesh else Durability.LOCAL
        again = resubmission(found[0], self._neighbours.own, durability)
        if isinstance(again, Refused):
            return [Answer(request, again)]
        return self.on_submit(request, again)

    def on_plan(self, request: int, plan: Plan) -> list[Effect]:
        """Say where tasks would go, once those are known that may have to be looked up."""

        def answer(_: str, __: list[Member]) -> list[Effect]:
            view = self.explainer.plan(
                self.steward.contract_of_plan(plan),
                plan.tasks_count,
                stewards=[one.name for one in self.steward.would_ask(plan.durability)],
                now_us=self._device.now_us,
            )
            return [Answer(request, view)]

        if not plan.requirements or self.steward.nobody_eligible(sketch(plan)) is None:
            return answer("", [])
        return self._neighbours.lookups.find(plan.requirements, via="any", then=answer)

    def on_history_asked(self, request: int, command: GetHistory) -> list[Effect]:
        """Gather what happened to a task: of one that is not known here the whole id is needed."""
        try:
            task = task_id_from_text(command.task)
        except MalformedId:
            found = resolve(self.steward.batches, command.task)
            if isinstance(found, Refused):
                return [Answer(request, found)]
            batch, index = found
            task = task_id_of(batch.contract, index)
        return self.histories.on_asked(request, task)

    # --- details ----------------------------------------------------------------------------

    def _on_executor_timer(self, key: Hashable) -> list[Effect] | None:
        now_us = self._device.now_us
        match key:
            case ReservationEnds():
                return self.executor.on_reservation_ends(key, now_us=now_us)
            case ProgressDue():
                return self.executor.on_progress_due(key, now_us=now_us)
            case HeldLeaseEnds():
                return self.executor.on_held_lease_ends(key, now_us=now_us)
            case ResultsTick():
                return self.executor.on_results_tick()
            case ResultRetry():
                return self.executor.on_result_retry(key)
            case _:
                return None

    def _on_steward_timer(self, key: Hashable) -> list[Effect] | None:
        now_us = self._device.now_us
        match key:
            case RoundDurable():
                return self.steward.on_round_durable(now_us=now_us)
            case EarlierLeasesEnd():
                return self.steward.on_earlier_leases_end(now_us=now_us)
            case BatchDurable(batch=batch):
                self.history.note(batch, "kept", ())
                return self.steward.on_batch_durable(key, now_us=now_us)
            case PlacementReview():
                return self.steward.on_placement_review(now_us=now_us)
            case OfferUnanswered():
                return self.steward.on_offer_unanswered(key, now_us=now_us)
            case GrantedLeaseEnds():
                return self.steward.on_granted_lease_ends(key, now_us=now_us)
            case DecisionTick():
                return self.steward.on_decision_tick(now_us=now_us)
            case PatienceOver():
                return self.steward.on_patience_over(key, now_us=now_us)
            case ConvictionDurable(executor=executor):
                return self.steward.on_devices_removed(frozenset({executor}), now_us=now_us)
            case DecisionDurable():
                return self.steward.on_decision_durable(key, now_us=now_us)
            case DeadlineDue():
                return self.steward.on_deadline_due(key)
            case ReplicaDurable(batch=batch):
                self.history.note(batch, "kept", ())
                return self.steward.on_steward_timer(key, now_us=now_us)
            case key if isinstance(key, StewardTimer):
                return self.steward.on_steward_timer(key, now_us=now_us)
            case _:
                return None

    def _accept_if_eligible(self, request: int, submit: Submit) -> list[Effect]:
        nobody = self.steward.nobody_eligible(submit)
        if nobody is not None:
            return [Answer(request, nobody)]
        return self.steward.on_submit(request, submit)

    def _on_tasks_changed(self, batch: Batch, indices: Sequence[int]) -> list[Effect]:
        self.history.on_changed(batch, indices)
        return self.enquiries.on_changed(batch, indices)

    def _on_lease_granted(self, steward: PeerId, granted: LeaseGranted) -> list[Effect]:
        effects = self.executor.on_lease_granted(steward, granted, now_us=self._device.now_us)
        sent = [effect.message for effect in effects if isinstance(effect, Send)]
        if any(isinstance(message, LeaseProgress) for message in sent):  # it took the lease
            lease = granted.lease.body
            self.history.note(lease.batch, "lease_held", lease.indices, peer=steward)
        return effects

    def _note(
        self,
        batch: BatchId,
        kind: str,
        indices: Sequence[int],
        peer: PeerId,
        detail: str = "",
    ) -> None:
        """Note what another device says of a batch that this one has to do with."""
        if batch in self.steward.batches or self.history.knows(batch):
            self.history.note(batch, kind, indices, peer=peer, detail=detail)

    def _why(self, batch: Batch, index: int) -> WhyView:
        return self.explainer.why(batch, index, now_us=self._device.now_us)

    def _may(self, peer: PeerId, role: Role) -> bool:
        is_barred = role is Role.EXECUTOR and self.convictions.is_convicted(peer)
        return self._neighbours.may(peer, role) and not is_barred

    def _lacks(self, capabilities: Iterable[str]) -> list[str]:
        return missing(capabilities, frozenset(self._settings.capabilities))

    def _workers_free(self) -> int:
        return max(0, self._settings.workers_count - self.executor.runs_count)

    def _candidates(self) -> list[Candidate]:
        return [self._candidate(member) for member in self._neighbours.directory]

    def _colleagues(self) -> list[Colleague]:
        """Return the linked devices that may keep tasks."""
        neighbours = self._neighbours
        return [
            Colleague(
                peer=member.peer,
                name=member.name,
                health=neighbours.standings.health(member.peer).score,
                region=(member.presence.region if member.presence is not None else "") or None,
            )
            for member in neighbours.directory
            if member.peer in neighbours.links
            and member.may(Role.STEWARD)
            and not member.has_left
            and not neighbours.is_dead(member.peer)
        ]

    def _reach(self, peer: PeerId) -> list[Effect]:
        neighbours = self._neighbours
        return neighbours.overlay.reach(peer, (), now_us=self._device.now_us)

    def _candidate(self, member: Member) -> Candidate:
        peer, presence = member.peer, member.presence
        neighbours, own_breaker = self._neighbours, self._device.breaker
        is_self = peer == neighbours.own
        sample = self._device.sample() if is_self else member.sample
        standings = neighbours.standings
        return Candidate(
            peer=peer,
            name=member.name,
            is_self=is_self,
            is_linked=peer in neighbours.links,
            is_executor=member.may(Role.EXECUTOR),
            has_left=member.has_left,
            is_dead=neighbours.is_dead(peer),
            operator=member.certificate.operator,
            is_convicted=self.convictions.is_convicted(peer),
            capabilities=member.capabilities,
            node_type=None if presence is None else presence.node_type,
            engine_profiles=() if presence is None else presence.engine_profiles,
            breaker=own_breaker.state if is_self else standings.state(peer),
            allows_work=standings.allows_work(peer) and (not is_self or own_breaker.allows_work),
            health=standings.health(peer).score,
            slots_free=None if sample is None else sample.task_slots_free,
            slots_total=None if sample is None else sample.task_slots_total,
            workers_free=self._workers_free() if is_self else None,
            speed=_speed(sample),
            round_trip_us=neighbours.measurements.of(peer).round_trip_us or 0,
        )


def _speed(sample: Sample | None) -> int:
    if sample is None or sample.compute_score is None:
        return 1
    return max(1, sample.compute_score // BLOCKS_PER_SPEED)
