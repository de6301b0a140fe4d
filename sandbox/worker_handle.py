"""One worker process, from the pool's side: give it a job, and take back a result or kill it."""

from __future__ import annotations

from typing import NoReturn

import msgspec
import trio

from sandbox.child import Child
from sandbox.errors import ChildBroken, JobFailed, UnusableNativeCode
from sandbox.frames import Ended, FromWorker, Ready, Refused, Run, Started, Unusable
from sandbox.job import Execution, Job
from sandbox.profile import ENGINE_PROFILE
from wire.execution import ExecutionFailure, ExecutionStatus

START_TIMEOUT_S = 60
LOAD_TIMEOUT_S = 60  # reading and mapping native code, before the job's own clock starts
WALL_GRACE_S = 0.25  # a result may be on its way when the time is over
_EXIT_CODE_MAX = (1 << 32) - 1

_decoder: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


class WorkerHandle:
    """A worker. `is_fit` is false while it has a job, and for good once it was killed."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.enforced: tuple[str, ...] = ()
        self.is_fit = False
        self.run_count = 0

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._child.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process is there at all."""
        return self._child.is_alive

    async def greet(self) -> None:
        """Return once the worker is ready for jobs. Raises ChildBroken."""
        with trio.move_on_after(START_TIMEOUT_S):
            ready = await self._child.receive(_decoder)
            if not isinstance(ready, Ready) or ready.engine_profile != ENGINE_PROFILE:
                raise ChildBroken(f"it is no worker of {ENGINE_PROFILE}")
            self.enforced = ready.enforced
            self.is_fit = True
            return
        raise ChildBroken(f"it was not ready after {START_TIMEOUT_S} s")

    async def run(self, job: Job, entry: int, cache_key: bytes) -> Execution:
        """Run one job with the module in the open cache `entry`.

        Kills the worker when the time is over, the caller is cancelled or the worker breaks the
        protocol. Raises JobFailed, or UnusableNativeCode for the entry.
        """
        self.is_fit = False
        self.run_count += 1
        try:
            await self._start(Run(job, cache_key), entry)
            return await self._finish(job)
        except ChildBroken as error:
            reason = f"the worker process died or broke down: {error}"
            raise JobFailed(ExecutionFailure.WORKER_DIED, reason) from error
        finally:
            if not self.is_fit:
                self._child.kill()

    async def _start(self, run: Run, entry: int) -> None:
        with trio.move_on_after(LOAD_TIMEOUT_S) as patience:
            await self._child.send(run, entry)
            answer = await self._child.receive(_decoder)
        if patience.cancelled_caught:
            raise ChildBroken(f"it did not load the module in {LOAD_TIMEOUT_S} s")
        match answer:
            case Started():
                return
            case Unusable(detail):
                self.is_fit = True
                raise UnusableNativeCode(detail)
            case _:
                self._raise_refusal(answer)

    async def _finish(self, job: Job) -> Execution:
        started_s = trio.current_time()
        with trio.move_on_after(job.limits.wall_us / 1e6 + WALL_GRACE_S) as limit:
            answer = await self._child.receive(_decoder)
        if limit.cancelled_caught:
            return _out_of_time(job, int((trio.current_time() - started_s) * 1e6))
        if not isinstance(answer, Ended):
            self._raise_refusal(answer)
        execution = answer.execution
        if not _is_plausible(execution, job):
            raise ChildBroken("it claims what the limits do not allow")
        self.is_fit = True
        if execution.wall_us > job.limits.wall_us:
            return _out_of_time(job, execution.wall_us)
        return execution

    def _raise_refusal(self, answer: FromWorker) -> NoReturn:
        if not isinstance(answer, Refused):
            raise ChildBroken(f"it sent {type(answer).__name__} out of turn")
        self.is_fit = True
        raise JobFailed(answer.reason, answer.detail)


def _out_of_time(job: Job, wall_us: int) -> Execution:
    """Return the end of a program that took too long: without output, which says nothing."""
    detail = f"it ran for more than {job.limits.wall_us / 1e6:g} s"
    return Execution(status=ExecutionStatus.OUT_OF_TIME, wall_us=wall_us, detail=detail)


def _is_plausible(execution: Execution, job: Job) -> bool:
    """Say whether a worker that keeps to the limits can have sent this."""
    return (
        len(execution.stdout) + len(execution.stderr) <= job.limits.output_bytes
        and 0 <= execution.fuel_used <= job.limits.fuel
        and 0 <= execution.exit_code <= _EXIT_CODE_MAX
        and execution.wall_us >= 0
    )
