"""Frames cut out of a stream, however its bytes were split."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from support.memory_host import memory_streams

from p2p.errors import StreamBroken
from p2p.framing import LENGTH_BYTES, FrameParser, FrameReader, framed
from wire.codec import FRAME_BYTES_MAX
from wire.errors import MalformedFrame
from wire.ids import PeerId

NEAR, FAR = PeerId(b"n" * 32), PeerId(b"f" * 32)
LIMIT = 64

frames = st.lists(st.binary(min_size=1, max_size=LIMIT), max_size=12)


def pieces_of(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


def parse(pieces: list[bytes], limit: int = LIMIT) -> tuple[list[bytes], bool]:
    """Return the frames taken, and whether the parser refused the stream after them."""
    parser = FrameParser(limit)
    taken = []
    for piece in pieces:
        parser.feed(piece)
        try:
            while (frame := parser.take()) is not None:
                taken.append(frame)
        except MalformedFrame:
            return taken, True
    return taken, False


@given(frames, st.lists(st.integers(min_value=0)))
def test_any_split_of_the_bytes_gives_the_same_frames(sent: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(framed, sent))
    assert parse(pieces_of(stream, cuts)) == (sent, False)


@given(
    frames,
    st.one_of(st.just(0), st.integers(min_value=LIMIT + 1, max_value=0xFFFF_FFFF)),
    st.binary(max_size=200),
    st.lists(st.integers(min_value=0)),
)
@example([b"x"], 0xFFFF_FFFF, b"", [])
def test_a_hostile_length_is_refused_after_the_good_frames_before_it(
    sent: list[bytes], length: int, rest: bytes, cuts: list[int]
) -> None:
    stream = b"".join(map(framed, sent)) + length.to_bytes(LENGTH_BYTES, "big") + rest
    assert parse(pieces_of(stream, cuts)) == (sent, True)


@given(st.binary(max_size=400), st.lists(st.integers(min_value=0)))
def test_garbage_is_cut_alike_however_it_is_split(stream: bytes, cuts: list[int]) -> None:
    taken, refused = parse(pieces_of(stream, cuts))
    assert (taken, refused) == parse([stream])
    assert all(0 < len(frame) <= LIMIT for frame in taken)


def test_a_hostile_length_is_refused_on_its_four_bytes() -> None:
    parser = FrameParser()
    parser.feed((FRAME_BYTES_MAX + 1).to_bytes(4, "big"))
    with pytest.raises(MalformedFrame, match="1048577 bytes"):
        parser.take()


async def test_a_stream_that_ends_between_frames_ends_cleanly_and_inside_one_is_broken() -> None:
    near, far = memory_streams(NEAR, FAR)
    await near.send_all(framed(b"whole"))
    await near.aclose()
    reader = FrameReader(far)
    assert await reader.receive() == b"whole"
    assert await reader.receive() is None

    near, far = memory_streams(NEAR, FAR)
    await near.send_all(framed(b"whole") + framed(b"cut")[:-1])
    await near.aclose()
    reader = FrameReader(far)
    assert await reader.receive() == b"whole"
    with pytest.raises(StreamBroken, match="inside a frame"):
        await reader.receive()


async def test_a_frame_longer_than_the_window_arrives() -> None:
    near, far = memory_streams(NEAR, FAR)
    frame = bytes(range(256)) * 4096
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, framed(frame))
        assert await FrameReader(far).receive() == frame


async def test_a_shorter_limit_holds_from_the_next_frame_on() -> None:
    near, far = memory_streams(NEAR, FAR)
    await near.send_all(framed(b"first") + framed(b"longer than five"))
    reader = FrameReader(far, 5)
    assert await reader.receive() == b"first"
    reader.allow(100)
    assert await reader.receive() == b"longer than five"
