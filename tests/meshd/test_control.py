"""The server's side of the control socket, spoken to in frames."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from support.answer_views import TASK, accepted, pending_view, status_view, task_view
from support.control_node import KEYS, MODULE, ScriptedNode
from trio.testing import MockClock, wait_all_tasks_blocked

from meshd import control, control_listener, control_stream
from meshd.batch_content import BatchContent
from meshd.control_errors import ControlSocketInUse
from meshd.control_frames import FRAME_BYTES_MAX, LENGTH, Frame, decode_frame, encode_frame
from meshd.control_requests import INPUTS_BYTES_MAX
from meshd.errors import BlobBudgetExceeded
from wire.answers import ResultView
from wire.blobs import BlobRef
from wire.commands import GetResult, GetStatus, ListPeers, Submit, WaitTask
from wire.content import Invocation
from wire.limits import CONTENT_BYTES_MAX, MODULE_BYTES_MAX, Limits
from wire.tasks import Durability, Strategy

GREETING: Frame = {"greeting": "test", "protocol": 1}
STATUS: Frame = {"command": "status"}


class Client:
    """A client in frames."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._received = b""

    async def send(self, *frames: Frame) -> None:
        for frame in frames:
            await self.stream.send_all(encode_frame(frame))

    async def receive(self) -> Frame:
        header = await self._exactly(LENGTH.size)
        return decode_frame(await self._exactly(LENGTH.unpack(header)[0]))

    async def receive_answer(self) -> list[Frame]:
        """Return all frames before `end`."""
        frames = []
        while (frame := await self.receive()) != {"end": True}:
            frames.append(frame)
        return frames

    async def is_hung_up_on(self) -> bool:
        try:
            return await self.stream.receive_some(1) == b""
        except trio.BrokenResourceError:
            return True

    async def _exactly(self, count: int) -> bytes:
        while len(self._received) < count:
            received = await self.stream.receive_some(65_536)
            if not received:
                raise EOFError
            self._received += received
        taken, self._received = self._received[:count], self._received[count:]
        return taken


def mode_of(path: Path) -> int | None:
    """Return the type and mode of what lies at `path`, None if nothing does."""
    return path.lstat().st_mode if os.path.lexists(path) else None


@asynccontextmanager
async def serving(node: ScriptedNode, path: Path) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(node.server(path).run)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Client]:
    """A client that has been greeted and has greeted."""
    with trio.fail_after(20):
        async with await trio.open_unix_socket(path) as stream:
            client = Client(stream)
            assert (await client.receive())["greeting"] == "meshd"
            await client.send(GREETING)
            yield client


@pytest.fixture
def node() -> ScriptedNode:
    scripted = ScriptedNode()
    scripted.script(GetStatus, status_view())
    scripted.script(Submit, accepted())
    return scripted


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


async def test_a_command_is_put_to_the_node_and_its_answer_ends(
    node: ScriptedNode, path: Path
) -> None:
    async with serving(node, path), connected(path) as client:
        for _ in range(2):  # one connection carries request after request
            await client.send(STATUS)
            (answer,) = await client.receive_answer()
            assert (answer["answer"], answer["name"]) == ("status", "desk")
    assert node.asked == [GetStatus(), GetStatus()]


async def test_the_socket_is_for_its_owner_alone_and_is_gone_afterwards(
    node: ScriptedNode, path: Path
) -> None:
    async with serving(node, path):
        assert mode_of(path) == stat.S_IFSOCK | 0o600
    assert mode_of(path) is None


async def test_the_process_umask_is_left_as_it_was(node: ScriptedNode, path: Path) -> None:
    before = os.umask(0o022)
    try:
        async with serving(node, path):
            assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


async def test_a_user_who_is_neither_owner_nor_root_is_not_heard(
    node: ScriptedNode, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "user_of", lambda _stream: os.geteuid() + 1)
    with capture_logs() as logs:
        async with serving(node, path):
            client = Client(await trio.open_unix_socket(path))
            refused = await client.receive()
            assert (refused["answer"], refused["code"]) == ("refused", "refused")
            assert await client.is_hung_up_on()
            await client.stream.aclose()
    assert logs[0]["event"] == "control.client_refused"
    assert node.asked == []


async def test_the_kernel_says_who_connects(path: Path, node: ScriptedNode) -> None:
    seen = []
    listener = control_listener.listen(path)
    async with await trio.open_unix_socket(path):
        stream = await listener.accept()
        seen.append(control_listener.user_of(stream))
        await stream.aclose()
    await listener.aclose()
    assert seen == [os.geteuid()]


