"""What the narrator adds to a trace: who is who, and the life of each task, in people's words."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest

from simulations.mesh_node import MESH_NODE
from simulations.narration import Narrator
from simulations.runner import Runner
from simulations.scenarios import scenario
from simulations.trace import WORLD
from simulations.trace_lines import TraceLine, trace_lines

OWN = ("device.named", "batch.accepted", "task.leased", "run.begun", "run.ended", "task.decided")


def runner_of(name: str) -> Runner:
    return Runner(scenario(name).plan(7), MESH_NODE, repeat_with="no command")


@cache
def lines_of(name: str) -> list[TraceLine]:
    runner = runner_of(name)
    runner.run()
    return [*trace_lines(runner.world.trace.lines())]


def of_event(name: str, event: str) -> list[TraceLine]:
    return [line for line in lines_of(name) if line.event == event]


def run_name(line: TraceLine) -> tuple[int, str, int | None, int | None]:
    return line.node, line.text("batch"), line.number("index"), line.number("attempt")


def test_every_accepted_task_is_leased_run_and_decided_under_the_name_people_see() -> None:
    answers = {line.text("batch") for line in of_event("calm", "answer.Accepted")}
    accepted = {
        line.text("batch"): line.number("count") for line in of_event("calm", "batch.accepted")
    }
    assert accepted.keys() == answers
    tasks = {(batch, index) for batch, count in accepted.items() for index in range(count or 0)}
    leased = {
        (line.text("batch"), int(index))
        for line in of_event("calm", "task.leased")
        for index in line.text("indices").split()
    }
    begun = {(line.text("batch"), line.number("index")) for line in of_event("calm", "run.begun")}
    decided = of_event("calm", "task.decided")
    assert len(tasks) > 1
    assert tasks == leased == begun
    assert Counter((one.text("batch"), one.number("index")) for one in decided) == Counter(tasks)
    assert {(line.node, line.text("outcome")) for line in decided} == {(WORLD, "result")}


def test_a_run_ends_once_or_dies_with_its_process() -> None:
    ended: Counter[tuple[int, str, int | None, int | None]] = Counter()
    running: dict[tuple[int, str, int | None, int | None], None] = {}
    died_count = 0
    for line in lines_of("total-outage"):
        match line.event:
            case "run.begun":
                assert run_name(line) not in running
                running[run_name(line)] = None
            case "run.ended":
                del running[run_name(line)]
                ended[run_name(line)] += 1
            case "process.crashed":
                died_count += sum(name[0] == line.node for name in running)
                running = {name: None for name in running if name[0] != line.node}
    assert running == {}
    assert set(ended.values()) == {1}
    assert died_count > 0


def test_devices_are_named_at_each_start_by_what_leases_call_them() -> None:
    named = of_event("total-outage", "device.named")
    starts = of_event("total-outage", "process.started")
    assert [line.node for line in named] == [line.node for line in starts]
    nodes = {line.text("peer"): line.node for line in named}
    assert len(nodes) == len(set(nodes.values()))
    executors = {nodes[line.text("executor")] for line in of_event("total-outage", "task.leased")}
    assert executors >= {line.node for line in of_event("total-outage", "run.begun")}


def test_nothing_else_depends_on_the_narrator(monkeypatch: pytest.MonkeyPatch) -> None:
    for told in ("saw_event", "saw_effect", "note_decided"):
        monkeypatch.setattr(Narrator, told, lambda *_: None)
    runner = runner_of("executor-crash")
    runner.run()
    silent = [*trace_lines(runner.world.trace.lines())]
    assert not any(line.event in OWN for line in silent)
    others = [line for line in lines_of("executor-crash") if line.event not in OWN]
    assert [(line.time_us, line.node, line.event, line.fields) for line in others] == [
        (line.time_us, line.node, line.event, line.fields) for line in silent
    ]


def test_a_run_that_is_stopped_ends_as_killed() -> None:
    hows = Counter(line.text("how") for line in of_event("cancel", "run.ended"))
    assert hows["killed"] > 0
    assert hows["exited"] > 0
