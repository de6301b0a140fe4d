"""One seed of the rows that begin with the same mesh: what a process of the table does at a time.

To start a thousand nodes takes longer than most of what befalls them afterwards. So one mesh is
started and settles, and each row goes on from there in a copy of the process.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection

from benchmarks.membership.mesh import MeshFactory, MeshSettings
from benchmarks.membership.meshd_mesh import MeshdMesh
from benchmarks.membership.rows import ROWS
from benchmarks.membership.scenarios import Outcome, settle
from benchmarks.membership.swim_mesh import SwimMesh
from simulations.garbage import collect_seldom

PROTOCOLS: dict[str, MeshFactory] = {"swim": SwimMesh, "meshd": MeshdMesh}

_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True)
class Job:
    """Which rows, by their places in `ROWS`, with which protocol and seed."""

    rows: tuple[int, ...]
    protocol: str
    seed: int


@dataclass(frozen=True, slots=True)
class Done:
    """What one seed of a row gave, and the seconds that it took, the start of its mesh included."""

    row: int
    protocol: str
    seed: int
    outcome: Outcome
    seconds: float


def grouped(rows: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the rows that may share a mesh together, in the order of the first of each group."""
    groups: dict[tuple[bool, MeshSettings], list[int]] = {}
    for row in rows:
        kind = (ROWS[row].begins_settled, ROWS[row].settings(seed=0))
        groups.setdefault(kind, []).append(row)
    return [tuple(group) for group in groups.values()]


def run(job: Job) -> list[Done]:
    """Return what a seed gave in each row of the job.

    Raises NotSettled, and RuntimeError if a copy of this process died.
    """
    return list(_each(job))


def _each(job: Job) -> Iterator[Done]:
    collect_seldom()
    begun_s = time.monotonic()
    first = ROWS[job.rows[0]]
    mesh = PROTOCOLS[job.protocol](first.settings(job.seed))
    if first.begins_settled:
        settle(mesh)
    settled_s = time.monotonic() - begun_s
    for row in job.rows:
        begun_s = time.monotonic()
        outcome = _in_a_copy(partial(ROWS[row].scenario, mesh, job.seed))
        seconds = settled_s + time.monotonic() - begun_s
        yield Done(row, job.protocol, job.seed, outcome, seconds)


def _in_a_copy(play: Callable[[], Outcome]) -> Outcome:
    """Return what `play` returns in a copy of this process, in which alone it changes anything."""
    gc.freeze()  # the copy would write to whatever its collector looked at
    here, there = _FORK.Pipe(duplex=False)
    copy = _FORK.Process(target=_tell, args=(play, there))
    copy.start()
    there.close()
    try:
        outcome = here.recv()
    except EOFError:
        copy.join()
        raise RuntimeError(f"a row ended with exit code {copy.exitcode}") from None
    copy.join()
    if not isinstance(outcome, Outcome):
        raise TypeError(f"a row gave {outcome!r}")
    return outcome


def _tell(play: Callable[[], Outcome], there: Connection) -> None:
    there.send(play())
