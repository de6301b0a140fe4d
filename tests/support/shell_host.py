"""A simulated device whose node is driven by the daemon's shell, on trio, instead of by the engine.

What differs from `simulations.host.SimulatedHost` is what is under test: a real `Mailbox` orders
what waits and keeps the timers, and a real `Shell` hands it to the node and carries out what it
decides, in the tasks that it starts for what takes time. Around them is the same simulated network,
disk, DHT, sandbox and trace, behind parts with the interfaces of the daemon's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

import trio
from support.stepped_trio import SteppedTrio
from support.switched_parts import DiskStore, Incoming, SimulatedParts, StallingMailbox

from meshd.mailbox import Mailbox
from meshd.shell import Shell
from meshd.writer import RowReader
from simulations.device import Device, HostSettings, Node, NodeFactory
from simulations.disk import Disk, DiskFate
from simulations.effect_points import EffectPoint
from simulations.engine import Action
from simulations.errors import BadScenario
from simulations.host import SimulatedHost, Surroundings
from simulations.process import Process
from wire import events as on
from wire.effects import Effect
from wire.events import Event
from wire.messages import Hello
from wire.signed import Verifier

CURRENT_HOST: ContextVar[ShellHost] = ContextVar("the device whose task runs")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellKit:
    """What the devices of a run have in common: where their tasks run, and what drives them.

    Tests plant defects here.
    """

    stepped: SteppedTrio
    verifier: Verifier
    shell: Callable[..., Shell] = Shell
    mailbox: Callable[[], Mailbox] = Mailbox


class ShellHost(SimulatedHost):
    """Runs one device's node under a shell.

    Its daemon's own work takes no time, its clock does not drift, it does not sleep, and it cannot
    be ended between two effects: what asks for that is refused with BadScenario.
    """

    def __init__(
        self,
        device: Device,
        around: Surroundings,
        *,
        settings: HostSettings,
        factory: NodeFactory,
        disk: Disk,
        kit: ShellKit,
    ) -> None:
        if settings.cpu is not None or settings.drift_ppm:
            raise BadScenario("a shell counts no CPU time, and its clock does not drift")
        self._kit = kit
        super().__init__(
            device,
            around,
            settings=settings,
            factory=lambda boot: WatchedNode(factory(boot), self),
            disk=disk,
        )

    # What befalls it.

    def crash(self, fate: DiskFate, *, loses_power: bool) -> None:
        """End the process: none of its tasks does anything any more."""
        self._kit.stepped.settle()  # what came at this very moment was before
        super().crash(fate, loses_power=loses_power)

    def freeze(self) -> None:
        """Stop the process from handling anything."""
        self._kit.stepped.settle()
        super().freeze()

    def suspend(self) -> None:
        """Refuse: how long a daemon sleeps is its real clock's doing, which is not here."""
        raise BadScenario("a device under a shell cannot be suspended")

    def set_drift(self, drift_ppm: int) -> None:
        """Refuse: trio has one clock for all."""
        raise BadScenario("the clock of a device under a shell cannot drift")

    def crash_at(self, point: EffectPoint, on_reached: Action) -> Action:
        """Refuse: a shell carries out all effects of an event in one go."""
        raise BadScenario("a device under a shell cannot be ended between two effects")

    # What its shell asks for.

    def carry_out(self, effect: Effect) -> None:
        """Do what the node wants, as the shell's parts are asked to."""
        self._carry_out_all((effect,))

    async def wait_us(self, delay_us: int) -> None:
        """Return in a while, to the microsecond, and not while the process stalls."""
        is_over = trio.Event()
        self.later(delay_us, is_over.set)
        await is_over.wait()

    def _new_process(self) -> Process:
        return ShellProcess(self, self._kit)

    def rest_of_sleep_us(self) -> int:
        """Never asked for: it does not sleep."""
        raise AssertionError("a device under a shell cannot be suspended")


