"""Daemons that die without a word, or all at once: work and membership come back by themselves."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from support.daemons import (
    PATIENCE_S,
    Daemons,
    Device,
    await_linked,
    await_ready,
    free_address,
    until,
)
from support.wasm import example

from meshd.client import TaskInput
from meshd.control_frames import Frame
from scheduler.receipt import verify_receipt
from wire.ids import mesh_from_text
from wire.keys import Ed25519Verifier

# Some seconds of one core: long enough to be caught in the middle, short beside the deadlines.
SLOW = TaskInput(args=["1280", "720", "0", "1", "3000"])
SLOW_BYTES = 1280 * 720 * 3
WORKSHOP = "label:place=workshop"
LIMITS = {"wall_us": 120_000_000, "fuel": 10**12}


@dataclass(frozen=True, slots=True)
class Kept:
    """What a device knows of a task that is decided: this must never change again."""

    view: Frame
    result: bytes
    receipt: bytes


@pytest.fixture(scope="module")
def three(daemons: Daemons) -> list[Device]:
    """Return a device that submits and two that alone may do its work, all linked."""
    attic = daemons.start("attic", listen=free_address())
    await_ready(attic)
    workers = daemons.start_joined(attic, ["garage", "kitchen"], "--label", "place=workshop")
    devices = [attic, *workers]
    await_linked(*devices)
    return devices


def submit_slow(device: Device) -> str:
    """Return the id of a task of some seconds for one of the two others."""
    (task,) = device.submit(
        example("mandelbrot/mandelbrot"), SLOW, requirements=[WORKSHOP], limits=LIMITS
    )
    return task


def await_executing(device: Device, task: str) -> Frame:
    """Return the task once somebody works on it."""
    return until(
        lambda: view if (view := device.task(task))["state"] == "executing" else None,
        "nobody began the task",
        device,
    )


def kept(device: Device, task: str) -> Kept:
    """Return everything that `device` keeps of a decided task."""
    return Kept(device.task(task), device.result(task), device.receipt(task))


def assert_verified(device: Device, task: str) -> None:
    """Check the receipt, and the result against it."""
    verdict = verify_receipt(
        device.receipt(task),
        verifier=Ed25519Verifier(),
        mesh=mesh_from_text(device.ask("status")["mesh"]),
        result=device.result(task),
    )
    assert verdict.is_good, verdict


def test_a_task_outlives_its_executor_and_is_decided_once(
    daemons: Daemons, three: list[Device]
) -> None:
    attic, *workers = three
    task = submit_slow(attic)
    killed: Device | None = None
    views = []
    for view in attic.client.follow({"command": "wait", "task": task}, timeout_s=PATIENCE_S):
        views.append(view)
        if killed is None and view["state"] == "executing":
            killed = next(one for one in workers if one.name == view["executor_name"])
            killed.kill()
    assert killed is not None
    (decided,) = (view for view in views if view["is_decided"])
    assert (decided["outcome"], decided["status"], decided["exit_code"]) == ("result", "exited", 0)
    assert decided["executor_name"] == next(one.name for one in workers if one is not killed)
    assert decided["attempts"] >= 2
    assert len(attic.result(task)) == SLOW_BYTES
    assert_verified(attic, task)
    # Who comes back knows nothing that could decide it a second time.
    before = kept(attic, task)
    daemons.restart(killed)
    await_ready(killed)
    await_linked(*three)
    assert kept(attic, task) == before


def test_a_killed_device_keeps_what_it_promised_and_comes_back_by_itself(
    daemons: Daemons, three: list[Device]
) -> None:
    attic = three[0]
    inputs = [TaskInput(stdin=f"line {number}\n".encode() * 5_000) for number in range(8)]
    tasks = attic.submit(example("wordcount/wordcount"), *inputs)
    for task in tasks:
        attic.wait(task)
    until(
        lambda: all(attic.task(task)["state"] == "settled" for task in tasks),
        "not all tasks were settled",
        attic,
    )
    before = {task: kept(attic, task) for task in tasks}
    listed = attic.ask("tasks")["tasks"]
    attic.kill()
    daemons.restart(attic)
    await_ready(attic)
    await_linked(*three)
    assert {task: kept(attic, task) for task in tasks} == before
    assert attic.ask("tasks")["tasks"] == listed
    for task in tasks:
        assert_verified(attic, task)
    # It never had to dial the others. At another address it must: they cannot find it.
    attic.kill()
    daemons.restart(attic, listen=free_address())
    await_ready(attic)
    await_linked(*three)


def test_a_task_outlives_its_submitter(daemons: Daemons, three: list[Device]) -> None:
    attic = three[0]
    task = submit_slow(attic)
    await_executing(attic, task)
    attic.kill()
    daemons.restart(attic)
    await_ready(attic)
    decided = attic.wait(task)
    assert (decided["outcome"], decided["status"], decided["exit_code"]) == ("result", "exited", 0)
    assert len(attic.result(task)) == SLOW_BYTES
    assert_verified(attic, task)
    await_linked(*three)


def test_a_whole_mesh_comes_back_by_itself_though_most_addresses_changed(
    daemons: Daemons, three: list[Device]
) -> None:
    attic, *others = three
    ids, address = {device.id for device in three}, attic.address
    incarnations = {name: peer["incarnation"] for name, peer in attic.peers().items()}
    for device in three:
        device.process.terminate()
    assert [device.stop() for device in three] == [0, 0, 0]
    ports = {device.port for device in others}
    for device in reversed(three):  # nobody that listens where it did is there at first
        daemons.restart(device)
    await_ready(*three)
    await_linked(*three)
    assert {device.id for device in three} == ids
    assert attic.address == address
    assert ports.isdisjoint(device.port for device in others), "their ports should have changed"
    after = {name: peer["incarnation"] for name, peer in attic.peers().items()}
    assert all(after[name] > incarnations[name] for name in incarnations)
    (task,) = others[0].submit(example("faults/echo"), TaskInput(stdin=b"x"))
    assert others[0].wait(task)["outcome"] == "result"
