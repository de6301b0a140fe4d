"""`python -m simulations` says what held, and how to repeat what did not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from simulations import __main__ as command
from simulations.device import Boot, Node
from simulations.mesh_node import MESH_NODE
from simulations.scenarios import SCENARIOS
from simulations.world import Blueprint
from wire.effects import Effect
from wire.events import Asked, Event
from wire.messages import Hello


class Absent:
    """A node that raises when it is asked anything."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def hello(self) -> Hello:
        return self._node.hello()

    def handle(self, event: Event, now_us: int) -> Sequence[Effect]:
        if isinstance(event, Asked):
            raise LookupError("absent-minded")
        return self._node.handle(event, now_us)


def test_the_scenarios_are_listed() -> None:
    done = CliRunner().invoke(command.main, ["--list"])
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(SCENARIOS)


def test_a_run_tells_its_digest_and_writes_its_trace(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    arguments = ["--scenario", "calm", "--seed", "4", "--twice", "--trace", str(trace)]
    done = CliRunner().invoke(command.main, arguments)
    assert done.exit_code == 0
    assert done.stdout.startswith("calm held: seed=4 digest=")
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    assert {"time_us", "node", "sequence", "event"} <= lines[0].keys()


def test_a_bad_scenario_is_a_usage_error_with_the_good_ones() -> None:
    done = CliRunner().invoke(command.main, ["--scenario", "quiet"])
    assert done.exit_code == 2
    assert "there are: calm, lossy" in done.stderr


def test_a_failure_ends_with_one_and_names_the_command_that_repeats_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(boot: Boot) -> Node:
        return Absent(MESH_NODE.factory(boot))

    blueprint = Blueprint(factory=absent, row_kinds=MESH_NODE.row_kinds)
    monkeypatch.setattr(command, "MESH_NODE", blueprint)
    done = CliRunner().invoke(command.main, ["--scenario", "split", "--seed", "7"])
    assert done.exit_code == 1
    assert "Asked made device-1 raise LookupError('absent-minded')" in done.stderr
    assert "repeat: python -m simulations --scenario split --seed 7" in done.stderr
