"""Scenarios in TOML files."""

from __future__ import annotations

import re
import tomllib

from simulations.errors import BadScenario
from simulations.plan import Plan
from simulations.scenario import Scenario
from simulations.scenario_document import compile_document, header_of
from simulations.scenario_text import Path, line_of, lines_of

TEXT_CHARACTERS_MAX = 1 << 20

_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def scenario_from_toml(text: str, *, file: str) -> Scenario:
    """Return the scenario in a file called `file`. Its plan for its own seed was compiled once.

    Raises BadScenario: `FILE:LINE: key: reason`. So does its plan for another seed, if what is
    drawn for that one cannot be.
    """
    if len(text) > TEXT_CHARACTERS_MAX:
        raise BadScenario(f"{file}:1: more than {TEXT_CHARACTERS_MAX} characters")
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadScenario(_not_toml(text, file, str(error))) from error
    lines = lines_of(text)

    def fail(path: Path, reason: str) -> BadScenario:
        words = [str(part) for part in path if isinstance(part, str) and part]
        return BadScenario(f"{file}:{line_of(lines, path)}: {'.'.join(words)}: {reason}")

    header = header_of(document, fail)

    def sized(node_count: int | None) -> Scenario:
        def plan_of(seed: int) -> Plan:
            return compile_document(document, seed=seed, node_count=node_count, fail=fail)

        return Scenario(header.name, header.summary, plan_of, seed=header.seed, sized=sized)

    scenario = sized(None)
    scenario.plan(scenario.seed)
    return scenario


def _not_toml(text: str, file: str, reason: str) -> str:
    place = _PLACE.search(reason)
    line = place[1] if place and place[1] else text.count("\n") + 1
    return f"{file}:{line}: not TOML: {_PLACE.sub('', reason)}"
