"""SWIM nodes on the simulator's network: UDP and TCP between them, and a process around each.

Paths, their latencies and losses, and what a busy or stalled process does are the simulator's. A
datagram is lost or not when it arrives; a stream takes a round trip to open, and what it loses is
sent again. A message costs the CPU what one costs meshd without libp2p: deciding, and a system call
instead of an encrypted write. That favours SWIM.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import cast

from benchmarks.membership.mesh import US_PER_S, Change, MeshSettings, NodePair, Traffic, View
from benchmarks.membership.swim import Swim
from benchmarks.membership.swim_effects import Effect, OpenStream, SendPacket, SetTimer, TimerKey
from benchmarks.membership.swim_members import Changed, State, SwimConfig
from benchmarks.membership.swim_messages import (
    Address,
    Message,
    Node,
    StreamMessage,
    packet_bytes,
    stream_bytes,
)
from simulations.clock import BootClock
from simulations.conditions import Datagrams
from simulations.cpu import Cpu, CpuCosts
from simulations.datagrams import copies
from simulations.engine import Action, Engine
from simulations.paths import LANE_DATAGRAM, LANE_TRANSFER, Paths
from simulations.process import Process
from simulations.seeds import source
from simulations.timers import Timer, Timers
from wire.effects import Effect as NodeEffect
from wire.events import Event
from wire.ids import PeerId

EVENTS_PER_NODE_SECOND_MAX = 20_000
ADDRESSES_PER_NODE = 1_000_000  # a node's addresses are its number and multiples of this on top
PACKET_HEADER_BYTES = 28  # IPv4 and UDP
STREAM_WIRE_BYTES = 4 * 60  # what an end receives to open and close: SYN, ACKs and FIN
SEGMENT_BYTES = 1_400
SEGMENT_HEADER_BYTES = 52  # IPv4 and TCP with timestamps
PACKET_US = 3  # sendto and recvfrom over loopback, machine of `CpuCosts`: 2.5 us together

VIEWS = {State.ALIVE: View.ALIVE, State.SUSPECT: View.DEGRADED, State.DEAD: View.DEAD}


class SwimHost:
    """The process of one node, in all its boots."""

    def __init__(self, index: int, mesh: SwimMesh) -> None:
        self.index = index
        self.peer = PeerId(index.to_bytes(32, "big"))
        self.address = Address(index)
        self.core: Swim | None = None
        self.remembered: list[Address] = []  # Serf's snapshot: the living, when it went down
        self._mesh = mesh
        self._engine = mesh.engine
        self._costs = CpuCosts()
        self._clock = BootClock(mesh.engine)
        # A process keeps the order of what it is given, and looks into none of it.
        self.process = Process(
            mesh.engine,
            cpu=Cpu(self._costs, mesh.engine, speed_permille=1_000),
            rest_of_sleep_us=lambda: 0,
            handle=lambda arrived: cast(Action, arrived)(),
            handle_timer=self._on_timer,
            carry_out=_nothing_is_written,
            note=lambda event, fields: None,
        )
        self._timers = Timers(mesh.engine, self._clock, self.process.ring)

    def deliver(self, action: Action) -> None:
        """Do something as soon as the process can; a dead one does nothing."""
        self.process.deliver(cast(Event, action))

    # Its life.

    def start(self, known: Sequence[Address]) -> None:
        """Begin another boot with an empty memory."""
        self.process.start()
        seed = self._mesh.settings.seed
        rng = source(seed, "swim", self.index, self.process.boot)
        self.core = Swim(Node(self.index), self.address, config=self._mesh.config, rng=rng)
        self._done(self.core.start(known, self._engine.now_us))

    def crash(self) -> None:
        """End without a word."""
        core = self._running()
        everybody = self._mesh.node_count
        living = core.members.sample(everybody, lambda one: one.state is State.ALIVE)
        self.remembered = [one.address for one in living]
        self.process.end()
        self._timers.clear()
        self.core = None

    def view(self, subject: int) -> View:
        """Return what this node believes of another."""
        core, node = self._running(), Node(subject)
        member = core.members.get(node)
        if member is not None:
            return VIEWS[member.state]
        return View.DEAD if node in core.members.failed else View.UNKNOWN

    def _running(self) -> Swim:
        if self.core is None:
            raise LookupError(f"node {self.index} does not run")
        return self.core

    # What it hears.

    def on_packet(self, parts: tuple[Message, ...]) -> None:
        """A datagram is read."""
        self._done(self._running().on_packet(parts, self._engine.now_us), read_count=1)

    def on_stream(self, origin: SwimHost, boot: int, stream: OpenStream) -> None:
        """A message on a stream is read, and answered."""
        answer, wanted = self._running().on_stream(stream.message, self._engine.now_us)
        self._done(wanted, read_count=1)
        if answer is not None:
            answered = partial(origin.on_stream_answer, boot, stream.token, answer)
            self._mesh.carry_stream(self, origin, answer, answered)

    def on_stream_answer(self, boot: int, token: int, answer: StreamMessage) -> None:
        """The answer of another comes back, perhaps to a later boot, which wants none."""
        if boot == self.process.boot:
            wanted = self._running().on_stream_answer(token, answer, self._engine.now_us)
            self._done(wanted, read_count=1)

    def on_stream_failed(self, boot: int, token: int) -> None:
        """Nobody listens at the other end."""
        if boot == self.process.boot:
            self._done(self._running().on_stream_failed(token, self._engine.now_us))

    def _on_timer(self, timer: Timer) -> None:
        if self._timers.take(timer):
            key = cast(TimerKey, timer[0])
            self._done(self._running().on_timer(key, self._engine.now_us))

    def _done(self, wanted: list[Effect], *, read_count: int = 0) -> None:
        """Carry out what the node wants, and be busy with it."""
        mesh, moved_count = self._mesh, read_count
        for effect in wanted:
            match effect:
                case SendPacket():
                    moved_count += 1
                    mesh.send_packet(self, effect)
                case SetTimer(key, after_us):
                    self._timers.set(key, after_us)
                case OpenStream():
                    moved_count += 1
                    mesh.open_stream(self, effect)
                case Changed():
                    mesh.note(self.index, effect)
        self.process.charge(self._costs.handle_us + moved_count * PACKET_US)


def _nothing_is_written(effects: Sequence[NodeEffect]) -> None:
    raise AssertionError(f"a SWIM node has no disk, and wants {effects}")


class SwimMesh:
    """SWIM nodes of one run; a `benchmarks.membership.mesh.Mesh`."""

    def __init__(self, settings: MeshSettings, config: SwimConfig | None = None) -> None:
        self.settings = settings
        self.config = config or SwimConfig()
        self.engine = Engine()
        self._paths = Paths(settings.network(), seed=settings.seed)
        self._datagrams = Datagrams()
        self._frame_bytes = self._wire_bytes = 0
        self._changes: list[Change] = []
        self._hosts = [SwimHost(index, self) for index in range(settings.node_count)]
        self._by_address = {host.address: host for host in self._hosts}
        for host in self._hosts:
            self._paths.attach(host.peer, host.index)

    @property
    def now_us(self) -> int:
        """The time since the run began."""
        return self.engine.now_us

    @property
    def node_count(self) -> int:
        """How many nodes there are, running or not."""
        return len(self._hosts)

    # What befalls nodes.

    def start(self, nodes: Iterable[int]) -> None:
        """Start nodes: at first they know node 0, later those that lived when they went down."""
        for node in nodes:
            host = self._hosts[node]
            is_first = host.process.boot == 0
            invitation = [self._hosts[0].address] if node else []
            host.start(invitation if is_first else host.remembered)

    def crash(self, nodes: Iterable[int]) -> None:
        """End nodes as a power cut does."""
        for node in nodes:
            self._hosts[node].crash()

    def freeze(self, nodes: Iterable[int]) -> None:
        """Let processes stall."""
        for node in nodes:
            self._hosts[node].process.freeze()

    def thaw(self, nodes: Iterable[int]) -> None:
        """Let them go on."""
        for node in nodes:
            self._hosts[node].process.thaw()

    def move(self, node: int) -> None:
        """Give a node another address."""
        host = self._hosts[node]
        del self._by_address[host.address]
        host.address = Address(host.address + ADDRESSES_PER_NODE)
        self._by_address[host.address] = host

    def cut(self, pairs: Sequence[NodePair]) -> None:
        """Lose what is sent from the first to the second of each pair."""
        self._paths.cut(
            (self._hosts[origin].peer, self._hosts[target].peer) for origin, target in pairs
        )

    def heal(self) -> None:
        """End all cuts."""
        self._paths.heal()

    def run_for(self, duration_us: int) -> None:
        """Let time pass. Raises EventBudgetSpent in a storm."""
        seconds = duration_us // US_PER_S + 1
        self.engine.run(
            until_us=self.engine.now_us + duration_us,
            events_max=EVENTS_PER_NODE_SECOND_MAX * seconds * len(self._hosts),
        )

    # What is measured.

    def view(self, observer: int, subject: int) -> View:
        """Return what a running node believes of another."""
        return self._hosts[observer].view(subject)

    def watch(self, *, every_us: int) -> list[Change]:
        """Return the list of changes from now on: nodes tell of each as it happens."""
        self._changes = []
        return self._changes

    def note(self, observer: int, changed: Changed) -> None:
        """A node believes something else from now on."""
        before = View.UNKNOWN if changed.before is None else VIEWS[changed.before]
        after = VIEWS[changed.after]
        change = Change(self.engine.now_us, observer, changed.node, before, after)
        self._changes.append(change)

    def traffic(self) -> Traffic:
        """Return what was received since the run began; updates are not counted as records."""
        return Traffic(frame_bytes=self._frame_bytes, wire_bytes=self._wire_bytes)

    # The network.

    def send_packet(self, origin: SwimHost, packet: SendPacket) -> None:
        """Let a datagram arrive, or not."""
        target = self._by_address.get(packet.address)
        if target is None:
            return
        path = self._paths.path(origin.peer, target.peer)
        fate = path.fate(LANE_DATAGRAM)
        for copy in copies(self._datagrams, fate, loss_permille=path.loss_permille):
            arrive = partial(self._packet_arrives, origin, target, packet)
            self.engine.after(path.flight_us(copy.fate), arrive)

    def _packet_arrives(self, origin: SwimHost, target: SwimHost, packet: SendPacket) -> None:
        is_there = target.process.is_running and target.address == packet.address
        if not is_there or self._paths.is_cut(origin.peer, target.peer):
            return
        size_bytes = packet_bytes(packet.parts)
        self._frame_bytes += size_bytes
        self._wire_bytes += size_bytes + PACKET_HEADER_BYTES
        target.deliver(partial(target.on_packet, packet.parts))

    def open_stream(self, origin: SwimHost, stream: OpenStream) -> None:
        """Let a connection be made and `stream.message` follow it: nothing happens if it cannot."""
        target = self._by_address.get(stream.address)
        if target is None or not self._paths.is_whole(origin.peer, target.peer):
            return
        connected_us = self._paths.round_trip_us(LANE_TRANSFER, origin.peer, target.peer)
        boot = origin.process.boot
        self.engine.after(connected_us, partial(self._connected, origin, boot, target, stream))

    def _connected(self, origin: SwimHost, boot: int, target: SwimHost, stream: OpenStream) -> None:
        if not origin.process.is_running or not target.process.is_running:
            return  # a device without power refuses nothing
        self._wire_bytes += 2 * STREAM_WIRE_BYTES
        read = partial(target.on_stream, origin, boot, stream)
        self.carry_stream(origin, target, stream.message, read)

    def carry_stream(
        self, origin: SwimHost, target: SwimHost, message: StreamMessage, read: Action
    ) -> None:
        """Let a message on a stream arrive, after all retransmissions."""
        path, size_bytes = self._paths.path(origin.peer, target.peer), stream_bytes(message)
        delay_us = path.delay_us(LANE_TRANSFER)
        if path.bytes_per_second is not None:
            delay_us += size_bytes * US_PER_S // path.bytes_per_second
        arrive = partial(self._stream_arrives, origin, target, size_bytes, read)
        self.engine.after(delay_us, arrive)

    def _stream_arrives(
        self, origin: SwimHost, target: SwimHost, size_bytes: int, read: Action
    ) -> None:
        is_cut = not self._paths.is_whole(origin.peer, target.peer)
        if is_cut or not target.process.is_running:
            return
        segments_count = 1 + size_bytes // SEGMENT_BYTES
        self._frame_bytes += size_bytes
        self._wire_bytes += size_bytes + segments_count * SEGMENT_HEADER_BYTES
        target.deliver(read)
