"""The node: all cores composed into one object without I/O. What is simulated is what ships.

`handle` takes one event and the time and returns effects in order. A message to itself does not
leave the node: it is handled at once, so work on this device needs no special case.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, KeysView, Mapping
from dataclasses import dataclass
from random import Random

from msgspec.structs import replace

from meshd.device import Device
from meshd.neighbourhood import Neighbourhood
from meshd.rows import ROW_KINDS, RowsByKind
from meshd.settings import NodeSettings
from meshd.views import PeerViews, breaker_reason
from meshd.work import Work
from p2p.directory import Chain, Directory, Member
from p2p.verdicts import ALIVE, Verdict
from scheduler.own_breaker import OwnBreakerDue
from telemetry.sample import decode_sample
from wire.answers import RefusalCode, Refused, StatusView
from wire.commands import (
    Command,
    Find,
    GetHistory,
    GetPeer,
    GetStatus,
    Invite,
    ListPeers,
    PardonDevice,
    Plan,
    Rekey,
    Remove,
    Resubmit,
    Submit,
)
from wire.effects import Answer, AnswerJoin, Effect, Persist, Send, SetTimer, Trace
from wire.events import (
    Asked,
    Congested,
    Drained,
    Event,
    JoinAsked,
    PersistFailed,
    Received,
    Restarted,
    Sampled,
    Stopping,
    TimerDue,
    WallClockRead,
)
from wire.ids import MeshId, PeerId, StoreId, did_key, mesh_text, peer_text
from wire.keys import Ed25519Keys
from wire.membership import (
    Genesis,
    JoinRefusal,
    JoinRefused,
    Removal,
    check_chain,
    mesh_id_of,
)
from wire.messages import LINK_PROTOCOL, Hello, LinkRefused, Message
from wire.signed import Signed, Signer

__all__ = ["ROW_KINDS", "MeshNode", "OwnMessageDue"]

# A message to itself is answered within the event; this many are no talk that ends.
OWN_MESSAGES_PER_EVENT_MAX = 10_000


@dataclass(frozen=True, slots=True)
class OwnMessageDue:
    """Timer of no delay: a message to this device whose records are durable now."""

    number: int


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
        removals: tuple[Signed[Removal], ...] = (),
        recovery_signer_of: Callable[[bytes], Signer] = Ed25519Keys,
    ) -> None:
        self.own: PeerId = signer.peer
        self._settings = settings
        self._genesis = genesis
        self._chain = chain
        self._mesh: MeshId = mesh_id_of(genesis)
        self._certificate = check_chain(chain, genesis=genesis, subject=self.own)
        self._store: StoreId | None = None
        self._broken: str | None = None
        self._revision_seen = 0
        self._own_messages: dict[int, Message] = {}
        self._own_messages_count = 0
        self._device = Device(
            own=self.own, settings=settings, rng=rng, occupation=lambda: self._work.occupation()
        )
        self._neighbours = Neighbourhood(
            settings=settings,
            signer=signer,
            genesis=genesis,
            chain=chain,
            network_key=network_key,
            rng=rng,
            removals=removals,
            recovery_signer_of=recovery_signer_of,
            device=self._device,
        )
        self._work = Work(
            settings=settings,
            signer=signer,
            genesis=genesis,
            mesh=self._mesh,
            rng=rng,
            device=self._device,
            neighbours=self._neighbours,
        )
        self._views = PeerViews(
            own=self.own,
            mesh=self._mesh,
            directory=self._neighbours.directory,
            links=self._neighbours.links,
            overlay=self._neighbours.overlay,
            standings=self._neighbours.standings,
            verdicts=self._neighbours.verdicts,
            own_breaker=self._device.breaker,
            removals=self._neighbours.removals,
            name_of=self._neighbours.name_of,
        )

    def verdict(self, peer: PeerId) -> Verdict:
        """Return what this device concluded, when it last did anything, of another one's life."""
        return self.verdicts.get(peer, ALIVE)

    @property
    def verdicts(self) -> Mapping[PeerId, Verdict]:
        """The verdicts over all who are not alive: another mapping when they are judged anew."""
        return self._neighbours.verdicts.judged(now_us=self._device.now_us)

    @property
    def directory(self) -> Directory:
        """The members this device knows; hosts only read it."""
        return self._neighbours.directory

    def reputation(self, peer: PeerId) -> float:
        """Return what another device's work is thought of, in [0, 1]; 0.5 of a stranger's."""
        return self._neighbours.reputation.reputation(peer)

    @property
    def linked(self) -> KeysView[PeerId]:
        """The devices this one has links to; hosts only read it."""
        return self._neighbours.links.keys()

    @property
    def network_key_generation(self) -> int:
        """How often the network key was rolled, as far as this device knows."""
        return self._neighbours.network_keys.generation

    def hello(self) -> Hello:
        """Return what this device says first on a link."""
        return Hello(
            mesh=self._mesh,
            genesis=self._genesis,
            chain=self._chain,
            protocol=LINK_PROTOCOL,
            incarnation=self._neighbours.own_records.incarnation,
        )

    def objection(self, peer: PeerId, chain: Chain) -> LinkRefused | None:
        """Return what to refuse a device with whose papers are in order otherwise."""
        return self._neighbours.removal_exchange.objection(peer, chain)

    def handle(self, event: Event, now_us: int) -> list[Effect]:
        """Return what to do about `event`. The first event is `Restarted`."""
        self._device.now_us = now_us
        if self._broken is not None:
            return self._refuse_while_broken(event)
        wanted = self._on_event(event)
        if self._work.history.wants_timer:
            wanted = [*wanted, self._work.history.timer()]
        if self._is_settled(wanted):
            return wanted
        return self._settle(event, wanted)

    def _is_settled(self, wanted: list[Effect]) -> bool:
        """Say whether effects are for the host as they are: those of nearly all events are."""
        if self._neighbours.directory.revision != self._revision_seen:
            return False
        for effect in wanted:
            if isinstance(effect, Persist) or (
                isinstance(effect, Send) and effect.peer == self.own
            ):
                return False
        return True

    def _settle(self, event: Event, wanted: list[Effect]) -> list[Effect]:
        """Handle what the node sends to itself, and what follows from members that changed."""
        outgoing: list[Effect] = []
        waiting: deque[Effect] = deque(wanted)
        own_messages_count = 0
        while True:
            waiting.extend(self._on_members_changed())
            if not waiting:
                return outgoing
            match waiting.popleft():
                case Send(peer, message) if peer == self.own:
                    own_messages_count += 1
                    if own_messages_count > OWN_MESSAGES_PER_EVENT_MAX:
                        raise AssertionError(f"{type(event).__name__} set off an endless talk")
                    waiting.extendleft(reversed(self._on_message(self.own, message)))
                case Persist(rows, then):
                    outgoing.append(Persist(rows, tuple(map(self._kept_here, then))))
                case effect:
                    outgoing.append(effect)

    def _kept_here(self, effect: Effect) -> Effect:
        """A message to this device that waits for the disk comes back as a timer of no delay."""
        if not isinstance(effect, Send) or effect.peer != self.own:
            return effect
        self._own_messages_count += 1
        self._own_messages[self._own_messages_count] = effect.message
        return SetTimer(OwnMessageDue(self._own_messages_count), 0)

    # --- routing ----------------------------------------------------------------------------

    def _on_event(self, event: Event) -> list[Effect]:
        match event:
            case Received():  # nearly all are: the cheapest pattern first
                if self._neighbours.is_removed(event.peer):
                    return []  # its link ends; what it still says is not heard
                self._neighbours.liveness.on_heard(event.peer, now_us=self._device.now_us)
                return self._on_message(event.peer, event.message)
            case TimerDue(key):
                return self._on_timer(key)
            case Restarted(store=store, rows=rows):
                return self._on_restarted(store, RowsByKind(rows))
            case Asked(request, command):
                return self._on_asked(request, command)
            case Sampled(body):
                effects = self._device.on_sampled(decode_sample(body))
                return effects + self._neighbours.on_own_sample(self._device.sample())
            case Congested(peer, traffic) | Drained(peer, traffic):
                fields = {"peer_id": peer_text(peer), "traffic": traffic.name.lower()}
                return [Trace(f"link.{type(event).__name__.lower()}", {**fields})]
            case PersistFailed(reason):
                self._broken = reason
                return [Trace("store.failed", {"reason": reason})]
            case Stopping():
                return [*self._work.on_stopping(), *self._neighbours.on_stopping()]
            case _:
                return self._on_both_halves(event)

    def _on_both_halves(self, event: Event) -> list[Effect]:
        if isinstance(event, WallClockRead):
            self._device.on_wall_clock_read(event)
        answers = [self._neighbours.on_event(event), self._work.on_event(event)]
        if answers == [None, None]:
            raise AssertionError(f"no core takes {type(event).__name__}")
        return [effect for effects in answers for effect in effects or ()]

    def _on_message(self, peer: PeerId, message: Message) -> list[Effect]:
        effects = self._neighbours.on_message(peer, message)
        if effects is None:
            effects = self._work.on_message(peer, message)
        if effects is None:
            return [Trace("message.out_of_place", {"kind": type(message).__name__})]
        return effects

    def _on_timer(self, key: Hashable) -> list[Effect]:
        match key:
            case OwnMessageDue(number):
                return self._on_message(self.own, self._own_messages.pop(number))
            case OwnBreakerDue():
                return self._device.own_breaker.on_due(now_us=self._device.now_us)
        effects = self._neighbours.on_timer(key)
        if effects is None:
            effects = self._work.on_timer(key)
        if effects is None:
            raise AssertionError(f"no core set the timer {key!r}")
        return effects

    def _on_restarted(self, store: StoreId, rows: RowsByKind) -> list[Effect]:
        self._store = store
        self._device.started_us = self._device.now_us
        return [
            *self._neighbours.on_restarted(store, rows),
            *self._work.on_restarted(store, rows),
        ]

    def _on_members_changed(self) -> list[Effect]:
        revision = self._neighbours.directory.revision
        if revision == self._revision_seen:
            return []
        self._revision_seen = revision
        removed = self._neighbours.take_removed()
        return [
            *self._work.on_devices_removed(removed),
            *self._neighbours.on_members_changed(),
            *self._work.on_devices_changed(),
        ]

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

    # --- questions --------------------------------------------------------------------------

    def _on_asked(self, request: int, command: Command) -> list[Effect]:
        now_us = self._device.now_us
        match command:
            case GetStatus():
                return [Answer(request, self._status())]
            case ListPeers():
                return [Answer(request, self._views.peers(now_us=now_us))]
            case GetPeer(reference):
                found = self._views.resolve(reference)
                if isinstance(found, Refused):
                    return [Answer(request, found)]
                return [Answer(request, self._views.peer_in_full(found, now_us=now_us))]
            case Find():
                return self._find(request, command)
            case Invite():
                addresses, wall_us = self._neighbours.addresses, self._device.wall_us()
                return self._neighbours.admission.on_invite(
                    request, command, addresses=addresses, wall_us=wall_us
                )
            case Remove(peer=reference):
                subject = self._views.resolve_any(reference)
                if isinstance(subject, Refused):
                    return [Answer(request, subject)]
                return self._neighbours.on_remove(request, command, subject)
            case PardonDevice(peer=reference):
                found = self._views.resolve(reference)
                if isinstance(found, Refused):
                    return [Answer(request, found)]
                return self._work.convictions.on_pardon(request, found.peer, found.name)
            case Rekey():
                return self._neighbours.network_keys.on_rekey(request, now_us=now_us)
            case Submit():
                named = self._with_readers(command)
                if isinstance(named, Refused):
                    return [Answer(request, named)]
                return self._work.on_submit(request, named)
            case Resubmit(task=reference):
                return self._work.on_resubmit(request, reference)
            case GetHistory():
                return self._work.on_history_asked(request, command)
            case Plan():
                return self._work.on_plan(request, command)
            case _:
                return self._work.forwarding.on_asked(request, command)

    def _with_readers(self, submit: Submit) -> Submit | Refused:
        """Return the submission with the ids of its readers."""
        found = [self._views.resolve(reader) for reader in submit.readers]
        refused = next((one for one in found if isinstance(one, Refused)), None)
        if refused is not None:
            return refused
        members = [one for one in found if isinstance(one, Member)]
        return replace(submit, readers=tuple(peer_text(one.peer) for one in members))

    def _find(self, request: int, find: Find) -> list[Effect]:
        def answer(source: str, members: list[Member]) -> list[Effect]:
            now_us = self._device.now_us
            view = self._views.found(find.capabilities, source, members, now_us=now_us)
            return [Answer(request, view)]

        return self._neighbours.lookups.find(find.capabilities, via=find.via, then=answer)

    def _status(self) -> StatusView:
        neighbours, work, breaker = self._neighbours, self._work, self._device.breaker
        return StatusView(
            id=peer_text(self.own),
            did=did_key(self.own),
            name=self._settings.name,
            mesh=mesh_text(self._mesh),
            operator=self._certificate.operator,
            roles=[str(role) for role in self._certificate.roles],
            version=self._settings.version,
            home=None,
            pid=None,
            uptime_us=self._device.uptime_us,
            addresses=list(neighbours.addresses),
            incarnation=neighbours.own_records.incarnation,
            store=self._store.hex() if self._store is not None else "",
            links=len(neighbours.links),
            members=len(neighbours.directory),
            removals=len(neighbours.removals),
            is_removed=neighbours.is_out,
            health=self._views.health_view(self.own),
            breaker=str(breaker.state),
            breaker_reason=breaker_reason(breaker),
            tasks=work.enquiries.counts(),
            leases_held=work.executor.leases_count,
            runs_active=work.executor.runs_count,
            engine_profile=self._settings.engine_profile,
            sandbox={},
            storage={},
            counters={},
            warnings=neighbours.own_warnings(),
        )
