"""One simulated device: its node, and everything its node's effects ask for, in virtual time.

A process that dies loses its node, timers and runs; its disk and blobs stay or go as the crash
says. What an earlier boot began never reaches a later one. A frozen process handles nothing until
it is thawed, then everything that came meanwhile.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from simulations.blobs import BlobStore, Transfers
from simulations.contents import Bench, Contents
from simulations.device import Boot, Device, HostSettings, Node, NodeFactory
from simulations.dht import Dht
from simulations.disk import Disk, DiskFate
from simulations.engine import Action, Engine
from simulations.errors import NodeRaised, UnknownEffect
from simulations.gossipsub import publish
from simulations.network import Network
from simulations.sandbox import Workers
from simulations.seeds import source
from simulations.sensors import sample_of
from simulations.trace import Field, TraceLog, summary
from telemetry import SAMPLE_EVERY_US
from wire import effects as do
from wire import events as on
from wire.effects import Effect
from wire.events import Event
from wire.ids import PeerId
from wire.messages import Hello
from wire.signed import encode_body

CLOCK_ORIGIN_US_MAX = 30 * 86_400_000_000
WALL_EPOCH_US = 1_800_000_000_000_000
WALL_UNCERTAINTY_US = 1_000_000


class Observer(Protocol):
    """Sees everything that a node handles and wants, as it happens; changes nothing."""

    def saw_event(self, host: SimulatedHost, event: Event) -> None:
        """`event` is about to be handled."""
        ...

    def saw_effect(self, host: SimulatedHost, effect: Effect) -> None:
        """`effect` is about to be carried out."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all devices of a run share."""

    engine: Engine
    network: Network
    transfers: Transfers
    dht: Dht
    trace: TraceLog
    observers: list[Observer]
    seed: int


