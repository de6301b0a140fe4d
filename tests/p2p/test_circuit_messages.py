"""The messages that set up a circuit, and what arrives instead of them."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from support.memory_host import MemoryStream, memory_streams

from p2p.circuit_messages import (
    CONNECTION_FAILED,
    MESSAGE_BYTES_MAX,
    OK,
    hop_connect,
    hop_status,
    read_hop_connect,
    read_hop_status,
    read_stop_connect,
    read_stop_status,
    status_text,
    stop_connect,
    stop_status,
)
from p2p.errors import MalformedCircuit, StreamBroken
from p2p.streams import Stream
from wire.ids import PEER_ID_BYTES, PeerId

NEAR, FAR = PeerId(bytes(PEER_ID_BYTES)), PeerId(bytes([1]) * PEER_ID_BYTES)
READERS: tuple[Callable[[Stream], Awaitable[object]], ...] = (
    read_hop_connect,
    read_hop_status,
    read_stop_connect,
    read_stop_status,
)

peers = st.binary(min_size=PEER_ID_BYTES, max_size=PEER_ID_BYTES).map(PeerId)
rests = st.binary(max_size=64)


def arriving(sent: bytes, read: Callable[[Stream], Awaitable[object]]) -> tuple[object, bytes]:
    """Return what `read` makes of `sent`, and the bytes that it left."""

    async def run() -> tuple[object, bytes]:
        near, far = memory_streams(NEAR, FAR)
        await near.send_all(sent)
        await near.aclose()
        return await read(far), await _rest(far)

    return trio.run(run)


async def _rest(stream: MemoryStream) -> bytes:
    rest = b""
    while piece := await stream.receive_some():
        rest += piece
    return rest


@given(peers, rests)
def test_a_request_comes_out_as_it_went_in_and_nothing_behind_it_is_read(
    peer: PeerId, rest: bytes
) -> None:
    assert arriving(hop_connect(peer) + rest, read_hop_connect) == (peer, rest)
    assert arriving(stop_connect(peer) + rest, read_stop_connect) == (peer, rest)


@given(st.sampled_from([OK, CONNECTION_FAILED]), rests)
def test_so_does_an_answer(status: int, rest: bytes) -> None:
    assert arriving(hop_status(status) + rest, read_hop_status) == (status, rest)
    assert arriving(stop_status(status) + rest, read_stop_status) == (status, rest)


def test_the_bytes_are_those_of_the_specification() -> None:
    peer = bytes.fromhex("002408011220") + FAR
    message = b"\x08\x01" + b"\x12\x28" + b"\x0a\x26" + peer  # type CONNECT, peer { id }
    assert hop_connect(FAR) == bytes([len(message)]) + message
    assert hop_status(OK) == b"\x04\x08\x02\x28\x64"
    assert stop_status(CONNECTION_FAILED) == b"\x05\x08\x01\x20\xcb\x01"
    assert (status_text(OK), status_text(7)) == ("OK", "status 7")


@given(st.sampled_from(READERS), st.binary(max_size=200))
@example(read_hop_connect, b"\xff\xff\x01" + bytes(200))
@example(read_hop_connect, b"\x00")
@example(read_hop_connect, b"\x04\x08\x01\x12\x00")  # the peer has no id
@example(read_hop_status, b"\x02\x08\x63")  # a type that nobody knows
def test_hostile_bytes_are_read_or_refused_and_nothing_else(
    read: Callable[[Stream], Awaitable[object]], sent: bytes
) -> None:
    with contextlib.suppress(MalformedCircuit, StreamBroken):
        arriving(sent, read)


def test_a_longer_message_is_refused_before_it_is_read() -> None:
    size_bytes = MESSAGE_BYTES_MAX + 1
    length = bytes([size_bytes & 0x7F | 0x80, size_bytes >> 7])
    with pytest.raises(MalformedCircuit, match=f"{size_bytes} bytes"):
        arriving(length, read_hop_connect)
