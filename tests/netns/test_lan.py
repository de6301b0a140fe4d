"""Devices that know nothing true of each other find each other by multicast, or not at all."""

from __future__ import annotations

import time

import pytest
from support.daemons import Daemons, Device, await_linked, await_ready
from support.netns import Fabric, fabric
from support.netns_errands import await_decided, echoes
from support.netns_measured import measured
from support.netns_mesh import PORT, RealMesh

pytestmark = pytest.mark.minutes

FOUND_S_MAX = 30.0
ALONE_S = 20.0  # three times what finding each other takes
DECIDED_S_MAX = 60.0


def scattered(network: Fabric, daemons: Daemons) -> tuple[RealMesh, str]:
    """Return a mesh of dead devices, all of them moved, and where device 0 was before.

    What they remember of each other leads nowhere.
    """
    mesh = RealMesh(network, daemons)
    mesh.grow()
    for device in mesh.devices:
        device.kill()
    before = network.host(0)
    for node in range(len(mesh.devices)):
        network.readdress(node)
    return mesh, before


def start_again(mesh: RealMesh, *, is_announcing: bool) -> None:
    """Start all devices where they are now."""
    for node, device in enumerate(mesh.devices):
        device.environ = {"MESHD_MDNS__ENABLED": "true"} if is_announcing else {}
        listen = f"/ip4/{mesh.network.host(node)}/tcp/{PORT}"
        mesh.daemons.restart(device, listen=listen)
    await_ready(*mesh.devices)


def test_multicast_brings_devices_together_whatever_they_remember(daemons: Daemons) -> None:
    with fabric(3) as network:
        mesh, _ = scattered(network, daemons)
        start_again(mesh, is_announcing=True)
        measured("devices found each other by multicast after", mesh.await_whole(FOUND_S_MAX))
        await_decided(echoes(mesh.devices[0], 3, "found", at=mesh.devices[2]), DECIDED_S_MAX)
        mesh.assert_one_mesh()
        mesh.assert_calm()


def test_without_multicast_they_stay_apart_until_one_is_where_it_was(daemons: Daemons) -> None:
    with fabric(3) as network:
        mesh, before = scattered(network, daemons)
        start_again(mesh, is_announcing=False)
        time.sleep(ALONE_S)
        assert mesh.linked() == set()
        # One comes back to where all others last met it. Through it they find each other.
        mesh.devices[0].kill()
        network.readdress(0, before)
        mesh.restart(0, listen=f"/ip4/{network.host(0)}/tcp/{PORT}")
        measured("devices found each other through one after", mesh.await_whole(60.0))
        mesh.assert_one_mesh()
        mesh.assert_calm()


def test_two_meshes_on_one_host_find_their_own_by_multicast_and_never_each_other(
    daemons: Daemons,
) -> None:
    with fabric(2) as network:
        announcing = {"MESHD_MDNS__ENABLED": "true"}
        pairs = []
        for mesh in ("red", "blue"):
            devices: list[Device] = []
            token = None
            for node in range(2):
                device = daemons.start(
                    f"{mesh}-{node}",
                    listen=f"/ip4/{network.host(node)}/tcp/0",
                    prefix=network.prefix(node),
                    environ=announcing,
                    join=token,
                )
                await_ready(device)
                token = token or device.invite()
                devices.append(device)
            pairs.append(devices)
        for devices in pairs:
            await_linked(*devices)
            for device in devices:  # they come back at other ports: only multicast tells
                device.kill()
        everybody = [device for devices in pairs for device in devices]
        for node, device in enumerate(everybody):
            daemons.restart(device, listen=f"/ip4/{network.host(node % 2)}/tcp/0")
        await_ready(*everybody)
        for devices in pairs:
            await_linked(*devices)
            for device in devices:
                assert set(device.peers()) == {one.name for one in devices}
                assert "other_mesh" not in device.log.read_text()
