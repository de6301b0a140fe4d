"""The node that ships, for the simulator: unmodified, with settings of a small device."""

from __future__ import annotations

from meshd.node import ROW_KINDS, MeshNode
from meshd.settings import NodeSettings
from simulations.device import ANY_TYPE, Boot, HostSettings, Node
from simulations.seeds import source
from simulations.world import Blueprint
from telemetry import BreakerConfig

ENGINE_PROFILE = "simulated-1"
WIDE_AREA_ROUND_TRIP_US_MAX = 1_000_000
TASK_SLOTS_PER_WORKER = 2


def make_mesh_node(boot: Boot) -> Node:
    """Return the node of one boot of a device."""
    device, host = boot.device, boot.settings
    breaker = BreakerConfig()
    if host.is_wide_area:
        breaker = BreakerConfig(round_trip_us_max=WIDE_AREA_ROUND_TRIP_US_MAX)
    settings = NodeSettings(
        name=device.name,
        version="simulated",
        node_type=host.node_type,
        region=host.region,
        capabilities=_capabilities(device.index, host),
        engine_profile=ENGINE_PROFILE,
        workers_count=host.workers_count,
        task_slots=TASK_SLOTS_PER_WORKER * host.workers_count,
        links_max=host.links_max,
        dials_max=host.dials_max,
        members_max=host.members_max,
        leases_max=host.leases_max,
        breaker=breaker,
        lease_us=host.lease_us,
        steward_gone_us=host.steward_gone_us,
        spot_checks=host.spot_checks,
    )
    return MeshNode(
        settings=settings,
        signer=device.signer,
        genesis=device.genesis,
        chain=device.chain,
        network_key=device.network_key,
        rng=source(boot.seed, "node", device.index, boot.number),
    )


def _capabilities(index: int, host: HostSettings) -> tuple[str, ...]:
    """Return what a device provides: less than a daemon tells, for each is a record in the DHT."""
    keys = {f"label:device={index}", f"profile:{ENGINE_PROFILE}", "runtime:wasi-p1"}
    keys.update(host.capabilities)
    if host.node_type != ANY_TYPE:
        keys.add(f"type:{host.node_type}")
    if host.region:
        keys.add(f"region:{host.region}")
    return tuple(sorted(keys))


MESH_NODE = Blueprint(factory=make_mesh_node, row_kinds=ROW_KINDS)
