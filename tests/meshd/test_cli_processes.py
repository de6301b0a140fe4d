"""The commands as real processes: what they import, how fast they are, pipes and signals."""

from __future__ import annotations

import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.answer_views import TASK, accepted, peer_list, pending_view, status_view, task_view
from support.commands import command_line, process_environment, run_process, running_process
from support.control_node import KEYS, MODULE, ScriptedNode, serving_in_thread

from meshd.batch_content import BatchContent
from meshd.control_frames import encode_frame
from meshd.home import control_socket_path
from wire.answers import ResultView
from wire.commands import GetResult, GetStatus, ListPeers, Submit, WaitTask

# What a command may take on a machine that is busy with other tests. By itself it takes 0.15 s;
# libp2p alone would take seconds.
FAST_S = 1.5


@pytest.fixture
def node() -> ScriptedNode:
    scripted = ScriptedNode()
    scripted.script(GetStatus, status_view())
    scripted.script(ListPeers, peer_list())
    scripted.script(Submit, accepted())
    scripted.script(WaitTask, pending_view(), task_view())
    scripted.script(GetResult, result_of(scripted, b"x" * 4_000_000))
    return scripted


@pytest.fixture
def home(node: ScriptedNode, tmp_path: Path) -> Iterator[Path]:
    with serving_in_thread(node, tmp_path):
        yield tmp_path


@pytest.fixture
def module(tmp_path: Path) -> str:
    path = tmp_path / "program.wasm"
    path.write_bytes(MODULE)
    return str(path)


def result_of(node: ScriptedNode, stdout: bytes) -> ResultView:
    key = bytes(32)
    sealed = BatchContent(key, node.blobs).seal_output(0, stdout=stdout, stderr=b"")
    box = KEYS.seal(key, KEYS.peer)
    return ResultView(task=task_view(), index=0, output=sealed.output, log=sealed.log, box=box)


