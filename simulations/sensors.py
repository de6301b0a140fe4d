"""What the sensors of a simulated device show."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from simulations.seeds import source
from telemetry import SAMPLE_EVERY_US, Sample, encode_sample

GIB = 1 << 30
ROOM_MILLICELSIUS = 45_000


class Sensors:
    """The sensors of one device: its size is drawn once, its heat and its battery are set."""

    def __init__(self, seed: int, index: int) -> None:
        self._sample = _drawn(seed, index)
        self._encoded = encode_sample(self._sample)

    @property
    def temperature_millicelsius(self) -> int:
        """How hot the device is."""
        return self._sample.temperature_millicelsius or 0

    def set_temperature(self, millicelsius: int) -> None:
        """Be so hot from now on."""
        self._set(replace(self._sample, temperature_millicelsius=millicelsius))

    def set_battery(self, permille: int | None, *, is_in_use: bool) -> None:
        """Have a battery that is so full, None for a device that has none."""
        on_battery = None if permille is None else is_in_use
        self._set(replace(self._sample, battery_permille=permille, on_battery=on_battery))

    def read(self) -> bytes:
        """Return a sample as a telemetry record has it."""
        return self._encoded

    def _set(self, sample: Sample) -> None:
        self._sample = sample
        self._encoded = encode_sample(sample)


def temperatures(begin: int, end: int, *, over_us: int) -> Iterator[tuple[int, int]]:
    """Yield (after_us, millicelsius) of a device that warms up or cools down evenly.

    As often as devices are sampled; the last value is `end`, after `over_us`.
    """
    for after_us in range(0, over_us, SAMPLE_EVERY_US):
        yield after_us, begin + (end - begin) * after_us // over_us
    yield over_us, end


def _drawn(seed: int, index: int) -> Sample:
    rng = source(seed, "sensors", index)
    memory_bytes = rng.choice((2, 4, 8, 16)) * GIB
    bandwidth = rng.choice((20, 100, 1_000)) * 1_000_000
    return Sample(
        cpu_idle_permille=rng.randrange(300, 1_000),
        load_milli=rng.randrange(0, 2_000),
        compute_score=rng.randrange(2_000, 20_000),
        memory_total_bytes=memory_bytes,
        memory_free_bytes=memory_bytes // 2,
        disk_total_bytes=64 * GIB,
        disk_free_bytes=32 * GIB,
        network_up_bits_per_second=bandwidth,
        network_down_bits_per_second=bandwidth,
        temperature_millicelsius=ROOM_MILLICELSIUS,
    )
