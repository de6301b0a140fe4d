"""What people get wrong with `meshctl`: a clear line, its exit code, nothing lost or half-written.

Each test types a command against a real daemon, as a person does.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.complaints import closed, environment, typed
from support.daemons import BINARIES, Daemons, Device, await_ready, until
from support.small_disk import small_disk
from support.wasm import EXAMPLES, NOTHING, example, wat

from meshd.client import TaskInput
from wire.ids import base32_text

FAULTS = EXAMPLES / "faults"
ECHO, EXIT_CODE, SPIN = (str(FAULTS / f"{name}.wasm") for name in ("echo", "exit_code", "spin"))
ENDLESS = ("--timeout", "10m", "--fuel", "1000000000000")
NOT_UTF8 = b"odd\xff\xfename"
NO_FILE = "/nowhere/at/all"

MODULES = {
    "text.wasm": (b"not wasm at all", "this is not WebAssembly"),
    "empty.wasm": (b"", "the file is empty"),
    "native.wasm": (b"\x7fELF" + bytes(60), "this is a native program"),
    "source.wat": (b"(module)", "WebAssembly text; make a binary of it with `wat2wasm"),
    "component.wasm": (b"\0asm\x0d\0\1\0", "a WebAssembly component (WASI preview 2)"),
    "cut.wasm": (example("faults/echo")[:300], "the WebAssembly module is damaged"),
    "no_start.wasm": (wat('(module (func (export "main")))'), "it exports no _start"),
    "reactor.wasm": (wat('(module (func (export "_initialize")))'), "give it a main()"),
    "import.wasm": (
        wat('(module (import "env" "magic" (func)) (func (export "_start")))'),
        "it imports env.magic, which meshd does not offer",
    ),
}


@pytest.fixture(scope="module")
def device(daemons: Daemons) -> Device:
    """Return a mesh of one."""
    started = daemons.start("desk")
    await_ready(started)
    return started


@pytest.fixture(scope="module")
def receipts(device: Device, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a task's result and its receipt, with and without its digest key."""
    directory = tmp_path_factory.mktemp("receipts")
    (task,) = device.submit(example("faults/echo"), TaskInput(stdin=b"content"))
    device.wait(task)
    for words in (
        ("result", task, "--to", "result"),
        ("receipt", task, "--to", "receipt"),
        ("receipt", task, "--with-digest-key", "--to", "with-key"),
    ):
        done = typed("meshctl", *words[:-1], str(directory / words[-1]), home=device.home)
        assert done.code == 0, done.stderr
    return directory


