"""Connections are accepted many at a time, and whoever is not welcome is closed unread."""

from __future__ import annotations

import errno
import functools
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
from support.hosts import until

from p2p.accepting import BATCH_MAX, accept_all
from p2p.addresses import Address

WELCOME, UNWELCOME = "127.0.0.1", "127.0.0.2"


class Failing(socket.socket):
    """A socket whose next accept fails."""

    error: OSError | None = None

    def accept(self) -> tuple[socket.socket, object]:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return super().accept()


@asynccontextmanager
async def listening(
    may_come_in: Callable[[str], bool],
) -> AsyncIterator[tuple[Failing, list[tuple[trio.SocketStream, Address]]]]:
    taken: list[tuple[trio.SocketStream, Address]] = []
    with Failing() as bound:
        bound.bind((WELCOME, 0))
        bound.listen(256)
        bound.setblocking(False)

        async def run() -> None:
            await accept_all(
                bound,
                may_come_in=may_come_in,
                take=lambda stream, remote: taken.append((stream, remote)),
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield bound, taken
            nursery.cancel_scope.cancel()
    for stream, _ in taken:
        await stream.aclose()


async def dial(bound: socket.socket, ip: str) -> trio.SocketStream:
    return await trio.open_tcp_stream(*bound.getsockname(), local_address=ip)


async def test_who_is_welcome_is_taken_with_its_address_and_others_are_closed() -> None:
    asked: list[str] = []

    def may_come_in(ip: str) -> bool:
        asked.append(ip)
        return ip == WELCOME

    async with listening(may_come_in) as (bound, taken):
        refused = await dial(bound, UNWELCOME)
        with trio.fail_after(5):
            assert await refused.receive_some() == b""
        welcome = await dial(bound, WELCOME)
        await until(lambda: len(taken) == 1)
        stream, remote = taken[0]
        assert remote == Address("ip4", *welcome.socket.getsockname())
        await stream.send_all(b"hello")
        assert await welcome.receive_some() == b"hello"
        assert asked == [UNWELCOME, WELCOME]
        await refused.aclose()
        await welcome.aclose()


async def test_others_run_between_batches_of_a_flood() -> None:
    turn = 0
    turns: list[int] = []

    def may_come_in(ip: str) -> bool:
        turns.append(turn)
        return False

    count = 2 * BATCH_MAX
    async with listening(may_come_in) as (bound, _):
        flood = [socket.create_connection(bound.getsockname()) for _ in range(count)]
        with trio.fail_after(5):
            while len(turns) < count:
                turn += 1
                await trio.lowlevel.checkpoint()
        for stream in flood:
            stream.close()
    assert max(Counter(turns).values()) <= BATCH_MAX


async def test_a_failure_to_accept_is_waited_out() -> None:
    async with listening(lambda ip: True) as (bound, taken):
        errors = (OSError(errno.EMFILE, "too many"), ConnectionAbortedError())
        for taken_count, error in enumerate(errors, start=1):
            bound.error = error
            stream = await dial(bound, WELCOME)
            await until(functools.partial(has, taken, taken_count))
            assert bound.error is None
            await stream.aclose()


def has(taken: list[tuple[trio.SocketStream, Address]], count: int) -> bool:
    return len(taken) == count
