"""Real daemons that keep a batch together: whoever submitted it may be killed."""

from __future__ import annotations

import pytest
from support.daemons import Daemons, Device, await_linked, await_ready
from support.wasm import example

from meshd.client import TaskInput
from meshd.control_errors import CommandRefused
from scheduler.receipt import verify_receipt
from wire.ids import mesh_from_text
from wire.keys import Ed25519Verifier

TASKS_COUNT = 12
SAID = b"said\n"


@pytest.fixture(scope="module")
def four(daemons: Daemons) -> list[Device]:
    """Return four devices, all linked; the first invited the others."""
    first = daemons.start("attic")
    await_ready(first)
    devices = [first, *daemons.start_joined(first, ["garage", "kitchen", "porch"])]
    await_linked(*devices)
    return devices


def inputs() -> list[TaskInput]:
    return [TaskInput(args=[str(number)], stdin=SAID) for number in range(TASKS_COUNT)]


def assert_proven(device: Device, task: str) -> None:
    """Check that a device has a task's output, and a receipt that a stranger accepts."""
    output = device.result(task)
    assert output.endswith(SAID)
    verdict = verify_receipt(
        device.receipt(task),
        verifier=Ed25519Verifier(),
        mesh=mesh_from_text(str(device.ask("status")["mesh"])),
        result=output,
    )
    assert verdict.is_good
    assert (verdict.facts.durability, verdict.facts.stewards_count) == ("mesh", 3)
    assert verdict.facts.stewards is not None
    assert len(verdict.facts.stewards) >= 2


def _stewards(device: Device, task: str) -> set[str]:
    return {str(one["id"]) for one in device.ask("why", task=task)["stewards"]}


def test_any_device_answers_for_a_task_and_only_readers_have_its_output(
    four: list[Device],
) -> None:
    first, *others = four
    keepers = {"garage", "kitchen", "porch"}
    accepted = first.client.submit(
        example("faults/echo"), inputs()[:1], durability="mesh", readers=sorted(keepers)
    )
    (task,) = map(str, accepted["tasks"])
    stranger = next(device for device in others if device.id not in accepted["stewards"])
    assert stranger.wait(task)["outcome"] == "result"
    assert_proven(stranger, task)
    assert stranger.ask("why", task=task)["told_by"] in accepted["stewards"]
    life = stranger.ask("history", task=task)
    told = {(one["device"], one["kind"]) for one in life["events"]}
    assert {(steward, "kept") for steward in accepted["stewards"]} <= told
    assert (stranger.task(task)["executor"], "ran") in told
    assert life["silent"] == []

    (secret,) = first.client.submit(example("faults/echo"), inputs()[:1], durability="mesh")[
        "tasks"
    ]
    outsider = next(device for device in others if device.id not in _stewards(first, str(secret)))
    outsider.wait(str(secret))
    with pytest.raises(CommandRefused) as refused:
        outsider.result(str(secret))
    assert "has no key to the task's output" in str(refused.value)


def test_what_was_accepted_is_finished_by_others_when_its_device_is_killed(
    four: list[Device],
) -> None:
    first, *others = four
    accepted = first.client.submit(example("faults/echo"), inputs(), durability="mesh")
    assert accepted["durability"] == "mesh"
    stewards = [device for device in others if device.id in accepted["stewards"]]
    assert len(stewards) == 2
    first.kill()
    tasks = [str(task) for task in accepted["tasks"]]
    for device in stewards:
        for task in tasks:
            assert device.wait(task)["outcome"] == "result"
            assert_proven(device, task)


def test_a_lone_device_refuses_to_keep_a_task_as_three_would(daemons: Daemons) -> None:
    alone = daemons.start("cellar")
    await_ready(alone)
    with pytest.raises(CommandRefused) as refused:
        alone.client.submit(example("faults/echo"), inputs(), durability="mesh")
    assert "durability mesh needs 3 devices" in str(refused.value)
