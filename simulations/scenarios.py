"""The scenarios that ship: a file each in `simulations/named`, and `random`, which is a swarm.

In most of them device 0 founded the mesh and device 1 submits and executes nothing, so its tasks
have to travel.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

from simulations.errors import BadScenario
from simulations.plan import Plan
from simulations.random_scenario import random_plan
from simulations.scenario import Scenario
from simulations.scenario_file import scenario_from_toml

__all__ = ["SCENARIOS", "Scenario", "scenario"]

_IN_FILES = (
    "calm",
    "split",
    "split-and-heal",
    "one-way-cut",
    "bridge",
    "ring-of-majorities",
    "flapping-link",
    "behind-nat",
    "isolated-submitter",
    "executor-crash",
    "executor-dies-mid-lease",
    "submitter-crash",
    "submitter-lost-disk",
    "steward-loses-its-disk",
    "stalls",
    "suspended-laptop",
    "gray-executor",
    "rolling-restarts",
    "churn",
    "total-outage",
    "full-disk",
    "restored-backup",
    "block-rollback",
    "thermal-ramp",
    "wrong-clocks",
    "slow-and-lossy-wan",
    "datagrams",
    "lying-executor",
    "equivocating-log",
    "sybil-flood",
    "dht-poisoned",
    "cancel",
)
_RANDOM_SUMMARY = "a mesh, a network and faults of any kind, drawn anew by each seed"


def scenario(name: str) -> Scenario:
    """Return a named scenario. Raises BadScenario with the names there are."""
    if name not in SCENARIOS:
        raise BadScenario(f"no scenario {name!r}; there are: {', '.join(SCENARIOS)}")
    return SCENARIOS[name]


def _from_file(name: str) -> Scenario:
    file = resources.files("simulations") / "named" / f"{name}.toml"
    found = scenario_from_toml(file.read_text(encoding="utf-8"), file=f"{name}.toml")
    if found.name != name:
        raise BadScenario(f"{name}.toml is called {found.name!r}")
    return found


def _random(node_count: int | None = None) -> Scenario:
    def plan_of(seed: int) -> Plan:
        return random_plan(seed, node_count=node_count)

    return Scenario("random", _RANDOM_SUMMARY, plan_of, sized=_random)


SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {name: _from_file(name) for name in _IN_FILES} | {"random": _random()}
)
