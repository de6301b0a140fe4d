"""The half of the node about other devices: membership, links, gossip, lookups, standing."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from random import Random

from msgspec.structs import replace

from meshd.device import Device
from meshd.rows import RowsByKind
from meshd.settings import NodeSettings
from meshd.standing_warnings import standing_warnings
from p2p.address_book import ADDRESS_ROW, AddressRow
from p2p.admission import INVITATION_ROW, Admission, InvitationRow
from p2p.directory import Chain, Directory
from p2p.failure_detector import FailureDetector, WatchDue
from p2p.gossip import AnswerDue, ExchangeDue, Gossip, RumorsDue
from p2p.liveness import HeartbeatDue, Liveness
from p2p.lookup import LookupDoubted, LookupEnds, Lookups, ProvideReviewDue, Providing
from p2p.network_keys import NETWORK_KEY_ROW, NetworkKeyRow, NetworkKeys, PreviousKeyAges
from p2p.observations import Observed
from p2p.overlay import Overlay, ReviewDue
from p2p.own_records import (
    INCARNATION_ROW,
    IncarnationDurable,
    IncarnationRow,
    OwnRecords,
    RaiseDue,
)
from p2p.removal_exchange import RemovalExchange
from p2p.removals import REMOVAL_ROW, RemovalRow, Removals
from p2p.removing import Removing
from p2p.verdicts import Verdict, Verdicts
from scheduler.reputation import (
    AGE_ROW,
    MEASUREMENT_ROW,
    AgeDue,
    AgeRow,
    ObservationsDue,
    ObservationsDurable,
    Reputation,
)
from scheduler.standing import BreakerDue, Standings
from telemetry.measurement import MeasurementRecord, Measurements
from telemetry.sample import Sample
from wire.answers import Refused
from wire.commands import Remove
from wire.effects import Answer, Effect, Hangup, Persist, Publish, Send, Trace
from wire.errors import NotAMember
from wire.events import (
    DialFailed,
    Event,
    JoinAsked,
    LinkDown,
    LinkUp,
    Listening,
    PeerNeeded,
    PeerSeen,
    ProvidersFound,
    PublishedReceived,
    TransferMeasured,
)
from wire.ids import PeerId, StoreId, mesh_text, peer_text
from wire.membership import ADDRESSES_MAX, Genesis, Removal, Role, mesh_id_of
from wire.messages import (
    LINK_PROTOCOL,
    BucketSummary,
    BucketVersions,
    Heartbeat,
    HeartbeatAcknowledged,
    LinkRefused,
    Message,
    NetworkKeyGiven,
    NetworkKeyHeld,
    RecordsGiven,
    RecordsWanted,
    RefusalReason,
    RemovalsGiven,
    RemovalsHeld,
    RemovalsSummary,
    RemovalsWanted,
    StateSummary,
)
from wire.records import Presence, Record, RecordKind
from wire.signed import Signed, Signer

REFUSALS_REMEMBERED_MAX = 64


class Neighbourhood:
    """The cores of membership. Each method answers None to what is none of its business."""

    def __init__(
        self,
        *,
        settings: NodeSettings,
        signer: Signer,
        genesis: Signed[Genesis],
        chain: Chain,
        network_key: bytes,
        rng: Random,
        removals: tuple[Signed[Removal], ...],
        recovery_signer_of: Callable[[bytes], Signer],
        device: Device,
    ) -> None:
        self._settings = settings
        self._signer = signer
        self._chain = chain
        self._device = device
        self._topic = f"/meshd/{mesh_text(mesh_id_of(genesis))}/presence"
        self.own: PeerId = signer.peer
        self.links: dict[PeerId, object] = {}
        self.addresses: tuple[str, ...] = ()
        self.is_stopping = False
        self.removals = Removals(genesis=genesis)
        self._removals_at_start = removals
        self._removals_seen = self.removals.revision
        self._removed_lately: set[PeerId] = set()
        self._refused_by: dict[PeerId, str] = {}  # who says that this device is out
        self.directory = Directory(
            own=self.own,
            genesis=genesis,
            is_linked=self.links.__contains__,
            is_removed=self.is_removed,
            is_void=self._is_void,
            is_needed=lambda peer: self.overlay.is_needed(peer),
            is_dead=self.is_dead,
            members_max=settings.members_max,
        )
        self.directory.introduce(self.own, chain)
        self.gossip = Gossip(directory=self.directory, links=self.links, rng=rng)
        self.removal_exchange = RemovalExchange(removals=self.removals, links=self.links, rng=rng)
        self.removing = Removing(
            signer=signer,
            genesis=genesis,
            chain=chain,
            directory=self.directory,
            removals=self.removals,
            name_of=self.name_of,
            signer_of=recovery_signer_of,
        )
        self.network_keys = NetworkKeys(
            signer=signer,
            genesis=genesis,
            chain=chain,
            removals=self.removals,
            links=self.links,
            rng=rng,
            row=NetworkKeyRow(key=network_key),
        )
        self.overlay = Overlay(
            own=self.own,
            directory=self.directory,
            links=self.links,
            rng=rng,
            dead=lambda: self.verdicts.dead(now_us=self._device.now_us),
            links_max=settings.links_max,
            dials_max=settings.dials_max,
        )
        self.measurements = Measurements()
        self.liveness = Liveness(measurements=self.measurements, rng=rng)
        self.failures = FailureDetector(
            own=self.own, directory=self.directory, liveness=self.liveness, links=self.links
        )
        self.verdicts = Verdicts(
            own=self.own, directory=self.directory, is_linked=self.links.__contains__
        )
        self.lookups = Lookups(directory=self.directory, overlay=self.overlay, links=self.links)
        self.providing = Providing(
            directory=self.directory, links=self.links, own_keys=settings.capabilities, rng=rng
        )
        self.admission = Admission(
            signer=signer,
            genesis=genesis,
            chain=chain,
            network_key=lambda: self.network_keys.key,
            removals=self.removals,
            rng=rng,
        )
        self.reputation = Reputation(
            own=self.own,
            measurements=self.measurements,
            observed_by=self._observed_by,
            members_count=self.directory.__len__,
            references=settings.references,
        )
        self.standings = Standings(
            sample_of=self.sample_of,
            rng=rng,
            measurements=self.measurements,
            reputation=self.reputation,
            breaker_config=settings.breaker,
            weights=settings.weights,
            references=settings.references,
        )
        self._rng = rng

    # --- start and stop ---------------------------------------------------------------------

    def on_restarted(self, store: StoreId, rows: RowsByKind) -> list[Effect]:
        """Begin: the store's id is in what this device says about itself."""
        settings = self._settings
        self.own_records = OwnRecords(
            signer=self._signer,
            chain=self._chain,
            directory=self.directory,
            capabilities=settings.capabilities,
            presence=Presence(
                name=settings.name,
                node_type=settings.node_type,
                region=settings.region,
                addresses=self.addresses,
                protocol=LINK_PROTOCOL,
                engine_profiles=(settings.engine_profile,),
                store=store,
            ),
        )
        self.admission.on_restarted(rows.keyed(INVITATION_ROW, InvitationRow))
        self.standings.on_restarted(rows.values(MEASUREMENT_ROW, MeasurementRecord))
        self.removals.on_restarted(rows.values(REMOVAL_ROW, RemovalRow))
        joined_with = self.removals.add(self._removals_at_start)
        return [
            *joined_with.effects,
            *self._on_removals(),
            *self.network_keys.on_restarted(
                rows.values(NETWORK_KEY_ROW, NetworkKeyRow), now_us=self._device.now_us
            ),
            *self.own_records.on_restarted(rows.values(INCARNATION_ROW, IncarnationRow)),
            *self.overlay.on_restarted(rows.values(ADDRESS_ROW, AddressRow)),
            *self.gossip.start(),
            *self.reputation.on_restarted(rows.values(AGE_ROW, AgeRow)),
        ]

    def on_stopping(self) -> list[Effect]:
        """Say goodbye."""
        self.is_stopping = True
        goodbye = self.own_records.on_stopping(now_us=self._device.now_us)
        return [*self._spread(goodbye), *self._publish(goodbye)]

    # --- events -----------------------------------------------------------------------------

    def on_event(self, event: Event) -> list[Effect] | None:
        """Return what to do about an event that is about other devices."""
        now_us = self._device.now_us
        match event:
            case LinkUp():
                return self._on_link_up(event)
            case LinkDown(peer, reason):
                return self._on_link_down(peer, reason)
            case DialFailed(peer, reason, refusal):
                is_full = refusal is not None and refusal.reason is RefusalReason.TOO_MANY_LINKS
                return [
                    *self._on_refusal(peer, refusal),
                    *self.overlay.on_dial_failed(peer, reason, is_full=is_full, now_us=now_us),
                    *self.lookups.on_unreachable(peer, now_us=now_us),
                ]
            case ProvidersFound():
                return self.lookups.on_providers_found(event, now_us=now_us)
            case PublishedReceived(message):
                return self._on_records(None, message)
            case PeerSeen(peer, addresses, source):
                return self.overlay.on_peer_seen(peer, addresses, source)
            case PeerNeeded(peer):
                return self.overlay.on_peer_needed(peer, now_us=now_us)
            case TransferMeasured():
                return self._on_transfer(event)
            case Listening(addresses):
                # A presence with more could not be read by anybody.
                self.addresses = addresses[:ADDRESSES_MAX]
                moved = self.own_records.on_addresses(self.addresses, now_us=now_us)
                return self._spread(moved) + self._publish(moved)
            case JoinAsked():
                return self.admission.on_join_asked(event, wall_us=self._device.wall_us())
            case _:
                return None

    def on_message(self, peer: PeerId, message: Message) -> list[Effect] | None:
        """Return what to do about a message that is about membership."""
        now_us = self._device.now_us
        match message:
            case Heartbeat():
                return self.liveness.on_heartbeat(peer, message)
            case HeartbeatAcknowledged():
                round_trip_us = self.liveness.on_acknowledged(peer, message, now_us=now_us)
                if round_trip_us is None:
                    return []
                return self.standings.on_round_trip(peer, round_trip_us, now_us=now_us)
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
            case RemovalsSummary():
                return self.removal_exchange.on_summary(peer, message)
            case RemovalsHeld():
                return self.removal_exchange.on_held(peer, message)
            case RemovalsWanted():
                return self.removal_exchange.on_wanted(peer, message)
            case RemovalsGiven():
                return [*self.removal_exchange.on_given(peer, message), *self._on_removals()]
            case NetworkKeyHeld():
                return self.network_keys.on_held(peer, message)
            case NetworkKeyGiven():
                return self.network_keys.on_given(peer, message, now_us=now_us)
            case _:
                return None

    def on_timer(self, key: Hashable) -> list[Effect] | None:
        """Return what to do about a timer of these cores."""
        now_us = self._device.now_us
        match key:
            case ReviewDue():
                return [] if self.is_stopping else self._on_review_due(now_us)
            case HeartbeatDue():
                return self.liveness.on_heartbeat_due(now_us=now_us)
            case WatchDue():
                return self._on_watch_due(now_us)
            case ExchangeDue():
                return [
                    *self.gossip.on_exchange_due(),
                    *self.removal_exchange.on_exchange_due(),
                    *self.network_keys.on_exchange_due(),
                ]
            case PreviousKeyAges():
                return self.network_keys.on_previous_key_ages(now_us=now_us)
            case AnswerDue():
                return self.gossip.on_answer_due()
            case RumorsDue():
                return self.gossip.on_rumors_due(now_us=now_us)
            case ProvideReviewDue():
                return self.providing.on_review_due()
            case LookupEnds():
                return self.lookups.on_lookup_ends(key)
            case LookupDoubted():
                return self.lookups.on_doubted(key)
            case IncarnationDurable():
                records = self.own_records.on_incarnation_durable(key, now_us=now_us)
                return self._spread(records) + self._publish(records)
            case RaiseDue():
                return self.own_records.on_raise_due(now_us=now_us)
            case ObservationsDue():
                return (
                    [] if self.is_stopping else self.reputation.on_observations_due(now_us=now_us)
                )
            case ObservationsDurable(told):
                return self._spread(self.own_records.on_observations(told, now_us=now_us))
            case AgeDue():
                return self.reputation.on_age_due()
            case BreakerDue():
                return self.standings.on_breaker_due(key, now_us=now_us)
            case _:
                return None

    def on_members_changed(self) -> list[Effect]:
        """Records came in: perhaps those that somebody looks for."""
        now_us = self._device.now_us
        return [
            *self.overlay.on_members_changed(now_us=now_us),
            *self.failures.on_members_changed(now_us=now_us),
            *self.lookups.on_members_changed(now_us=now_us),
        ]

    def on_own_sample(self, sample: Sample) -> list[Effect]:
        """Tell the mesh how this device is, if that is news."""
        now_us = self._device.now_us
        # As a steward this device judges itself like others, by what they tell.
        standing = self.standings.on_readings(self.own, now_us=now_us)
        records = self.own_records.on_sample(
            sample, members_count=len(self.directory), now_us=now_us
        )
        return standing + self._spread(records)

    def on_fresh_telemetry(self, peer: PeerId, signed: Signed[Record] | None) -> list[Effect]:
        """Take up what a device said about itself while it answered an offer."""
        if signed is None or signed.body.owner != peer or peer == self.own:
            return []
        self.directory.merge(signed, None, now_us=self._device.now_us)
        return self.standings.on_readings(peer, now_us=self._device.now_us)

    def introduce(self, chains: tuple[Chain, ...]) -> None:
        """Take in members by their chains: what they signed counts though they may be gone."""
        for chain in chains:
            try:
                self.directory.introduce(chain[0].body.subject, chain)
            except NotAMember:
                continue  # whoever gave it is not believed

    # --- removals ---------------------------------------------------------------------------

    def is_removed(self, peer: PeerId) -> bool:
        """Say whether another device is out of the mesh."""
        return self.removals.is_removed(peer) and peer != self.own

    def is_dead(self, peer: PeerId) -> bool:
        """Say whether the mesh holds another device for dead."""
        return peer in self.verdicts.dead(now_us=self._device.now_us)

    def on_remove(self, request: int, remove: Remove, subject: PeerId) -> list[Effect]:
        """Put a device out of the mesh; the person hears of it when it is durable."""
        planned = self.removing.plan(remove, subject)
        if isinstance(planned, Refused):
            return [Answer(request, planned)]
        if remove.is_plan:
            return [Answer(request, planned.view)]
        added = self.removals.add([planned.signed])
        if not added.news:  # an equal one is held, or those of higher ranks fill the set
            view = replace(planned.view, removals=len(self.removals))
            return [Answer(request, view)]
        answer = Answer(request, replace(planned.view, removals=len(self.removals)))
        durable = [
            Persist(effect.rows, (*effect.then, answer)) if isinstance(effect, Persist) else effect
            for effect in added.effects
        ]
        trace = Trace("device.removed", {"subject": peer_text(subject)})
        return [*durable, *self.removal_exchange.spread(added.news), *self._on_removals(), trace]

    def take_removed(self) -> frozenset[PeerId]:
        """Return who was put out since this was asked last: no work is to go on with them."""
        removed, self._removed_lately = frozenset(self._removed_lately), set()
        return removed

    def own_warnings(self) -> list[str]:
        """Return what the owner has to know about this device's own place in the mesh."""
        return standing_warnings(
            self.removals, self.own, self._chain, self._refused_by, name_of=self.name_of
        )

    @property
    def is_out(self) -> bool:
        """Whether this device was removed, or an admin in its chain."""
        return self.removals.is_removed(self.own) or self.removals.is_void(self._chain)

    def _is_void(self, chain: Chain) -> bool:
        return self.removals.is_void(chain) and chain[0].body.subject != self.own

    def _on_removals(self) -> list[Effect]:
        """Part with all who are out by now, if the removals changed."""
        if self.removals.revision == self._removals_seen:
            return []
        self._removals_seen = self.removals.revision
        effects: list[Effect] = []
        for peer, link in self.links.items():
            effects += self._part_with(peer, link)
        held = self.directory.drop_removed()
        removed = [peer for peer in self.removals.sentences() if peer != self.own]
        for peer in removed:
            effects += self.overlay.forget(peer)
        self._removed_lately.update(held, removed)
        return effects

    def _part_with(self, peer: PeerId, link: object) -> list[Effect]:
        """Hang up on a device that is out, and prove to it that it is."""
        chain = link.hello.chain if isinstance(link, LinkUp) else ()
        objection = self.removal_exchange.objection(peer, chain)
        if objection is None:
            return []
        hangup = Hangup(peer, "removed from the mesh")
        if not objection.removals:
            return [hangup]
        return [Send(peer, RemovalsGiven(removals=objection.removals)), hangup]

    def _on_refusal(self, peer: PeerId, refusal: LinkRefused | None) -> list[Effect]:
        """Somebody may say, and prove, that this device is out."""
        if refusal is None:
            return []
        if refusal.reason in (RefusalReason.REMOVED, RefusalReason.NOT_A_MEMBER):
            self._refused_by[peer] = refusal.detail
            if len(self._refused_by) > REFUSALS_REMEMBERED_MAX:
                del self._refused_by[next(iter(self._refused_by))]
        return [*self.removal_exchange.on_refused(refusal), *self._on_removals()]

    # --- what others ask --------------------------------------------------------------------

    def may(self, peer: PeerId, role: Role) -> bool:
        """Say whether a device is a member with a role."""
        member = self.directory.get(peer)
        return member is not None and member.may(role)

    def sample_of(self, peer: PeerId) -> Sample | None:
        """Return what a device told last about itself."""
        if peer == self.own:
            return self._device.sample()
        member = self.directory.get(peer)
        return None if member is None else member.sample

    def chain_of(self, peer: PeerId) -> Chain | None:
        """Return a member's certificate chain."""
        member = self.directory.get(peer)
        return None if member is None else member.chain

    def name_of(self, peer: PeerId) -> str:
        """Return what people call a device."""
        member = self.directory.get(peer)
        return peer_text(peer)[-8:] if member is None else member.name

    def own_telemetry(self, now_us: int) -> Signed[Record]:
        """Return how this device is right now, signed."""
        return self.own_records.telemetry(self._device.sample(), now_us=now_us)

    # --- details ----------------------------------------------------------------------------

    def _on_link_up(self, link: LinkUp) -> list[Effect]:
        now_us = self._device.now_us
        self._refused_by.pop(link.peer, None)
        if parting := self._part_with(link.peer, link):  # it was removed during the handshake
            return parting
        self.links[link.peer] = link
        self.verdicts.on_links_changed()
        return [
            *self.overlay.on_link_up(
                link.peer,
                link.address,
                is_outbound=link.is_outbound,
                via=link.via,
                now_us=now_us,
            ),
            *self.liveness.on_link_up(link.peer, now_us=now_us),
            *self.failures.on_link_up(link.peer, is_relayed=link.via is not None, now_us=now_us),
            *self.standings.on_readings(link.peer, now_us=now_us),
            *self.removal_exchange.on_link_up(link.peer),
            *self.network_keys.on_link_up(link.peer),
            *self.gossip.on_link_up(link.peer, link.hello.chain, is_outbound=link.is_outbound),
            *self.lookups.on_link_up(link.peer),
            *self.providing.on_link_up(),
            Trace("link.up", _told_of_link(link)),
        ]

    def _on_link_down(self, peer: PeerId, reason: str) -> list[Effect]:
        now_us = self._device.now_us
        self.links.pop(peer, None)
        self.verdicts.on_links_changed()
        watching = self.failures.on_link_down(peer, now_us=now_us)
        self.liveness.on_link_down(peer)
        self.gossip.on_link_down(peer)
        return [
            *watching,
            *self.overlay.on_link_down(peer, reason, now_us=now_us),
            *self.lookups.on_unreachable(peer, now_us=now_us),
            Trace("link.down", {"peer_id": peer_text(peer), "reason": reason}),
        ]

    def _on_review_due(self, now_us: int) -> list[Effect]:
        changes = self.verdicts.changes(now_us=now_us)
        return [
            *self.overlay.on_review_due(now_us=now_us),
            *(_told_of(peer, verdict) for peer, verdict in changes),
        ]

    def _on_watch_due(self, now_us: int) -> list[Effect]:
        watch, effects = self.failures.on_watch_due(now_us=now_us)
        if watch is None or self.is_stopping:
            return effects
        return effects + self._spread(self.own_records.on_watch(watch, now_us=now_us))

    def _observed_by(self, observer: PeerId) -> Observed | None:
        """Return what a member told of how others did."""
        member = self.directory.get(observer)
        return None if member is None else member.observed

    def _on_records(self, peer: PeerId | None, message: Message) -> list[Effect]:
        if not isinstance(message, RecordsGiven):
            return [Trace("message.out_of_place", {"kind": type(message).__name__})]
        now_us = self._device.now_us
        effects: list[Effect] = []
        for signed in message.records:
            if signed.body.owner == self.own and signed.signer == self.own:
                effects += self.own_records.on_own_record_heard(signed.body, now_us=now_us)
        effects += self.gossip.on_records_given(peer, message, now_us=now_us)
        effects += self._judge_anew(message)
        self._hear_observations(message)
        if peer is not None:
            effects += self.overlay.on_word_of(peer)
            effects += self.lookups.on_records_given(peer, message, now_us=now_us)
        return effects

    def _judge_anew(self, given: RecordsGiven) -> list[Effect]:
        """Judge linked devices by the telemetry they gave, if it is news."""
        told = [
            signed.body.owner
            for signed in given.records
            if signed.body.kind == RecordKind.TELEMETRY
            and signed.body.owner in self.links
            and self.directory.record(signed.body.owner, RecordKind.TELEMETRY) is signed
        ]
        now_us = self._device.now_us
        return [
            effect for peer in told for effect in self.standings.on_readings(peer, now_us=now_us)
        ]

    def _hear_observations(self, given: RecordsGiven) -> None:
        for signed in given.records:
            owner = signed.body.owner
            if signed.body.kind == RecordKind.OBSERVATIONS and (
                self.directory.record(owner, RecordKind.OBSERVATIONS) is signed
            ):
                self.reputation.on_observed(owner)

    def _on_transfer(self, transfer: TransferMeasured) -> list[Effect]:
        peer, duration_us = transfer.peer, transfer.duration_us
        if transfer.received_bytes:
            self.measurements.on_received(peer, transfer.received_bytes, duration_us)
        if transfer.sent_bytes:
            self.measurements.on_sent(peer, transfer.sent_bytes, duration_us)
        return []

    def _spread(self, records: tuple[Signed[Record], ...]) -> list[Effect]:
        return self.gossip.spread(records) if records else []

    def _publish(self, records: tuple[Signed[Record], ...]) -> list[Effect]:
        return [Publish(self._topic, self.gossip.with_chains(records))] if records else []


def _told_of_link(link: LinkUp) -> dict[str, str | int | bool | None]:
    fields: dict[str, str | int | bool | None] = {
        "peer_id": peer_text(link.peer),
        "address": link.address,
    }
    if link.via is not None:
        fields["via"] = peer_text(link.via)
    return fields


def _told_of(peer: PeerId, verdict: Verdict) -> Effect:
    return Trace(f"member.{verdict.state}", {"peer_id": peer_text(peer), "reason": verdict.reason})
