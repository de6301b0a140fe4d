"""What a device tells the mesh about itself, and the coarse view of it that is worth a signature.

Every sensor is optional. One that is missing is absent (`None`, and not on the wire at all), never
zero: a device without a thermometer is not a cold one. All values are integers, with their unit in
the name. No value is a point in time: devices share no clock.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from wire.strict import decode_strictly

GPUS_MAX = 8
GPU_NAME_CHARACTERS_MAX = 64
TEMPERATURE_STEP_MILLICELSIUS = 5_000
CPU_IDLE_STEP_PERMILLE = 250
BATTERY_STEP_PERMILLE = 100

Permille = Annotated[int, Meta(ge=0, le=1_000)]
Bytes = Annotated[int, Meta(ge=0, le=1 << 60)]
BitsPerSecond = Annotated[int, Meta(ge=0, le=1 << 50)]
Millicelsius = Annotated[int, Meta(ge=-100_000, le=250_000)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]


class Gpu(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One graphics card, as its driver reports it."""

    name: Annotated[str, Meta(max_length=GPU_NAME_CHARACTERS_MAX)]
    memory_total_bytes: Bytes | None = None
    memory_free_bytes: Bytes | None = None
    utilisation_permille: Permille | None = None
    temperature_millicelsius: Millicelsius | None = None

    def __post_init__(self) -> None:
        """Refuse a card with more free memory than it has. Raises ValueError."""
        _check_share("GPU memory", self.memory_free_bytes, self.memory_total_bytes)


class Sample(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One reading of a device. Everything in it is the device's own claim.

    `network_*` is the speed of the link, not its traffic. `load_milli` is the load average of one
    minute in thousandths. `compute_score` is what `sampler.calibrate` measured: blocks of 64 KiB
    hashed per CPU second of one core. `uptime_us` is how long the daemon has run.
    """

    cpu_idle_permille: Permille | None = None
    load_milli: Annotated[int, Meta(ge=0, le=1_000_000_000)] | None = None
    compute_score: Annotated[int, Meta(ge=0, le=1_000_000_000)] | None = None
    memory_total_bytes: Bytes | None = None
    memory_free_bytes: Bytes | None = None
    disk_total_bytes: Bytes | None = None
    disk_free_bytes: Bytes | None = None
    network_up_bits_per_second: BitsPerSecond | None = None
    network_down_bits_per_second: BitsPerSecond | None = None
    temperature_millicelsius: Millicelsius | None = None
    battery_permille: Permille | None = None
    on_battery: bool | None = None
    gpus: Annotated[tuple[Gpu, ...], Meta(max_length=GPUS_MAX)] = ()
    task_slots_total: Count | None = None
    task_slots_free: Count | None = None
    leases_count: Count | None = None
    uptime_us: Annotated[int, Meta(ge=0, le=1 << 62)] | None = None

    def __post_init__(self) -> None:
        """Refuse more free than there is. Raises ValueError, on decoding a ValidationError."""
        _check_share("memory", self.memory_free_bytes, self.memory_total_bytes)
        _check_share("disk", self.disk_free_bytes, self.disk_total_bytes)
        _check_share("task slots", self.task_slots_free, self.task_slots_total)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Sample)


class Buckets(Struct, frozen=True, kw_only=True):
    """The coarse view of a sample: telemetry is signed again when one of these differs.

    Amounts (memory, disk, bandwidth, slots, leases, load, compute) count in powers of two, as
    capabilities do: whether the free half halved again decides who is eligible. Idle CPU goes in
    quarters, each worth 0.025 of the health score. Temperatures go in steps of 5 degrees that end
    at, and include, 85: crossing the breaker's default limit is always news. Uptime is not here,
    since it always differs.
    """

    cpu_idle: int | None
    load: int | None
    compute: int | None
    memory_free: int | None
    disk_free: int | None
    network_up: int | None
    network_down: int | None
    temperature: int | None
    battery: int | None
    on_battery: bool | None
    gpus: tuple[tuple[int | None, int | None, int | None], ...]
    task_slots_total: int | None
    task_slots_free: int | None
    leases: int | None


def occupied(
    sample: Sample,
    *,
    task_slots_total: int,
    task_slots_free: int,
    leases_count: int,
    uptime_us: int,
) -> Sample:
    """Return the device's `sample` with what only the node itself knows filled in."""
    return replace(
        sample,
        task_slots_total=task_slots_total,
        task_slots_free=task_slots_free,
        leases_count=leases_count,
        uptime_us=uptime_us,
    )


def encode_sample(sample: Sample) -> bytes:
    """Return the MessagePack map of `sample`, the body of a telemetry record."""
    return _encoder.encode(sample)


def decode_sample(body: bytes) -> Sample:
    """Return the sample in an untrusted record's `body`. Raises MalformedFrame and nothing else."""
    return decode_strictly(_decoder, body, "telemetry")


def bucketed(sample: Sample) -> Buckets:
    """Return the coarse view of `sample` whose change is worth a new signature."""
    return Buckets(
        cpu_idle=_step(sample.cpu_idle_permille, CPU_IDLE_STEP_PERMILLE),
        load=_power_of_two(None if sample.load_milli is None else sample.load_milli // 500),
        compute=_power_of_two(sample.compute_score),
        memory_free=_power_of_two(sample.memory_free_bytes),
        disk_free=_power_of_two(sample.disk_free_bytes),
        network_up=_power_of_two(sample.network_up_bits_per_second),
        network_down=_power_of_two(sample.network_down_bits_per_second),
        temperature=_step_including_end(sample.temperature_millicelsius),
        battery=_step(sample.battery_permille, BATTERY_STEP_PERMILLE),
        on_battery=sample.on_battery,
        gpus=tuple(
            (
                _power_of_two(gpu.memory_free_bytes),
                _step(gpu.utilisation_permille, CPU_IDLE_STEP_PERMILLE),
                _step_including_end(gpu.temperature_millicelsius),
            )
            for gpu in sample.gpus
        ),
        task_slots_total=sample.task_slots_total,
        task_slots_free=_power_of_two(sample.task_slots_free),
        leases=_power_of_two(sample.leases_count),
    )


def _check_share(what: str, free: int | None, total: int | None) -> None:
    if free is not None and total is not None and free > total:
        raise ValueError(f"{free} free of {total} {what}")


def _power_of_two(amount: int | None) -> int | None:
    return None if amount is None else amount.bit_length()


def _step(value: int | None, step: int) -> int | None:
    # The full value belongs to the last step: 1000 of 1000 permille is no bucket of its own.
    return None if value is None else min(value, 999) // step


def _step_including_end(millicelsius: int | None) -> int | None:
    # Rounded up, so that 85.0 is in one bucket and 85.001 in the next: the breaker opens above 85.
    return None if millicelsius is None else -(-millicelsius // TEMPERATURE_STEP_MILLICELSIUS)
