"""Sensors that are there, missing or broken, on boards that this machine is not."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import msgspec
import psutil
import pytest
import trio

from telemetry.errors import GpuUnavailable
from telemetry.nvidia import NvidiaCards
from telemetry.sample import Sample
from telemetry.sampler import Sampler, calibrate


class Temperature(NamedTuple):
    current: float


class CpuTimes(NamedTuple):
    user: float
    idle: float
    iowait: float = 0.0
    guest: float = 0.0


def sampler(path: Path, **given: object) -> Sampler:
    return Sampler(storage_path=path, cards=None, **given)  # type: ignore[arg-type]  # by name


def replacing(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    monkeypatch.setattr(psutil, name, lambda *_args: value, raising=False)


def raising(error: Exception) -> Callable[..., object]:
    def fail(*_args: object) -> object:
        raise error

    return fail


async def test_this_machine_gives_a_sample_that_the_wire_accepts(tmp_path: Path) -> None:
    device = sampler(tmp_path, compute_score=7)
    await trio.to_thread.run_sync(device.read_sample)
    sample = await trio.to_thread.run_sync(device.read_sample)
    assert sample.memory_total_bytes is not None
    assert sample.disk_total_bytes is not None
    assert sample.compute_score == 7
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sample), type=Sample) == sample


SENSORS = {
    "virtual_memory": ("memory_total_bytes", "memory_free_bytes"),
    "disk_usage": ("disk_total_bytes", "disk_free_bytes"),
    "getloadavg": ("load_milli",),
    "cpu_times": ("cpu_idle_permille",),
    "net_if_stats": ("network_up_bits_per_second", "network_down_bits_per_second"),
    "sensors_temperatures": ("temperature_millicelsius",),
    "sensors_battery": ("battery_permille", "on_battery"),
}


@pytest.mark.parametrize("name", SENSORS)
@pytest.mark.parametrize(
    "error",
    [
        psutil.AccessDenied(),
        OSError("no such file"),
        ValueError("not a number"),
        KeyError("MemFree"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_one_broken_sensor_is_absent_and_named_and_the_others_stay(
    name: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, name, raising(error), raising=False)
    device = sampler(tmp_path)
    sample = device.read_sample()
    assert all(getattr(sample, each) is None for each in SENSORS[name])
    assert any(device.unavailable.values())
    if name != "virtual_memory":
        assert sample.memory_total_bytes is not None


def test_a_bug_of_ours_is_not_taken_for_a_broken_sensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", raising(TypeError("our bug")))
    with pytest.raises(TypeError):
        sampler(tmp_path).read_sample()


def test_a_sensor_that_comes_back_is_no_longer_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = sampler(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(psutil, "virtual_memory", raising(OSError("gone")))
        device.read_sample()
        assert device.unavailable["memory"] == "gone"
    assert device.read_sample().memory_total_bytes is not None
    assert "memory" not in device.unavailable


def test_systems_without_thermometer_and_battery_functions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(psutil, "sensors_temperatures")
    monkeypatch.delattr(psutil, "sensors_battery")
    sample = sampler(tmp_path).read_sample()
    assert (sample.temperature_millicelsius, sample.battery_permille) == (None, None)


def test_idle_cpu_is_measured_between_two_readings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = sampler(tmp_path)
    replacing(monkeypatch, "cpu_times", CpuTimes(user=10, idle=90))
    assert device.read_sample().cpu_idle_permille is None
    replacing(monkeypatch, "cpu_times", CpuTimes(user=11, idle=92, iowait=1, guest=1))
    assert device.read_sample().cpu_idle_permille == 750  # 3 s of 4: guest time is user time
    assert device.read_sample().cpu_idle_permille is None  # no time passed


def test_the_hottest_plausible_cpu_sensor_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chips = {
        "coretemp": [Temperature(51.5), Temperature(62.25), Temperature(255.0)],
        "cpu_thermal": [Temperature(-128.0)],
        "nvme": [Temperature(88.0)],
    }
    replacing(monkeypatch, "sensors_temperatures", chips)
    assert sampler(tmp_path).read_sample().temperature_millicelsius == 62_250


def test_a_disk_s_thermometer_is_not_the_cpu_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replacing(monkeypatch, "sensors_temperatures", {"nvme": [Temperature(88.0)]})
    assert sampler(tmp_path).read_sample().temperature_millicelsius is None


@pytest.mark.parametrize(
    ("percent", "power_plugged", "expected"),
    [(49.96, False, (500, True)), (100.4, True, (1_000, False)), (12, None, (120, None))],
)
def test_batteries(
    percent: float,
    power_plugged: bool | None,
    expected: tuple[int, bool | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    battery = SimpleNamespace(percent=percent, power_plugged=power_plugged)
    replacing(monkeypatch, "sensors_battery", battery)
    sample = sampler(tmp_path).read_sample()
    assert (sample.battery_permille, sample.on_battery) == expected


def test_only_real_cards_that_are_up_and_tell_their_speed_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("eth0", "eth1", "eth2", "eth3"):
        (tmp_path / name / "device").mkdir(parents=True)
    (tmp_path / "veth0").mkdir()
    cards = {
        "eth0": SimpleNamespace(isup=True, speed=1_000),
        "eth1": SimpleNamespace(isup=False, speed=2_500),
        "eth2": SimpleNamespace(isup=True, speed=65_535),
        "eth3": SimpleNamespace(isup=True, speed=0),
        "veth0": SimpleNamespace(isup=True, speed=10_000),
    }
    replacing(monkeypatch, "net_if_stats", cards)
    sample = sampler(tmp_path, network_path=tmp_path).read_sample()
    assert sample.network_up_bits_per_second == 1_000_000_000
    del cards["eth0"]
    sample = sampler(tmp_path, network_path=tmp_path).read_sample()
    assert sample.network_up_bits_per_second is None


class FakeNvml:
    """A driver with `count` cards, of which `unsupported` questions are refused."""

    class NVMLError(Exception):
        """The library's one error."""

    NVML_TEMPERATURE_GPU = 0

    def __init__(self, *, count: int = 1, unsupported: tuple[str, ...] = ()) -> None:
        self.count = count
        self.unsupported = unsupported

    def _refuse(self, question: str) -> None:
        if question in self.unsupported:
            raise self.NVMLError(question)

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's own name, as all below
        self._refuse("init")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._refuse("count")
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: object) -> str:  # noqa: N802
        return f"Card {handle} " + "x" * 100

    def nvmlDeviceGetMemoryInfo(self, _handle: object) -> SimpleNamespace:  # noqa: N802
        self._refuse("memory")
        return SimpleNamespace(total=8, free=9)

    def nvmlDeviceGetUtilizationRates(self, _handle: object) -> SimpleNamespace:  # noqa: N802
        self._refuse("utilisation")
        return SimpleNamespace(gpu=37)

    def nvmlDeviceGetTemperature(self, _handle: object, _sensor: int) -> int:  # noqa: N802
        self._refuse("temperature")
        return 61


