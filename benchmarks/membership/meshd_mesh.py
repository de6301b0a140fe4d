"""The node that ships on simulated hosts, as the scenarios want a mesh.

Links are streams; each message costs the CPU that was measured (`simulations.cpu`). What a node
believes is read from it, which is the only thing here that knows its parts (`believed`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from benchmarks.membership.mesh import Change, MeshSettings, NodePair, Traffic, View
from meshd.node import MeshNode
from p2p.lookup import LookupToken
from p2p.verdicts import Verdict
from simulations.budget import Budget
from simulations.cpu import CpuCosts
from simulations.device import HostSettings
from simulations.discovery import Discovery
from simulations.disk import DiskFate
from simulations.host import SimulatedHost
from simulations.kademlia import WalkedDht
from simulations.mesh_node import MESH_NODE
from simulations.trace import TraceLevel
from simulations.world import Request, World, WorldSettings
from wire.answers import Found
from wire.commands import Find, Remove
from wire.effects import Answer, Effect, FindProviders
from wire.events import Event, ProvidersFound, PublishedReceived, Received
from wire.ids import PeerId, peer_text
from wire.messages import RecordsGiven

BUDGET = Budget(sends_per_second_max=1_000_000, bytes_per_second_max=1 << 40)
# What surrounds a frame that travels alone: Noise (length and tag), Yamux, TCP and IPv4.
FRAME_WIRE_BYTES = 2 + 16 + 12 + 52
FIND_US_MAX = 12_000_000
ADDRESS_TAKEN = "/ip4/11.{}.{}.{}/tcp/4001"


class Lookup(Struct, frozen=True):
    """Who was named to whoever asked, and after what time; None for no answer."""

    found: frozenset[int]
    duration_us: int | None


class Walk(Struct, frozen=True):
    """How long a lookup in the DHT took."""

    duration_us: int
    is_thorough: bool


def believed(node: MeshNode, subject: PeerId) -> View:
    """Return what a node believes of another device."""
    member = node.directory.get(subject)
    if member is None or member.has_left:
        return View.UNKNOWN
    return View(str(node.verdict(subject).state))


class MeshdMesh:
    """Devices of one run; a `benchmarks.membership.mesh.Mesh`."""

    observed_events = (Received, PublishedReceived, ProvidersFound)
    observed_effects = (FindProviders, Answer)

    def __init__(self, settings: MeshSettings) -> None:
        self._settings = settings
        host = HostSettings(cpu=CpuCosts(), samples=settings.has_telemetry)
        if settings.members_max is not None:
            host = replace(host, members_max=settings.members_max)
        self._world = World(
            WorldSettings(
                seed=settings.seed,
                node_count=settings.node_count,
                network=settings.network(),
                host=host,
                budget=BUDGET,
                discovery=Discovery.SEEDS,
                walks_dht=settings.members_max is not None,
                trace=TraceLevel.OFF,
                events_per_node_second_max=20_000,
            ),
            MESH_NODE,
        )
        self._frame_bytes = self._frames_count = 0
        self._records_count = self._new_records_count = 0
        self._changes: list[Change] = []
        self._watches_count = 0
        self._seen: dict[int, list[View]] = {}
        self._seen_in: dict[int, tuple[int, Mapping[PeerId, Verdict]]] = {}
        self._has_started: set[int] = set()
        self._walks_begun_us: dict[tuple[int, Hashable], int] = {}
        self._walks: list[Walk] = []
        self._answered_us: dict[tuple[int, int], int] = {}
        self._peers = [host.peer for host in self._world.hosts]
        self._world.network.on_sent = self._count_frame
        self._world.hosts[0].around.observers.add(self)

    @property
    def now_us(self) -> int:
        """The time since the run began."""
        return self._world.engine.now_us

    @property
    def node_count(self) -> int:
        """How many devices there are, running or not."""
        return len(self._world.hosts)

    # What befalls devices.

    def start(self, nodes: Iterable[int]) -> None:
        """Start devices: the first time they know two others, later what their disks hold."""
        for node in nodes:
            if node in self._has_started:
                self._world.hosts[node].start()
            else:
                self._has_started.add(node)
                self._world.start(node)

    def crash(self, nodes: Iterable[int]) -> None:
        """End devices as a power cut does; what is durable stays."""
        for node in nodes:
            self._world.crash(node, DiskFate.LOSE_UNSYNCED)

    def freeze(self, nodes: Iterable[int]) -> None:
        """Let processes stall."""
        for node in nodes:
            self._world.freeze(node)

    def thaw(self, nodes: Iterable[int]) -> None:
        """Let them go on."""
        for node in nodes:
            self._world.thaw(node)

    def stop(self, node: int) -> None:
        """Let a device's owner stop it: it says goodbye, and has ended a second later."""
        self._world.stop(node)

    def provide(self, node: int, capability: str) -> None:
        """Give a device that does not run another capability, in its configuration."""
        host = self._world.hosts[node]
        host.settings = replace(
            host.settings, capabilities=(*host.settings.capabilities, capability)
        )

    def remove(self, node: int, removed: int) -> None:
        """Let a device's owner put another one out of the mesh."""
        self._world.ask(node, Remove(peer=peer_text(self._peers[removed])))

    def move(self, node: int) -> None:
        """Give a device another address, in another network."""
        address = ADDRESS_TAKEN.format(node >> 16, node >> 8 & 255, node & 255)
        self._world.hosts[node].addresses = (address,)

    def cut(self, pairs: Sequence[NodePair]) -> None:
        """Lose what is sent from the first to the second of each pair."""
        self._world.cut_pairs(pairs)

    def heal(self) -> None:
        """End all cuts."""
        self._world.heal()

    def run_for(self, duration_us: int) -> None:
        """Let time pass."""
        self._world.run_for(duration_us)

    # What is measured.

    def view(self, observer: int, subject: int) -> View:
        """Return what a running device believes of another."""
        return believed(self._node(observer), self._peers[subject])

    def serves(self, observer: int, subject: int) -> bool:
        """Say whether a running device has a link to another one, or holds its records."""
        node, peer = self._node(observer), self._peers[subject]
        return peer in node.linked or node.directory.get(peer) is not None

    def is_linked_to_any(self, observer: int, others: Sequence[int]) -> bool:
        """Say whether a running device has a link to one of others."""
        linked = self._node(observer).linked
        return any(self._peers[other] in linked for other in others)

    def knows_provider(self, observer: int, capability: str, provider: int) -> bool:
        """Say whether a running device would name a provider if it were asked, and at once."""
        found = self._node(observer).directory.providers(frozenset({capability}))
        return any(member.peer == self._peers[provider] for member in found)

    def find(self, asked: Sequence[tuple[int, str]], *, via: str = "any") -> list[Lookup]:
        """Let people look for capabilities at devices; wait a while, and return what came of it."""
        begun_us = self.now_us
        requests = [self._world.ask(node, Find((key,), via=via)) for node, key in asked]
        self._world.run_for(FIND_US_MAX)
        return [self._lookup(request, begun_us) for request in requests]

    def _lookup(self, request: Request, begun_us: int) -> Lookup:
        answered_us = self._answered_us.get((request.node, request.number))
        found = request.last
        if answered_us is None or not isinstance(found, Found):
            return Lookup(found=frozenset(), duration_us=None)
        ids = {peer_text(peer): node for node, peer in enumerate(self._peers)}
        return Lookup(
            found=frozenset(ids[one.id] for one in found.peers),
            duration_us=answered_us - begun_us,
        )

    def links_count(self, node: int) -> int:
        """Return how many links a running device has."""
        return len(self._node(node).linked)

    def lie(self, liars: Sequence[int], named: Sequence[int]) -> None:
        """Let devices lie to whoever asks them for providers, and name these and each other."""
        dht = self._walked_dht()
        dht.lie([self._peers[one] for one in liars], [self._peers[one] for one in named])

    def charge_dials(self, *, is_charged: bool) -> None:
        """Let a question to a device without a link cost a dial, or nothing more."""
        self._walked_dht().charges_dials = is_charged

    def take_walks(self) -> list[Walk]:
        """Return the lookups in the DHT that have ended since this was asked last."""
        walks, self._walks = self._walks, []
        return walks

    def _walked_dht(self) -> WalkedDht:
        dht = self._world.dht
        if not isinstance(dht, WalkedDht):
            raise TypeError("a mesh whose members are not bounded walks to nobody")
        return dht

    def watch(self, *, every_us: int) -> list[Change]:
        """Return the list of changes from now on, found by looking at all views that often."""
        self._changes = []
        self._watches_count += 1
        self._seen_in.clear()
        self._seen = {observer: self._views_of(observer) for observer in self._running()}
        self._look_again(self._watches_count, every_us)
        return self._changes

    def _look_again(self, watch: int, every_us: int) -> None:
        self._world.engine.after(every_us, partial(self._look, watch, every_us))

    def _look(self, watch: int, every_us: int) -> None:
        if watch != self._watches_count:
            return  # another watch has begun
        for observer in self._running():
            if not self._may_see_something_new(observer):
                continue
            views, before = self._views_of(observer), self._seen.get(observer)
            if views != before:
                self._note(observer, before or [View.UNKNOWN] * len(views), views)
                self._seen[observer] = views
        self._look_again(watch, every_us)

    def _may_see_something_new(self, observer: int) -> bool:
        """Say whether anything that views are made of has changed since the last look."""
        node = self._node(observer)
        roster_revision, verdicts = node.directory.roster_revision, node.verdicts
        last = self._seen_in.get(observer)
        self._seen_in[observer] = roster_revision, verdicts
        return last is None or last[0] != roster_revision or last[1] is not verdicts

    def _note(self, observer: int, before: list[View], after: list[View]) -> None:
        for subject, (old, new) in enumerate(zip(before, after, strict=True)):
            if old is not new and observer != subject:
                self._changes.append(Change(self.now_us, observer, subject, old, new))

    def _running(self) -> list[int]:
        return [host.index for host in self._world.hosts if host.is_running]

    def _views_of(self, observer: int) -> list[View]:
        node = self._node(observer)
        return [believed(node, peer) for peer in self._peers]

    def _node(self, index: int) -> MeshNode:
        node = self._world.hosts[index].node()
        assert isinstance(node, MeshNode)  # noqa: S101 - MESH_NODE makes no other
        return node

    def traffic(self) -> Traffic:
        """Return what was sent since the run began, which on streams is what is received."""
        wire_bytes = self._frame_bytes + FRAME_WIRE_BYTES * self._frames_count
        return Traffic(
            frame_bytes=self._frame_bytes,
            wire_bytes=wire_bytes,
            records_count=self._records_count,
            new_records_count=self._new_records_count,
        )

    def _count_frame(self, origin: PeerId, target: PeerId, size_bytes: int) -> None:
        self._frame_bytes += size_bytes
        self._frames_count += 1

    # As an observer of the devices.

    def saw_event(self, host: SimulatedHost, event: Event) -> None:
        """Count the records that come, and those that are news; time lookups."""
        match event:
            case Received(message=RecordsGiven() as given):
                self._count_records(host, given)
            case PublishedReceived(message=RecordsGiven() as given):
                self._count_records(host, given)
            case ProvidersFound(token=LookupToken() as token):
                begun_us = self._walks_begun_us.pop((host.index, token))
                self._walks.append(Walk(self.now_us - begun_us, token.is_thorough))

    def _count_records(self, host: SimulatedHost, given: RecordsGiven) -> None:
        node = self._node(host.index)
        for signed in given.records:
            record = signed.body
            held = node.directory.record(record.owner, record.kind)
            version = (record.incarnation, record.counter)
            is_new = held is None or (held.body.incarnation, held.body.counter) < version
            self._records_count += 1
            self._new_records_count += is_new

    def saw_effect(self, host: SimulatedHost, effect: Effect) -> None:
        """Note when lookups begin and are answered."""
        match effect:
            case FindProviders(token=token):
                self._walks_begun_us[host.index, token] = self.now_us
            case Answer(request=request):
                self._answered_us[host.index, request] = self.now_us
