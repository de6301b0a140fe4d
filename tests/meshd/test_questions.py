"""Questions of people and joiners: answers in order, and what happens when somebody leaves."""

from __future__ import annotations

from contextlib import aclosing

import pytest
import trio
from support.answer_views import task_view
from support.cancelling import cancelled_at_each_await
from support.meshes import small_mesh
from trio.testing import MockClock, wait_all_tasks_blocked

from meshd.mailbox import Mailbox
from meshd.questions import ANSWERS_WAITING_MAX, JOIN_S_MAX, Questions
from wire.answers import Answer as AnswerValue
from wire.answers import JoinAnswer
from wire.commands import GetStatus, WaitTask
from wire.effects import Answer, AnswerJoin
from wire.events import Asked, AskedNoMore, Event, JoinAsked
from wire.membership import JoinGranted, JoinRefusal, JoinRefused, JoinRequest

COMMAND = WaitTask("task")
MESH = small_mesh(2)
JOINER = MESH.devices[1].peer
JOIN = JoinRequest(secret=b"s" * 16, name="new")
GRANTED = JoinGranted(genesis=MESH.genesis, chain=MESH.devices[1].chain)


class Ears:
    """Hears the events of questions; while `is_full`, leaving one waits."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.is_full = False
        self.questions = Questions(self._emit, emit_now=self.events.append)

    async def _emit(self, event: Event) -> None:
        await trio.lowlevel.checkpoint()
        if self.is_full:
            await trio.sleep_forever()
        self.events.append(event)

    @property
    def withdrawn(self) -> list[int]:
        """The requests that were withdrawn."""
        return [event.request for event in self.events if isinstance(event, AskedNoMore)]


def answer(request: int, number: int, *, is_last: bool = False) -> Answer:
    return Answer(request, task_view(index=number), is_last)


async def read(ears: Ears, *answers: Answer) -> list[AnswerValue]:
    """Ask, and return everything that comes."""
    async with ears.questions.ask(COMMAND) as coming:
        for each in answers:
            ears.questions.answer(each)
        return [value async for value in coming]


async def test_answers_come_in_order_and_end_with_the_last(autojump_clock: MockClock) -> None:
    ears = Ears()
    values = await read(ears, answer(1, 0), answer(1, 1), answer(1, 2, is_last=True))
    assert values == [task_view(index=number) for number in range(3)]
    assert ears.events == [Asked(1, COMMAND)]  # answered to the end: nothing to withdraw


async def test_each_asker_gets_its_own_answers(autojump_clock: MockClock) -> None:
    ears = Ears()
    questions = ears.questions
    async with questions.ask(COMMAND) as first, questions.ask(GetStatus()) as second:
        assert ears.events == [Asked(1, COMMAND), Asked(2, GetStatus())]
        questions.answer(answer(2, 2, is_last=True))
        questions.answer(answer(1, 1, is_last=True))
        assert [value async for value in first] == [task_view(index=1)]
        assert [value async for value in second] == [task_view(index=2)]


async def test_leaving_before_the_last_answer_withdraws_the_question(
    autojump_clock: MockClock,
) -> None:
    ears = Ears()
    async with ears.questions.ask(COMMAND) as coming:
        ears.questions.answer(answer(1, 0))
        async for _ in coming:
            break
    assert ears.events == [Asked(1, COMMAND), AskedNoMore(1)]
    ears.questions.answer(answer(1, 1))  # it was under way: nobody is there any more
    ears.questions.answer(answer(99, 1))


async def test_an_asker_that_fails_withdraws_its_question(autojump_clock: MockClock) -> None:
    ears = Ears()
    with pytest.raises(OSError, match="gone"):
        async with ears.questions.ask(COMMAND):
            raise OSError("gone")
    assert ears.withdrawn == [1]


async def test_an_asker_that_reads_too_slowly_loses_its_answers_and_harms_nobody(
    autojump_clock: MockClock,
) -> None:
    ears = Ears()
    async with ears.questions.ask(COMMAND) as coming:
        for number in range(ANSWERS_WAITING_MAX + 10):
            ears.questions.answer(answer(1, number))
        values = [value async for value in coming]
    assert values == [task_view(index=number) for number in range(ANSWERS_WAITING_MAX)]
    assert ears.withdrawn == [1]


async def test_a_slow_asker_that_was_answered_to_the_end_withdraws_nothing(
    autojump_clock: MockClock,
) -> None:
    ears = Ears()
    async with ears.questions.ask(COMMAND):
        for number in range(ANSWERS_WAITING_MAX + 2):
            ears.questions.answer(answer(1, number))
        ears.questions.answer(answer(1, 0, is_last=True))
    assert ears.withdrawn == []


async def test_whenever_an_asker_is_cancelled_it_withdraws_what_it_asked(
    autojump_clock: MockClock,
) -> None:
    ears = Ears()

    async def ask() -> None:
        async with ears.questions.ask(COMMAND) as coming:
            asked = ears.events[-1]
            assert isinstance(asked, Asked)
            ears.questions.answer(answer(asked.request, 0))
            async for _ in coming:
                break
            await trio.lowlevel.checkpoint()
            ears.questions.answer(answer(asked.request, 1, is_last=True))
            await trio.lowlevel.checkpoint()

    withdrawn_counts = []
    async with aclosing(cancelled_at_each_await(ask)) as runs:
        async for _ in runs:
            asked = [event.request for event in ears.events if isinstance(event, Asked)]
            assert set(ears.withdrawn) <= set(asked)
            assert not ears.questions._asked
            withdrawn_counts.append((len(asked), len(ears.withdrawn)))
            ears.events.clear()
    assert withdrawn_counts[0] == (0, 0)  # it was never asked
    assert (1, 1) in withdrawn_counts
    assert withdrawn_counts[-1] == (1, 0)  # it was answered to the end


async def test_a_question_asked_while_the_daemon_stops_does_not_hang(
    autojump_clock: MockClock,
) -> None:
    """Nobody empties the mailbox any more: leaving must not wait for room in it."""
    mailbox = Mailbox()
    questions = Questions(mailbox.post, emit_now=mailbox.post_now)
    asked = trio.Event()

    async def ask() -> None:
        async with questions.ask(COMMAND) as coming:
            asked.set()
            async for _ in coming:
                pass

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await asked.wait()
            with trio.move_on_after(1):
                while True:
                    await mailbox.post(Asked(0, GetStatus()))
            nursery.start_soon(ask)  # this one never gets into the mailbox
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    items = []
    with trio.move_on_after(1):
        while True:
            items.append(await mailbox.take())
    assert items[0] == Asked(1, COMMAND)
    assert [item for item in items if isinstance(item, AskedNoMore)] == [AskedNoMore(1)]


async def test_a_joiner_gets_its_answer(autojump_clock: MockClock) -> None:
    ears = Ears()
    answers: list[JoinAnswer] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def ask() -> None:
            answers.append(await ears.questions.ask_join(JOINER, JOIN))

        await wait_all_tasks_blocked()
        assert ears.events == [JoinAsked(1, JOINER, JOIN)]
        ears.questions.answer_join(AnswerJoin(2, JoinRefused(reason=JoinRefusal.UNKNOWN)))
        assert answers == []
        ears.questions.answer_join(AnswerJoin(1, GRANTED))
    assert answers == [GRANTED]


@pytest.mark.parametrize("is_full", [False, True])
async def test_a_joiner_that_is_not_answered_in_time_is_told_to_come_back(
    autojump_clock: MockClock, is_full: bool
) -> None:
    ears = Ears()
    ears.is_full = is_full
    started_s = trio.current_time()
    answered = await ears.questions.ask_join(JOINER, JOIN)
    assert answered == JoinRefused(reason=JoinRefusal.BUSY)
    assert trio.current_time() - started_s == pytest.approx(JOIN_S_MAX)
    ears.questions.answer_join(AnswerJoin(1, GRANTED))  # too late: nobody is there


async def test_a_cancelled_joiner_is_forgotten(autojump_clock: MockClock) -> None:
    ears = Ears()
    with trio.move_on_after(1):
        await ears.questions.ask_join(JOINER, JOIN)
    assert not ears.questions._joining
