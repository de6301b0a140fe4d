"""Commands that other packages add to `meshctl`, without any of ours knowing of them."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import NoReturn

import pytest
from support.commands import run_in_process

from meshd.cli.meshctl import cli

PLUGIN = """
import click
from meshd.cli.grammar import MeshCommand, Session, pass_session

@click.command("moon", cls=MeshCommand, short_help="Show the moon.")
@click.option("--phase", default="full")
@pass_session
def moon(session: Session, phase: str) -> int:
    click.echo(f"a {phase} moon for {session.home.name}")
    return 1
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where a package is installed whose commands are `moon` and two broken ones."""
    package = tmp_path / "moonshine-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: moonshine\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[meshctl.commands]\n"
        "moon = moonshine_commands:moon\n"
        "status = moonshine_commands:moon\n"
        "gone = moonshine_commands:gone\n"
        "text = moonshine_commands:PLUGIN\n"
    )
    (tmp_path / "moonshine_commands.py").write_text(f"PLUGIN = 1\n{PLUGIN}")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("plugins")
def test_an_installed_package_adds_a_command_with_the_common_grammar(tmp_path: Path) -> None:
    done = run_in_process(cli, tmp_path / "cabin", "moon", "--phase", "new")
    assert (done.exit_code, done.stdout) == (1, "a new moon for cabin\n")
    wrong = run_in_process(cli, tmp_path, "moon", "--colour")
    assert wrong.exit_code == 2
    assert "see `meshctl moon --help`" in wrong.stderr


@pytest.mark.usefixtures("plugins")
def test_the_help_names_added_commands_after_ours_and_survives_broken_ones(tmp_path: Path) -> None:
    done = run_in_process(cli, tmp_path, "--help")
    assert done.exit_code == 0
    listed = [
        line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line
    ]
    assert listed.index("moon") > listed.index("completion")
    assert listed.count("status") == 1
    assert "Show the moon." in done.stdout


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("name", ["gone", "text"])
def test_a_broken_command_says_whose_it_is_and_what_to_do(tmp_path: Path, name: str) -> None:
    done = run_in_process(cli, tmp_path, name, "--anything", "at all")
    assert done.exit_code == 2
    message, hint = done.stderr.splitlines()
    assert message.startswith(f"meshctl: the command '{name}' of moonshine cannot be loaded: ")
    assert hint == "  install moonshine again, or remove it"


def test_a_command_of_ours_is_found_without_looking_at_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_selection: str) -> NoReturn:
        raise AssertionError("entry points were looked up")

    monkeypatch.setattr(importlib.metadata, "entry_points", refuse)
    assert run_in_process(cli, tmp_path, "status").exit_code == 4
    with pytest.raises(AssertionError, match="looked up"):
        run_in_process(cli, tmp_path, "moon")