class WatchedNode:
    """A node as the shell sees it; the trace and the observers see what it is handed."""

    def __init__(self, node: Node, host: ShellHost) -> None:
        self._node = node
        self._host = host

    def hello(self) -> Hello:
        """Return what the node says."""
        return self._node.hello()

    def handle(self, event: Event, now_us: int) -> Sequence[Effect]:
        """Return what the node wants."""
        host = self._host
        assert now_us == host.now_us, "the shell told the node another time"
        host.around.trace.add_handled(host.around.engine.now_us, host.index, event)
        host.around.observers.saw_event(host, event)
        return self._node.handle(event, now_us)


class ShellProcess(Process):
    """A process in which a shell decides what comes when.

    Of `Process` there is left what lies around the shell: boots, and that what an earlier one began
    is nothing to a later one, or waits while the process stalls.
    """

    def __init__(self, host: ShellHost, kit: ShellKit) -> None:
        super().__init__(
            host.around.engine,
            cpu=None,
            rest_of_sleep_us=host.rest_of_sleep_us,
            handle=_nobody_calls,
            handle_timer=_nobody_calls,
            carry_out=_nobody_calls,
            note=host.note,
        )
        self._host = host
        self._kit = kit
        self._tasks: Tasks | None = None

    def start(self) -> None:
        """Begin another boot."""
        super().start()
        self._tasks = Tasks(self._host, self._kit)

    def end(self) -> None:
        """Die: its tasks are cancelled before they do anything else."""
        super().end()
        if self._tasks is not None:
            self._tasks.scope.cancel()
        self._tasks = None

    def freeze(self) -> None:
        """Take nothing more from the mailbox."""
        super().freeze()
        if self._tasks is not None:
            self._tasks.shell_mailbox.stall()

    def thaw(self) -> None:
        """Do first what the kernel and the disk have ready, then take from the mailbox again."""
        super().thaw()
        if self._tasks is not None:
            self._tasks.shell_mailbox.go_on()

    def deliver(self, event: Event) -> None:
        """Leave an event for the node, as the task that it comes from would."""
        if self._tasks is None:
            return
        if isinstance(event, on.Restarted):
            self._tasks.begin(event)
        else:
            self._tasks.incoming.put(event)

    def carry_on(self, then: Sequence[Effect]) -> None:
        """Leave in the mailbox what waited for the disk, as the daemon's writer does."""
        if self._tasks is not None:
            self._tasks.mailbox.post_durable(tuple(then))


class Tasks:
    """The tasks of one boot: the shell, and one that leaves events in its mailbox."""

    def __init__(self, host: ShellHost, kit: ShellKit) -> None:
        self.scope = trio.CancelScope()
        self.mailbox = kit.mailbox()
        self.shell_mailbox = StallingMailbox(self.mailbox)
        self.incoming = Incoming()
        self._host = host
        self._kit = kit

    def begin(self, restarted: on.Restarted) -> None:
        """Start the tasks. The node's first event comes before any other, as in the daemon."""
        node = self._host.node()
        self.mailbox.post_durable(tuple(node.handle(restarted, self._host.now_us)))
        self._kit.stepped.nursery.start_soon(self._run, self._shell(node))

    async def _run(self, shell: Shell) -> None:
        CURRENT_HOST.set(self._host)
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(shell.run)
                await self.incoming.pass_on(self.mailbox)

    def _shell(self, node: Node) -> Shell:
        host = self._host
        parts = SimulatedParts(host)
        return self._kit.shell(
            node=node,
            mailbox=self.shell_mailbox,
            links=parts,
            store=DiskStore(host),
            writer=parts,
            rows=RowReader(self._kit.verifier),
            blobs=parts,
            contents=parts,
            runs=parts,
            finding=parts,
            questions=parts,
            publish=parts.publish,
            use_network_keys=parts.use_network_keys,
            now_us=lambda: host.now_us,
        )


def _nobody_calls(what: object) -> None:
    raise AssertionError(f"the shell was passed by: {what}")
