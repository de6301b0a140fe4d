"""Plan files give their plan back, or are refused with place and reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from simulations.device import HostSettings
from simulations.errors import BadScenario
from simulations.plan import SUBMITTER_ROLES, Plan
from simulations.plan_file import (
    Repro,
    plan_from_json,
    plan_to_json,
    repro_from_json,
    repro_to_json,
)
from simulations.steps import Crash, Split, Submit, WallClock

PLAN = Plan(
    seed=4,
    node_count=4,
    hosts={2: HostSettings(workers_count=1)},
    roles={1: SUBMITTER_ROLES},
    steps=(
        Submit(at_us=3, node=1),
        Crash(at_us=4, who="executor", when_working=True),
        Crash(at_us=5, who=2),
        Split(at_us=5, groups=((0, 1), (2, 3)), for_us=6),
        WallClock(at_us=7, node=1, offset_us=None),
    ),
)


def written(**changes: object) -> dict[str, Any]:
    plan = json.loads(plan_to_json(PLAN))
    assert isinstance(plan, dict)
    return plan | changes


def refused(content: object) -> str:
    text = content if isinstance(content, bytes) else json.dumps(content, indent=1).encode()
    with pytest.raises(BadScenario) as caught:
        plan_from_json(text, name="p.json")
    return str(caught.value)


def test_a_plan_comes_back_and_its_file_is_always_the_same_bytes() -> None:
    text = plan_to_json(PLAN)
    assert plan_from_json(text, name="p.json") == PLAN
    assert plan_to_json(plan_from_json(text, name="p.json")) == text
    assert text.endswith(b"}\n")
    assert b'\n      "do": "submit",\n' in text


def test_a_repro_keeps_what_broke_and_where() -> None:
    repro = Repro(commit="1234abc", broke="S2: two outcomes", plan=PLAN)
    assert repro_from_json(repro_to_json(repro), name="r.json") == repro
    assert json.loads(repro_to_json(repro))["format"] == "meshd simulation plan"


def test_a_plan_without_a_header_is_a_repro_that_broke_nothing_yet() -> None:
    assert repro_from_json(plan_to_json(PLAN), name="p.json") == Repro(plan=PLAN)


def with_step(**step: object) -> dict[str, Any]:
    return written(steps=[{"do": "submit", "at_us": 1, "node": 0}, step])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"seed": 1,\n "steps": [,]}', "p.json:2: JSON is malformed"),
        (b"", "p.json:1: "),
        (b"[" * 100_000, "p.json:1: "),
        (b"[]", "p.json: a plan is an object"),
        (written(version=2), "p.json: version: 2: version 1 is spoken here"),
        (written(version="1"), "p.json: version: '1': version 1 is spoken here"),
        (written(colour="red"), "p.json: Object contains unknown field `colour`"),
        (
            written(network={"latency_us": 1, "colour": 2}),
            "p.json: network.colour: there is no such field",
        ),
        (written(node_count=0), "p.json: node_count: Expected `int` >= 1"),
        (written(steps=3), "p.json: steps: Expected `array`"),
        (with_step(do="quake", at_us=1), "p.json: steps[1].do: no step 'quake': there are submit"),
        (with_step(at_us=1), "p.json: steps[1]: a step is an object that says what to `do`"),
        (with_step(do="stop", at_us=1), "p.json: steps[1]: Object missing required field `node`"),
        (with_step(do="stop", at_us=-1, node=0), "p.json: steps[1].at_us: Expected `int` >= 0"),
        (with_step(do="stop", at_us=1, node="x"), "p.json: steps[1].node: Expected `int`, got"),
        (
            with_step(do="split", at_us=1, groups=[[0], ["x"]]),
            "p.json: steps[1].groups[1][0]: Expected `int`, got `str`",
        ),
        (
            with_step(do="crash", at_us=1, who=1, disk="wet"),
            "p.json: steps[1].disk: Invalid enum value 'wet'",
        ),
        (
            with_step(do="stop", at_us=1, node=99),
            "p.json: steps[1].node: there is no device 99: they are 0..",
        ),
        (
            with_step(do="restore", at_us=1, node=1),
            "p.json: steps[1].node: there is no backup of device 1 before this",
        ),
        (
            written(roles={"99": ["executor"]}),
            "p.json: roles: there is no device 99: they are 0..",
        ),
    ],
)
def test_a_bad_plan_is_refused_with_the_place_and_the_reason(content: object, said: str) -> None:
    assert refused(content).startswith(said), refused(content)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "receipt"}, "r.json: format: 'receipt' is not 'meshd simulation plan'"),
        ({"version": 7}, "r.json: version: 7: version 1 is spoken here"),
        ({"broke": 3}, "r.json: broke: Expected `str | null`"),
        ({"colour": 3}, "r.json: Object contains unknown field `colour`"),
        ({"plan": []}, "r.json: plan: a plan is an object"),
        (
            {"plan": {"seed": 1, "steps": [{"do": "stop", "at_us": 1, "node": 7}]}},
            "r.json: plan.steps[0].node: there is no device 7: they are 0..2",
        ),
    ],
)
def test_a_bad_repro_is_refused_with_the_place_and_the_reason(
    changes: dict[str, object], said: str
) -> None:
    content = json.loads(repro_to_json(Repro(plan=PLAN))) | changes
    with pytest.raises(BadScenario) as caught:
        repro_from_json(json.dumps(content).encode(), name="r.json")
    assert str(caught.value).startswith(said)
