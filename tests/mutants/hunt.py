"""A planted defect, and the hunt for it: seed after seed of one composition, until a check fires.

A simulator whose checks never fired proves nothing: so each rule of a protocol has a mutant here
that breaks it, and a hunt that finds no mutant within its seeds is a failure of the simulator.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from simulations.errors import SimulationError
from simulations.mesh_node import MESH_NODE
from simulations.plan import Plan
from simulations.runner import Runner
from simulations.world import Blueprint

SEEDS_MAX = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One defect: how it is planted, where it is hunted, and what has to find it.

    `plant` makes the patches for a time, or `node` makes the nodes. `found_by` are beginnings of
    the messages that count: another failure is another defect.
    """

    name: str
    plan: Callable[[int], Plan]
    found_by: tuple[str, ...]
    plant: Callable[[], AbstractContextManager[object]] | None = None
    blueprint: Callable[[], Blueprint] = field(default=lambda: MESH_NODE)
    seeds_max: int = SEEDS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Hunt:
    """How a hunt went. `found` is what the simulator said, None if the mutant survived."""

    mutant: Mutant
    seeds_count: int
    cpu_s: float
    found: str | None


def hunt(mutant: Mutant) -> Hunt:
    """Run the mutant's composition seed after seed until it is found, at most `seeds_max`."""
    started_s = time.process_time()
    for seed in range(mutant.seeds_max):
        found = _run(mutant, seed)
        if found is not None and found.startswith(mutant.found_by):
            return _ended(mutant, seed + 1, started_s, found)
    return _ended(mutant, mutant.seeds_max, started_s, None)


def _ended(mutant: Mutant, seeds_count: int, started_s: float, found: str | None) -> Hunt:
    cpu_s = time.process_time() - started_s
    return Hunt(mutant=mutant, seeds_count=seeds_count, cpu_s=cpu_s, found=found)


def _run(mutant: Mutant, seed: int) -> str | None:
    """Return what a run with the defect breaks, None if all holds."""
    plan = mutant.plan(seed)
    try:
        if mutant.plant is None:
            Runner(plan, mutant.blueprint(), repeat_with="make mutants").run()
        else:
            with mutant.plant():
                Runner(plan, mutant.blueprint(), repeat_with="make mutants").run()
    except SimulationError as error:
        return str(error)
    return None


def holds_without(mutant: Mutant, *, seeds_count: int = 2) -> str | None:
    """Say what the composition breaks even without the defect, None if nothing."""
    for seed in range(seeds_count):
        try:
            Runner(mutant.plan(seed), MESH_NODE, repeat_with="make mutants").run()
        except SimulationError as error:
            return f"seed {seed}: {error}"
    return None
