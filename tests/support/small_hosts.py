"""Whole nodes in a loop: links, disks and timers in virtual time, and nothing is lost by itself.

The simulator does this for scenarios, with seeds and faults; this is as little as tests of one
node's behaviour need.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from functools import partial

from msgspec import Struct
from support.meshes import Device, SmallMesh

from meshd.node import ROW_KINDS, MeshNode
from meshd.settings import NodeSettings
from wire import effects as do
from wire import events as on
from wire.answers import Answer
from wire.codec import Decoder, FrameCodec
from wire.commands import Command
from wire.ids import PeerId, StoreId
from wire.keys import Ed25519Verifier
from wire.membership import JoinGranted, JoinRefused
from wire.messages import MESSAGES, Message
from wire.signed import encode_body

US_PER_S = 1_000_000
LINK_US = 1_000
DIAL_US = 10_000
WALL_US = 1_800_000_000 * US_PER_S

_codec = FrameCodec(MESSAGES, Ed25519Verifier())


@dataclass
class Disk:
    """What a device's store holds: rows in the order they were first written."""

    store: StoreId
    rows: dict[tuple[str, bytes], bytes] = field(default_factory=dict)

    def write(self, rows: Iterable[do.Row]) -> None:
        """Keep rows as bytes, so that a row that cannot be read again is found."""
        for row in rows:
            if row.value is None:
                self.rows.pop((row.kind, row.key), None)
            else:
                self.rows[row.kind, row.key] = encode_body(row.value)

    def read(self) -> tuple[do.Row, ...]:
        """Return all rows."""
        return tuple(
            do.Row(kind, key, _decoder_of(ROW_KINDS[kind]).decode(value))
            for (kind, key), value in self.rows.items()
        )


def _decoder_of(kind: type[Struct]) -> Decoder[Struct]:
    return Decoder(kind, Ed25519Verifier())


@dataclass
class Host:
    """One device: its node, if it runs, its disk, and what came out."""

    network: Network
    device: Device
    settings: NodeSettings
    disk: Disk
    node: MeshNode | None = None
    boot: int = 0
    wall_us: int = WALL_US
    links: set[PeerId] = field(default_factory=set)  # as its node was told
    is_disk_broken: bool = False
    is_disk_slow: bool = False  # writes wait for `finish_writes`
    outgoing: list[do.Effect] = field(default_factory=list)
    waiting: list[do.Persist] = field(default_factory=list)
    _timers: dict[Hashable, int] = field(default_factory=dict)
    _requests: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def peer(self) -> PeerId:
        """The device's id."""
        return self.device.peer

    @property
    def address(self) -> str:
        """Where the device listens."""
        return f"/ip4/192.0.2.{self.network.number_of(self)}/tcp/4001"

    @property
    def running(self) -> MeshNode:
        """The node, which runs."""
        assert self.node is not None
        return self.node

    def start(self) -> None:
        """Start the device from its disk."""
        self.boot += 1
        self.waiting.clear()
        self.links.clear()
        self._timers.clear()
        self.node = MeshNode(
            settings=self.settings,
            signer=self.device.keys,
            genesis=self.network.mesh.genesis,
            chain=self.device.chain,
            network_key=b"k" * 32,
            rng=random.Random(f"{self.peer.hex()} {self.boot}"),
        )
        self.handle(on.Restarted(store=self.disk.store, rows=self.disk.read()))
        self.handle(on.WallClockRead(self.wall_us + self.network.now_us, 1_000))
        self.handle(on.Listening((self.address,)))

    def crash(self, *, loses_disk: bool = False) -> None:
        """End the device without a goodbye."""
        for other in self.network.hosts:
            self.network.cut(self, other)
        self.node = None
        self.links.clear()
        if loses_disk:
            self.disk = Disk(store=StoreId(bytes([self.boot + 100]) * 16))

    def see(self, other: Host, source: str = "mdns") -> None:
        """Learn where another device is."""
        self.handle(on.PeerSeen(other.peer, (other.address,), source))

    def ask(self, command: Command) -> list[Answer]:
        """Return what is answered at once."""
        request = next(self._requests)
        self.handle(on.Asked(request, command))
        return self.answers(request)

    def answers(self, request: int) -> list[Answer]:
        """Return what was answered to a request until now."""
        return [
            effect.value
            for effect in self.outgoing
            if isinstance(effect, do.Answer) and effect.request == request
        ]

    def join_answers(self) -> list[JoinGranted | JoinRefused]:
        """Return all answers to devices that wanted to join."""
        return [effect.answer for effect in self.outgoing if isinstance(effect, do.AnswerJoin)]

    def names_known(self) -> set[str]:
        """Return the names of all members this device knows."""
        return {member.name for member in self.running.directory}

    def handle(self, event: on.Event) -> list[do.Effect]:
        """Let the node handle an event and carry out what it decides; return that."""
        if self.node is None:
            return []
        match event:
            case on.LinkUp():
                self.links.add(event.peer)
            case on.LinkDown(peer):
                self.links.discard(peer)
        effects = self.node.handle(event, self.network.now_us)
        self.carry_out(effects)
        return effects

    def carry_out(self, effects: Iterable[do.Effect]) -> None:
        """Do what the node decided."""
        for effect in effects:
            self.outgoing.append(effect)
            match effect:
                case do.Send(peer, message):
                    self.network.send(self, peer, message)
                case do.Publish(_, records):
                    self.network.publish(self, records)
                case do.Dial(peer, addresses):
                    self.network.dial(self, peer, addresses)
                case do.Hangup(peer):
                    self.network.cut(self, self.network.host_of(peer))
                case do.SetTimer(key, after_us):
                    self._set_timer(key, after_us)
                case do.Persist():
                    self._persist(effect)
                case do.FindProviders(key, token):
                    found = on.ProvidersFound(token, self.network.providers(key))
                    self.network.after(DIAL_US, self, partial(self.handle, found))
                case do.Provide(key):
                    self.network.provided.setdefault(key, {})[self.peer] = self.address
                case do.Withdraw(key):
                    self.network.provided.get(key, {}).pop(self.peer, None)

    def finish_writes(self) -> None:
        """Let a slow disk catch up."""
        while self.waiting:
            persist = self.waiting.pop(0)
            self.disk.write(persist.rows)
            self.carry_out(persist.then)

    def _persist(self, persist: do.Persist) -> None:
        if self.is_disk_broken:
            self.network.after(0, self, lambda: self.handle(on.PersistFailed("disk full")))
        elif self.is_disk_slow:
            self.waiting.append(persist)
        else:
            self.disk.write(persist.rows)
            self.carry_out(persist.then)

    def _set_timer(self, key: Hashable, after_us: int) -> None:
        number = self.network.after(after_us, self, lambda: self._timer_due(key, number))
        self._timers[key] = number

    def _timer_due(self, key: Hashable, number: int) -> None:
        if self._timers.get(key) == number:
            del self._timers[key]
            self.handle(on.TimerDue(key))


