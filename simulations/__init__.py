"""The same node in virtual time, through partitions, crashes and lost disks.

`python -m simulations` runs the named scenarios; docs/simulation.md says what is simulated how.
"""

from simulations.device import Boot, Device, HostSettings, Node
from simulations.disk import DiskFate
from simulations.errors import (
    BadScenario,
    EventBudgetSpent,
    InvariantBroken,
    NodeRaised,
    NotReached,
    SimulationError,
    UnknownEffect,
)
from simulations.paths import NetworkSettings
from simulations.plan import Plan
from simulations.runner import Report, Runner
from simulations.world import Blueprint, Request, World, WorldSettings

__all__ = [
    "BadScenario",
    "Blueprint",
    "Boot",
    "Device",
    "DiskFate",
    "EventBudgetSpent",
    "HostSettings",
    "InvariantBroken",
    "NetworkSettings",
    "Node",
    "NodeRaised",
    "NotReached",
    "Plan",
    "Report",
    "Request",
    "Runner",
    "SimulationError",
    "UnknownEffect",
    "World",
    "WorldSettings",
]
