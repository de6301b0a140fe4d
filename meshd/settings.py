"""What a node is told about its device: what its decisions depend on and no event says."""

from __future__ import annotations

from dataclasses import dataclass, field

from p2p.directory import MEMBERS_MAX
from p2p.overlay import DIALS_MAX, LINKS_MAX
from scheduler.admission import LEASES_MAX, ExecutorSettings
from scheduler.leases import LEASE_US
from scheduler.spot_checks import FLOOR_PERMILLE
from scheduler.succession import GONE_US
from telemetry.breaker import BreakerConfig
from telemetry.health import (
    DEFAULT_REFERENCES,
    DEFAULT_WEIGHTS,
    HealthReferences,
    HealthWeights,
)
from wire.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """Settings of one node. Durations in microseconds, sizes in bytes."""

    name: str
    version: str = "0"
    node_type: str = "any"
    region: str = ""
    capabilities: tuple[str, ...] = ()
    engine_profile: str
    workers_count: int = 1
    task_slots: int = 4
    caps: Limits = field(default_factory=Limits)
    leases_max: int = LEASES_MAX
    lease_us: int = LEASE_US
    steward_gone_us: int = GONE_US
    spot_checks: bool = True
    spot_check_floor_permille: int = FLOOR_PERMILLE
    links_max: int = LINKS_MAX
    dials_max: int = DIALS_MAX
    members_max: int = MEMBERS_MAX
    breaker: BreakerConfig = field(default_factory=BreakerConfig)
    weights: HealthWeights = DEFAULT_WEIGHTS
    references: HealthReferences = DEFAULT_REFERENCES

    @property
    def executor(self) -> ExecutorSettings:
        """Return what concerns the executor."""
        return ExecutorSettings(
            engine_profile=self.engine_profile,
            workers_count=self.workers_count,
            task_slots=self.task_slots,
            caps=self.caps,
            leases_max=self.leases_max,
        )
