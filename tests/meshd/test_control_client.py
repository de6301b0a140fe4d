"""The client's side of the control socket, against the real server and against servers that err."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.answer_views import TASK, accepted, pending_view, status_view, task_view
from support.control_node import KEYS, MODULE, ScriptedNode, serving_in_thread

from meshd import client as client_module
from meshd.batch_content import BatchContent
from meshd.client import ControlClient, TaskInput
from meshd.control_errors import (
    CommandRefused,
    ContactLost,
    NoDaemon,
    NotConfirmed,
    ProtocolMismatch,
)
from meshd.control_frames import LENGTH, Frame, encode_frame
from meshd.errors import BlobBudgetExceeded
from meshd.home import control_socket_path
from wire.answers import ResultView
from wire.blobs import BlobRef
from wire.commands import GetResult, GetStatus, Submit, WaitTask
from wire.limits import MODULE_BYTES_MAX

GREETING = encode_frame({"greeting": "meshd", "version": "9", "lowest": 1, "highest": 3})


@pytest.fixture
def node() -> ScriptedNode:
    scripted = ScriptedNode()
    scripted.script(GetStatus, status_view())
    scripted.script(Submit, accepted())
    scripted.script(WaitTask, pending_view(), task_view())
    return scripted


@contextmanager
def answering(home: Path, greeting: bytes, *replies: bytes) -> Iterator[None]:
    """Serve one client: send the greeting, then one of `replies` for each frame, and hang up."""
    home.mkdir(exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(control_socket_path(home)))
    listener.listen()
    listener.settimeout(10)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as received:
            connection.settimeout(10)
            connection.sendall(greeting)
            for reply in replies:
                received.read(LENGTH.unpack(received.read(LENGTH.size))[0])
                connection.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        listener.close()


def test_one_connection_carries_several_requests(node: ScriptedNode, tmp_path: Path) -> None:
    with serving_in_thread(node, tmp_path), ControlClient(tmp_path) as client:
        assert client.ask({"command": "status"})["name"] == "desk"
        states = [view["state"] for view in client.follow({"command": "wait", "task": TASK})]
        assert states == ["pending", "complete"]
        assert client.daemon_pid == os.getpid()
        assert client.release


def test_a_home_with_a_long_path_is_reached(node: ScriptedNode, tmp_path: Path) -> None:
    home = tmp_path / ("d" * 100) / ("e" * 100)
    with serving_in_thread(node, home), ControlClient(home) as client:
        assert client.ask({"command": "status"})["name"] == "desk"


def test_a_batch_is_submitted_whole(node: ScriptedNode, tmp_path: Path) -> None:
    inputs = [TaskInput(args=["a"], stdin=bytes(300_000)), TaskInput(env={"K": "v"})]
    with serving_in_thread(node, tmp_path), ControlClient(tmp_path) as client:
        answer = client.submit(MODULE, inputs, limits={"fuel": 5}, strategy="least-loaded")
    assert answer["tasks"] == [TASK]
    (command,) = node.asked
    assert isinstance(command, Submit)
    assert (len(command.tasks), command.limits.fuel) == (2, 5)
    batch = BatchContent(KEYS.unseal(command.key), node.blobs)
    assert len(batch.open_invocation(0, command.tasks[0].input).stdin) == 300_000
    assert batch.open_invocation(1, command.tasks[1].input).env == (("K", "v"),)


def test_a_result_is_downloaded_by_stream(node: ScriptedNode, tmp_path: Path) -> None:
    key = bytes(32)
    sealed = BatchContent(key, node.blobs).seal_output(0, stdout=b"o" * 600_000, stderr=b"e")
    box = KEYS.seal(key, KEYS.peer)
    node.script(
        GetResult,
        ResultView(task=task_view(), index=0, output=sealed.output, log=sealed.log, box=box),
    )
    received = {"stdout": b"", "stderr": b""}

    def sink(name: str, chunk: bytes) -> None:
        received[name] += chunk

    with serving_in_thread(node, tmp_path), ControlClient(tmp_path) as client:
        head = client.download({"command": "result", "task": TASK}, sink)
    assert head["stdout_bytes"] == 600_000
    assert received == {"stdout": b"o" * 600_000, "stderr": b"e"}


def test_an_answer_in_parts_is_joined(node: ScriptedNode, tmp_path: Path) -> None:
    node.script(GetStatus, status_view(warnings=["w" * 1_500_000]))
    with serving_in_thread(node, tmp_path), ControlClient(tmp_path) as client:
        assert len(client.ask({"command": "status"})["warnings"][0]) == 1_500_000


def test_a_refused_module_is_told_although_the_upload_was_cut_off(
    node: ScriptedNode, tmp_path: Path
) -> None:
    with (
        serving_in_thread(node, tmp_path),
        ControlClient(tmp_path) as client,
        pytest.raises(CommandRefused, match="not WebAssembly"),
    ):
        client.submit(b"#!/bin/sh" * 100_000, [TaskInput()])


def test_a_module_that_is_too_long_is_refused_before_it_is_sent(
    node: ScriptedNode, tmp_path: Path
) -> None:
    with (
        serving_in_thread(node, tmp_path),
        ControlClient(tmp_path) as client,
        pytest.raises(CommandRefused, match="the module has") as caught,
    ):
        client.submit(bytes(MODULE_BYTES_MAX + 1), [TaskInput()])
    assert caught.value.code == "bad_request"


def test_a_refusal_in_the_middle_of_an_upload_is_told(
    node: ScriptedNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = node.blobs.put

    def refuse_inputs(content: bytes) -> BlobRef:
        if content != MODULE:
            raise BlobBudgetExceeded("the disk budget is used up")
        return put(content)

    monkeypatch.setattr(node.blobs, "put", refuse_inputs)
    inputs = [TaskInput(stdin=bytes(1_000_000))] * 20
    with (
        serving_in_thread(node, tmp_path),
        ControlClient(tmp_path) as client,
        pytest.raises(CommandRefused, match="used up") as caught,
    ):
        client.submit(MODULE, inputs)
    assert caught.value.code == "storage_full"


def test_a_request_that_fits_no_frame_is_refused_here(node: ScriptedNode, tmp_path: Path) -> None:
    many = [TaskInput(args=["x" * 4000] * 15) for _ in range(20)]
    with (
        serving_in_thread(node, tmp_path),
        ControlClient(tmp_path) as client,
        pytest.raises(CommandRefused, match="fit no frame"),
    ):
        client.submit(MODULE, many)


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon, match="no daemon is running") as caught:
        ControlClient(tmp_path)
    assert "meshd start" in str(caught.value.hint)
    with socket.socket(socket.AF_UNIX) as died:
        died.bind(str(tmp_path / "control.sock"))
    with pytest.raises(NoDaemon, match="no daemon is running"):
        ControlClient(tmp_path)
    with pytest.raises(NoDaemon, match="no daemon is running"):
        ControlClient(tmp_path / "nowhere" / ("x" * 200))


@pytest.mark.parametrize(
    ("greeting", "error", "text"),
    [
        ({"greeting": "meshd", "version": "9", "lowest": 2, "highest": 3}, ProtocolMismatch, "9"),
        ({"greeting": "meshd", "version": "0", "lowest": 0, "highest": 0}, ProtocolMismatch, "0"),
        ({"greeting": "other"}, ProtocolMismatch, "not meshd"),
        ({"answer": "refused", "message": "another user"}, CommandRefused, "another user"),
    ],
)
def test_a_daemon_that_cannot_be_spoken_with_says_so(
    tmp_path: Path, greeting: Frame, error: type[Exception], text: str
) -> None:
    with answering(tmp_path, encode_frame(greeting)), pytest.raises(error, match=text):
        ControlClient(tmp_path)


def test_a_newer_daemon_that_still_speaks_our_version_is_understood(tmp_path: Path) -> None:
    answer = encode_frame({"answer": "x"}) + encode_frame({"end": True})
    with answering(tmp_path, GREETING, b"", answer), ControlClient(tmp_path) as client:
        assert client.ask({"command": "status"}) == {"answer": "x"}


@pytest.mark.parametrize(
    "reply",
    [
        b"",  # it goes away
        b"\0\0\0\x09half",
        b"\xff\xff\xff\xff",  # longer than a frame
        b"\0\0\0\x01\xc1",  # not MessagePack
        b"\0\0\0\x01\x01",  # not a map
        encode_frame({"strange": 1}),
        encode_frame({"end": True}),  # no answer before the end
    ],
)
def test_whatever_the_daemon_sends_is_an_answer_or_lost_contact(
    tmp_path: Path, reply: bytes
) -> None:
    with (
        answering(tmp_path, GREETING, b"", reply),
        ControlClient(tmp_path) as client,
        pytest.raises(ContactLost),
    ):
        client.ask({"command": "status"})


def test_a_daemon_that_does_not_answer_in_time_is_given_up(
    node: ScriptedNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "ANSWER_TIMEOUT_S", 0.05)
    node.script(GetStatus, hangs=True)
    with (
        serving_in_thread(node, tmp_path),
        ControlClient(tmp_path) as client,
        pytest.raises(ContactLost, match="does not answer"),
    ):
        client.ask({"command": "status"})


def test_a_daemon_that_goes_away_with_the_whole_task_leaves_it_unconfirmed(tmp_path: Path) -> None:
    proceed = [encode_frame({"proceed": what}) for what in ("module", "inputs")]
    replies = [GREETING, b"", *proceed, b""]
    with (
        answering(tmp_path, *replies),
        ControlClient(tmp_path) as client,
        pytest.raises(NotConfirmed) as caught,
    ):
        client.submit(MODULE, [TaskInput(stdin=b"x")])
    assert "meshctl tasks" in str(caught.value.hint)


def test_a_daemon_that_goes_away_during_the_upload_has_submitted_nothing(tmp_path: Path) -> None:
    with (
        answering(tmp_path, GREETING, b"", encode_frame({"proceed": "module"})),
        ControlClient(tmp_path) as client,
        pytest.raises(NoDaemon, match="before it had the whole task"),
    ):
        client.submit(MODULE, [TaskInput()])


def test_what_is_no_text_is_refused_here(node: ScriptedNode, tmp_path: Path) -> None:
    with (
        serving_in_thread(node, tmp_path),
        ControlClient(tmp_path) as client,
        pytest.raises(CommandRefused, match="UTF-8"),
    ):
        client.ask({"command": "peer", "peer": "\udcff"})
