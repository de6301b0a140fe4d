"""What the sensors of a simulated device show."""

from __future__ import annotations

from simulations.seeds import source
from telemetry import Sample

GIB = 1 << 30


def sample_of(seed: int, index: int, temperature_millicelsius: int) -> Sample:
    """Return what a device's sensors show: drawn once per device, except its temperature."""
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
        temperature_millicelsius=temperature_millicelsius,
    )
