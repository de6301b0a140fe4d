"""What waits for the node: in which order it is taken, how much may wait, and timers."""

from __future__ import annotations

from contextlib import aclosing

import pytest
import trio
from support.cancelling import cancelled_at_each_await
from trio.testing import MockClock, wait_all_tasks_blocked

from meshd.mailbox import (
    STALE_TIMERS_ENOUGH,
    WAITING_EVENTS_MAX,
    WAITING_OF_PEER_MAX,
    Durable,
    Item,
    Mailbox,
)
from wire.effects import Trace
from wire.events import Event, Listening, Received, TimerDue
from wire.ids import PeerId
from wire.messages import Heartbeat

THEN = (Trace("durable", {}),)


def event_of(number: int) -> Event:
    return Listening((f"/ip4/127.0.0.1/tcp/{number}",))


async def filled(mailbox: Mailbox) -> None:
    for number in range(WAITING_EVENTS_MAX):
        await mailbox.post(event_of(number))


async def take_all(mailbox: Mailbox) -> list[Item]:
    """Return what can be taken now."""
    taken: list[Item] = []
    with trio.move_on_after(0.001):
        while True:
            taken.append(await mailbox.take())
            await mailbox.after_event()
    return taken


async def test_durable_effects_come_before_timers_and_timers_before_events(
    autojump_clock: MockClock,
) -> None:
    mailbox = Mailbox()
    await mailbox.post(event_of(1))
    await mailbox.post(event_of(2))
    mailbox.set_timer("later", 2_000_000)
    mailbox.set_timer("sooner", 1_000_000)
    await trio.sleep(3)
    mailbox.post_durable(THEN)
    mailbox.post_durable(())
    assert [await mailbox.take() for _ in range(6)] == [
        Durable(THEN),
        Durable(()),
        TimerDue("sooner"),
        TimerDue("later"),
        event_of(1),
        event_of(2),
    ]
    assert mailbox.waiting_count == 0


async def test_timers_of_one_time_are_due_in_the_order_they_were_set(
    autojump_clock: MockClock,
) -> None:
    mailbox = Mailbox()
    for key in ("b", "a", "c"):
        mailbox.set_timer(key, 5)
    assert [await mailbox.take() for _ in range(3)] == [TimerDue("b"), TimerDue("a"), TimerDue("c")]


@pytest.mark.parametrize("again_us", [9_000_000, 2_000_000])
async def test_a_replaced_timer_is_due_once_at_its_new_time(
    autojump_clock: MockClock, again_us: int
) -> None:
    mailbox = Mailbox()
    started_s = trio.current_time()
    mailbox.set_timer("key", 5_000_000)
    mailbox.set_timer("key", again_us)
    assert await mailbox.take() == TimerDue("key")
    assert trio.current_time() - started_s == pytest.approx(again_us / 1e6)
    with trio.move_on_after(100) as scope:
        await mailbox.take()
    assert scope.cancelled_caught


async def test_a_node_that_was_busy_gets_each_timer_once_and_no_replaced_one(
    autojump_clock: MockClock,
) -> None:
    mailbox = Mailbox()
    mailbox.set_timer("sooner", 5_000_000)
    mailbox.set_timer("sooner", 1_000_000)
    mailbox.set_timer("later", 2_000_000)
    mailbox.set_timer("later", 60_000_000)
    await trio.sleep(10)
    assert await take_all(mailbox) == [TimerDue("sooner")]
    await trio.sleep(100)
    assert await take_all(mailbox) == [TimerDue("later")]
    assert not mailbox._current  # what is due is forgotten


async def test_a_timer_set_while_the_node_waits_for_a_later_one_is_not_late(
    autojump_clock: MockClock,
) -> None:
    mailbox = Mailbox()
    mailbox.set_timer("far", 60_000_000)
    started_s = trio.current_time()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def set_near() -> None:
            await trio.sleep(1)
            mailbox.set_timer("near", 1_000_000)
            await mailbox.post(event_of(1))

        assert await mailbox.take() == event_of(1)
    assert await mailbox.take() == TimerDue("near")
    assert trio.current_time() - started_s == pytest.approx(2)


async def test_a_timer_of_the_past_is_due_at_once(autojump_clock: MockClock) -> None:
    mailbox = Mailbox()
    started_s = trio.current_time()
    mailbox.set_timer("key", -5)
    assert await mailbox.take() == TimerDue("key")
    assert trio.current_time() == pytest.approx(started_s)


