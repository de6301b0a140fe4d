"""One simulated device: its node, and everything its node's effects ask for, in virtual time.

A process that dies loses its node, timers and runs; its disk and blobs stay or go as the crash
says. `simulations.process` says when a process does what, `simulations.hands` what it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from simulations.backup import Backup, HomeBlobs
from simulations.blobs import Transfers
from simulations.clock import BootClock, WallClock
from simulations.contents import Bench, Contents
from simulations.cpu import Cpu, KeyUse
from simulations.device import Boot, Device, HostSettings, Node, NodeFactory
from simulations.dht import Dht
from simulations.disk import Disk, DiskFate
from simulations.effect_points import EffectPoint, EffectWatch
from simulations.engine import Action, Engine
from simulations.errors import NodeRaised
from simulations.gray import Gray
from simulations.hands import Hands
from simulations.network import Network
from simulations.observers import Observers, observed_kind
from simulations.process import Process
from simulations.sandbox import Workers
from simulations.seeds import seed_number, source
from simulations.sensors import Sensors
from simulations.timers import Timer, Timers
from simulations.trace import Field, TraceLog, summary
from simulations.writing import Writing
from telemetry import SAMPLE_EVERY_US
from wire import events as on
from wire.effects import Effect
from wire.events import Event
from wire.messages import Hello

CLOCK_ORIGIN_US_MAX = 30 * 86_400_000_000
# No sleep of the daemon is longer (`meshd.clock`), and the kernel's sleeps do not count suspension.
SLEEP_US_MAX = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all devices of a run share."""

    engine: Engine
    network: Network
    transfers: Transfers
    dht: Dht
    trace: TraceLog
    observers: Observers
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
        self.index = device.index
        self.peer = device.peer
        self.addresses = device.addresses
        self.around = around
        self.settings = settings
        self.disk = disk
        self.blobs = HomeBlobs()
        self._engine = around.engine
        self._factory = factory
        self._node: Node | None = None
        self._has_power = True
        self._gray = Gray()
        self._sensors = Sensors(around.seed, self.index)
        self._wall = WallClock(settings.wall_offset_us, settings.wall_uncertainty_us)
        self._started_at_us = 0
        self._sleeps_count = 0
        self._clock = BootClock(around.engine, drift_ppm=settings.drift_ppm)
        self._watch = EffectWatch()
        self._key_use = KeyUse(device.signer)
        self._process = self._new_process()
        # The network, timers and transfers call these for everything: no detour through the host.
        self.deliver = self._process.deliver
        self.later = self._process.later
        self.of_this_boot = self._process.of_this_boot
        self._timers = Timers(around.engine, self._clock, self._process.ring)
        self._contents = self._new_contents()
        self._writing = Writing(
            disk,
            around.engine,
            settings,
            source(around.seed, "disk", self.index),
            later=self.later,
            on_durable=self._process.carry_on,
            deliver=self.deliver,
        )
        self._hands = self._new_hands()

    # What the network and the world see.

    @property
    def boot(self) -> int:
        """How many times its process has started."""
        return self._process.boot

    @property
    def is_running(self) -> bool:
        """Whether its process exists."""
        return self._process.is_running

    @property
    def is_frozen(self) -> bool:
        """Whether its process, if it exists, stalls."""
        return self._process.is_frozen

    @property
    def is_suspended(self) -> bool:
        """Whether the device sleeps."""
        return self._process.is_suspended

    @property
    def is_answering(self) -> bool:
        """Whether its process exists and does something."""
        return self._process.is_running and not self._process.is_stalled

    @property
    def is_powered(self) -> bool:
        """Whether there is a device that could say that no process listens."""
        return self._has_power and not self._process.is_suspended

    @property
    def now_us(self) -> int:
        """The time on the clock of this boot."""
        return self._clock.now_us()

    @property
    def runs_count(self) -> int:
        """How many programs run or wait here."""
        return self._contents.active_count

    @property
    def backlog_count(self) -> int:
        """How many events, timers and durable writes wait until the node can be bothered."""
        return self._process.backlog_count

    @property
    def cpu_spent_us(self) -> int:
        """How much CPU time the daemon has used in all its boots, 0 if nobody counts it."""
        return 0 if self._process.cpu is None else self._process.cpu.spent_us

    @property
    def temperature_millicelsius(self) -> int:
        """How hot the device is."""
        return self._sensors.temperature_millicelsius

    def node(self) -> Node:
        """Return the node of this boot; there must be one."""
        if self._node is None:
            raise LookupError(f"{self.device.name} does not run")
        return self._node

    def hello(self) -> Hello:
        """Return this device's half of a handshake."""
        return self.node().hello()

    def note(self, event: str, fields: Mapping[str, Field]) -> None:
        """Write a line into the trace."""
        self.around.trace.add(self._engine.now_us, self.index, event, fields)

    # Life of the process.

    def start(self) -> None:
        """Start the process: a new node hears what the disk holds, then the time.

        Raises LookupError if it runs.
        """
        self._process.start()
        self._has_power = True
        self._started_at_us = self._engine.now_us
        origin = source(self.around.seed, "clock", self.index, self.boot)
        self._clock.start(origin.randrange(CLOCK_ORIGIN_US_MAX))
        self._writing.start()
        self._set_standing_still()
        self.blobs.evict()
        self.note("process.started", {"boot": self.boot})
        self._node = self._factory(self._new_boot())
        self.deliver(on.Restarted(store=self.disk.store, rows=self.disk.rows()))
        self._tell_wall_clock()
        self.deliver(on.Listening(self.addresses))
        self._sense()

    def crash(self, fate: DiskFate, *, loses_power: bool) -> None:
        """End the process without a goodbye. Without power nobody is told."""
        self.note("process.crashed", {"disk": fate.value, "loses_power": loses_power})
        self._node = None
        self._has_power = not loses_power
        self._process.end()
        self._timers.clear()
        self._contents.clear()
        self._writing.crash(fate)
        if fate is DiskFate.LOSE_ALL:
            self.blobs.clear()
        self.around.network.process_died(self.peer)
        self.around.dht.process_died(self.peer)

    def freeze(self) -> None:
        """Stop the process from handling anything, as SIGSTOP or a long stall does."""
        self.note("process.frozen", {})
        self._process.freeze()

    def thaw(self) -> None:
        """Let the process go on: it does first what came meanwhile."""
        self.note("process.thawed", {})
        self._process.thaw()

    def suspend(self) -> None:
        """Let the device sleep, as a closed laptop does: nothing runs, only the clock goes on.

        What is sent to it meanwhile reaches it afterwards, as its peers' kernels send it again and
        again. For a sleep longer than streams live through, cut it off as well.
        """
        self.note("device.suspended", {})
        self._process.suspend()
        self._set_standing_still()

    def resume(self) -> None:
        """Wake the device up. Its daemon notices when something comes, or within a second."""
        self.note("device.resumed", {})
        self._process.resume()
        self._set_standing_still()

    def set_gray(self, gray: Gray | None) -> None:
        """Let the device look well and not work, None: work again. Restarts do not cure it."""
        self._gray = gray or Gray()
        self.note("process.gray", summary(self._gray))
        self._contents.slowdown = self._gray.slowdown
        self._hands.drops = self._gray.drops
        self._set_standing_still()

    def crash_at(self, point: EffectPoint, on_reached: Action) -> Action:
        """Do `on_reached` between two effects that the node wants; return what gives that up.

        It may crash the process: what else the node wanted in answer to the same event is lost.
        """
        return self._watch.add(point, on_reached)

    # Disk, clocks and sensors.

    def backup(self) -> Backup:
        """Return a copy of what is durable now, whether or not the process runs."""
        return Backup(self.disk.snapshot(), self.blobs.snapshot())

    def restore(self, backup: Backup, *, is_block_level: bool) -> None:
        """Bring back what a backup holds; `Disk.restore` says what that makes of the store.

        Raises LookupError while the process runs.
        """
        if self.is_running:
            raise LookupError(f"{self.device.name} runs: its store is in use")
        self.note("disk.restored", {"is_block_level": is_block_level})
        self.disk.restore(backup.disk, is_block_level=is_block_level)
        self.blobs.restore(backup.blobs)

    def set_drift(self, drift_ppm: int) -> None:
        """Let the device's clock run too fast or too slow from now on. Raises ValueError."""
        self._clock.set_drift(drift_ppm)
        self._timers.rewind()
        self.note("clock.drifts", {"ppm": drift_ppm})

    def set_wall(self, offset_us: int | None) -> None:
        """Let the wall clock jump to so much beside the truth, None: to where nobody knows it."""
        self._wall.offset_us = offset_us
        self.note("clock.jumped", {"offset_us": offset_us})
        self._tell_wall_clock()

    def set_temperature(self, millicelsius: int) -> None:
        """Be so hot; the node learns of it when it is sampled next."""
        self._sensors.set_temperature(millicelsius)

    def set_battery(self, permille: int | None, *, is_in_use: bool = True) -> None:
        """Have a battery that is so full, None for none; the node learns of it likewise."""
        self._sensors.set_battery(permille, is_in_use=is_in_use)

    def _tell_wall_clock(self) -> None:
        now_us = self._engine.now_us
        self.deliver(self._wall.read(true_us=now_us, uptime_us=now_us - self._started_at_us))

    def _sense(self) -> None:
        if self.settings.samples:
            self.deliver(on.Sampled(self._sensors.read()))
            self.later(SAMPLE_EVERY_US, self._sense_again)

    def _sense_again(self) -> None:
        """Read the wall clock and the sensors every ten seconds, as `meshd.sensing` does."""
        self._tell_wall_clock()
        self._sense()

    # What the node handles and wants.

    def _handle(self, event: Event) -> None:
        node = self._node
        if node is None:
            return
        self.around.trace.add_handled(self._engine.now_us, self.index, event)
        self.around.observers.saw_event(self, event)
        try:
            wanted = node.handle(event, self._clock.now_us())
        except Exception as error:
            what = f"{type(event).__name__} made {self.device.name} raise {error!r}"
            raise NodeRaised(f"{what} at {self._engine.now_us} us") from error
        cpu = self._process.cpu
        if cpu is not None:
            self._process.charge(cpu.handling_us(event) + self._cost_us(cpu, wanted))
        if wanted:
            self._carry_out_all(wanted)

    def _handle_timer(self, timer: Timer) -> None:
        if self._timers.take(timer):
            self._handle(on.TimerDue(timer[0]))

    def _carry_on(self, then: Sequence[Effect]) -> None:
        """Carry out what waited for the disk."""
        cpu = self._process.cpu
        if cpu is not None:
            self._process.charge(self._cost_us(cpu, then))
        self._carry_out_all(then)

    def _cost_us(self, cpu: Cpu, wanted: Sequence[Effect]) -> int:
        return cpu.effects_us(wanted) + cpu.keys_us(self._key_use)

    def _carry_out_all(self, wanted: Sequence[Effect]) -> None:
        if self._watch:
            self._carry_out_watched(wanted)
            return
        of_effect, carry_out = self.around.observers.of_effect, self._hands.carry_out
        for effect in wanted:
            for saw in of_effect.get(observed_kind(effect), ()):
                saw(self, effect)
            carry_out(effect)

    def _carry_out_watched(self, wanted: Sequence[Effect]) -> None:
        """Likewise, until something befalls the process on the way."""
        node = self._node
        for effect in wanted:
            before, after = self._watch.reached(effect)
            for action in before:
                action()
                if self._node is not node:
                    return
            self.around.observers.saw_effect(self, effect)
            self._hands.carry_out(effect)
            for action in after:
                action()
                if self._node is not node:
                    return

    # What it is made of.

    def _rest_of_sleep_us(self) -> int:
        self._sleeps_count += 1
        seed = self.around.seed
        return seed_number(seed, "sleep", self.index, self._sleeps_count) % SLEEP_US_MAX

    def _set_standing_still(self) -> None:
        self._contents.set_paused(self._gray.is_stuck or self._process.is_suspended)

    def _new_boot(self) -> Boot:
        device = self.device
        if self._process.cpu is not None:
            device = replace(device, signer=self._key_use)
        return Boot(device, self.boot, self.around.seed, self.settings)

    def _new_process(self) -> Process:
        cpu, settings = None, self.settings
        if settings.cpu is not None:
            cpu = Cpu(settings.cpu, self._engine, speed_permille=settings.speed_permille)
        return Process(
            self._engine,
            cpu=cpu,
            rest_of_sleep_us=self._rest_of_sleep_us,
            handle=self._handle,
            handle_timer=self._handle_timer,
            carry_out=self._carry_on,
            note=self.note,
        )

    def _new_contents(self) -> Contents:
        settings, engine = self.settings, self._engine
        bench = Bench(
            index=self.index,
            signer=self.device.signer,
            blobs=self.blobs,
            transfers=self.around.transfers,
            workers=Workers(settings.workers_count, self.later, lambda: engine.now_us),
            seed=self.around.seed,
            speed_permille=settings.speed_permille,
            deliver=self.deliver,
            later=self.later,
            of_this_boot=self.of_this_boot,
        )
        return Contents(bench)

    def _new_hands(self) -> Hands:
        return Hands(
            peer=self.peer,
            engine=self._engine,
            network=self.around.network,
            dht=self.around.dht,
            timers=self._timers,
            writing=self._writing,
            contents=self._contents,
            blobs=self.blobs,
            disk=self.disk,
            load_us=self.settings.load_us,
            later=self.later,
            deliver=self.deliver,
            note=self.note,
        )
