"""The harness that cancels everywhere finds what it is there to find."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio
from support.cancel_everywhere import RUN_S_MAX, cancel_everywhere, open_files
from trio.testing import MockClock


async def checkpoints(count: int) -> None:
    for _ in range(count):
        await trio.lowlevel.checkpoint()


async def test_each_step_of_each_task_is_cancelled_once_and_then_the_end_is_reached(
    autojump_clock: MockClock,
) -> None:
    reached: list[tuple[int, int]] = []
    outcomes: list[bool] = []

    async def work() -> None:
        reached.append((0, 0))
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(take_steps)

    async def take_steps() -> None:
        for step in range(1, 4):
            await trio.lowlevel.checkpoint()
            reached[-1] = (max(reached[-1][0], step), reached[-1][1] + 1)

    runs_count = await cancel_everywhere(work, outcomes.append)
    assert outcomes == [*[True] * outcomes.count(True), *[False] * outcomes.count(False)]
    assert not outcomes[-1]
    assert [steps for _, steps in reached] == sorted(steps for _, steps in reached)
    assert {steps for _, steps in reached} == set(range(7))
    assert runs_count == len(reached) > 8


async def test_steps_that_do_not_count_are_not_cancelled() -> None:
    begun: list[int] = []

    async def work() -> None:
        begun.clear()
        await checkpoints(5)
        begun.append(1)
        await checkpoints(3)

    def check(was_cancelled: bool) -> None:
        assert begun

    runs_count = await cancel_everywhere(work, check, counts=lambda: bool(begun))
    assert runs_count == 4


async def test_an_error_on_the_way_out_is_found_with_the_step_that_showed_it() -> None:
    async def work() -> None:
        await checkpoints(3)
        try:
            await checkpoints(1)
        except trio.Cancelled as error:
            raise ValueError("half done") from error

    with pytest.raises(ValueError, match="half done") as raised:
        await cancel_everywhere(work)
    assert raised.value.__notes__ == ["cancelled before step 4"]


async def test_a_check_that_fails_is_found_with_its_step() -> None:
    async def work() -> None:
        await checkpoints(3)

    def check(was_cancelled: bool) -> None:
        assert was_cancelled, "the last run"

    with pytest.raises(AssertionError, match="the last run") as raised:
        await cancel_everywhere(work, check)
    assert raised.value.__notes__ == ["cancelled before step 4"]


@pytest.mark.parametrize("kind", ["file", "socket"])
async def test_what_is_left_open_is_found(tmp_path: Path, kind: str) -> None:
    left: list[object] = []

    async def work() -> None:
        path = tmp_path / "left.txt"
        opened = path.open("w") if kind == "file" else socket.socket()
        left.append(opened)
        await checkpoints(1)
        opened.close()

    before = open_files()
    with pytest.raises(AssertionError, match="left open:"):
        await cancel_everywhere(work)
    for each in left:
        each.close()  # type: ignore[attr-defined] # files and sockets
    assert open_files() == before


async def test_a_task_that_outlives_the_scenario_is_found() -> None:
    scope = trio.CancelScope()

    async def live_on() -> None:
        with scope:
            await trio.sleep_forever()

    async def work() -> None:
        trio.lowlevel.spawn_system_task(live_on)
        await checkpoints(1)

    with pytest.raises(AssertionError, match="a system task is left"):
        await cancel_everywhere(work)
    scope.cancel()


async def test_a_task_that_shields_itself_for_ever_is_found(autojump_clock: MockClock) -> None:
    async def work() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(RUN_S_MAX + 1)

    with pytest.raises(trio.TooSlowError):
        await cancel_everywhere(work)


async def test_a_scenario_that_does_not_end_is_found(autojump_clock: MockClock) -> None:
    with pytest.raises(trio.TooSlowError):
        await cancel_everywhere(trio.sleep_forever)
