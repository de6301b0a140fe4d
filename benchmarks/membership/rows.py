"""The rows of the table: scenario, size, bar, seeds, and how its seeds become one figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.membership import meshd_scenarios, scenarios
from benchmarks.membership.mesh import US_PER_MS, US_PER_S, MeshSettings
from benchmarks.membership.scenarios import Outcome, Scenario, percentile

ROUND = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table for each protocol. Seeds are 1 to `seeds_count`."""

    name: str
    scenario: Scenario
    node_count: int
    seeds_count: int
    quick_seeds_count: int
    bar: str
    unit: str
    percentile: int | None = None  # of all samples; None: the worst is the figure
    loss_permille: int = 10
    has_telemetry: bool = True
    latency_us: int = 5 * US_PER_MS
    jitter_us: int = 20 * US_PER_MS
    members_max: int | None = None
    is_for_swim: bool = True
    begins_settled: bool = True  # False: the scenario starts the nodes itself

    def settings(self, seed: int) -> MeshSettings:
        """Return what the mesh of a seed is made of."""
        return MeshSettings(
            seed=seed,
            node_count=self.node_count,
            loss_permille=self.loss_permille,
            has_telemetry=self.has_telemetry,
            latency_us=self.latency_us,
            jitter_us=self.jitter_us,
            members_max=self.members_max,
        )


ROWS = (
    Row(
        name="crash seen by all",
        scenario=scenarios.crash_seen_by_all,
        node_count=100,
        seeds_count=100,
        quick_seeds_count=3,
        bar="3.5 s",
        unit="s p99",
        percentile=99,
    ),
    Row(
        name="crash seen by all",
        scenario=scenarios.crash_seen_by_all,
        node_count=1_000,
        seeds_count=10,
        quick_seeds_count=1,
        bar="6 s",
        unit="s p99",
        percentile=99,
    ),
    Row(
        name="false deaths in an hour, 1 % loss",
        scenario=scenarios.false_deaths,
        node_count=100,
        seeds_count=5,
        quick_seeds_count=1,
        bar="0",
        unit="",
    ),
    Row(
        name="false deaths in an hour, 10 % loss",
        scenario=scenarios.false_deaths,
        node_count=100,
        seeds_count=5,
        quick_seeds_count=1,
        bar="0",
        unit="",
        loss_permille=100,
    ),
    Row(
        name="10 frozen: healthy declared dead",
        scenario=scenarios.frozen,
        node_count=100,
        seeds_count=100,
        quick_seeds_count=3,
        bar="0; 990",
        unit="",
    ),
    Row(
        name="half-cut node: others declared dead",
        scenario=scenarios.half_cut,
        node_count=100,
        seeds_count=100,
        quick_seeds_count=3,
        bar="0",
        unit="",
    ),
    Row(
        name="healed after 20 s",
        scenario=scenarios.healed_after(20 * US_PER_S),
        node_count=100,
        seeds_count=100,
        quick_seeds_count=3,
        bar="5 s",
        unit="s",
    ),
    Row(
        name="healed after 20 s",
        scenario=scenarios.healed_after(20 * US_PER_S),
        node_count=1_000,
        seeds_count=10,
        quick_seeds_count=1,
        bar="10 s",
        unit="s",
    ),
    Row(
        name="healed after 10 min",
        scenario=scenarios.healed_after(600 * US_PER_S),
        node_count=100,
        seeds_count=10,
        quick_seeds_count=1,
        bar="5 s",
        unit="s",
    ),
    Row(
        name="healed after 10 min",
        scenario=scenarios.healed_after(600 * US_PER_S),
        node_count=1_000,
        seeds_count=2,
        quick_seeds_count=1,
        bar="10 s",
        unit="s",
    ),
    Row(
        name="all down, back on new addresses",
        scenario=scenarios.all_down_and_back,
        node_count=100,
        seeds_count=100,
        quick_seeds_count=3,
        bar="10 s",
        unit="s",
    ),
    Row(
        name="join storm of 100",
        scenario=scenarios.join_storm,
        node_count=101,
        seeds_count=100,
        quick_seeds_count=3,
        bar="1.5 s",
        unit="s",
        begins_settled=False,
    ),
    Row(
        name="idle, with telemetry",
        scenario=scenarios.idle_cost,
        node_count=100,
        seeds_count=10,
        quick_seeds_count=1,
        bar="30 kbit/s; 2",
        unit="kbit/s",
        is_for_swim=False,
    ),
    Row(
        name="idle, without telemetry",
        scenario=scenarios.idle_cost,
        node_count=100,
        seeds_count=10,
        quick_seeds_count=1,
        bar="6 kbit/s",
        unit="kbit/s",
        has_telemetry=False,
    ),
    Row(
        name="idle, with telemetry",
        scenario=scenarios.idle_cost,
        node_count=1_000,
        seeds_count=2,
        quick_seeds_count=1,
        bar="60 kbit/s",
        unit="kbit/s",
        is_for_swim=False,
    ),
    Row(
        name="new capability found by all",
        scenario=meshd_scenarios.new_capability,
        node_count=100,
        seeds_count=100,
        quick_seeds_count=3,
        bar="2 s",
        unit="s",
        is_for_swim=False,
    ),
    Row(
        name="removed at one, served by none",
        scenario=meshd_scenarios.removed_at_one,
        node_count=100,
        seeds_count=10,
        quick_seeds_count=1,
        bar="5 s; 1 s",
        unit="s",
        is_for_swim=False,
    ),
    Row(
        name="removed at one, served by none",
        scenario=meshd_scenarios.removed_at_one,
        node_count=1_000,
        seeds_count=10,
        quick_seeds_count=1,
        bar="5 s; 1 s",
        unit="s",
        is_for_swim=False,
    ),
    Row(
        name="a DHT lookup, dials not charged",
        scenario=meshd_scenarios.dht_lookup,
        node_count=1_000,
        seeds_count=10,
        quick_seeds_count=1,
        bar="0.35 s",
        unit="s p95",
        percentile=95,
        latency_us=25 * US_PER_MS,
        jitter_us=0,
        members_max=100,
        begins_settled=False,
        is_for_swim=False,
    ),
    Row(
        name="a fifth lie to lookups: missed",
        scenario=meshd_scenarios.lied_to,
        node_count=100,
        seeds_count=10,
        quick_seeds_count=1,
        bar="0.5 %",
        unit="%",
        members_max=30,
        begins_settled=False,
        is_for_swim=False,
    ),
)


def figure(row: Row, outcomes: Sequence[Outcome]) -> float:
    """Return the figure of a row over its seeds."""
    samples = [sample for outcome in outcomes for sample in outcome.samples]
    return max(samples) if row.percentile is None else percentile(samples, row.percentile)


def worst(outcomes: Sequence[Outcome]) -> int:
    """Return which of the outcomes has the worst sample."""
    return max(range(len(outcomes)), key=lambda index: max(outcomes[index].samples))


def beside(outcomes: Sequence[Outcome]) -> str:
    """Return what is told beside the figure: of each value the worst seed's."""
    names = sorted({name for outcome in outcomes for name in outcome.beside})
    highest = {name: max(outcome.beside.get(name, 0) for outcome in outcomes) for name in names}
    return ", ".join(f"{name} {_number(value)}" for name, value in highest.items())


def shown(row: Row, value: float) -> str:
    """Return a figure with its unit."""
    if math.isinf(value):
        return "not in time"
    return f"{_number(value)} {row.unit}".strip()


def _number(value: float) -> str:
    return f"{round(value, ROUND):g}"
