"""What befalls a mesh in each row of the table, and what is measured, whatever its protocol.

Each scenario gets a mesh that has settled, unless it says that nothing has started, and returns
what one seed gave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from msgspec import Struct

from benchmarks.membership.mesh import US_PER_MS, US_PER_S, Change, Mesh, NodePair, View
from simulations.seeds import source

START_US_MAX = 120 * US_PER_S
SETTLE_US = 20 * US_PER_S
STEP_US = 50 * US_PER_MS
WATCH_US = 100 * US_PER_MS
CRASH_SEEN_US_MAX = 60 * US_PER_S
HOUR_US = 3_600 * US_PER_S
HOUR_WATCH_US = 500 * US_PER_MS
FROZEN_US = 8 * US_PER_S
FREEZE_EVERY_US = 8_100 * US_PER_MS
FREEZING_US = 60 * US_PER_S
HALF_CUT_US = 60 * US_PER_S
HEALED_US_MAX = 300 * US_PER_S
IDLE_US = 120 * US_PER_S


class Outcome(Struct, frozen=True, kw_only=True):
    """What one seed gave: the samples of the row's figure, and what is told beside them.

    Samples are seconds or counts. Infinity stands for what did not happen within the row's limit.
    """

    samples: tuple[float, ...]
    beside: dict[str, float] = {}


Scenario: TypeAlias = Callable[[Mesh, int], Outcome]  # of a mesh and its seed

NEVER = float("inf")


def crash_seen_by_all(mesh: Mesh, seed: int) -> Outcome:
    """A node loses power: seconds until each of the others holds it for dead."""
    changes, begun_us = mesh.watch(every_us=WATCH_US), mesh.now_us
    victim = source(seed, "victim").randrange(mesh.node_count)
    others = [node for node in range(mesh.node_count) if node != victim]
    mesh.crash([victim])
    run_until(
        mesh,
        lambda: all(mesh.view(other, victim) is View.DEAD for other in others),
        within_us=CRASH_SEEN_US_MAX,
    )
    mesh.run_for(WATCH_US)  # what has happened since the last look is seen by the next
    seen_us = {one.observer: one.at_us for one in changes if _is_death(one, {victim})}
    samples = [(seen_us[one] - begun_us) / US_PER_S if one in seen_us else NEVER for one in others]
    wrong = {one.subject for one in changes if _is_death(one, set(others))}
    return Outcome(samples=tuple(samples), beside={"others declared dead": len(wrong)})


def false_deaths(mesh: Mesh, seed: int) -> Outcome:
    """Nothing happens for an hour but losses: how many views of a node turned to dead."""
    changes = mesh.watch(every_us=HOUR_WATCH_US)
    mesh.run_for(HOUR_US)
    everybody = set(range(mesh.node_count))
    deaths = [one for one in changes if _is_death(one, everybody)]
    degraded_count = sum(one.after is View.DEGRADED for one in changes)
    return Outcome(
        samples=(len(deaths),),
        beside={"nodes": len({one.subject for one in deaths}), "degraded views": degraded_count},
    )


def frozen(mesh: Mesh, seed: int) -> Outcome:
    """A tenth of the nodes stall nearly always for a minute, at the same times.

    The sample is how many healthy nodes anyone declared dead. Beside it: how often any view of a
    frozen node turned to dead or back in this minute, as the events of Serf would tell, and the
    same with the time after it in which they return.
    """
    count = mesh.node_count
    stalling = sorted(source(seed, "frozen").sample(range(count), count // 10))
    healthy = set(range(count)) - set(stalling)
    changes, end_us = mesh.watch(every_us=WATCH_US), mesh.now_us + FREEZING_US
    while mesh.now_us < end_us:
        mesh.freeze(stalling)
        mesh.run_for(min(FROZEN_US, end_us - mesh.now_us))
        mesh.thaw(stalling)
        mesh.run_for(min(FREEZE_EVERY_US - FROZEN_US, max(0, end_us - mesh.now_us)))
    in_time_count = _turns_count(changes, stalling)
    degraded_count = sum(one.after is View.DEGRADED and one.subject in stalling for one in changes)
    mesh.run_for(SETTLE_US)
    dead = {one.subject for one in changes if _is_death(one, healthy)}
    return Outcome(
        samples=(len(dead),),
        beside={
            "state changes about the frozen": in_time_count,
            "with their return": _turns_count(changes, stalling),
            "degraded views": degraded_count,
        },
    )


def _turns_count(changes: Sequence[Change], subjects: Sequence[int]) -> int:
    """Count the views that turned to dead or back."""
    return sum(View.DEAD in (one.before, one.after) for one in changes if one.subject in subjects)


def half_cut(mesh: Mesh, seed: int) -> Outcome:
    """A node hears one of the others only, and all hear it: how many others are declared dead.

    What the node itself believes is not counted, but told beside.
    """
    count = mesh.node_count
    deaf, heard = source(seed, "half-cut").sample(range(count), 2)
    others = set(range(count)) - {deaf}
    changes = mesh.watch(every_us=WATCH_US)
    mesh.cut([(other, deaf) for other in sorted(others - {heard})])
    mesh.run_for(HALF_CUT_US)
    deaths = [one for one in changes if _is_death(one, others)]
    flapped = {one.subject for one in deaths if one.observer != deaf}
    own_count = sum(one.observer == deaf for one in deaths)
    of_deaf_count = sum(_is_death(one, {deaf}) for one in changes)
    return Outcome(
        samples=(len(flapped),),
        beside={"its own dead": own_count, "views of it turned to dead": of_deaf_count},
    )


def healed_after(split_us: int) -> Scenario:
    """Return the scenario of two halves that hear nothing of each other for so long."""

    def healed(mesh: Mesh, seed: int) -> Outcome:
        """Seconds from the heal until no view is wrong."""
        count = mesh.node_count
        shuffled = source(seed, "halves").sample(range(count), count)
        one, other = shuffled[: count // 2], shuffled[count // 2 :]
        mesh.cut(_both_ways(one, other))
        mesh.run_for(split_us)
        wrong_count = sum(
            mesh.view(here, there) is not View.ALIVE for here in one for there in other
        )
        mesh.heal()
        share = wrong_count / (len(one) * len(other))
        return Outcome(samples=(_until_full(mesh, HEALED_US_MAX),), beside={"split views": share})

    return healed


def all_down_and_back(mesh: Mesh, seed: int) -> Outcome:
    """All lose power and come back within a second on new addresses, one on its old one.

    The sample is the seconds from the last start until no view is wrong.
    """
    rng = source(seed, "all down")
    everybody = range(mesh.node_count)
    stays = rng.choice(everybody)
    mesh.crash(everybody)
    mesh.run_for(5 * US_PER_S)
    for node in everybody:
        if node != stays:
            mesh.move(node)
    for node in rng.sample(everybody, len(everybody)):
        mesh.start([node])
        mesh.run_for(US_PER_S // len(everybody))
    return Outcome(samples=(_until_full(mesh, HEALED_US_MAX),))


def join_storm(mesh: Mesh, seed: int) -> Outcome:
    """Nothing has started; all do at once, one moment after the first.

    The sample is the seconds until no view is wrong.
    """
    mesh.start([0])
    mesh.run_for(SETTLE_US)
    mesh.start(range(1, mesh.node_count))
    return Outcome(samples=(_until_full(mesh, START_US_MAX),))


def idle_cost(mesh: Mesh, seed: int) -> Outcome:
    """Nothing happens: frame bytes that a node receives, in kbit/s, mean over the nodes."""
    mesh.run_for(SETTLE_US)
    before = mesh.traffic()
    mesh.run_for(IDLE_US)
    after = mesh.traffic()
    bits_per_node_ms = 8 / mesh.node_count / (IDLE_US / US_PER_MS)
    new_count = after.new_records_count - before.new_records_count
    beside = {"kbit/s on the wire": (after.wire_bytes - before.wire_bytes) * bits_per_node_ms}
    if new_count:
        copies_count = after.records_count - before.records_count
        beside["copies of a record"] = copies_count / new_count
    return Outcome(
        samples=((after.frame_bytes - before.frame_bytes) * bits_per_node_ms,), beside=beside
    )


# What scenarios have in common.


def percentile(samples: Sequence[float], percent: int) -> float:
    """Return a percentile, nearest rank."""
    ordered = sorted(samples)
    return ordered[math.ceil(percent * len(ordered) / 100) - 1]


class NotSettled(Exception):
    """A mesh to which nothing happens is not complete: there is nothing to measure."""


def settle(mesh: Mesh) -> None:
    """Start all nodes, and let time pass until they know each other, and some more.

    Raises NotSettled.
    """
    mesh.start(range(mesh.node_count))
    if _until_full(mesh, START_US_MAX) == NEVER:
        raise NotSettled(f"{mesh.node_count} nodes do not all know each other after two minutes")
    mesh.run_for(SETTLE_US)


def _until_full(mesh: Mesh, within_us: int) -> float:
    """Return the seconds until every node holds all others for alive, with no doubts."""
    begun_us, count = mesh.now_us, mesh.node_count
    last_wrong = 0

    def is_full() -> bool:
        """Look at all views, beginning where the last look ended: there something was wrong."""
        nonlocal last_wrong
        for place in range(last_wrong, last_wrong + count * count):
            observer, subject = divmod(place % (count * count), count)
            if observer != subject and mesh.view(observer, subject) is not View.ALIVE:
                last_wrong = place % (count * count)
                return False
        return True

    if not run_until(mesh, is_full, within_us=within_us):
        return NEVER
    return (mesh.now_us - begun_us) / US_PER_S


def run_until(mesh: Mesh, is_reached: Callable[[], bool], *, within_us: int) -> bool:
    end_us = mesh.now_us + within_us
    while not is_reached():
        if mesh.now_us >= end_us:
            return False
        mesh.run_for(STEP_US)
    return True


def _is_death(change: Change, subjects: set[int]) -> bool:
    return change.after is View.DEAD and change.subject in subjects


def _both_ways(one: Sequence[int], other: Sequence[int]) -> list[NodePair]:
    there = [(origin, target) for origin in one for target in other]
    return there + [(target, origin) for origin, target in there]
