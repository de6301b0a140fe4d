"""A run as one explicit list of what happens in it: what is replayed and shrunk, whatever made it.

Its JSON is a plan file. Everything a run depends on is in it, so that a plan and a commit are a
run.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from simulations.budget import Budget
from simulations.device import HostSettings
from simulations.discovery import Discovery
from simulations.engine import US_PER_S
from simulations.paths import NetworkSettings
from simulations.steps import AnyStep, NodeNumber, TimeUs
from wire.membership import Role

PLAN_VERSION = 1
NODES_MAX = 100_000
STEPS_MAX = 100_000

WORKER_ROLES = (Role.SUBMITTER, Role.EXECUTOR, Role.STEWARD)
SUBMITTER_ROLES = (Role.SUBMITTER, Role.STEWARD)


class Expectations(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must come of a run, beside the invariants."""

    whole_within_us: TimeUs = 120 * US_PER_S  # L1: from when everything is mended
    decided_within_us: TimeUs = 120 * US_PER_S  # L2: likewise
    breaks: str | None = None  # an invariant that cannot hold here: then holding is the failure
    sometimes: tuple[str, ...] = ()  # what must have happened, in a swarm in some of its runs


class Plan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a run depends on. Once all steps are done everything is mended, and whatever was
    accepted and not lost with its store must be decided.
    """

    version: int = PLAN_VERSION
    name: str = "a plan"
    seed: int
    node_count: Annotated[int, Meta(ge=1, le=NODES_MAX)] = 3
    network: NetworkSettings = NetworkSettings()
    host: HostSettings = HostSettings()
    hosts: dict[NodeNumber, HostSettings] = {}  # of devices that are not as the others
    roles: dict[NodeNumber, tuple[Role, ...]] = {}
    absent: tuple[NodeNumber, ...] = ()  # devices that run from their first Start on only
    discovery: Discovery = Discovery.LAN
    budget: Budget = Budget()
    exercises_wire: bool = False
    steps: Annotated[tuple[AnyStep, ...], Meta(max_length=STEPS_MAX)]
    lasts_us: TimeUs = 0  # at least; the last step ends it otherwise
    expect: Expectations = Expectations()
