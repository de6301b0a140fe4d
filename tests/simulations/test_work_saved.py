"""Work is not done twice without need: what leases, kept results and heartbeats are for.

No invariant breaks without them, so no swarm would miss them.
"""

from __future__ import annotations

import json

from msgspec.structs import replace

from simulations.device import HostSettings
from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.mesh_node import MESH_NODE
from simulations.paths import NetworkSettings
from simulations.plan import SUBMITTER_ROLES, Plan
from simulations.runner import Report, Runner
from simulations.steps import Crash, Split, Submit

SUBMITTER = 1
ONE_TASK = Submit(at_us=3 * US_PER_S, node=SUBMITTER, work_us=6 * US_PER_S)
PLAN = Plan(
    seed=1,
    roles={SUBMITTER: SUBMITTER_ROLES},
    host=HostSettings(spot_checks=False),  # they are work done twice on purpose
    steps=(ONE_TASK,),
)
ONE_EXECUTOR = replace(PLAN, node_count=2)


def run(plan: Plan) -> tuple[Report, Runner]:
    runner = Runner(plan, MESH_NODE, repeat_with="this test")
    report = runner.run()
    assert report.complete_count == 1
    return report, runner


def test_a_restarted_submitter_waits_for_leases_of_before_and_takes_their_results() -> None:
    crash = Crash(
        at_us=4 * US_PER_S,
        who=SUBMITTER,
        disk=DiskFate.LOSE_UNSYNCED,
        when_working=True,
        restart_after_us=US_PER_S,
    )
    for seed in range(5):
        report, _ = run(replace(PLAN, seed=seed, steps=(ONE_TASK, crash)))
        assert report.seen["event.Executed"] == 1, seed


def test_a_result_that_could_not_be_handed_over_outlives_its_executor_s_restart() -> None:
    split = Split(at_us=0, groups=((SUBMITTER,),), when_working=True, for_us=30 * US_PER_S)
    crash = Crash(
        at_us=20 * US_PER_S, who=0, disk=DiskFate.LOSE_UNSYNCED, restart_after_us=US_PER_S
    )
    for seed in range(5):
        report, _ = run(replace(ONE_EXECUTOR, seed=seed, steps=(ONE_TASK, split, crash)))
        assert report.seen["event.Executed"] == 1, seed


def test_silence_ends_a_link_long_before_the_keepalive_does() -> None:
    network = NetworkSettings(keepalive_us=600 * US_PER_S)
    split = Split(at_us=5 * US_PER_S, groups=((SUBMITTER,),), for_us=20 * US_PER_S)
    _, runner = run(replace(PLAN, network=network, steps=(ONE_TASK, split)))
    lines = [json.loads(line) for line in runner.world.trace.lines()]
    [split_us] = [line["time_us"] for line in lines if line["event"] == "fault.begun"]
    downs = [line for line in lines if line["event"] == "event.LinkDown"]
    assert {line["node"] for line in downs} == {0, 1, 2}
    assert all(line["reason"].startswith("silent for") for line in downs)
    assert all(line["time_us"] - split_us < 15 * US_PER_S for line in downs)
