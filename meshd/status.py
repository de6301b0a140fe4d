"""Adds to the node's status what only the daemon knows: home, sandbox, storage, counters."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

import msgspec

from meshd.blobstore import BlobStore
from meshd.defects import Defects
from meshd.home import Home
from meshd.store import Store
from sandbox.pool import Pool
from telemetry.metrics import Metrics
from wire.answers import Answer, StatusView


class StatusDesk:
    """Completes the answers to `status` on their way to the person."""

    def __init__(
        self,
        *,
        home: Home,
        metrics: Metrics,
        pool: Pool,
        blobs: BlobStore,
        store: Store,
        defects: Defects,
        recovery_warning: Callable[[], str | None],
    ) -> None:
        self._home = home
        self._metrics = metrics
        self._pool = pool
        self._blobs = blobs
        self._store = store
        self._defects = defects
        self._recovery_warning = recovery_warning

    @asynccontextmanager
    async def completed(
        self, asked: AbstractAsyncContextManager[AsyncIterator[Answer]]
    ) -> AsyncIterator[AsyncIterator[Answer]]:
        """Pass answers on, status views completed."""
        async with asked as answers, aclosing(self._each(answers)) as completed:
            yield completed

    async def _each(self, answers: AsyncIterator[Answer]) -> AsyncGenerator[Answer, None]:
        async for answer in answers:
            yield self.complete(answer) if isinstance(answer, StatusView) else answer

    def complete(self, view: StatusView) -> StatusView:
        """Return the view with everything filled in."""
        pool = self._pool.state()
        warnings = [*view.warnings]
        if (defect := self._defects.warning()) is not None:
            warnings.append(defect)
        if (kept := self._recovery_warning()) is not None:
            warnings.append(kept)
        if pool.start_failure:
            warnings.append(f"no task can run: {pool.start_failure}")
        if self._store.changes:
            warnings.append(
                f"the store was copied or restored ({', '.join(self._store.changes)} changed):"
                " tasks of before are answered for by nobody here"
            )
        return msgspec.structs.replace(
            view,
            home=str(self._home.path),
            pid=os.getpid(),
            sandbox=msgspec.to_builtins(pool),
            storage={
                "blobs_bytes": self._blobs.used_bytes,
                "blobs_bytes_max": self._blobs.budget_bytes,
                "blobs_count": self._blobs.blobs_count,
                "rows_written": self._store.rows_count,
                "commits": self._store.commits_count,
            },
            counters=self._metrics.snapshot(),
            warnings=warnings,
        )
