"""The protocols on real libp2p hosts on loopback: what only real streams can show."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio
from support.hosts import config, running, until
from support.linked import Linked, beats, linking
from support.memory_blobs import MemoryBlobs
from support.meshes import Device, keys_of, small_mesh

from p2p.blob_exchange import BlobFetcher, BlobServer
from p2p.host import Host
from p2p.joining import JoinServer, redeem
from p2p.protocol_errors import IssuerOnOtherNetwork, IssuerUnreachable
from wire.answers import JoinAnswer
from wire.blobs import CHUNK_BYTES
from wire.events import DialFailed, LinkDown, LinkUp, Received
from wire.ids import PeerId
from wire.membership import (
    ALL_ROLES,
    Invitation,
    JoinGranted,
    JoinRequest,
    issue_certificate,
)
from wire.messages import Heartbeat

MESH = small_mesh(3)
SMALLER, LARGER, THIRD = sorted(MESH.devices, key=lambda device: device.peer)
NETWORK_KEY = bytes(range(32))


def host_of(device: Device) -> Host:
    number = next(n for n in range(3) if keys_of(n).peer == device.peer)
    return Host(config(number, identity_seed=bytes([number]) * 32))


@asynccontextmanager
async def devices(*members: Device) -> AsyncIterator[list[Linked]]:
    """Run devices that are not linked yet; at most a minute."""
    hosts = [host_of(member) for member in members]
    linked = [Linked(host, MESH, member) for host, member in zip(hosts, members, strict=True)]
    with trio.fail_after(60):
        async with running(*hosts), linking(*linked):
            yield linked


async def dial(one: Linked, other: Linked) -> None:
    assert isinstance(other.host, Host)
    await one.dial(other, *other.host.addresses)


async def test_messages_cross_a_real_link_and_a_hangup_is_told() -> None:
    async with devices(SMALLER, LARGER) as (a, b):
        await dial(a, b)
        await b.wait_for(LinkUp)
        for beat in beats(*range(1_000)):
            a.links.enqueue(b.peer, beat)
            b.links.enqueue(a.peer, beat)
        for one in (a, b):
            received = await one.wait_for(Received, 1_000)
            assert [event.message for event in received] == beats(*range(1_000))
        a.links.enqueue(b.peer, Heartbeat(token=9_999))
        a.links.hangup(b.peer, "enough")
        await b.wait_for(LinkDown)
        assert b.seen(Received)[-1].message == Heartbeat(token=9_999)
        assert a.seen(LinkDown) == [LinkDown(b.peer, "enough")]
        await until(lambda: not a.host.connected())  # type: ignore[attr-defined] # a real host


async def test_a_refusal_reaches_a_real_dialler_with_its_reason() -> None:
    async with devices(SMALLER, LARGER) as (a, b):
        b.removed.add(a.peer)
        await dial(a, b)
        assert "removed" in a.seen(DialFailed)[0].reason
        assert not b.events
        b.removed.clear()
        a.removed.add(b.peer)
        await dial(a, b)
        assert "removed" in (await b.wait_for(LinkDown))[0].reason


@pytest.mark.parametrize("ahead_s", [0, 0.02])
async def test_two_real_devices_that_dial_each_other_end_with_one_link(ahead_s: float) -> None:
    async with devices(SMALLER, LARGER) as (a, b), trio.open_nursery() as nursery:
        nursery.start_soon(dial, a, b)
        await trio.sleep(ahead_s)
        nursery.start_soon(dial, b, a)
        for one, other in ((a, b), (b, a)):
            await one.wait_for(LinkUp)
            for beat in beats(*range(50)):
                one.links.enqueue(other.peer, beat)
        for one in (a, b):
            received = await one.wait_for(Received, 50)
            assert {event.message for event in received} == set(beats(*range(50)))
        await trio.sleep(1.5)
        for one, other in ((a, b), (b, a)):
            assert one.links.peers == {other.peer}
            assert len(one.seen(LinkUp)) == 1
            assert not one.seen(LinkDown)
            assert not one.seen(DialFailed)
        if not ahead_s:
            assert all(one.count("meshd_link_races_total") == 1 for one in (a, b))


async def test_a_device_that_dies_is_a_link_down_and_may_come_back() -> None:
    async with devices(SMALLER) as (a,):
        for count in (1, 2):
            async with devices(LARGER) as (b,):
                await dial(b, a)
                await a.wait_for(LinkUp, count)
            await a.wait_for(LinkDown, count)
        assert a.links.peers == frozenset()


async def test_a_blob_comes_from_two_real_devices_to_a_member_only() -> None:
    content = Random(1).randbytes(80 * CHUNK_BYTES + 5)
    async with devices(SMALLER, LARGER, THIRD) as (a, b, c):
        stores = [MemoryBlobs(), MemoryBlobs(), MemoryBlobs()]
        ref = stores[1].put(content)
        stores[2].put(content)
        for one, store in ((b, stores[1]), (c, stores[2])):
            BlobServer(one.host, store).serve()
            await dial(a, one)
        stats = await BlobFetcher(a.host, stores[0]).fetch(ref, [b.peer, c.peer])
        assert stores[0].contents[ref.digest] == content
        assert set(stats.received) == {b.peer, c.peer}
        assert not stats.dropped


async def test_joining_a_real_issuer_and_one_with_another_key() -> None:
    issuer, newcomer = MESH.devices[0], keys_of(50)
    granted = JoinGranted(
        genesis=MESH.genesis,
        chain=issue_certificate(
            issuer.keys,
            mesh=MESH.id,
            subject=newcomer.peer,
            roles=ALL_ROLES,
            operator="home",
            issuer_chain=issuer.chain,
        ),
    )

    async def ask_join(peer: PeerId, join: JoinRequest) -> JoinAnswer:
        assert (peer, join.name) == (newcomer.peer, "kitchen")
        return granted

    host = host_of(issuer)
    seed = bytes([50]) * 32
    with trio.fail_after(60):
        async with running(host):
            JoinServer(host, ask_join).serve()
            invitation = Invitation(
                mesh=MESH.id,
                network_key=NETWORK_KEY,
                issuer=issuer.peer,
                addresses=host.addresses,
                secret=bytes(16),
                expires_wall_s=0,
            )
            joiner = Host(config(50, identity_seed=seed))
            async with running(joiner):
                assert await redeem(joiner, invitation, "kitchen") == granted
            stranger = Host(config(50, identity_seed=seed, network_key=bytes(32)))
            async with running(stranger):
                with pytest.raises(IssuerOnOtherNetwork):
                    await redeem(stranger, invitation, "kitchen")
        late = Host(config(50, identity_seed=seed))
        async with running(late):
            with pytest.raises(IssuerUnreachable, match="refused"):
                await redeem(late, invitation, "kitchen")
