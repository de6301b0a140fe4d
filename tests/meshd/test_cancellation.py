"""The parts of the daemon, cancelled at each of their steps: nothing is left, half done or lost."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
import trio
from support.answer_views import TASK, accepted, pending_view, status_view
from support.cancel_everywhere import cancel_everywhere
from support.control_node import MODULE, ScriptedNode
from support.memory_host import MemoryNetwork
from support.meshes import keys_of, small_mesh
from support.tasks import contract_of, tasks_of
from trio.testing import MockClock, wait_all_tasks_blocked

from meshd.blobstore import BlobStore
from meshd.content import ContentGate
from meshd.control_frames import Frame, decode_frame, encode_frame
from meshd.control_stream import FrameStream
from meshd.mailbox import Mailbox
from meshd.questions import Questions
from meshd.runs import Contents, ModuleShelf, Runs
from meshd.store import Store
from meshd.writer import Writer
from p2p.blob_exchange import BlobFetcher, BlobServer
from p2p.own_records import INCARNATION_ROW, IncarnationRow
from sandbox.job import Execution, Job
from sandbox.pool import Pool
from wire.answers import Answer as AnswerValue
from wire.blobs import CHUNK_BYTES, BlobRef
from wire.commands import GetStatus, Submit, WaitTask
from wire.content import Content
from wire.effects import Answer, Effect, Execute, Fetch, Persist, Row, RunId, Trace
from wire.events import Asked, AskedNoMore, Event, Executed, Fetched
from wire.execution import ExecutionStatus
from wire.limits import Limits
from wire.tasks import Epoch, batch_id_of

MESH = small_mesh(2)
OWN, GIVER = MESH.devices[0].peer, MESH.devices[1].peer
BATCH_KEY = b"k" * 32
PERSISTS_COUNT = 6


# Writer and store


def pair_of(number: int) -> Persist:
    """Return two rows that must be there together, and what waits for them."""
    rows = tuple(
        Row(INCARNATION_ROW, b"%03d.%d" % (number, half), IncarnationRow(incarnation=number + 1))
        for half in range(2)
    )
    return Persist(rows, (Trace(str(number), {}),))


async def test_what_the_writer_acknowledged_is_on_the_disk_whenever_it_is_cancelled(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mesh.db"
    acknowledged: list[str] = []

    async def write() -> None:
        acknowledged.clear()
        path.unlink(missing_ok=True)
        store = Store.open(path)
        writer = Writer(
            store,
            on_durable=lambda then: acknowledged.extend(map(name_of, then)),
            on_failed=lambda reason: pytest.fail(reason),
        )
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(store.run)
                nursery.start_soon(writer.run)
                for number in range(PERSISTS_COUNT):
                    writer.put(pair_of(number))
                    if number % 2:  # some are written alone, others together
                        await trio.lowlevel.checkpoint()
                        await writer.wait_idle()
                rows = await store.load(INCARNATION_ROW, limit=100)
                assert len(rows) == 2 * PERSISTS_COUNT
                nursery.cancel_scope.cancel()
        finally:
            store.close()

    def check(was_cancelled: bool) -> None:
        store = Store.open(path)
        keys = [key for key, _ in store.load_all([INCARNATION_ROW])[INCARNATION_ROW]]
        store.close()
        numbers = [int(key[:3]) for key in keys[::2]]
        assert keys == [row.key for number in numbers for row in pair_of(number).rows]
        assert numbers == [*range(len(numbers))]  # none is there without those before it
        assert acknowledged == [str(number) for number in numbers[: len(acknowledged)]]
        assert was_cancelled or len(acknowledged) == PERSISTS_COUNT

    def name_of(effect: Effect) -> str:
        assert isinstance(effect, Trace)
        return effect.event

    assert await cancel_everywhere(write, check) > 20


# Runs


@dataclass
class InLoopPool:
    """Runs each job for two rounds of the scheduler."""

    running: list[Job] = field(default_factory=list)

    async def execute(self, job: Job) -> Execution:
        """Put out what came in."""
        self.running.append(job)
        try:
            for _ in range(2):
                await trio.lowlevel.checkpoint()
            return Execution(status=ExecutionStatus.EXITED, stdout=bytes(40_000))
        finally:
            self.running.remove(job)


def execute_of(module: BlobRef, attempt: int) -> Execute:
    return Execute(
        run=RunId(batch_id_of(contract_of(MESH, tasks_of(1))), 0, Epoch(0, 1, 0), attempt),
        module=module,
        input=tasks_of(1, batch_key=BATCH_KEY)[0].input,
        sources=(GIVER,),
        box=keys_of(0).seal(BATCH_KEY, OWN),
        limits=Limits(),
        seed=b"seed",
    )


async def test_runs_and_fetches_end_once_or_not_at_all_whenever_they_are_cancelled(
    tmp_path: Path,
) -> None:
    given = BlobStore(tmp_path / "giver", 64 << 20)
    module, content = given.put(b"\0asm, or so it says"), given.put(bytes(CHUNK_BYTES + 9))
    events: list[Event] = []
    pool = InLoopPool()
    homes: list[Path] = []

    async def work() -> None:
        events.clear()
        homes.append(tmp_path / f"own {len(homes)}")
        blobs = BlobStore(homes[-1], 64 << 20)
        network = MemoryNetwork(latency_s=0)
        own, giver = network.host(OWN), network.host(GIVER)
        gate, shelf = ContentGate(keys_of(0), blobs), ModuleShelf(blobs)
        is_done = trio.Event()

        async def emit(event: Event) -> None:
            await trio.lowlevel.checkpoint()
            events.append(event)
            if len([one for one in events if isinstance(one, Executed | Fetched)]) == 2:
                is_done.set()

        contents = Contents(blobs=blobs, gate=gate, fetcher=BlobFetcher(own, blobs), emit=emit)
        runs = Runs(pool=cast(Pool, pool), contents=contents, gate=gate, shelf=shelf, emit=emit)
        async with trio.open_nursery() as nursery:
            await nursery.start(own.run)
            await nursery.start(giver.run)
            await own.connect(GIVER, ["/ip4/192.0.2.1/tcp/1"])
            await giver.admit(OWN)
            BlobServer(giver, given).serve()
            killed = execute_of(module, attempt=1)
            runs.begin(killed, nursery)
            runs.begin(execute_of(module, attempt=2), nursery)
            nursery.start_soon(contents.fetch, Fetch(Content(blob=content), (GIVER,), "token"))
            await trio.lowlevel.checkpoint()
            runs.kill(killed.run)
            await is_done.wait()
            nursery.cancel_scope.cancel()
        assert not runs._scopes

    def check(was_cancelled: bool) -> None:
        ends = [event for event in events if isinstance(event, Executed | Fetched)]
        assert not pool.running
        assert len(ends) == len({type(event) for event in ends})
        assert all(event.run.attempt == 2 for event in ends if isinstance(event, Executed))
        assert was_cancelled or len(ends) == 2
        assert not [*homes[-1].glob("*.tmp")]  # threads end what they began
        again = BlobStore(homes[-1], 64 << 20)
        for ref in (module, content):
            if again.has(ref):
                assert again.read(ref) == given.read(ref)
        for end in ends:
            ended = end.output.blob if isinstance(end, Executed) else content
            assert ended is not None
            assert len(again.read(ended)) == ended.size_bytes  # `read` checks the digest too

    assert await cancel_everywhere(work, check) > 50


# Questions and the mailbox


async def test_a_question_is_withdrawn_exactly_if_it_was_put_and_not_answered(
    autojump_clock: MockClock,
) -> None:
    heard: list[Event] = []
    answered: set[int] = set()
    answers: list[AnswerValue] = []

    async def ask() -> None:
        heard.clear()
        answered.clear()
        answers.clear()
        mailbox = Mailbox()
        questions = Questions(mailbox.post, emit_now=mailbox.post_now)

        async def answer() -> None:
            while True:
                item = await mailbox.take()
                assert isinstance(item, Asked | AskedNoMore)
                heard.append(item)
                if isinstance(item, Asked) and isinstance(item.command, GetStatus):
                    questions.answer(Answer(item.request, status_view()))
                    answered.add(item.request)
                await mailbox.after_event()

        async def ask_and_leave() -> None:
            async with questions.ask(WaitTask(TASK)):
                await wait_all_tasks_blocked()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer)
                nursery.start_soon(ask_and_leave)
                async with questions.ask(GetStatus()) as received:
                    answers.extend([value async for value in received])
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        finally:
            heard.extend(mailbox._events)

    def check(was_cancelled: bool) -> None:
        asked = {event.request: event.command for event in heard if isinstance(event, Asked)}
        withdrawn = [event.request for event in heard if isinstance(event, AskedNoMore)]
        assert len(withdrawn) == len({*withdrawn})
        assert {*withdrawn} <= asked.keys()
        for request, command in asked.items():
            is_answered = isinstance(command, GetStatus) and request in answered
            assert is_answered != (request in withdrawn)
        assert was_cancelled or answers == [status_view()]

    assert await cancel_everywhere(ask, check) > 10


# The control socket


async def test_the_control_socket_closes_all_that_it_opened_whenever_it_is_cancelled(
    tmp_path: Path,
) -> None:
    path = tmp_path / "control.sock"
    nodes: list[ScriptedNode] = []
    received: list[str] = []

    async def converse() -> None:
        received.clear()
        node = ScriptedNode()
        nodes.append(node)
        node.script(GetStatus, status_view())
        node.script(Submit, accepted())
        node.script(WaitTask, pending_view(), hangs=True)
        async with trio.open_nursery() as nursery:
            await nursery.start(node.server(path).run)
            async with await trio.open_unix_socket(path) as stream:
                client = FrameStream(stream)
                await client.receive()
                await say(client, {"greeting": "test", "protocol": 1}, {"command": "status"})
                await hear(client, "answer", "end")
                await submit(client)
                await say(client, {"command": "wait", "task": TASK})
                await hear(client, "answer")
            await node.has_withdrawn.wait()
            nursery.cancel_scope.cancel()

    async def submit(client: FrameStream) -> None:
        tasks = [{"args": [], "env": [], "stdin_bytes": 2}]
        await say(client, {"command": "submit", "module_bytes": len(MODULE), "tasks": tasks})
        await hear(client, "proceed")
        await say(client, {"chunk": MODULE})
        await hear(client, "proceed")
        await say(client, {"chunk": b"in"})
        await hear(client, "answer", "end")

    async def say(client: FrameStream, *frames: Frame) -> None:
        await client.send_each(map(encode_frame, frames))

    async def hear(client: FrameStream, *kinds: str) -> None:
        for kind in kinds:
            frame = await client.receive()
            assert frame is not None
            assert kind in decode_frame(frame), decode_frame(frame)
            received.append(kind)

    def check(was_cancelled: bool) -> None:
        assert not os.path.lexists(path)
        assert was_cancelled or received == [
            "answer",
            "end",
            "proceed",
            "proceed",
            "answer",
            "end",
            "answer",
        ]
        # What the node was asked was answered to its end, or withdrawn.
        kinds = [type(command) for command in nodes[-1].asked]
        assert kinds == [GetStatus, Submit, WaitTask][: len(kinds)]
        assert WaitTask not in kinds or WaitTask in nodes[-1].withdrawn

    assert await cancel_everywhere(converse, check) > 50
