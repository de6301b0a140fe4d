"""Hosts while the network key is rolled: who reaches whom, in every mixture of old and new."""

from __future__ import annotations

import pytest
import trio
from support.hosts import config, connect, echo, receive_exactly, running

from p2p.errors import PeerUnreachable
from p2p.host import Host

OLD, NEW, FOREIGN = bytes(range(32)), bytes(range(1, 33)), bytes(range(2, 34))
PROTOCOL = "/test/echo"


def host_with(number: int, *keys: bytes) -> Host:
    host = Host(config(number, network_key=keys[0]))
    host.use_network_keys(keys)
    return host


@pytest.mark.parametrize("listens", [(OLD,), (NEW,), (NEW, OLD)], ids=["old", "new", "both"])
@pytest.mark.parametrize("dials", [(OLD,), (NEW,), (NEW, OLD)], ids=["old", "new", "both"])
async def test_devices_reach_each_other_if_they_share_a_key(
    dials: tuple[bytes, ...], listens: tuple[bytes, ...]
) -> None:
    dialler, listener = host_with(1, *dials), host_with(2, *listens)
    listener.serve(PROTOCOL, echo, members_only=False)
    async with running(dialler, listener):
        if not set(dials) & set(listens):
            with pytest.raises(PeerUnreachable):
                await connect(dialler, listener)
            return
        await connect(dialler, listener)
        with trio.fail_after(10):
            stream = await dialler.open_stream(listener.peer, PROTOCOL)
            await stream.send_all(b"hello" * 1_000)
            assert await receive_exactly(stream, 5_000) == b"hello" * 1_000
            await stream.aclose()


async def test_keys_change_while_connections_stay() -> None:
    dialler, listener, third = host_with(1, OLD), host_with(2, OLD), host_with(3, OLD)
    listener.serve(PROTOCOL, echo, members_only=False)
    async with running(dialler, listener, third):
        await connect(dialler, listener)
        listener.use_network_keys((NEW,))
        with trio.fail_after(10):
            stream = await dialler.open_stream(listener.peer, PROTOCOL)
            await stream.send_all(b"still")
            assert await receive_exactly(stream, 5) == b"still"
            await stream.aclose()
        with pytest.raises(PeerUnreachable):
            await connect(third, listener)
        third.use_network_keys((NEW, OLD))
        await connect(third, listener)


async def test_a_stranger_to_both_keys_and_a_silent_one_do_not_get_in() -> None:
    listener, stranger = host_with(1, NEW, OLD), host_with(2, FOREIGN)
    async with running(listener, stranger):
        with pytest.raises(PeerUnreachable):
            await connect(stranger, listener)
        assert listener.connected() == frozenset()
        port = int(listener.addresses[0].rpartition("/")[2])
        silent = await trio.open_tcp_stream("127.0.0.1", port)
        await silent.send_eof()
        with trio.fail_after(10):
            assert await silent.receive_some(100) == b"", "nothing is said to who says nothing"
        await silent.aclose()
