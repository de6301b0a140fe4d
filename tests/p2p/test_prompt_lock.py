"""A lock that costs no turn of the loop when it is free."""

from __future__ import annotations

import trio
from trio.testing import assert_no_checkpoints, wait_all_tasks_blocked

from p2p.prompt_lock import AT_ONCE_MAX, PromptLock


async def test_a_free_lock_is_taken_at_once_and_given_back() -> None:
    lock = PromptLock()
    with assert_no_checkpoints():
        for _ in range(AT_ONCE_MAX - 1):
            async with lock:
                pass


async def test_one_holds_it_at_a_time_and_the_others_get_it_in_their_order() -> None:
    lock, order = PromptLock(), []

    async def hold(number: int) -> None:
        async with lock:
            order.append(number)
            await trio.lowlevel.checkpoint()
            assert order[-1] == number

    async with trio.open_nursery() as nursery:
        async with lock:
            for number in range(3):
                nursery.start_soon(hold, number)
                await wait_all_tasks_blocked()
            assert order == []
        nursery.start_soon(hold, 3)
    assert order == [0, 1, 2, 3]


async def test_who_takes_it_in_a_loop_lets_others_run() -> None:
    lock, taken_count = PromptLock(), 0

    async def take_often() -> None:
        nonlocal taken_count
        for _ in range(1_000):
            async with lock:
                taken_count += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_often)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert 0 < taken_count <= 4 * AT_ONCE_MAX


async def test_cancelled_waiting_leaves_the_lock_to_its_holder() -> None:
    lock = PromptLock()
    async with lock:
        with trio.move_on_after(0):
            async with lock:
                raise AssertionError("it is held")
    with assert_no_checkpoints():
        async with lock:
            pass
