"""A swarm tells of every seed, whatever becomes of the processes that run them."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from support.swarm_work import DEADLY, SLOW_S, defective, never_done, square, square_or_die

from simulations.errors import BadScenario
from simulations.mesh_node import MESH_NODE
from simulations.plan import Expectations, Plan
from simulations.scenarios import scenario
from simulations.swarm import BAD_SCENARIO, SeedResult, SwarmTally, result_of_seed
from simulations.workers import WorkerDied, Workers


def test_every_seed_is_worked_on_once_whatever_the_number_of_processes() -> None:
    results = dict(Workers(square, jobs_count=2).results(range(20)))
    assert results == {seed: seed * seed for seed in range(20)}
    assert multiprocessing.active_children() == []


def test_a_worker_that_is_killed_is_told_with_its_seed_and_replaced() -> None:
    results = dict(Workers(square_or_die, jobs_count=2).results(range(8)))
    assert results.pop(DEADLY) == WorkerDied(DEADLY, exit_code=-9)
    assert results == {seed: seed * seed for seed in range(8) if seed != DEADLY}


def test_a_defect_in_the_work_ends_its_process_with_a_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert dict(Workers(defective, jobs_count=1).results([5])) == {5: WorkerDied(5, exit_code=1)}
    assert "LookupError: a defect at 5" in capfd.readouterr().err


@pytest.fixture
def interrupted_in_a_second() -> Iterator[None]:
    """Let this process be interrupted, as by Ctrl-C, while it waits for the workers."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("interrupted_in_a_second")
def test_workers_end_at_once_with_whoever_started_them() -> None:
    started_s = time.monotonic()
    results = Workers(never_done, jobs_count=2).results(range(2))
    with contextlib.closing(results), pytest.raises(KeyboardInterrupt):
        next(results)
    assert multiprocessing.active_children() == []
    assert time.monotonic() - started_s < SLOW_S / 2


def test_a_swarm_in_which_anything_that_should_happen_never_did_is_void() -> None:
    tally = SwarmTally()
    tally.add(SeedResult(seed=0, sometimes=("takeover", "rejection"), seen={"split": 2}))
    tally.add(SeedResult(seed=1, sometimes=("takeover", "rejection"), seen={"takeover": 0}))
    assert tally.is_void
    assert tally.never == ["rejection", "takeover"]
    tally.add(SeedResult(seed=2, sometimes=("takeover", "rejection"), seen={"takeover": 1}))
    assert tally.sometimes == {"rejection": 0, "takeover": 1}
    assert tally.never == ["rejection"]
    assert tally.is_void
    tally.add(SeedResult(seed=3, sometimes=("takeover", "rejection"), seen={"rejection": 1}))
    assert not tally.is_void


def test_a_swarm_that_expects_nothing_is_not_void() -> None:
    tally = SwarmTally()
    tally.add(SeedResult(seed=0, seen={"split": 2}))
    assert not tally.is_void


def test_a_seed_that_holds_is_told_with_what_its_plan_wants_to_see() -> None:
    def plan_of(seed: int) -> Plan:
        plan = scenario("calm").plan(seed)
        return replace(plan, expect=Expectations(sometimes=("receipt.good",)))

    result = result_of_seed(plan_of, 4, MESH_NODE, repeat_with="", is_twice=True)
    assert not result.is_failure
    assert result.sometimes == ("receipt.good",)
    assert result.seen["receipt.good"] > 0
    assert result.complete_count == result.accepted_count > 0


def test_a_seed_whose_plan_cannot_be_is_a_failure_of_that_seed() -> None:
    def plan_of(seed: int) -> Plan:
        raise BadScenario(f"my.toml:3: nothing can be drawn for {seed}")

    result = result_of_seed(plan_of, 4, MESH_NODE, repeat_with="")
    assert (result.seed, result.broke) == (4, BAD_SCENARIO)
    assert "my.toml:3" in result.message
