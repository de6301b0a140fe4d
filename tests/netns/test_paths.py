"""Paths that work in one direction only, lead nowhere, or are long, narrow and lossy."""

from __future__ import annotations

import time

import pytest
from support.daemons import Daemons
from support.hard_daemons import ECHOED
from support.netns import Delay, fabric
from support.netns_errands import Errand, await_decided, done, echoes, long_task
from support.netns_measured import measured
from support.netns_mesh import RealMesh
from support.wasm import example

from meshd.client import TaskInput

pytestmark = pytest.mark.minutes

CUT_S = 60.0
NOTICED_S_MAX = 38.0  # both ends live, and nobody observes the other over such a link: 25 to 35 s
WHOLE_S_MAX = 30.0
DECIDED_S_MAX = 90.0

# Twice across the continent, over a phone: a round trip of 160 to 200 ms, and 8 Mbit/s.
FAR = Delay(latency_us=40_000, jitter_us=10_000)
NARROW_BITS_PER_SECOND = 8_000_000
LOSS_PERMILLE = 5
BLOB_BYTES = 2_000_000


def test_a_link_that_works_in_one_direction_is_no_link_and_comes_back(daemons: Daemons) -> None:
    with fabric(3) as network:
        mesh = RealMesh(network, daemons)
        mesh.grow()
        deaf, _, other = mesh.devices
        caught = long_task(deaf, at=other)
        network.cut([2], [0])
        cut_s = time.monotonic()
        noticed_s = mesh.await_cut((0,), (2,), NOTICED_S_MAX)
        measured("a cut in one direction was seen by both ends after", noticed_s)
        assert {(0, 1), (1, 0), (1, 2), (2, 1)} <= mesh.linked()
        own = [*echoes(deaf, 2, "one way"), *echoes(other, 2, "one way")]
        await_decided(own, CUT_S - noticed_s)
        time.sleep(max(0.0, cut_s + CUT_S - time.monotonic()))
        assert not {(0, 2), (2, 0)} & mesh.linked(is_direct=True)
        network.heal()
        measured("and healed after", mesh.await_whole(WHOLE_S_MAX))
        await_decided([caught], DECIDED_S_MAX)
        assert done(caught).executor_name == other.name
        mesh.assert_one_mesh()
        mesh.assert_calm()


def test_routes_into_nothing_are_survived_and_the_links_come_back(daemons: Daemons) -> None:
    with fabric(3) as network:
        mesh = RealMesh(network, daemons)
        mesh.grow()
        caught = long_task(mesh.devices[1], at=mesh.devices[0])
        network.blackhole(0, [1, 2])
        noticed_s = mesh.await_cut((0,), (1, 2), NOTICED_S_MAX)
        await_decided(echoes(mesh.devices[0], 3, "alone"), CUT_S)
        time.sleep(max(0.0, CUT_S - noticed_s))
        network.clear_blackholes(0)
        measured("routes into nothing healed after", mesh.await_whole(WHOLE_S_MAX))
        await_decided([caught], DECIDED_S_MAX)
        assert done(caught).executor_name == "d0"
        mesh.assert_one_mesh()
        mesh.assert_calm()


def test_work_crosses_a_long_narrow_and_lossy_path_that_breaks_on_the_way(
    daemons: Daemons,
) -> None:
    with fabric(3, delays={0: FAR, 1: FAR, 2: FAR}) as network:
        for node in range(3):
            network.limit(node, rate_bits_per_second=NARROW_BITS_PER_SECOND)
        network.lose(permille=LOSS_PERMILLE)
        mesh = RealMesh(network, daemons)
        mesh.grow()
        round_trip_us = mesh.devices[0].peers()["d1"]["round_trip_us"]
        assert round_trip_us >= 4 * FAR.latency_us
        sent = bytes(range(256)) * (BLOB_BYTES // 256)
        begun_s = time.monotonic()
        crossing = submit_blob(mesh, sent)
        time.sleep(1.0)  # some of it is there
        network.split((0,))
        assert not crossing.is_decided
        mesh.await_cut((0,), (1, 2), NOTICED_S_MAX)
        network.heal()
        network.lose(permille=LOSS_PERMILLE)
        await_decided([crossing], DECIDED_S_MAX)
        assert done(crossing).executor_name == "d2"
        measured("2 MB crossed a far path, broken on the way, after", time.monotonic() - begun_s)
        measured("and all saw all again within", mesh.await_whole(WHOLE_S_MAX))
        mesh.assert_one_mesh()
        mesh.assert_calm()


def submit_blob(mesh: RealMesh, sent: bytes) -> Errand:
    """Submit a task at device 0 whose input and output both cross to device 2 and back."""
    first = mesh.devices[0]
    (task,) = first.submit(
        example("faults/echo"), TaskInput(stdin=sent), requirements=["label:place=d2"]
    )
    return Errand(first, task, ECHOED + sent)
