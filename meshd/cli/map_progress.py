"""How a map goes, for people: a bar on a terminal, plain lines elsewhere; all on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from meshd.cli.output import note, plain

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from meshd.cli.map_run import Progress

LINES_MAX = 20
FAILURES_TOLD_MAX = 20


class Failures:
    """What failed, as it is told meanwhile: the first ones. The end has them all."""

    def __init__(self) -> None:
        self._count = 0

    def lines(self, name: str, reason: str, *, is_tried_again: bool) -> list[str]:
        """Return what to say."""
        self._count += 1
        if self._count > FAILURES_TOLD_MAX:
            return []
        again = "; it is tried again" if is_tried_again else ""
        rest = ["further failures are counted only"] if self._count == FAILURES_TOLD_MAX else []
        return [f"{name}: {reason}{again}", *rest]


class Lines:
    """A line for each twentieth of the work, and one for each failure."""

    def __init__(self) -> None:
        self._told = 0
        self._failures = Failures()

    def on_change(self, *, done: int, failed: int, total: int) -> None:
        """Say how far it is, now and then."""
        part = (done + failed) * LINES_MAX // max(1, total)
        if part > self._told:
            self._told = part
            more = f", {failed} failed" if failed else ""
            note(f"{done} of {total} done{more}")

    def on_failure(self, name: str, reason: str, *, is_tried_again: bool) -> None:
        """Say what failed."""
        for line in self._failures.lines(name, reason, is_tried_again=is_tried_again):
            note(line)


class OnTerminal:
    """A bar, with the failures above it."""

    def __init__(self, bar: Bar, line: TaskID) -> None:
        self._bar = bar
        self._line = line
        self._failures = Failures()

    def on_change(self, *, done: int, failed: int, total: int) -> None:
        """Move the bar."""
        text = f"{failed} failed" if failed else ""
        self._bar.update(self._line, completed=done + failed, total=total, failed=text)

    def on_failure(self, name: str, reason: str, *, is_tried_again: bool) -> None:
        """Say what failed."""
        for line in self._failures.lines(name, reason, is_tried_again=is_tried_again):
            self._bar.console.print(plain(line), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(*, total: int, done: int, is_quiet: bool) -> Iterator[Progress]:
    """Give whom to tell, as standard error is a terminal or not."""
    if is_quiet or not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console  # slow to import, and for a bar only
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        yield OnTerminal(bar, bar.add_task("", total=total, completed=done, failed=""))