def test_nvidia_cards_are_read_and_cut_to_what_the_wire_holds(tmp_path: Path) -> None:
    device = sampler(tmp_path)
    device.cards = NvidiaCards(FakeNvml(count=12))
    sample = device.read_sample()
    assert len(sample.gpus) == 8
    card = sample.gpus[0]
    assert len(card.name) == 64
    assert (card.memory_total_bytes, card.memory_free_bytes) == (8, 8)
    assert (card.utilisation_permille, card.temperature_millicelsius) == (370, 61_000)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sample), type=Sample) == sample


def test_a_question_that_a_card_refuses_is_absent_and_the_card_is_not(tmp_path: Path) -> None:
    device = sampler(tmp_path)
    device.cards = NvidiaCards(FakeNvml(unsupported=("memory", "temperature")))
    (card,) = device.read_sample().gpus
    assert (card.memory_total_bytes, card.temperature_millicelsius) == (None, None)
    assert card.utilisation_permille == 370


def test_a_driver_that_stops_answering_costs_the_cards_only(tmp_path: Path) -> None:
    device = sampler(tmp_path)
    device.cards = NvidiaCards(FakeNvml(unsupported=("count",)))
    sample = device.read_sample()
    assert sample.gpus == ()
    assert sample.memory_total_bytes is not None
    assert "driver" in device.unavailable["gpu"]


def test_no_driver_and_no_library_are_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GpuUnavailable, match="driver"):
        NvidiaCards(FakeNvml(unsupported=("init",)))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(GpuUnavailable, match="not installed"):
        NvidiaCards()


def test_a_device_without_the_driver_still_gives_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Sampler(storage_path=tmp_path).read_sample().gpus == ()


def test_the_calibration_counts_the_best_of_three_rounds() -> None:
    # Reads of the clock: start, then after each block. Rounds of 1, 4 and 2 blocks per 80 ms.
    reads_ms = iter([0, 80, 0, 20, 40, 60, 80, 0, 40, 80])
    assert calibrate(lambda: next(reads_ms) * 1_000_000) == 50
    assert next(reads_ms, None) is None


def test_the_calibration_is_short_and_bounded_in_cpu_time() -> None:
    ticks = itertools.count(step=1_000_000)  # a millisecond per block
    assert calibrate(lambda: next(ticks)) == 1_000
    assert next(ticks) <= 300_000_000
