"""A run in numbers: percentiles, the states of invariants, and what breaches are called."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from support.planted import executes_twice, planted

from simulations.commit import UNKNOWN, current_commit
from simulations.errors import (
    EventBudgetSpent,
    InvariantBroken,
    NodeRaised,
    NotReached,
    SimulationError,
)
from simulations.invariants import INVARIANTS, in_order
from simulations.mesh_node import MESH_NODE
from simulations.runs import carry_out, name_of_breach
from simulations.scenarios import scenario
from simulations.summary import State, Summary, latencies_of, states_of, summary_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_percentiles_are_nearest_ranks() -> None:
    hundred = latencies_of(range(1, 101))
    assert hundred is not None
    assert (hundred.count, hundred.p50_us, hundred.p95_us, hundred.p99_us) == (100, 50, 95, 99)
    one = latencies_of([7])
    assert one is not None
    assert (one.p50_us, one.p99_us) == (7, 7)
    assert latencies_of([]) is None


def test_an_invariant_that_nothing_could_break_is_not_exercised() -> None:
    states = {one.name: one for one in states_of({"S1": 13, "S2": 0, "S5": 4}, broke="S5")}
    assert states["S1"].state is State.HELD
    assert states["S1"].looked_count == 13
    assert states["S2"].state is State.NOT_EXERCISED
    assert states["S5"].state is State.BROKE
    assert set(states) == set(INVARIANTS)


def test_what_is_no_invariant_is_told_after_them() -> None:
    *_, last = states_of({}, broke="NodeRaised(LookupError)")
    assert (last.name, last.state) == ("NodeRaised(LookupError)", State.BROKE)


def test_invariants_stand_in_the_order_people_count_them() -> None:
    assert in_order(["x", "L1", "S10", "S2", "S2"]) == ["S2", "S10", "L1", "x"]


def caused(error: SimulationError, cause: Exception) -> SimulationError:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (InvariantBroken("S10: somebody else wrote: it"), "S10"),
        (NotReached("not within 120 s: L1: everybody linked again"), "L1"),
        (NotReached("not within 30 s: device 1 to answer"), "NotReached"),
        (EventBudgetSpent("5000 events: a storm"), "S11"),
        (caused(NodeRaised("it raised"), LookupError("x")), "NodeRaised(LookupError)"),
    ],
)
def test_a_breach_has_a_name_whatever_exactly_happened(error: SimulationError, name: str) -> None:
    assert name_of_breach(error) == name


def test_a_run_that_holds_is_told_in_numbers_that_fit_its_trace() -> None:
    run = carry_out(scenario("calm").plan(3), MESH_NODE, repeat_with="x")
    summary = summary_of(run, commit=COMMIT, repeat_with="x")
    assert summary.breach is None
    assert summary.tasks.accepted == summary.tasks.complete > 0
    assert summary.latencies is not None
    assert summary.latencies.count == summary.tasks.complete
    assert 0 < summary.latencies.p50_us <= summary.latencies.p99_us < summary.virtual_us
    held = [one.name for one in summary.invariants if one.state is State.HELD]
    assert {"S1", "S2", "S3", "S5", "S6"} <= set(held)


def test_a_summary_survives_its_file() -> None:
    run = carry_out(scenario("calm").plan(3), planted(executes_twice), repeat_with="x")
    summary = summary_of(run, commit=COMMIT, repeat_with="x")
    assert summary.breach is not None
    assert summary.breach.invariant == "S5"
    assert "twice" in summary.breach.message
    assert msgspec.json.decode(msgspec.json.encode(summary), type=Summary) == summary


def test_the_shape_of_the_summary_is_what_readers_of_the_file_know() -> None:
    """A field that goes or changes its meaning needs another SUMMARY_VERSION."""
    assert Summary.__struct_fields__ == (
        "version",
        "scenario",
        "seed",
        "commit",
        "digest",
        "repeat_with",
        "node_count",
        "events_count",
        "virtual_us",
        "tasks",
        "latencies",
        "invariants",
        "breach",
        "expected_breach",
        "seen",
    )


def test_a_run_can_be_left_at_a_time_and_is_the_same_up_to_then() -> None:
    plan = scenario("calm").plan(3)
    whole = carry_out(plan, MESH_NODE, repeat_with="x")
    part = carry_out(plan, MESH_NODE, repeat_with="x", until_us=5_000_000)
    assert part.was_stopped
    assert part.runner.world.engine.now_us == 5_000_000
    assert 0 < len(part.lines) < len(whole.lines)
    assert part.lines == whole.lines[: len(part.lines)]
    assert not carry_out(plan, MESH_NODE, repeat_with="x", until_us=10**12).was_stopped


def checkout(path: Path, head: str) -> Path:
    git = path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text(head)
    return git


def test_the_commit_is_read_from_a_branch_a_packed_branch_or_a_bare_commit(tmp_path: Path) -> None:
    branch = checkout(tmp_path / "branch", "ref: refs/heads/main\n")
    (branch / "refs" / "heads" / "main").write_text(f"{COMMIT}\n")
    assert current_commit(tmp_path / "branch") == COMMIT
    packed = checkout(tmp_path / "packed", "ref: refs/heads/main\n")
    (packed / "packed-refs").write_text(
        f"# pack-refs\n{'f' * 40} refs/heads/x\n{COMMIT} refs/heads/main\n"
    )
    assert current_commit(tmp_path / "packed") == COMMIT
    checkout(tmp_path / "bare", f"{COMMIT}\n")
    assert current_commit(tmp_path / "bare") == COMMIT


def test_the_commit_of_a_linked_work_tree_is_read_from_where_its_branches_are(
    tmp_path: Path,
) -> None:
    git = checkout(tmp_path / "main", f"{'f' * 40}\n")
    (git / "refs" / "heads" / "side").write_text(f"{COMMIT}\n")
    linked = git / "worktrees" / "side"
    linked.mkdir(parents=True)
    (linked / "HEAD").write_text("ref: refs/heads/side\n")
    (linked / "commondir").write_text("../..\n")
    (tmp_path / "side").mkdir()
    (tmp_path / "side" / ".git").write_text(f"gitdir: {linked}\n")
    assert current_commit(tmp_path / "side") == COMMIT


@pytest.mark.parametrize("head", ["ref: refs/heads/none\n", "rubbish\n", "\0" * 100])
def test_a_commit_that_cannot_be_read_is_unknown(tmp_path: Path, head: str) -> None:
    checkout(tmp_path / "odd", head)
    assert current_commit(tmp_path / "odd") == UNKNOWN
    assert current_commit(tmp_path / "nowhere") == UNKNOWN
