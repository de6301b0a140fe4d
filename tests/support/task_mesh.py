"""A few real nodes wired by one small loop: links that deliver, disks that keep, programs that run.

Time is virtual. A message is encoded and decoded on its way, so that only what the codec lets
through arrives and signatures are really checked. Tests change what happens: `run` says how a
program ends, `fetch` whether an output is had, `loses` which messages get lost.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import count
from random import Random

from support.meshes import Device, SmallMesh, small_mesh
from support.tasks import BATCH_KEY, ENGINE_PROFILE, tasks_of

from meshd.node import MeshNode
from meshd.settings import NodeSettings
from meshd.store import BODY_BYTES_MAX
from telemetry.sample import Sample, encode_sample
from wire.answers import Accepted, TaskView
from wire.answers import Answer as AnswerValue
from wire.blobs import blob_ref
from wire.codec import FrameCodec
from wire.commands import Command, Submit, WaitBatch
from wire.content import Content, digest_key, output_digest, output_purpose, seal_content
from wire.effects import (
    Answer,
    Dial,
    Effect,
    Execute,
    Fetch,
    Hangup,
    Kill,
    Load,
    Persist,
    Row,
    RunId,
    Send,
    SetTimer,
    Trace,
)
from wire.events import (
    Asked,
    Event,
    Executed,
    ExecutionFailed,
    Fetched,
    FetchFailed,
    LinkDown,
    LinkUp,
    Listening,
    Loaded,
    PeerSeen,
    Received,
    Restarted,
    Sampled,
    TimerDue,
    WallClockRead,
)
from wire.execution import ExecutionStatus
from wire.ids import PeerId, StoreId
from wire.keys import Ed25519Verifier
from wire.messages import MESSAGES, Message
from wire.signed import encode_body

LATENCY_US = 1_000
DISK_US = 500
RUN_US = 200_000
WALL_US = 1_800_000_000_000_000
SECOND_US = 1_000_000

Ended = Executed | ExecutionFailed | None  # None: it runs for ever


def executed(run: RunId, output: bytes = b"done", **changes: object) -> Executed:
    """Return the end of a run that put out `output` and exited with 0."""
    fields: dict[str, object] = {
        "run": run,
        "status": ExecutionStatus.EXITED,
        "exit_code": 0,
        "output": Content(
            inline=seal_content(output, batch_key=BATCH_KEY, purpose=output_purpose(run.index))
        ),
        "output_digest": output_digest(output, key=digest_key(BATCH_KEY)),
        "log": None,
        "detail": "",
        "fuel_used": 1_000,
        "wall_us": RUN_US,
    }
    return Executed(**{**fields, **changes})  # type: ignore[arg-type]  # checked by msgspec's init


@dataclass(slots=True)
class MeshHost:
    """One device: its node while it runs, and what stays when it does not."""

    device: Device
    number: int
    node: MeshNode
    store: StoreId
    rows: dict[tuple[str, bytes], Row] = field(default_factory=dict)
    timers: dict[Hashable, int] = field(default_factory=dict)
    is_up: bool = False
    boot: int = 0
    runs: set[RunId] = field(default_factory=set)
    runs_begun: list[RunId] = field(default_factory=list)
    killed: list[RunId] = field(default_factory=list)
    answers: dict[int, list[Answer]] = field(default_factory=dict)
    sent: list[tuple[PeerId, Message]] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)

    @property
    def peer(self) -> PeerId:
        """The device's id."""
        return self.device.peer