async def test_the_socket_of_a_daemon_that_died_is_taken_over(
    node: ScriptedNode, path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as died:
        died.bind(str(path))
    async with serving(node, path), connected(path) as client:
        await client.send(STATUS)
        assert await client.receive_answer()


async def test_the_socket_of_a_daemon_that_listens_is_not_touched(
    node: ScriptedNode, path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ControlSocketInUse, match="another daemon listens"):
            await node.server(path).run()
        assert mode_of(path) is not None


async def test_a_file_in_the_way_is_not_removed(node: ScriptedNode, path: Path) -> None:
    os.mknod(path, stat.S_IFREG | 0o600)
    with pytest.raises(ControlSocketInUse, match="no socket"):
        await node.server(path).run()
    assert mode_of(path) == stat.S_IFREG | 0o600


async def test_a_client_of_another_protocol_is_told_both_versions(
    node: ScriptedNode, path: Path
) -> None:
    async with serving(node, path):
        client = Client(await trio.open_unix_socket(path))
        await client.receive()
        await client.send({"greeting": "meshctl", "protocol": 9})
        refused = await client.receive()
        assert "control protocol 1 to 1, not 9: install the same release" in refused["message"]
        assert await client.is_hung_up_on()
        await client.stream.aclose()


async def test_a_request_that_is_not_understood_is_refused_and_the_next_one_answered(
    node: ScriptedNode, path: Path
) -> None:
    async with serving(node, path), connected(path) as client:
        for wrong in (
            {"command": "explode"},
            {},
            {"command": "task", "task": 5},
            {"command": "invite", "uses": 0},
            {"command": "submit", "module_bytes": 9, "tasks": [{"args": ["a\0b"]}]},
            {"command": "submit", "module_bytes": 9, "tasks": [{"env": [["a=b", "c"]]}]},
        ):
            await client.send(wrong)
            (refused,) = await client.receive_answer()
            assert (refused["answer"], refused["code"]) == ("refused", "bad_request")
        await client.send(STATUS)
        assert (await client.receive_answer())[0]["answer"] == "status"


@given(st.binary(max_size=200))
@example(LENGTH.pack(FRAME_BYTES_MAX + 1))
@example(LENGTH.pack(4) + b"\x91\x91\x91\x91")
@example(LENGTH.pack(0))
@example(encode_frame(GREETING) + LENGTH.pack(3) + b"\xa1\xff\xfe")
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_hostile_bytes_cost_the_client_its_connection_and_nobody_else(
    tmp_path: Path, hostile: bytes
) -> None:
    node = ScriptedNode()
    node.script(GetStatus, status_view())
    path = tmp_path / "hostile.sock"
    async with serving(node, path):
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(hostile)
            await stream.send_eof()
            with trio.fail_after(10):
                while await stream.receive_some(65_536):
                    pass
        async with connected(path) as client:
            await client.send(STATUS)
            assert (await client.receive_answer())[0]["answer"] == "status"


async def test_a_client_that_hangs_up_withdraws_its_question(
    node: ScriptedNode, path: Path
) -> None:
    node.script(WaitTask, pending_view(), hangs=True)
    async with serving(node, path):
        async with connected(path) as client:
            await client.send({"command": "wait", "task": TASK})
            assert (await client.receive())["state"] == "pending"
        with trio.fail_after(5):
            await node.has_withdrawn.wait()
    assert node.withdrawn == [WaitTask]


async def test_a_client_that_speaks_before_it_is_answered_is_dropped(
    node: ScriptedNode, path: Path
) -> None:
    node.script(WaitTask, hangs=True)
    async with serving(node, path), connected(path) as client:
        await client.send({"command": "wait", "task": TASK})
        await trio.sleep(0.05)
        await client.send(STATUS)
        assert await client.is_hung_up_on()
    assert node.asked == [WaitTask(TASK)]


async def test_a_client_that_takes_nothing_is_dropped(
    node: ScriptedNode, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_stream, "SEND_TIMEOUT_S", 0.05)
    node.script(ListPeers, *(status_view(warnings=["x" * 200_000]) for _ in range(40)))
    async with serving(node, path), connected(path) as stuck:
        await stuck.send({"command": "peers"})
        with trio.fail_after(5):
            await node.has_withdrawn.wait()
        async with connected(path) as other:
            await other.send(STATUS)
            assert await other.receive_answer()


async def test_a_client_that_does_not_greet_is_dropped(
    node: ScriptedNode, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "UPLOAD_TIMEOUT_S", 0.05)
    async with serving(node, path):
        client = Client(await trio.open_unix_socket(path))
        await client.receive()
        with trio.fail_after(5):
            assert await client.is_hung_up_on()
        await client.stream.aclose()


async def test_more_clients_than_are_served_are_told_so(
    node: ScriptedNode, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "CLIENTS_MAX", 1)
    async with serving(node, path), connected(path) as client:
        await client.send(STATUS)
        await client.receive_answer()
        second = Client(await trio.open_unix_socket(path))
        assert "1 clients are connected" in (await second.receive())["message"]
        await second.stream.aclose()


async def test_a_defect_while_answering_is_logged_and_does_not_end_the_server(
    node: ScriptedNode, path: Path
) -> None:
    node.fails_with = RuntimeError("a defect")
    with capture_logs() as logs:
        async with serving(node, path), connected(path) as client:
            await client.send(STATUS)
            (refused,) = await client.receive_answer()
            assert refused["code"] == "internal"
            assert "defect" not in refused["message"]
            node.fails_with = None
            await client.send(STATUS)
            assert (await client.receive_answer())[0]["answer"] == "status"
    assert [entry["event"] for entry in logs] == ["control.answer_failed"]


async def test_stop_is_answered_before_the_daemon_begins_to_stop(
    node: ScriptedNode, path: Path
) -> None:
    async with serving(node, path), connected(path) as client:
        await client.send({"command": "stop"})
        assert await client.receive_answer() == [{"answer": "stopping", "pid": os.getpid()}]
        await client.send(STATUS)
        await client.receive_answer()
    assert node.stops == 1


async def test_an_answer_longer_than_a_frame_comes_in_parts(node: ScriptedNode, path: Path) -> None:
    long = status_view(warnings=["w" * 700_000, "w" * 700_000])
    node.script(GetStatus, long)
    async with serving(node, path), connected(path) as client:
        await client.send(STATUS)
        parts = await client.receive_answer()
    assert [part["is_last"] for part in parts] == [False, False, True]
    joined = decode_frame(b"".join(part["part"] for part in parts))
    assert joined["warnings"] == long.warnings


async def upload(client: Client, head: Frame, module: bytes, *stdins: bytes) -> list[Frame]:
    """Submit as a client does; return the frames that came instead of the upload, or after it."""
    await client.send({"command": "submit", "module_bytes": len(module), **head})
    for stage, contents in (("module", [module]), ("inputs", stdins)):
        frame = await client.receive()
        if frame != {"proceed": stage}:
            return [frame, *await client.receive_answer()]
        for content in contents:
            for start in range(0, len(content), 100_000):
                await client.send({"chunk": content[start : start + 100_000]})
    return await client.receive_answer()


async def test_a_submission_is_stored_and_sealed_before_the_node_sees_it(
    node: ScriptedNode, path: Path
) -> None:
    long_input = b"a secret of the submitter" * 10_000
    head: Frame = {
        "tasks": [
            {"args": ["-l", "x"], "env": [["LANG", "C"]], "stdin_bytes": 2},
            {"stdin_bytes": len(long_input)},
        ],
        "limits": {"fuel": 77},
        "requirements": ["cpu:4"],
        "strategy": "round-robin",
        "durability": "local",
        "retries_max": 3,
        "deadline_us": 5_000_000,
    }
    async with serving(node, path), connected(path) as client:
        (answer,) = await upload(client, head, MODULE, b"hi", long_input)
    assert answer["answer"] == "accepted"
    (command,) = node.asked
    assert isinstance(command, Submit)
    assert node.blobs.stored[command.module] == MODULE
    assert (command.limits, command.requirements) == (Limits(fuel=77), ("cpu:4",))
    assert (command.strategy, command.durability) == (Strategy.ROUND_ROBIN, Durability.LOCAL)
    assert (command.retries_max, command.deadline_us) == (3, 5_000_000)
    batch = BatchContent(KEYS.unseal(command.key), node.blobs)
    first, second = command.tasks
    assert batch.open_invocation(0, first.input) == Invocation(
        args=("-l", "x"), env=(("LANG", "C"),), stdin=b"hi"
    )
    assert first.input.blob is None
    assert isinstance(second.input.blob, BlobRef)
    assert batch.open_invocation(1, second.input).stdin == long_input
    assert all(b"a secret" not in content for content in node.blobs.stored.values())


@pytest.mark.parametrize(
    ("module_bytes", "stdin_bytes", "task_count", "complaint"),
    [
        (MODULE_BYTES_MAX + 1, 0, 1, "the module has"),
        (10, CONTENT_BYTES_MAX, 1, "input 0 has"),
        (10, INPUTS_BYTES_MAX // 5 + 1, 5, "the inputs have"),
    ],
)
async def test_too_much_is_refused_before_it_is_sent(
    node: ScriptedNode,
    path: Path,
    module_bytes: int,
    stdin_bytes: int,
    task_count: int,
    complaint: str,
) -> None:
    tasks = [{"stdin_bytes": stdin_bytes}] * task_count
    request: Frame = {"command": "submit", "module_bytes": module_bytes, "tasks": tasks}
    async with serving(node, path), connected(path) as client:
        await client.send(request)
        (refused,) = await client.receive_answer()
    assert refused["code"] == "bad_request"
    assert complaint in refused["message"]
    assert node.asked == []


async def test_long_arguments_are_refused_before_anything_is_sent(
    node: ScriptedNode, path: Path
) -> None:
    request: Frame = {
        "command": "submit",
        "module_bytes": 10,
        "tasks": [{"args": ["ä" * 4000] * 10}],
    }
    async with serving(node, path), connected(path) as client:
        await client.send(request)
        (refused,) = await client.receive_answer()
    assert "arguments and environment of task 0" in refused["message"]


async def test_a_bad_module_is_refused_before_the_inputs_are_sent(
    node: ScriptedNode, path: Path
) -> None:
    async with serving(node, path), connected(path) as client:
        (refused,) = await upload(client, {"tasks": [{"stdin_bytes": 5}]}, b"#!/bin/sh\n")
        assert refused["code"] == "bad_request"
        assert "not WebAssembly" in refused["message"]
        assert await client.is_hung_up_on()
    assert node.asked == []
    assert node.blobs.stored == {}


async def test_a_full_disk_ends_an_upload_with_the_reason(
    node: ScriptedNode, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_content: bytes) -> BlobRef:
        raise BlobBudgetExceeded("the disk budget of 1 MiB is used up")

    monkeypatch.setattr(node.blobs, "put", refuse)
    async with serving(node, path), connected(path) as client:
        (refused,) = await upload(client, {"tasks": [{}]}, MODULE)
    assert refused["code"] == "storage_full"
    assert "disk budget" in refused["message"]
    assert refused["hint"]


@pytest.mark.parametrize("chunks", [[b"\0asm", MODULE], [b""], [MODULE + b"x"]])
async def test_other_chunks_than_announced_end_the_connection(
    node: ScriptedNode, path: Path, chunks: list[bytes]
) -> None:
    async with serving(node, path), connected(path) as client:
        await client.send({"command": "submit", "module_bytes": len(MODULE), "tasks": [{}]})
        await client.receive()
        await client.send(*({"chunk": chunk} for chunk in chunks))
        assert await client.is_hung_up_on()
    assert node.blobs.stored == {}


async def test_an_upload_that_stops_frees_its_place(
    node: ScriptedNode, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_stream, "UPLOAD_TIMEOUT_S", 0.05)
    async with serving(node, path):
        for _ in range(control.UPLOADS_MAX + 1):
            async with connected(path) as client:
                await client.send({"command": "submit", "module_bytes": 5, "tasks": [{}]})
                assert await client.receive() == {"proceed": "module"}
                assert await client.is_hung_up_on()


async def test_a_result_comes_opened_in_two_streams(node: ScriptedNode, path: Path) -> None:
    key = bytes(32)
    batch = BatchContent(key, node.blobs)
    stdout = os.urandom(700_000)
    sealed = batch.seal_output(3, stdout=stdout, stderr=b"x" * 20_000 + b"warning\n")
    view = ResultView(
        task=task_view(index=3),
        index=3,
        output=sealed.output,
        log=sealed.log,
        box=KEYS.seal(key, KEYS.peer),
    )
    node.script(GetResult, view)
    async with serving(node, path), connected(path) as client:
        await client.send({"command": "result", "task": TASK})
        head, *chunks = await client.receive_answer()
    assert (head["answer"], head["task"]["id"]) == ("result", TASK)
    assert (head["stdout_bytes"], head["stderr_bytes"]) == (len(stdout), 8192)
    assert set(head) == {"answer", "task", "stdout_bytes", "stderr_bytes"}
    assert b"".join(c["chunk"] for c in chunks if c["stream"] == "stdout") == stdout
    assert chunks[-1]["stream"] == "stderr"
    assert chunks[-1]["chunk"].endswith(b"warning\n")


async def test_a_result_sealed_to_another_device_is_refused(node: ScriptedNode, path: Path) -> None:
    sealed = BatchContent(bytes(32), node.blobs).seal_output(0, stdout=b"", stderr=b"")
    view = ResultView(
        task=task_view(), index=0, output=sealed.output, log=sealed.log, box=bytes(80)
    )
    node.script(GetResult, view)
    async with serving(node, path), connected(path) as client:
        await client.send({"command": "result", "task": TASK})
        (refused,) = await client.receive_answer()
    assert refused["code"] == "refused"
    assert "submitted the task" in refused["hint"]


async def test_clients_are_dropped_when_the_server_ends(
    node: ScriptedNode, path: Path, autojump_clock: MockClock
) -> None:
    node.script(WaitTask, hangs=True)
    stream = None
    async with serving(node, path):
        stream = await trio.open_unix_socket(path)
        client = Client(stream)
        await client.receive()
        await client.send(GREETING, {"command": "wait", "task": TASK})
        await wait_all_tasks_blocked(0.05)
    assert await client.is_hung_up_on()
    await stream.aclose()
