"""The named scenarios: three devices, and what goes wrong while they work.

Device 0 founded the mesh, device 1 submits and executes nothing, so its tasks have to travel;
where a scenario says so it is the other way round. A scenario is a plan for each seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.errors import BadScenario
from simulations.paths import NetworkSettings
from simulations.plan import (
    SUBMITTER_ROLES,
    Crash,
    Cut,
    FillDisk,
    Freeze,
    Plan,
    Split,
    Step,
    Submit,
)
from simulations.seeds import source
from wire.membership import Role

SUBMITTER = 1
BATCH_COUNT = 12
LOSSY = NetworkSettings(latency_us=60_000, jitter_us=60_000, loss_permille=30)
_ROLES: Mapping[int, tuple[Role, ...]] = MappingProxyType({SUBMITTER: SUBMITTER_ROLES})


@dataclass(frozen=True, slots=True)
class Scenario:
    """What one is called, what happens in it, and its plan for a seed."""

    name: str
    summary: str
    plan: Callable[[int], Plan]


def scenario(name: str) -> Scenario:
    """Return a named scenario. Raises BadScenario with the names there are."""
    if name not in SCENARIOS:
        raise BadScenario(f"no scenario {name!r}; there are: {', '.join(SCENARIOS)}")
    return SCENARIOS[name]


def _plan(seed: int, *faults: Step, network: NetworkSettings | None = None) -> Plan:
    """Return a plan: a task alone, then a batch while the faults happen."""
    rng = source(seed, "scenario")
    at_us = 3 * US_PER_S + rng.randrange(2 * US_PER_S)
    work_us = rng.randrange(200_000, 3 * US_PER_S)
    return Plan(
        seed=seed,
        network=network or NetworkSettings(),
        roles=dict(_ROLES),
        steps=(
            Submit(at_us=at_us, node=SUBMITTER, work_us=work_us),
            Submit(at_us=at_us, node=SUBMITTER, count=BATCH_COUNT, work_us=work_us),
            *faults,
        ),
    )


def _calm(seed: int) -> Plan:
    return _plan(seed)


def _lossy(seed: int) -> Plan:
    return _plan(seed, network=LOSSY)


def _split(seed: int) -> Plan:
    heal_after_us = source(seed, "split").randrange(US_PER_S, 40 * US_PER_S)
    groups = ((SUBMITTER,), (0, 2)) if seed % 2 else ((SUBMITTER, 0), (2,))
    return _plan(
        seed,
        Split(at_us=0, groups=groups, when_working=True, heal_after_us=heal_after_us),
    )


def _one_way(seed: int) -> Plan:
    heal_after_us = source(seed, "cut").randrange(US_PER_S, 40 * US_PER_S)
    here, there = ((SUBMITTER,), (0, 2)) if seed % 2 else ((0, 2), (SUBMITTER,))
    cut = Cut(
        at_us=0, origins=here, targets=there, when_working=True, heal_after_us=heal_after_us
    )
    return _plan(seed, cut)


def _executor_crash(fate: DiskFate) -> Callable[[int], Plan]:
    def plan(seed: int) -> Plan:
        restart_after_us = source(seed, "crash").randrange(50_000, 40 * US_PER_S)
        crash = Crash(
            at_us=0,
            who="executor",
            disk=fate,
            when_working=True,
            restart_after_us=restart_after_us,
        )
        return _plan(seed, crash)

    return plan


def _submitter_crash(fate: DiskFate) -> Callable[[int], Plan]:
    def plan(seed: int) -> Plan:
        restart_after_us = source(seed, "crash").randrange(50_000, 40 * US_PER_S)
        crash = Crash(
            at_us=0,
            who=SUBMITTER,
            disk=fate,
            when_working=True,
            restart_after_us=restart_after_us,
        )
        return _plan(seed, crash)

    return plan


def _stall(seed: int) -> Plan:
    thaw_after_us = source(seed, "stall").randrange(US_PER_S, 30 * US_PER_S)
    who = SUBMITTER if seed % 2 else "executor"
    return _plan(
        seed, Freeze(at_us=0, who=who, when_working=True, thaw_after_us=thaw_after_us)
    )


def _full_disk(seed: int) -> Plan:
    node = seed % 3
    return _plan(seed, FillDisk(at_us=4 * US_PER_S, node=node, free_after_us=15 * US_PER_S))


def _outage(seed: int) -> Plan:
    rng = source(seed, "outage")
    crashes = (
        Crash(
            at_us=5 * US_PER_S + rng.randrange(US_PER_S),
            who=node,
            disk=DiskFate.LOSE_UNSYNCED,
            restart_after_us=rng.randrange(US_PER_S, 20 * US_PER_S),
        )
        for node in range(3)
    )
    return _plan(seed, *crashes)


def _any_step(rng: random.Random, at_us: int) -> Step:
    """Draw one fault."""
