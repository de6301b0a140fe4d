"""A device as its own node sees it."""

from __future__ import annotations

from random import Random

import pytest
from support.meshes import keys_of

from meshd.device import Device, Occupation
from meshd.settings import NodeSettings
from scheduler.own_breaker import OwnBreakerDue
from telemetry.breaker import BreakerConfig
from telemetry.sample import Sample
from wire.effects import SetTimer
from wire.events import WallClockRead

NOW_US = 1_000_000_000
WALL_US = 1_800_000_000_000_000
HOT = Sample(temperature_millicelsius=90_000)


class Workplace:
    """How much work there is, as the test says."""

    def __init__(self) -> None:
        self.occupation = Occupation(slots_free=4, leases_count=0)

    def __call__(self) -> Occupation:
        return self.occupation


def device_of(workplace: Workplace | None = None) -> Device:
    return Device(
        own=keys_of(0).peer,
        settings=NodeSettings(
            name="a",
            engine_profile="engine",
            task_slots=4,
            breaker=BreakerConfig(temperature_millicelsius_max=85_000, cooldown_us=1_000_000),
        ),
        rng=Random(7),
        occupation=workplace or Workplace(),
        now_us=NOW_US,
    )


def test_uptime_counts_from_the_start_and_is_nothing_before_it() -> None:
    device = device_of()
    assert device.uptime_us == 0
    device.started_us = NOW_US
    device.now_us += 5
    assert device.uptime_us == 5


def test_the_wall_clock_goes_on_from_its_last_reading() -> None:
    device = device_of()
    assert device.wall_us() == 0
    device.on_wall_clock_read(WallClockRead(WALL_US, 1_000))
    device.now_us += 250
    assert device.wall_us() == WALL_US + 250
    device.on_wall_clock_read(WallClockRead(WALL_US - 9, 1_000))  # set back: the reading counts
    assert device.wall_us() == WALL_US - 9


def test_a_wall_clock_that_was_never_set_is_not_known() -> None:
    device = device_of()
    device.on_wall_clock_read(WallClockRead(WALL_US, 1_000))
    device.on_wall_clock_read(WallClockRead(5, None))
    device.now_us += 250
    assert device.wall_us() == 0


def test_a_sample_says_what_the_sensors_said_and_how_much_work_there_is() -> None:
    workplace = Workplace()
    device = device_of(workplace)
    device.started_us = NOW_US - 70
    device.on_sampled(Sample(cpu_idle_permille=300, task_slots_free=99, task_slots_total=99))
    workplace.occupation = Occupation(slots_free=1, leases_count=3)
    sample = device.sample()
    assert sample.cpu_idle_permille == 300
    assert (sample.task_slots_total, sample.task_slots_free, sample.leases_count) == (4, 1, 3)
    assert sample.uptime_us == 70


def test_more_free_slots_than_the_device_has_are_never_claimed() -> None:
    workplace = Workplace()
    workplace.occupation = Occupation(slots_free=9, leases_count=0)
    assert device_of(workplace).sample().task_slots_free == 4


def test_a_hot_device_opens_its_breaker_and_sets_the_timer_of_its_cooldown() -> None:
    device = device_of()
    assert device.on_sampled(Sample(temperature_millicelsius=60_000)) == []
    assert device.own_breaker.allows_work
    [timer] = device.on_sampled(HOT)
    assert isinstance(timer, SetTimer)
    assert timer.key == OwnBreakerDue()
    assert 1_000_000 <= timer.after_us <= 1_250_000
    assert not device.own_breaker.allows_work
    assert device.breaker is device.own_breaker.breaker


@pytest.mark.parametrize("seed", range(3))
def test_the_cooldown_is_drawn_from_the_randomness_that_was_given(seed: int) -> None:
    def cooldown() -> list[object]:
        device = device_of()
        device.rng.seed(seed)
        return list(device.on_sampled(HOT))

    assert cooldown() == cooldown()
