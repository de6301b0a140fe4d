"""What the daemon adds to the node's status."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import trio
from msgspec.structs import replace
from support.answer_views import status_view, task_view

from meshd.blobstore import BlobStore
from meshd.defects import Defects
from meshd.home import Home
from meshd.status import StatusDesk
from meshd.store import Store
from sandbox.pool import Pool, PoolState
from telemetry.metrics import Metrics
from wire.answers import Answer, StatusView

STATE = PoolState(
    worker_count=2,
    ready_count=1,
    busy_count=1,
    waiting_count=3,
    enforced=("seccomp",),
    start_failure="",
)


class ScriptedPool:
    """A pool in a state."""

    def __init__(self, state: PoolState) -> None:
        self._state = state

    def state(self) -> PoolState:
        """Return the state."""
        return self._state


class ChangedStore:
    """A store whose identity changed, or did not."""

    rows_count = 7
    commits_count = 3

    def __init__(self, changes: tuple[str, ...]) -> None:
        self.changes = changes


def desk_of(
    path: Path,
    *,
    state: PoolState = STATE,
    changes: tuple[str, ...] = (),
    defects: Defects | None = None,
    recovery_warning: str | None = None,
) -> tuple[StatusDesk, BlobStore, Metrics]:
    blobs, metrics = BlobStore(path / "blobs", 1 << 20), Metrics()
    desk = StatusDesk(
        home=Home(path),
        metrics=metrics,
        pool=cast(Pool, ScriptedPool(state)),
        blobs=blobs,
        store=cast(Store, ChangedStore(changes)),
        defects=defects or Defects(),
        recovery_warning=lambda: recovery_warning,
    )
    return desk, blobs, metrics


class Asked:
    """A question with scripted answers; it notes how it was left."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = answers
        self.is_left = False

    @asynccontextmanager
    async def ask(self) -> AsyncIterator[AsyncIterator[Answer]]:
        """Give the answers."""
        send, receive = trio.open_memory_channel[Answer](len(self.answers))
        with send, receive:
            for answer in self.answers:
                send.send_nowait(answer)
            send.close()
            try:
                yield receive
            finally:
                self.is_left = True


def test_a_status_is_completed_with_what_only_the_daemon_knows(tmp_path: Path) -> None:
    desk, blobs, metrics = desk_of(tmp_path)
    metrics.counter("meshd_things_total", "Things").increment(4)
    blobs.put(b"x" * 5_000)
    view = desk.complete(status_view(home=None, pid=None, warnings=["of the node"]))
    assert (view.home, view.pid) == (str(tmp_path), os.getpid())
    assert view.sandbox["waiting_count"] == 3
    assert view.sandbox["start_failure"] == ""
    assert view.storage == {
        "blobs_bytes": blobs.used_bytes,
        "blobs_bytes_max": 1 << 20,
        "blobs_count": 1,
        "rows_written": 7,
        "commits": 3,
    }
    assert blobs.used_bytes >= 5_000
    assert view.counters == {"meshd_things_total": 4}
    assert view.warnings == ["of the node"]


def test_a_sandbox_that_does_not_start_is_a_warning(tmp_path: Path) -> None:
    desk, _, _ = desk_of(tmp_path, state=replace(STATE, start_failure="no seccomp"))
    [warning] = desk.complete(status_view(warnings=[])).warnings
    assert "no seccomp" in warning


def test_a_store_that_was_copied_is_a_warning_that_names_what_changed(tmp_path: Path) -> None:
    desk, _, _ = desk_of(tmp_path, changes=("inode", "machine"))
    [warning] = desk.complete(status_view(warnings=[])).warnings
    assert "inode, machine" in warning


def test_a_defect_that_was_survived_is_a_warning(tmp_path: Path) -> None:
    defects = Defects()
    defects.note(ValueError("odd"), now_us=1)
    desk, _, _ = desk_of(tmp_path, defects=defects)
    [warning] = desk.complete(status_view(warnings=[])).warnings
    assert "odd" in warning


def test_completing_changes_nothing_of_the_view_that_was_given(tmp_path: Path) -> None:
    desk, _, _ = desk_of(tmp_path, changes=("inode",))
    view = status_view(warnings=[])
    desk.complete(view)
    assert view.warnings == []


async def test_other_answers_pass_as_they_are_and_in_order(tmp_path: Path) -> None:
    desk, _, _ = desk_of(tmp_path)
    asked = Asked(task_view(index=1), status_view(pid=None), task_view(index=2))
    async with desk.completed(asked.ask()) as answers:
        first, second, third = [answer async for answer in answers]
    assert (first, third) == (task_view(index=1), task_view(index=2))
    assert isinstance(second, StatusView)
    assert second.pid == os.getpid()
    assert asked.is_left


async def test_leaving_early_leaves_the_question_and_closes_its_answers(tmp_path: Path) -> None:
    """A generator that is left to the collector is a warning, which fails here."""
    desk, _, _ = desk_of(tmp_path)
    asked = Asked(task_view(index=1), task_view(index=2))
    async with desk.completed(asked.ask()) as answers:
        assert await anext(answers) == task_view(index=1)
    assert asked.is_left
    with pytest.raises(StopAsyncIteration):
        await anext(answers)
