"""A process that stalls or sleeps goes on as the daemon would, and what it was at is not lost."""

from __future__ import annotations

import pytest
from msgspec import Struct
from support.scripted_nodes import Stage

from simulations.device import HostSettings
from simulations.discovery import Discovery
from simulations.disk import DiskFate
from simulations.effect_points import EffectPoint, EffectWatch
from simulations.engine import US_PER_S
from simulations.host import SLEEP_US_MAX
from simulations.world import WorldSettings
from telemetry import SAMPLE_EVERY_US
from wire.effects import Dial, Load, Persist, Row, Send, SetTimer, Trace
from wire.events import (
    DialFailed,
    Event,
    Loaded,
    PeerSeen,
    Received,
    Sampled,
    TimerDue,
    WallClockRead,
)
from wire.ids import PeerId
from wire.messages import Heartbeat

BEAT = Heartbeat(token=1)


class Note(Struct, frozen=True):
    text: str


class Key(Struct, frozen=True):
    number: int


NOTE = Row("note", b"a", Note("a"))


@pytest.fixture
def stage() -> Stage:
    host = HostSettings(samples=False)
    set_up = Stage(WorldSettings(seed=5, discovery=Discovery.SEEDS, host=host))
    set_up.forget()
    return set_up


def handled(stage: Stage, node: int) -> list[Event]:
    """Return what a node has handled, except what tests use to wake scripted nodes."""
    return stage.nodes[node].events()


# Stalls.


def test_a_thawed_process_hears_of_its_timers_before_what_others_sent(stage: Stage) -> None:
    stage.link(1, 0)
    stage.want(0, SetTimer("late", US_PER_S), Persist((NOTE,), (SetTimer("durable", 0),)))
    stage.world.freeze(0)
    stage.want(1, Send(stage.peer(0), BEAT))
    stage.world.run_for(2 * US_PER_S)
    assert handled(stage, 0) == []
    stage.world.thaw(0)
    stage.world.run_for(0)
    assert handled(stage, 0) == [
        TimerDue("late"),
        Received(stage.peer(1), BEAT),
        TimerDue("durable"),
    ]


def test_a_process_that_ends_while_it_catches_up_does_no_more(stage: Stage) -> None:
    stage.want(0, SetTimer("a", 1), SetTimer("b", 2), Load("note", b"", 1, "token"))
    stage.world.hosts[0].crash_at(
        EffectPoint(kind="Trace"), lambda: stage.world.crash(0, DiskFate.KEEP)
    )
    stage.world.freeze(0)
    stage.world.run_for(US_PER_S)
    heard = stage.nodes[0]
    heard.wanted = [Trace("dying", {})]
    stage.world.thaw(0)
    stage.world.run_for(US_PER_S)
    assert heard.events() == [TimerDue("a")]
    assert stage.world.hosts[0].backlog_count == 0


def test_a_process_that_stalls_again_while_it_catches_up_leaves_the_rest_for_later(
    stage: Stage,
) -> None:
    stage.want(0, SetTimer("a", 1), SetTimer("b", 2))
    stage.world.hosts[0].crash_at(EffectPoint(kind="Trace"), lambda: stage.world.freeze(0))
    stage.world.freeze(0)
    stage.world.run_for(US_PER_S)
    stage.nodes[0].wanted = [Trace("stalling", {})]
    stage.world.thaw(0)
    stage.world.run_for(US_PER_S)
    assert handled(stage, 0) == [TimerDue("a")]
    stage.world.thaw(0)
    assert handled(stage, 0) == [TimerDue("a"), TimerDue("b")]


def test_a_process_that_is_ended_as_it_goes_on_leaves_the_rest_of_its_work(stage: Stage) -> None:
    stage.world.stop(0)  # it is ended in a second
    stage.world.run_for(US_PER_S - 1_000)
    stage.want(0, Persist((NOTE,)))  # which is durable only after that
    stage.world.freeze(0)
    stage.world.run_for(US_PER_S)
    stage.world.thaw(0)
    assert not stage.world.hosts[0].is_running
    assert stage.world.hosts[0].disk.rows() == (NOTE,)


