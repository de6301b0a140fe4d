"""What it costs when 30 % of all devices are killed every minute: tasks that never end, and time.

    make bench-churn              # ten devices, two seeds
    python -m benchmarks.churn --nodes 20 --tasks 100 --seeds 3

Every device hands out one batch, kept by three devices, at the same moment, and has it done by all.
The run is carried out twice: in calm, and while in each minute three devices in ten, drawn anew,
lose their power at a moment of their own and come back after 5 to 20 s, with what they had synced.
Submitters and stewards are among them, and nobody does anything about it.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from random import Random

from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.garbage import collect_seldom
from simulations.mesh_node import MESH_NODE
from simulations.plan import Plan
from simulations.runner import Runner
from simulations.steps import AnyStep, Crash, Submit
from simulations.trace import TraceLevel
from wire.tasks import Durability

KILLED_SHARE = 0.3
DOWN_S = (5.0, 20.0)
BEGIN_S = 15  # by then everybody is linked
WORK_S = (1.0, 4.0)
DONE_SHARE_MIN = 0.999
SLOWER_MAX = 1.5
_LINE = "{:>5} {:>8} {:>6} {:>9} {:>9} {:>11} {:>12} {:>11}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run. Tasks are done if they have a result before the faults end."""

    submitted_count: int
    done_count: int
    kills_count: int
    makespan_us: int

    @property
    def share(self) -> float:
        """Return the share of submitted tasks that have a result."""
        return self.done_count / self.submitted_count


def plan_of(*, nodes: int, tasks: int, seed: int, seconds: int, is_calm: bool) -> Plan:
    """Return the plan: the same work of a seed, in calm or not."""
    rng = Random(f"churn {seed}")  # noqa: S311 - repeatable on purpose
    steps: list[AnyStep] = [
        Submit(
            at_us=BEGIN_S * US_PER_S,
            node=node,
            count=tasks,
            work_us=int(rng.uniform(*WORK_S) * US_PER_S),
            durability=Durability.MESH,
        )
        for node in range(nodes)
    ]
    for minute_s in range(BEGIN_S + 2, BEGIN_S + 2 + seconds, 60):
        for node in sorted(rng.sample(range(nodes), round(KILLED_SHARE * nodes))):
            at_us = int((minute_s + rng.uniform(0, 60)) * US_PER_S)
            down_us = int(rng.uniform(*DOWN_S) * US_PER_S)
            if not is_calm:
                crash = Crash(
                    at_us=at_us,
                    who=node,
                    disk=DiskFate.LOSE_UNSYNCED,
                    restart_after_us=down_us,
                )
                steps.append(crash)
    return Plan(
        name="churn",
        seed=seed,
        node_count=nodes,
        steps=tuple(steps),
        lasts_us=(BEGIN_S + seconds) * US_PER_S,
    )


def outcome_of(plan: Plan) -> Outcome:
    """Carry a plan out, with all invariants watched. Raises what breaks."""
    runner = Runner(
        plan, MESH_NODE, repeat_with="python -m benchmarks.churn", trace=TraceLevel.DIGEST
    )
    runner.run()
    register = runner.world.checks.register
    done_us = [
        decided_us
        for place, decided_us in register.decided_us.items()
        if register.outcomes[place].result is not None and decided_us <= plan.lasts_us
    ]
    return Outcome(
        submitted_count=sum(step.count for step in plan.steps if isinstance(step, Submit)),
        done_count=len(done_us),
        kills_count=sum(isinstance(step, Crash) for step in plan.steps),
        makespan_us=max(done_us) - BEGIN_S * US_PER_S,
    )


def main() -> None:
    """Print a line for each run; end with 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--tasks", type=int, default=80, help="of each device's batch")
    parser.add_argument("--seconds", type=int, default=300, help="in which devices are killed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    collect_seldom()
    print(
        _LINE.format("seed", "", "tasks", "done", "done %", "killed", "makespan s", "to calm"),
        " CPU s",
    )
    is_good = True
    for seed in options.seeds:
        calm_us = 0
        for is_calm in (True, False):
            begun_s = time.process_time()
            plan = plan_of(
                nodes=options.nodes,
                tasks=options.tasks,
                seed=seed,
                seconds=options.seconds,
                is_calm=is_calm,
            )
            outcome = outcome_of(plan)
            calm_us = outcome.makespan_us if is_calm else calm_us
            slower = outcome.makespan_us / calm_us
            is_good &= outcome.share >= DONE_SHARE_MIN and slower <= SLOWER_MAX
            print(
                _LINE.format(
                    seed,
                    "calm" if is_calm else "churn",
                    outcome.submitted_count,
                    outcome.done_count,
                    f"{100 * outcome.share:.2f}",
                    outcome.kills_count,
                    f"{outcome.makespan_us / US_PER_S:.1f}",
                    f"{slower:.2f}",
                ),
                f"{time.process_time() - begun_s:6.0f}",
                flush=True,
            )
    sys.exit(not is_good)


if __name__ == "__main__":
    main()
