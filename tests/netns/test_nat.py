"""Two devices behind routers of their own, which let nobody in, work together through others."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
from support.daemons import Daemons, Device, until
from support.netns import Fabric, fabric
from support.netns_errands import assert_verified, await_decided, done, echoes, long_task
from support.netns_measured import measured
from support.netns_mesh import PORT, RealMesh

pytestmark = pytest.mark.minutes

HIDDEN = (2, 3)
LINKED_S_MAX = 60.0
TAKEN_OVER_S_MAX = 40.0
DECIDED_S_MAX = 60.0


def test_two_devices_behind_nat_work_for_each_other_and_outlive_who_carries_their_link(
    daemons: Daemons, tmp_path: Path
) -> None:
    with fabric(4) as network:
        routers = {node: network.put_behind_nat(node) for node in HIDDEN}
        assert_hidden(network, routers)
        mesh = RealMesh(network, daemons)
        mesh.grow()
        one, other = (mesh.devices[node] for node in HIDDEN)
        carrier = by_name(mesh, carrier_of(one, other))
        assert carrier_of(other, one) == carrier.name
        assert not any(peer["via"] for peer in mesh.devices[0].peers().values())

        work = [*echoes(one, 4, "through", at=other), *echoes(other, 4, "through", at=one)]
        work.append(long_task(one, at=other))
        work.append(long_task(other, at=one))
        carrier.kill()
        lost_s = time.monotonic()
        spare = next(device for device in mesh.devices[:2] if device is not carrier)

        def is_taken_over() -> bool:
            return carrier_of(one, other) == carrier_of(other, one) == spare.name

        until(is_taken_over, "nobody took over", one, other, spare, within_s=TAKEN_OVER_S_MAX)
        measured("another device carried the link after", time.monotonic() - lost_s)
        work += [*echoes(one, 4, "again", at=other), *echoes(other, 4, "again", at=one)]
        await_decided(work, DECIDED_S_MAX)
        assert {done(errand).executor_name for errand in work} == {one.name, other.name}
        assert_verified(work, tmp_path / "receipts")
        for hidden in (one, other):  # nobody held one of the two for dead
            assert spare.peers()[hidden.name]["state"] == "linked"

        mesh.restart(mesh.devices.index(carrier))
        mesh.await_whole(LINKED_S_MAX)
        assert all(network.refused_count(node) > 0 for node in HIDDEN)
        mesh.assert_one_mesh()
        mesh.assert_calm()


def test_a_pair_that_cannot_reach_each_other_is_linked_through_a_third_and_directly_after(
    daemons: Daemons,
) -> None:
    with fabric(3) as network:
        network.pin_neighbours()
        network.cut((1,), (2,))
        network.cut((2,), (1,))
        mesh = RealMesh(network, daemons)
        mesh.grow()
        first, one, other = mesh.devices
        assert carrier_of(one, other) == carrier_of(other, one) == first.name
        work = [*echoes(one, 3, "around", at=other), *echoes(other, 3, "around", at=one)]
        await_decided(work, DECIDED_S_MAX)
        network.heal()
        healed_s = time.monotonic()

        def are_linked_directly() -> bool:
            ends = (one.peers()[other.name], other.peers()[one.name])
            return all((peer["state"], peer["via"]) == ("linked", None) for peer in ends)

        until(are_linked_directly, "the detour stays", one, other, within_s=90.0)
        measured("a direct link took the place of a carried one after", time.monotonic() - healed_s)
        assert first.ask("status")["counters"]["meshd_circuits_carried"] == 0
        await_decided(echoes(one, 3, "straight", at=other), DECIDED_S_MAX)
        mesh.assert_calm()


def assert_hidden(network: Fabric, routers: Mapping[int, str]) -> None:
    """Check that the routers let out whom they hide, and nobody in."""
    with network.inside(0, partial(_listen, network.host(0))):
        for node in HIDDEN:
            assert network.inside(node, partial(_reaches, network.host(0)))
    for node, router in routers.items():
        with network.inside(node, partial(_listen, network.host(node))):
            assert network.inside(node, partial(_reaches, network.host(node)))
            for origin in {0, *HIDDEN} - {node}:
                for host in (router, network.host(node)):
                    assert not network.inside(origin, partial(_reaches, host)), (origin, host)


def _listen(host: str) -> socket.socket:
    return socket.create_server((host, PORT))


def _reaches(host: str) -> bool:
    try:
        socket.create_connection((host, PORT), timeout=1.0).close()
    except OSError:
        return False
    return True


def carrier_of(device: Device, other: Device) -> str | None:
    """Return through whom a device has its link to another, None if it has none or a direct one."""
    peer = device.peers()[other.name]
    return None if peer["via"] is None else str(peer["via"])


def by_name(mesh: RealMesh, name: str | None) -> Device:
    """Return the device of a name."""
    (found,) = (device for device in mesh.devices if device.name == name)
    return found