def test_nothing_waits_for_a_dead_process(stage: Stage) -> None:
    stage.want(0, SetTimer("a", US_PER_S))
    stage.world.freeze(0)
    stage.world.crash(0, DiskFate.KEEP)
    stage.world.run_for(2 * US_PER_S)
    assert stage.world.hosts[0].backlog_count == 0


def test_the_sensors_of_a_stalled_process_are_read_once_when_it_goes_on() -> None:
    stage = Stage(WorldSettings(seed=5, discovery=Discovery.SEEDS))
    stage.forget()
    stage.world.freeze(0)
    stage.world.run_for(3 * SAMPLE_EVERY_US)
    stage.world.thaw(0)
    assert [type(event) for _, event in stage.nodes[0].heard] == [WallClockRead, Sampled]


# Sleep.


def test_a_sleeping_device_does_nothing_while_its_clock_goes_on(stage: Stage) -> None:
    host = stage.world.hosts[0]
    began_us = host.now_us
    stage.want(0, SetTimer("a", US_PER_S), SetTimer("later", 120 * US_PER_S))
    host.suspend()
    stage.world.run_for(60 * US_PER_S)
    assert handled(stage, 0) == []
    host.resume()
    stage.world.run_for(SLEEP_US_MAX)
    assert handled(stage, 0) == [TimerDue("a")]
    woke_us, _ = stage.nodes[0].heard[-1]
    assert 60 * US_PER_S < woke_us - began_us <= 60 * US_PER_S + SLEEP_US_MAX
    stage.world.run_for(60 * US_PER_S)
    rang_us, _ = stage.nodes[0].heard[-1]
    assert rang_us - began_us == 120 * US_PER_S


def test_what_comes_after_the_sleep_wakes_the_daemon_at_once(stage: Stage) -> None:
    host = stage.world.hosts[0]
    stage.want(0, SetTimer("a", US_PER_S))
    host.suspend()
    stage.world.run_for(60 * US_PER_S)
    host.resume()
    seen = PeerSeen(PeerId(bytes(32)), (), "test")
    host.deliver(seen)
    heard = [event for _, event in stage.nodes[0].heard[1:]]
    assert heard == [TimerDue("a"), seen]


def test_a_device_that_sleeps_again_before_it_noticed_sleeps_on(stage: Stage) -> None:
    host = stage.world.hosts[0]
    stage.want(0, SetTimer("a", US_PER_S))
    host.suspend()
    stage.world.run_for(2 * US_PER_S)
    host.resume()
    host.suspend()
    stage.world.run_for(60 * US_PER_S)
    assert handled(stage, 0) == []


def test_nobody_can_dial_a_sleeping_device(stage: Stage) -> None:
    stage.world.hosts[0].suspend()
    assert not stage.world.hosts[0].is_powered
    stage.want(1, Dial(stage.peer(0), stage.world.hosts[0].addresses))
    stage.world.run_for(30 * US_PER_S)
    assert [type(event) for event in handled(stage, 1)] == [DialFailed]


def test_a_device_whose_battery_runs_out_while_it_sleeps_starts_awake(stage: Stage) -> None:
    host = stage.world.hosts[0]
    host.suspend()
    stage.world.crash(0, DiskFate.LOSE_UNSYNCED)
    stage.world.start(0)
    stage.want(0, SetTimer("a", 1))
    stage.world.run_for(1)
    assert host.is_answering
    assert handled(stage, 0)[-1] == TimerDue("a")


# Crashes between two effects.


def crash_at(stage: Stage, point: EffectPoint) -> None:
    stage.world.hosts[0].crash_at(point, lambda: stage.world.crash(0, DiskFate.KEEP))


def noted(stage: Stage) -> list[str]:
    """Return what the scripted nodes wrote into the trace."""
    counts = stage.world.trace.counts
    return [name for name in ("one", "two", "three") if counts[name]]


@pytest.mark.parametrize(("is_after", "left"), [(False, ["one"]), (True, ["one", "two"])])
def test_a_crash_at_an_effect_loses_the_rest_of_them(
    stage: Stage, is_after: bool, left: list[str]
) -> None:
    crash_at(stage, EffectPoint(kind="Trace", count=2, is_after=is_after))
    stage.want(0, Trace("one", {}), SetTimer("a", 0), Trace("two", {}), Trace("three", {}))
    assert noted(stage) == left
    assert not stage.world.hosts[0].is_running


