"""The pages about the commands and the control socket name everything that there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import click
import pytest

from meshd.cli.exits import Exit, TaskExit
from meshd.cli.meshctl import cli as meshctl
from meshd.cli.meshd import cli as meshd
from meshd.control_requests import Request, SubmitRequest
from wire.answers import RefusalCode

DOCS = Path(__file__).parents[2] / "docs"
CLI = (DOCS / "cli.md").read_text()
CONTROL = (DOCS / "protocol" / "control.md").read_text()
COMMANDS = [
    pytest.param(group, name, id=f"{group.name} {name}")
    for group in (meshctl, meshd)
    for name in group.commands
]


def section_of(title: str) -> str:
    """Return what stands under a title of the page."""
    return re.split(r"^##", CLI.partition(f"### {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize(("group", "name"), COMMANDS)
def test_every_command_has_a_section_with_an_example_and_its_options(
    group: click.Group, name: str
) -> None:
    section = section_of(f"{group.name} {name}")
    assert re.search(rf"^    (\$ )?{group.name} {name}", section, re.MULTILINE)
    options = [one for one in group.commands[name].params if isinstance(one, click.Option)]
    missing = [option.opts[0] for option in options if option.opts[0] not in section]
    assert missing == []


@pytest.mark.parametrize("code", [*Exit, *TaskExit])
def test_every_exit_code_is_explained(code: int) -> None:
    row = "0-99" if code == TaskExit.PROGRAM_MAX else str(int(code))
    assert f"\n| {row} | " in CLI


@pytest.mark.parametrize("code", list(RefusalCode))
def test_every_refusal_is_named_on_both_pages(code: RefusalCode) -> None:
    assert f"`{code}`" in CLI
    assert f"`{code}`" in CONTROL


@pytest.mark.parametrize("request_type", get_args(Request))
def test_every_request_is_on_the_page_with_its_fields(request_type: type) -> None:
    tag = request_type.__struct_config__.tag  # type: ignore[attr-defined]  # of msgspec structs
    assert f"| `{tag}` |" in CONTROL
    if request_type is not SubmitRequest:
        row = CONTROL.partition(f"| `{tag}` |")[2].partition("\n")[0]
        assert all(f"`{field}`" in row for field in request_type.__struct_fields__)  # type: ignore[attr-defined]
    else:
        assert all(f'"{field}"' in CONTROL for field in SubmitRequest.__struct_fields__)
