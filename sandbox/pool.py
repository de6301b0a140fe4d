"""The worker processes of this device, and the jobs they run.

The daemon talks to this module only and never loads the engine. Each job runs in a worker that may
die of it: the others do not notice, and a new worker takes its place. A job's own task drives the
exchange with its worker, so that cancelling the one kills the other.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import trio
from msgspec import Struct

from sandbox.child import Child
from sandbox.compilation import Compilation, CompilerLimits
from sandbox.errors import ChildBroken, JobFailed, UnusableNativeCode
from sandbox.job import Execution, Job
from sandbox.native_cache import NativeCache
from sandbox.worker_handle import WorkerHandle
from sandbox.worker_queue import WorkerQueue
from wire.execution import ExecutionFailure
from wire.ids import Digest

RESTART_BACKOFF_S_MIN = 0.1
RESTART_BACKOFF_S_MAX = 10.0
_ATTEMPTS_MAX = 3

log = structlog.get_logger()


class PoolState(Struct, frozen=True, kw_only=True):
    """What the pool is doing. `enforced` names what every ready worker gave up.

    `start_failure` is why workers do not start, empty when they do.
    """

    worker_count: int
    ready_count: int
    busy_count: int
    waiting_count: int
    enforced: tuple[str, ...]
    start_failure: str


class Pool:
    """Runs jobs in `worker_count` processes. Use: `await nursery.start(pool.run)`, then `execute`.

    `load_module` returns the bytes of a module by its digest, which it has checked, or raises
    ModuleMissing. It is asked only when the cache of native code has no entry.
    """

    def __init__(
        self,
        *,
        worker_count: int,
        cache_directory: Path,
        cache_bytes_max: int,
        load_module: Callable[[Digest], Awaitable[bytes]],
        compiler_limits: CompilerLimits | None = None,
    ) -> None:
        self._worker_count = worker_count
        self._cache = NativeCache(cache_directory, cache_bytes_max)
        self._compilation = Compilation(
            self._cache, load_module, compiler_limits or CompilerLimits()
        )
        self._queue = WorkerQueue()
        self._ready: set[WorkerHandle] = set()
        self._start_failure = ""
        self._is_open = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the workers running until cancelled. Started as soon as jobs may come, which then
        wait for the first worker. Raises UnusableCache before it has started.
        """
        await trio.to_thread.run_sync(self._cache.open)
        self._is_open = True
        async with trio.open_nursery() as nursery:
            for number in range(self._worker_count):
                nursery.start_soon(self._keep_worker, number)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:  # before the workers are gone, so that their jobs are told why
                self._is_open = False
                self._queue.fail_waiting(_closing())

    async def execute(self, job: Job) -> Execution:
        """Run `job` when a worker is free, compiling its module first if need be.

        The wall-clock limit counts from when the program itself starts. Cancelling this call kills
        the worker that has the job. Raises JobFailed, and what `load_module` raises besides
        ModuleMissing.
        """
        problem = "it does not stay in the cache"
        for _ in range(_ATTEMPTS_MAX):
            await self._compilation.ensure(job.module)
            worker = await self._idle_worker()
            try:
                execution = await self._execute_on(worker, job)
            except UnusableNativeCode as error:
                problem = str(error)
                log.warning("native_code.unusable", module=job.module.hex(), reason=problem)
                self._cache.forget(job.module)
                continue
            finally:
                if worker.is_fit:
                    self._queue.put(worker)
            if execution is not None:
                return execution
        raise JobFailed(ExecutionFailure.WORKER_DIED, f"no use of its native code: {problem}")

    def state(self) -> PoolState:
        """Return what the pool is doing right now."""
        enforced = [set(worker.enforced) for worker in self._ready]
        return PoolState(
            worker_count=self._worker_count,
            ready_count=len(self._ready),
            busy_count=len(self._ready) - self._queue.idle_count,
            waiting_count=self._queue.waiting_count,
            enforced=tuple(sorted(set.intersection(*enforced))) if enforced else (),
            start_failure=self._start_failure,
        )

    def worker_pids(self) -> tuple[int, ...]:
        """Return the process ids of the workers that are ready, busy or not."""
        return tuple(sorted(worker.pid for worker in self._ready))

    async def _idle_worker(self) -> WorkerHandle:
        while True:
            if not self._is_open:
                raise _closing()
            worker = await self._queue.get()
            if worker.is_alive:  # else its death will be noticed in a moment, and another started
                return worker

    async def _execute_on(self, worker: WorkerHandle, job: Job) -> Execution | None:
        """Return what came of the job, or None if its native code was evicted meanwhile."""
        entry = self._cache.open_entry(job.module)
        if entry is None:
            return None
        try:
            return await worker.run(job, entry, self._cache.key)
        except JobFailed as failure:
            if not self._is_open:
                raise _closing() from failure
            raise
        finally:
            os.close(entry)

    async def _keep_worker(self, number: int) -> None:
        """Keep one worker running: when it dies, start another, later if it was of no use."""
        backoff_s = RESTART_BACKOFF_S_MIN
        while True:
            if await self._run_worker(number):
                backoff_s = RESTART_BACKOFF_S_MIN
            else:
                await trio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, RESTART_BACKOFF_S_MAX)

    async def _run_worker(self, number: int) -> bool:
        """Start a worker and return after its death: whether it was given any job."""
        try:
            child = Child("sandbox.worker")
        except ChildBroken as error:
            self._on_start_failure(str(error))
            return False
        worker = WorkerHandle(child)
        failure = ""
        try:
            await worker.greet()
            self._on_ready(worker, number)
            await child.wait()
        except ChildBroken as error:
            failure = str(error)
        finally:
            worker.is_fit = False
            self._ready.discard(worker)
            self._queue.remove(worker)
            last_words = await child.end()
        if failure:
            self._on_start_failure(f"{failure}: {last_words}" if last_words else failure)
        else:
            log.info("worker.died", worker=number, runs=worker.run_count, last_words=last_words)
        return worker.run_count > 0

    def _on_ready(self, worker: WorkerHandle, number: int) -> None:
        self._start_failure = ""
        self._ready.add(worker)
        self._queue.put(worker)
        log.debug("worker.ready", worker=number, pid=worker.pid, enforced=worker.enforced)

    def _on_start_failure(self, detail: str) -> None:
        self._start_failure = detail
        log.error("worker.start_failed", reason=detail)
        if not self._ready:
            reason = f"no worker process starts: {detail}"
            self._queue.fail_waiting(JobFailed(ExecutionFailure.WORKER_DIED, reason))


def _closing() -> JobFailed:
    return JobFailed(ExecutionFailure.KILLED, "this device is stopping")