async def test_a_timer_that_is_set_again_and_again_takes_no_more_room(
    autojump_clock: MockClock,
) -> None:
    mailbox = Mailbox()
    for number in range(50):
        key = number * 37 % 50  # scrambled, so that sweeping has to put them in order again
        mailbox.set_timer(key, 1)
        mailbox.set_timer(key, 1_000_000 * (key + 1))
    for _ in range(100_000):
        mailbox.set_timer("lease", 3_600_000_000)
    assert len(mailbox._timers) <= 2 * 51 + STALE_TIMERS_ENOUGH
    assert [await mailbox.take() for _ in range(51)] == [
        TimerDue(key) for key in (*range(50), "lease")
    ]


async def test_a_full_mailbox_makes_senders_wait_for_room_one_by_one(
    autojump_clock: MockClock,
) -> None:
    mailbox = Mailbox()
    await filled(mailbox)
    posted: list[str] = []

    async def post(name: str) -> None:
        await mailbox.post(event_of(0))
        posted.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(post, "one")
        await wait_all_tasks_blocked()
        nursery.start_soon(post, "two")
        await wait_all_tasks_blocked()
        assert (posted, mailbox.waiting_count) == ([], WAITING_EVENTS_MAX)
        for expected in (["one"], ["one", "two"]):
            await mailbox.take()
            await mailbox.after_event()
            await wait_all_tasks_blocked()
            assert posted == expected
            assert mailbox.waiting_count == WAITING_EVENTS_MAX


async def test_what_the_node_itself_caused_never_waits_for_room(autojump_clock: MockClock) -> None:
    mailbox = Mailbox()
    await filled(mailbox)
    mailbox.post_durable(THEN)
    mailbox.post_now(event_of(99_999))
    mailbox.set_timer("key", 0)
    taken = await take_all(mailbox)
    assert taken[:2] == [Durable(THEN), TimerDue("key")]
    assert taken[2:] == [*map(event_of, range(WAITING_EVENTS_MAX)), event_of(99_999)]


@pytest.mark.parametrize("wake", ["post", "post_now", "post_durable"])
async def test_a_waiting_node_is_woken_by_whatever_comes(
    autojump_clock: MockClock, wake: str
) -> None:
    mailbox = Mailbox()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def leave() -> None:
            await wait_all_tasks_blocked()
            if wake == "post":
                await mailbox.post(event_of(1))
            elif wake == "post_now":
                mailbox.post_now(event_of(1))
            else:
                mailbox.post_durable(THEN)

        with trio.fail_after(1):
            item = await mailbox.take()
        assert item == (Durable(THEN) if wake == "post_durable" else event_of(1))


async def test_an_event_is_left_exactly_once_or_its_sender_was_cancelled(
    autojump_clock: MockClock,
) -> None:
    """Whenever a sender is cancelled, nothing is lost and nobody else waits for ever."""
    mailbox = Mailbox()
    event = event_of(77_777)

    async def post_into_a_full_mailbox() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_room)
            await mailbox.post(event)
            nursery.cancel_scope.cancel()

    async def make_room() -> None:
        await wait_all_tasks_blocked()
        await mailbox.take()
        await mailbox.after_event()

    async with aclosing(cancelled_at_each_await(post_into_a_full_mailbox)) as runs:
        await filled(mailbox)
        runs_count = 0
        async for was_cancelled in runs:
            runs_count += 1
            left_count = (await take_all(mailbox)).count(event)
            assert left_count <= 1
            assert was_cancelled or left_count == 1
            with trio.fail_after(1):
                await filled(mailbox)  # the lock is free and there is room
    assert runs_count > 3


async def test_a_cancelled_taker_takes_nothing_with_it(autojump_clock: MockClock) -> None:
    mailbox = Mailbox()
    await mailbox.post(event_of(1))
    taken: list[Item] = []

    async def take() -> None:
        taken.append(await mailbox.take())

    async with aclosing(cancelled_at_each_await(take)) as runs:
        async for was_cancelled in runs:
            assert was_cancelled == (not taken)
            assert mailbox.waiting_count + len(taken) == 1


async def test_a_flood_of_one_peer_waits_and_the_message_of_another_does_not(
    autojump_clock: MockClock,
) -> None:
    mailbox = Mailbox()
    flooder, honest = PeerId(b"f" * 32), PeerId(b"h" * 32)

    async def flood() -> None:
        for number in range(100):
            await mailbox.post(Received(flooder, Heartbeat(token=number)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        await wait_all_tasks_blocked()
        assert mailbox.waiting_count == WAITING_OF_PEER_MAX
        with trio.fail_after(1):
            await mailbox.post(Received(honest, Heartbeat(token=1)))
        taken = await take_all(mailbox)
    senders = [event.peer for event in taken if isinstance(event, Received)]
    assert senders.index(honest) == WAITING_OF_PEER_MAX
    assert len(taken) == 101
    assert not mailbox._waiting_of
