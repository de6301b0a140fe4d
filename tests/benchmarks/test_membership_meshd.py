"""The rows of meshd alone: what they measure happens, and counts as never when it does not."""

from __future__ import annotations

import pytest

from benchmarks.membership import meshd_scenarios
from benchmarks.membership.mesh import MeshSettings
from benchmarks.membership.meshd_mesh import MeshdMesh
from benchmarks.membership.scenarios import NEVER, settle
from benchmarks.membership.swim_mesh import SwimMesh

SETTINGS = MeshSettings(seed=1, node_count=12)


def settled() -> MeshdMesh:
    mesh = MeshdMesh(SETTINGS)
    settle(mesh)
    return mesh


def test_a_new_label_is_found_by_all_soon_after_the_start() -> None:
    outcome = meshd_scenarios.new_capability(settled(), 1)
    assert len(outcome.samples) == 11
    assert all(0 < sample <= 2 for sample in outcome.samples)


def test_a_label_that_nobody_provides_is_never_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MeshdMesh, "provide", lambda *_: None)
    outcome = meshd_scenarios.new_capability(settled(), 1)
    assert set(outcome.samples) == {NEVER}


def test_a_removed_device_is_served_by_none_and_who_was_cut_off_hears_by_its_first_link() -> None:
    outcome = meshd_scenarios.removed_at_one(settled(), 1)
    assert 0 < outcome.samples[0] <= 5
    assert 0 <= outcome.beside["from its first link s"] <= 1
    assert outcome.beside["cut off: from the heal s"] < NEVER


def test_a_device_that_nobody_removes_is_served_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MeshdMesh, "remove", lambda *_: None)
    outcome = meshd_scenarios.removed_at_one(settled(), 1)
    assert outcome.samples == (NEVER,)


def test_what_three_provide_is_found_by_walking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meshd_scenarios, "LOOKUP_ROUNDS", 1)
    monkeypatch.setattr(meshd_scenarios, "KEYS_COUNT", 5)
    settings = MeshSettings(seed=1, node_count=40, members_max=30, latency_us=25_000, jitter_us=0)
    outcome = meshd_scenarios.dht_lookup(MeshdMesh(settings), 1)
    assert all(0.05 < sample < 1 for sample in outcome.samples)
    assert outcome.beside["answered s p95"] < 2
    assert outcome.beside["missed"] == 0


def test_what_three_honest_devices_provide_is_found_among_a_fifth_of_liars(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meshd_scenarios, "LOOKUP_ROUNDS", 1)
    monkeypatch.setattr(meshd_scenarios, "KEYS_COUNT", 5)
    settings = MeshSettings(seed=1, node_count=40, members_max=30)
    outcome = meshd_scenarios.lied_to(MeshdMesh(settings), 1)
    assert outcome.samples == (0,)
    assert outcome.beside["lookups"] == 25


def test_a_scenario_of_meshd_refuses_another_protocol() -> None:
    with pytest.raises(TypeError, match="new_capability is of meshd"):
        meshd_scenarios.new_capability(SwimMesh(SETTINGS), 1)
