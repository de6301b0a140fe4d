"""What holds for every command of both programs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import click
import pytest
from click.testing import CliRunner
from msgspec import Meta
from support.answer_views import peer_list, status_view, task_list
from support.commands import json_of, process_environment, run_in_process
from support.control_node import ScriptedNode, serving_in_thread

from meshd.cli import bounds
from meshd.cli.meshctl import cli as meshctl
from meshd.cli.meshd import cli as meshd
from meshd.control_requests import INVOCATION_EXTRA_BYTES
from scheduler.receipt import RECEIPT_FILE_BYTES_MAX
from wire.answers import RefusalCode, Refused
from wire.commands import GetPeer, GetStatus, Invite, ListPeers, ListTasks, Submit
from wire.limits import CONTENT_BYTES_MAX, MODULE_BYTES_MAX, Limits
from wire.membership import Role
from wire.tasks import REQUIREMENTS_MAX, Durability, Strategy
from wire.text import CapabilityKey

COMMANDS = [
    pytest.param(group, name, id=f"{group.name} {name}")
    for group in (meshctl, meshd)
    for name in group.commands
]
READING = ["status", "peers", "tasks"]


@pytest.fixture
def node() -> ScriptedNode:
    scripted = ScriptedNode()
    scripted.script(GetStatus, status_view())
    scripted.script(ListPeers, peer_list())
    scripted.script(ListTasks, task_list())
    return scripted


@pytest.fixture
def home(node: ScriptedNode, tmp_path: Path) -> Iterator[Path]:
    with serving_in_thread(node, tmp_path):
        yield tmp_path


def test_the_commands_are_those_that_were_promised() -> None:
    promised = (
        "status peers peer find invite remove recovery-key rekey submit map plan tasks task why"
        " history wait result cancel resubmit receipt verify pardon completion"
    )
    assert sorted(meshctl.commands) == sorted(promised.split())
    assert sorted(meshd.commands) == ["completion", "start", "stop", "version"]


@pytest.mark.parametrize(("group", "name"), COMMANDS)
def test_every_command_explains_itself_with_an_example(group: click.Group, name: str) -> None:
    result = CliRunner().invoke(group, [name, "--help"], terminal_width=80)
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    assert f"{group.name} {name}" in result.stdout.partition("Examples:")[2]
    assert "--home DIRECTORY" in result.stdout
    assert "--output [table|json]" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 84


@pytest.mark.parametrize("group", [meshctl, meshd], ids=lambda group: str(group.name))
def test_the_list_of_commands_says_whole_sentences(group: click.Group) -> None:
    result = CliRunner().invoke(group, ["--help"], terminal_width=80)
    commands = result.stdout.partition("Commands:")[2].partition("Examples:")[0]
    assert len(commands.split("\n  ")) > len(group.commands)
    assert "..." not in commands


@pytest.mark.parametrize("group", [meshctl, meshd], ids=lambda group: str(group.name))
def test_without_a_command_the_help_is_shown_as_it_is(group: click.Group) -> None:
    result = CliRunner().invoke(group, [])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Usage: {group.name} [OPTIONS] COMMAND")
    assert "\nCommands:\n" in result.stderr


@pytest.mark.parametrize("group", [meshctl, meshd], ids=lambda group: str(group.name))
def test_the_version_is_told_where_people_look_for_it(group: click.Group) -> None:
    result = CliRunner().invoke(group, ["--version"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == CliRunner().invoke(meshd, ["version"]).stdout


@pytest.mark.parametrize(("group", "name"), COMMANDS)
def test_every_option_of_every_command_has_a_help_text(group: click.Group, name: str) -> None:
    command = group.commands[name]
    options = [one for one in command.params if isinstance(one, click.Option)]
    assert all(option.help for option in options)


@pytest.mark.parametrize("name", READING)
@pytest.mark.parametrize("places", ["before", "after", "both", "divided"])
def test_the_common_options_stand_before_or_after_the_command(
    home: Path, name: str, places: str
) -> None:
    ours = ["--home", str(home), "--output", "json"]
    words = {
        "before": [*ours, name],
        "after": [name, *ours],
        "both": ["--home", "/nowhere", "--output", "table", name, *ours],
        "divided": ["--output=json", name, f"--home={home}"],
    }[places]
    result = CliRunner().invoke(meshctl, words)
    assert (result.exit_code, result.stderr) == (0, "")
    assert json_of(result)["answer"] == name


def test_the_environment_names_the_home_and_the_option_wins(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHD_HOME", str(home))
    assert CliRunner().invoke(meshctl, ["status"]).exit_code == 0
    assert CliRunner().invoke(meshctl, ["status", "--home", "/nowhere"]).exit_code == 4


@pytest.mark.parametrize(
    ("words", "exit_code"),
    [
        (["status"], 4),
        (["peers"], 4),
        (["peers", "--watch"], 2),
        (["peer", "x"], 4),
        (["find", "cpu:4"], 4),
        (["invite"], 4),
        (["tasks"], 4),
        (["task", "x"], 4),
        (["result", "x"], 4),
        (["cancel", "x"], 4),
        (["resubmit", "x"], 4),
        (["receipt", "x"], 4),
        (["wait", "x"], 101),
        (["submit", "x.wasm"], 101),
    ],
)
def test_without_a_daemon_every_command_says_so(
    tmp_path: Path, words: list[str], exit_code: int
) -> None:
    result = run_in_process(meshctl, tmp_path, *words)
    assert result.exit_code == exit_code
    assert result.stdout == ""
    if exit_code != 2:
        message, hint = result.stderr.splitlines()
        assert message == f"meshctl: no daemon is running in {tmp_path}"
        assert "meshd start" in hint


@pytest.mark.parametrize(
    ("words", "exit_code"),
    [
        (["explode"], 2),
        (["status", "extra"], 2),
        (["status", "--explode"], 2),
        (["status", "--output", "xml"], 2),
        (["peer"], 2),
        (["find"], 2),
        (["find", "cpu:4", "--via", "pigeon"], 2),
        (["find", "Bad"], 2),
        (["find", "a:b c"], 2),
        (["find", *(f"cpu:{count}" for count in range(17))], 2),
        (["invite", "--ttl", "soon"], 2),
        (["invite", "--ttl", "0"], 2),
        (["invite", "--uses", "0"], 2),
        (["invite", "--role", "king"], 2),
        (["tasks", "--limit", "0"], 2),
        (["completion", "tcsh"], 2),
        (["verify"], 2),
        (["wait"], 100),
        (["wait", "x", "--explode"], 100),
        (["submit"], 100),
        (["submit", "x.wasm", "--memory", "lots"], 100),
        (["submit", "x.wasm", "--memory", "1B"], 100),
        (["submit", "x.wasm", "--timeout", "2h"], 100),
        (["submit", "x.wasm", "--fuel", "0"], 100),
        (["submit", "x.wasm", "--env", "novalue"], 100),
        (["submit", "x.wasm", "--require", "gpu"], 100),
        (["submit", "x.wasm", "--strategy", "luck"], 100),
        (["submit", "--memroy", "1MiB", "x.wasm"], 100),
        (["submit", "x.wasm", "--memroy", "1MiB"], 100),
        (["submit", "x.wasm", "--detach", "--to", "y"], 100),
        (["submit", "-", "--input", "-"], 100),
    ],
)
@pytest.mark.parametrize("is_json", [False, True])
def test_a_usage_error_is_one_line_and_where_to_look(
    home: Path, words: list[str], exit_code: int, is_json: bool
) -> None:
    result = run_in_process(meshctl, home, *(["--output=json"] * is_json), *words)
    assert result.exit_code == exit_code
    message, *hint = result.stderr.splitlines()
    assert message.startswith("meshctl: ")
    assert len(hint) <= 1
    if is_json:
        error = json_of(result)["error"]
        assert (error["code"], error["exit_code"]) == ("usage", exit_code)
        assert message == f"meshctl: {error['message']}"
    else:
        assert result.stdout == ""


def test_a_refusal_is_told_with_its_hint_and_as_json(node: ScriptedNode, home: Path) -> None:
    node.script(
        GetPeer,
        Refused(code=RefusalCode.AMBIGUOUS, message="two are called pi", hint="give more of an id"),
    )
    result = run_in_process(meshctl, home, "--output", "json", "peer", "pi")
    assert result.exit_code == 2
    assert result.stderr == "meshctl: two are called pi\n  give more of an id\n"
    assert json_of(result) == {
        "error": {
            "code": "ambiguous",
            "message": "two are called pi",
            "hint": "give more of an id",
            "exit_code": 2,
            "closest": [],
        }
    }


def test_what_the_program_gets_does_not_turn_errors_into_json(home: Path) -> None:
    result = run_in_process(meshctl, home, "submit", "no.wasm", "--", "--output", "json")
    assert (result.exit_code, result.stdout) == (100, "")


def test_words_that_are_no_text_are_refused_in_one_line(home: Path) -> None:
    result = run_in_process(meshctl, home, "peer", "\udcff")
    assert result.exit_code == 2
    assert "UTF-8" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("group", [meshctl, meshd])
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_program_and_how_to_install_them(
    group: click.Group, shell: str
) -> None:
    result = CliRunner().invoke(group, ["completion", shell])
    assert result.exit_code == 0
    script = result.stdout.splitlines()
    if shell == "zsh":  # compinit looks at the first line alone
        assert script.pop(0) == f"#compdef {group.name}"
    first = script.pop(0)
    assert first.startswith("# to install: ")
    assert f"{group.name} completion {shell} > " in first
    assert any(f"_{str(group.name).upper()}_COMPLETE" in line for line in script)
    if shutil.which(shell):
        command = [shell, "-n"] if shell != "fish" else [shell, "--no-execute"]
        checked = subprocess.run(
            command, input=result.stdout.encode(), capture_output=True, check=False
        )
        assert (checked.returncode, checked.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("meshctl sta", {"status"}),
        ("meshctl peer ", {"desk", "kitchen"}),
        ("meshctl peer ki", {"kitchen"}),
        ("meshctl submit x.wasm --strat", {"--strategy"}),
        ("meshctl find --via ", {"any", "local", "dht"}),
    ],
)
def test_the_shell_completes_commands_options_and_devices(
    home: Path, words: str, expected: set[str]
) -> None:
    parts = words.split(" ")
    environ = process_environment(
        MESHD_HOME=str(home),
        _MESHCTL_COMPLETE="bash_complete",
        COMP_WORDS=words,
        COMP_CWORD=str(len(parts) - 1),
    )
    result = CliRunner().invoke(meshctl, [], env=environ)
    assert {line.partition(",")[2] for line in result.stdout.splitlines()} == expected


def test_completion_without_a_daemon_offers_nothing_and_says_nothing(tmp_path: Path) -> None:
    environ = {
        "MESHD_HOME": str(tmp_path),
        "_MESHCTL_COMPLETE": "bash_complete",
        "COMP_WORDS": "meshctl task ",
        "COMP_CWORD": "2",
    }
    result = CliRunner().invoke(meshctl, [], env=environ)
    assert (result.stdout.strip(), result.stderr) == ("", "")


def meta_of(struct: type, field: str) -> Meta:
    """Return the bounds that a field of the wire has."""
    return meta_of_hint(get_type_hints(struct, include_extras=True)[field])


def meta_of_hint(hint: object) -> Meta:
    """Return the bounds in an annotated type."""
    found = [extra for extra in get_args(hint) if isinstance(extra, Meta)]
    return found[0]


def test_the_bounds_are_those_of_the_wire() -> None:
    checked = {
        bounds.MEMORY_BYTES: meta_of(Limits, "memory_bytes"),
        bounds.FUEL: meta_of(Limits, "fuel"),
        bounds.WALL_US: meta_of(Limits, "wall_us"),
        bounds.DEADLINE_US: meta_of(Submit, "deadline_us"),
        bounds.RETRIES: meta_of(Submit, "retries_max"),
        bounds.REPLICAS: meta_of(Submit, "replicas"),
        bounds.INVITATION_US: meta_of(Invite, "ttl_us"),
        bounds.USES: meta_of(Invite, "uses"),
        bounds.TASKS_LISTED: meta_of(ListTasks, "limit"),
    }
    assert list(checked) == [(meta.ge, meta.le) for meta in checked.values()]
    assert bounds.MODULE_BYTES_MAX == MODULE_BYTES_MAX
    assert bounds.OUTPUT_BYTES_MAX == CONTENT_BYTES_MAX
    assert bounds.INPUT_BYTES_MAX == CONTENT_BYTES_MAX - INVOCATION_EXTRA_BYTES
    assert bounds.CAPABILITIES_MAX == REQUIREMENTS_MAX
    assert meta_of_hint(CapabilityKey).max_length == bounds.CAPABILITY_LETTERS_MAX
    assert bounds.RECEIPT_BYTES_MAX == RECEIPT_FILE_BYTES_MAX


@pytest.mark.parametrize(
    ("command", "option", "kind"),
    [
        ("submit", "strategy", Strategy),
        ("submit", "durability", Durability),
        ("invite", "roles", Role),
    ],
)
def test_the_choices_are_those_of_the_wire(command: str, option: str, kind: type) -> None:
    (parameter,) = [one for one in meshctl.commands[command].params if one.name == option]
    assert isinstance(parameter.type, click.Choice)
    assert set(parameter.type.choices) == {str(one) for one in kind}  # type: ignore[attr-defined]
