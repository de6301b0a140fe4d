from __future__ import annotations

import os
import socket

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.wasm import job_of

from sandbox.errors import ChildBroken
from sandbox.frames import (
    FRAME_BYTES_MAX,
    LENGTH,
    FromWorker,
    Run,
    Started,
    ToWorker,
    body_bytes,
    decode_frame,
    encode_frame,
    receive,
    send,
)

from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)
to_worker = msgspec.msgpack.Decoder(ToWorker)


def test_a_frame_and_its_descriptor_arrive() -> None:
    ours, theirs = socket.socketpair()
    sent = Run(job_of(b"module", "argument", stdin=b"x" * 10_000), bytes(32))
    reading, writing = os.pipe()
    with ours, theirs:
        length, body = encode_frame(sent)
        socket.send_fds(ours, [length], [writing])
        ours.sendall(body)
        received = receive(theirs, to_worker)
        assert received is not None
        assert received[0] == sent
        os.write(received[1], b"through")
        assert os.read(reading, 7) == b"through"
    for descriptor in (reading, writing, received[1]):
        os.close(descriptor)


def test_a_pool_that_has_gone_ends_the_worker_quietly() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        assert receive(theirs, to_worker) is None


def test_a_frame_without_its_descriptor_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(ours, Run(job_of(b"module"), bytes(32)))
        with pytest.raises(ChildBroken, match="descriptor"):
            receive(theirs, to_worker)


@pytest.mark.parametrize("length", [0, FRAME_BYTES_MAX + 1, 0xFFFFFFFF])
def test_lengths_are_bounded_before_anything_is_read(length: int) -> None:
    with pytest.raises(ChildBroken):
        body_bytes(length)
    assert LENGTH.unpack(LENGTH.pack(length)) == (length,)


@given(st.binary(max_size=100))
def test_hostile_bytes_decode_or_break_the_child(body: bytes) -> None:
    try:
        assert isinstance(decode_frame(body, from_worker), msgspec.Struct)
    except ChildBroken as error:
        assert str(error)  # noqa: PT017 - both outcomes are right, any other error is not


def test_a_frame_of_another_kind_breaks_the_child() -> None:
    with pytest.raises(ChildBroken):
        decode_frame(encode_frame(Started())[1], to_worker)
