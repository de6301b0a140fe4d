"""Idle workers, and the jobs that wait for one, first come first served."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

import outcome
import trio

from sandbox.errors import JobFailed
from sandbox.worker_handle import WorkerHandle


class WorkerQueue:
    """Hands each idle worker to the job that waits longest.

    As many jobs wait as callers ask at once: the executor's admission bounds them.
    """

    def __init__(self) -> None:
        self._idle: deque[WorkerHandle] = deque()
        self._waiting: OrderedDict[trio.lowlevel.Task, None] = OrderedDict()

    @property
    def idle_count(self) -> int:
        """How many workers have nothing to do."""
        return len(self._idle)

    @property
    def waiting_count(self) -> int:
        """How many jobs wait for a worker."""
        return len(self._waiting)

    async def get(self) -> WorkerHandle:
        """Return a worker, now the caller's alone. Raises JobFailed if none can be had."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._idle:
            await trio.lowlevel.cancel_shielded_checkpoint()
        if self._idle:
            return self._idle.pop()  # the one used last has its program loaded
        task = trio.lowlevel.current_task()
        self._waiting[task] = None

        def abort(_raise_cancel: Callable[[], None]) -> trio.lowlevel.Abort:
            del self._waiting[task]
            return trio.lowlevel.Abort.SUCCEEDED

        worker: WorkerHandle = await trio.lowlevel.wait_task_rescheduled(abort)
        return worker

    def put(self, worker: WorkerHandle) -> None:
        """Take a worker that has nothing to do."""
        if self._waiting:
            task, _ = self._waiting.popitem(last=False)
            trio.lowlevel.reschedule(task, outcome.Value(worker))
        else:
            self._idle.append(worker)

    def remove(self, worker: WorkerHandle) -> None:
        """Forget a worker that died; it may have been busy."""
        if worker in self._idle:
            self._idle.remove(worker)

    def fail_waiting(self, failure: JobFailed) -> None:
        """Let nobody wait for what will not come."""
        while self._waiting:
            task, _ = self._waiting.popitem(last=False)
            trio.lowlevel.reschedule(task, outcome.Error(JobFailed(failure.reason, failure.detail)))
