"""A device judges the devices that it is linked with by what they tell, once they tell it."""

from __future__ import annotations

from simulations.engine import US_PER_S
from simulations.mesh_node import MESH_NODE
from simulations.world import World, WorldSettings
from telemetry.breaker import BreakerState
from wire.answers import PeerView
from wire.commands import GetPeer
from wire.ids import peer_text

HOT_MILLICELSIUS = 90_000
A_MINUTE_US = 60 * US_PER_S  # telemetry that moved is told at the next sample or two


def breaker_seen(world: World) -> str:
    """Return what node 1 thinks of node 0."""
    request = world.ask(1, GetPeer(peer=peer_text(world.hosts[0].peer)))
    world.run_for(US_PER_S // 10)
    assert isinstance(request.last, PeerView)
    return request.last.breaker


def test_telemetry_of_heat_opens_the_breaker_at_the_others_too() -> None:
    world = World(WorldSettings(seed=4, node_count=2), MESH_NODE)
    world.start_all()
    world.run_for(3 * US_PER_S)
    assert breaker_seen(world) == BreakerState.CLOSED.value

    world.hosts[0].set_temperature(HOT_MILLICELSIUS)
    world.run_for(A_MINUTE_US)

    assert breaker_seen(world) == BreakerState.OPEN.value
