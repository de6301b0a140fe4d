"""The named scenarios: three devices, and what goes wrong while they work.

Device 0 founded the mesh, device 1 submits and executes nothing, so its tasks have to travel;
where a scenario says so it is the other way round. A scenario is a plan for each seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from msgspec.structs import replace

from simulations.device import HostSettings
from simulations.discovery import Discovery
from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.errors import BadScenario
from simulations.paths import NetworkSettings
from simulations.plan import (
    SUBMITTER_ROLES,
    Cancel,
    Crash,
    CrashWriting,
    Cut,
    FillDisk,
    Freeze,
    Plan,
    Slow,
    Split,
    Step,
    Submit,
    Who,
)
from simulations.seeds import source
from wire.membership import Role

SUBMITTER = 1
BATCH_COUNT = 12
HALF = 0.5
SLOW_DISK_US = 400_000
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
    cut = Cut(at_us=0, origins=here, targets=there, when_working=True, heal_after_us=heal_after_us)
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
    who: Who = SUBMITTER if seed % 2 else "executor"
    return _plan(seed, Freeze(at_us=0, who=who, when_working=True, thaw_after_us=thaw_after_us))


def _full_disk(seed: int) -> Plan:
    node = seed % 3
    return _plan(seed, FillDisk(at_us=4 * US_PER_S, node=node, free_after_us=15 * US_PER_S))


def _cancel(seed: int) -> Plan:
    """Cancel every other task at a time at which its result may be on its way to a slow disk."""
    rng = source(seed, "cancel")
    cancels = (
        Cancel(at_us=5 * US_PER_S + rng.randrange(6 * US_PER_S), submission=1, index=index)
        for index in range(0, BATCH_COUNT, 2)
    )
    plan = _plan(seed, *cancels)
    return replace(plan, host=HostSettings(sync_us=SLOW_DISK_US))


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


def _random(seed: int) -> Plan:
    """Draw everything: the network, the disks, who submits what, and up to six faults."""
    rng = source(seed, "random plan")
    node_count = rng.randrange(3, 6)
    submitters = rng.sample(range(node_count), rng.randrange(1, 3))
    submissions = [
        Submit(
            at_us=rng.randrange(2 * US_PER_S, 12 * US_PER_S),
            node=rng.choice(submitters),
            count=rng.choice((1, 2, 12, 24)),
            work_us=rng.randrange(10_000, 3 * US_PER_S),
            output_bytes=rng.choice((0, 64, 100_000)),
            deadline_us=rng.choice((5, 60, 3_600, 3_600)) * US_PER_S,
        )
        for _ in range(rng.randrange(1, 4))
    ]
    faults = [_random_fault(rng, node_count) for _ in range(rng.randrange(1, 7))]
    cancels = [
        Cancel(
            at_us=rng.randrange(3 * US_PER_S, 20 * US_PER_S),
            submission=rng.randrange(3),
            index=rng.randrange(24),
            when_working=rng.random() < HALF,
        )
        for _ in range(rng.randrange(3))
    ]
    workless = [node for node in submitters if rng.random() < HALF]
    return Plan(
        seed=seed,
        node_count=node_count,
        network=NetworkSettings(
            latency_us=rng.choice((500, 5_000, 40_000, 120_000)),
            jitter_us=rng.choice((0, 2_000, 50_000)),
            loss_permille=rng.choice((0, 0, 10, 50)),
        ),
        host=HostSettings(
            sync_us=rng.choice((100, 2_000, 50_000)),
            workers_count=rng.randrange(1, 5),
            lease_us=rng.choice((4 * US_PER_S, 10 * US_PER_S)),
        ),
        roles={node: SUBMITTER_ROLES for node in workless if node != 0},
        discovery=rng.choice((Discovery.LAN, Discovery.SEEDS)),
        steps=(*submissions, *cancels, *faults),
        settle_us=300 * US_PER_S,
    )


def _random_fault(rng: Random, node_count: int) -> Step:
    at_us = rng.randrange(2 * US_PER_S, 25 * US_PER_S)
    node = rng.randrange(node_count)
    others = [other for other in range(node_count) if other != node]
    a_while_us = rng.choice((200_000, 3 * US_PER_S, 12 * US_PER_S, 45 * US_PER_S))
    kind = rng.randrange(7)
    if kind == 0:
        group = tuple(rng.sample(range(node_count), rng.randrange(1, node_count)))
        return Split(at_us=at_us, groups=(group,), heal_after_us=a_while_us)
    if kind == 1:
        there = tuple(rng.sample(others, rng.randrange(1, node_count)))
        return Cut(at_us=at_us, origins=(node,), targets=there, heal_after_us=a_while_us)
    if kind == 2:
        return Freeze(at_us=at_us, who=node, thaw_after_us=a_while_us)
    if kind == 3:
        return Slow(at_us=at_us, node=node, extra_us=rng.choice((100_000, 400_000)))
    if kind == 4:
        return FillDisk(at_us=at_us, node=node, free_after_us=a_while_us)
    if kind == 5:
        return CrashWriting(
            at_us=at_us,
            node=node,
            disk=rng.choice((DiskFate.KEEP, DiskFate.LOSE_UNSYNCED)),
            way_permille=rng.randrange(1_000),
            restart_after_us=a_while_us,
        )
    fate = rng.choice((DiskFate.KEEP, DiskFate.KEEP, DiskFate.LOSE_UNSYNCED, DiskFate.LOSE_ALL))
    return Crash(
        at_us=at_us,
        who=rng.choice((node, "executor")),
        disk=fate,
        when_working=rng.random() < HALF,
        restart_after_us=a_while_us,
    )


_SCENARIOS = (
    Scenario("calm", "nothing goes wrong", _calm),
    Scenario("lossy", "slow links that lose three packets in a hundred", _lossy),
    Scenario("split", "the devices are split while they work, and find each other again", _split),
    Scenario("one-way", "packets pass in one direction only for a while", _one_way),
    Scenario(
        "executor-crash",
        "the executor's process dies and comes back with its disk",
        _executor_crash(DiskFate.KEEP),
    ),
    Scenario(
        "executor-power",
        "the executor loses power, and what it had not synced",
        _executor_crash(DiskFate.LOSE_UNSYNCED),
    ),
    Scenario(
        "executor-lost-disk",
        "the executor comes back with an empty disk",
        _executor_crash(DiskFate.LOSE_ALL),
    ),
    Scenario(
        "submitter-crash",
        "the submitter's process dies and comes back with its disk",
        _submitter_crash(DiskFate.KEEP),
    ),
    Scenario(
        "submitter-power",
        "the submitter loses power, and what it had not synced",
        _submitter_crash(DiskFate.LOSE_UNSYNCED),
    ),
    Scenario(
        "submitter-lost-disk",
        "the submitter comes back with an empty disk: its tasks are unknown, never done twice",
        _submitter_crash(DiskFate.LOSE_ALL),
    ),
    Scenario("stall", "a process freezes for a while", _stall),
    Scenario("full-disk", "a disk takes nothing for a while", _full_disk),
    Scenario("cancel", "tasks are cancelled while their results are under way", _cancel),
    Scenario("outage", "all devices lose power within a second, and come back one by one", _outage),
    Scenario("random", "up to six faults of any kind in a mesh of any shape", _random),
)
SCENARIOS: Mapping[str, Scenario] = MappingProxyType({one.name: one for one in _SCENARIOS})
