"""Reads this device's sensors. A shell: it blocks for some milliseconds, so call it in a thread.

psutil reads what kernels and drivers put into text files, and every board has its own. So each
sensor is read by itself, and one that fails is absent from the sample and named in `unavailable`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil
import structlog

from telemetry.errors import GpuUnavailable, SensorUnavailable
from telemetry.nvidia import NvidiaCards
from telemetry.sample import Gpu, Sample

CALIBRATION_ROUNDS_COUNT = 3
CALIBRATION_ROUND_NS = 80_000_000
CALIBRATION_BLOCK_BYTES = 64 * 1024
_MEGABIT = 1_000_000
_SPEED_UNKNOWN_MEGABITS = (0, 0xFFFF)  # 0xFFFF is the kernel's old SPEED_UNKNOWN
_CPU_CHIPS = ("cpu", "core", "soc", "k10temp", "zenpower", "pkg_temp", "package")
_CELSIUS_PLAUSIBLE = (-40.0, 150.0)  # a broken sensor says -128 or 255
# What psutil raises: its own errors, the system's, and what its parsing of /proc and /sys gives
# where a driver writes something else than expected.
_SENSOR_FAILURES = (psutil.Error, OSError, NotImplementedError, ValueError, LookupError)

_Read = TypeVar("_Read")
_log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class Sampler:
    """Reads one device. `storage_path` names the file system whose space is offered.

    Idle CPU is measured between two readings, so the first sample has none.
    """

    storage_path: Path
    compute_score: int | None = None
    network_path: Path = Path("/sys/class/net")
    cards: NvidiaCards | None = field(default_factory=lambda: _cards_or_none())
    unavailable: dict[str, str] = field(default_factory=dict)
    _cpu_before_s: tuple[float, float] | None = None  # busy and idle, since boot

    def read_sample(self) -> Sample:
        """Return what the sensors say now. Never raises for a sensor; blocks some milliseconds."""
        memory_bytes = self._read("memory", _memory_bytes)
        disk_bytes = self._read("disk", lambda: _disk_bytes(self.storage_path))
        link = self._read("network", lambda: _link_bits_per_second(self.network_path))
        battery = self._read("battery", _battery)
        return Sample(
            cpu_idle_permille=self._read("cpu", self._cpu_idle_permille),
            load_milli=self._read("load", lambda: round(psutil.getloadavg()[0] * 1_000)),
            compute_score=self.compute_score,
            memory_total_bytes=memory_bytes and memory_bytes[0],
            memory_free_bytes=memory_bytes and memory_bytes[1],
            disk_total_bytes=disk_bytes and disk_bytes[0],
            disk_free_bytes=disk_bytes and disk_bytes[1],
            network_up_bits_per_second=link,
            network_down_bits_per_second=link,
            temperature_millicelsius=self._read("temperature", _temperature_millicelsius),
            battery_permille=battery and battery[0],
            on_battery=battery and battery[1],
            gpus=self._read("gpu", self._gpus) or (),
        )

    def _read(self, sensor: str, read: Callable[[], _Read]) -> _Read | None:
        try:
            value = read()
        except (SensorUnavailable, *_SENSOR_FAILURES) as error:
            reason = str(error) or type(error).__name__
            if sensor not in self.unavailable:
                _log.debug("sensor.unavailable", sensor=sensor, reason=reason)
            self.unavailable[sensor] = reason
            return None
        self.unavailable.pop(sensor, None)
        return value

    def _cpu_idle_permille(self) -> int:
        times = psutil.cpu_times()
        idle_s = times.idle + getattr(times, "iowait", 0.0)
        # Guest time is already part of user time.
        total_s = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        before, self._cpu_before_s = self._cpu_before_s, (total_s, idle_s)
        if before is None:
            raise SensorUnavailable("idle CPU is known from the second reading on")
        total_passed_s, idle_passed_s = total_s - before[0], idle_s - before[1]
        if total_passed_s <= 0:  # the kernel counts in hundredths of a second
            raise SensorUnavailable("no CPU time passed between two readings")
        return round(1_000 * min(1.0, max(0.0, idle_passed_s / total_passed_s)))

    def _gpus(self) -> tuple[Gpu, ...]:
        return () if self.cards is None else self.cards.read()


def calibrate(cpu_time_ns: Callable[[], int] = time.thread_time_ns) -> int:
    """Return how many blocks of 64 KiB one core hashes with BLAKE2b per CPU second.

    Takes 0.24 s of CPU, so run it in a thread. The best of three rounds counts, in CPU time of this
    thread: other load on the device slows a round down, nothing speeds it up. The device claims the
    result itself: nobody else may rely on it.
    """
    block = bytes(CALIBRATION_BLOCK_BYTES)
    return max(_round_score(block, cpu_time_ns) for _ in range(CALIBRATION_ROUNDS_COUNT))


def _round_score(block: bytes, cpu_time_ns: Callable[[], int]) -> int:
    started_ns, blocks_count, passed_ns = cpu_time_ns(), 0, 0
    while passed_ns < CALIBRATION_ROUND_NS:
        hashlib.blake2b(block).digest()
        blocks_count += 1
        passed_ns = cpu_time_ns() - started_ns
    return blocks_count * 1_000_000_000 // passed_ns


def _cards_or_none() -> NvidiaCards | None:
    try:
        return NvidiaCards()
    except GpuUnavailable as error:
        _log.debug("gpu.unavailable", reason=str(error))
        return None


def _memory_bytes() -> tuple[int, int]:
    memory = psutil.virtual_memory()
    return memory.total, min(memory.available, memory.total)


def _disk_bytes(path: Path) -> tuple[int, int]:
    usage = psutil.disk_usage(str(path))
    return usage.total, min(usage.free, usage.total)


def _link_bits_per_second(network_path: Path) -> int:
    """Return the speed of the fastest real network card that is up. Raises SensorUnavailable."""
    megabits = [
        card.speed
        for name, card in psutil.net_if_stats().items()
        if card.isup
        and card.speed not in _SPEED_UNKNOWN_MEGABITS
        # A bridge or a veth claims 10 Gbit/s, whatever carries it: only real cards have a device.
        and (not network_path.exists() or (network_path / name / "device").exists())
    ]
    if not megabits:
        raise SensorUnavailable("no network card tells its speed")
    return max(megabits) * _MEGABIT


def _temperature_millicelsius() -> int:
    """Return the hottest CPU sensor, in thousandths of a degree. Raises SensorUnavailable."""
    read = getattr(psutil, "sensors_temperatures", None)  # absent on macOS and Windows
    if read is None:
        raise SensorUnavailable("this system tells no temperature")
    low, high = _CELSIUS_PLAUSIBLE
    celsius: list[float] = [
        entry.current
        for chip, entries in read().items()
        if any(part in chip.lower() for part in _CPU_CHIPS)
        for entry in entries
        if low <= entry.current <= high
    ]
    if not celsius:
        raise SensorUnavailable("no CPU temperature sensor")
    return round(max(celsius) * 1_000)


def _battery() -> tuple[int, bool | None]:
    """Return the charge in permille and whether the device runs on it (None: not told)."""
    read = getattr(psutil, "sensors_battery", None)
    battery = None if read is None else read()
    if battery is None:
        raise SensorUnavailable("no battery")
    permille = round(10 * min(100.0, max(0.0, battery.percent)))
    return permille, None if battery.power_plugged is None else not battery.power_plugged
