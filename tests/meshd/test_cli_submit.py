"""meshctl submit, wait, result, cancel, tasks and task, as somebody types them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from support.answer_views import BATCH, TASK, accepted, pending_view, task_list, task_view
from support.commands import json_of, run_in_process
from support.control_node import KEYS, MODULE, ScriptedNode, serving_in_thread

from meshd.batch_content import BatchContent
from meshd.cli import bounds
from meshd.cli.meshctl import cli as meshctl
from wire.answers import Candidate, RefusalCode, Refused, ResultView, TaskView
from wire.commands import CancelTask, GetResult, GetTask, ListTasks, Submit, WaitTask
from wire.content import Invocation
from wire.limits import Limits
from wire.tasks import Durability, Strategy

KEY = bytes(32)


@pytest.fixture
def node() -> ScriptedNode:
    scripted = ScriptedNode()
    scripted.script(Submit, accepted())
    scripted.script(ListTasks, task_list())
    ends_with(scripted, task_view(), stdout=b"42\n", stderr=b"a warning\n")
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


def ends_with(
    node: ScriptedNode, view: TaskView, *, stdout: bytes = b"", stderr: bytes = b""
) -> None:
    """Let the task end so."""
    sealed = BatchContent(KEY, node.blobs).seal_output(0, stdout=stdout, stderr=stderr)
    box = KEYS.seal(KEY, KEYS.peer)
    result = ResultView(task=view, index=0, output=sealed.output, log=sealed.log, box=box)
    node.script(WaitTask, pending_view(), view)
    node.script(GetTask, view)
    node.script(CancelTask, view)
    node.script(GetResult, result)


def invocation_of(node: ScriptedNode) -> Invocation:
    """Return what the task that was submitted is started with."""
    submit = next(command for command in node.asked if isinstance(command, Submit))
    batch = BatchContent(KEYS.unseal(submit.key), node.blobs)
    return batch.open_invocation(0, submit.tasks[0].input)


def test_a_submitted_program_seems_to_have_run_here(
    node: ScriptedNode, home: Path, module: str
) -> None:
    result = run_in_process(meshctl, home, "submit", module)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "42\n", "a warning\n")
    assert [type(command) for command in node.asked] == [Submit, WaitTask, GetResult]
    assert node.asked[1] == WaitTask(TASK)


def test_all_terms_reach_the_daemon(node: ScriptedNode, home: Path, module: str) -> None:
    words = (
        "--require mem:4GiB --require arch:aarch64 --type server --strategy least-loaded"
        " --memory 64MiB --fuel 1000 --timeout 5s --deadline 2h --retries 2 --durability local"
        " --env A=1 --env B=x=y --output-max 1MiB --prefer cpu:8 --priority urgent"
    )
    assert run_in_process(meshctl, home, "submit", module, *words.split()).exit_code == 0
    command = node.asked[0]
    assert isinstance(command, Submit)
    assert command.limits == Limits(
        memory_bytes=64 << 20, fuel=1000, wall_us=5_000_000, output_bytes=1 << 20
    )
    assert command.requirements == ("mem:4GiB", "arch:aarch64")
    assert (command.preferences, command.priority) == (("cpu:8",), 2)
    assert (command.node_type, command.strategy) == ("server", Strategy.LEAST_LOADED)
    assert (command.deadline_us, command.retries_max) == (7_200_000_000, 2)
    assert command.durability is Durability.LOCAL
    assert invocation_of(node).env == (("A", "1"), ("B", "x=y"))


def test_what_is_not_given_has_the_daemons_defaults(
    node: ScriptedNode, home: Path, module: str
) -> None:
    run_in_process(meshctl, home, "submit", module)
    command = node.asked[0]
    assert isinstance(command, Submit)
    fresh = Submit(module=command.module, tasks=command.tasks, key=command.key)
    assert command == fresh


@pytest.mark.parametrize(
    ("words", "args"),
    [
        (["M", "a", "b"], ("a", "b")),
        (["M", "-l", "--lines", "x"], ("-l", "--lines", "x")),
        (["M", "-l", "--input", "F", "--verbose=2"], ("-l", "--verbose=2")),
        (["--input", "F", "M", "-"], ("-",)),
        (["M", "--", "--input", "x", "--", "y"], ("--input", "x", "--", "y")),
        (["--", "M", "--to", "x"], ("--to", "x")),
        (["M", "a", "--env", "K=v", "b"], ("a", "b")),
        (["M", "--", "--memroy"], ("--memroy",)),
        (["M", "-h"], ("-h",)),
        (["M", ""], ("",)),
    ],
)
def test_words_after_the_module_are_the_programs(
    node: ScriptedNode, home: Path, module: str, words: list[str], args: tuple[str, ...]
) -> None:
    given = [{"M": module, "F": module}.get(word, word) for word in words]
    result = run_in_process(meshctl, home, "submit", *given)
    assert result.exit_code == 0, result.stderr
    assert invocation_of(node).args == args


@pytest.mark.parametrize("slip", ["--memroy", "--requires=cpu:4", "--time-out"])
def test_a_slip_of_ours_is_not_given_to_the_program(
    node: ScriptedNode, home: Path, module: str, slip: str
) -> None:
    result = run_in_process(meshctl, home, "submit", module, slip)
    assert result.exit_code == 100
    assert f"{slip.partition('=')[0]} is much like --" in result.stderr
    assert "put `--` before it" in result.stderr
    assert node.asked == []


@pytest.mark.parametrize("is_standard", [False, True])
def test_the_input_comes_from_a_file_or_from_standard_input(
    node: ScriptedNode, home: Path, module: str, tmp_path: Path, is_standard: bool
) -> None:
    content = os.urandom(300_000)
    (tmp_path / "input").write_bytes(content)
    name = "-" if is_standard else str(tmp_path / "input")
    result = run_in_process(meshctl, home, "submit", module, "--input", name, stdin=content)
    assert result.exit_code == 0
    assert invocation_of(node).stdin == content


def test_without_input_nothing_is_read_from_ours(
    node: ScriptedNode, home: Path, module: str
) -> None:
    run_in_process(meshctl, home, "submit", module, stdin=b"not for the program")
    assert invocation_of(node).stdin == b""


def test_the_module_itself_may_come_from_standard_input(node: ScriptedNode, home: Path) -> None:
    result = run_in_process(meshctl, home, "submit", "-", "arg", stdin=MODULE)
    assert result.exit_code == 0
    assert MODULE in node.blobs.stored.values()


def test_the_output_goes_to_a_file_whole(
    node: ScriptedNode, home: Path, module: str, tmp_path: Path
) -> None:
    content = os.urandom(3 << 20)
    ends_with(node, task_view(), stdout=content)
    target = tmp_path / "out.bin"
    result = run_in_process(meshctl, home, "submit", module, "--to", str(target))
    assert (result.exit_code, result.stdout_bytes) == (0, b"")
    assert target.read_bytes() == content


def test_bytes_that_are_no_text_come_through(node: ScriptedNode, home: Path, module: str) -> None:
    content = bytes(range(256)) * 10
    ends_with(node, task_view(), stdout=content)
    assert run_in_process(meshctl, home, "submit", module).stdout_bytes == content


@pytest.mark.parametrize(
    ("view", "exit_code", "message"),
    [
        (task_view(exit_code=3), 3, ""),
        (task_view(exit_code=200), 99, "the program exited with 200 (on kitchen after 12.3ms)"),
        (
            task_view(status="trapped", exit_code=None, detail="unreachable"),
            104,
            "the program trapped: unreachable (on kitchen after",
        ),
        (task_view(status="out_of_fuel"), 105, "ran out of fuel"),
        (task_view(status="out_of_memory"), 106, "ran out of memory"),
        (task_view(status="out_of_time"), 107, "ran out of time"),
        (task_view(status="out_of_output"), 104, "put out too much"),
    ],
)
def test_how_the_program_ended_is_our_exit_code(
    node: ScriptedNode, home: Path, module: str, view: TaskView, exit_code: int, message: str
) -> None:
    ends_with(node, view, stdout=b"what it put out before\n")
    result = run_in_process(meshctl, home, "submit", module)
    assert result.exit_code == exit_code
    assert result.stdout == "what it put out before\n"
    assert message in result.stderr
    assert bool(message) == result.stderr.startswith("meshctl: ")


@pytest.mark.parametrize(
    ("outcome", "reason", "exit_code"),
    [
        ("cancelled", "somebody cancelled it", 108),
        ("failed", "deadline passed while pending: no device", 107),
        ("failed", "not_wasm: bad magic", 102),
    ],
)
def test_a_task_without_a_result_tells_why(
    node: ScriptedNode, home: Path, module: str, outcome: str, reason: str, exit_code: int
) -> None:
    view = pending_view(state=outcome, outcome=outcome, is_decided=True, reason=reason)
    ends_with(node, view)
    result = run_in_process(meshctl, home, "submit", module)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert reason in result.stderr
    assert GetResult(TASK) not in node.asked


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (RefusalCode.BAD_REQUEST, 100),
        (RefusalCode.REFUSED, 102),
        (RefusalCode.STORAGE_FULL, 102),
        (RefusalCode.NOBODY_ELIGIBLE, 103),
    ],
)
def test_a_refused_submission_has_the_code_of_its_reason(
    node: ScriptedNode, home: Path, module: str, code: RefusalCode, exit_code: int
) -> None:
    closest = [Candidate(id="12D3KooWabc", name="kitchen", missing=["gpu:cuda"])]
    hint = "kitchen came closest: it lacks gpu:cuda"
    node.script(Submit, Refused(code=code, message="no", hint=hint, closest=closest))
    result = run_in_process(meshctl, home, "submit", module, "--output", "json")
    assert result.exit_code == exit_code
    assert result.stderr == f"meshctl: no\n  {hint}\n"
    error = json_of(result)["error"]
    assert (error["code"], error["exit_code"]) == (str(code), exit_code)
    assert error["closest"] == msgspec.to_builtins(closest)


def test_a_file_that_is_no_wasm_is_refused_in_one_line(home: Path, tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text("#!/bin/sh\n" * 1000)
    result = run_in_process(meshctl, home, "submit", str(script))
    assert (result.exit_code, result.stdout) == (100, "")
    assert len(result.stderr.splitlines()) == 1
    assert "not WebAssembly" in result.stderr


def test_a_detached_task_prints_its_id_alone(node: ScriptedNode, home: Path, module: str) -> None:
    result = run_in_process(meshctl, home, "submit", module, "--detach")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{TASK}\n", "")
    as_json = run_in_process(meshctl, home, "submit", module, "--detach", "--output", "json")
    assert json_of(as_json) == msgspec.to_builtins(accepted())
    assert all(isinstance(command, Submit) for command in node.asked)


def test_the_json_of_a_run_has_the_task_its_streams_and_the_exit_code(
    node: ScriptedNode, home: Path, module: str, tmp_path: Path
) -> None:
    ends_with(node, task_view(exit_code=200), stdout=b"\xff\xfe", stderr=b"log\n")
    result = run_in_process(meshctl, home, "--output", "json", "submit", module)
    assert result.exit_code == 99
    assert json_of(result) == {
        "answer": "result",
        "task": msgspec.to_builtins(task_view(exit_code=200)) | {"answer": "task"},
        "stdout": {"bytes": 2, "base64": "//4="},
        "stderr": {"bytes": 4, "text": "log\n"},
        "exit_code": 99,
    }
    target = str(tmp_path / "out")
    to_file = run_in_process(meshctl, home, "--output", "json", "submit", module, "--to", target)
    assert json_of(to_file)["stdout"] == {"bytes": 2, "file": target}
    assert Path(target).read_bytes() == b"\xff\xfe"


def test_an_output_that_cannot_be_had_is_lost_contact_and_not_an_empty_output(
    node: ScriptedNode, home: Path, module: str, tmp_path: Path
) -> None:
    node.script(GetResult, Refused(code=RefusalCode.NOT_YET, message="the blob is elsewhere"))
    target = tmp_path / "out"
    result = run_in_process(meshctl, home, "submit", module, "--to", str(target))
    assert result.exit_code == 110
    assert "the blob is elsewhere" in result.stderr
    assert f"meshctl result {TASK}" in result.stderr
    assert list(tmp_path.glob("*out*")) == []


def test_contact_that_is_lost_while_waiting_says_how_to_come_back(
    node: ScriptedNode, home: Path, module: str
) -> None:
    node.script(WaitTask, pending_view())
    result = run_in_process(meshctl, home, "submit", module)
    assert result.exit_code == 110
    assert f"the task goes on: `meshctl wait {TASK}`" in result.stderr


def test_what_a_task_waits_for_is_told_on_a_terminal_only(
    node: ScriptedNode, home: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = pending_view(reason="no device provides gpu:cuda", hint="invite one")
    node.script(WaitTask, waits, waits, task_view())
    assert run_in_process(meshctl, home, "submit", module).stderr == "a warning\n"
    monkeypatch.setattr(
        "click.testing._NamedTextIOWrapper.isatty", lambda _self: True, raising=False
    )
    on_terminal = run_in_process(meshctl, home, "submit", module)
    line = f"{BATCH[:12]}.0 pending: no device provides gpu:cuda (invite one)\n"
    assert on_terminal.stderr == f"{line}a warning\n"
    assert on_terminal.stdout == "42\n"


@pytest.mark.parametrize("where", ["missing.wasm", "."])
def test_a_module_that_cannot_be_read_is_a_usage_error(home: Path, where: str) -> None:
    result = run_in_process(meshctl, home, "submit", where)
    assert result.exit_code == 100
    assert result.stderr.startswith(f"meshctl: module {where} cannot be read: ")


def test_an_input_over_the_limit_is_refused_before_anything_is_sent(
    node: ScriptedNode, home: Path, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "INPUT_BYTES_MAX", 1000)
    (tmp_path / "long").write_bytes(bytes(1001))
    result = run_in_process(meshctl, home, "submit", module, "--input", str(tmp_path / "long"))
    assert result.exit_code == 100
    assert "is longer than 1000 bytes" in result.stderr
    assert node.asked == []


@pytest.mark.parametrize("target", ["nowhere/out", "."])
def test_an_output_file_that_cannot_be_written_is_found_before_the_work(
    node: ScriptedNode, home: Path, module: str, tmp_path: Path, target: str
) -> None:
    result = run_in_process(meshctl, home, "submit", module, "--to", str(tmp_path / target))
    assert result.exit_code == 100
    assert node.asked == []


def test_wait_exits_as_submit_would_have(node: ScriptedNode, home: Path) -> None:
    ends_with(node, task_view(status="out_of_fuel", exit_code=None))
    result = run_in_process(meshctl, home, "wait", "mrrw")
    assert result.exit_code == 105
    assert result.stdout == "the program ran out of fuel (on kitchen after 12.3ms)\n"
    assert node.asked == [WaitTask("mrrw")]
    as_json = run_in_process(meshctl, home, "wait", "mrrw", "--output", "json")
    assert (as_json.exit_code, json_of(as_json)["status"]) == (105, "out_of_fuel")


def test_wait_for_an_unknown_task_is_refused(node: ScriptedNode, home: Path) -> None:
    node.script(WaitTask, Refused(code=RefusalCode.NOT_FOUND, message="unknown task 'x'"))
    assert run_in_process(meshctl, home, "wait", "x").exit_code == 102


def test_result_prints_the_output_again(node: ScriptedNode, home: Path, tmp_path: Path) -> None:
    result = run_in_process(meshctl, home, "result", TASK)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "42\n", "a warning\n")
    target = tmp_path / "again"
    to_file = run_in_process(meshctl, home, "result", TASK, "--to", str(target))
    assert (to_file.stdout, target.read_bytes()) == ("", b"42\n")
    as_json = json_of(run_in_process(meshctl, home, "result", TASK, "--output", "json"))
    assert as_json["stdout"] == {"bytes": 3, "text": "42\n"}
    assert as_json["task"]["id"] == TASK


def test_a_result_that_is_not_there_yet_is_a_no(
    node: ScriptedNode, home: Path, tmp_path: Path
) -> None:
    node.script(GetResult, Refused(code=RefusalCode.NOT_YET, message="the task is pending"))
    target = tmp_path / "out"
    result = run_in_process(meshctl, home, "result", TASK, "--to", str(target))
    assert (result.exit_code, result.stdout) == (1, "")
    assert not target.exists()


@pytest.mark.parametrize(("outcome", "exit_code"), [("cancelled", 0), ("result", 1)])
def test_cancel_says_whether_it_came_in_time(
    node: ScriptedNode, home: Path, outcome: str, exit_code: int
) -> None:
    ends_with(node, task_view(outcome=outcome))
    result = run_in_process(meshctl, home, "cancel", TASK)
    assert result.exit_code == exit_code
    assert result.stdout.startswith("the task was cancelled" if exit_code == 0 else "too late: the")


def test_tasks_are_listed_with_short_ids_that_commands_take(home: Path) -> None:
    result = run_in_process(meshctl, home, "tasks", "--limit", "7")
    titles, first, second = (line.split() for line in result.stdout.splitlines())
    assert titles[0] == "TASK"
    assert first[:2] == [f"{BATCH[:12]}.0", "pending"]
    assert first[-1] == "no_free_slot"
    assert second[:3] == [f"{BATCH[:12]}.1", "complete", "kitchen"]
    assert second[-2:] == ["exited", "0"]


def test_a_truncated_list_says_so(node: ScriptedNode, home: Path) -> None:
    node.script(ListTasks, msgspec.structs.replace(task_list(), is_truncated=True))
    assert "--limit" in run_in_process(meshctl, home, "tasks").stderr


def test_a_task_is_shown_with_its_whole_id_and_why_it_waits(node: ScriptedNode, home: Path) -> None:
    node.script(GetTask, pending_view(hint="wait a little"))
    lines = run_in_process(meshctl, home, "task", "mrrw.0").stdout.splitlines()
    shown = dict(line.split(maxsplit=1) for line in lines)
    assert shown["task"] == TASK
    assert (shown["why"], shown["hint"]) == ("no_free_slot", "wait a little")
    assert node.asked == [GetTask("mrrw.0")]


def test_a_new_output_file_has_the_usual_mode_and_an_old_one_keeps_its_own(
    home: Path, tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("before")
    old.chmod(0o640)
    mask = os.umask(0o027)
    try:
        for target in (old, new):
            assert run_in_process(meshctl, home, "result", TASK, "--to", str(target)).exit_code == 0
    finally:
        os.umask(mask)
    modes = [stat.S_IMODE(target.stat().st_mode) for target in (old, new)]
    assert modes == [0o640, 0o640]
    assert old.read_bytes() == b"42\n"
