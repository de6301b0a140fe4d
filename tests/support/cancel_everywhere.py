"""Cancels a whole scenario, with all its tasks, at each of its steps in turn.

A step is what one task does between two awaits. The scenario is run again and again, each time in
another order of its tasks, and cancelled one step later than before, until it comes to its end by
itself. Whatever state its parts are in when they are cancelled is thus met in some run.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio
from support.repeatable_trio import repeatable_order

RUNS_MAX = 3_000
RUN_S_MAX = 20  # of the scenario's clock; in real time a loaded machine must be able to keep it


@dataclass(eq=False)
class _Steps(trio.abc.Instrument):
    """Counts the steps of a task and of all that come from it; cancels `scope` before `last`."""

    root: trio.lowlevel.Task
    scope: trio.CancelScope
    last: int
    counts: Callable[[], bool]
    count: int = 0
    tasks: set[trio.lowlevel.Task] = field(default_factory=set)

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """Take in the children of what is counted."""
        nursery = task.parent_nursery
        if nursery is not None and (
            nursery.parent_task is self.root or nursery.parent_task in self.tasks
        ):
            self.tasks.add(task)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """Let go of a task that has ended."""
        self.tasks.discard(task)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count a step."""
        if (task is self.root or task in self.tasks) and self.counts():
            self.count += 1
            if self.count == self.last:
                self.scope.cancel()


async def cancel_everywhere(
    scenario: Callable[[], Awaitable[None]],
    check: Callable[[bool], None] = lambda was_cancelled: None,
    *,
    every: int = 1,
    counts: Callable[[], bool] = lambda: True,
) -> int:
    """Run `scenario`, cancelled at step after step; return how many runs it took to its own end.

    `check` is called after each run with whether it was cut short. For scenarios that take long:
    `every` leaves steps out, and only those are counted during which `counts` says so. Fails if
    anything but a cancel gets out, if tasks or files are left, or if a run does not end.
    """
    first = 0 if counts() else 1  # 0: cancelled before it has begun
    for number in range(RUNS_MAX):
        last = first + number * every
        before, tasks_count = open_files(), _tasks_count()
        try:
            was_cancelled, is_over = await _run(scenario, last, counts)
            check(was_cancelled)
            left = [file for file in open_files() if file not in before]
            assert not left, f"left open: {left}"
            assert _tasks_count() == tasks_count, "a system task is left"
        except BaseException as error:
            error.add_note(f"cancelled before step {last}")
            raise
        if is_over:
            gc.collect()  # what was not closed or awaited warns now, which is an error
            return number + 1
    raise AssertionError(f"the scenario did not end by itself within {RUNS_MAX} runs")


async def _run(
    scenario: Callable[[], Awaitable[None]], last: int, counts: Callable[[], bool]
) -> tuple[bool, bool]:
    """Return whether the scenario was cut short, and whether nobody cancelled it."""
    with trio.CancelScope() as scope, repeatable_order(last):
        steps = _Steps(trio.lowlevel.current_task(), scope, last, counts)
        if last == 0:
            scope.cancel()
        trio.lowlevel.add_instrument(steps)
        deadline_s = trio.current_time() + RUN_S_MAX
        try:
            with trio.move_on_at(deadline_s):
                await scenario()
        finally:
            trio.lowlevel.remove_instrument(steps)
            if trio.current_time() >= deadline_s:
                raise trio.TooSlowError(f"it did not end within {RUN_S_MAX} s")
    assert not steps.tasks, f"tasks are left: {steps.tasks}"
    return scope.cancelled_caught, not scope.cancel_called


def _tasks_count() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def open_files() -> list[str]:
    """Return what this process has open: files, sockets and pipes, by number and target."""
    return [f"{entry.name} {_target(entry)}" for entry in Path("/proc/self/fd").iterdir()]


def _target(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except FileNotFoundError:
        return ""  # the directory that was listed
