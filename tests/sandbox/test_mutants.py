from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

from support.mutants import SEEDS, mutate
from support.wasm import ModuleShelf, job_of

from sandbox.errors import JobFailed
from sandbox.pool import Pool
from wire.execution import ExecutionFailure
from wire.limits import MIB, Limits

LIMITS = Limits(fuel=1_000_000, memory_bytes=32 * MIB, output_bytes=10_000)


def test_mutated_modules_do_not_break_the_engine() -> None:
    tests = str(Path(__file__).parent.parent)
    command = [sys.executable, "-m", "support.mutants", "20261121", "1500"]
    mutants = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": tests},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert mutants.returncode == 0, mutants.stderr
    refused, ran = (int(part.split()[0]) for part in mutants.stdout.split(","))
    assert refused > 100
    assert ran > 100


async def test_mutated_modules_end_in_a_result_or_are_refused(
    pool: Pool, shelf: ModuleShelf
) -> None:
    rng = random.Random(7)
    for _ in range(20):
        job = job_of(shelf.add(mutate(rng.choice(SEEDS), rng)), limits=LIMITS)
        try:
            await pool.execute(job)
        except JobFailed as failure:
            reason = failure.reason
            assert reason is ExecutionFailure.UNSUPPORTED_MODULE, failure  # noqa: PT017 - or a result
