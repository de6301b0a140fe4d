"""Clocks of simulated devices: never back, at their own speed; and the time of day, as told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.scripted_nodes import Stage

from simulations.clock import DRIFT_PPM_MAX, WALL_EPOCH_US, BootClock
from simulations.device import HostSettings
from simulations.discovery import Discovery
from simulations.disk import DiskFate
from simulations.engine import US_PER_S, Engine
from simulations.world import WorldSettings
from wire.effects import SetTimer
from wire.events import TimerDue, WallClockRead

DRIFTS = st.integers(-DRIFT_PPM_MAX, DRIFT_PPM_MAX)
QUIET = HostSettings(samples=False)


def stage_of(host: HostSettings) -> Stage:
    stage = Stage(WorldSettings(seed=5, discovery=Discovery.SEEDS, host=host))
    stage.forget()
    return stage


def readings(stage: Stage, node: int) -> list[WallClockRead]:
    events = (event for _, event in stage.nodes[node].heard)
    return [event for event in events if isinstance(event, WallClockRead)]


# The clock that timers run on.


@given(st.lists(st.tuples(DRIFTS, st.integers(0, 10 * US_PER_S)), max_size=20))
def test_a_clock_never_goes_back_and_keeps_its_speed(steps: list[tuple[int, int]]) -> None:
    engine = Engine()
    clock = BootClock(engine)
    clock.start(7)
    for drift_ppm, passes_us in steps:
        before_us = clock.now_us()
        clock.set_drift(drift_ppm)
        assert clock.now_us() == before_us
        engine.run(until_us=engine.now_us + passes_us, events_max=1)
        gained_us = clock.now_us() - before_us
        assert isinstance(gained_us, int)
        assert gained_us == passes_us * (1_000_000 + drift_ppm) // 1_000_000


@given(DRIFTS, st.integers(0, US_PER_S), st.integers(0, 100 * US_PER_S))
def test_a_clock_shows_what_is_waited_for_when_it_is_due_and_not_before(
    drift_ppm: int, passed_us: int, after_us: int
) -> None:
    engine = Engine()
    clock = BootClock(engine, drift_ppm=drift_ppm)
    clock.start(1_000)
    engine.run(until_us=passed_us, events_max=1)
    shown_us = clock.now_us() + after_us
    due_us = clock.due_at_us(shown_us)
    if due_us > engine.now_us:
        engine.run(until_us=due_us - 1, events_max=1)
        assert clock.now_us() < shown_us
    engine.run(until_us=due_us, events_max=1)
    assert clock.now_us() >= shown_us


def test_no_clock_drifts_beyond_all_measure() -> None:
    with pytest.raises(ValueError, match="at most"):
        BootClock(Engine(), drift_ppm=-1_000_000)


@pytest.mark.parametrize(("drift_ppm", "due_us"), [(250_000, 800_000), (-200_000, 1_250_000)])
def test_a_timer_is_due_when_its_device_s_clock_says_so(drift_ppm: int, due_us: int) -> None:
    stage = stage_of(HostSettings(samples=False, drift_ppm=drift_ppm))
    began_us = stage.world.hosts[0].now_us
    stage.want(0, SetTimer("a", US_PER_S))
    stage.world.run_for(due_us - 1)
    assert stage.nodes[0].events() == []
    stage.world.run_for(1)
    assert stage.nodes[0].events() == [TimerDue("a")]
    rang_us, _ = stage.nodes[0].heard[-1]
    assert rang_us - began_us == US_PER_S


def test_timers_that_are_set_are_due_earlier_when_the_clock_gets_faster() -> None:
    stage = stage_of(QUIET)
    stage.want(0, SetTimer("a", 4 * US_PER_S), SetTimer("replaced", US_PER_S))
    stage.want(0, SetTimer("replaced", 6 * US_PER_S))
    stage.world.run_for(US_PER_S)
    stage.world.hosts[0].set_drift(500_000)  # three seconds are left, which take two
    stage.world.run_for(2 * US_PER_S - 1)
    assert stage.nodes[0].events() == []
    stage.world.run_for(1)
    assert stage.nodes[0].events() == [TimerDue("a")]
    stage.world.hosts[0].set_drift(0)
    stage.world.run_for(2 * US_PER_S - 1)
    assert len(stage.nodes[0].events()) == 1
    stage.world.run_for(1)
    assert stage.nodes[0].events() == [TimerDue("a"), TimerDue("replaced")]


# The time of day.


def test_the_time_is_read_with_every_sample_as_the_daemon_does() -> None:
    stage = stage_of(HostSettings())
    stage.world.run_for(25 * US_PER_S)
    shown_us = [reading.wall_us - WALL_EPOCH_US for reading in readings(stage, 0)]
    assert shown_us == [10 * US_PER_S, 20 * US_PER_S]


def test_a_wrong_clock_claims_to_be_right() -> None:
    offset_us = -3_600 * US_PER_S
    stage = stage_of(HostSettings(wall_offset_us=offset_us, wall_uncertainty_us=5))
    stage.world.run_for(10 * US_PER_S)
    due_us = WALL_EPOCH_US + 10 * US_PER_S + offset_us
    assert readings(stage, 0) == [WallClockRead(due_us, 5)]


def test_a_device_without_the_time_is_in_1970_after_every_boot_until_it_is_told() -> None:
    stage = stage_of(HostSettings(wall_offset_us=None))
    stage.world.run_for(4 * US_PER_S)
    stage.world.crash(0, DiskFate.KEEP)
    stage.world.start(0)
    stage.world.run_for(11 * US_PER_S)
    assert readings(stage, 0) == [WallClockRead(0, None), WallClockRead(10 * US_PER_S, None)]
    stage.forget()
    stage.world.hosts[0].set_wall(0)
    [reading] = readings(stage, 0)
    assert reading == WallClockRead(WALL_EPOCH_US + 15 * US_PER_S, 1_000_000)


def test_a_jump_of_the_wall_clock_leaves_timers_alone() -> None:
    stage = stage_of(QUIET)
    stage.want(0, SetTimer("a", US_PER_S))
    stage.world.hosts[0].set_wall(86_400 * US_PER_S)
    stage.world.hosts[0].set_wall(None)
    assert [reading.uncertainty_us for reading in readings(stage, 0)][1:] == [1_000_000, None]
    stage.world.run_for(US_PER_S)
    assert stage.nodes[0].events() == [TimerDue("a")]
