"""Signatures: the bytes received, one purpose each, and no key that anyone could sign for."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.meshes import keys_of
from support.strategies import values_of

from wire import membership, records, tasks
from wire.codec import Decoder
from wire.errors import BadSignature, CannotUnseal, MalformedFrame
from wire.ids import Digest, PeerId
from wire.keys import Ed25519Keys, Ed25519Verifier
from wire.membership import Certificate, Genesis, NetworkKeyRoll, Removal
from wire.records import Record
from wire.signed import Signed, SignedBody, encode_body, sign, signing_bytes
from wire.tasks import Contract, Lease, ResultRoot, Vote

VERIFIER = Ed25519Verifier()
# Every body that somebody signs: a new one must be added here, and gets a domain of its own.
SIGNED_BODIES: dict[type[typing.Any], type[Signed[typing.Any]]] = {
    Genesis: Signed[Genesis],
    Certificate: Signed[Certificate],
    Removal: Signed[Removal],
    NetworkKeyRoll: Signed[NetworkKeyRoll],
    Record: Signed[Record],
    Contract: Signed[Contract],
    Lease: Signed[Lease],
    ResultRoot: Signed[ResultRoot],
    Vote: Signed[Vote],
}

# Points of small order, and encodings with y >= p; the list of libsodium, ed25519_ref10.c.
WEAK_KEYS = {
    "zero": "00" * 32,
    "identity": "01" + "00" * 31,
    "order 8": "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "order 8 again": "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "minus one": "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "p": "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "p plus one": "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "identity, sign bit": "01" + "00" * 30 + "80",
    "zero, sign bit": "00" * 31 + "80",
    "2**255 - 1": "ff" * 31 + "7f",
}
NOT_CURVE_POINT = "02" + "00" * 31


def opened(kind: type[typing.Any], parts: tuple[bytes, bytes, bytes]) -> Signed[typing.Any]:
    return Decoder(SIGNED_BODIES[kind], VERIFIER).decode(msgspec.msgpack.encode(parts))


@pytest.mark.parametrize("kind", SIGNED_BODIES)
@settings(max_examples=10, deadline=None)
@given(drawn=st.data())
def test_a_signed_body_comes_back_verified_with_the_bytes_it_came_as(
    kind: type[typing.Any], drawn: st.DataObject
) -> None:
    body = drawn.draw(values_of(kind))
    signed = sign(body, keys_of(1))
    back = opened(kind, signed.to_wire())
    assert back.body == body
    assert (back.signer, back.received) == (keys_of(1).peer, encode_body(body))
    assert VERIFIER.verify(kind.DOMAIN + b"\0" + encode_body(body), back.signature, back.signer)


def test_all_signed_bodies_are_listed_and_each_has_a_domain_of_its_own() -> None:
    found = {
        kind
        for module in (membership, records, tasks)
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if hasattr(kind, "DOMAIN") and kind.__module__.startswith("wire.") and kind != SignedBody
    }
    assert found == set(SIGNED_BODIES)
    domains = [kind.DOMAIN for kind in SIGNED_BODIES]
    assert len(set(domains)) == len(domains)
    # No domain with its separator begins another: what one covers is never what another does.
    for domain in domains:
        assert b"\0" not in domain
        assert not any(other.startswith(domain + b"\0") for other in domains)


@pytest.mark.parametrize("other", SIGNED_BODIES)
@pytest.mark.parametrize("kind", SIGNED_BODIES)
def test_a_signature_is_worth_nothing_for_another_purpose(
    kind: type[typing.Any], other: type[typing.Any]
) -> None:
    body = b"\x80"
    signature = keys_of(0).sign(signing_bytes(other.DOMAIN, body))
    parts = (body, keys_of(0).peer, signature)
    # With its own domain the signature passes and only the empty body is refused.
    wanted = MalformedFrame if kind is other else BadSignature
    with pytest.raises(MalformedFrame) as caught:
        opened(kind, parts)
    assert type(caught.value) is wanted


def test_every_bit_of_body_signer_and_signature_counts() -> None:
    parts = sign(ResultRoot(count=3, root=Digest(bytes(32))), keys_of(0)).to_wire()
    for place, part in enumerate(parts):
        for position in range(len(part)):
            flipped = bytearray(part)
            flipped[position] ^= 1 << position % 8
            changed = (*parts[:place], bytes(flipped), *parts[place + 1 :])
            with pytest.raises(BadSignature):
                opened(ResultRoot, typing.cast(tuple[bytes, bytes, bytes], changed))


@pytest.mark.parametrize("weak", [*WEAK_KEYS.values(), NOT_CURVE_POINT], ids=[*WEAK_KEYS, "none"])
def test_a_key_that_anyone_could_sign_for_is_no_signer(weak: str) -> None:
    """With a small-order key A, R = identity and S = 0 satisfy S*B = R + h*A for many messages."""
    signer = PeerId(bytes.fromhex(weak))
    identity = bytes.fromhex(WEAK_KEYS["identity"])
    signatures = [point + bytes(32) for point in (identity, bytes(signer))]
    for number in range(32):  # of order 8: one message in eight would do
        message = number.to_bytes(1, "big")
        assert not any(VERIFIER.verify(message, signature, signer) for signature in signatures)


@pytest.mark.parametrize("weak", [*WEAK_KEYS.values(), NOT_CURVE_POINT], ids=[*WEAK_KEYS, "none"])
def test_nothing_is_sealed_to_a_key_whose_boxes_anyone_could_open(weak: str) -> None:
    with pytest.raises(CannotUnseal):
        keys_of(0).seal(b"secret", PeerId(bytes.fromhex(weak)))


def test_a_signature_has_one_form() -> None:
    """S + L passes the equation too; RFC 8032, section 5.1.7, refuses S >= L."""
    order = (1 << 252) + 27742317777372353535851937790883648493
    signature = keys_of(0).sign(b"message")
    scalar = int.from_bytes(signature[32:], "little") + order
    assert VERIFIER.verify(b"message", signature, keys_of(0).peer)
    second = signature[:32] + scalar.to_bytes(32, "little")
    assert not VERIFIER.verify(b"message", second, keys_of(0).peer)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_wrong_and_not_read_past_its_end(length: int) -> None:
    key = PeerId((keys_of(0).peer + b"\0")[:length])  # libsodium takes the first 32 bytes
    assert not VERIFIER.verify(b"m", keys_of(0).sign(b"m"), key)
    with pytest.raises(CannotUnseal):
        keys_of(0).seal(b"secret", PeerId(bytes(length)))


@pytest.mark.parametrize("length", [0, 63, 65])
def test_a_signature_of_another_length_is_wrong(length: int) -> None:
    signature = (keys_of(0).sign(b"m") * 2)[:length]
    assert not VERIFIER.verify(b"m", signature, keys_of(0).peer)


def test_a_byte_does_not_move_from_the_message_into_the_signature() -> None:
    assert VERIFIER.verify(b"m", keys_of(0).sign(b"m"), keys_of(0).peer)
    assert not VERIFIER.verify(b"", keys_of(0).sign(b"m") + b"m", keys_of(0).peer)


@given(st.binary(max_size=200))
def test_a_sealed_secret_is_opened_by_its_recipient_alone(secret: bytes) -> None:
    box = keys_of(0).seal(secret, keys_of(1).peer)
    assert keys_of(1).unseal(box) == secret
    for stranger in (keys_of(0), keys_of(2)):
        with pytest.raises(CannotUnseal):
            stranger.unseal(box)


def test_the_same_secret_is_sealed_differently_each_time() -> None:
    assert keys_of(0).seal(b"s" * 32, keys_of(1).peer) != keys_of(0).seal(
        b"s" * 32, keys_of(1).peer
    )


@pytest.mark.parametrize(
    "change",
    [lambda box: box[:-1], lambda box: box + b"\0", lambda box: b"", lambda box: bytes(len(box))],
)
def test_a_box_that_was_changed_stays_shut(change: Callable[[bytes], bytes]) -> None:
    box = keys_of(0).seal(b"secret", keys_of(1).peer)
    with pytest.raises(CannotUnseal):
        keys_of(1).unseal(change(box))
    for position in range(len(box)):
        flipped = bytearray(box)
        flipped[position] ^= 0x40
        for changed in (bytes(flipped), box[:position]):
            with pytest.raises(CannotUnseal):
                keys_of(1).unseal(changed)


def test_printing_keys_shows_the_public_half_only() -> None:
    seed = bytes(range(32))
    keys = Ed25519Keys(seed)
    shown = f"{keys} {keys!r}"
    assert keys.peer.hex() in shown
    assert seed.hex() not in shown
    assert repr(seed) not in shown