@dataclass
class Network:
    """The devices of a small mesh and the links between them."""

    mesh: SmallMesh
    now_us: int = 0
    provided: dict[str, dict[PeerId, str]] = field(default_factory=dict)
    has_pubsub: bool = True
    unreachable: set[PeerId] = field(default_factory=set)  # nobody can dial these
    hosts: list[Host] = field(default_factory=list)
    _due: list[tuple[int, int, Host, int, Callable[[], object]]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def add(
        self,
        device: Device,
        *,
        capabilities: tuple[str, ...] = (),
        members_max: int = 2_000,
        links_max: int = 24,
    ) -> Host:
        """Add a device that does not run yet."""
        number = len(self.hosts)
        settings = NodeSettings(
            name=f"device-{number}",
            engine_profile="p1",
            capabilities=capabilities,
            members_max=members_max,
            links_max=links_max,
        )
        host = Host(self, device, settings, Disk(device.store))
        self.hosts.append(host)
        return host

    def number_of(self, host: Host) -> int:
        """Return a host's number."""
        return next(number for number, one in enumerate(self.hosts) if one is host)

    def host_of(self, peer: PeerId) -> Host:
        """Return the host of a peer."""
        return next(host for host in self.hosts if host.peer == peer)

    def sleep(self, seconds: float) -> None:
        """Let time pass in which no device handles anything: all are suspended."""
        self.now_us += int(seconds * US_PER_S)

    def run_for(self, seconds: float) -> None:
        """Let time pass."""
        until_us = self.now_us + int(seconds * US_PER_S)
        while self._due and self._due[0][0] <= until_us:
            due_us, _, host, boot, action = heapq.heappop(self._due)
            self.now_us = max(self.now_us, due_us)  # it may have slept
            if host.boot == boot and host.node is not None:
                action()
        self.now_us = until_us

    def after(self, delay_us: int, host: Host, action: Callable[[], object]) -> int:
        """Do something later, unless the host has died by then."""
        number = next(self._numbers)
        heapq.heappush(self._due, (self.now_us + delay_us, number, host, host.boot, action))
        return number

    def are_linked(self, one: Host, other: Host) -> bool:
        """Say whether both ends hold a link."""
        return one.peer in other.links and other.peer in one.links

    def send(self, origin: Host, peer: PeerId, message: Message) -> None:
        """Carry a message as a frame, in order."""
        target = self.host_of(peer)
        frame = _codec.encode(message)
        self.after(LINK_US, target, lambda: self._arrive(origin, target, frame))

    def publish(self, origin: Host, records: Message) -> None:
        """Bring published records to everybody that runs."""
        for host in self.hosts:
            if self.has_pubsub and host is not origin and host.node is not None:
                event = on.PublishedReceived(records)
                self.after(LINK_US, host, partial(host.handle, event))

    def dial(self, origin: Host, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Open a link, or fail."""
        self.after(DIAL_US, origin, lambda: self._dialled(origin, peer, addresses))

    def cut(self, one: Host, other: Host) -> None:
        """End the link between two devices; both hear of it."""
        for here, there in ((one, other), (other, one)):
            if there.peer in here.links:
                gone = on.LinkDown(there.peer, "gone")
                self.after(0, here, partial(here.handle, gone))

    def providers(self, key: str) -> tuple[on.Provider, ...]:
        """Return who provides a key."""
        found = self.provided.get(key, {})
        return tuple(on.Provider(peer, (address,)) for peer, address in found.items())

    def _arrive(self, origin: Host, target: Host, frame: bytes) -> None:
        if origin.peer in target.links:
            message = _codec.decode(frame)
            assert isinstance(message, Message)
            target.handle(on.Received(origin.peer, message))

    def _dialled(self, origin: Host, peer: PeerId, addresses: tuple[str, ...]) -> None:
        target = next((host for host in self.hosts if host.peer == peer), None)
        if self.are_linked(origin, target) if target is not None else False:
            return
        if (
            target is None
            or target.node is None
            or target.address not in addresses
            or peer in self.unreachable
        ):
            origin.handle(on.DialFailed(peer, "connection refused"))
            return
        for here, there, is_outbound in ((target, origin, False), (origin, target, True)):
            link = on.LinkUp(
                peer=there.peer,
                hello=there.running.hello(),
                address=there.address,
                is_outbound=is_outbound,
            )
            here.handle(link)
