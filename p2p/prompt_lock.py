"""A lock that is taken at once when it is free.

`trio.Lock` lets all other tasks run first, which costs a turn of the loop: more than what libp2p
does while it holds one. On its way through libp2p a frame takes ten, each nearly always free.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final

import trio

AT_ONCE_MAX: Final = 16


class PromptLock:
    """A `trio.Lock` for `async with`; those who wait get it in their order, before any newcomer.

    Every `AT_ONCE_MAX`th time it lets other tasks run first, for libp2p's loops rely on that.
    """

    __slots__ = ("_left_count", "_lock")

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._left_count = AT_ONCE_MAX

    async def __aenter__(self) -> None:
        """Take it; cancellable only where this waits."""
        self._left_count -= 1
        if self._left_count and not self._lock.locked():
            self._lock.acquire_nowait()
        else:
            self._left_count = AT_ONCE_MAX
            await self._lock.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give it to whoever waited longest."""
        self._lock.release()
