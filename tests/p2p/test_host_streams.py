"""What a host does for its users: connect, open streams, tell who is there."""

from __future__ import annotations

import pytest
import trio
from structlog.testing import capture_logs
from support.hosts import LOOPBACK, Watched, config, connect, echo, receive_exactly, running, until

from p2p.errors import (
    CannotListen,
    MalformedAddress,
    PeerUnreachable,
    ProtocolRefused,
    StreamBroken,
    WrongPeer,
)
from p2p.host import Connected, Disconnected, Host
from p2p.streams import Stream

ECHO = "/test/echo/1"


async def test_bytes_come_back_in_order_through_a_stream() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    bob.serve(ECHO, echo, members_only=False)
    async with running(alice, bob):
        await connect(alice, bob)
        stream = await alice.open_stream(bob.peer, ECHO)
        sent = bytes(range(256)) * 4_000  # more than the windows of both ends hold
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, sent)
            assert await receive_exactly(stream, len(sent)) == sent
        assert stream.peer == bob.peer
        await stream.aclose()
        assert await stream.receive_some() == b""


async def test_both_ends_learn_of_a_connection_and_of_its_end() -> None:
    alice, bob = Watched(config(1)), Watched(config(2))
    async with running(alice.host, bob.host):
        await connect(alice.host, bob.host)
        await until(lambda: bool(alice.events and bob.events))
        assert alice.events == [Connected(bob.host.peer, bob.host.addresses[0], inbound=False)]
        (seen,) = bob.events
        assert isinstance(seen, Connected)
        assert seen.peer == alice.host.peer
        assert seen.inbound
        assert bob.host.seen_at(alice.host.peer) == (seen.address,)
        assert alice.host.connected() == {bob.host.peer}
        await alice.host.disconnect(bob.host.peer)
        await until(lambda: len(alice.events) == len(bob.events) == 2)
        assert bob.events[1] == Disconnected(alice.host.peer)
        assert alice.host.connected() == frozenset()


async def test_a_protocol_nobody_serves_is_refused_in_words() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    async with running(alice, bob):
        await connect(alice, bob)
        with pytest.raises(ProtocolRefused, match="/test/nothing"):
            await alice.open_stream(bob.peer, "/test/nothing/1")


async def test_a_stream_of_a_lost_connection_breaks_instead_of_ending() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    bob.serve(ECHO, echo, members_only=False)
    async with running(alice, bob):
        await connect(alice, bob)
        stream = await alice.open_stream(bob.peer, ECHO)
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
        await bob.disconnect(alice.peer)
        with pytest.raises(StreamBroken):
            await stream.receive_some()


async def test_a_lost_connection_is_no_failure_of_the_handlers() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    bob.serve(ECHO, echo, members_only=False)
    with capture_logs() as logs:
        async with running(alice, bob):
            await connect(alice, bob)
            stream = await alice.open_stream(bob.peer, ECHO)
            await stream.send_all(b"x")
            await stream.receive_some()
            await bob.disconnect(alice.peer)
            await until(lambda: "stream.broken" in {line["event"] for line in logs})
    assert "stream.handler_failed" not in {line["event"] for line in logs}


async def test_a_reset_stream_breaks_at_the_other_end() -> None:
    alice, bob = Host(config(1)), Host(config(2))

    async def refuse(stream: Stream) -> None:
        await stream.receive_some()
        await stream.reset()

    bob.serve(ECHO, refuse, members_only=False)
    async with running(alice, bob):
        await connect(alice, bob)
        stream = await alice.open_stream(bob.peer, ECHO)
        await stream.send_all(b"x")
        with pytest.raises(StreamBroken):
            await stream.receive_some()


async def test_unreachable_peers_say_why_for_each_address() -> None:
    alice, bob, carol = Host(config(1)), Host(config(2)), Host(config(3))
    async with running(alice, bob):
        with pytest.raises(PeerUnreachable, match=r"/tcp/1: .*refused"):
            await alice.connect(carol.peer, ["/ip4/127.0.0.1/tcp/1"])
        with pytest.raises(PeerUnreachable, match="no address"):
            await alice.connect(carol.peer, [])
        with pytest.raises(WrongPeer, match="another device"):
            await alice.connect(carol.peer, bob.addresses)
        with pytest.raises(MalformedAddress):
            await alice.connect(carol.peer, ["/ip4/127.0.0.1/udp/1"])
        with pytest.raises(PeerUnreachable, match="not connected"):
            await alice.open_stream(carol.peer, ECHO)


async def test_the_next_address_is_tried_when_one_fails() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    async with running(alice, bob):
        await alice.connect(bob.peer, ["/ip4/127.0.0.1/tcp/1", *bob.addresses])
        assert alice.connected() == {bob.peer}


async def test_a_second_host_on_the_same_port_is_refused() -> None:
    alice = Host(config(1))
    async with running(alice):
        bob = Host(config(2, listen=(LOOPBACK, alice.addresses[0])))
        with trio.fail_after(5), pytest.raises(CannotListen, match="already in use"):
            await bob.run()


async def test_a_wildcard_is_announced_as_addresses_that_can_be_dialled() -> None:
    alice = Host(config(1, listen=("/ip4/0.0.0.0/tcp/0",)))
    bob = Host(config(2, announce=("/dns4/device.example/tcp/4001",)))
    async with running(alice, bob):
        assert alice.addresses
        assert not any("/0.0.0.0/" in address for address in alice.addresses)
        assert bob.addresses == ("/dns4/device.example/tcp/4001",)


async def test_two_hosts_that_dial_each_other_at_once_stay_connected() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    bob.serve(ECHO, echo, members_only=False)
    async with running(alice, bob):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect, alice, bob)
            nursery.start_soon(connect, bob, alice)
        stream = await alice.open_stream(bob.peer, ECHO)
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
