"""Two linked devices cancelled at each step: streams end, and what arrived was sent first."""

from __future__ import annotations

import trio
from support.cancel_everywhere import cancel_everywhere
from support.linked import ADDRESS, Linked, beats, linking
from support.memory_host import MemoryNetwork
from support.meshes import small_mesh
from trio.testing import MockClock

from p2p.link import CarrySettings
from p2p.links import LinkSettings
from p2p.send_queue import QueueLimits
from wire.events import Congested, DialFailed, Drained, LinkDown, LinkUp, Received

MESH = small_mesh(2)
SMALLER, LARGER = sorted(MESH.devices, key=lambda device: device.peer)
BEATS = beats(*range(40))
FRAMES_MAX = 8  # so that some are dropped, which is told


async def test_links_cancelled_anywhere_end_their_streams_and_reorder_nothing(
    autojump_clock: MockClock,
) -> None:
    networks: list[MemoryNetwork] = []
    devices: list[Linked] = []
    settings = LinkSettings(carry=CarrySettings(queue=QueueLimits(frames_count_max=FRAMES_MAX)))

    async def talk_and_hang_up() -> None:
        net = MemoryNetwork(latency_s=0.001, window_bytes=200)
        networks.append(net)
        hosts = [net.host(SMALLER.peer), net.host(LARGER.peer)]
        devices[:] = [
            Linked(host, MESH, device, settings=settings)
            for host, device in zip(hosts, (SMALLER, LARGER), strict=True)
        ]
        a, b = devices
        async with trio.open_nursery() as nursery:
            for host in hosts:
                await nursery.start(host.run)
            async with linking(a, b):
                nursery.start_soon(b.links.dial, a.peer, (ADDRESS,))  # both at the same time
                await a.dial(b)
                await a.wait_for(LinkUp)
                for beat in BEATS:
                    a.links.enqueue(b.peer, beat)
                await b.wait_for(Received, FRAMES_MAX)
                a.links.hangup(b.peer, "done")
                await b.wait_for(LinkDown)
                await a.wait_for(LinkDown)
            nursery.cancel_scope.cancel()

    def check(was_cancelled: bool) -> None:
        for host in networks[-1].hosts.values():
            assert not host.handler_errors
            for _, stream in host.streams:
                assert stream.outgoing.is_finished or stream.outgoing.is_broken
        for device in devices:
            assert not device.links.peers
            turns = [type(one) for one in device.events if isinstance(one, LinkUp | LinkDown)]
            assert turns == [LinkUp, LinkDown][: len(turns)]
            notices = [type(one) for one in device.events if isinstance(one, Congested | Drained)]
            assert notices == [Congested, Drained][: len(notices)]
            assert not device.seen(DialFailed)
        received = [event.message for event in devices[1].seen(Received)]
        assert received == BEATS[: len(received)]
        assert was_cancelled or len(received) == FRAMES_MAX

    assert await cancel_everywhere(talk_and_hang_up, check) > 60
