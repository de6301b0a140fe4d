"""Two and five real daemons: they find each other, share out work, and prove what they did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from support.daemons import (
    Daemons,
    Device,
    await_linked,
    await_ready,
    meshctl,
    until,
)
from support.wasm import example

from meshd.client import TaskInput
from meshd.control_frames import Frame
from scheduler.receipt import verify_receipt
from wire.ids import mesh_from_text
from wire.keys import Ed25519Verifier

ENDLESS = {"fuel": 10**12, "wall_us": 600_000_000}  # minutes: it is cancelled long before
WIDTH, HEIGHT, TILES, ITERATIONS = 480, 270, 24, 1_000
ECHOED = b"argument 0: task\n"  # what faults/echo says before it echoes
FLIPS_COUNT = 200
HEALTH_TERMS = ("bandwidth", "latency", "compute", "reputation")


@pytest.fixture(scope="module")
def pair(daemons: Daemons) -> tuple[Device, Device]:
    """Return a device and one that it invited, linked."""
    first = daemons.start("attic", "--label", "camera=front")
    await_ready(first)
    (second,) = daemons.start_joined(first, ["garage"], "--label", "camera=back")
    await_linked(first, second)
    return first, second


@pytest.fixture(scope="module")
def five(daemons: Daemons, pair: tuple[Device, Device]) -> list[Device]:
    """Return five devices, three of them invited by the second."""
    devices = [*pair, *daemons.start_joined(pair[1], ["kitchen", "porch", "shed"])]
    await_linked(*devices)
    return devices


def scored(device: Device, other: Device) -> Frame | None:
    """Return the other device as `device` sees it, once it could measure it."""
    seen: Frame = device.peers()[other.name]
    terms = seen["health"]
    return seen if terms["latency"] is not None and terms["compute"] is not None else None


def tiles(count: int) -> list[TaskInput]:
    """Return the tasks of a picture in `count` tiles."""
    numbers = (count, ITERATIONS)
    return [
        TaskInput(args=[str(number) for number in (WIDTH, HEIGHT, index, *numbers)])
        for index in range(count)
    ]


def settle(device: Device, tasks: Sequence[str]) -> list[Frame]:
    """Return how all tasks of a batch ended: well, each of them."""
    views = [device.wait(task) for task in tasks]
    assert {(view["status"], view["exit_code"]) for view in views} == {("exited", 0)}
    return views


def is_good(receipt: bytes, output: bytes, mesh: str) -> bool:
    """Check a receipt as somebody without a daemon would."""
    verdict = verify_receipt(
        receipt, verifier=Ed25519Verifier(), mesh=mesh_from_text(mesh), result=output
    )
    return verdict.is_good


def verify(device: Device, task: str, output: bytes) -> None:
    """Check the receipt of a task."""
    assert is_good(device.receipt(task), output, device.ask("status")["mesh"])


def fill(device: Device, label: str) -> list[str]:
    """Give a device as many tasks without end as it takes at once; only it has the label."""
    slots = device.ask("peer", peer=device.name)["telemetry"]["task_slots_total"]
    endless = [TaskInput()] * slots
    tasks = device.submit(
        example("faults/spin"), *endless, limits=ENDLESS, requirements=[f"label:{label}"]
    )
    until(
        lambda: all(device.task(task)["executor_name"] == device.name for task in tasks),
        f"{device.name} did not take {slots} tasks",
        device,
    )
    return tasks


def cancel(device: Device, tasks: Sequence[str]) -> None:
    """Cancel tasks without end."""
    assert {device.ask("cancel", task=task)["outcome"] for task in tasks} == {"cancelled"}


def test_two_devices_see_each_other_as_linked_and_scored(pair: tuple[Device, Device]) -> None:
    for device, other in (pair, pair[::-1]):
        seen = until(
            lambda device=device, other=other: scored(device, other),  # type: ignore[misc]
            f"{device.name} did not score {other.name}",
            *pair,
        )
        assert seen["state"] == "linked"
        assert seen["addresses"] == [other.address]
        assert seen["round_trip_us"] > 0
        assert seen["health"]["reputation"] == 0.5
        known = [seen["health"][term] for term in HEALTH_TERMS]
        assert all(0 <= term <= 1 for term in known if term is not None)
        assert 0 < seen["health"]["score"] <= 1


def test_a_task_goes_to_the_device_with_the_capability(pair: tuple[Device, Device]) -> None:
    first, second = pair
    for label, device in (("camera=front", first), ("camera=back", second)):
        (task,) = first.submit(
            example("faults/echo"), TaskInput(stdin=b"hello"), requirements=[f"label:{label}"]
        )
        assert first.wait(task)["executor_name"] == device.name
        assert first.result(task) == ECHOED + b"hello"
        verify(first, task, ECHOED + b"hello")


def test_a_task_goes_elsewhere_when_this_device_is_full(pair: tuple[Device, Device]) -> None:
    first, second = pair
    endless = fill(first, "camera=front")
    (task,) = first.submit(example("faults/echo"), TaskInput(stdin=b"any"))
    assert first.wait(task)["executor_name"] == second.name
    cancel(first, endless)
    verify(first, task, ECHOED + b"any")


def test_a_capability_that_nobody_has_is_refused_with_who_came_closest(
    pair: tuple[Device, Device],
) -> None:
    module = Path("examples/faults/echo.wasm").resolve()
    refused = meshctl(pair[0].home, "submit", str(module), "--require", "label:camera=top")
    assert refused.returncode == 103
    assert "label:camera=top" in refused.stderr
    assert "attic" in refused.stderr or "garage" in refused.stderr
    assert refused.stdout == ""


def test_find_names_its_source_and_a_person_may_name_devices_in_four_ways(
    pair: tuple[Device, Device],
) -> None:
    first, second = pair
    found = first.ask("find", capabilities=["label:camera=back"], via="any")
    assert found["source"] == "local"
    assert [peer["name"] for peer in found["peers"]] == ["garage"]
    did = found["peers"][0]["did"]
    assert did.startswith("did:key:z6Mk")
    for reference in ("garage", second.id, second.id[:20], did):
        assert first.ask("peer", peer=reference)["id"] == second.id


def test_a_tampered_result_or_receipt_is_refused(
    pair: tuple[Device, Device], tmp_path: Path
) -> None:
    first = pair[0]
    (task,) = first.submit(example("faults/echo"), TaskInput(stdin=b"what it said"))
    first.wait(task)
    receipt, result = tmp_path / "task.receipt", tmp_path / "result"
    receipt.write_bytes(first.receipt(task))
    result.write_bytes(first.result(task))
    mesh = first.ask("status")["mesh"]
    nowhere = tmp_path / "no-home"  # needs no daemon and no home

    def check() -> tuple[int, str]:
        ended = meshctl(
            nowhere, "verify", str(receipt), "--result", str(result), "--mesh", str(mesh)
        )
        assert ended.stderr == ""
        return ended.returncode, ended.stdout

    code, said = check()
    assert (code, "NOT" in said) == (0, False), said
    result.write_bytes(b"what it never said")
    code, said = check()
    assert code == 1
    assert "NOT verified" in said
    assert "output" in said
    result.write_bytes(ECHOED + b"what it said")
    # But in the names of fields that are as good as not there, no bit may be changed unseen.
    good, put_out = receipt.read_bytes(), result.read_bytes()
    starts = ((good.index(name), len(name)) for name in (b"version", b"agreeing", b"moves"))
    names = {start + place for start, length in starts for place in range(length)}
    for position in range(2, len(good), len(good) // FLIPS_COUNT):
        if position in names:
            continue
        tampered = bytearray(good)
        tampered[position] ^= 0x04
        assert not is_good(bytes(tampered), put_out, mesh), position
    receipt.write_bytes(tampered)
    code, said = check()
    assert code == 1
    assert "NOT verified" in said


def test_five_devices_see_each_other_and_share_work(five: list[Device]) -> None:
    for device in five:
        states = {name: peer["state"] for name, peer in device.peers().items()}
        others = {other.name: "linked" for other in five if other is not device}
        assert states == {device.name: "self", **others}
    submitter = five[4]
    tasks = submitter.submit(example("mandelbrot/mandelbrot"), *tiles(TILES))
    views = settle(submitter, tasks)
    assert len({view["executor_name"] for view in views}) >= 3
    outputs = [submitter.result(task) for task in tasks]
    for task, output in zip(tasks, outputs, strict=True):
        verify(submitter, task, output)
    picture = b"".join(outputs)
    assert len(picture) == WIDTH * HEIGHT * 3
    # The same picture in one piece, drawn by whoever draws it.
    (whole,) = submitter.submit(example("mandelbrot/mandelbrot"), *tiles(1))
    settle(submitter, [whole])
    assert submitter.result(whole) == picture
