"""Tasks that must come to their one end whatever happens to the network, and the proof of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from support.daemons import Device, meshctl, until
from support.hard_daemons import ECHOED
from support.netns_toil import fruit_of_toil, toil
from support.wasm import example

from meshd.client import TaskInput

LIMITS = {"wall_us": 240_000_000, "fuel": 10**12}


@dataclass(frozen=True, slots=True)
class Errand:
    """A task that a device accepted. `output` is what it must put out."""

    device: Device
    task: str
    output: bytes

    @property
    def state(self) -> str:
        """How it stands."""
        return str(self.device.task(self.task)["state"])

    @property
    def is_decided(self) -> bool:
        """Whether its outcome is fixed."""
        return bool(self.device.task(self.task)["is_decided"])


@dataclass(frozen=True, slots=True)
class Done:
    """What is known of a decided task: this must never change again."""

    executor_name: str
    attempts_count: int
    result: bytes
    receipt: bytes


def echoes(device: Device, count: int, said: str, *, at: Device | None = None) -> list[Errand]:
    """Submit a batch of short tasks; `at` is the only device that may run them."""
    inputs = [f"{device.name} {said} {number}".encode() for number in range(count)]
    requirements = [] if at is None else [f"label:place={at.name}"]
    tasks = device.submit(
        example("faults/echo"),
        *(TaskInput(stdin=one) for one in inputs),
        requirements=requirements,
    )
    return [Errand(device, task, ECHOED + one) for task, one in zip(tasks, inputs, strict=True)]


def long_task(device: Device, *, at: Device) -> Errand:
    """Submit a task of seconds that only `at` may run; return when that device works on it."""
    (task,) = device.submit(toil(), requirements=[f"label:place={at.name}"], limits=LIMITS)
    errand = Errand(device, task, fruit_of_toil())
    until(lambda: errand.state == "executing", f"{at.name} did not begin the task", device, at)
    return errand


def await_decided(errands: Sequence[Errand], within_s: float) -> None:
    """Return when all errands are decided."""
    waiting = list(errands)

    def is_over() -> bool:
        waiting[:] = [errand for errand in waiting if not errand.is_decided]
        return not waiting

    devices = {errand.device.name: errand.device for errand in errands}.values()
    until(is_over, f"tasks were not decided: {waiting}", *devices, within_s=within_s)


def done(errand: Errand) -> Done:
    """Return what its submitter knows of a decided task, after checking that it went well."""
    view = errand.device.task(errand.task)
    assert (view["outcome"], view["status"]) == ("result", "exited"), view
    assert view["exit_code"] == 0, view
    result = errand.device.result(errand.task)
    assert result == errand.output
    return Done(
        executor_name=str(view["executor_name"]),
        attempts_count=int(view["attempts"]),
        result=result,
        receipt=errand.device.receipt(errand.task),
    )


def assert_verified(errands: Sequence[Errand], directory: Path) -> None:
    """Check each receipt, and the result against it, with `meshctl verify` of a stranger."""
    directory.mkdir()
    for number, errand in enumerate(errands):
        known = done(errand)
        receipt, result = directory / f"{number}.mesh", directory / f"{number}.out"
        receipt.write_bytes(known.receipt)
        result.write_bytes(known.result)
        mesh = str(errand.device.ask("status")["mesh"])
        stranger = directory / "nobody"  # no home, no daemon: all it knows is what it is given
        verified = meshctl(
            stranger, "verify", str(receipt), "--result", str(result), "--mesh", mesh
        )
        assert verified.returncode == 0, verified.stdout + verified.stderr
