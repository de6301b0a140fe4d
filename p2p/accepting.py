"""Accepts connections many at a time; those of unwelcome addresses are closed unread.

A refused connection is two system calls, some 30 us: no task, no stream, no turn of the loop.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final, NoReturn

import structlog
import trio

from p2p.addresses import Address, from_socket

BATCH_MAX: Final = 64
_PAUSE_S: Final = 0.1

log = structlog.get_logger()


async def accept_all(
    listening: socket.socket,
    *,
    may_come_in: Callable[[str], bool],
    take: Callable[[trio.SocketStream, Address], object],
) -> NoReturn:
    """Give each connection to `take` with the address of its other end, for ever.

    `listening` does not block. `may_come_in` is asked about the IP address of each, once.
    """
    while True:
        await trio.lowlevel.wait_readable(listening)
        for _ in range(BATCH_MAX):
            try:
                accepted, ends_at = listening.accept()
            except BlockingIOError:
                break
            except ConnectionAbortedError:
                continue
            except OSError as error:
                # Too many files are open, or a network is gone: what waits in the backlog can wait.
                log.error("accept.failed", reason=str(error))
                await trio.sleep(_PAUSE_S)
                break
            remote = from_socket(*ends_at[:2])
            if may_come_in(remote.host):
                take(trio.SocketStream(trio.socket.from_stdlib_socket(accepted)), remote)
            else:
                accepted.close()
        await trio.lowlevel.checkpoint()