@pytest.mark.parametrize("command", ["meshctl", "meshd"])
def test_a_command_starts_without_what_is_slow(command: str) -> None:
    code = (
        f"import sys, meshd.cli.{command}\n"
        "slow = ['trio', 'libp2p', 'msgspec', 'nacl', 'blake3', 'rich', 'structlog', 'sqlite3',"
        " 'wasmtime', 'psutil', 'asyncio']\n"
        "print([name for name in slow if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"[]\n"


def test_status_is_fast_and_imports_nothing_slow_on_its_way(home: Path) -> None:
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print([name for name in ('trio', 'libp2p', 'msgspec', 'nacl',"
        " 'rich') if name in sys.modules]))\n"
        "from meshd.cli.meshctl import main\n"
        "main()"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, "status", "--home", str(home)],
        capture_output=True,
        check=True,
        env=process_environment(),
    )
    assert time.monotonic() - started < FAST_S
    *shown, slow = done.stdout.decode().splitlines()
    assert shown[0].startswith("device     desk")
    assert slow == "[]"


@pytest.mark.parametrize(
    ("words", "exit_code"), [(["status"], 4), (["wait", "x"], 101), (["explode"], 2)]
)
def test_the_process_ends_with_the_exit_code_and_no_traceback(
    tmp_path: Path, words: list[str], exit_code: int
) -> None:
    done = run_process("meshctl", tmp_path, *words)
    assert done.returncode == exit_code
    assert b"Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_the_programs_code_is_the_processs(node: ScriptedNode, home: Path, module: str) -> None:
    node.script(WaitTask, task_view(exit_code=7))
    node.script(GetResult, result_of(node, b"\0\xff"))
    done = run_process("meshctl", home, "submit", module)
    assert (done.returncode, done.stdout) == (7, b"\0\xff")


def test_a_reader_that_leaves_ends_the_command_silently(home: Path) -> None:
    with running_process("meshctl", home, "result", TASK) as process:
        assert process.stdout is not None
        assert process.stdout.read(10) == b"x" * 10
        process.stdout.close()
        assert process.wait(10) == -signal.SIGPIPE
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_reader_that_waits_does_not_keep_the_daemon_waiting(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshd.control_stream.SEND_TIMEOUT_S", 0.5)
    with running_process("meshctl", home, "result", TASK) as process:
        assert process.stdout is not None
        first = process.stdout.read(10)
        time.sleep(1.0)  # longer than the daemon waits for a client
        rest = process.stdout.read()
        assert process.wait(10) == 0
    assert first + rest == b"x" * 4_000_000


def test_ctrl_c_leaves_the_task_running_and_says_how_to_come_back(
    node: ScriptedNode, home: Path, module: str
) -> None:
    node.script(WaitTask, pending_view(), hangs=True)
    with running_process("meshctl", home, "submit", module) as process:
        wait_until(lambda: WaitTask(TASK) in node.asked)
        time.sleep(0.1)  # until it reads again
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=10)
    assert (process.returncode, stdout) == (110, b"")
    assert stderr.decode().splitlines() == [
        "meshctl: interrupted",
        f"  the task goes on: `meshctl wait {TASK}`, then `meshctl result {TASK}`",
    ]
    assert node.has_withdrawn.is_set()


def test_ctrl_c_elsewhere_ends_with_130_and_no_traceback(node: ScriptedNode, home: Path) -> None:
    node.script(GetStatus, hangs=True)
    with running_process("meshctl", home, "status") as process:
        wait_until(lambda: GetStatus() in node.asked)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=10)
    assert process.returncode == 130
    assert b"Traceback" not in stderr


def test_a_daemon_that_dies_while_a_task_is_awaited_is_lost_contact(
    node: ScriptedNode, tmp_path: Path
) -> None:
    node.script(WaitTask, pending_view(), hangs=True)
    with serving_in_thread(node, tmp_path):
        process = subprocess.Popen(
            command_line("meshctl", tmp_path, "wait", TASK),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=process_environment(),
        )
        wait_until(lambda: WaitTask(TASK) in node.asked)
    with process:
        stdout, stderr = process.communicate(timeout=10)
    assert (process.returncode, stdout) == (110, b"")
    assert stderr.startswith(b"meshctl: the daemon went away\n  the task goes on: ")


def test_a_daemon_that_dies_during_an_upload_is_told_and_is_no_broken_pipe(
    tmp_path: Path, module: str
) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(control_socket_path(tmp_path)))
    listener.listen()
    (tmp_path / "input").write_bytes(bytes(8_000_000))
    words = ["submit", module, "--input", str(tmp_path / "input")]
    with running_process("meshctl", tmp_path, *words) as process, listener:
        connection, _ = listener.accept()
        with connection:
            greeting = {"greeting": "meshd", "version": "0", "lowest": 1, "highest": 1}
            connection.sendall(encode_frame(greeting))
            connection.sendall(encode_frame({"proceed": "module"}))
            connection.sendall(encode_frame({"proceed": "inputs"}))
            received = 0
            while received < 1_000_000:
                received += len(connection.recv(65_536))
        stdout, stderr = process.communicate(timeout=10)
    assert (process.returncode, stdout) == (101, b"")
    assert stderr.decode().splitlines() == [
        "meshctl: the daemon went away, before it had the whole task",
        "  nothing was submitted: submit again when it runs",
    ]


def test_watching_redraws_a_terminal_until_ctrl_c(home: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command_line("meshctl", home, "peers", "--watch"),
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=process_environment(TERM="xterm", COLUMNS="100"),
    )
    os.close(theirs)
    with process:
        seen = b""
        while seen.count(b"kitchen") < 2:
            assert select.select([ours], [], [], 10)[0], seen
            seen += os.read(ours, 65_536)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=10)
    os.close(ours)
    assert (process.returncode, stderr) == (0, b"")


def test_colour_is_for_terminals_that_want_it(home: Path) -> None:
    assert b"\x1b[" not in run_process("meshctl", home, "status").stdout
    assert b"\x1b[33m" in on_terminal(home, {"TERM": "xterm"})
    assert b"\x1b[33m" not in on_terminal(home, {"TERM": "xterm", "NO_COLOR": "1"})


def on_terminal(home: Path, environ: dict[str, str]) -> bytes:
    """Return what `meshctl status` shows on a terminal."""
    ours, theirs = pty.openpty()
    command = command_line("meshctl", home, "status")
    done = subprocess.run(
        command, stdout=theirs, check=True, env=process_environment(**environ), timeout=30
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65_536):
            shown += chunk
    except OSError:  # how Linux says that the other side of a terminal is closed
        pass
    os.close(ours)
    assert done.returncode == 0
    return shown


def wait_until(condition: object) -> None:
    """Wait, for the state of another process, at most ten seconds."""
    assert callable(condition)
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