class SimulatedHost:
    """Runs one device's node and carries out its effects."""

    def __init__(
        self,
        device: Device,
        around: Surroundings,
        *,
        settings: HostSettings,
        factory: NodeFactory,
        disk: Disk,
    ) -> None:
        self.device = device
        self.disk = disk
        self.blobs = BlobStore()
        self.boot = 0
        self.is_powered = True
        self.is_frozen = False
        self.has_lost_disk = False
        self.temperature_millicelsius = 45_000
        self.around = around
        self._contents = self._new_contents(settings)
        self._settings = settings
        self._factory = factory
        self._node: Node | None = None
        self._inbox: list[Action] = []
        self._timers: dict[Hashable, object] = {}
        self._origin_us = 0
        self._disk_rng = source(around.seed, "disk", device.index)
        self._synced_at_us = 0
        self._is_store_broken = False

    def _new_contents(self, settings: HostSettings) -> Contents:
        bench = Bench(
            index=self.index,
            signer=self.device.signer,
            blobs=self.blobs,
            transfers=self.around.transfers,
            workers=Workers(settings.workers_count, self.later),
            seed=self.around.seed,
            deliver=self.deliver,
            later=self.later,
            of_this_boot=self.of_this_boot,
        )
        return Contents(bench)

    def _new_boot(self) -> Boot:
        return Boot(self.device, self.boot, self.around.seed, self._settings)

    # What the network and the world see.

    @property
    def peer(self) -> PeerId:
        """The device's id."""
        return self.device.peer

    @property
    def index(self) -> int:
        """The device's number."""
        return self.device.index

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it can be dialled."""
        return self.device.addresses

    @property
    def is_running(self) -> bool:
        """Whether its process exists."""
        return self._node is not None

    @property
    def is_answering(self) -> bool:
        """Whether its process exists and is not frozen."""
        return self._node is not None and not self.is_frozen

    @property
    def now_us(self) -> int:
        """The time on the clock of this boot."""
        return self._origin_us + self.around.engine.now_us

    @property
    def runs_count(self) -> int:
        """How many programs run or wait here."""
        return self._contents.active_count

    def node(self) -> Node:
        """Return the node of this boot; there must be one."""
        if self._node is None:
            raise LookupError(f"{self.device.name} does not run")
        return self._node

    def hello(self) -> Hello:
        """Return this device's half of a handshake."""
        return self.node().hello()

    # Life of the process.

    def start(self) -> None:
        """Start the process: a new node hears what the disk holds, then the time."""
        if self.is_running:
            raise LookupError(f"{self.device.name} runs already")
        self.boot += 1
        self.is_powered, self.is_frozen, self._is_store_broken = True, False, False
        clock = source(self.around.seed, "clock", self.index, self.boot)
        self._origin_us = clock.randrange(CLOCK_ORIGIN_US_MAX) - self.around.engine.now_us
        self.blobs.evict()
        self.note("process.started", {"boot": self.boot})
        self._node = self._factory(self._new_boot())
        self.deliver(on.Restarted(store=self.disk.store, rows=self.disk.rows()))
        wall_us = WALL_EPOCH_US + self.around.engine.now_us
        self.deliver(on.WallClockRead(wall_us, WALL_UNCERTAINTY_US))
        self.deliver(on.Listening(self.addresses))
        self._sample()

    def crash(self, fate: DiskFate, *, loses_power: bool) -> None:
        """End the process without a goodbye. Without power nobody is told."""
        self.note("process.crashed", {"disk": fate.value, "loses_power": loses_power})
        self._node = None
        self.is_powered = not loses_power
        self._inbox.clear()
        self._timers.clear()
        self._contents.clear()
        self.disk.crash(fate)
        if fate is DiskFate.LOSE_ALL:
            self.has_lost_disk = True
            self.blobs.clear()
        self.around.network.process_died(self.peer)
        self.around.dht.process_died(self.peer)

    def freeze(self) -> None:
        """Stop the process from handling anything, as SIGSTOP or a long stall does."""
        self.note("process.frozen", {})
        self.is_frozen = True

    def thaw(self) -> None:
        """Let the process go on: it does first what came meanwhile."""
        self.note("process.thawed", {})
        self.is_frozen = False
        waiting, self._inbox = self._inbox, []
        for action in waiting:
            action()

    def deliver(self, event: Event) -> None:
        """Let the node handle `event` now, or when it is thawed; a dead process hears nothing."""
        if self._node is None:
            return
        if self.is_frozen:
            self._inbox.append(partial(self.deliver, event))
            return
        self.note(f"event.{type(event).__name__}", summary(event))
        for observer in self.around.observers:
            observer.saw_event(self, event)
        try:
            wanted = self._node.handle(event, self.now_us)
        except Exception as error:
            what = f"{type(event).__name__} made {self.device.name} raise {error!r}"
            raise NodeRaised(f"{what} at {self.around.engine.now_us} us") from error
        self._carry_out_all(wanted)

    def later(self, delay_us: int, action: Action) -> None:
        """Do `action` in a while, unless the process is another one by then."""
        self.around.engine.after(delay_us, self.of_this_boot(action))

    def of_this_boot(self, action: Action) -> Action:
        """Return `action` as something that does nothing in a later boot, and waits if frozen."""
        boot = self.boot

        def act() -> None:
            if self.boot != boot or not self.is_running:
                return
            if self.is_frozen:
                self._inbox.append(act)
            else:
                action()

        return act

    def note(self, event: str, fields: Mapping[str, Field]) -> None:
        """Write a line into the trace."""
        self.around.trace.add(self.around.engine.now_us, self.index, event, fields)

    # Effects.

    def _carry_out_all(self, wanted: Sequence[Effect]) -> None:
        for effect in wanted:
            for observer in self.around.observers:
                observer.saw_effect(self, effect)
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        """Do what the node wants. Nothing here calls the node: answers come as later events."""
        network = self.around.network
        match effect:
            case do.Send(peer, message):
                network.send(self.peer, peer, message)
            case do.Publish(_, records):
                publish(self.around.engine, network, self.peer, records)
            case do.Dial(peer, addresses):
                network.dial(self.peer, peer, addresses)
            case do.Hangup(peer, reason):
                network.hang_up(self.peer, peer, reason)
            case do.SetTimer(key, after_us):
                self._set_timer(key, after_us)
            case do.Persist(rows, then):
                self._persist(rows, then)
            case do.Load():
                self.later(self._settings.load_us, partial(self._load, effect))
            case do.Provide(key):
                self.around.dht.provide(self.peer, key)
            case do.Withdraw(key):
                self.around.dht.withdraw(self.peer, key)
            case do.FindProviders(key):
                lookup_us = self.around.dht.lookup_us(self.peer, key)
                self.later(lookup_us, partial(self._find_providers, effect))
            case do.Fetch():
                self._contents.fetch(effect)
            case do.Offer(blob, owner):
                self.blobs.keep(blob, owner)
            case do.Release(owner):
                self.blobs.release(owner)
            case do.Execute():
                self._contents.execute(effect)
            case do.Kill(run):
                self._contents.kill(run)
            case do.Trace(event, fields):
                self.note(event, fields)
            case do.Answer() | do.AnswerJoin():
                pass  # the world collects answers by observing effects
            case _:
                raise UnknownEffect(f"{type(effect).__name__}, wanted by {self.device.name}")

    def _set_timer(self, key: Hashable, after_us: int) -> None:
        token = object()
        self._timers[key] = token

        def ring() -> None:
            if self._timers.get(key) is token:
                del self._timers[key]
                self.deliver(on.TimerDue(key))

        self.later(max(0, after_us), ring)

    def _persist(self, rows: Sequence[do.Row], then: Sequence[Effect]) -> None:
        jitter_us = self._disk_rng.randrange(self._settings.sync_jitter_us + 1)
        due_us = self.around.engine.now_us + self._settings.sync_us + jitter_us
        self._synced_at_us = max(self._synced_at_us, due_us)  # writes are synced in order
        delay_us = self._synced_at_us - self.around.engine.now_us
        if self.disk.is_full or self._is_store_broken:
            self._is_store_broken = True  # as the daemon's: nothing is written until a restart
            self.later(delay_us, partial(self.deliver, on.PersistFailed("no space left")))
        else:
            self.disk.write(rows)
            self.later(delay_us, partial(self._synced, then))

    def _synced(self, then: Sequence[Effect]) -> None:
        self.disk.sync_next()
        self._carry_out_all(then)

    def _load(self, load: do.Load) -> None:
        rows = self.disk.load(load.kind, load.prefix, load.limit)
        self.deliver(on.Loaded(load.token, rows))

    def _find_providers(self, wanted: do.FindProviders) -> None:
        providers = self.around.dht.providers(self.peer, wanted.key)
        self.deliver(on.ProvidersFound(wanted.token, providers))

    def _sample(self) -> None:
        """Read the sensors, now and every ten seconds."""
        if not self._settings.samples:
            return
        sample = sample_of(self.around.seed, self.index, self.temperature_millicelsius)
        self.deliver(on.Sampled(encode_body(sample)))
        self.later(SAMPLE_EVERY_US, self._sample)
