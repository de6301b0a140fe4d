"""Programs and their runs, without an engine: what comes out depends on what goes in only.

A simulated module is a text that says how long it works and how it ends. Its output is a hash of
module, input and index, stretched: equal on every device, as a real one's is. How long a run takes
is drawn from (seed, run, device), and depends on how fast the device is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec
from blake3 import blake3
from msgspec import Struct

from simulations.engine import Action
from simulations.seeds import seed_number
from wire.effects import RunId
from wire.execution import ExecutionStatus
from wire.limits import Limits

_MODULE_PREFIX = b"simulated module 1\n"
_OUTPUT_CONTEXT = "meshd 2026 simulated output"
FUEL_PER_US = 1_000
SPREAD_MIN_PERMILLE = 500
SPREAD_PERMILLE = 1_000


class Program(Struct, frozen=True, kw_only=True):
    """What a simulated module does: works for about `work_us`, then ends as it says."""

    work_us: int = 1_000_000
    output_bytes: int = 64
    exit_code: int = 0
    status: ExecutionStatus = ExecutionStatus.EXITED


class Ended(Struct, frozen=True, kw_only=True):
    """How a run ended, and what it put out."""

    status: ExecutionStatus
    exit_code: int = 0
    output: bytes = b""
    fuel_used: int = 0
    wall_us: int


def module_of(program: Program) -> bytes:
    """Return the module that does what `program` says."""
    return _MODULE_PREFIX + msgspec.json.encode(program)


def program_of(module: bytes) -> Program | None:
    """Return what a module does, None if it is none of ours."""
    if not module.startswith(_MODULE_PREFIX):
        return None
    return msgspec.json.decode(module.removeprefix(_MODULE_PREFIX), type=Program)


def output_of(module: bytes, plaintext: bytes, index: int) -> bytes:
    """Return what a module puts out for an input: the same wherever it runs."""
    program = program_of(module)
    hasher = blake3(module, derive_key_context=_OUTPUT_CONTEXT)
    hasher.update(index.to_bytes(2, "big") + plaintext)
    return hasher.digest(0 if program is None else program.output_bytes)


def foresee(
    module: bytes,
    plaintext: bytes,
    index: int,
    limits: Limits,
    *,
    speed_permille: int,
    slowdown: int = 1,
) -> Ended:
    """Return how a run will end at this speed, `slowdown` times slower. The module is one of ours.

    Fuel does not depend on the speed, wall time does: a run that is too slow is ended.
    """
    program = program_of(module)
    if program is None:
        raise ValueError("not a simulated module")
    wall_us = program.work_us * 1_000 * slowdown // speed_permille
    fuel = program.work_us * FUEL_PER_US
    if wall_us > limits.wall_us:
        return Ended(status=ExecutionStatus.OUT_OF_TIME, wall_us=limits.wall_us)
    if fuel > limits.fuel:
        return Ended(status=ExecutionStatus.OUT_OF_FUEL, wall_us=wall_us * limits.fuel // fuel)
    if program.output_bytes > limits.output_bytes:
        return Ended(status=ExecutionStatus.OUT_OF_OUTPUT, wall_us=wall_us)
    return Ended(
        status=program.status,
        exit_code=program.exit_code,
        output=output_of(module, plaintext, index),
        fuel_used=fuel,
        wall_us=wall_us,
    )


def drawn_speed_permille(seed: int, run: RunId, device: int) -> int:
    """Return how fast one run is on one device: between half and one and a half times as usual."""
    epoch = run.epoch
    which = (run.batch.hex(), run.index, epoch.move, epoch.round, epoch.rank, run.attempt)
    purpose = ("service", *which, device)
    return SPREAD_MIN_PERMILLE + seed_number(seed, *purpose) % SPREAD_PERMILLE


@dataclass(eq=False, slots=True)
class _Job:
    run: RunId
    ended: Ended
    done: Callable[[Ended], None]
    left_us: int
    due_us: int | None = None  # None while it waits or stands still


class Workers:
    """The workers of one device: each runs one program at a time, the others wait in order."""

    def __init__(
        self, count: int, later: Callable[[int, Action], None], now_us: Callable[[], int]
    ) -> None:
        self._count = count
        self._later = later
        self._now_us = now_us
        self._is_paused = False
        self._waiting: deque[_Job] = deque()
        self._running: dict[RunId, _Job] = {}

    def start(self, run: RunId, ended: Ended, done: Callable[[Ended], None]) -> None:
        """Run a program when a worker is free; `done` hears how it ended unless it is killed."""
        self._waiting.append(_Job(run, ended, done, ended.wall_us))
        self._next()

    def kill(self, run: RunId) -> None:
        """Stop a run, which then never ends."""
        self._waiting = deque(job for job in self._waiting if job.run != run)
        self._running.pop(run, None)
        self._next()

    def clear(self) -> None:
        """Stop all: the process died, and its workers with it."""
        self._waiting.clear()
        self._running.clear()

    def set_paused(self, is_paused: bool) -> None:
        """Let all programs stand still, or go on where they stood."""
        if is_paused == self._is_paused:
            return
        self._is_paused = is_paused
        for job in self._running.values():
            if not is_paused:
                self._go_on(job)
            elif job.due_us is not None:
                # What was due while the process stalled has ended, only nobody took it in yet.
                job.left_us, job.due_us = max(0, job.due_us - self._now_us()), None

    def _next(self) -> None:
        while self._waiting and len(self._running) < self._count:
            job = self._waiting.popleft()
            self._running[job.run] = job
            if not self._is_paused:
                self._go_on(job)

    def _go_on(self, job: _Job) -> None:
        job.due_us = self._now_us() + job.left_us
        self._later(job.left_us, partial(self._end, job, job.due_us))

    def _end(self, job: _Job, due_us: int) -> None:
        if self._running.get(job.run) is job and job.due_us == due_us:
            del self._running[job.run]
            self._next()
            job.done(job.ended)
