"""Frames: every message survives the trip, and hostile bytes are refused with one kind of error."""

from __future__ import annotations

import contextlib
import functools
import threading
import typing
from collections.abc import Iterator

import msgpack
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.meshes import keys_of, small_mesh
from support.strategies import values_of
from support.tasks import finished_task

from wire.codec import (
    FRAME_BYTES_MAX,
    FRAME_VERSION,
    Decoder,
    FrameCodec,
    UnknownMessage,
    decode_envelope,
    encode_envelope,
)
from wire.errors import BadSignature, FrameTooLarge, MalformedFrame
from wire.keys import Ed25519Verifier
from wire.membership import JOIN_MESSAGES, Genesis
from wire.messages import (
    MESSAGES,
    Heartbeat,
    Hello,
    LeaseGranted,
    LinkRefused,
    OfferRejected,
    ReceiptGiven,
    RefusalReason,
    ResultsOffered,
)
from wire.records import ProtocolRange
from wire.signed import SIGNED_BYTES_MAX, Signed, encode_body, sign
from wire.tasks import ProvenResult, Receipt

VERSIONED = bytes([FRAME_VERSION])
LINK = FrameCodec(MESSAGES, Ed25519Verifier())
EVERY_MESSAGE = {**MESSAGES, **JOIN_MESSAGES}
CODEC = FrameCodec(EVERY_MESSAGE, Ed25519Verifier())
MESH = small_mesh(2)
FINISHED = finished_task()


def frame_of(tag: str, body: bytes) -> bytes:
    return VERSIONED + encode_envelope(tag, body)


def heartbeat(body: bytes) -> bytes:
    return frame_of("heartbeat", body)


def a_hello() -> Hello:
    return Hello(
        mesh=MESH.id,
        genesis=MESH.genesis,
        chain=MESH.devices[1].chain,
        protocol=ProtocolRange(1, 1),
        incarnation=5,
    )


def signed_parts(value: object) -> Iterator[Signed[typing.Any]]:
    """Yield every signed part in a decoded message."""
    if isinstance(value, Signed):
        yield value
        yield from signed_parts(value.body)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from signed_parts(getattr(value, name))
    elif isinstance(value, tuple):
        for item in value:
            yield from signed_parts(item)


@pytest.mark.parametrize("tag", EVERY_MESSAGE)
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(drawn=st.data())
def test_every_message_comes_out_as_it_went_in(tag: str, drawn: st.DataObject) -> None:
    message = drawn.draw(values_of(EVERY_MESSAGE[tag]))
    frame = CODEC.encode(message)
    assert CODEC.decode(frame) == message
    assert CODEC.encode(CODEC.decode(frame)) == frame


def test_a_message_that_says_nothing_but_what_it_is_is_known_by_its_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame = CODEC.encode(Heartbeat())
    monkeypatch.setattr("wire.codec.decode_envelope", None)
    assert CODEC.decode(frame) == Heartbeat()


@given(st.binary().map(VERSIONED.__add__))
@example(b"")
@example(VERSIONED)
@example(heartbeat(b""))
@example(heartbeat(b"\x81\xa5token\xa2\xff\xfe"))  # not UTF-8
@example(VERSIONED + b"\x92\xa2\xff\xfe\xc4\x00")
@example(heartbeat(b"\x81\xa5extra" + b"\x91" * 60_000))  # nested too deep
@example(VERSIONED + b"\x91" * 60_000)
@example(heartbeat(b"\x81\xa5extra\xdd\xff\xff\xff\xff"))  # huge lengths, in arrays, maps, strings
@example(heartbeat(b"\x81\xa5extra\xdf\xff\xff\xff\xff"))
@example(heartbeat(b"\x81\xa5extra\xdb\xff\xff\xff\xff"))
@example(VERSIONED + b"\x92\xa9heartbeat\xc6\xff\xff\xff\xff")
@example(heartbeat(b"\x81\x90\x01"))  # keys that are arrays, maps, extension types
@example(heartbeat(b"\x81\x81\x01\x02\x03"))
@example(heartbeat(b"\x81\xa5extra\xd6\xff\0\0\0\0"))
@example(heartbeat(b"\x81\xa5token\xcb\x7f\xf0\0\0\0\0\0\0"))  # infinity
@example(heartbeat(b"\x81\xa5token\xc3"))  # true is not 1
def test_hostile_bytes_decode_or_raise_malformed_frame(frame: bytes) -> None:
    with contextlib.suppress(MalformedFrame):
        LINK.decode(frame)


