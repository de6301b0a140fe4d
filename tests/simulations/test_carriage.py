"""What travels is as long by reference as over the wire, and what arrives changed is found out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.scripted_nodes import Stage

from simulations.carriage import LENGTH_BYTES, ByReference, OverTheWire, stream_bytes
from simulations.crypto import StandInMaker
from simulations.evidence import signed_parts
from simulations.founding import founded_devices
from simulations.world import WorldSettings
from wire.errors import FrameTooLarge, MalformedFrame
from wire.ids import PeerId
from wire.messages import (
    BucketSummary,
    Heartbeat,
    Hello,
    LinkRefused,
    Message,
    RecordsGiven,
    RefusalReason,
)
from wire.signed import Signed, encode_body

RING = StandInMaker()
DEVICES = founded_devices(1, 2, {}, RING)
WIRE = OverTheWire(RING.verifier)


def hello() -> Hello:
    return Stage(WorldSettings(seed=1, node_count=2)).nodes[1].hello()


HELLO = hello()


def signatures(message: Message) -> list[tuple[PeerId, bytes]]:
    return [
        (part.signer, part.received) for part in signed_parts(message) if isinstance(part, Signed)
    ]


lengths = st.sampled_from([0, 1, 31, 32, 200, 255, 256])


@given(
    st.one_of(
        st.builds(Heartbeat, token=st.integers(0, (1 << 63) - 1)),
        st.builds(
            LinkRefused, reason=st.sampled_from(RefusalReason), detail=lengths.map("x".__mul__)
        ),
        st.builds(BucketSummary, buckets=st.just(bytes(512))),
        st.builds(
            RecordsGiven,
            records=st.just(()),
            chains=st.integers(0, 64).map(lambda count: (HELLO.chain,) * count),
        ),
        st.just(HELLO),
    )
)
def test_a_message_counts_as_many_bytes_by_reference_as_its_frame_has(message: Message) -> None:
    frame, size_bytes = WIRE.pack(message)
    assert isinstance(frame, bytes)
    assert size_bytes == len(frame) + LENGTH_BYTES == stream_bytes(message)
    carrier = ByReference()
    assert carrier.pack(message) == carrier.pack(message) == (message, size_bytes)
    assert carrier.unpack(message) is message


@pytest.mark.parametrize("boundary_bytes", [1 << 8, 1 << 16])
def test_messages_around_a_boundary_of_the_encoding_count_as_many_bytes(
    boundary_bytes: int,
) -> None:
    sizes = set[int]()
    for length in range(boundary_bytes - 24, boundary_bytes):
        message = BucketSummary(buckets=bytes(length))
        frame, size_bytes = WIRE.pack(message)
        assert isinstance(frame, bytes)
        assert size_bytes == len(frame) + LENGTH_BYTES == stream_bytes(message)
        sizes.add(len(encode_body(message)))
    assert {boundary_bytes - 1, boundary_bytes} <= sizes


def test_a_message_that_no_frame_holds_is_refused_in_both_forms() -> None:
    too_long = BucketSummary(buckets=bytes(1 << 20))
    for carrier in (ByReference(), WIRE):
        with pytest.raises(FrameTooLarge):
            carrier.pack(too_long)


def test_by_reference_nothing_corrupt_arrives() -> None:
    carrier = ByReference()
    packed, _ = carrier.pack(HELLO)
    with pytest.raises(MalformedFrame):
        carrier.unpack(carrier.corrupt(packed, 1))
    assert carrier.unpack(packed) is HELLO


@given(st.integers(0, (1 << 64) - 1))
def test_flipped_bits_never_change_what_is_signed(fate: int) -> None:
    frame, _ = WIRE.pack(HELLO)
    assert isinstance(frame, bytes)
    changed = WIRE.corrupt(frame, fate)
    assert isinstance(changed, bytes)
    flips = int.from_bytes(frame, "big") ^ int.from_bytes(changed, "big")
    assert flips.bit_count() in (0, 1, 2, 3, 4)
    assert len(changed) == len(frame)
    assert changed == WIRE.corrupt(frame, fate)
    try:
        arrived = WIRE.unpack(changed)
    except MalformedFrame:
        return
    if arrived is not None:
        assert signatures(arrived) == signatures(HELLO)


def test_a_checksum_hole_lets_through_what_decodes() -> None:
    frame, _ = WIRE.pack(Heartbeat(token=1 << 40))
    tokens = set[int]()
    for fate in range(200):
        try:
            arrived = WIRE.unpack(WIRE.corrupt(frame, fate))
        except MalformedFrame:
            continue
        if isinstance(arrived, Heartbeat):
            tokens.add(arrived.token or 0)
    assert len(tokens) > 10
