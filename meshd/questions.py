"""Questions of people to the node, and the answers on their way back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from wire.answers import Answer as AnswerValue
from wire.answers import JoinAnswer
from wire.commands import Command
from wire.effects import Answer, AnswerJoin
from wire.events import Asked, AskedNoMore, Event, JoinAsked
from wire.ids import PeerId
from wire.membership import JoinRefusal, JoinRefused, JoinRequest

ANSWERS_WAITING_MAX = 4_096
JOIN_S_MAX = 10.0


class Questions:
    """Numbers the questions. An asker that falls ANSWERS_WAITING_MAX behind loses its answers.

    `emit` may wait. `emit_now` may not, so that an asker can leave while the daemon stops; it gets
    one event for a question at most.
    """

    def __init__(
        self, emit: Callable[[Event], Awaitable[None]], *, emit_now: Callable[[Event], None]
    ) -> None:
        self._emit = emit
        self._emit_now = emit_now
        self._count = 0
        self._asked: dict[int, trio.MemorySendChannel[AnswerValue]] = {}
        self._joining: dict[int, trio.MemorySendChannel[JoinAnswer]] = {}

    @asynccontextmanager
    async def ask(self, command: Command) -> AsyncIterator[AsyncIterator[AnswerValue]]:
        """Put a command to the node; leaving the context withdraws it."""
        self._count += 1
        request = self._count
        send, receive = trio.open_memory_channel[AnswerValue](ANSWERS_WAITING_MAX)
        self._asked[request] = send
        was_put = False
        with send, receive:
            try:
                await self._emit(Asked(request, command))
                was_put = True
                yield receive
            finally:
                if self._asked.pop(request, None) is not None and was_put:
                    self._emit_now(AskedNoMore(request))

    def answer(self, answer: Answer) -> None:
        """Bring an answer to whoever asked, if it still waits."""
        send = self._asked.get(answer.request)
        if send is None:
            return
        try:
            send.send_nowait(answer.value)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            send.close()  # it reads too slowly, or not at all: it sees its answers end
        if answer.is_last:
            send.close()
            del self._asked[answer.request]

    async def ask_join(self, peer: PeerId, join: JoinRequest) -> JoinAnswer:
        """Put a joiner's request to the node; without an answer in time it is told to come back."""
        self._count += 1
        request = self._count
        send, receive = trio.open_memory_channel[JoinAnswer](1)
        self._joining[request] = send
        try:
            with send, receive, trio.move_on_after(JOIN_S_MAX):
                await self._emit(JoinAsked(request, peer, join))
                return await receive.receive()
        finally:
            del self._joining[request]
        return JoinRefused(reason=JoinRefusal.BUSY)

    def answer_join(self, answer: AnswerJoin) -> None:
        """Bring an answer to a joiner."""
        send = self._joining.get(answer.request)
        if send is not None:
            send.send_nowait(answer.answer)
