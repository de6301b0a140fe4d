"""meshctl map: one task an input, outputs whole or not at all, and only what is missing again."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from support.commands import (
    command_line,
    json_of,
    process_environment,
    run_in_process,
    running_process,
)
from support.control_node import MODULE, serving_in_thread
from support.mapped_node import MappedNode

from meshd.cli.files import FileFailed
from meshd.cli.map_items import (
    BATCH_ITEMS_MAX,
    ITEMS_MAX,
    Item,
    batches_of,
    items_of_count,
    items_of_files,
)
from meshd.cli.map_state import STATE_NAME, MapState
from meshd.cli.meshctl import cli as meshctl


@pytest.fixture
def node() -> MappedNode:
    return MappedNode()


@pytest.fixture
def home(node: MappedNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    Path("p.wasm").write_bytes(MODULE)
    Path("texts").mkdir()
    for name in ("ant", "bee", "cat"):
        Path(f"texts/{name}.txt").write_text(f"the {name}")
    with serving_in_thread(node, tmp_path):
        yield tmp_path


def mapped(home: Path, *words: str) -> Result:
    given = ("p.wasm", "--inputs", "texts/*.txt", "--outputs", "out", *words)
    return run_in_process(meshctl, home, "map", *given)


def outputs(directory: str = "out") -> dict[str, str]:
    return {path.name: path.read_text() for path in Path(directory).glob("[!.]*")}


ALL = {"ant.out": "THE ANT", "bee.out": "THE BEE", "cat.out": "THE CAT"}


def test_each_input_becomes_a_task_and_each_output_a_file(node: MappedNode, home: Path) -> None:
    result = mapped(home, "-l", "--env", "LANG=C", "--retries", "2")
    assert (result.exit_code, result.stdout) == (0, "3 of 3 done, in out\n")
    assert outputs() == ALL
    (batch,) = node.batches
    assert batch.submit.retries_max == 2
    assert [one.args for one in batch.invocations] == [("-l",)] * 3
    assert dict(batch.invocations[1].env) == {
        "LANG": "C",
        "MAP_INDEX": "1",
        "MAP_COUNT": "3",
        "MAP_NAME": "bee",
    }


def test_a_count_makes_as_many_numbered_outputs(node: MappedNode, home: Path) -> None:
    words = ["map", "p.wasm", "--count", "11", "--outputs", "out", "--suffix", ".txt"]
    assert run_in_process(meshctl, home, *words).exit_code == 0
    assert outputs() == {f"{number:04}.txt": str(number) for number in range(11)}


def test_braces_in_arguments_stand_for_the_task_and_others_stay(
    node: MappedNode, home: Path
) -> None:
    mapped(home, "--", "{index}of{count}", "{name}", "{other}{}", "{{index}}")
    args = [one.args for one in node.batches[0].invocations]
    assert args[1] == ("1of3", "bee", "{other}{}", "{1}")


def test_of_many_failures_the_first_are_told_and_the_others_counted(
    node: MappedNode, home: Path
) -> None:
    node.ends = lambda *_: {"exit_code": 1}
    words = ["map", "p.wasm", "--count", "100", "--outputs", "out"]
    result = run_in_process(meshctl, home, *words)
    assert result.stderr.count("the program exited with 1") == 20
    assert "further failures are counted only" in result.stderr
    assert "0 of 100 done, 100 failed" in result.stderr
    assert result.stdout.endswith(
        "  and 90 more\n  the same command with --resume tries those again\n"
    )


def test_the_json_tells_what_was_done_and_what_failed(node: MappedNode, home: Path) -> None:
    node.ends = lambda one, _: {"exit_code": 3} if one.stdin == b"the bee" else {}
    result = mapped(home, "--output", "json")
    assert result.exit_code == 1
    answer = json_of(result)
    assert (answer["answer"], answer["count"], answer["done"], answer["done_before"]) == (
        "map",
        3,
        2,
        0,
    )
    (failed,) = answer["failed"]
    assert (failed["name"], failed["task"]) == ("bee.out", "batch1.1.x")
    assert failed["reason"].startswith("the program exited with 3")


# --- what failed ------------------------------------------------------------------------------


def test_only_what_failed_and_may_go_better_is_tried_again(node: MappedNode, home: Path) -> None:
    failed: dict[str, object] = {"outcome": "failed", "status": None, "reason": "8 devices failed"}
    node.ends = lambda one, tries: failed if one.stdin == b"the bee" and tries < 3 else {}
    result = mapped(home)
    assert (result.exit_code, node.sizes, outputs()) == (0, [3, 1, 1], ALL)
    told = "bee.out: the task failed: 8 devices failed (batch1.1.x); it is tried again"
    assert told in result.stderr


@pytest.mark.parametrize(
    "ending",
    [{"exit_code": 3}, {"status": "trapped"}, {"status": "out_of_fuel"}, {"outcome": "cancelled"}],
)
def test_what_a_program_does_itself_is_not_tried_again(
    node: MappedNode, home: Path, ending: dict[str, object]
) -> None:
    node.ends = lambda one, _: ending if one.stdin == b"the bee" else {}
    result = mapped(home)
    assert (result.exit_code, node.sizes) == (1, [3])
    assert sorted(outputs()) == ["ant.out", "cat.out"]
    assert "2 of 3 done, in out\n  failed: bee.out: " in result.stdout


def test_what_fails_for_good_is_tried_so_often_and_no_more(node: MappedNode, home: Path) -> None:
    node.ends = lambda *_: {"status": "out_of_time"}
    assert mapped(home, "--again", "1").exit_code == 1
    assert node.sizes == [3, 3]
    assert outputs() == {}


def test_a_resumed_map_tries_the_failed_ones_again_and_no_others(
    node: MappedNode, home: Path
) -> None:
    node.ends = lambda one, _: {"exit_code": 3} if one.stdin == b"the bee" else {}
    mapped(home)
    node.ends = lambda *_: {}
    assert mapped(home, "--resume").exit_code == 0
    assert (node.sizes, outputs()) == ([3, 1], ALL)
    assert mapped(home, "--resume").exit_code == 0
    assert node.sizes == [3, 1]


# --- ends in the middle -----------------------------------------------------------------------


def test_what_was_submitted_before_a_kill_is_fetched_and_not_run_again(
    node: MappedNode, home: Path
) -> None:
    node.holds.set()
    words = ["map", "p.wasm", "--inputs", "texts/*.txt", "--outputs", "out"]
    with running_process("meshctl", home, *words) as process:
        wait_until(lambda: node.batches and Path("out", STATE_NAME).read_text().count("\n") == 2)
        process.send_signal(signal.SIGKILL)
    node.holds.clear()
    assert outputs() == {}
    result = mapped(home, "--resume")
    assert (result.exit_code, node.sizes, outputs()) == (0, [3], ALL)


def test_ctrl_c_says_how_to_go_on(node: MappedNode, home: Path) -> None:
    node.holds.set()
    words = ["map", "p.wasm", "--inputs", "texts/*.txt", "--outputs", "out"]
    with running_process("meshctl", home, *words) as process:
        wait_until(lambda: node.batches)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"interrupted, 0 of 3 done\n  tasks that were submitted go on: the same" in said


def test_a_torn_last_line_is_no_line(node: MappedNode, home: Path) -> None:
    mapped(home)
    state = Path("out", STATE_NAME)
    whole = state.read_bytes()
    lines = whole.splitlines(keepends=True)
    state.write_bytes(b"".join(lines[:-1]) + lines[-1][:5])
    assert mapped(home, "--resume").exit_code == 0
    assert len(state.read_text().splitlines()) == len(lines)
    assert all(json.loads(line) for line in state.read_text().splitlines())
    assert node.sizes == [3]


def test_an_output_that_was_taken_away_is_made_again(node: MappedNode, home: Path) -> None:
    mapped(home)
    Path("out/bee.out").unlink()
    assert mapped(home, "--resume").exit_code == 0
    assert (outputs(), node.sizes) == (ALL, [3])  # its task is known still


def test_what_the_daemon_has_forgotten_is_submitted_again(node: MappedNode, home: Path) -> None:
    mapped(home)
    Path("out/bee.out").unlink()
    node.batches.clear()  # as if its daemon had lost its disk
    assert mapped(home, "--resume").exit_code == 0
    assert outputs() == ALL
    assert node.sizes == [1]


def test_what_the_daemon_forgets_again_and_again_fails(node: MappedNode, home: Path) -> None:
    node.forgets = True
    result = mapped(home)
    assert (result.exit_code, node.sizes) == (1, [3, 3, 3])
    assert "failed: ant.out: its daemon has forgotten it (batch3.0.x)" in result.stdout


def test_what_a_killed_map_had_begun_to_write_is_removed(node: MappedNode, home: Path) -> None:
    mapped(home)
    Path("out/.bee.out.abcd_123").write_text("half")
    Path("out/.other.abcd_123").write_text("not ours")
    mapped(home, "--resume")
    assert sorted(path.name for path in Path("out").iterdir()) == [
        STATE_NAME,
        ".other.abcd_123",
        *ALL,
    ]


def test_a_second_map_into_a_directory_is_refused(home: Path) -> None:
    mapped(home)
    result = mapped(home)
    assert result.exit_code == 2
    assert "out holds a map already" in result.stderr
    assert "go on with it by --resume" in result.stderr


def test_two_at_once_into_a_directory_are_refused(home: Path) -> None:
    with MapState(Path("out")) as state:
        state.open("x", names=["a"], resumes=False)
        result = mapped(home, "--resume")
    assert result.exit_code == 2
    assert "another meshctl maps into out now" in result.stderr


@pytest.mark.parametrize("change", ["words", "input", "module"])
def test_another_map_is_not_taken_for_the_one_before(home: Path, change: str) -> None:
    mapped(home)
    if change == "input":
        Path("texts/bee.txt").write_text("another bee")
    if change == "module":
        Path("p.wasm").write_bytes(MODULE + b"\0\2\1x")
    result = mapped(home, "--resume", *(["-x"] if change == "words" else []))
    assert result.exit_code == 2
    assert "of another module, other inputs or options" in result.stderr


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        '{"done": "x"}',
        '{"batch": [0], "tasks": []}',
        '{"batch": [], "tasks": []}',
    ],
)
def test_a_damaged_state_is_said_to_be(home: Path, line: str) -> None:
    mapped(home)
    with Path("out", STATE_NAME).open("a") as state:
        state.write(f"{line}\n")
    result = mapped(home, "--resume")
    assert result.exit_code == 2
    assert "is damaged" in result.stderr


def test_an_output_that_is_there_is_never_overwritten_by_a_new_map(home: Path) -> None:
    Path("out").mkdir()
    Path("out/bee.out").write_text("precious")
    result = mapped(home)
    assert (result.exit_code, outputs()) == (2, {"bee.out": "precious"})
    assert mapped(home).exit_code == 2  # it left no state behind that would look like a map


# --- usage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--outputs out", "give either --inputs or --count"),
        ("--outputs out --count 2 --inputs x", "give either --inputs or --count"),
        ("--count 2", "Missing option '--outputs'"),
        ("--outputs out --inputs gone/*.txt", "--inputs gone/*.txt matches no file"),
        ("--outputs out --count 0", "not in the range 1<=x<=100000"),
        ("--outputs out --count 2 --suffix a/b", "--suffix is the end"),
        ("--outputs p.wasm --count 2", "p.wasm cannot be written: File exists"),
    ],
)
def test_a_slip_is_said_before_anything_is_submitted(
    node: MappedNode, home: Path, words: str, message: str
) -> None:
    result = run_in_process(meshctl, home, "map", "p.wasm", *words.split())
    assert (result.exit_code, node.batches) == (2, [])
    assert message in result.stderr


def test_no_daemon_is_told_with_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.wasm").write_bytes(MODULE)
    words = ["map", "p.wasm", "--count", "2", "--outputs", "out"]
    result = run_in_process(meshctl, tmp_path, *words)
    assert result.exit_code == 4
    assert "--resume goes on with what is missing" in result.stderr


def test_a_job_file_may_say_what_is_mapped(node: MappedNode, home: Path) -> None:
    Path("sub").mkdir()
    Path("sub/job.yaml").write_text(
        "module: ../p.wasm\ninputs: ['../texts/*.txt']\noutputs: out\nsuffix: .up\nretries: 1\n"
    )
    result = run_in_process(meshctl, home, "map", "-f", "sub/job.yaml")
    assert (result.exit_code, result.stderr.count("done")) == (0, 3)
    assert sorted(outputs("sub/out")) == ["ant.up", "bee.up", "cat.up"]
    assert node.batches[0].submit.retries_max == 1


# --- a terminal ---------------------------------------------------------------------------------


def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines(node: MappedNode, home: Path) -> None:
    controller, terminal = pty.openpty()
    words = ["map", "p.wasm", "--inputs", "texts/*.txt", "--outputs", "bar"]
    process = subprocess.Popen(
        command_line("meshctl", home, *words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=terminal,
        env=process_environment(TERM="xterm", COLUMNS="80"),
    )
    shown = b""
    with process:
        os.close(terminal)
        while process.poll() is None or select.select([controller], [], [], 0)[0]:
            if select.select([controller], [], [], 0.1)[0]:
                try:
                    shown += os.read(controller, 65_536)
                except OSError:
                    break
    os.close(controller)
    assert process.returncode == 0
    assert b"3/3" in shown
    assert b"of 3 done" not in shown
    assert "3 of 3 done" in mapped(home).stderr


# --- items and batches --------------------------------------------------------------------------


def item(size_bytes: int, index: int = 0) -> Item:
    return Item(index=index, name="x", size_bytes=size_bytes)


def test_batches_are_of_a_thousand_and_of_so_many_bytes() -> None:
    def sizes(items: list[Item], text_bytes: int = 100) -> list[int]:
        return [len(batch) for batch in batches_of(items, text_bytes=text_bytes)]

    assert sizes([item(0)] * 2_500) == [1_024, 1_024, 452]
    assert sizes([item(40 << 20)] * 3) == [1, 1, 1]
    assert sizes([item(30 * 1024)] * 1_000)[0] == 6 * (1 << 20) // (30 * 1024 + 100)
    assert sizes([item(0)] * 1_000, text_bytes=60_000)[0] == 8
    assert sum(sizes([item(20 << 20)] * 7)) == 7
    assert BATCH_ITEMS_MAX == 1_024


def test_files_of_one_name_are_not_mapped_onto_each_other(tmp_path: Path) -> None:
    for name in ("a.txt", "a.md"):
        (tmp_path / name).write_text("x")
    with pytest.raises(FileFailed) as failed:
        items_of_files([str(tmp_path / "*")], suffix=".out")
    assert "would both put out a.out" in failed.value.message


def test_more_than_a_map_takes_is_refused() -> None:
    with pytest.raises(FileFailed):
        items_of_count(ITEMS_MAX + 1, suffix="")


def test_a_file_that_two_patterns_match_is_one_task(home: Path) -> None:
    names = [one.name for one in items_of_files(["texts/*.txt", "texts/b*"], suffix="")]
    assert names == ["ant", "bee", "cat"]


def wait_until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
