"""Reads the device's sensors and its clocks at intervals, for the node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import trio

from meshd.clock import read_wall_time
from telemetry.sample import encode_sample
from telemetry.sampler import Sampler, calibrate
from wire.events import Event, Sampled, WallClockRead

log = structlog.get_logger()


async def run_sensing(
    *, storage: Path, interval_us: int, emit: Callable[[Event], Awaitable[None]]
) -> None:
    """Emit the wall clock and a sample every `interval_us` until cancelled.

    The first sample comes at once; calibration takes a quarter of a second of CPU, after it.
    """
    sampler = Sampler(storage_path=storage)
    await _emit_once(sampler, emit)
    sampler.compute_score = await trio.to_thread.run_sync(calibrate)
    if sampler.unavailable:
        log.info("sensors.missing", sensors=sorted(sampler.unavailable))
    while True:
        await _emit_once(sampler, emit)
        await trio.sleep(interval_us / 1_000_000)


async def _emit_once(sampler: Sampler, emit: Callable[[Event], Awaitable[None]]) -> None:
    wall = read_wall_time()
    await emit(WallClockRead(wall.wall_us, wall.uncertainty_us))
    sample = await trio.to_thread.run_sync(sampler.read_sample)
    await emit(Sampled(encode_sample(sample)))
