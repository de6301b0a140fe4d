"""Workers of a simulated device: one program each, in order, which can stand still and be slow."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from simulations.engine import US_PER_S, Engine
from simulations.sandbox import Ended, Program, Workers, foresee, module_of
from wire.effects import RunId
from wire.execution import ExecutionStatus
from wire.ids import BatchId
from wire.limits import Limits
from wire.tasks import Epoch

MODULE = module_of(Program(work_us=US_PER_S))


def run_id(index: int) -> RunId:
    return RunId(BatchId(b"b" * 20), index, Epoch(0, 1, 0), 1)


class Bench:
    """Two workers, and when the runs on them ended."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.workers = Workers(2, self.engine.after, lambda: self.engine.now_us)
        self.ended_us: dict[int, int] = {}

    def start(self, index: int, wall_us: int) -> None:
        def end(_: Ended) -> None:
            self.ended_us[index] = self.engine.now_us

        ended = Ended(status=ExecutionStatus.EXITED, wall_us=wall_us)
        self.workers.start(run_id(index), ended, end)

    def run_for(self, duration_us: int) -> None:
        self.engine.run(until_us=self.engine.now_us + duration_us, events_max=100)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_programs_wait_in_order_for_a_worker(bench: Bench) -> None:
    for index, wall_us in enumerate((30, 10, 10, 10)):
        bench.start(index, wall_us)
    bench.run_for(100)
    assert bench.ended_us == {1: 10, 2: 20, 0: 30, 3: 30}


def test_programs_that_stand_still_take_as_much_longer(bench: Bench) -> None:
    bench.start(0, 30)
    bench.run_for(10)
    bench.workers.set_paused(True)
    bench.start(1, 5)
    bench.run_for(1_000)
    assert bench.ended_us == {}
    bench.workers.set_paused(False)
    bench.run_for(15)
    bench.workers.set_paused(True)
    bench.workers.set_paused(True)
    bench.run_for(1_000)
    bench.workers.set_paused(False)
    bench.run_for(1)
    bench.workers.set_paused(False)
    bench.run_for(4)
    assert bench.ended_us == {1: 1_015, 0: 2_030}


@pytest.mark.parametrize("end", [Workers.clear, lambda workers: workers.kill(run_id(0))])
def test_what_is_ended_while_it_stands_still_never_goes_on(
    bench: Bench, end: Callable[[Workers], None]
) -> None:
    bench.start(0, 30)
    bench.workers.set_paused(True)
    end(bench.workers)
    bench.workers.set_paused(False)
    bench.run_for(1_000)
    assert bench.ended_us == {}


def test_a_slow_run_takes_longer_costs_the_same_fuel_and_may_run_out_of_time() -> None:
    fast = foresee(MODULE, b"", 0, Limits(), speed_permille=2_000)
    usual = foresee(MODULE, b"", 0, Limits(), speed_permille=1_000)
    slow = foresee(MODULE, b"", 0, Limits(), speed_permille=1_000, slowdown=20)
    assert [each.wall_us for each in (fast, usual, slow)] == [500_000, US_PER_S, 20 * US_PER_S]
    assert fast.output == usual.output == slow.output != b""
    assert fast.fuel_used == slow.fuel_used
    late = foresee(MODULE, b"", 0, Limits(), speed_permille=1_000, slowdown=31)
    assert late.status is ExecutionStatus.OUT_OF_TIME
    assert late.wall_us == Limits().wall_us


def test_a_run_that_ended_while_its_device_was_stalled_is_told_when_it_goes_on() -> None:
    bench, held_back = Bench(), []
    bench.workers = Workers(
        1, lambda _, action: held_back.append(action), lambda: bench.engine.now_us
    )
    bench.start(0, US_PER_S)
    bench.run_for(3 * US_PER_S)  # it was due after one second, and nobody took it in
    bench.workers.set_paused(True)
    bench.workers.set_paused(False)
    held_back[-1]()
    assert bench.ended_us == {0: 3 * US_PER_S}
