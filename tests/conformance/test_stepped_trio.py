"""Trio step by step: tasks run only when told, in an order that a seed decides."""

from __future__ import annotations

import pytest
import trio
from support import repeatable_trio
from support.repeatable_trio import TrioChanged, repeatable_order
from support.stepped_trio import SteppedTrio, stepped_trio
from trio._core import _run


def turns_of(seed: int, tasks_count: int = 10) -> list[int]:
    """Return in which order tasks that may all run take their turns."""
    turns: list[int] = []

    async def take_turns(number: int) -> None:
        for _ in range(3):
            turns.append(number)
            await trio.lowlevel.checkpoint()

    with stepped_trio(seed) as stepped:
        for number in range(tasks_count):
            stepped.nursery.start_soon(take_turns, number)
        stepped.settle()
    assert len(turns) == 3 * tasks_count
    return turns


def test_a_seed_decides_the_order_of_tasks() -> None:
    """The canary: if trio shuffles tasks in another way some day, this is what tells."""
    orders = [turns_of(seed) for seed in range(6)]
    assert orders == [turns_of(seed) for seed in range(6)]
    assert len({*map(tuple, orders)}) == len(orders)


def test_trio_is_left_as_it_was() -> None:
    before = vars(_run)["_ALLOW_DETERMINISTIC_SCHEDULING"], vars(_run)["_r"].getstate()
    with repeatable_order(7):
        vars(_run)["_r"].random()
    assert before == (vars(_run)["_ALLOW_DETERMINISTIC_SCHEDULING"], vars(_run)["_r"].getstate())


@pytest.mark.parametrize("name", ["_FLAG", "_SOURCE"])
def test_a_trio_that_shuffles_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(repeatable_trio, name, "_gone")
    with pytest.raises(TrioChanged, match="_gone"), repeatable_order(1):
        pass


def test_time_stands_still_until_it_is_moved() -> None:
    rung_s: list[float] = []

    async def ring(after_s: float) -> None:
        await trio.sleep(after_s)
        rung_s.append(trio.current_time())

    with stepped_trio(1) as stepped:
        for after_s in (3.0, 1.0, 2.0):
            stepped.nursery.start_soon(ring, after_s)
        stepped.settle()
        assert (rung_s, stepped.next_deadline_s) == ([], 1.0)
        stepped.jump_to(2.5)
        stepped.settle()
        assert (rung_s, stepped.next_deadline_s) == ([2.5, 2.5], 3.0)


def test_tasks_started_and_woken_from_outside_run_at_the_next_step() -> None:
    seen: list[str] = []
    with stepped_trio(1) as stepped:
        event = trio.Event()

        async def wait() -> None:
            seen.append("waits")
            await event.wait()
            seen.append("woken")

        stepped.nursery.start_soon(wait)
        assert seen == []
        stepped.settle()
        event.set()
        assert seen == ["waits"]
        stepped.settle()
        assert seen == ["waits", "woken"]


def test_what_a_task_raises_comes_out_of_the_step_and_nothing_runs_on() -> None:
    ended: list[str] = []

    async def wait() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("cancelled")

    async def fail() -> None:
        await trio.sleep(1)
        raise ValueError("a defect")

    with stepped_trio(1) as stepped:
        stepped.nursery.start_soon(wait)
        stepped.nursery.start_soon(fail)
        stepped.settle()
        stepped.jump_to(1)
        with pytest.RaisesGroup(ValueError):
            stepped.settle()
        assert ended == ["cancelled"]
    with pytest.raises(RuntimeError):
        trio.current_time()  # no run is left behind


def test_an_error_of_the_host_ends_all_tasks_and_is_what_comes_out() -> None:
    def fail_between_steps() -> None:
        with stepped_trio(1) as stepped:
            stepped.nursery.start_soon(trio.sleep_forever)
            stepped.settle()
            raise KeyError("of the host")

    with pytest.raises(KeyError):
        fail_between_steps()
    with pytest.raises(RuntimeError):
        trio.current_time()


def test_tasks_that_never_rest_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    async def spin() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr("support.stepped_trio.TICKS_MAX", 100)
    with SteppedTrio() as stepped:
        stepped.nursery.start_soon(spin)
        with pytest.raises(AssertionError, match="did not come to rest"):
            stepped.settle()
