"""Devices that go out of range without a word, and come back somewhere else."""

from __future__ import annotations

import time

import pytest
from support.daemons import Daemons, until
from support.netns import fabric
from support.netns_errands import await_decided, done, echoes, long_task
from support.netns_measured import measured
from support.netns_mesh import PORT, RealMesh

pytestmark = pytest.mark.minutes

AWAY_S = 40.0
NOTICED_S_MAX = 25.0
WHOLE_S_MAX = 30.0
DECIDED_S_MAX = 60.0


def test_a_device_that_vanished_in_the_middle_of_its_work_comes_back_at_another_address(
    daemons: Daemons,
) -> None:
    with fabric(3) as network:
        mesh = RealMesh(network, daemons)
        mesh.grow(everywhere=True)
        stays, other, roams = mesh.devices
        network.pin_neighbours()
        ours, its_own = long_task(stays, at=roams), long_task(roams, at=other)
        network.split((2,))
        noticed_s = mesh.await_cut((0, 1), (2,), NOTICED_S_MAX)
        time.sleep(AWAY_S - noticed_s)
        assert not ours.is_decided
        assert not its_own.is_decided
        network.readdress(2)
        network.heal()
        measured("a device came back at another address after", mesh.await_whole(WHOLE_S_MAX))
        await_decided([ours, its_own], DECIDED_S_MAX)
        assert done(ours).executor_name == roams.name
        assert done(its_own).executor_name == other.name
        await_found_where_they_are(mesh)
        await_decided(echoes(stays, 2, "there you are", at=roams), DECIDED_S_MAX)
        mesh.assert_one_mesh()
        mesh.assert_calm()


def await_found_where_they_are(mesh: RealMesh) -> None:
    """Return when all know where all are now: dialling each other is up to either."""
    where = {
        device.name: [f"/ip4/{mesh.network.host(node)}/tcp/{PORT}"]
        for node, device in enumerate(mesh.devices)
    }

    def all_know() -> bool:
        told = [device.peers() for device in mesh.devices]
        return all({name: peer["addresses"] for name, peer in one.items()} == where for one in told)

    until(all_know, f"not everybody knows where everybody is: {where}", *mesh.devices)


def test_devices_that_all_moved_while_they_ran_find_each_other_by_multicast(
    daemons: Daemons,
) -> None:
    with fabric(3) as network:
        mesh = RealMesh(network, daemons)
        mesh.grow(is_announcing=True, everywhere=True)
        for node in range(3):
            network.readdress(node)
        mesh.await_cut((0,), (1, 2), NOTICED_S_MAX)
        measured(
            "devices that all moved, and saw that their links were dead, found each other after",
            mesh.await_whole(WHOLE_S_MAX),
        )
        await_found_where_they_are(mesh)
        await_decided(echoes(mesh.devices[0], 3, "moved", at=mesh.devices[2]), DECIDED_S_MAX)
        mesh.assert_one_mesh()
        mesh.assert_calm()
