"""Processes that work on seeds, one seed at a time each.

A worker that dies takes one seed with it, which is told; another is started in its place. Workers
end with the block that opened them, whatever ends it, Ctrl-C too.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Generic, TypeVar

from simulations.garbage import collect_seldom

Result = TypeVar("Result")

END_S_MAX = 5.0


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """The process that worked on a seed ended: killed if `exit_code` is negative."""

    seed: int
    exit_code: int | None


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    seed: int


class Workers(Generic[Result]):
    """At most `jobs_count` processes that call `work` with seeds.

    They are spawned, not forked, so `work` and its results must be what pickle can carry.
    """

    def __init__(self, work: Callable[[int], Result], *, jobs_count: int) -> None:
        self._work = work
        self._jobs_count = jobs_count
        self._context: SpawnContext = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._waiting: Iterator[int] = iter(())

    def results(
        self, seeds: Iterable[int]
    ) -> Generator[tuple[int, Result | WorkerDied], None, None]:
        """Yield each seed with what came of it, as they come. Close it to end the workers."""
        self._waiting = iter(seeds)
        # Spawning starts it otherwise, and with it unblocks what `_interrupts_held` blocks.
        multiprocessing.resource_tracker.ensure_running()
        try:
            while self._fill():
                yield from self._next()
        finally:
            self._end()

    def _fill(self) -> bool:
        """Start workers while there are seeds; say whether any works."""
        while len(self._workers) < self._jobs_count:
            seed = next(self._waiting, None)
            if seed is None:
                break
            with _interrupts_held():
                self._workers.append(self._start(seed))
        return bool(self._workers)

    def _start(self, seed: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self._work, theirs), daemon=True)
        process.start()
        theirs.close()  # so that the pipe ends with the worker
        worker = _Worker(process, ours, seed)
        _ask(worker, seed)
        return worker

    def _next(self) -> Iterator[tuple[int, Result | WorkerDied]]:
        """Yield what is ready, after waiting for something to be."""
        ready = multiprocessing.connection.wait([worker.pipe for worker in self._workers])
        for worker in [worker for worker in self._workers if worker.pipe in ready]:
            seed = worker.seed
            try:
                result: Result | WorkerDied = worker.pipe.recv()
            except (EOFError, ConnectionResetError):
                worker.process.join(END_S_MAX)
                result = WorkerDied(seed, worker.process.exitcode)
                self._forget(worker)
            else:
                self._go_on(worker)
            yield seed, result

    def _go_on(self, worker: _Worker) -> None:
        seed = next(self._waiting, None)
        if seed is None:
            worker.pipe.close()
            worker.process.join(END_S_MAX)
            self._workers.remove(worker)
        else:
            worker.seed = seed
            _ask(worker, seed)

    def _forget(self, worker: _Worker) -> None:
        worker.pipe.close()
        self._workers.remove(worker)

    def _end(self) -> None:
        for worker in self._workers:
            worker.process.kill()  # it holds nothing that could be half written
            worker.process.join(END_S_MAX)
            worker.pipe.close()
        self._workers.clear()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait until a process is started whole, and never reach that process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which it inherits
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ask(worker: _Worker, seed: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # it died: reading from it will tell
        worker.pipe.send(seed)


def _serve(work: Callable[[int], object], pipe: Connection) -> None:
    """Work until the pipe ends. A defect in `work` ends the process, with its traceback."""
    collect_seldom()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            pipe.send(work(pipe.recv()))
