"""The node: all cores composed into one object without I/O. What is simulated is what ships.

`handle` takes one event and the time and returns effects in order. A message to itself does not
leave the node: it is handled at once, so work on this device needs no special case.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from msgspec import Struct

from meshd.settings import NodeSettings
from meshd.views import PeerViews, breaker_reason
from p2p.address_book import ADDRESS_ROW, AddressRow
from p2p.admission import INVITATION_ROW, Admission, InvitationRow
from p2p.capability import missing
from p2p.directory import Chain, Directory, Member
from p2p.gossip import ExchangeDue, Gossip
from p2p.liveness import HeartbeatDue, Liveness
from p2p.lookup import LookupEnds, Lookups, ProvideReviewDue, Providing
from p2p.overlay import Overlay, ReviewDue
from p2p.own_records import (
    INCARNATION_ROW,
    IncarnationDurable,
    IncarnationRow,
    OwnRecords,
    RaiseDue,
)
from scheduler.batch import BATCH_ROW, DECISION_ROW, Batch, BatchRow, DecisionRow
from scheduler.dispatch import OfferUnanswered
from scheduler.enquiries import Enquiries
from scheduler.executor import (
    RESULT_ROW,
    Executor,
    HeldLeaseEnds,
    ProgressDue,
    ReservationEnds,
    ResultRetry,
    ResultRow,
    ResultsTick,
)
from scheduler.leases import GrantedLeaseEnds, LeaseBook
from scheduler.outcomes import DeadlineDue
from scheduler.placement import Placements
from scheduler.register import DecisionDurable
from scheduler.selection import Candidate, Sampler
from scheduler.standing import MEASUREMENT_ROW, BreakerDue, Standings
from scheduler.steward import ROUND_ROW, EarlierLeasesEnd, RoundDurable, RoundRow, Steward
from scheduler.stewardship import Stewardship
from scheduler.submission import BatchDurable
from scheduler.verification import DecisionTick
from scheduler.waiting import PlacementReview
from telemetry.breaker import Breaker
from telemetry.measurement import Measured, MeasurementRecord, Measurements
from telemetry.sample import Sample, decode_sample, occupied
from wire.answers import RefusalCode, Refused, StatusView
from wire.commands import (
    Command,
    Find,
    GetPeer,
    GetStatus,
    Invite,
    ListPeers,
    Submit,
)
from wire.effects import Answer, AnswerJoin, Effect, Persist, Publish, Send, SetTimer, Trace
from wire.events import (
    Asked,
    AskedNoMore,
    Congested,
    DialFailed,
    Drained,
    Event,
    Executed,
    ExecutionFailed,
    Fetched,
    FetchFailed,
    JoinAsked,
    LinkDown,
    LinkUp,
    Listening,
    Loaded,
    PeerSeen,
    PersistFailed,
    ProvidersFound,
    PublishedReceived,
    Received,
    Restarted,
    Sampled,
    Stopping,
    TimerDue,
    TransferMeasured,
    WallClockRead,
)
from wire.ids import MeshId, PeerId, StoreId, did_key, mesh_text, peer_text
from wire.membership import (
    ADDRESSES_MAX,
    Genesis,
    JoinRefusal,
    JoinRefused,
    Role,
    check_chain,
    mesh_id_of,
)
from wire.messages import (
    LINK_PROTOCOL,
    BucketSummary,
    BucketVersions,
    Heartbeat,
    HeartbeatAcknowledged,
    Hello,
    LeaseEnded,
    LeaseGranted,
    LeaseProgress,
    Message,
    Offer,
    OfferAccepted,
    OfferRejected,
    OfferReleased,
    RecordsGiven,
    RecordsWanted,
    ResultsOffered,
    Settled,
    StateSummary,
)
from wire.records import Presence, Record
from wire.signed import Signed, Signer

ROW_KINDS: dict[str, type[Struct]] = {
    ADDRESS_ROW: AddressRow,
    BATCH_ROW: BatchRow,
    DECISION_ROW: DecisionRow,
    INCARNATION_ROW: IncarnationRow,
    INVITATION_ROW: InvitationRow,
    MEASUREMENT_ROW: MeasurementRecord,
    RESULT_ROW: ResultRow,
    ROUND_ROW: RoundRow,
}

# A core that hashes a thousand blocks of 64 KiB a second, a small board's, has the speed 1.
BLOCKS_PER_SPEED = 1_024
EVENTS_PER_HANDLE_MAX = 10_000

_Value = TypeVar("_Value", bound=Struct)


@dataclass(frozen=True, slots=True)
class OwnMessageDue:
    """Timer of no delay: a message to this device whose records are durable now."""

    number: int


@dataclass(slots=True, kw_only=True)
class _Wall:
    """The wall clock as of its last reading; before the first it says the epoch."""

    read_us: int = 0
    read_at_us: int = 0

    def at(self, now_us: int) -> int:
        return self.read_us + now_us - self.read_at_us if self.read_us else 0


class MeshNode:
    """One device of the mesh."""

    def __init__(
        self,
        *,
        settings: NodeSettings,
        signer: Signer,
        genesis: Signed[Genesis],
        chain: Chain,
        network_key: bytes,
        rng: Random,
        removed: frozenset[PeerId] = frozenset(),
    ) -> None:
        self.settings = settings
        self.signer = signer
        self.own: PeerId = signer.peer
        self.genesis = genesis
        self.chain = chain
        self.mesh: MeshId = mesh_id_of(genesis)
        self.certificate = check_chain(chain, genesis=genesis, subject=self.own)
        self.rng = rng
        self._removed = removed
        self.links: dict[PeerId, object] = {}
        self._now_us = 0
        self._started_us: int | None = None
        self._store: StoreId | None = None
        self._wall = _Wall()
        self._addresses: tuple[str, ...] = ()
        self._sensed = Sample()
        self._is_stopping = False
        self._broken: str | None = None
        self._revision_seen = 0
        self._own_messages: dict[int, Message] = {}
        self._own_messages_count = 0
        self._compose(network_key)

    def _compose(self, network_key: bytes) -> None:
        settings = self.settings
        self.directory = Directory(
            own=self.own,
            genesis=self.genesis,
            is_linked=self.links.__contains__,
            is_removed=self._removed.__contains__,
            is_needed=lambda peer: self.overlay.is_needed(peer),
            members_max=settings.members_max,
        )
        self.directory.introduce(self.own, self.chain)
        self.gossip = Gossip(directory=self.directory, links=self.links, rng=self.rng)
        self.overlay = Overlay(
            own=self.own,
            directory=self.directory,
            links=self.links,
            rng=self.rng,
            links_max=settings.links_max,
            dials_max=settings.dials_max,
        )
        self.measurements = Measurements()
        self.liveness = Liveness(measurements=self.measurements, rng=self.rng)
        self.lookups = Lookups(directory=self.directory, overlay=self.overlay, links=self.links)
        self.providing = Providing(directory=self.directory, own_keys=settings.capabilities)
        self.admission = Admission(
            signer=self.signer,
            genesis=self.genesis,
            chain=self.chain,
            network_key=network_key,
            rng=self.rng,
        )
        self.own_breaker = Breaker(random=self.rng, config=settings.breaker)
        self.standings = Standings(
            sample_of=self._sample_of,
            rng=self.rng,
            measurements=self.measurements,
            breaker_config=settings.breaker,
            weights=settings.weights,
            references=settings.references,
        )
        self.executor = Executor(
            signer=self.signer,
            settings=settings.executor,
            may=self._may,
            lacks=self._lacks,
            allows_work=lambda: self.own_breaker.allows_work,
            telemetry=self._fresh_telemetry,
            is_linked=self.links.__contains__,
        )
        self.views = PeerViews(
            own=self.own,
            mesh=self.mesh,
            directory=self.directory,
            links=self.links,
            overlay=self.overlay,
            standings=self.standings,
            own_breaker=self.own_breaker,
        )

    def _compose_with_store(self, store: StoreId) -> None:
        """The store's id is in what these two sign, so they begin with the first event."""
        self._store = store
        self.own_records = OwnRecords(
            signer=self.signer,
            chain=self.chain,
            directory=self.directory,
            capabilities=self.settings.capabilities,
            presence=Presence(
                name=self.settings.name,
                node_type=self.settings.node_type,
                region=self.settings.region,
                addresses=self._addresses,
                protocol=LINK_PROTOCOL,
                engine_profiles=(self.settings.engine_profile,),
                store=store,
            ),
        )
        self.steward = Steward(
            Stewardship(
                signer=self.signer,
                mesh=self.mesh,
                store=store,
                engine_profile=self.settings.engine_profile,
                may=self._may,
                chain_of=self._chain_of,
                wall_us=self._wall_us,
                on_changed=self._on_task_changed,
            ),
            standings=self.standings,
            placements=Placements(sampler=Sampler(rng=self.rng)),
            leases=LeaseBook(lease_us=self.settings.lease_us),
            candidates=self._candidates,
        )
        self.enquiries = Enquiries(
            own=self.own,
            genesis=self.genesis,
            batches=self.steward.batches,
            name_of=self._name_of,
            cancel=self.steward.on_cancel,
        )

    # --- the one entrance -------------------------------------------------------------------

    def handle(self, event: Event, now_us: int) -> list[Effect]:
        """Return what to do about `event`. The first event is `Restarted`."""
        self._now_us = now_us
        if self._broken is not None:
            return self._refuse_while_broken(event)
        outgoing: list[Effect] = []
        waiting: deque[Effect] = deque(self._on_event(event))
        for _ in range(EVENTS_PER_HANDLE_MAX):
            waiting.extend(self._on_members_changed())
            if not waiting:
                return outgoing
            match waiting.popleft():
                case Send(peer, message) if peer == self.own:
                    waiting.extendleft(reversed(self._on_message(self.own, message)))
                case Persist(rows, then):
                    outgoing.append(Persist(rows, tuple(map(self._kept_here, then))))
                case effect:
                    outgoing.append(effect)
        raise AssertionError(
            f"{type(event).__name__} set off an endless talk of the node to itself"
        )

    def _kept_here(self, effect: Effect) -> Effect:
        """A message to this device that waits for the disk comes back as a timer of no delay."""
        if not isinstance(effect, Send) or effect.peer != self.own:
            return effect
        self._own_messages_count += 1
        self._own_messages[self._own_messages_count] = effect.message
        return SetTimer(OwnMessageDue(self._own_messages_count), 0)

    def hello(self) -> Hello:
        """Return what this device says first on a link."""
        return Hello(
            mesh=self.mesh,
            genesis=self.genesis,
            chain=self.chain,
            protocol=LINK_PROTOCOL,
            incarnation=self.own_records.incarnation,
        )

    def _on_event(self, event: Event) -> list[Effect]:
        match event:
            case Restarted():
                return self._on_restarted(event)
            case Received(peer, message):
                self.liveness.on_heard(peer, now_us=self._now_us)
                return self._on_message(peer, message)
            case TimerDue(key):
                return self._on_timer(key)
            case LinkUp():
                return self._on_link_up(event)
            case LinkDown(peer, reason):
                return self._on_link_down(peer, reason)
            case DialFailed(peer, reason):
                return [
                    *self.overlay.on_dial_failed(peer, reason, now_us=self._now_us),
                    *self.lookups.on_unreachable(peer, now_us=self._now_us),
                ]
            case Asked(request, command):
                return self._on_asked(request, command)
            case _:
                return self._on_report(event)

    def _on_report(self, event: Event) -> list[Effect]:
        now_us = self._now_us
        match event:
            case Executed():
                return self.executor.on_executed(event)
            case ExecutionFailed():
                return self.executor.on_execution_failed(event)
            case Fetched():
                return self.steward.on_fetched(event)
            case FetchFailed():
                return self.steward.on_fetch_failed(event, now_us=now_us)
            case Loaded():
                return self.enquiries.on_loaded(event)
            case ProvidersFound():
                return self.lookups.on_providers_found(event, now_us=now_us)
            case PublishedReceived(message):
                return self._on_records(None, message)
            case PeerSeen(peer, addresses, source):
                return self.overlay.on_peer_seen(peer, addresses, source)
            case TransferMeasured():
                return self._on_transfer(event)
            case Sampled(body):
                return self._on_sampled(decode_sample(body))
            case Listening(addresses):
                # A presence with more could not be read by anybody.
                self._addresses = addresses[:ADDRESSES_MAX]
                return self._spread(self.own_records.on_addresses(self._addresses, now_us=now_us))
            case WallClockRead(wall_us, uncertainty_us):
                known_us = 0 if uncertainty_us is None else wall_us
                self._wall = _Wall(read_us=known_us, read_at_us=now_us)
                return self.steward.on_wall_clock_read()
            case AskedNoMore(request):
                self.enquiries.on_asked_no_more(request)
                return []
            case JoinAsked():
                return self.admission.on_join_asked(event, wall_us=self._wall_us())
            case Congested(peer, traffic) | Drained(peer, traffic):
                fields = {"peer": peer.hex(), "traffic": traffic.name.lower()}
                return [Trace(f"link.{type(event).__name__.lower()}", {**fields})]
            case PersistFailed(reason):
                self._broken = reason
                return [Trace("store.failed", {"reason": reason})]
            case Stopping():
                return self._on_stopping()
            case _:
                raise AssertionError(f"no core takes {type(event).__name__}")

    # --- start, stop, failure ---------------------------------------------------------------

    def _on_restarted(self, restarted: Restarted) -> list[Effect]:
        self._started_us = self._now_us
        self._compose_with_store(restarted.store)
        rows = _RowsByKind(restarted)
        self.admission.on_restarted(rows.keyed(INVITATION_ROW, InvitationRow))
        self.standings.on_restarted(rows.values(MEASUREMENT_ROW, MeasurementRecord))
        return [
            *self.own_records.on_restarted(rows.values(INCARNATION_ROW, IncarnationRow)),
            *self.overlay.on_restarted(rows.values(ADDRESS_ROW, AddressRow)),
            *self.executor.on_restarted(rows.keyed(RESULT_ROW, ResultRow)),
            *self.steward.on_restarted(
                rounds=rows.values(ROUND_ROW, RoundRow),
                batches=rows.values(BATCH_ROW, BatchRow),
                decisions=rows.keyed(DECISION_ROW, DecisionRow),
            ),
            *self.gossip.start(),
            # After the first sync: before it every capability seems rare.
            SetTimer(ProvideReviewDue(), self.rng.randrange(3_000_000, 6_000_000)),
        ]

    def _on_stopping(self) -> list[Effect]:
        self._is_stopping = True
        self.steward.on_stopping()
        goodbye = self.own_records.on_stopping(now_us=self._now_us)
        return [*self.executor.on_stopping(), *self._spread(goodbye), *self._publish(goodbye)]

    def _refuse_while_broken(self, event: Event) -> list[Effect]:
        # What is not durable must not be promised: nothing is decided until a restart from disk.
        if isinstance(event, JoinAsked):
            return [AnswerJoin(event.request, JoinRefused(reason=JoinRefusal.BUSY))]
        if not isinstance(event, Asked):
            return []
        refused = Refused(
            code=RefusalCode.STORAGE_FULL,
            message=f"the store cannot write: {self._broken}",
            hint="free space, then start the daemon again; what was accepted is kept",
        )
        return [Answer(event.request, refused)]

    # --- links and messages -----------------------------------------------------------------

    def _on_link_up(self, link: LinkUp) -> list[Effect]:
        self.links[link.peer] = link
        return [
            *self.overlay.on_link_up(
                link.peer, link.address, is_outbound=link.is_outbound, now_us=self._now_us
            ),
            *self.liveness.on_link_up(link.peer, now_us=self._now_us),
            *self.gossip.on_link_up(link.peer, link.hello.chain),
            *self.lookups.on_link_up(link.peer),
            *self.executor.on_link_up(link.peer),
            Trace("link.up", {"peer_id": peer_text(link.peer), "address": link.address}),
        ]

    def _on_link_down(self, peer: PeerId, reason: str) -> list[Effect]:
        self.links.pop(peer, None)
        self.liveness.on_link_down(peer)
        return [
            *self.overlay.on_link_down(peer, reason, now_us=self._now_us),
            *self.lookups.on_unreachable(peer, now_us=self._now_us),
            Trace("link.down", {"peer_id": peer_text(peer), "reason": reason}),
        ]

    def _on_message(self, peer: PeerId, message: Message) -> list[Effect]:
        now_us = self._now_us
        match message:
            case Heartbeat():
                return self.liveness.on_heartbeat(peer, message)
            case HeartbeatAcknowledged():
                effects = self.liveness.on_acknowledged(peer, message, now_us=now_us)
                return effects + self.standings.on_readings(peer, now_us=now_us)
            case StateSummary():
                return self.gossip.on_state_summary(peer, message)
            case BucketSummary():
                return self.gossip.on_bucket_summary(peer, message)
            case BucketVersions():
                return self.gossip.on_bucket_versions(peer, message)
            case RecordsWanted():
                return self.gossip.on_records_wanted(peer, message)
            case RecordsGiven():
                return self._on_records(peer, message)
            case _:
                return self._on_task_message(peer, message)

    def _on_task_message(self, peer: PeerId, message: Message) -> list[Effect]:
        now_us = self._now_us
        match message:
            case Offer():
                return self.executor.on_offer(peer, message, now_us=now_us)
            case OfferAccepted(telemetry=telemetry) | OfferRejected(telemetry=telemetry):
                effects = self._on_fresh_telemetry(peer, telemetry)
                if isinstance(message, OfferAccepted):
                    return effects + self.steward.on_offer_accepted(peer, message, now_us=now_us)
                return effects + self.steward.on_offer_rejected(peer, message, now_us=now_us)
            case OfferReleased():
                return self.executor.on_offer_released(peer, message)
            case LeaseGranted():
                return self.executor.on_lease_granted(peer, message, now_us=now_us)
            case LeaseProgress():
                return self.steward.on_lease_progress(peer, message, now_us=now_us)
            case LeaseEnded():
                # Both sides may end a lease; each side knows only those it has.
                return [
                    *self.executor.on_lease_ended(peer, message),
                    *self.steward.on_lease_ended(peer, message, now_us=now_us),
                ]
            case ResultsOffered():
                return self.steward.on_results_offered(peer, message, now_us=now_us)
            case Settled():
                return self.executor.on_settled(peer, message)
            case _:
                return [Trace("message.out_of_place", {"kind": type(message).__name__})]

    def _on_timer(self, key: object) -> list[Effect]:
        now_us = self._now_us
        match key:
            case ReviewDue():
                return [] if self._is_stopping else self.overlay.on_review_due(now_us=now_us)
            case HeartbeatDue(peer):
                return self.liveness.on_heartbeat_due(peer, now_us=now_us)
            case ExchangeDue():
                return self.gossip.on_exchange_due()
            case ProvideReviewDue():
                return self.providing.on_review_due()
            case LookupEnds():
                return self.lookups.on_lookup_ends(key)
            case IncarnationDurable():
                records = self.own_records.on_incarnation_durable(key, now_us=now_us)
                return self._spread(records) + self._publish(records)
            case RaiseDue():
                return self.own_records.on_raise_due(now_us=now_us)
            case BreakerDue():
                return self._on_breaker_due(key)
            case OwnMessageDue(number):
                return self._on_message(self.own, self._own_messages.pop(number))
            case _:
                return self._on_task_timer(key)

    def _on_task_timer(self, key: object) -> list[Effect]:
        now_us = self._now_us
        match key:
            case ReservationEnds():
                return self.executor.on_reservation_ends(key)
            case ProgressDue():
                return self.executor.on_progress_due(key, now_us=now_us)
            case HeldLeaseEnds():
                return self.executor.on_held_lease_ends(key, now_us=now_us)
            case ResultsTick():
                return self.executor.on_results_tick()
            case ResultRetry():
                return self.executor.on_result_retry(key)
            case RoundDurable():
                return self.steward.on_round_durable(now_us=now_us)
            case EarlierLeasesEnd():
                return self.steward.on_earlier_leases_end(now_us=now_us)
            case BatchDurable():
                return self.steward.on_batch_durable(key, now_us=now_us)
            case PlacementReview():
                return self.steward.on_placement_review(now_us=now_us)
            case OfferUnanswered():
                return self.steward.on_offer_unanswered(key, now_us=now_us)
            case GrantedLeaseEnds():
                return self.steward.on_granted_lease_ends(key, now_us=now_us)
            case DecisionTick():
                return self.steward.on_decision_tick(now_us=now_us)
            case DecisionDurable():
                return self.steward.on_decision_durable(key, now_us=now_us)
            case DeadlineDue():
                return self.steward.on_deadline_due(key)
            case _:
                raise AssertionError(f"no core set the timer {key!r}")

    # --- records ----------------------------------------------------------------------------

    def _on_records(self, peer: PeerId | None, message: Message) -> list[Effect]:
        if not isinstance(message, RecordsGiven):
            return [Trace("message.out_of_place", {"kind": type(message).__name__})]
        effects: list[Effect] = []
        for signed in message.records:
            if signed.body.owner == self.own and signed.signer == self.own:
                effects += self.own_records.on_own_record_heard(signed.body, now_us=self._now_us)
        effects += self.gossip.on_records_given(peer, message, now_us=self._now_us)
        if peer is not None:
            effects += self.lookups.on_records_given(peer, message, now_us=self._now_us)
        return effects

    def _on_fresh_telemetry(self, peer: PeerId, signed: Signed[Record] | None) -> list[Effect]:
        if signed is None or signed.body.owner != peer or peer == self.own:
            return []
        self.directory.merge(signed, None, now_us=self._now_us)
        return self.standings.on_readings(peer, now_us=self._now_us)

    def _on_members_changed(self) -> list[Effect]:
        if self.directory.revision == self._revision_seen:
            return []
        self._revision_seen = self.directory.revision
        effects = self.lookups.on_members_changed(now_us=self._now_us)
        if self._store is not None:
            effects += self.steward.on_devices_changed(now_us=self._now_us)
        return effects

    def _spread(self, records: tuple[Signed[Record], ...]) -> list[Effect]:
        return self.gossip.spread(records) if records else []

    def _publish(self, records: tuple[Signed[Record], ...]) -> list[Effect]:
        if not records:
            return []
        topic = f"/meshd/{mesh_text(self.mesh)}/presence"
        return [Publish(topic, self.gossip.with_chains(records))]

    # --- this device ------------------------------------------------------------------------

    def _on_sampled(self, sample: Sample) -> list[Effect]:
        self._sensed = sample
        full = self._occupied()
        records = self.own_records.on_sample(
            full, members_count=len(self.directory), now_us=self._now_us
        )
        self.own_breaker.on_readings(Measured(), full, now_us=self._now_us)
        return [*self._spread(records), *self._own_breaker_timer()]

    def _on_breaker_due(self, due: BreakerDue) -> list[Effect]:
        if due.peer != self.own:
            return self.standings.on_breaker_due(due, now_us=self._now_us)
        self.own_breaker.on_timer_due(now_us=self._now_us)
        return self._own_breaker_timer()

    def _own_breaker_timer(self) -> list[Effect]:
        due_us = self.own_breaker.due_us
        if due_us is None:
            return []
        return [SetTimer(BreakerDue(self.own), max(1, due_us - self._now_us))]

    def _on_transfer(self, transfer: TransferMeasured) -> list[Effect]:
        if transfer.received_bytes:
            self.measurements.on_received(
                transfer.peer, transfer.received_bytes, transfer.duration_us
            )
        if transfer.sent_bytes:
            self.measurements.on_sent(transfer.peer, transfer.sent_bytes, transfer.duration_us)
        return []

    def _occupied(self) -> Sample:
        slots = self.settings.task_slots
        return occupied(
            self._sensed,
            task_slots_total=slots,
            task_slots_free=min(slots, self.executor.slots_free),
            leases_count=self.executor.leases_count,
            uptime_us=self._now_us - (self._started_us or self._now_us),
        )

    def _fresh_telemetry(self, now_us: int) -> Signed[Record]:
        return self.own_records.telemetry(self._occupied(), now_us=now_us)

    # --- questions --------------------------------------------------------------------------

    def _on_asked(self, request: int, command: Command) -> list[Effect]:
        match command:
            case GetStatus():
                return [Answer(request, self._status())]
            case ListPeers():
                return [Answer(request, self.views.peers(now_us=self._now_us))]
            case GetPeer(reference):
                found = self.views.resolve(reference)
                if isinstance(found, Refused):
                    return [Answer(request, found)]
                return [Answer(request, self.views.peer(found, now_us=self._now_us))]
            case Find():
                return self._find(request, command)
            case Invite():
                return self.admission.on_invite(
                    request, command, addresses=self._addresses, wall_us=self._wall_us()
                )
            case Submit():
                return self._on_submit(request, command)
            case _:
                return self.enquiries.on_asked(request, command)

    def _find(self, request: int, find: Find) -> list[Effect]:
        def answer(source: str, members: list[Member]) -> list[Effect]:
            view = self.views.found(find.capabilities, source, members, now_us=self._now_us)
            return [Answer(request, view)]

        return self.lookups.find(find.capabilities, via=find.via, then=answer)

    def _on_submit(self, request: int, submit: Submit) -> list[Effect]:
        refused = self.steward.refusal(submit)
        if refused is not None:
            return [Answer(request, refused)]
        if not submit.requirements or self.steward.nobody_eligible(submit) is None:
            return self._accept_if_eligible(request, submit)

        def after_lookup(_: str, __: list[Member]) -> list[Effect]:
            return self._accept_if_eligible(request, submit)

        return self.lookups.find(submit.requirements, via="any", then=after_lookup)

    def _accept_if_eligible(self, request: int, submit: Submit) -> list[Effect]:
        nobody = self.steward.nobody_eligible(submit)
        if nobody is not None:
            return [Answer(request, nobody)]
        return self.steward.on_submit(request, submit)

    def _on_task_changed(self, batch: Batch, index: int) -> list[Effect]:
        return self.enquiries.on_changed(batch, index)

    def _status(self) -> StatusView:
        return StatusView(
            id=peer_text(self.own),
            did=did_key(self.own),
            name=self.settings.name,
            mesh=mesh_text(self.mesh),
            operator=self.certificate.operator,
            roles=[str(role) for role in self.certificate.roles],
            version=self.settings.version,
            home=None,
            pid=None,
            uptime_us=self._now_us - (self._started_us or self._now_us),
            addresses=list(self._addresses),
            incarnation=self.own_records.incarnation,
            store=self._store.hex() if self._store is not None else "",
            links=len(self.links),
            members=len(self.directory),
            health=self.views.health_view(self.own),
            breaker=str(self.own_breaker.state),
            breaker_reason=breaker_reason(self.own_breaker),
            tasks=self.enquiries.counts(),
            leases_held=self.executor.leases_count,
            runs_active=self.executor.runs_count,
            engine_profile=self.settings.engine_profile,
            sandbox={},
            storage={},
            counters={},
            warnings=[],
        )

    # --- what cores ask the node ------------------------------------------------------------

    def _wall_us(self) -> int:
        return self._wall.at(self._now_us)

    def _may(self, peer: PeerId, role: Role) -> bool:
        member = self.directory.get(peer)
        return member is not None and member.may(role)

    def _lacks(self, capabilities: Iterable[str]) -> list[str]:
        return missing(capabilities, frozenset(self.settings.capabilities))

    def _sample_of(self, peer: PeerId) -> Sample | None:
        if peer == self.own:
            return self._occupied()
        member = self.directory.get(peer)
        return None if member is None else member.sample

    def _chain_of(self, peer: PeerId) -> Chain | None:
        member = self.directory.get(peer)
        return None if member is None else member.chain

    def _name_of(self, peer: PeerId) -> str:
        member = self.directory.get(peer)
        return peer_text(peer)[-8:] if member is None else member.name

    def _candidates(self) -> list[Candidate]:
        return [self._candidate(member) for member in self.directory]

    def _candidate(self, member: Member) -> Candidate:
        peer, presence = member.peer, member.presence
        is_self = peer == self.own
        sample = self._occupied() if is_self else member.sample
        measured = self.measurements.of(peer)
        return Candidate(
            peer=peer,
            name=member.name,
            is_self=is_self,
            is_linked=peer in self.links,
            is_executor=member.may(Role.EXECUTOR),
            has_left=member.has_left,
            capabilities=member.capabilities,
            node_type=None if presence is None else presence.node_type,
            engine_profiles=() if presence is None else presence.engine_profiles,
            breaker=self.own_breaker.state if is_self else self.standings.state(peer),
            allows_work=self.standings.allows_work(peer)
            and (not is_self or self.own_breaker.allows_work),
            health=self.standings.health(peer).score,
            slots_free=None if sample is None else sample.task_slots_free,
            slots_total=None if sample is None else sample.task_slots_total,
            speed=_speed(sample),
            round_trip_us=measured.round_trip_us or 0,
        )


class _RowsByKind:
    """The rows of a restart, sorted by what they are."""

    def __init__(self, restarted: Restarted) -> None:
        self._rows: dict[str, list[tuple[bytes, Struct]]] = {}
        for row in restarted.rows:
            if row.value is not None:
                self._rows.setdefault(row.kind, []).append((row.key, row.value))

    def keyed(self, kind: str, struct: type[_Value]) -> list[tuple[bytes, _Value]]:
        return [
            (key, value) for key, value in self._rows.get(kind, ()) if isinstance(value, struct)
        ]

    def values(self, kind: str, struct: type[_Value]) -> list[_Value]:
        return [value for _, value in self.keyed(kind, struct)]


def _speed(sample: Sample | None) -> int:
    if sample is None or sample.compute_score is None:
        return 1
    return max(1, sample.compute_score // BLOCKS_PER_SPEED)
