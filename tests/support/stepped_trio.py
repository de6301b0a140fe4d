"""A trio run that goes on only when it is told to, and only until all its tasks wait.

Its time is trio's MockClock, which nothing but `jump_to` moves. Trio runs as the guest of the
caller's own loop (`trio.lowlevel.start_guest_run`), in the caller's thread: so code that is not
async, such as a discrete-event simulation, can do something, let every task come to rest, look at
what became of it, and do the next thing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType

import outcome
import trio
from support.repeatable_trio import repeatable_order
from trio.testing import MockClock

TICKS_MAX = 100_000  # tasks that wake each other without end would otherwise hang the test


@dataclass(eq=False)
class _WatchedClock(trio.abc.Clock):
    """A MockClock that never lets trio sleep, and notes when trio would have.

    Trio asks how long to sleep just when no task can run; the answer "not at all" keeps its guest
    loop in this thread.
    """

    mock: MockClock = field(default_factory=lambda: MockClock(rate=0))
    is_idle: bool = False
    next_deadline_s: float = math.inf

    def start_clock(self) -> None:
        """Do nothing: it stands still until it is moved."""

    def current_time(self) -> float:
        """Return virtual seconds."""
        return self.mock.current_time()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Note that no task can run, and until when."""
        self.is_idle, self.next_deadline_s = True, deadline
        return 0


class SteppedTrio:
    """Tasks that run while `settle` does. Use as a context: leaving it cancels what is left."""

    def __init__(self) -> None:
        self._clock = _WatchedClock()
        self._ticks: deque[Callable[[], object]] = deque()
        self._outcome: outcome.Outcome[None] | None = None
        self._nursery: trio.Nursery | None = None
        self._is_ending = False  # trio rests once more before it has really ended

    @property
    def nursery(self) -> trio.Nursery:
        """Where to start tasks, between two calls of `settle` too. What one raises ends all."""
        if self._nursery is None:
            raise LookupError("no trio runs here: use it as a context first")
        return self._nursery

    @property
    def now_s(self) -> float:
        """Virtual seconds since the start."""
        return self._clock.current_time()

    @property
    def next_deadline_s(self) -> float:
        """When the first task that waits for time wants to go on; known after `settle`."""
        return self._clock.next_deadline_s

    def jump_to(self, due_s: float) -> None:
        """Move time forward; tasks hear of it in the next `settle`."""
        self._clock.mock.jump(max(0.0, due_s - self.now_s))

    def settle(self) -> None:
        """Let tasks run until all of them wait. Raises what a task raised, as a group."""
        for _ in range(TICKS_MAX):
            self._clock.is_idle = False
            self._ticks.popleft()()
            if self._outcome is not None:
                self._outcome.unwrap()
                raise AssertionError("the run has ended")
            if self._clock.is_idle and not self._is_ending:
                return
        raise AssertionError(f"tasks did not come to rest within {TICKS_MAX} ticks")

    def __enter__(self) -> SteppedTrio:
        trio.lowlevel.start_guest_run(
            self._host,
            run_sync_soon_threadsafe=self._ticks.append,
            run_sync_soon_not_threadsafe=self._ticks.append,
            done_callback=self._done,
            clock=self._clock,
            strict_exception_groups=True,
        )
        self.settle()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._outcome is not None:
            return  # `settle` has raised it
        self.nursery.cancel_scope.cancel()
        while self._outcome is None:
            self._ticks.popleft()()
        if error is None:
            self._outcome.unwrap()

    async def _host(self) -> None:
        try:
            async with trio.open_nursery() as self._nursery:
                await trio.sleep_forever()
        finally:
            self._is_ending = True

    def _done(self, result: outcome.Outcome[None]) -> None:
        self._outcome = result


@contextmanager
def stepped_trio(seed: int) -> Iterator[SteppedTrio]:
    """Run a stepped trio whose tasks take turns as `seed` decides."""
    with repeatable_order(seed), SteppedTrio() as stepped:
        yield stepped
