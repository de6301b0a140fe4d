"""Faults that are many steps: a flapping link, churn, an outage.

Scenarios name them; plans hold the steps alone. What is random about one comes from the source that
`steps` is given. Times: microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random
from typing import Annotated

from msgspec import Meta, Struct

from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.errors import BadScenario
from simulations.steps import AnyStep, Crash, Cut, Heat, Jam, Nodes, Permille, Split, Stop, TimeUs

STEPS_MAX = 100_000
PERMILLE = 1_000
US_PER_MINUTE = 60 * US_PER_S

_Period = Annotated[int, Meta(ge=1_000, le=86_400 * US_PER_S)]


class CompoundFault(Struct, frozen=True, kw_only=True, tag_field="do", forbid_unknown_fields=True):
    """A fault that is many steps."""

    at_us: TimeUs

    def steps(self, rng: Random, node_count: int) -> Iterator[AnyStep]:
        """Yield its steps, not in order of time. Raises BadScenario."""
        raise NotImplementedError


class Flap(CompoundFault, frozen=True, kw_only=True, tag="flap"):
    """A split, or the links between two groups, that comes and goes.

    Each period starts with `duty_permille` of it being cut.
    """

    groups: tuple[Nodes, ...] = ()
    origins: Nodes = ()
    targets: Nodes = ()
    period_us: _Period = 2 * US_PER_S
    duty_permille: Permille = 500
    for_us: TimeUs

    def steps(self, rng: Random, node_count: int) -> Iterator[AnyStep]:
        if bool(self.groups) == bool(self.origins and self.targets):
            raise BadScenario("a flap is of `groups`, or of the links `from` some `to` others")
        _check_count(self.for_us // self.period_us, 2)
        for at_us in range(self.at_us, self.at_us + self.for_us, self.period_us):
            cut_us = max(1, self.period_us * self.duty_permille // PERMILLE)
            cut_us = min(cut_us, self.at_us + self.for_us - at_us)
            if self.groups:
                yield Split(at_us=at_us, groups=self.groups, for_us=cut_us)
                continue
            yield Cut(at_us=at_us, origins=self.origins, targets=self.targets, for_us=cut_us)
            yield Cut(at_us=at_us, origins=self.targets, targets=self.origins, for_us=cut_us)


class Swizzle(CompoundFault, frozen=True, kw_only=True, tag="swizzle"):
    """Devices are jammed one by one, and released in another order (FoundationDB's swizzle-clog).

    The first half of the time jams them, the second releases them.
    """

    nodes: Nodes
    for_us: TimeUs

    def steps(self, rng: Random, node_count: int) -> Iterator[AnyStep]:
        jammed, released = list(self.nodes), list(self.nodes)
        rng.shuffle(jammed)
        rng.shuffle(released)
        half_us, pace_us = self.for_us // 2, self.for_us // 2 // max(1, len(jammed))
        for place, node in enumerate(jammed):
            others = tuple(other for other in range(node_count) if other != node)
            at_us = self.at_us + place * pace_us
            end_us = self.at_us + half_us + (released.index(node) + 1) * pace_us
            for_us = max(1, end_us - at_us)
            yield Jam(at_us=at_us, origins=(node,), targets=others, for_us=for_us)
            yield Jam(at_us=at_us, origins=others, targets=(node,), for_us=for_us)


class RollingRestarts(CompoundFault, frozen=True, kw_only=True, tag="rolling_restarts"):
    """One device after the other is restarted, by its owner, or as a crash with a `disk`."""

    nodes: Nodes
    every_us: _Period = 5 * US_PER_S
    down_us: TimeUs = US_PER_S
    disk: DiskFate | None = None

    def steps(self, rng: Random, node_count: int) -> Iterator[AnyStep]:
        for place, node in enumerate(self.nodes):
            yield _down(node, self.at_us + place * self.every_us, self.down_us, self.disk)


class Churn(CompoundFault, frozen=True, kw_only=True, tag="churn"):
    """A share of the devices dies each minute, at times of its own, and comes back.

    A device that is down is not hit again before it is back.
    """

    nodes: Nodes
    per_minute_permille: Permille = 300
    down_us: TimeUs = 10 * US_PER_S
    disk: DiskFate | None = None
    for_us: TimeUs

    def steps(self, rng: Random, node_count: int) -> Iterator[AnyStep]:
        share = self.per_minute_permille * len(self.nodes) * self.for_us
        hits_count = -(-share // (PERMILLE * US_PER_MINUTE))
        _check_count(hits_count, 1)
        times_us = sorted(
            self.at_us + rng.randrange(max(1, self.for_us)) for _ in range(hits_count)
        )
        back_us = dict.fromkeys(self.nodes, 0)
        for at_us in times_us:
            up = [node for node in self.nodes if back_us[node] <= at_us]
            if up:
                node = rng.choice(up)
                back_us[node] = at_us + self.down_us + US_PER_S
                yield _down(node, at_us, self.down_us, self.disk)


class Outage(CompoundFault, frozen=True, kw_only=True, tag="outage"):
    """Devices lose power within a moment of each other, and come back one by one."""

    nodes: Nodes
    within_us: TimeUs = US_PER_S
    down_us: TimeUs = 5 * US_PER_S  # until the first is back
    every_us: TimeUs = 5 * US_PER_S
    disk: DiskFate = DiskFate.LOSE_UNSYNCED

    def steps(self, rng: Random, node_count: int) -> Iterator[AnyStep]:
        order = list(self.nodes)
        rng.shuffle(order)
        back_us = count(self.at_us + self.within_us + self.down_us, max(1, self.every_us))
        for node in order:
            at_us = self.at_us + rng.randrange(max(1, self.within_us))
            restart_after_us = next(back_us) - at_us
            yield Crash(at_us=at_us, who=node, disk=self.disk, restart_after_us=restart_after_us)


class ThermalRamp(CompoundFault, frozen=True, kw_only=True, tag="thermal_ramp"):
    """Devices warm up one after the other, until they are too hot to work, and cool down."""

    nodes: Nodes
    celsius: Annotated[int, Meta(ge=-50, le=150)] = 95
    over_us: TimeUs = 30 * US_PER_S
    every_us: TimeUs = 10 * US_PER_S
    for_us: TimeUs

    def steps(self, rng: Random, node_count: int) -> Iterator[AnyStep]:
        for place, node in enumerate(self.nodes):
            yield Heat(
                at_us=self.at_us + place * self.every_us,
                node=node,
                celsius=self.celsius,
                over_us=self.over_us,
                for_us=self.for_us,
            )


COMPOUND_FAULTS = (Flap, Swizzle, RollingRestarts, Churn, Outage, ThermalRamp)


def _down(node: int, at_us: int, down_us: int, disk: DiskFate | None) -> AnyStep:
    if disk is None:
        return Stop(at_us=at_us, node=node, restart_after_us=down_us)
    return Crash(at_us=at_us, who=node, disk=disk, restart_after_us=down_us)


def _check_count(times_count: int, steps_each: int) -> None:
    if times_count * steps_each > STEPS_MAX:
        raise BadScenario(
            f"{times_count * steps_each} steps, of which a plan has {STEPS_MAX} at most"
        )
