"""A whole mesh in virtual time: its devices, what is asked of them, and what befalls them.

A run is a function of (settings, what is done to the world, commit). The digest of its trace says
whether two runs were the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec
from msgspec import Struct

from simulations import partitions
from simulations.beliefs import Beliefs
from simulations.blobs import Transfers
from simulations.budget import Budget
from simulations.carriage import ByReference, EncodedRows, OverTheWire
from simulations.checks import Checks
from simulations.conditions import Conditions
from simulations.crypto import Ed25519Maker, StandInMaker
from simulations.device import Device, HostSettings, NodeFactory
from simulations.dht import Dht
from simulations.discovery import Discovery
from simulations.disk import Disk, DiskFate, RowForm
from simulations.engine import US_PER_S, Engine
from simulations.errors import InvariantBroken, NotReached, SimulationError
from simulations.founding import founded_devices, store_ids
from simulations.host import SimulatedHost, Surroundings
from simulations.kademlia import WalkedDht
from simulations.liars import Falsehoods, lying
from simulations.narration import Narrator
from simulations.network import Network
from simulations.observers import Observers
from simulations.partitions import NodePair
from simulations.paths import NetworkSettings
from simulations.seeds import derived_bytes
from simulations.steps import Falsehood
from simulations.submission import Work, submit_command
from simulations.trace import WORLD, Field, TraceLevel, TraceLog, summary
from wire.answers import Answer
from wire.commands import Command
from wire.effects import Answer as AnswerEffect
from wire.effects import AnswerJoin, Effect
from wire.events import Asked, AskedNoMore, Event, JoinAsked, PeerSeen, Stopping
from wire.ids import PeerId
from wire.membership import (
    JoinGranted,
    JoinRefused,
    JoinRequest,
    Role,
)

ANNOUNCE_FIRST_US = 100_000
STOP_US = US_PER_S  # from the signal to the end of the process
ANNOUNCE_EVERY_US = 30 * US_PER_S
SEEDS_COUNT = 2


class WorldSettings(Struct, frozen=True, kw_only=True):
    """What a run is made of. `repeat_with` is the command that repeats it, told when it fails."""

    seed: int
    node_count: int = 3
    network: NetworkSettings = NetworkSettings()
    host: HostSettings = HostSettings()
    budget: Budget = Budget()
    discovery: Discovery = Discovery.LAN
    hosts: dict[int, HostSettings] = {}  # of devices that are not as the others
    roles: dict[int, tuple[Role, ...]] = {}  # of all others: ALL_ROLES
    liars: tuple[int, ...] = ()  # devices whose nodes are wrapped so that they can lie
    exercises_wire: bool = False
    walks_dht: bool = False  # question by question, instead of by whoever sees all records
    trace: TraceLevel = TraceLevel.FULL
    events_per_node_second_max: int = 5_000
    repeat_with: str = "no command was given"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """How to make nodes, and which struct each kind of their rows has."""

    factory: NodeFactory
    row_kinds: Mapping[str, type[msgspec.Struct]]


@dataclass(eq=False, slots=True)
class Request:
    """Something that was asked of a node, and what came back so far."""

    number: int
    node: int
    boot: int
    parts: list[Answer | JoinGranted | JoinRefused] = field(default_factory=list)
    is_done: bool = False
    is_lost: bool = False  # the process died, or whoever asked has gone

    @property
    def last(self) -> Answer | JoinGranted | JoinRefused | None:
        """The latest part, None while there is none."""
        return self.parts[-1] if self.parts else None


class World:
    """The devices of one run."""

    observed_events = ()
    observed_effects = (AnswerEffect, AnswerJoin)

    def __init__(self, settings: WorldSettings, blueprint: Blueprint) -> None:
        self.settings = settings
        self.engine = Engine()
        self.trace = TraceLog(settings.trace)
        maker = Ed25519Maker() if settings.exercises_wire else StandInMaker()
        carrier = OverTheWire(maker.verifier) if settings.exercises_wire else ByReference()
        self.network = Network(self.engine, settings.network, seed=settings.seed, carrier=carrier)
        self.dht = (WalkedDht if settings.walks_dht else Dht)(self.engine, self.network)
        doubted = OverTheWire(maker.verifier)  # a forged signature would pass by reference
        narrator = Narrator(self.engine, self.trace)
        self.beliefs = Beliefs()
        self.checks = Checks(
            self.engine,
            maker.verifier,
            settings.budget,
            members_count=min(settings.node_count, settings.host.members_max),
            liars=frozenset(settings.liars),
            on_decided=narrator.note_decided,
        )
        self.network.on_sent = self.checks.count_sent
        self._transfers = Transfers(self.engine, self.network)
        self._around = Surroundings(
            engine=self.engine,
            network=self.network,
            transfers=self._transfers,
            dht=self.dht,
            trace=self.trace,
            observers=Observers([self.checks, self, narrator, self.beliefs]),
            seed=settings.seed,
        )
        self._requests: dict[int, Request] = {}
        self._submissions_count = 0
        form = RowForm()
        if settings.exercises_wire:
            form = EncodedRows(blueprint.row_kinds, maker.verifier)
        devices = founded_devices(settings.seed, settings.node_count, settings.roles, maker)
        self.falsehoods = {node: Falsehoods() for node in settings.liars}
        stranger = maker.make(derived_bytes(settings.seed, "stranger"))
        factory = lying(blueprint.factory, self.falsehoods, stranger=stranger)
        for node in settings.liars:
            self.network.distrust(devices[node].peer, doubted)
        self.hosts = [self._host(device, factory, form) for device in devices]

    def _host(self, device: Device, factory: NodeFactory, form: RowForm) -> SimulatedHost:
        stores = store_ids(self.settings.seed, device.index)
        host = SimulatedHost(
            device,
            self._around,
            settings=self.settings.hosts.get(device.index, self.settings.host),
            factory=factory,
            disk=Disk(lambda: next(stores), form),
        )
        self.network.attach(host)
        self._transfers.attach(host)
        self.checks.watch(host)
        return host

    # Time.

    def run_for(self, duration_us: int) -> None:
        """Let everything happen that is due in the next `duration_us`."""
        self._run(duration_us, None)

    def run_until(self, is_reached: Callable[[], bool], *, within_us: int, what: str) -> None:
        """Let time pass until `is_reached`. Raises NotReached, saying `what` was waited for."""
        if not self._run(within_us, is_reached):
            with self.explained():
                raise NotReached(f"not within {within_us // US_PER_S} s: {what}")

    def _run(self, duration_us: int, is_reached: Callable[[], bool] | None) -> bool:
        rate = self.settings.events_per_node_second_max
        seconds = duration_us // US_PER_S + 1
        with self.explained():
            return self.engine.run(
                until_us=self.engine.now_us + duration_us,
                events_max=rate * seconds * len(self.hosts),
                is_reached=is_reached,
            )

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Add to what a run raises where it was and how to repeat it."""
        try:
            yield
        except SimulationError as error:
            if hasattr(error, "__notes__"):
                raise  # explained where it was raised
            error.add_note(f"at {self.engine.now_us} us of virtual time")
            error.add_note(f"seed {self.settings.seed}; repeat: {self.settings.repeat_with}")
            raise

    # What befalls devices and paths.

    def start_all(self) -> None:
        """Start every device that does not run."""
        for host in self.hosts:
            if not host.is_running:
                self.start(host.index)

    def start(self, node: int) -> None:
        """Start a device's process; it hears of others as `discovery` says."""
        host = self.hosts[node]
        with self.explained():
            host.start()
        if self.settings.discovery is Discovery.LAN:
            host.later(ANNOUNCE_FIRST_US, partial(self._announce, host))
        else:
            for step in range(1, min(SEEDS_COUNT, len(self.hosts) - 1) + 1):
                seed = self.hosts[(node - step) % len(self.hosts)]
                host.deliver(PeerSeen(seed.peer, seed.addresses, "configuration"))

    def stop(self, node: int) -> None:
        """Stop a device as its owner does: it says goodbye, and ends a second later."""
        self.note("stop", {"target": node})
        host = self.hosts[node]
        with self.explained():
            host.deliver(Stopping())
        host.later(STOP_US, partial(self._end, host, DiskFate.KEEP, loses_power=False))

    def crash(self, node: int, fate: DiskFate, *, loses_power: bool | None = None) -> None:
        """End a device without a goodbye. By default power fails unless the disk is kept."""
        self.note("crash", {"target": node, "disk": fate.value})
        if loses_power is None:
            loses_power = fate is not DiskFate.KEEP
        self._end(self.hosts[node], fate, loses_power=loses_power)

    def freeze(self, node: int) -> None:
        """Let a process stall."""
        self.hosts[node].freeze()

    def thaw(self, node: int) -> None:
        """End a stall."""
        with self.explained():
            self.hosts[node].thaw()

    def fill_disk(self, node: int) -> None:
        """Let every write of a device fail."""
        self.note("fill_disk", {"target": node})
        self.hosts[node].disk.is_full = True

    def free_disk(self, node: int) -> None:
        """Let a device write again, from its next start on."""
        self.note("free_disk", {"target": node})
        self.hosts[node].disk.is_full = False

    def cut_pairs(self, pairs: Sequence[NodePair]) -> None:
        """Let nothing pass from the first to the second of each pair."""
        self.network.cut(self._peer_pairs(pairs))

    def mend_pairs(self, pairs: Sequence[NodePair]) -> None:
        """End one cut of each pair: what was cut twice stays cut."""
        self.network.mend(self._peer_pairs(pairs))

    def jam(self, pairs: Sequence[NodePair]) -> None:
        """Let what is sent from the first to the second of each pair wait."""
        self.network.jam(self._peer_pairs(pairs))

    def release(self, pairs: Sequence[NodePair]) -> None:
        """Let what waits arrive, in order."""
        self.network.release(self._peer_pairs(pairs))

    def worsen(self, pairs: Sequence[NodePair], conditions: Conditions) -> None:
        """Add to what packets suffer on these paths."""
        self.network.worsen(self._peer_pairs(pairs), conditions)

    def better(self, pairs: Sequence[NodePair], conditions: Conditions) -> None:
        """Take away again what `worsen` added."""
        self.network.better(self._peer_pairs(pairs), conditions)

    def split(self, *groups: Sequence[int]) -> None:
        """Let devices reach those of their own group only; who is in none is a group with them."""
        self.cut_pairs(partitions.split(groups, len(self.hosts)))

    def isolate(self, node: int) -> None:
        """Cut one device off from all others."""
        self.cut_pairs(partitions.isolate(node, len(self.hosts)))

    def heal(self) -> None:
        """Mend all paths."""
        self.network.heal_all()

    def mend_everything(self) -> None:
        """Mend all paths and processes; devices that do not run stay as they are."""
        self.note("mended", {})
        self.network.heal_all()
        self.network.calm()
        for host in self.hosts:
            host.disk.is_full = False
            if host.is_running and host.is_frozen:
                self.thaw(host.index)

    # What devices do that no honest one does.

    def tell_lies(self, node: int, how: Falsehood) -> None:
        """Let a device lie, from now on and after restarts too."""
        self.falsehoods[node].add(how)

    def tell_truth(self, node: int, how: Falsehood) -> None:
        """End a lie of a device."""
        self.falsehoods[node].end(how)

    # What people do.

    def ask(self, node: int, command: Command) -> Request:
        """Ask a running device something."""
        request = self._request(node)
        with self.explained():
            self.hosts[node].deliver(Asked(request.number, command))
        return request

    def forget(self, request: Request) -> None:
        """Whoever asked goes away."""
        request.is_lost = True
        self.hosts[request.node].deliver(AskedNoMore(request.number))

    def submit(self, node: int, work: Work) -> Request:
        """Submit a batch at a running device."""
        self._submissions_count += 1
        host = self.hosts[node]
        return self.ask(node, submit_command(host, work, number=self._submissions_count))

    def ask_to_join(self, node: int, joiner: PeerId, join: JoinRequest) -> Request:
        """Show an invitation to a running device."""
        request = self._request(node)
        with self.explained():
            self.hosts[node].deliver(JoinAsked(request.number, joiner, join))
        return request

    # As an observer of its devices.

    def saw_event(self, host: SimulatedHost, event: Event) -> None:
        """Nothing: the world looks at no event."""

    def saw_effect(self, host: SimulatedHost, effect: Effect) -> None:
        """Collect answers."""
        match effect:
            case AnswerEffect(number, value, is_last):
                self._take_answer(host, number, value, is_last=is_last)
            case AnswerJoin(number, answer):
                self._take_answer(host, number, answer, is_last=True)

    def _take_answer(
        self,
        host: SimulatedHost,
        number: int,
        value: Answer | JoinGranted | JoinRefused,
        *,
        is_last: bool,
    ) -> None:
        request = self._requests.get(number)
        if request is None or (request.node, request.boot) != (host.index, host.boot):
            raise InvariantBroken(f"{host.device.name} answers {number}, which nobody asked it")
        if request.is_done:
            raise InvariantBroken(f"{host.device.name} answers {number} after its last answer")
        host.note(f"answer.{type(value).__name__}", {"request": number} | summary(value))
        request.parts.append(value)
        request.is_done = is_last

    # Within.

    def _request(self, node: int) -> Request:
        host = self.hosts[node]
        number = len(self._requests) + 1
        request = Request(number, node, host.boot, is_lost=not host.is_running)
        self._requests[number] = request
        return request

    def _end(self, host: SimulatedHost, fate: DiskFate, *, loses_power: bool) -> None:
        for request in self._requests.values():
            if request.node == host.index and not request.is_done:
                request.is_lost = True
        with self.explained():
            host.crash(fate, loses_power=loses_power)

    def _announce(self, host: SimulatedHost) -> None:
        """Let a device and all it can reach hear of each other, now and every half minute."""
        for other in self.hosts:
            if other is not host and self.network.can_reach(host.peer, other.peer):
                other.deliver(PeerSeen(host.peer, host.addresses, Discovery.LAN.value))
                host.deliver(PeerSeen(other.peer, other.addresses, Discovery.LAN.value))
        host.later(ANNOUNCE_EVERY_US, partial(self._announce, host))

    def _peer_pairs(self, pairs: Sequence[NodePair]) -> list[tuple[PeerId, PeerId]]:
        return [(self.hosts[origin].peer, self.hosts[target].peer) for origin, target in pairs]

    def note(self, event: str, fields: Mapping[str, Field]) -> None:
        """Write a line that belongs to no device into the trace."""
        self.trace.add(self.engine.now_us, WORLD, event, fields)
