"""A daemon stops cleanly however it is asked, and leaves nothing behind however it ends."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest
from support.daemons import (
    Daemons,
    Device,
    await_linked,
    await_ready,
    meshd,
    until,
)
from support.hard_daemons import assert_calm, await_gone
from support.wasm import example

from meshd.client import TaskInput

STOP_S_MAX = 5.0
ENDLESS = {"fuel": 10**12, "wall_us": 600_000_000}  # minutes: the stop comes long before


@pytest.fixture(scope="module")
def pair(daemons: Daemons) -> tuple[Device, Device]:
    """Return a device with a neighbour, linked; only the first has the label."""
    first = daemons.start("attic", "--label", "home=attic")
    await_ready(first)
    (second,) = daemons.start_joined(first, ["garage"])
    await_linked(first, second)
    return first, second


def send(number: signal.Signals) -> Callable[[Device], None]:
    """Return how to stop a daemon with a signal."""
    return lambda device: device.process.send_signal(number)


def type_stop(device: Device) -> None:
    """Stop a daemon as a person does."""
    stopped = meshd(device.home, "stop")
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout == f"stopped (process {device.process.pid})\n"


def keep_busy(device: Device) -> str:
    """Let a device work without end; return the task."""
    (task,) = device.submit(
        example("faults/spin"), TaskInput(), limits=ENDLESS, requirements=["label:home=attic"]
    )
    until(lambda: device.task(task)["state"] == "executing", "the work did not begin", device)
    return task


def come_back(daemons: Daemons, pair: tuple[Device, Device], task: str) -> None:
    """Start the device again: its home is free, it knows its task, and its neighbour knows it."""
    first, second = pair
    daemons.restart(first)
    await_ready(first)
    await_linked(first, second)
    assert first.ask("cancel", task=task)["outcome"] == "cancelled"


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(type_stop, id="meshd-stop"),
        pytest.param(send(signal.SIGTERM), id="SIGTERM"),
        pytest.param(send(signal.SIGINT), id="SIGINT"),
    ],
)
def test_it_stops_within_seconds_and_leaves_nothing_behind(
    daemons: Daemons, pair: tuple[Device, Device], stop: Callable[[Device], None]
) -> None:
    first, second = pair
    task = keep_busy(first)
    workers = first.workers()
    assert workers
    first.hang_up()
    begun_s = time.monotonic()
    stop(first)
    assert first.process.wait(STOP_S_MAX) == 0
    assert time.monotonic() - begun_s < STOP_S_MAX
    await_gone(workers)
    assert_calm(first)
    assert not (first.home / "control.sock").exists()
    until(  # it said goodbye: nobody had to wait for its silence
        lambda: second.peers()["attic"]["state"] != "linked",
        "the neighbour did not notice",
        second,
        within_s=STOP_S_MAX,
    )
    assert meshd(first.home, "stop").returncode == 4
    come_back(daemons, pair, task)


def test_a_killed_daemon_leaves_no_worker_and_no_lock(
    daemons: Daemons, pair: tuple[Device, Device]
) -> None:
    first, _ = pair
    task = keep_busy(first)
    workers = first.workers()
    assert workers
    first.kill()
    await_gone(workers)
    come_back(daemons, pair, task)


def test_two_signals_are_no_more_than_one(daemons: Daemons) -> None:
    device = daemons.start("porch")
    await_ready(device)
    workers = device.workers()
    device.process.send_signal(signal.SIGINT)
    device.process.send_signal(signal.SIGTERM)
    assert device.process.wait(STOP_S_MAX) == 0
    await_gone(workers)
    assert_calm(device)


def test_an_impatient_person_gets_the_same_clean_end(daemons: Daemons) -> None:
    device = daemons.start("cellar")
    await_ready(device)
    while device.is_running:
        device.process.send_signal(signal.SIGINT)
        time.sleep(0.005)  # a hundred more on the way, at whatever point of the end
    assert device.process.returncode == 0
    assert_calm(device)


def test_a_signal_before_it_is_ready_stops_it_too(daemons: Daemons) -> None:
    device = daemons.start("shed")
    until(lambda: device.home.joinpath("mesh.db").exists(), "no store was made", device)
    device.process.send_signal(signal.SIGTERM)
    device.process.wait(STOP_S_MAX)
    assert_calm(device)
    daemons.restart(device)
    await_ready(device)


def test_a_second_daemon_on_the_same_home_is_refused(pair: tuple[Device, Device]) -> None:
    first, _ = pair
    refused = meshd(first.home, "start", "--listen", "/ip4/127.0.0.1/tcp/0")
    assert refused.returncode == 1
    assert refused.stdout == ""
    (line, *hints) = refused.stderr.splitlines()
    assert f"is in use by process {first.process.pid}" in line
    assert "meshd stop" in refused.stderr
    assert not hints, refused.stderr
    assert first.ask("status")["pid"] == first.process.pid
