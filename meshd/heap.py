"""Gives memory that was freed back to the system.

glibc keeps what lies between blocks that are still in use. A start, with its handshakes, leaves
some 12 MiB of that behind, a tenth of what a daemon has, and so does any busy time after it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

import trio

SETTLED_S: Final = 30.0
TRIM_EVERY_S: Final = 600.0


async def run_trimming() -> None:
    """Trim the heap once the start is over and now and then for ever, where the system can."""
    trim = heap_trimmer()
    if trim is None:
        return
    await trio.sleep(SETTLED_S)
    while True:
        await trio.to_thread.run_sync(trim)
        await trio.sleep(TRIM_EVERY_S)


def heap_trimmer() -> Callable[[], None] | None:
    """Return what gives free pages back, wherever they are; None without glibc.

    It takes some milliseconds, in which other threads run (malloc_trim(3)).
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is None:
        return None
    malloc_trim.argtypes = (ctypes.c_size_t,)
    return lambda: malloc_trim(0)
