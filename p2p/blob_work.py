"""Which chunks of a blob are still to be asked for, and which were asked for and did not come."""

from __future__ import annotations

from collections.abc import Iterable

import trio


class ChunkPool:
    """The missing chunks of one blob, lowest first. Each is given to one device at a time."""

    def __init__(self) -> None:
        self._waiting: list[int] = []  # highest first
        self._missing: set[int] = set()
        self._is_filled = False
        self._changed = trio.Event()

    @property
    def is_done(self) -> bool:
        """Whether it is known what is missing, and that is nothing."""
        return self._is_filled and not self._missing

    def fill(self, missing: Iterable[int]) -> None:
        """Begin with the chunks that are missing."""
        self._missing = set(missing)
        self._waiting = sorted(self._missing, reverse=True)
        self._is_filled = True
        self._wake()

    def take(self, count_max: int) -> list[int]:
        """Return up to `count_max` chunks next to each other; none if all are being fetched."""
        run: list[int] = []
        while self._waiting and len(run) < count_max:
            if run and self._waiting[-1] != run[-1] + 1:
                break
            run.append(self._waiting.pop())
        return run

    def give_back(self, indices: Iterable[int]) -> None:
        """Let others fetch chunks that did not come."""
        back = self._missing.intersection(indices)
        if back:
            self._waiting = sorted({*self._waiting, *back}, reverse=True)
            self._wake()

    def finish(self, index: int) -> None:
        """Note that a chunk is here."""
        self._missing.discard(index)
        if not self._missing:
            self._wake()

    async def wait_for_change(self) -> None:
        """Return when there is more to take, or nothing is missing any more."""
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
