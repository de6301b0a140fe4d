"""MessagePack that two readers could read differently is refused before it is decoded."""

from __future__ import annotations

import msgpack
import msgspec
import pytest
from support.meshes import keys_of

from wire.codec import Decoder
from wire.errors import MalformedFrame
from wire.ids import BatchId, Digest, StoreId
from wire.keys import Ed25519Verifier
from wire.signed import Signed, encode_body, signing_bytes
from wire.strict import ARRAY_LENGTH_MAX, MAP_LENGTH_MAX, decode_strictly
from wire.tasks import Epoch, Outcome, OutcomeKind, Vote

ANYTHING = msgspec.msgpack.Decoder()


def test_plain_values_pass() -> None:
    value = {"a": [1, 2.5, None, True, "x", b"y"], "b": {1: {2: {}}}}
    assert decode_strictly(ANYTHING, msgpack.packb(value)) == value


@pytest.mark.parametrize(
    "received",
    [
        b"\x82\xa1a\x01\xa1a\x02",
        b"\x82\xa1a\x01\xd9\x01a\x02",  # the same key in a longer encoding
        b"\x82\x01\xc0\xcc\x01\xc0",
        b"\x91\x82\xa1a\x01\xa1a\x01",
        b"\x81\xa1b\x82\xa1a\x01\xa1a\x02",
    ],
)
def test_equal_keys_are_refused_however_deep_and_however_encoded(received: bytes) -> None:
    with pytest.raises(MalformedFrame, match="twice"):
        decode_strictly(ANYTHING, received)


@pytest.mark.parametrize(
    "received",
    [
        b"",
        b"\xc1",
        b"\x01\x01",
        b"\xd6\xff\0\0\0\0",
        b"\xc7\x01\x05\0",
        b"\xa1\xff",
        b"\x91" * 5_000,
        msgpack.packb([0] * (ARRAY_LENGTH_MAX + 1)),
        msgpack.packb(dict.fromkeys(range(MAP_LENGTH_MAX + 1))),
    ],
    ids=["empty", "reserved", "trailing", "time", "extension", "text", "deep", "array", "map"],
)
def test_what_nothing_of_ours_needs_is_refused_with_the_name_of_the_part(received: bytes) -> None:
    with pytest.raises(MalformedFrame, match=r"^vote: \S"):
        decode_strictly(ANYTHING, received, "vote")


def test_one_signed_vote_cannot_be_two() -> None:
    """A decoder that lets the last of equal keys win, and one that keeps the first, must agree."""
    steward = keys_of(0)
    cancelled = Outcome(kind=OutcomeKind.CANCELLED)
    chosen = Outcome(kind=OutcomeKind.RESULT, result=Digest(bytes(32)))
    vote = Vote(
        batch=BatchId(bytes(20)),
        store=StoreId(bytes(16)),
        epoch=Epoch(0, 1, 0),
        outcomes={5: cancelled, 6: chosen},
    )
    # Key 6 becomes a second 5.
    honest = encode_body(vote)
    second = honest.rindex(b"\x06" + encode_body(chosen))
    two_faced = honest[:second] + b"\x05" + honest[second + 1 :]
    assert ANYTHING.decode(two_faced)["outcomes"].keys() == {5}  # msgspec alone accepts it
    signature = steward.sign(signing_bytes(Vote.DOMAIN, two_faced))
    wire = msgpack.packb([two_faced, steward.peer, signature])
    with pytest.raises(MalformedFrame, match="Vote: a field is given twice"):
        Decoder(Signed[Vote], Ed25519Verifier()).decode(wire)
