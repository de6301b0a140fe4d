"""meshctl plan and why, as somebody types them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from support.answer_views import TASK, plan_view, why_view
from support.commands import json_of, run_in_process
from support.control_node import ScriptedNode, serving_in_thread

from meshd.cli.meshctl import cli as meshctl
from scheduler.explanation import Rule
from scheduler.selection import Exclusion
from wire.answers import RefusalCode, Refused
from wire.commands import Plan, WhyTask
from wire.limits import Limits
from wire.tasks import Durability, Strategy


@pytest.fixture
def node() -> ScriptedNode:
    scripted = ScriptedNode()
    scripted.script(Plan, plan_view())
    scripted.script(WhyTask, why_view())
    return scripted


@pytest.fixture
def home(node: ScriptedNode, tmp_path: Path) -> Iterator[Path]:
    with serving_in_thread(node, tmp_path):
        yield tmp_path


def test_a_plan_takes_the_words_of_submit_and_reads_no_file(node: ScriptedNode, home: Path) -> None:
    words = (
        "gone.wasm -l --input gone.txt --require mem:4GiB --prefer cpu:8 --type server"
        " --strategy latency-aware --priority low --memory 64MiB --retries 2 --deadline 2h"
        " --durability mesh --env A=1 --detach -- --require x"
    )
    assert run_in_process(meshctl, home, "plan", *words.split()).exit_code == 0
    assert node.asked == [
        Plan(
            limits=Limits(memory_bytes=64 << 20),
            requirements=("mem:4GiB",),
            preferences=("cpu:8",),
            node_type="server",
            strategy=Strategy.LATENCY_AWARE,
            priority=0,
            retries_max=2,
            deadline_us=7_200_000_000,
            durability=Durability.MESH,
        )
    ]


def test_a_plan_needs_no_module_and_has_the_daemons_defaults(
    node: ScriptedNode, home: Path
) -> None:
    result = run_in_process(meshctl, home, "plan")
    assert (result.exit_code, node.asked) == (0, [Plan()])
    assert result.stdout == (
        "kitchen is likeliest to get it, of 2 that could\n"
        "asked to keep it, too: kitchen hall\n"
        "  kitchen  first, 75% of such tasks\n"
        "  desk     excluded, capability_missing: mem:4GiB\n"
        "             changes if: require less\n"
    )


def test_a_plan_for_nobody_exits_with_one(node: ScriptedNode, home: Path) -> None:
    node.script(Plan, plan_view(device=None, device_name=None, reason="no device is eligible now"))
    result = run_in_process(meshctl, home, "plan")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (1, "no device is eligible now")


def test_why_tells_who_has_it_who_keeps_it_and_what_would_change_it(
    node: ScriptedNode, home: Path
) -> None:
    result = run_in_process(meshctl, home, "why", "mrrw")
    assert node.asked == [WhyTask("mrrw")]
    assert result.stdout == (
        "mrrwgzdfmzxw.0 pending: no_free_slot\n"
        "told by desk; kept by desk (self), kitchen (not linked, leads)\n"
        "  another device leads it, so this may be out of date\n"
        "  kitchen  first, 75% of such tasks\n"
        "  desk     excluded, capability_missing: mem:4GiB\n"
        "             changes if: require less\n"
    )


@pytest.mark.parametrize(("words", "view"), [("plan", plan_view()), (f"why {TASK}", why_view())])
def test_the_json_is_the_answer_itself(home: Path, words: str, view: msgspec.Struct) -> None:
    result = run_in_process(meshctl, home, *words.split(), "--output", "json")
    assert json_of(result) == msgspec.to_builtins(view)


@pytest.mark.parametrize("rule", [*Exclusion, *Rule])
def test_every_rule_is_on_the_page(rule: str) -> None:
    assert f"`{rule}`" in (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def test_an_unknown_task_exits_with_one(node: ScriptedNode, home: Path) -> None:
    node.script(WhyTask, Refused(code=RefusalCode.NOT_FOUND, message="unknown task 'x'"))
    result = run_in_process(meshctl, home, "why", "xxxx")
    assert (result.exit_code, result.stderr) == (1, "meshctl: unknown task 'x'\n")
