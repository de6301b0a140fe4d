"""The swarm's scenario: each seed draws a configuration of its own, not only a schedule.

Which kinds of faults there are, how many of each, how long they last, the size of the mesh, its
network, its disks and its timers: with everything on all the time, some states are never reached
(Groce et al. 2012, *Swarm Testing*).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType

from msgspec.structs import replace

from scheduler.succession import GONE_US
from simulations.compound_faults import Flap, Swizzle
from simulations.conditions import Datagrams
from simulations.device import HostSettings
from simulations.discovery import Discovery
from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.paths import NetworkSettings
from simulations.plan import SUBMITTER_ROLES, Expectations, Plan
from simulations.plan_checks import check_plan
from simulations.seeds import source
from simulations.steps import (
    AnyStep,
    Backup,
    Bridge,
    Cancel,
    Crash,
    CrashAtEffect,
    CrashWriting,
    Cut,
    Drift,
    Falsehood,
    FillDisk,
    Find,
    Freeze,
    Gray,
    Heat,
    Jam,
    Lie,
    PoisonDht,
    Restore,
    Ring,
    Split,
    Stop,
    Submit,
    Suspend,
    Via,
    WallClock,
    Who,
    Worsen,
)
from wire.membership import Role
from wire.tasks import Durability

NODES_MIN = 3
NODES_MAX = 7
RING_NODES_MIN = 4
FAULTS_MAX = 12
KINDS_SHARE = 0.4  # of the kinds of faults that a seed has
HALF = 0.5
NAT_SHARE = 0.25
COMPARED_SHARE = 1 / 3
BEGIN_US = 2 * US_PER_S
END_US = 30 * US_PER_S
CRASH_POINTS = (
    ("Persist", None),
    ("Execute", None),
    ("Send", None),
    ("Send", "LeaseGranted"),
    ("Send", "ResultsOffered"),
    ("Send", "Settled"),
    ("Send", "ReceiptGiven"),
    ("Send", "BatchGiven"),
    ("Send", "BatchKept"),
    ("Send", "Promised"),
    ("Send", "Proposed"),
    ("Send", "Voted"),
)
DROPPED = (
    *("ResultsOffered", "LeaseProgress", "Settled", "OfferAccepted", "ReceiptGiven"),
    *("BatchGiven", "BatchKept", "Promised", "Proposed", "Voted"),
)
BURNING_NODES_MIN = 5
BURNING_SHARE = 0.3
HASTY_GONE_US = 6 * US_PER_S
FATES = (DiskFate.KEEP, DiskFate.KEEP, DiskFate.LOSE_UNSYNCED, DiskFate.TORN_TAIL)

Faults = list[AnyStep]


def random_plan(seed: int, *, node_count: int | None = None) -> Plan:
    """Return the plan of a seed, of three to seven devices if nobody says how many."""
    rng = source(seed, "random plan")
    drawn_count = rng.randrange(NODES_MIN, NODES_MAX + 1)
    count = drawn_count if node_count is None else node_count
    submitters = rng.sample(range(count), min(count, rng.randrange(1, 3)))
    drawn = [_compared(seed, step, count) for step in _submissions(rng, submitters)]
    submissions = sorted(drawn, key=lambda step: step.at_us)
    is_hasty = rng.random() < HALF  # short timers reach rare states sooner
    burns: Faults = []
    if count >= BURNING_NODES_MIN and source(seed, "random plan, burning").random() < BURNING_SHARE:
        submissions, burns = _burning(source(seed, "random plan, burns"), submissions, count)
        is_hasty = True
    behind_nat = _behind_nat(seed, count)
    plan = Plan(
        name="random",
        seed=seed,
        node_count=count,
        network=replace(_network(rng, is_hasty=is_hasty), behind_nat=behind_nat),
        host=_host(rng, is_hasty=is_hasty),
        roles=_roles(rng, submitters),
        discovery=_discovery(rng, behind_nat),
        steps=tuple(
            sorted(
                (
                    *submissions,
                    *_cancels(rng, submissions),
                    *_faults(rng, count, submitters),
                    *burns,
                ),
                key=lambda step: step.at_us,
            )
        ),
        expect=Expectations(
            whole_within_us=300 * US_PER_S,
            decided_within_us=300 * US_PER_S,
            sometimes=("event.LinkDown", "process.crashed", "task.tried_again"),
        ),
    )
    check_plan(plan)
    return plan


def _network(rng: Random, *, is_hasty: bool) -> NetworkSettings:
    datagrams = None
    if rng.random() < HALF:
        datagrams = Datagrams(
            loss_permille=rng.choice((0, 20, 100)),
            duplicate_permille=rng.choice((0, 50, 200)),
            reorder_permille=rng.choice((0, 50, 300)),
            corrupt_permille=rng.choice((0, 0, 20)),
        )
    return NetworkSettings(
        latency_us=rng.choice((500, 5_000, 40_000, 120_000)),
        jitter_us=rng.choice((0, 2_000, 50_000)),
        loss_permille=rng.choice((0, 0, 10, 50)),
        keepalive_us=(5 if is_hasty else 30) * US_PER_S,
        datagrams=datagrams,
    )


def _behind_nat(seed: int, node_count: int) -> tuple[int, ...]:
    """Draw whom nobody can dial, in a quarter of the runs: never all, or no mesh comes about."""
    rng = source(seed, "random plan, behind NAT")
    if rng.random() >= NAT_SHARE:
        return ()
    return tuple(sorted(rng.sample(range(1, node_count), rng.randrange(1, node_count - 1))))


def _discovery(rng: Random, behind_nat: tuple[int, ...]) -> Discovery:
    """Draw how devices hear of others; none has to begin with those alone that it cannot dial."""
    drawn = rng.choice((Discovery.LAN, Discovery.SEEDS))
    return Discovery.LAN if behind_nat else drawn


def _host(rng: Random, *, is_hasty: bool) -> HostSettings:
    return HostSettings(
        sync_us=rng.choice((100, 2_000, 50_000)),
        workers_count=rng.randrange(1, 5),
        lease_us=rng.choice((4, 5) if is_hasty else (10, 30)) * US_PER_S,
        steward_gone_us=(HASTY_GONE_US if is_hasty else GONE_US),
    )


def _roles(rng: Random, submitters: list[int]) -> dict[int, tuple[Role, ...]]:
    """Let some submitters execute nothing; the founder can do everything."""
    return {node: SUBMITTER_ROLES for node in submitters if node != 0 and rng.random() < HALF}


def _submissions(rng: Random, submitters: list[int]) -> list[Submit]:
    return [
        Submit(
            at_us=rng.randrange(BEGIN_US, 12 * US_PER_S),
            node=rng.choice(submitters),
            count=rng.choice((1, 2, 12, 24)),
            work_us=rng.randrange(10_000, 3 * US_PER_S),
            output_bytes=rng.choice((0, 64, 100_000)),
            deadline_us=rng.choice((5, 60, 3_600, 3_600)) * US_PER_S,
            durability=rng.choice((Durability.LOCAL, Durability.MESH)),
        )
        for _ in range(rng.randrange(1, 4))
    ]


def _compared(seed: int, step: Submit, node_count: int) -> Submit:
    """Let several devices do the tasks of every third batch, never more than can do them."""
    rng = source(seed, "random plan, replicas", step.at_us)
    if rng.random() >= COMPARED_SHARE:
        return step
    replicas = rng.choice((2, 3)) if node_count > NODES_MIN + 1 else 2
    return replace(step, replicas=replicas, quorum=rng.randrange(1, 3))


def _burning(
    rng: Random, submissions: list[Submit], node_count: int
) -> tuple[list[Submit], Faults]:
    """Keep what is submitted by three devices for longer than some of them last."""
    kept = [
        replace(
            one,
            count=24,
            work_us=rng.randrange(3 * US_PER_S, 9 * US_PER_S),
            durability=Durability.MESH,
            deadline_us=3_600 * US_PER_S,
        )
        for one in submissions
    ]
    draw = _Draw(rng, node_count, [])
    burns = [_burn(draw) for _ in range(rng.randrange(1, 4))]
    return kept, [step for steps in burns for step in steps]


def _cancels(rng: Random, submissions: list[Submit]) -> list[Cancel]:
    cancels = []
    for _ in range(rng.randrange(3)):
        number = rng.randrange(len(submissions))
        cancels.append(
            Cancel(
                at_us=submissions[number].at_us + rng.randrange(8 * US_PER_S),
                submission=number,
                index=rng.randrange(submissions[number].count),
                when_working=rng.random() < HALF,
            )
        )
    return cancels


def _faults(rng: Random, node_count: int, submitters: list[int]) -> Faults:
    kinds = [kind for kind in _KINDS if rng.random() < KINDS_SHARE] or ["crash"]
    draw = _Draw(rng, node_count, submitters)
    steps: Faults = []
    for _ in range(rng.randrange(1, FAULTS_MAX + 1)):
        steps += _KINDS[rng.choice(kinds)](draw)
    return steps


class _Draw:
    """What faults draw: when, where, how long."""

    def __init__(self, rng: Random, node_count: int, submitters: list[int]) -> None:
        self.rng = rng
        self.node_count = node_count
        self.others = [node for node in range(node_count) if node not in submitters]

    def at_us(self) -> int:
        return self.rng.randrange(BEGIN_US, END_US)

    def while_us(self) -> int:
        return self.rng.choice((200_000, 3 * US_PER_S, 12 * US_PER_S, 45 * US_PER_S))

    def node(self) -> int:
        return self.rng.randrange(self.node_count)

    def who(self) -> Who:
        return self.rng.choice((self.node(), "executor"))

    def is_waiting(self) -> bool:
        return self.rng.random() < HALF

    def some(self) -> tuple[int, ...]:
        """Draw some devices, and leave some."""
        return tuple(
            self.rng.sample(range(self.node_count), self.rng.randrange(1, self.node_count))
        )

    def rest(self, nodes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(node for node in range(self.node_count) if node not in nodes)


def _split(draw: _Draw) -> Faults:
    group, waits = draw.some(), draw.is_waiting()
    at_us, for_us = draw.at_us(), draw.while_us()
    return [Split(at_us=at_us, groups=(group,), when_working=waits, for_us=for_us)]


def _cut(draw: _Draw) -> Faults:
    origins = draw.some()
    at_us, for_us = draw.at_us(), draw.while_us()
    return [Cut(at_us=at_us, origins=origins, targets=draw.rest(origins), for_us=for_us)]


def _bridge(draw: _Draw) -> Faults:
    order = draw.rng.sample(range(draw.node_count), draw.node_count)
    at_us, for_us = draw.at_us(), draw.while_us()
    left, middle, right = (order[0],), (order[1],), tuple(order[2:])
    return [Bridge(at_us=at_us, left=left, middle=middle, right=right, for_us=for_us)]


def _ring(draw: _Draw) -> Faults:
    if draw.node_count < RING_NODES_MIN:
        return _split(draw)
    return [Ring(at_us=draw.at_us(), for_us=draw.while_us())]


def _flap(draw: _Draw) -> Faults:
    flap = Flap(
        at_us=draw.at_us(),
        groups=(draw.some(),),
        period_us=draw.rng.randrange(400_000, 10 * US_PER_S),
        duty_permille=draw.rng.randrange(100, 900),
        for_us=draw.rng.randrange(2 * US_PER_S, 20 * US_PER_S),
    )
    return list(flap.steps(draw.rng, draw.node_count))


def _swizzle(draw: _Draw) -> Faults:
    swizzle = Swizzle(at_us=draw.at_us(), nodes=draw.some(), for_us=draw.while_us())
    return list(swizzle.steps(draw.rng, draw.node_count))


def _jam(draw: _Draw) -> Faults:
    origins = draw.some()
    at_us, for_us = draw.at_us(), draw.while_us()
    return [Jam(at_us=at_us, origins=origins, targets=draw.rest(origins), for_us=for_us)]


def _worsen(draw: _Draw) -> Faults:
    return [
        Worsen(
            at_us=draw.at_us(),
            origins=draw.some(),
            latency_us=draw.rng.choice((0, 100_000, 800_000)),
            jitter_us=draw.rng.choice((0, 200_000)),
            loss_permille=draw.rng.choice((0, 50, 300)),
            bytes_per_second=draw.rng.choice((None, 20_000, 200_000)),
            for_us=draw.while_us(),
        )
    ]


def _stop(draw: _Draw) -> Faults:
    return [Stop(at_us=draw.at_us(), node=draw.node(), restart_after_us=draw.while_us())]


def _crash(draw: _Draw) -> Faults:
    return [
        Crash(
            at_us=draw.at_us(),
            who=draw.who(),
            disk=draw.rng.choice((*FATES, DiskFate.LOSE_ALL)),
            when_working=draw.is_waiting(),
            restart_after_us=draw.while_us(),
        )
    ]


def _burn(draw: _Draw) -> Faults:
    """Lose a device with its disk; perhaps it comes back with an empty one, later or never."""
    back_us = draw.rng.choice((2 * US_PER_S, 15 * US_PER_S, None))
    at_us, node = draw.at_us(), draw.node()
    return [Crash(at_us=at_us, who=node, disk=DiskFate.LOSE_ALL, restart_after_us=back_us)]


def _crash_writing(draw: _Draw) -> Faults:
    return [
        CrashWriting(
            at_us=draw.at_us(),
            node=draw.node(),
            disk=draw.rng.choice(FATES),
            way_permille=draw.rng.randrange(1_000),
            restart_after_us=draw.while_us(),
        )
    ]


def _crash_at_effect(draw: _Draw) -> Faults:
    effect, what = draw.rng.choice(CRASH_POINTS)
    return [
        CrashAtEffect(
            at_us=draw.at_us(),
            node=draw.node(),
            effect=effect,
            what=what,
            number=draw.rng.randrange(1, 8),
            is_after=draw.is_waiting(),
            disk=draw.rng.choice(FATES),
            restart_after_us=draw.while_us(),
        )
    ]


def _freeze(draw: _Draw) -> Faults:
    waits = draw.is_waiting()
    at_us, for_us = draw.at_us(), draw.while_us()
    return [Freeze(at_us=at_us, who=draw.who(), when_working=waits, for_us=for_us)]


def _suspend(draw: _Draw) -> Faults:
    waits = draw.is_waiting()
    at_us, for_us = draw.at_us(), draw.while_us()
    return [Suspend(at_us=at_us, who=draw.who(), when_working=waits, for_us=for_us)]


def _gray(draw: _Draw) -> Faults:
    slowdown, is_stuck, drops = draw.rng.choice(
        ((draw.rng.randrange(2, 200), False, None), (1, True, None), (1, False, None))
    )
    if slowdown == 1 and not is_stuck:
        drops = draw.rng.choice(DROPPED)
    return [
        Gray(
            at_us=draw.at_us(),
            who=draw.who(),
            slowdown=slowdown,
            is_stuck=is_stuck,
            drops=drops,
            for_us=draw.while_us(),
        )
    ]


def _fill_disk(draw: _Draw) -> Faults:
    return [FillDisk(at_us=draw.at_us(), node=draw.node(), for_us=draw.while_us())]


def _restore(draw: _Draw) -> Faults:
    """Put back a device that submits nothing: tasks of a store that was put back stay undecided."""
    if not draw.others:
        return _stop(draw)
    at_us, node = draw.at_us(), draw.rng.choice(draw.others)
    restored_us = at_us + draw.while_us()
    return [
        Backup(at_us=at_us, node=node),
        Restore(at_us=restored_us, node=node, down_us=draw.rng.randrange(US_PER_S)),
    ]


def _drift(draw: _Draw) -> Faults:
    ppm = draw.rng.choice((-100_000, -200, 200, 100_000))
    return [Drift(at_us=draw.at_us(), node=draw.node(), ppm=ppm, for_us=draw.while_us())]


def _wall_clock(draw: _Draw) -> Faults:
    a_year_us = 365 * 86_400 * US_PER_S
    offset_us = draw.rng.choice((None, 0, 1 - a_year_us, a_year_us, 90 * US_PER_S))
    return [WallClock(at_us=draw.at_us(), node=draw.node(), offset_us=offset_us)]


def _heat(draw: _Draw) -> Faults:
    return [
        Heat(
            at_us=draw.at_us(),
            node=draw.node(),
            celsius=draw.rng.randrange(70, 110),
            over_us=draw.rng.randrange(US_PER_S, 20 * US_PER_S),
            for_us=draw.while_us(),
        )
    ]


def _lie(draw: _Draw) -> Faults:
    how = draw.rng.choice(tuple(Falsehood))
    return [Lie(at_us=draw.at_us(), node=draw.node(), how=how, for_us=draw.while_us())]


def _poison_dht(draw: _Draw) -> Faults:
    """Name others too for what one device provides, and let somebody ask for it meanwhile."""
    at_us, for_us, provider = draw.at_us(), draw.while_us(), draw.node()
    key = f"label:device={provider}"
    asked_us = at_us + draw.rng.randrange(for_us)
    return [
        PoisonDht(at_us=at_us, key=key, claimed=draw.some(), for_us=for_us),
        Find(at_us=asked_us, node=draw.node(), key=key, providers=(provider,), via=Via.DHT),
    ]


_KINDS: Mapping[str, Callable[[_Draw], Faults]] = MappingProxyType(
    {
        "split": _split,
        "cut": _cut,
        "bridge": _bridge,
        "ring": _ring,
        "flap": _flap,
        "swizzle": _swizzle,
        "jam": _jam,
        "worsen": _worsen,
        "stop": _stop,
        "crash": _crash,
        "burn": _burn,
        "crash_writing": _crash_writing,
        "crash_at_effect": _crash_at_effect,
        "freeze": _freeze,
        "suspend": _suspend,
        "gray": _gray,
        "fill_disk": _fill_disk,
        "restore": _restore,
        "drift": _drift,
        "wall_clock": _wall_clock,
        "heat": _heat,
        "lie": _lie,
        "poison_dht": _poison_dht,
    }
)