def test_effects_are_counted_over_events_and_what_waits_for_the_disk(stage: Stage) -> None:
    crash_at(stage, EffectPoint(kind="Trace", count=3))
    stage.want(0, Trace("one", {}))
    stage.want(0, Persist((NOTE,), (Trace("two", {}), Trace("three", {}))))
    assert stage.world.hosts[0].is_running
    stage.world.run_for(US_PER_S)
    assert noted(stage) == ["one", "two"]
    assert not stage.world.hosts[0].is_running


def test_a_crash_between_a_write_and_what_follows_it_leaves_the_write_to_the_disk(
    stage: Stage,
) -> None:
    stage.world.hosts[0].crash_at(
        EffectPoint(kind="Persist", detail="note", is_after=True),
        lambda: stage.world.crash(0, DiskFate.LOSE_UNSYNCED),
    )
    stage.want(0, Persist((Row("other", b"a", Note("a")),)), Persist((NOTE,)), Trace("one", {}))
    assert noted(stage) == []
    assert stage.world.hosts[0].disk.rows() == ()


@pytest.mark.parametrize(
    ("point", "is_reached"),
    [
        (EffectPoint(kind="Send", detail="Heartbeat"), True),
        (EffectPoint(kind="Send", detail="HeartbeatAcknowledged"), False),
        (EffectPoint(kind="SetTimer", detail="Key"), True),
        (EffectPoint(kind="SetTimer", detail="str"), False),
        (EffectPoint(kind="Trace", detail="one"), True),
        (EffectPoint(kind="Trace", detail="two"), False),
        (EffectPoint(kind="Kill"), False),
    ],
)
def test_a_point_is_told_by_the_kind_of_its_effect(
    stage: Stage, point: EffectPoint, is_reached: bool
) -> None:
    crash_at(stage, point)
    stage.want(0, Send(stage.peer(1), BEAT), SetTimer(Key(1), 1), Trace("one", {}))
    assert stage.world.hosts[0].is_running is not is_reached


def test_a_point_is_reached_once_and_can_be_given_up(stage: Stage) -> None:
    reached: list[str] = []
    host = stage.world.hosts[0]
    host.crash_at(EffectPoint(kind="Trace"), lambda: reached.append("once"))
    give_up = host.crash_at(EffectPoint(kind="Trace", count=3), lambda: reached.append("never"))
    stage.want(0, Trace("one", {}), Trace("two", {}))
    give_up()
    give_up()
    stage.want(0, Trace("one", {}), Trace("two", {}))
    assert reached == ["once"]


def test_points_that_were_reached_or_given_up_are_watched_no_more() -> None:
    watch = EffectWatch()
    watch.add(EffectPoint(kind="Trace"), lambda: None)
    watch.add(EffectPoint(kind="Kill"), lambda: None)()
    assert len(watch) == 1
    watch.reached(Trace("one", {}))
    assert len(watch) == 0


def test_a_process_that_is_restarted_at_an_effect_does_not_go_on_with_the_old_ones(
    stage: Stage,
) -> None:
    def restart() -> None:
        stage.world.crash(0, DiskFate.KEEP)
        stage.world.start(0)

    stage.world.hosts[0].crash_at(EffectPoint(kind="Trace"), restart)
    stage.want(0, Trace("one", {}), SetTimer("a", 1))
    stage.world.run_for(US_PER_S)
    assert noted(stage) == []
    assert TimerDue("a") not in handled(stage, 0)
    stage.want(0, SetTimer("a", 1))
    stage.world.run_for(1)
    assert handled(stage, 0)[-1] == TimerDue("a")


def test_what_is_read_for_a_dead_process_never_comes(stage: Stage) -> None:
    stage.want(0, Load("note", b"", 1, "token"))
    stage.world.crash(0, DiskFate.KEEP)
    stage.world.start(0)
    stage.world.run_for(US_PER_S)
    assert not any(isinstance(event, Loaded) for event in handled(stage, 0))
