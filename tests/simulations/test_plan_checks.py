"""A plan that cannot be is refused before anything runs, with everything that is wrong."""

from __future__ import annotations

import pytest

from simulations.disk import DiskFate
from simulations.errors import BadScenario
from simulations.mesh_node import MESH_NODE
from simulations.plan import SUBMITTER_ROLES, Expectations, Plan
from simulations.plan_checks import check_plan, complaints
from simulations.runner import Runner
from simulations.steps import (
    AnyStep,
    Backup,
    Bridge,
    Cancel,
    Crash,
    CrashAtEffect,
    CrashWriting,
    Cut,
    Gray,
    Restore,
    Ring,
    Split,
    Start,
    Stop,
    Submit,
)


def plan_of(*steps: AnyStep, lasts_us: int = 0, absent: tuple[int, ...] = ()) -> Plan:
    return Plan(seed=1, node_count=3, steps=steps, lasts_us=lasts_us, absent=absent)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([Stop(at_us=1, node=3)], "steps[0].node: there is no device 3: they are 0..2"),
        ([Crash(at_us=1, who=9)], "steps[0].who: there is no device 9: they are 0..2"),
        ([Split(at_us=1, groups=((0,), (5,)))], "steps[0].groups: there is no device 5"),
        ([Stop(at_us=-1, node=0)], "steps[0].at_us: Expected `int` >= 0"),
        ([Stop(at_us=1 << 60, node=0)], "steps[0].at_us: Expected `int` <= "),
        (
            [
                CrashWriting(
                    at_us=1, node=0, disk=DiskFate.KEEP, way_permille=1_001, restart_after_us=1
                )
            ],
            "steps[0].way_permille: Expected `int` <= 1000",
        ),
        ([Split(at_us=1, groups=((0, 1), (1, 2)))], "steps[0].groups: device 1 is named twice"),
        ([Split(at_us=1, groups=())], "steps[0].groups: there is nobody to split off"),
        (
            [Bridge(at_us=1, left=(0,), middle=(1,), right=(1, 2))],
            "steps[0].middle: device 1 is named twice",
        ),
        ([Ring(at_us=1)], "steps[0]: a ring takes 4 devices, and there are 3"),
        ([Cut(at_us=1, origins=(1,), targets=(1,))], "steps[0].targets: there is no path"),
        ([Start(at_us=5, node=1)], "steps[0].node: device 1 runs: nothing before this"),
        (
            [Start(at_us=5, node=1), Crash(at_us=6, who=1)],
            "steps[0].node: device 1 runs: nothing before this",
        ),
        ([Restore(at_us=5, node=1)], "steps[0].node: there is no backup of device 1 before this"),
        ([Cancel(at_us=1, submission=0, index=0)], "steps[0].submission: no batch 0: there are 0"),
        (
            [Cancel(at_us=1, submission=0, index=0), Submit(at_us=2, node=1)],
            "steps[0].submission: batch 0 is submitted later, at 2",
        ),
        (
            [Submit(at_us=1, node=1, count=3), Cancel(at_us=2, submission=0, index=3)],
            "steps[1].index: no task 3: batch 0 has 3, from 0",
        ),
        (
            [CrashAtEffect(at_us=1, node=0, effect="Sneeze", restart_after_us=1)],
            "steps[0].effect: no effect 'Sneeze': Answer, AnswerJoin",
        ),
        (
            [CrashAtEffect(at_us=1, node=0, effect="Send", what="Gossip", restart_after_us=1)],
            "steps[0].what: no message 'Gossip': BatchDeclined",
        ),
        ([Gray(at_us=1, who=0, drops="Gossip")], "steps[0].drops: no message 'Gossip'"),
        ([Gray(at_us=1, who=0)], "steps[0]: a gray device is slow, stuck, or drops"),
    ],
)
def test_a_step_that_cannot_be_is_refused_with_its_place(steps: list[AnyStep], said: str) -> None:
    with pytest.raises(BadScenario) as caught:
        check_plan(plan_of(*steps))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "steps",
    [
        [Crash(at_us=1, who=1), Start(at_us=2, node=1)],
        [Crash(at_us=1, who="executor"), Start(at_us=2, node=1)],
        [Start(at_us=2, node=2)],  # it was absent
        [Backup(at_us=1, node=1), Restore(at_us=2, node=1)],
        [Submit(at_us=9, node=1), Cancel(at_us=0, submission=0, index=0, when_working=True)],
        [
            Submit(at_us=9, node=1, count=2),
            Submit(at_us=1, node=0),
            Cancel(at_us=9, submission=1, index=1),
        ],
        [CrashAtEffect(at_us=1, node=0, effect="Send", what="Settled", restart_after_us=1)],
        [CrashAtEffect(at_us=1, node=0, effect="Persist", restart_after_us=1)],
        [Gray(at_us=1, who=0, drops="Heartbeat")],
    ],
)
def test_what_can_be_is_not_refused(steps: list[AnyStep]) -> None:
    assert complaints(plan_of(*steps, absent=(2,))) == []


def test_a_step_after_the_end_is_refused() -> None:
    late = plan_of(Stop(at_us=11, node=0), Stop(at_us=10, node=0), lasts_us=10)
    assert [str(one) for one in complaints(late)] == [
        "steps[0].at_us: 11 is after the end of the run, 10"
    ]


def test_what_the_plan_itself_says_is_checked_too_and_all_is_told_at_once() -> None:
    plan = Plan(
        version=3,
        seed=1,
        node_count=2,
        roles={4: SUBMITTER_ROLES},
        absent=(7,),
        expect=Expectations(breaks="S99"),
        steps=(Stop(at_us=0, node=5),),
    )
    with pytest.raises(BadScenario) as caught:
        check_plan(plan)
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "version",
        "expect.breaks",
        "roles",
        "absent",
        "steps[0].node",
    ]


def test_a_long_list_is_cut_short_and_says_so() -> None:
    with pytest.raises(BadScenario, match="and 30 more"):
        check_plan(plan_of(*[Stop(at_us=0, node=8)] * 50))


def test_a_plan_that_cannot_be_is_not_begun() -> None:
    with pytest.raises(BadScenario, match=r"steps\[0\].node: there is no device 3"):
        Runner(plan_of(Stop(at_us=1, node=3)), MESH_NODE, repeat_with="this test")
