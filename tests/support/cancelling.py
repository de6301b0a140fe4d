"""Cancels a piece of work at each of its awaits in turn."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

import trio

STEPS_MAX = 500


@dataclass(eq=False)
class _StepCounter(trio.abc.Instrument):
    """Cancels `scope` when `task` is about to be continued for the `last`th time."""

    task: trio.lowlevel.Task
    scope: trio.CancelScope
    last: int
    count: int = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count a continuation of the task."""
        if task is self.task:
            self.count += 1
            if self.count == self.last:
                self.scope.cancel()


async def cancelled_at_each_await(
    work: Callable[[], Awaitable[None]],
) -> AsyncGenerator[bool, None]:
    """Run `work` again and again, cancelled one await later each time.

    Yields after each run, for the checks of the caller: whether it was cancelled. Ends after the
    run that came to its end by itself.
    """
    for last in range(STEPS_MAX):
        scope = trio.CancelScope()
        counter = _StepCounter(trio.lowlevel.current_task(), scope, last)
        trio.lowlevel.add_instrument(counter)
        try:
            with scope:
                if last == 0:
                    scope.cancel()
                await work()
        finally:
            trio.lowlevel.remove_instrument(counter)
        yield scope.cancelled_caught
        if not scope.cancel_called:
            return
    raise AssertionError(f"the work did not end within {STEPS_MAX} steps")
