"""The clocks and sensors of a device, read at intervals and told as events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from meshd import sensing
from meshd.sensing import run_sensing
from telemetry.sample import Sample, decode_sample
from telemetry.sampler import Sampler
from wire.events import Event, Sampled, WallClockRead

INTERVAL_US = 5_000_000


class Ears:
    """Hears events with their times; while `may_hear` is not set, telling it waits."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, Event]] = []
        self.may_hear = trio.Event()
        self.may_hear.set()

    async def emit(self, event: Event) -> None:
        """Hear one event."""
        await self.may_hear.wait()
        self.heard.append((trio.current_time(), event))

    @property
    def samples(self) -> list[Sample]:
        """The samples that were heard."""
        return [
            decode_sample(event.sample) for _, event in self.heard if isinstance(event, Sampled)
        ]


@pytest.fixture(autouse=True)
def _no_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensing, "calibrate", lambda: 4_321)


@asynccontextmanager
async def sensing_into(ears: Ears, storage: Path) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def run() -> None:
            await run_sensing(storage=storage, interval_us=INTERVAL_US, emit=ears.emit)

        yield
        nursery.cancel_scope.cancel()


async def until_samples(ears: Ears, count: int) -> None:
    with trio.fail_after(1_000):
        while len(ears.samples) < count:  # noqa: ASYNC110 - some of it happens in threads
            await trio.sleep(0.01)


async def test_each_sample_comes_after_a_reading_of_the_wall_clock(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    ears = Ears()
    async with sensing_into(ears, tmp_path):
        await until_samples(ears, 4)
    kinds = [type(event) for _, event in ears.heard]
    assert kinds[:8] == [WallClockRead, Sampled] * 4
    readings = [event for _, event in ears.heard if isinstance(event, WallClockRead)]
    assert all(reading.wall_us > 0 for reading in readings)


async def test_the_first_sample_does_not_wait_for_the_calibration(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    ears = Ears()
    async with sensing_into(ears, tmp_path):
        await until_samples(ears, 3)
    assert [sample.compute_score for sample in ears.samples[:3]] == [None, 4_321, 4_321]
    assert ears.samples[0].disk_total_bytes is not None


async def test_samples_come_at_the_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async def at_once(work: object) -> object:
        """Threads take real time, which the virtual clock does not know."""
        await trio.lowlevel.checkpoint()
        assert callable(work)
        return work()

    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    ears = Ears()
    started_s = trio.current_time()
    async with sensing_into(ears, tmp_path):
        await trio.sleep(3.5 * INTERVAL_US / 1e6)
    times_s = [at_s - started_s for at_s, event in ears.heard if isinstance(event, Sampled)]
    assert times_s == pytest.approx([0, 0, 5, 10, 15])


async def test_nothing_piles_up_while_the_node_is_busy(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    ears = Ears()
    ears.may_hear = trio.Event()
    async with sensing_into(ears, tmp_path):
        await trio.sleep(100 * INTERVAL_US / 1e6)
        assert ears.heard == []
        ears.may_hear.set()
        await until_samples(ears, 1)
        assert len(ears.heard) <= 6


async def test_one_sampler_takes_all_samples_so_that_idle_time_is_known_from_the_second_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    seen: list[Sampler] = []
    read = Sampler.read_sample

    def spied(sampler: Sampler) -> Sample:
        seen.append(sampler)
        return read(sampler)

    monkeypatch.setattr(Sampler, "read_sample", spied)
    ears = Ears()
    async with sensing_into(ears, tmp_path):
        await until_samples(ears, 3)
    assert len({id(sampler) for sampler in seen}) == 1
