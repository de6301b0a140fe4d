"""The table of membership: both protocols are measured alike, and the rows say what they should."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import pytest

from benchmarks.membership import scenarios
from benchmarks.membership.jobs import PROTOCOLS, Job, grouped, run
from benchmarks.membership.mesh import US_PER_S, Mesh, MeshSettings, View
from benchmarks.membership.rows import ROWS, Row, beside, figure, shown, worst
from benchmarks.membership.scenarios import NEVER, Outcome, Scenario, percentile, settle

ROW = Row(
    name="any",
    scenario=scenarios.join_storm,
    node_count=3,
    seeds_count=1,
    quick_seeds_count=1,
    bar="1 s",
    unit="s",
)


def settled(protocol: str, *, seed: int, node_count: int) -> Mesh:
    mesh = PROTOCOLS[protocol](MeshSettings(seed=seed, node_count=node_count))
    settle(mesh)
    return mesh


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_a_mesh_of_either_protocol_becomes_full_and_costs_bytes(protocol: str) -> None:
    mesh = PROTOCOLS[protocol](MeshSettings(seed=1, node_count=6))
    changes = mesh.watch(every_us=50_000)
    mesh.start(range(6))
    mesh.run_for(10 * US_PER_S)
    pairs = [(one, other) for one in range(6) for other in range(6) if one != other]
    assert {mesh.view(*pair) for pair in pairs} == {View.ALIVE}
    assert {(one.observer, one.subject) for one in changes} == set(pairs)
    traffic = mesh.traffic()
    assert 0 < traffic.frame_bytes < traffic.wire_bytes


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_all_come_back_from_a_power_cut_with_one_address_left(protocol: str) -> None:
    mesh = settled(protocol, seed=1, node_count=5)
    outcome = scenarios.all_down_and_back(mesh, 1)
    assert 0 < outcome.samples[0] < NEVER


def test_more_devices_than_have_links_come_back_within_ten_seconds_with_one_address_left() -> None:
    mesh = settled("meshd", seed=1, node_count=50)
    outcome = scenarios.all_down_and_back(mesh, 1)
    assert outcome.samples[0] <= 10


@pytest.mark.parametrize(
    "scenario",
    [scenarios.crash_seen_by_all, scenarios.half_cut, scenarios.healed_after(20 * US_PER_S)],
)
def test_a_scenario_measures_plain_swim(scenario: Scenario) -> None:
    mesh = settled("swim", seed=2, node_count=20)
    outcome = scenario(mesh, 2)
    assert outcome.samples
    assert all(0 <= sample < NEVER for sample in outcome.samples)


def test_the_verdicts_of_meshd_are_views_and_their_changes_are_noted() -> None:
    mesh = settled("meshd", seed=1, node_count=10)
    outcome = scenarios.crash_seen_by_all(mesh, 1)
    assert len(outcome.samples) == 9
    assert all(0 < sample < 10 for sample in outcome.samples)
    assert outcome.beside == {"others declared dead": 0}


def test_nodes_that_stall_are_declared_dead_by_plain_swim_and_counted() -> None:
    mesh = settled("swim", seed=1, node_count=30)
    outcome = scenarios.frozen(mesh, 1)
    assert outcome.beside["state changes about the frozen"] > 0
    assert outcome.beside["degraded views"] > 0


def test_the_figure_is_a_percentile_over_all_samples_or_the_worst_seed() -> None:
    outcomes = [
        Outcome(samples=tuple(range(100)), beside={"wrong": 1}),
        Outcome(samples=tuple(range(100, 200)), beside={"wrong": 0, "copies": 1.5}),
    ]
    assert percentile(range(1, 201), 99) == 198
    assert figure(replace(ROW, percentile=95), outcomes) == 189
    assert figure(ROW, outcomes) == 199
    assert worst(outcomes) == 1
    assert beside(outcomes) == "copies 1.5, wrong 1"
    assert shown(ROW, 1.234) == "1.23 s"
    assert shown(ROW, math.inf) == "not in time"


def test_what_never_happened_is_the_worst_figure() -> None:
    assert figure(ROW, [Outcome(samples=(1.0,)), Outcome(samples=(NEVER,))]) == NEVER


def test_every_row_has_seeds_and_a_job_runs_one_of_them() -> None:
    assert all(0 < row.quick_seeds_count <= row.seeds_count for row in ROWS)
    [done] = run(Job((place_of("join storm"),), "swim", 1))
    assert done.outcome.samples[0] < 10
    assert done.seconds > 0


def test_rows_that_share_a_mesh_give_what_each_gives_alone() -> None:
    crash, half_cut = place_of("crash"), place_of("half-cut")

    together = run(Job((half_cut, crash), "swim", 1))

    assert [done.row for done in together] == [half_cut, crash]
    assert [done.outcome for done in together] == [
        run(Job((row,), "swim", 1))[0].outcome for row in (half_cut, crash)
    ]


def test_rows_share_a_mesh_if_it_is_of_the_same_size_and_network_and_has_settled() -> None:
    groups = grouped(range(len(ROWS)))
    assert sorted(place for group in groups for place in group) == list(range(len(ROWS)))
    alike = [
        {(ROWS[place].begins_settled, ROWS[place].settings(7)) for place in group}
        for group in groups
    ]
    assert all(len(kinds) == 1 for kinds in alike)
    assert len(set().union(*alike)) == len(groups)
    assert (place_of("crash"), place_of("10 frozen")) == next(
        group[:2] for group in grouped([place_of("crash"), place_of("10 frozen")])
    )


def test_a_row_that_fails_in_its_copy_fails_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(mesh: Mesh, seed: int) -> Outcome:
        sys.exit(3)

    monkeypatch.setattr("benchmarks.membership.jobs.ROWS", (replace(ROW, scenario=dies),))
    with pytest.raises(RuntimeError, match="exit code 3"):
        run(Job((0,), "swim", 1))


def place_of(name: str) -> int:
    return next(place for place, row in enumerate(ROWS) if row.name.startswith(name))
