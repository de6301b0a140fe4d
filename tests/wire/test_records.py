"""Records: bounded, ordered, and open to kinds and versions of peers that are not ours."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.meshes import keys_of
from support.strategies import values_of

from wire.codec import Decoder
from wire.errors import MalformedFrame
from wire.keys import Ed25519Verifier
from wire.records import (
    RECORD_BYTES_MAX,
    Capabilities,
    Presence,
    ProtocolRange,
    Record,
    decode_capabilities,
    decode_observations,
    decode_presence,
)
from wire.signed import Signed, encode_body, sign

PRESENCE = {
    "name": "kitchen",
    "node_type": "raspberry-pi",
    "protocol": [1, 1],
    "store": bytes(16),
}


@given(values_of(Presence))
def test_presence_comes_back(presence: Presence) -> None:
    assert decode_presence(encode_body(presence)) == presence


@given(values_of(Capabilities))
def test_capabilities_come_back(capabilities: Capabilities) -> None:
    assert decode_capabilities(encode_body(capabilities)) == capabilities


@given(st.binary())
def test_a_hostile_body_decodes_or_is_malformed(body: bytes) -> None:
    for decode in (decode_presence, decode_capabilities, decode_observations):
        with contextlib.suppress(MalformedFrame):
            decode(body)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "a\x1b[2J"},
        {"node_type": "x" * 65},
        {"region": "eu\nwest"},
        {"region": "x" * 65},
        {"addresses": ["/ip4/127.0.0.1/tcp/1"] * 17},
        {"addresses": ["/ip4/1 2"]},
        {"protocol": [2, 1]},
        {"protocol": [0, 1]},
        {"protocol": [1]},
        {"engine_profiles": ["a"] * 9},
        {"store": bytes(15)},
        {"store": None},
    ],
)
def test_presence_that_claims_nonsense_is_malformed(changes: dict[str, object]) -> None:
    assert decode_presence(msgspec.msgpack.encode(PRESENCE)).name == "kitchen"
    with pytest.raises(MalformedFrame, match=r"^presence: "):
        decode_presence(msgspec.msgpack.encode({**PRESENCE, **changes}))


@pytest.mark.parametrize("keys", [["cpu:8"] * 129, ["cpu"], ["cpu:8\n"], [8]])
def test_capabilities_beyond_their_bounds_are_malformed(keys: list[object]) -> None:
    with pytest.raises(MalformedFrame, match=r"^capabilities: "):
        decode_capabilities(msgspec.msgpack.encode({"keys": keys}))


def test_a_record_of_a_kind_that_is_not_ours_is_a_record_all_the_same() -> None:
    decoder = Decoder(Signed[Record], Ed25519Verifier())
    record = Record(
        owner=keys_of(0).peer, kind="weather", incarnation=1, counter=2, body=b"\xc1 not ours"
    )
    assert decoder.decode(encode_body(sign(record, keys_of(0)))).body == record
    large = msgspec.structs.replace(record, body=bytes(RECORD_BYTES_MAX + 1))
    with pytest.raises(MalformedFrame):
        decoder.decode(encode_body(sign(large, keys_of(0))))


def test_the_later_incarnation_wins_then_the_higher_counter() -> None:
    def version(incarnation: int, counter: int) -> tuple[int, int]:
        return Record(
            owner=keys_of(0).peer,
            kind="presence",
            incarnation=incarnation,
            counter=counter,
            body=b"",
        ).version

    assert version(1, 9) < version(2, 0) < version(2, 1)


@pytest.mark.parametrize(
    ("ours", "theirs", "common"),
    [
        ((1, 1), (1, 1), 1),
        ((1, 1), (1, 2), 1),  # a peer one version ahead that still speaks ours
        ((2, 3), (1, 2), 2),  # one behind
        ((1, 5), (2, 4), 4),
        ((1, 1), (2, 3), None),
        ((4, 9), (1, 3), None),
    ],
)
def test_two_devices_speak_the_highest_version_both_know(
    ours: tuple[int, int], theirs: tuple[int, int], common: int | None
) -> None:
    assert ProtocolRange(*ours).common_with(ProtocolRange(*theirs)) == common
    assert ProtocolRange(*theirs).common_with(ProtocolRange(*ours)) == common


@given(values_of(ProtocolRange), values_of(ProtocolRange))
def test_a_common_version_is_in_both_ranges_and_the_highest_such(
    ours: ProtocolRange, theirs: ProtocolRange
) -> None:
    both = set(range(ours.lowest, ours.highest + 1)) & set(range(theirs.lowest, theirs.highest + 1))
    assert ours.common_with(theirs) == max(both, default=None)
