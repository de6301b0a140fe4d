"""The node that ships, for the simulator: unmodified, with settings of a small device."""

from __future__ import annotations

from meshd.node import ROW_KINDS, MeshNode
from meshd.settings import NodeSettings
from simulations.device import Boot, Node
from simulations.seeds import source
from simulations.world import Blueprint
from telemetry import BreakerConfig

ENGINE_PROFILE = "simulated-1"
WIDE_AREA_ROUND_TRIP_US_MAX = 1_000_000
TASK_SLOTS_PER_WORKER = 2


def make_mesh_node(boot: Boot) -> Node:
    """Return the node of one boot of a device."""
    device = boot.device
    breaker = BreakerConfig()
    if boot.settings.is_wide_area:
        breaker = BreakerConfig(round_trip_us_max=WIDE_AREA_ROUND_TRIP_US_MAX)
    settings = NodeSettings(
        name=device.name,
        version="simulated",
        capabilities=(
            f"label:device={device.index}",
            f"profile:{ENGINE_PROFILE}",
            "runtime:wasi-p1",
        ),
        engine_profile=ENGINE_PROFILE,
        workers_count=boot.settings.workers_count,
        task_slots=TASK_SLOTS_PER_WORKER * boot.settings.workers_count,
        breaker=breaker,
        lease_us=boot.settings.lease_us,
    )
    return MeshNode(
        settings=settings,
        signer=device.signer,
        genesis=device.genesis,
        chain=device.chain,
        network_key=device.network_key,
        rng=source(boot.seed, "node", device.index, boot.number),
    )


MESH_NODE = Blueprint(factory=make_mesh_node, row_kinds=ROW_KINDS)
