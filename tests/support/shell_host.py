"""A simulated device whose node is driven by the daemon's shell, on trio, instead of by the engine.

What differs from `simulations.host.SimulatedHost` is what is under test: a real `Mailbox` orders
what waits and keeps the timers, and a real `Shell` hands it to the node and carries out what it
decides, in the tasks that it starts for what takes time. Around them is the same simulated network,
disk, DHT, sandbox and trace, each behind a part with the interface of the daemon's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

import trio
from support.stepped_trio import SteppedTrio
from support.switched_parts import (
    CollectedAnswers,
    DhtFinding,
    DiskStore,
    DiskWriter,
    FetchedContents,
    Incoming,
    KeptBlobs,
    Publication,
    SimulatedRuns,
    SwitchedLinks,
)

from meshd.mailbox import Mailbox
from meshd.shell import Shell
from meshd.writer import RowReader
from simulations.device import Boot, Device, HostSettings, Node, NodeFactory
from simulations.disk import Disk, DiskFate
from simulations.errors import BadScenario
from simulations.host import SimulatedHost, Surroundings
from simulations.trace import summary
from wire import effects as do
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
    """Runs one device's node under a shell. It cannot be frozen: trio has no way to stop a task."""

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
        super().__init__(device, around, settings=settings, factory=self._begin, disk=disk)
        self.settings = settings
        self._kit = kit
        self._make_node = factory
        self._process: Process | None = None

    # Life of the process.

    def crash(self, fate: DiskFate, *, loses_power: bool) -> None:
        """End the process: none of its tasks does anything any more."""
        if self._process is not None:
            self._kit.stepped.settle()  # what came at this very moment was before
            self._process.scope.cancel()
            self._process = None
        super().crash(fate, loses_power=loses_power)

    def freeze(self) -> None:
        """Refuse: a shell cannot be stopped between any two of its steps."""
        raise BadScenario("a device under a shell cannot be frozen")

    def deliver(self, event: Event) -> None:
        """Leave an event for the node, as the task that it comes from would."""
        if self._process is None:
            return
        if isinstance(event, on.Restarted):
            self._process.begin(event)
        else:
            self._process.incoming.put(event)

    def _begin(self, boot: Boot) -> Node:
        node = WatchedNode(self._make_node(boot), self)
        self._process = Process(self, node, self._kit)
        return node

    # What the parts carry out.

    def wants(self, effect: Effect) -> None:
        """Let the observers see that a part was asked to carry out `effect`."""
        for observer in self.around.observers:
            observer.saw_effect(self, effect)

    def persist(self, persist: do.Persist) -> None:
        """Write rows; what waits for them comes back through the mailbox."""
        self._persist(persist.rows, persist.then)

    def _synced(self, then: Sequence[Effect]) -> None:
        self.disk.sync_next()
        assert self._process is not None, "what a dead process wrote tells nobody"
        self._process.mailbox.post_durable(tuple(then))

    def start_fetch(self, fetch: do.Fetch) -> None:
        """Bring content here; the node hears of it as an event."""
        self._contents.fetch(fetch)

    def start_run(self, execute: do.Execute) -> None:
        """Run a program; the node hears of its end as an event."""
        self._contents.execute(execute)

    def kill_run(self, run: do.RunId) -> None:
        """Stop a run."""
        self._contents.kill(run)

    async def wait_us(self, delay_us: int) -> None:
        """Return in a while, to the microsecond."""
        is_over = trio.Event()
        self.around.engine.after(delay_us, is_over.set)
        await is_over.wait()


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
        host.note(f"event.{type(event).__name__}", summary(event))
        for observer in host.around.observers:
            observer.saw_event(host, event)
        return self._node.handle(event, now_us)


class Process:
    """The tasks of one boot: the shell, and one that leaves events in its mailbox."""

    def __init__(self, host: ShellHost, node: WatchedNode, kit: ShellKit) -> None:
        self.scope = trio.CancelScope()
        self.mailbox = kit.mailbox()
        self.incoming = Incoming()
        self._host = host
        self._node = node
        self._kit = kit

    def begin(self, restarted: on.Restarted) -> None:
        """Start the tasks. The node's first event comes before any other, as in the daemon."""
        effects = self._node.handle(restarted, self._host.now_us)
        self.mailbox.post_durable(tuple(effects))
        self._kit.stepped.nursery.start_soon(self._run, self._shell())

    async def _run(self, shell: Shell) -> None:
        CURRENT_HOST.set(self._host)
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(shell.run)
                await self.incoming.pass_on(self.mailbox)

    def _shell(self) -> Shell:
        host = self._host
        return self._kit.shell(
            node=self._node,
            mailbox=self.mailbox,
            links=SwitchedLinks(host),
            store=DiskStore(host),
            writer=DiskWriter(host),
            rows=RowReader(self._kit.verifier),
            blobs=KeptBlobs(host),
            contents=FetchedContents(host),
            runs=SimulatedRuns(host),
            finding=DhtFinding(host, self.mailbox),
            questions=CollectedAnswers(host),
            publish=Publication(host),
            now_us=lambda: host.now_us,
        )