@settings(max_examples=300)
@given(st.sampled_from(sorted(EVERY_MESSAGE)), st.binary())
def test_hostile_bodies_decode_or_raise_malformed_frame(tag: str, body: bytes) -> None:
    with contextlib.suppress(MalformedFrame):
        CODEC.decode(frame_of(tag, body))


@settings(max_examples=300)
@given(st.integers(0, 1_000_000), st.binary(min_size=1, max_size=8))
def test_bytes_overwritten_anywhere_decode_or_raise_malformed_frame(
    position: int, overwrite: bytes
) -> None:
    frame = bytearray(signed_frames()["lease_granted"])
    position %= len(frame)
    frame[position : position + len(overwrite)] = overwrite
    with contextlib.suppress(MalformedFrame):
        LINK.decode(bytes(frame))


@functools.cache
def signed_frames() -> dict[str, bytes]:
    """Return frames whose content is mostly signed."""
    lease = LeaseGranted(
        offer=1, lease=FINISHED.lease, contract=FINISHED.contract, tasks=(FINISHED.task,)
    )
    results = ResultsOffered(results=(FINISHED.result,), lease=FINISHED.lease)
    receipt = ReceiptGiven(receipt=FINISHED.receipt())
    messages = {
        "hello": a_hello(),
        "lease_granted": lease,
        "results_offered": results,
        "receipt_given": receipt,
    }
    return {tag: LINK.encode(message) for tag, message in messages.items()}


@pytest.mark.parametrize("tag", signed_frames())
def test_a_flipped_bit_never_makes_other_signed_content(tag: str) -> None:
    frame = signed_frames()[tag]
    authentic = {part.to_wire() for part in signed_parts(LINK.decode(frame))}
    assert authentic
    for position in range(len(frame)):
        flipped = bytearray(frame)
        flipped[position] ^= 1 << position % 8
        try:
            message = LINK.decode(bytes(flipped))
        except MalformedFrame:
            continue
        assert {part.to_wire() for part in signed_parts(message)} <= authentic


def test_a_wrong_signature_is_told_from_garbage() -> None:
    genesis = MESH.genesis
    forged = Signed(
        body=genesis.body,
        received=genesis.received,
        signer=genesis.signer,
        signature=bytes(64),
    )
    with pytest.raises(BadSignature, match="Genesis is not signed by"):
        LINK.decode(LINK.encode(msgspec.structs.replace(a_hello(), genesis=forged)))


@pytest.mark.parametrize(
    "part",
    [
        None,
        [],
        [b"body"],
        [b"body", bytes(32), bytes(64), b"more"],
        [b"body", bytes(31), bytes(64)],
        [b"body", bytes(32), bytes(65)],
        ["body", bytes(32), bytes(64)],
        {"body": b"", "signer": bytes(32), "signature": bytes(64)},
        [bytes(SIGNED_BYTES_MAX + 1), bytes(32), bytes(64)],
    ],
)
def test_a_signed_part_of_another_shape_is_malformed_before_it_is_verified(part: object) -> None:
    hello = msgspec.msgpack.decode(encode_body(a_hello()))
    hello["genesis"] = part
    with pytest.raises(MalformedFrame) as caught:
        LINK.decode(frame_of("hello", msgpack.packb(hello)))
    assert type(caught.value) is MalformedFrame


def test_an_unknown_tag_is_a_newer_peer_and_its_body_is_not_parsed() -> None:
    assert LINK.decode(frame_of("probe", b"\xc1 anything")) == UnknownMessage("probe")


def test_fields_of_a_newer_peer_are_ignored_and_those_an_older_one_lacks_have_defaults() -> None:
    newer = msgpack.packb({"reason": "malformed", "since": [1, {"a": None}], "detail": "bytes"})
    assert LINK.decode(frame_of("link_refused", newer)) == LinkRefused(
        reason=RefusalReason.MALFORMED, detail="bytes"
    )
    older = msgpack.packb({"reason": "malformed"})
    assert LINK.decode(frame_of("link_refused", older)) == LinkRefused(
        reason=RefusalReason.MALFORMED
    )
    rejected = LINK.decode(
        frame_of("offer_rejected", msgpack.packb({"offer": 3, "reason": "slots_full"}))
    )
    assert isinstance(rejected, OfferRejected)
    assert rejected.telemetry is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"token": -1}, ">= 0"),
        ({"token": 1 << 63}, "<= 9223372036854775807"),
        ({"token": "1"}, "Expected `int"),
        ({"token": 1.0}, "Expected `int"),
        ({"token": True}, "Expected `int"),
        ([1], "Expected `object`"),
    ],
)
def test_a_body_that_does_not_fit_its_type_is_malformed(body: object, message: str) -> None:
    with pytest.raises(MalformedFrame, match=message):
        LINK.decode(heartbeat(msgpack.packb(body)))