class TaskMesh:
    """`hosts[0]` is the founder. `run_us` is virtual time per program."""

    def __init__(self, hosts_count: int = 3, *, wall_uncertainty_us: int | None = 1_000) -> None:
        self.mesh: SmallMesh = small_mesh(hosts_count)
        self.now_us = SECOND_US
        self.run_us = RUN_US
        self.wall_uncertainty_us = wall_uncertainty_us
        self.run: Callable[[MeshHost, Execute], Ended] = lambda _, effect: executed(effect.run)
        self.fetch: Callable[[MeshHost, Fetch], Fetched | FetchFailed] = lambda _, effect: Fetched(
            effect.token
        )
        self.loses: Callable[[MeshHost, PeerId, Message], bool] = lambda *_: False
        self.settings: dict[int, dict[str, object]] = {}
        self._codec = FrameCodec(MESSAGES, Ed25519Verifier())
        self._links: set[frozenset[PeerId]] = set()
        self._heap: list[tuple[int, int, MeshHost, int, Callable[[], None]]] = []
        self._sequence = count()
        self._requests = count(1)
        self.hosts = [
            MeshHost(device, number, self._node(device, number, 0), device.store)
            for number, device in enumerate(self.mesh.devices)
        ]
        self._by_peer = {host.peer: host for host in self.hosts}

    # --- what tests do ----------------------------------------------------------------------

    def start(self) -> None:
        """Start all devices and let them find each other."""
        for host in self.hosts:
            self.boot(host)
        self.pass_time(5 * SECOND_US)

    def boot(self, host: MeshHost) -> None:
        """Start a device from what is on its disk."""
        host.node = self._node(host.device, host.number, host.boot)
        host.is_up = True
        address = (f"/ip4/127.0.0.1/tcp/{4000 + host.number}",)
        self._handle(host, Restarted(store=host.store, rows=tuple(host.rows.values())))
        self._handle(host, WallClockRead(WALL_US + self.now_us, self.wall_uncertainty_us))
        self._handle(host, Listening(address))
        self._handle(host, Sampled(encode_sample(Sample(cpu_idle_permille=900))))
        for other in self.hosts:
            if other is not host:
                seen = (f"/ip4/127.0.0.1/tcp/{4000 + other.number}",)
                self._handle(host, PeerSeen(other.peer, seen, "invitation"))

    def crash(self, host: MeshHost, *, new_store: StoreId | None = None) -> None:
        """Stop a device's process at once; with `new_store` its disk is lost too."""
        host.is_up = False
        host.boot += 1
        host.timers.clear()
        host.runs.clear()
        if new_store is not None:
            host.rows.clear()
            host.store = new_store
        for other in self.hosts:
            self.cut(host, other)

    def cut(self, one: MeshHost, other: MeshHost) -> None:
        """Break the link of two devices; they dial again by themselves."""
        pair = frozenset((one.peer, other.peer))
        if pair in self._links:
            self._links.discard(pair)
            for host, peer in ((one, other.peer), (other, one.peer)):
                if host.is_up:
                    self._soon(host, 0, self._event(host, LinkDown(peer, "cut")))

    def tell(self, host: MeshHost, event: Event) -> None:
        """Let a device handle an event now."""
        self._handle(host, event)

    def ask(self, host: MeshHost, command: Command) -> int:
        """Ask a device something; its answers are in `host.answers[number]`."""
        request = next(self._requests)
        host.answers[request] = []
        self._handle(host, Asked(request, command))
        return request

    def answer(self, host: MeshHost, command: Command) -> AnswerValue:
        """Ask something that is answered within a second, and return the last of the answer."""
        request = self.ask(host, command)
        self.pass_time(SECOND_US)
        return host.answers[request][-1].value

    def submission(self, host: MeshHost, tasks_count: int, **changes: object) -> Submit:
        """Return a command to run a batch."""
        fields: dict[str, object] = {
            "module": blob_ref(b"\0asm\1\0\0\0"),
            "tasks": tasks_of(tasks_count),
            "key": host.device.keys.seal(BATCH_KEY, host.peer),
        }
        return Submit(**{**fields, **changes})  # type: ignore[arg-type]  # msgspec's init

    def submit(self, host: MeshHost, tasks_count: int, **changes: object) -> Accepted:
        """Submit a batch and return when it is accepted, which takes a disk's time."""
        request = self.ask(host, self.submission(host, tasks_count, **changes))
        self.pass_time(2 * DISK_US)
        value = host.answers[request][-1].value
        assert isinstance(value, Accepted), value
        return value

    def pass_time(self, duration_us: int, *, until: Callable[[], bool] = lambda: False) -> None:
        """Let things happen for a while, or until something is so."""
        end_us = self.now_us + duration_us
        while self._heap and self._heap[0][0] <= end_us and not until():
            due_us, _, host, boot, happen = heapq.heappop(self._heap)
            self.now_us = max(self.now_us, due_us)
            if host.is_up and host.boot == boot:
                happen()
        if not until():
            self.now_us = end_us

    def views(self, host: MeshHost, accepted: Accepted) -> list[TaskView]:
        """Return all tasks of a batch as its steward answers."""
        request = self.ask(host, WaitBatch(f"{accepted.batch}.0"))
        shown = [answer.value for answer in host.answers[request]]
        return [view for view in shown if isinstance(view, TaskView)]

    def finish(self, host: MeshHost, accepted: Accepted, within_us: int) -> list[TaskView]:
        """Let time pass until a batch is decided, at most so long; return its tasks."""
        request = self.ask(host, WaitBatch(f"{accepted.batch}.0"))
        self.pass_time(within_us, until=lambda: host.answers[request][-1].is_last)
        return self.views(host, accepted)

    # --- how things go ----------------------------------------------------------------------

    def _node(self, device: Device, number: int, boot: int) -> MeshNode:
        fields: dict[str, object] = {
            "name": f"device-{number}",
            "capabilities": ("runtime:wasi-p1", f"label:number={number}"),
            "engine_profile": ENGINE_PROFILE,
            "spot_checks": False,  # runs are counted here: tests of checks have them
        }
        return MeshNode(
            settings=NodeSettings(**{**fields, **self.settings.get(number, {})}),  # type: ignore[arg-type]
            signer=device.keys,
            genesis=self.mesh.genesis,
            chain=device.chain,
            network_key=b"k" * 32,
            rng=Random(f"{number}.{boot}"),
        )

    def _soon(self, host: MeshHost, after_us: int, happen: Callable[[], None]) -> None:
        item = (self.now_us + max(0, after_us), next(self._sequence), host, host.boot, happen)
        heapq.heappush(self._heap, item)

    def _event(self, host: MeshHost, event: Event) -> Callable[[], None]:
        return lambda: self._handle(host, event)

    def _handle(self, host: MeshHost, event: Event) -> None:
        for effect in host.node.handle(event, self.now_us):
            self._carry_out(host, effect)

    def _carry_out(self, host: MeshHost, effect: Effect) -> None:
        match effect:
            case Send(peer, message):
                self._send(host, peer, message)
            case SetTimer(key, after_us):
                self._set_timer(host, key, after_us)
            case Persist():
                self._soon(host, DISK_US, lambda: self._persist(host, effect))
            case Load(kind, prefix, limit, token):
                found = [row for (k, key), row in host.rows.items() if k == kind]
                rows = [row for row in reversed(found) if row.key.startswith(prefix)]
                self._soon(host, DISK_US, self._event(host, Loaded(token, tuple(rows[:limit]))))
            case Dial(peer):
                self._link(host, self._by_peer[peer])
            case Hangup(peer):
                self.cut(host, self._by_peer[peer])
            case Execute():
                self._execute(host, effect)
            case Kill(run):
                host.runs.discard(run)
                host.killed.append(run)
            case Fetch():
                self._soon(host, LATENCY_US, self._event(host, self.fetch(host, effect)))
            case Answer(request):
                host.answers[request].append(effect)
            case Trace():
                host.traces.append(effect)

    def _send(self, host: MeshHost, peer: PeerId, message: Message) -> None:
        assert peer != host.peer, "a message to oneself left the node"
        host.sent.append((peer, message))
        frame = self._codec.encode(message)
        other = self._by_peer[peer]
        if frozenset((host.peer, peer)) in self._links and not self.loses(host, peer, message):
            received: Message = self._codec.decode(frame)  # type: ignore[assignment]
            self._soon(other, LATENCY_US, self._event(other, Received(host.peer, received)))

    def _set_timer(self, host: MeshHost, key: Hashable, after_us: int) -> None:
        number = host.timers[key] = next(self._sequence)

        def due() -> None:
            if host.timers.get(key) == number:
                del host.timers[key]
                self._handle(host, TimerDue(key))

        self._soon(host, after_us, due)

    def _persist(self, host: MeshHost, persist: Persist) -> None:
        for row in persist.rows:
            if row.value is None:
                host.rows.pop((row.kind, row.key), None)
            else:
                assert len(encode_body(row.value)) < BODY_BYTES_MAX
                host.rows[row.kind, row.key] = row
        for effect in persist.then:
            self._carry_out(host, effect)

    def _link(self, host: MeshHost, other: MeshHost) -> None:
        pair = frozenset((host.peer, other.peer))
        if pair in self._links or not other.is_up:
            return
        self._links.add(pair)
        for one, two, is_outbound in ((host, other, True), (other, host, False)):
            link_up = LinkUp(
                peer=two.peer, hello=two.node.hello(), address="/memory", is_outbound=is_outbound
            )
            self._soon(one, LATENCY_US, self._event(one, link_up))

    def _execute(self, host: MeshHost, effect: Execute) -> None:
        assert effect.run not in host.runs_begun, "a run was begun twice"
        host.runs.add(effect.run)
        host.runs_begun.append(effect.run)
        ended = self.run(host, effect)

        def end() -> None:
            if effect.run in host.runs and ended is not None:
                host.runs.discard(effect.run)
                self._handle(host, ended)

        self._soon(host, self.run_us, end)
