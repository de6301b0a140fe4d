"""One seed of one row with one protocol: what a process of the table does at a time."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks.membership.mesh import MeshFactory, MeshSettings
from benchmarks.membership.meshd_mesh import MeshdMesh
from benchmarks.membership.rows import ROWS
from benchmarks.membership.scenarios import Outcome
from benchmarks.membership.swim_mesh import SwimMesh

PROTOCOLS: dict[str, MeshFactory] = {"swim": SwimMesh, "meshd": MeshdMesh}


@dataclass(frozen=True, slots=True)
class Job:
    """Which seed of which row, by its place in `ROWS`, with which protocol."""

    row: int
    protocol: str
    seed: int


def run(job: Job) -> tuple[Outcome, float]:
    """Return what one seed gave, and the seconds that it took."""
    row, begun_s = ROWS[job.row], time.monotonic()
    settings = MeshSettings(
        seed=job.seed,
        node_count=row.node_count,
        loss_permille=row.loss_permille,
        has_telemetry=row.has_telemetry,
        latency_us=row.latency_us,
        jitter_us=row.jitter_us,
        members_max=row.members_max,
    )
    outcome = row.scenario(PROTOCOLS[job.protocol](settings), job.seed)
    return outcome, time.monotonic() - begun_s
