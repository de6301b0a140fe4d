"""Where each device of a run stands, and the last of what happened before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meshd.cli.output import Cell, Column
from simulations.host import SimulatedHost
from simulations.runs import Run

COLUMNS = (
    Column("DEVICE", is_number=True),
    Column("STATE"),
    Column("BOOT", is_number=True),
    Column("RUNS", is_number=True),
    Column("UNSYNCED", is_number=True),
    Column("LINKED WITH", width_max=60),
)


def standing_rows(run: Run) -> Iterator[Sequence[Cell]]:
    """Yield what each device is doing, in the columns above."""
    world = run.runner.world
    numbers = {host.peer: host.index for host in world.hosts}
    for host in world.hosts:
        linked = sorted(numbers[peer] for peer in world.network.neighbours(host.peer))
        yield (
            host.index,
            _state(host),
            host.boot,
            host.runs_count,
            host.disk.unsynced_count,
            " ".join(map(str, linked)) or "nobody",
        )


def _state(host: SimulatedHost) -> str:
    if not host.is_running:
        return "down" if host.boot else "not started"
    if host.is_frozen:
        return "frozen"
    return "disk full" if host.disk.is_full else "running"
