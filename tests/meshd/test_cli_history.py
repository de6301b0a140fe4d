"""meshctl history, as somebody types it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from support.answer_views import OTHER, SELF, TASK
from support.commands import json_of, run_in_process
from support.control_node import ScriptedNode, serving_in_thread

from meshd.cli.meshctl import cli as meshctl
from wire.answers import HistoryView, RefusalCode, Refused, SilentDevice, TaskEventView
from wire.commands import GetHistory
from wire.ids import peer_text

LIFE = HistoryView(
    task=TASK,
    events=[
        TaskEventView(
            wall_us=1_790_000_000_118_000,
            device=peer_text(SELF),
            device_name="desk",
            kind="kept",
            peer=None,
            peer_name=None,
            detail=None,
        ),
        TaskEventView(
            wall_us=None,
            device=peer_text(OTHER),
            device_name="kitchen",
            kind="lease_held",
            peer=peer_text(SELF),
            peer_name="desk",
            detail="\x1b[31mred",
        ),
    ],
    silent=[SilentDevice(id=peer_text(OTHER), name="hall", state="not_linked")],
)


@pytest.fixture
def node() -> ScriptedNode:
    scripted = ScriptedNode()
    scripted.script(GetHistory, LIFE)
    return scripted


@pytest.fixture
def home(node: ScriptedNode, tmp_path: Path) -> Iterator[Path]:
    with serving_in_thread(node, tmp_path):
        yield tmp_path


def test_each_event_has_a_line_and_who_was_not_heard_is_named(
    node: ScriptedNode, home: Path
) -> None:
    result = run_in_process(meshctl, home, "history", "mrrw.0")
    assert (result.exit_code, node.asked) == (0, [GetHistory("mrrw.0")])
    titles, first, second = result.stdout.splitlines()
    assert titles.split() == ["TIME", "DEVICE", "WHAT", "WITH", "DETAIL"]
    assert ".118" in first
    assert first.split()[2:] == ["desk", "kept"]
    assert second.split()[:5] == ["-", "kitchen", "lease", "held", "desk"]
    assert "\x1b" not in result.stdout
    assert result.stderr == "not heard: hall (not linked), which may know more\n"


def test_the_json_is_the_answer_itself(home: Path) -> None:
    result = run_in_process(meshctl, home, "history", TASK, "--output", "json")
    assert (json_of(result), result.stderr) == (msgspec.to_builtins(LIFE), "")


def test_an_unknown_task_exits_with_one(node: ScriptedNode, home: Path) -> None:
    node.script(GetHistory, Refused(code=RefusalCode.NOT_FOUND, message="nothing is known"))
    result = run_in_process(meshctl, home, "history", "xxxx")
    assert (result.exit_code, result.stderr) == (1, "meshctl: nothing is known\n")
