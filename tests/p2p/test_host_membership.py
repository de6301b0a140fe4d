"""What the network key alone gives, and what only admitted peers get."""

from __future__ import annotations

import pytest
import trio
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.utils.varint import read_length_prefixed_protobuf
from support.hosts import (
    NETWORK_KEY,
    befriend,
    config,
    connect,
    echo,
    receive_exactly,
    running,
    until,
)

from p2p.addresses import parse_address
from p2p.errors import ProtocolRefused, StreamBroken, WrongNetwork
from p2p.host import Host
from p2p.identity import libp2p_id
from p2p.streams import Stream

MEMBERS = "/test/members/1"
KAD = "/meshd/test/kad/1.0.0"
TOPIC = "/meshd/test/joins"


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p.gate.GRACE_S", 0.3)


async def assert_reset(stream: Stream) -> None:
    with trio.fail_after(5), pytest.raises(StreamBroken):
        await talk(stream)


async def talk(stream: Stream) -> None:
    await stream.send_all(b"hello")
    while await stream.receive_some():
        pass


@pytest.mark.parametrize("key", [bytes(32), None])
async def test_another_or_no_network_key_is_refused_at_once(key: bytes | None) -> None:
    alice, bob = Host(config(1)), Host(config(2, network_key=key))
    async with running(alice, bob):
        for dialler, listener in ((alice, bob), (bob, alice)):
            with trio.fail_after(2), pytest.raises(WrongNetwork, match="network key"):
                await dialler.connect(listener.peer, listener.addresses)
        await until(lambda: not any(host._swarm._doorway.inside_count for host in (alice, bob)))
        assert not alice.connected()
        assert not bob.connected()


async def test_a_stranger_learns_nothing_of_who_answers() -> None:
    host = Host(config(1))
    async with running(host):
        address = parse_address(host.addresses[0])
        stream = await trio.open_tcp_stream(address.host, address.port)
        await stream.send_all(bytes(24) + bytes(range(200)))
        heard = b""
        with trio.fail_after(5):
            while part := await stream.receive_some():
                heard += part
        await stream.aclose()
        assert len(heard) <= 24 + 20  # a nonce and an enciphered greeting
        for secret in (host.peer, NETWORK_KEY, b"multistream", b"noise"):
            assert secret not in heard


async def test_members_protocols_are_reset_for_strangers_and_served_to_members() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    bob.serve(MEMBERS, echo, members_only=True)
    async with running(alice, bob):
        await connect(alice, bob)
        for protocol in (MEMBERS, "/meshsub/1.1.0", KAD):
            await assert_reset(await alice.open_stream(bob.peer, protocol))
        await bob.admit(alice.peer)
        stream = await alice.open_stream(bob.peer, MEMBERS)
        await stream.send_all(b"hello")
        assert await receive_exactly(stream, 5) == b"hello"


async def test_a_stream_that_comes_a_moment_before_its_admission_is_served() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    bob.serve(MEMBERS, echo, members_only=True)
    async with running(alice, bob):
        await connect(alice, bob)
        stream = await alice.open_stream(bob.peer, MEMBERS)
        await stream.send_all(b"hello")
        await bob.admit(alice.peer)
        assert await receive_exactly(stream, 5) == b"hello"


async def test_strangers_can_ping_and_identify() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    async with running(alice, bob):
        await connect(alice, bob)
        ping = await alice.open_stream(bob.peer, "/ipfs/ping/1.0.0")
        for payload in (b"a" * 32, b"b" * 32):
            await ping.send_all(payload)
            assert await receive_exactly(ping, 32) == payload
        claim = await identified(alice, bob)
        assert {KAD, "/meshsub/1.1.0", "/ipfs/ping/1.0.0"} <= set(claim.protocols)
        assert not any(name.startswith("/ipfs/kad") for name in claim.protocols)
        assert claim.public_key.endswith(bob.peer)


async def identified(host: Host, other: Host) -> Identify:
    stream = await host._libp2p.new_stream(libp2p_id(other.peer), ["/ipfs/id/1.0.0"])  # type: ignore[list-item] # TProtocol
    claim = Identify()
    claim.ParseFromString(await read_length_prefixed_protobuf(stream))
    return claim


async def test_an_expelled_peer_loses_its_streams_and_gets_no_new_ones() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    bob.serve(MEMBERS, echo, members_only=True)
    async with running(alice, bob):
        await befriend(alice, bob)
        stream = await alice.open_stream(bob.peer, MEMBERS)
        await stream.send_all(b"hello")
        await receive_exactly(stream, 5)
        await bob.expel(alice.peer)
        with trio.fail_after(5), pytest.raises(StreamBroken):
            await stream.receive_some()
        await assert_reset(await alice.open_stream(bob.peer, MEMBERS))
        assert alice.connected() == {bob.peer}
        await bob.admit(alice.peer)
        await alice.open_stream(bob.peer, MEMBERS)


async def test_kademlia_has_no_name_but_the_meshs() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    async with running(alice, bob):
        await befriend(alice, bob)
        with pytest.raises(ProtocolRefused):
            await alice.open_stream(bob.peer, "/ipfs/kad/1.0.0")
