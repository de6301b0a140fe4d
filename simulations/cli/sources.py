"""What is named on a command line: a scenario of ours, a scenario file, or a plan file."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from msgspec.structs import replace

from meshd.cli.files import read_file
from simulations.cli.grammar import command_text
from simulations.errors import BadScenario
from simulations.mesh_node import MESH_NODE
from simulations.plan import Plan
from simulations.plan_checks import check_plan
from simulations.plan_file import Repro, repro_from_json
from simulations.runs import Run, carry_out
from simulations.scenario import Scenario
from simulations.scenario_file import scenario_from_toml
from simulations.scenarios import SCENARIOS, scenario
from simulations.swarm import SeedResult, result_of_seed

FILE_BYTES_MAX = 64 << 20
TOML, JSON = ".toml", ".json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where plans come from. It is all that a worker process needs to make them again."""

    reference: str  # as it was typed
    content: bytes | None = None  # of a file
    node_count: int | None = None
    exercises_wire: bool = False
    is_twice: bool = False

    def plan(self, seed: int | None = None) -> Plan:
        """Return the plan of a seed, of None the one that the source names.

        Raises BadScenario.
        """
        plan = self._plan(seed)
        if self.exercises_wire:
            plan = replace(plan, exercises_wire=True)
        check_plan(plan)
        return plan

    def _plan(self, seed: int | None) -> Plan:
        if self.content is not None and self.reference.endswith(JSON):
            plan = repro_from_json(self.content, name=self.reference).plan
            if self.node_count is not None:
                plan = replace(plan, node_count=self.node_count)
            return plan if seed is None else replace(plan, seed=seed)
        found = _scenario(self)
        return found.plan(found.seed if seed is None else seed)

    def repeat_with(self, seed: int) -> str:
        """Return the command that repeats the run of a seed."""
        words: list[str | int] = ["run", self.reference, "--seed", seed]
        if self.node_count is not None:
            words += ["--nodes", self.node_count]
        return command_text(*words, *(["--wire"] if self.exercises_wire else []))

    def run(self, plan: Plan) -> Run:
        """Carry out a plan of this source."""
        return carry_out(plan, MESH_NODE, repeat_with=self.repeat_with(plan.seed))

    def run_seed(self, seed: int) -> SeedResult:
        """Run a seed, of a swarm: whatever breaks is a result."""
        return result_of_seed(
            self.plan,
            seed,
            MESH_NODE,
            repeat_with=self.repeat_with(seed),
            is_twice=self.is_twice,
        )


def source_of(
    reference: str,
    *,
    node_count: int | None = None,
    exercises_wire: bool = False,
    is_twice: bool = False,
) -> Source:
    """Return what was named. Raises BadScenario if it is neither ours nor a file's."""
    content = None
    if reference not in SCENARIOS:
        if not reference.endswith((TOML, JSON)):
            raise BadScenario(_unknown(reference))
        content = read_file(reference, bytes_max=FILE_BYTES_MAX, what="scenario")
    return Source(
        reference=reference,
        content=content,
        node_count=node_count,
        exercises_wire=exercises_wire,
        is_twice=is_twice,
    )


def repro_of(path: str) -> Repro:
    """Return the plan in a file, and what it broke if it says so. Raises BadScenario."""
    return repro_from_json(read_file(path, bytes_max=FILE_BYTES_MAX, what="plan"), name=path)


@cache
def _scenario(source: Source) -> Scenario:
    """Return the scenario of a source; a swarm asks for it with each seed."""
    if source.content is None:
        found = scenario(source.reference)
    else:
        found = scenario_from_toml(_text(source.content, source.reference), file=source.reference)
    return found if source.node_count is None else found.with_nodes(source.node_count)


def _unknown(reference: str) -> str:
    if Path(reference).exists():
        return f"{reference}: a scenario file ends in {TOML}, a plan file in {JSON}"
    close: Sequence[str] = difflib.get_close_matches(reference, SCENARIOS, n=3) or list(SCENARIOS)
    return f"no scenario {reference!r}; there are: {', '.join(close)}"


def _text(content: bytes, file: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadScenario(f"{file}:{line}: not UTF-8") from error