def test_a_field_that_is_missing_is_malformed_unless_it_may_be() -> None:
    with pytest.raises(MalformedFrame, match="missing required field"):
        LINK.decode(frame_of("heartbeat_acknowledged", msgpack.packb({})))
    assert LINK.decode(heartbeat(msgpack.packb({}))) == Heartbeat()


def test_a_field_given_twice_is_refused_not_chosen() -> None:
    with pytest.raises(MalformedFrame, match="twice"):
        LINK.decode(heartbeat(b"\x82\xa5token\x01\xa5token\x02"))


@pytest.mark.parametrize("extra", [b"\0", b"\xc0", heartbeat(b"\x81\xa5token\x01")])
def test_trailing_bytes_are_malformed(extra: bytes) -> None:
    body = b"\x81\xa5token\x01"
    assert LINK.decode(heartbeat(body)) == Heartbeat(token=1)
    with pytest.raises(MalformedFrame):
        LINK.decode(heartbeat(body) + extra)
    with pytest.raises(MalformedFrame):
        LINK.decode(heartbeat(body + extra))


@pytest.mark.parametrize(
    "envelope",
    [
        b"\x80",
        b"\x91\xa3tag",
        b"\x93\xa3tag\xc4\x00\xc0",
        b"\x92\xc4\x03tag\xc4\x00",  # the tag as bytes
        b"\x92\xa3tag\xa0",  # the body as text
        b"\x92\xd9\x29" + b"t" * 41 + b"\xc4\x00",  # a tag of 41 letters
        b"\xc1",
        b"\x92\x81\x90\x01\xc4\x00",
    ],
)
def test_an_envelope_of_another_shape_is_malformed(envelope: bytes) -> None:
    with pytest.raises(MalformedFrame):
        decode_envelope(envelope)


@pytest.mark.parametrize("version", [0, FRAME_VERSION + 1, 255])
def test_a_frame_of_another_version_is_malformed_and_names_both(version: int) -> None:
    frame = bytes([version]) + heartbeat(b"\x81\xa5token\x01")[1:]
    with pytest.raises(MalformedFrame, match=f"version {version}, we speak {FRAME_VERSION}"):
        LINK.decode(frame)


def test_a_frame_longer_than_a_mebibyte_is_neither_sent_nor_parsed() -> None:
    results = ResultsOffered(results=(big_result(),) * 9, lease=FINISHED.lease)
    with pytest.raises(FrameTooLarge, match="ResultsOffered of"):
        LINK.encode(results)
    with pytest.raises(MalformedFrame, match=f"frame of {FRAME_BYTES_MAX + 1} bytes"):
        LINK.decode(VERSIONED + bytes(FRAME_BYTES_MAX))
    biggest = ResultsOffered(results=(big_result(),) * 7, lease=FINISHED.lease)
    assert LINK.decode(LINK.encode(biggest)) == biggest


def big_result() -> ProvenResult:
    return msgspec.structs.replace(FINISHED.result, received=bytes(128 * 1024))


def test_a_body_too_long_for_any_receiver_is_not_signed() -> None:
    body = Genesis(
        founder=keys_of(0).peer,
        recovery_key=keys_of(1).peer,
        operator="o" * SIGNED_BYTES_MAX,
        nonce=bytes(16),
    )
    with pytest.raises(FrameTooLarge):
        sign(body, keys_of(0))


def test_one_decoder_serves_several_threads() -> None:
    decoder = Decoder(Receipt, Ed25519Verifier())
    receipt = FINISHED.receipt()
    received = encode_body(receipt)
    decoded: list[Receipt] = []
    threads = [
        threading.Thread(target=lambda: decoded.extend(decoder.decode(received) for _ in range(20)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert decoded == [receipt] * 80


def test_no_wire_type_contains_itself() -> None:
    """Signed parts are opened one in another, so a recursive type would nest without a bound."""

    def visit(kind: object, above: tuple[object, ...]) -> None:
        assert kind not in above, f"{kind} contains itself"
        if isinstance(kind, typing.NewType):
            return
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            for hint in typing.get_type_hints(kind).values():
                visit(hint, (*above, kind))
        for argument in typing.get_args(kind):
            visit(argument, above)

    for kind in EVERY_MESSAGE.values():
        visit(kind, ())
