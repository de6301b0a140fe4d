"""Job files: the same as flags, named with their place when wrong, and bounded when hostile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.answer_views import accepted, plan_view, task_view
from support.commands import json_of, run_in_process
from support.control_node import KEYS, MODULE, ScriptedNode, serving_in_thread

from meshd.batch_content import BatchContent
from meshd.cli import bounds
from meshd.cli.files import FileFailed
from meshd.cli.jobfile import JOB_BYTES_MAX, _parsed
from meshd.cli.meshctl import cli as meshctl
from meshd.cli.terms import PRIORITIES
from wire.answers import ResultView
from wire.commands import GetResult, Plan, Submit, Terms, WaitTask
from wire.content import Invocation
from wire.limits import Limits

KEY = bytes(32)

FULL = """\
module: program.wasm
args: [-l, "two words", no]
input: words.txt
env:
  COUNTRY: no        # stays the text that it is
  OCTAL: 010
require: ["mem:4GiB", 'arch:aarch64']
prefer:
  - cpu:8
type: server
strategy: least-loaded
priority: urgent
memory: 64MiB
fuel: 1000
timeout: 5s
output-max: 1MiB
deadline: 2h
retries: 2
durability: local
detach: true
"""
FLAGS = (
    "--input words.txt --env COUNTRY=no --env OCTAL=010 --require mem:4GiB --require arch:aarch64"
    " --prefer cpu:8 --type server --strategy least-loaded --priority urgent --memory 64MiB"
    " --fuel 1000 --timeout 5s --output-max 1MiB --deadline 2h --retries 2 --durability local"
    " --detach"
)


@pytest.fixture
def node() -> ScriptedNode:
    scripted = ScriptedNode()
    sealed = BatchContent(KEY, scripted.blobs).seal_output(0, stdout=b"42\n", stderr=b"")
    box = KEYS.seal(KEY, KEYS.peer)
    result = ResultView(task=task_view(), index=0, output=sealed.output, log=None, box=box)
    scripted.script(Submit, accepted())
    scripted.script(WaitTask, task_view())
    scripted.script(GetResult, result)
    scripted.script(Plan, plan_view())
    return scripted


@pytest.fixture
def home(node: ScriptedNode, tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "program.wasm").write_bytes(MODULE)
    (tmp_path / "words.txt").write_bytes(b"some words\n")
    with serving_in_thread(node, tmp_path):
        yield tmp_path


def written(home: Path, text: str | bytes) -> str:
    path = home / "job.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def submitted(node: ScriptedNode) -> tuple[dict[str, object], Invocation]:
    """Return the terms of what was submitted last, and what its task is started with."""
    submit = [command for command in node.asked if isinstance(command, Submit)][-1]
    batch = BatchContent(KEYS.unseal(submit.key), node.blobs)
    terms = {name: getattr(submit, name) for name in Terms.__struct_fields__}
    return terms, batch.open_invocation(0, submit.tasks[0].input)


def test_a_file_says_the_same_as_flags(
    node: ScriptedNode, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_in_process(meshctl, home, "submit", "-f", written(home, FULL))
    assert (result.exit_code, result.stderr) == (0, "")
    from_file = submitted(node)
    monkeypatch.chdir(home)
    words = ["program.wasm", *FLAGS.split(), "--", "-l", "two words", "no"]
    assert run_in_process(meshctl, home, "submit", *words).exit_code == 0
    assert submitted(node) == from_file
    assert from_file[1].args == ("-l", "two words", "no")
    assert from_file[1].stdin == b"some words\n"


def test_flags_win_over_the_file_and_words_over_its_program(node: ScriptedNode, home: Path) -> None:
    other = home / "other.wasm"
    other.write_bytes(MODULE)
    job = written(home, FULL)
    words = ["submit", "-f", job, "--deadline", "1s", "--env", "A=1", str(other), "-f", "x"]
    assert run_in_process(meshctl, home, *words).exit_code == 0
    terms, invocation = submitted(node)
    assert (terms["deadline_us"], terms["retries_max"]) == (1_000_000, 2)
    assert invocation.env == (("A", "1"),)
    assert invocation.args == ("-f", "x")


def test_a_letter_after_the_module_is_the_programs(node: ScriptedNode, home: Path) -> None:
    module = str(home / "program.wasm")
    assert (
        run_in_process(meshctl, home, "submit", module, "-xf", "archive", "-f", "y").exit_code == 0
    )
    assert submitted(node)[1].args == ("-xf", "archive", "-f", "y")


def test_a_file_may_come_from_standard_input(node: ScriptedNode, home: Path) -> None:
    text = f"module: {home / 'program.wasm'}\nretries: 3\n"
    result = run_in_process(meshctl, home, "submit", "-f", "-", stdin=text.encode())
    assert (result.exit_code, result.stdout) == (0, "42\n")
    assert submitted(node)[0]["retries_max"] == 3


def test_a_plan_takes_the_same_file(node: ScriptedNode, home: Path) -> None:
    assert run_in_process(meshctl, home, "plan", "-f", written(home, FULL)).exit_code == 0
    (plan,) = node.asked
    assert isinstance(plan, Plan)
    assert (plan.node_type, plan.priority, plan.limits.fuel) == ("server", 2, 1000)


def test_the_example_of_the_page_is_a_job(node: ScriptedNode, home: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "jobs.md").read_text()
    (home / "wordcount.wasm").write_bytes(MODULE)
    (home / "README.md").write_bytes(b"text")
    job = written(home, page.partition("```yaml\n")[2].partition("```")[0])
    assert run_in_process(meshctl, home, "submit", "-f", job).exit_code == 0
    terms, invocation = submitted(node)
    assert (terms["requirements"], terms["preferences"]) == (("mem:1GiB",), ("cpu:8",))
    assert (invocation.args, invocation.env) == (("--top", "3"), (("LANG", "C"),))


# --- dry runs -----------------------------------------------------------------------------------


def test_a_dry_run_prints_the_file_with_all_defaults_and_needs_no_daemon(tmp_path: Path) -> None:
    result = run_in_process(meshctl, tmp_path, "submit", "w.wasm", "-l", "--dry-run")
    assert (result.exit_code, result.stderr) == (0, "")
    assert yaml.safe_load(result.stdout) == {
        "module": str(Path("w.wasm").absolute()),
        "args": ["-l"],
        "strategy": "weighted",
        "priority": "normal",
        "memory": "512MiB",
        "fuel": 10_000_000_000,
        "timeout": "30s",
        "output-max": "16MiB",
        "deadline": "1h",
        "retries": 8,
        "replicas": 1,
    }


def test_what_a_dry_run_prints_says_the_same_again(node: ScriptedNode, home: Path) -> None:
    first = run_in_process(meshctl, home, "submit", "-f", written(home, FULL), "--dry-run")
    again = run_in_process(meshctl, home, "submit", "-f", written(home, first.stdout), "--dry-run")
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert node.asked == []
    run_in_process(meshctl, home, "submit", "-f", written(home, first.stdout))
    assert submitted(node)[1].env == (("COUNTRY", "no"), ("OCTAL", "010"))


def test_a_dry_run_as_json_has_the_same_fields(tmp_path: Path) -> None:
    words = ["submit", "w.wasm", "--retries", "2", "--dry-run", "--output", "json"]
    answer = json_of(run_in_process(meshctl, tmp_path, *words))
    assert (answer["answer"], answer["job"]["retries"]) == ("job", 2)


def test_the_defaults_are_those_of_the_daemon() -> None:
    terms = {**msgspec.structs.asdict(Limits()), **msgspec.structs.asdict(Terms())}
    terms["priority"] = PRIORITIES[int(str(terms["priority"]))]
    assert {name: terms[name] for name in bounds.DEFAULTS} == bounds.DEFAULTS


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("memroy: 64MiB", "1:9", "'memroy' is no key of a job file"),
        ("module: p\nretries: [2]", "2:10", "retries is one value, not a list"),
        ("module: p\nretries: many", "2:10", "retries: 'many' is not a valid integer"),
        ("module: p\nretries: 010x", "2:10", "retries: '010x' is not"),
        ("retries: 101", "1:10", "retries: 101 is not in the range 0<=x<=100"),
        ("require: cpu:4", "1:10", "require is a list, not 'cpu:4'"),
        ("require:\n  - cpu:4\n  - CPU", "3:5", "require: 'CPU' is no capability"),
        ("timeout: 30", "1:10", "timeout: '30' is no duration"),
        ("memory: 1KiB", "1:9", "memory: 1KiB is not between"),
        ("strategy: best", "1:11", "strategy: 'best' is not one of"),
        ("detach: yes", "1:9", "detach is true or false, not 'yes'"),
        ("detach: 'true'", "1:9", "detach is true or false"),
        ("env: [A=1]", "1:6", "env is a mapping of names to values, not a list"),
        ("env: {A: [1]}", "1:10", "env.A is one value, not a list"),
        ("env:\n  A:", "2:5", "env.A has no value"),
        ("args: -l", "1:7", "args is a list, not '-l'"),
        ("args: [{a: b}]", "1:8", "args is one value, not a mapping"),
        ("input:", "1:7", "input has no value: give it one, or leave the key out"),
        ("retries: 1\nretries: 2", "2:1", "'retries' stands there twice"),
        ("[a]", "1:1", "a job file is a mapping, not a list"),
        ("just text", "1:1", "a job file is a mapping, not one value"),
        ("a: b: c", "1:5", "mapping values are not allowed here"),
        ("? [a]\n: b", "1:3", "a key is a text, not a list"),
        ("module: p\n--- \nmodule: q", "3:1", "a file has one job only"),
        ("args: [[[1]]]", "1:9", "nested too deep"),
        ("module: !!python/object:os.system x", "1:9", "a job file has no tags"),
        ("args: &a [x]\nenv: *a", "1:7", "no anchors and aliases"),
        ("module: \x01", "", "special characters are not allowed"),
        ("", "", "it is empty"),
        ("job: other.yaml", "1:6", "'job' is no key"),
        ("home: /x", "1:7", "'home' is no key"),
    ],
)
def test_a_mistake_is_named_with_its_place(
    node: ScriptedNode, home: Path, text: str, place: str, message: str
) -> None:
    path = written(home, text)
    result = run_in_process(meshctl, home, "submit", "-f", path)
    assert (result.exit_code, node.asked) == (100, [])
    first = result.stderr.splitlines()[0]
    assert first.startswith(f"meshctl: {path}:{place}")
    assert message in first


def test_a_mistake_in_a_plan_exits_as_usage(home: Path) -> None:
    result = run_in_process(meshctl, home, "plan", "-f", written(home, "memroy: 1"))
    assert result.exit_code == 2
    assert "the keys are args deadline detach durability env" in result.stderr


@pytest.mark.parametrize(
    "content",
    [
        b"module: \xff",
        b"args: " + b"[" * 100_000,
        b"{" * 100_000,
        b"- " * 100_000,
        b"? " * 100_000,
        b"a: &a [x,x]\n" + b"".join(b"b%d: [*a,*a,*a,*a]\n" % number for number in range(5_000)),
        b"# " + b"x" * (JOB_BYTES_MAX + 1),
        b'module: "' + b"\\x41" * 50_000 + b'"',
        b"\xef\xbb\xbf%YAML 9.9\n---\nmodule: x",
    ],
)
def test_a_hostile_file_is_refused_soon(home: Path, content: bytes) -> None:
    started_s = time.process_time()
    result = run_in_process(meshctl, home, "submit", "-f", written(home, content))
    assert result.exit_code == 100
    assert len(result.stderr) < 2_000
    assert time.process_time() - started_s < 5


@given(st.one_of(st.binary(max_size=300), st.text("[]{}:-?&*!|>'\"#,\n ab", max_size=80)))
def test_any_bytes_are_a_job_or_a_mistake_with_words(content: bytes | str) -> None:
    try:
        _parsed(content.encode() if isinstance(content, str) else content, "job.yaml")
    except FileFailed as error:
        assert error.message.startswith("job.yaml")  # noqa: PT017 - most bytes are no job


def test_a_file_that_is_not_there_is_named(home: Path) -> None:
    result = run_in_process(meshctl, home, "submit", "-f", str(home / "gone.yaml"))
    assert result.exit_code == 100
    assert "gone.yaml cannot be read: No such file or directory" in result.stderr
