"""Real daemons and a real `meshctl map` that is killed: only what is missing is done afterwards."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from support.daemons import BINARIES, Daemons, Device, await_linked, await_ready, meshctl, until
from support.wasm import EXAMPLES

INPUTS_COUNT = 300


@pytest.fixture(scope="module")
def three(daemons: Daemons) -> list[Device]:
    """Return three devices, all linked; the first invited the others."""
    first = daemons.start("attic")
    await_ready(first)
    devices = [first, *daemons.start_joined(first, ["garage", "kitchen"])]
    await_linked(*devices)
    return devices


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    directory = tmp_path / "texts"
    directory.mkdir()
    for number in range(INPUTS_COUNT):
        (directory / f"{number}.txt").write_text(f"text {number}\n" * (number + 1))
    return directory


def words(inputs: Path, outputs: Path) -> list[str]:
    module = str(EXAMPLES / "faults" / "echo.wasm")
    return ["map", module, "--inputs", f"{inputs}/*.txt", "--outputs", str(outputs)]


def test_a_map_that_is_killed_in_the_middle_does_only_what_is_missing(
    three: list[Device], inputs: Path, tmp_path: Path
) -> None:
    first, *_ = three
    outputs = tmp_path / "out"
    command = [str(BINARIES / "meshctl"), "--home", str(first.home), *words(inputs, outputs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until(
            lambda: len(list(outputs.glob("*.out"))) >= INPUTS_COUNT // 10,
            "no outputs came",
            *three,
        )
        process.send_signal(signal.SIGKILL)
    before = {path.name: path.stat().st_mtime_ns for path in outputs.glob("*.out")}
    assert len(before) < INPUTS_COUNT, "it was killed too late to show anything"

    done = meshctl(first.home, *words(inputs, outputs), "--resume")

    assert done.returncode == 0, done.stderr
    assert f"{INPUTS_COUNT} of {INPUTS_COUNT} done" in done.stdout
    for path in inputs.iterdir():
        output = (outputs / f"{path.stem}.out").read_bytes()
        assert output.endswith(path.read_bytes())
    after = {path.name: path.stat().st_mtime_ns for path in outputs.glob("*.out")}
    # One may have been written, and not yet noted, when it was killed.
    assert len(before.items() - after.items()) <= 1
    assert len(first.ask("tasks", limit=1_000)["tasks"]) == INPUTS_COUNT


def test_plan_and_why_agree_with_what_is_done(three: list[Device]) -> None:
    first, *_ = three
    plan = first.ask("plan", requirements=["label:disk=fast"])
    assert plan["device"] is None
    assert {one["rule"] for one in plan["devices"]} == {"capability_missing"}
    task, *_ = first.submit((EXAMPLES / "faults" / "echo.wasm").read_bytes())
    first.wait(task)
    why = first.ask("why", task=task)
    holder = next(one for one in why["devices"] if one["place"] == "has_it")
    assert holder["id"] == why["task"]["executor"]
    assert {one["rule"] for one in why["devices"]} == {None, "decided"}