@contextlib.contextmanager
def typing(device: Device, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Type a command that goes on while the block runs."""
    process = subprocess.Popen(
        [str(BINARIES / "meshctl"), "--home", str(device.home), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment({}),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def end_of(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout.decode(), stderr.decode()


def is_connected(process: subprocess.Popen[bytes]) -> bool:
    return bool(psutil.Process(process.pid).net_connections("unix"))


def await_asleep(process: subprocess.Popen[bytes]) -> None:
    """Wait until a command has read all that it was told, and waits for more."""
    looks: list[str] = []

    def is_asleep() -> bool:
        looks.append(psutil.Process(process.pid).status())
        return looks[-3:] == [psutil.STATUS_SLEEPING] * 3

    until(is_asleep, "the command never waited")


def running_task(device: Device) -> str:
    """Return the newest task when it runs."""

    def newest() -> str | None:
        tasks = device.ask("tasks", limit=1)["tasks"]
        return str(tasks[0]["id"]) if tasks and tasks[0]["state"] == "executing" else None

    return until(newest, "no task began", device)


def detached(device: Device, *words: str) -> str:
    done = typed("meshctl", "submit", *words, "--detach", home=device.home)
    assert done.code == 0, done.stderr
    return done.stdout.decode().strip()


# --- no daemon ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("status", 4),
        ("peers", 4),
        ("peer kitchen", 4),
        ("find arch:x86_64", 4),
        ("invite", 4),
        ("tasks", 4),
        ("task abc", 4),
        ("result abc", 4),
        ("cancel abc", 4),
        ("receipt abc", 4),
        ("wait abc", 101),
        (f"submit {ECHO}", 101),
    ],
)
def test_without_a_daemon_every_command_says_so(tmp_path: Path, words: str, code: int) -> None:
    done = typed("meshctl", *words.split(), "--output", "json", home=tmp_path)
    done.complaint(code, f"no daemon is running in {tmp_path}", "meshd start")
    assert done.error["code"] == "no_daemon"
    assert list(tmp_path.iterdir()) == []


def test_without_a_daemon_there_is_nothing_to_stop(tmp_path: Path) -> None:
    typed("meshd", "stop", home=tmp_path).complaint(4, "no daemon is running")


# --- what is submitted ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(MODULES))
def test_a_module_that_cannot_run_says_why(device: Device, tmp_path: Path, name: str) -> None:
    content, complaint = MODULES[name]
    (tmp_path / name).write_bytes(content)
    done = typed("meshctl", "submit", str(tmp_path / name), "--output", "json", home=device.home)
    done.complaint(100, complaint)
    assert done.error["code"] == "bad_request"


def test_what_cannot_be_read_or_is_too_long_is_not_sent(device: Device, tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(70 << 20)
    count = len(device.ask("tasks", limit=1000)["tasks"])
    for words, part in (
        ((str(huge),), f"module {huge} is longer than 67108864 bytes"),
        ((ECHO, "--input", str(huge)), f"input {huge} is longer than 67043328 bytes"),
        ((ECHO, "--input", NO_FILE), f"input {NO_FILE} cannot be read: No such file"),
        ((str(tmp_path),), f"module {tmp_path} cannot be read: Is a directory"),
        ((NO_FILE,), f"module {NO_FILE} cannot be read: No such file"),
        (("",), "the name of the module is empty"),
        ((ECHO, "--to", f"{NO_FILE}/out"), f"{NO_FILE} is not there"),
        ((ECHO, "--to", str(tmp_path)), f"{tmp_path} is a directory"),
        ((ECHO, "--to", ""), "the name of the file to write is empty"),
        (("-", "--input", "-"), "cannot both be standard input"),
    ):
        typed("meshctl", "submit", *words, home=device.home).complaint(100, part)
    assert len(device.ask("tasks", limit=1000)["tasks"]) == count


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--memory 1KiB", "1KiB is not between 64KiB and 4GiB"),
        ("--memory 100GiB", "100GiB is not between 64KiB and 4GiB"),
        ("--memory much", "'much' is no size"),
        ("--fuel 0", "0 is not in the range"),
        ("--timeout 5", "'5' is no duration"),
        ("--timeout 2h", "2h is not between 1ms and 1h"),
        ("--require nonsense", "'nonsense' is no capability"),
        ("--env HOME", "'HOME' is not of the form NAME=VALUE"),
        ("--strategy luck", "'luck' is not one of"),
        ("--inptu x", "No such option"),
        ("--detach --to x", "leave out --to"),
    ],
)
def test_an_option_that_cannot_be_meant_is_usage(device: Device, words: str, part: str) -> None:
    done = typed("meshctl", "submit", *words.split(), ECHO, home=device.home)
    done.complaint(100, part, "  ")


def test_a_capability_that_nobody_provides_says_who_came_closest(device: Device) -> None:
    words = ("submit", ECHO, "--require", "gpu:cuda", "--require", "cpu:1", "--output", "json")
    done = typed("meshctl", *words, home=device.home)
    done.complaint(
        103, "no device provides gpu:cuda cpu:1", "closest is desk, which lacks gpu:cuda"
    )
    (closest,) = done.error["closest"]
    assert (closest["name"], closest["missing"]) == ("desk", ["gpu:cuda"])
    typed("meshctl", "submit", ECHO, "--type", "toaster", home=device.home).complaint(
        103, "no device provides type:toaster", "closest is desk, which lacks type:toaster"
    )
    typed("meshctl", "submit", ECHO, "--durability", "mesh", home=device.home).complaint(
        102, "needs 3 devices", "--durability local"
    )


def test_a_task_over_every_device_s_limit_waits_and_names_the_limit(device: Device) -> None:
    task = detached(device, ECHO, "--memory", "4GiB")
    reason = until(lambda: device.task(task)["reason"], "no reason was given", device)
    until(lambda: "memory_bytes" in device.task(task)["reason"], f"only {reason!r}", device)
    assert f"memory_bytes {4 << 30} > {1 << 30}" in device.task(task)["reason"]
    assert device.ask("cancel", task=task)["outcome"] == "cancelled"


# --- how tasks end --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "status", "said"),
    [
        ("trap", 104, "trapped", "the program trapped: unreachable"),
        ("spin --fuel 1000000", 105, "out_of_fuel", "give it more with --fuel"),
        ("memory_hog --memory 32MiB", 106, "out_of_memory", "give it more with --memory"),
        ("spin --timeout 200ms --fuel 1000000000000", 107, "out_of_time", "longer with --timeout"),
        ("flood --output-max 1MiB", 104, "out_of_output", "put out more with --output-max"),
        ("exit_code 120", 99, "exited", "the program exited with 120"),
        ("exit_code 99", 99, "exited", ""),
        ("echo --deadline 0", 107, None, "deadline passed"),
    ],
)
def test_each_end_has_its_code_its_reason_and_its_json(
    device: Device, tmp_path: Path, words: str, code: int, status: str | None, said: str
) -> None:
    name, *rest = words.split()
    module, to = str(FAULTS / f"{name}.wasm"), tmp_path / "out"
    wanted = ("submit", module, *rest, "--to", str(to), "--output", "json")
    done = typed("meshctl", *wanted, home=device.home)
    assert done.code == code, done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    answer = json.loads(done.stdout)
    assert answer["exit_code"] == code
    assert answer["task"]["status"] == status
    own_code = int(rest[0]) if name == "exit_code" else None
    assert answer["task"]["exit_code"] == own_code
    waited = typed("meshctl", "wait", answer["task"]["id"], home=device.home)
    assert waited.code == code
    names = {path.name for path in tmp_path.iterdir()}
    assert names == ({"out"} if status else set())


def test_a_task_cancelled_elsewhere_ends_all_who_wait_for_it(device: Device) -> None:
    with typing(device, "submit", SPIN, *ENDLESS) as submitting:
        task = running_task(device)
        with typing(device, "wait", task, "--output", "json") as waiting:
            typed("meshctl", "result", task, home=device.home).complaint(1, "is executing", "wait")
            cancelled = typed("meshctl", "cancel", task, home=device.home)
            assert (cancelled.code, cancelled.stderr) == (0, "")
            assert end_of(waiting)[0] == 108
            code, stdout, stderr = end_of(submitting)
    assert (code, stdout) == (108, "")
    assert stderr == "meshctl: the task was cancelled: cancelled by its submitter\n"
    typed("meshctl", "result", task, home=device.home).complaint(1, "has no result", "cancelled")
    assert typed("meshctl", "cancel", task, home=device.home).code == 0


def test_a_task_that_has_ended_is_not_cancelled_any_more(device: Device) -> None:
    (task,) = device.submit(example("faults/exit_code"), TaskInput(args=["3"]))
    device.wait(task)
    done = typed("meshctl", "cancel", task, home=device.home)
    assert done.code == 1
    assert "too late" in done.stdout.decode()
    assert device.task(task)["exit_code"] == 3


@pytest.mark.parametrize("json_words", [(), ("--output", "json")])
def test_ctrl_c_leaves_the_task_running_and_names_it(
    device: Device, json_words: tuple[str, ...]
) -> None:
    with typing(device, "submit", SPIN, *ENDLESS, *json_words) as process:
        task = running_task(device)
        try:
            await_asleep(process)
            process.send_signal(signal.SIGINT)
            code, stdout, stderr = end_of(process)
            assert device.task(task)["state"] == "executing"
        finally:  # it has the only worker: without an end nothing else would run
            device.ask("cancel", task=task)
    assert code == 110
    assert stderr.splitlines() == [
        "meshctl: interrupted",
        f"  the task goes on: `meshctl wait {task}`, then `meshctl result {task}`",
    ]
    if json_words:
        assert json.loads(stdout)["error"]["code"] == "interrupted"
    else:
        assert stdout == ""


def test_tasks_outlive_a_daemon_that_goes_away_while_they_are_awaited(daemons: Daemons) -> None:
    device = daemons.start("shed")
    await_ready(device)
    words = ("--timeout", "3s", "--fuel", "1000000000000")
    with typing(device, "submit", SPIN, *words) as submitting:
        task = running_task(device)
        with typing(device, "wait", task, "--output", "json") as waiting:
            until(lambda: is_connected(waiting), "nobody waited", device)
            assert device.stop() == 0
            for process in (waiting, submitting):
                code, stdout, stderr = end_of(process)
                assert code == 110
                assert stderr.startswith("meshctl: the daemon went away\n  the task goes on: ")
                assert task in stderr
                assert not stdout or json.loads(stdout)["error"]["code"] == "contact_lost"
    typed("meshctl", "wait", task, home=device.home).complaint(101, "no daemon is running")
    daemons.restart(device)
    await_ready(device)
    assert typed("meshctl", "wait", task, home=device.home).code == 107
    assert device.stop() == 0


# --- names that mean nothing, or too much -------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        ("task nothing", 1, "unknown task 'nothing'"),
        ("result nothing", 1, "unknown task 'nothing'"),
        ("cancel nothing", 1, "unknown task 'nothing'"),
        ("receipt nothing --to out", 1, "unknown task 'nothing'"),
        ("wait nothing", 102, "unknown task 'nothing'"),
        ("peer nothing", 1, "unknown device 'nothing'"),
        ("find nothing", 2, "'nothing' is no capability"),
        ("invite --role king", 2, "'king' is not one of"),
        ("invite --uses 0", 2, "0 is not in the range"),
        ("invite --ttl 10y", 2, "'10y' is no duration"),
        ("tasks --limit 0", 2, "0 is not in the range"),
        ("nothing", 2, "No such command 'nothing'"),
        ("status --nothing", 2, "No such option"),
        ("status nothing", 2, "unexpected extra argument"),
    ],
)
def test_what_is_not_known_says_where_to_look(
    device: Device, tmp_path: Path, words: str, code: int, part: str
) -> None:
    place = [str(tmp_path / word) if word == "out" else word for word in words.split()]
    done = typed("meshctl", *place, "--output", "json", home=device.home)
    done.complaint(code, part, "\n  ")
    assert part in done.error["message"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["task", "peer", "wait", "result", "cancel", "receipt"])
def test_a_name_that_is_empty_is_usage(device: Device, words: str) -> None:
    code = 100 if words == "wait" else 2
    typed("meshctl", words, "", home=device.home).complaint(code, "it is empty")
    typed("meshctl", words, "x", "--home", "").complaint(code, "it is empty")
    typed("meshctl", "--home", "", words, "x").complaint(code, "it is empty")
    typed("meshctl", "--output", "xml", words, "x").complaint(code, "'xml' is not one of")


def test_the_beginning_of_an_id_must_be_of_one_task_only(device: Device) -> None:
    tasks = device.submit(wat(NOTHING), TaskInput(), TaskInput())
    batch = tasks[0].partition(".")[0]
    for words, code in ((("task", batch), 2), (("wait", batch), 100), (("cancel", batch), 2)):
        done = typed("meshctl", *words, "--output", "json", home=device.home)
        done.complaint(code, "may be any of 2 tasks", "ID.0, ID.1")
        assert done.error["code"] == "ambiguous"
    assert typed("meshctl", "wait", f"{batch}.1", home=device.home).code == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((b"task", NOT_UTF8), 2),
        ((b"peer", NOT_UTF8), 2),
        ((b"wait", NOT_UTF8), 100),
        ((b"find", b"label:a=" + NOT_UTF8), 2),
        ((b"invite", b"--operator", NOT_UTF8), 2),
        ((b"submit", ECHO.encode(), NOT_UTF8), 100),
        ((b"submit", ECHO.encode(), b"--env", b"A=" + NOT_UTF8), 100),
        ((b"submit", ECHO.encode(), b"--type", NOT_UTF8), 100),
        ((b"submit", NOT_UTF8), 100),
        ((b"verify", NOT_UTF8), 2),
        ((NOT_UTF8,), 2),
        ((b"status", b"--" + NOT_UTF8), 2),
    ],
)
def test_an_argument_that_is_not_utf8_is_refused_in_a_line(
    device: Device, words: tuple[bytes, ...], code: int
) -> None:
    done = typed("meshctl", *words, b"--output", b"json", home=device.home)
    done.complaint(code)
    assert done.error["message"]


def test_a_file_s_name_may_be_any_bytes(device: Device, tmp_path: Path) -> None:
    module, content, out = (
        tmp_path / os.fsdecode(NOT_UTF8 + end) for end in (b".wasm", b".in", b".out")
    )
    module.write_bytes(example("faults/echo"))
    content.write_bytes(b"content")
    words = ("submit", str(module), "--input", str(content), "--to", str(out), "--output", "json")
    done = typed("meshctl", *words, home=device.home)
    assert done.code == 0, done.stderr
    assert out.read_bytes() == b"argument 0: task\ncontent"
    assert json.loads(done.stdout)["stdout"]["file"] == str(out)


# --- files and streams that do not take it --------------------------------------------------------


def test_an_output_that_does_not_fit_leaves_no_part_of_it(device: Device, tmp_path: Path) -> None:
    (task,) = device.submit(example("faults/echo"), TaskInput(stdin=bytes(3 << 20)))
    device.wait(task)
    with small_disk(tmp_path / "disk", size_bytes=1 << 20) as disk:
        (disk / "before").write_bytes(b"before")
        for name in ("new", "before"):
            to = str(disk / name)
            done = typed("meshctl", "result", task, "--to", to, home=device.home)
            done.complaint(2, f"{to} cannot be written: No space left on device")
        submitted = typed("meshctl", "submit", ECHO, "--input", "/bin/sh", home=device.home)
        assert submitted.code == 0
        full = {"TMPDIR": str(disk)}
        typed("meshctl", "result", task, home=device.home, environ=full).complaint(
            2, f"{disk} cannot hold what was fetched: No space left", "$TMPDIR"
        )
        assert {path.name for path in disk.iterdir()} == {"before"}
        assert (disk / "before").read_bytes() == b"before"
    for words in (("--to", str(tmp_path)), ("--to", f"{NO_FILE}/out"), ("--to", "")):
        typed("meshctl", "result", task, *words, home=device.home).complaint(2)


@pytest.mark.parametrize(
    "words", ["status", "peers --output json", "--help", "invite", "tasks", f"submit {EXIT_CODE}"]
)
def test_output_that_cannot_be_written_is_an_error(device: Device, words: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = typed("meshctl", *words.split(), home=device.home, stdout=full)
    if words.startswith("submit"):
        assert done.code == 0  # it put nothing out
        return
    stderr = done.stderr.removeprefix("type this on the new device:\n")
    assert stderr == "meshctl: standard output cannot be written: No space left on device\n"
    assert done.code == 2


def test_the_output_of_a_program_that_cannot_be_written_can_be_had_again(device: Device) -> None:
    with Path("/dev/full").open("wb") as full:
        done = typed("meshctl", "submit", ECHO, home=device.home, stdout=full)
    said = done.complaint(100, "standard output cannot be written", "the task has ended")
    found = re.search(r"`meshctl result (\S+) --to FILE`", said)
    assert found is not None
    again = typed("meshctl", "result", found[1], home=device.home)
    assert (again.code, again.stdout) == (0, b"argument 0: task\n")


def test_a_reader_that_has_seen_enough_ends_the_command_in_silence(device: Device) -> None:
    for words in (("peers",), ("submit", ECHO, "--input", "/bin/sh"), ("peers", "--output=json")):
        with typing(device, *words) as process:
            assert process.stdout is not None
            process.stdout.close()  # as `| head -0` does
            assert process.wait(60) == -signal.SIGPIPE
            assert process.stderr is not None
            assert process.stderr.read() == b""


def test_a_closed_stream_is_told_where_it_matters(device: Device) -> None:
    home = device.home
    closed(0, "meshctl", home, "submit", "-").complaint(100, "module - cannot be read")
    closed(0, "meshctl", home, "submit", ECHO, "--input", "-").complaint(100, "input - cannot be")
    assert closed(0, "meshctl", home, "submit", ECHO).stdout == b"argument 0: task\n"
    for words in ("status", "peers", "tasks --output json"):
        closed(1, "meshctl", home, *words.split()).complaint(2, "standard output cannot be written")
    assert closed(2, "meshctl", home, "status").code == 0
    assert closed(2, "meshctl", home, "task", "nothing").code == 1
    assert closed(2, "meshctl", home, "wait", "nothing").code == 102
    closed(0, "meshd", home / "fresh", "start", "--join", "-").complaint(2, "standard input")
    assert not (home / "fresh").exists()


# --- receipts -----------------------------------------------------------------------------------


def verified(device: Device | None, *words: str) -> tuple[int, str]:
    home = ("--home", NO_FILE if device is None else str(device.home))
    done = typed("meshctl", "verify", *home, *words)
    assert "Traceback" not in done.stderr
    return done.code, done.stdout.decode() + done.stderr


def test_what_is_no_receipt_is_a_bad_file(device: Device, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(os.urandom(1000))
    (tmp_path / "empty").touch()
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(10 << 20)
    for name, part in (
        ("garbage", "is no receipt"),
        ("empty", "is no receipt"),
        ("huge", "is longer than 4194304 bytes"),
        ("missing", "cannot be read: No such file"),
        (".", "cannot be read: Is a directory"),
    ):
        words = ("verify", str(tmp_path / name), "--output", "json")
        done = typed("meshctl", *words, home=device.home)
        done.complaint(2, part)
        assert part in done.error["message"]


def test_a_receipt_is_verified_against_a_mesh_a_result_and_a_key(
    device: Device, receipts: Path
) -> None:
    plain, keyed, result = (str(receipts / name) for name in ("receipt", "with-key", "result"))
    other = str(receipts / "receipt")
    stranger = base32_text(bytes(32))
    assert verified(device, keyed, "--result", result)[0] == 0
    code, said = verified(None, plain)
    assert (code, "checked against: consistent, mesh unknown" in said) == (0, True)
    for words, part in (
        ((plain, "--mesh", stranger), "mesh        BAD"),
        ((keyed, "--result", other), "the bytes are not what the task put out"),
        ((plain, "--result", result), "digest key missing"),
    ):
        code, said = verified(device, *words)
        assert code == 1
        assert part in said
        assert "NOT verified" in said
    for words, part in (
        ((plain, "--mesh", "nothing"), "'nothing' is not a mesh id"),
        ((plain, "--result", NO_FILE), f"result {NO_FILE} cannot be read"),
        (("-", "--result", "-"), "cannot both be standard input"),
    ):
        code, said = verified(device, *words)
        assert code == 2
        assert part in said


def test_a_receipt_that_was_cut_or_changed_is_not_verified(device: Device, receipts: Path) -> None:
    content = (receipts / "receipt").read_bytes()
    changed = bytearray(content)
    changed[-90] ^= 1
    for bad in (content[: len(content) // 2], content + b"x", bytes(changed)):
        (receipts / "bad").write_bytes(bad)
        code, said = verified(device, str(receipts / "bad"))
        assert code == 1
        assert "NOT verified" in said
