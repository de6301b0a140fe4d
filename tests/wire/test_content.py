"""Content: sealed to one key and one purpose; digests that only the key's holders can test."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import values_of

from wire.blobs import blob_ref
from wire.content import (
    SEALED_EXTRA_BYTES,
    Content,
    Invocation,
    decode_invocation,
    digest_key,
    input_purpose,
    log_purpose,
    open_content,
    output_digest,
    output_purpose,
    seal_content,
)
from wire.errors import CannotUnseal, MalformedFrame
from wire.limits import CONTENT_BYTES_MAX, INLINE_BYTES_MAX
from wire.signed import encode_body

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
PURPOSE = input_purpose(3)
SEALED = seal_content(b"plaintext", batch_key=KEY, purpose=PURPOSE)


@given(st.binary(max_size=300), st.integers(0, 1_023))
def test_content_is_opened_with_its_key_for_its_purpose(plaintext: bytes, index: int) -> None:
    purpose = output_purpose(index)
    sealed = seal_content(plaintext, batch_key=KEY, purpose=purpose)
    assert open_content(sealed, batch_key=KEY, purpose=purpose) == plaintext
    assert len(sealed) == len(plaintext) + SEALED_EXTRA_BYTES


@pytest.mark.parametrize(
    ("key", "purpose"),
    [
        (OTHER_KEY, PURPOSE),
        (b"short", PURPOSE),
        (KEY, input_purpose(4)),
        (KEY, output_purpose(3)),
        (KEY, log_purpose(3)),
        (KEY, b""),
    ],
)
def test_another_key_or_purpose_does_not_open_it(key: bytes, purpose: bytes) -> None:
    with pytest.raises(CannotUnseal):
        open_content(SEALED, batch_key=key, purpose=purpose)


def test_a_changed_or_missing_byte_keeps_it_shut() -> None:
    for position in range(len(SEALED)):
        flipped = bytearray(SEALED)
        flipped[position] ^= 1
        for changed in (bytes(flipped), SEALED[:position]):
            with pytest.raises(CannotUnseal):
                open_content(changed, batch_key=KEY, purpose=PURPOSE)


def test_the_same_content_is_sealed_differently_each_time() -> None:
    assert seal_content(b"plaintext", batch_key=KEY, purpose=PURPOSE) != SEALED


def test_every_task_and_direction_has_a_purpose_of_its_own() -> None:
    purposes = [make(i) for make in (input_purpose, output_purpose, log_purpose) for i in range(9)]
    assert len(set(purposes)) == len(purposes)


def test_an_output_digest_needs_the_key_and_differs_from_batch_to_batch() -> None:
    key = digest_key(KEY)
    assert key not in (KEY, digest_key(OTHER_KEY))
    assert output_digest(b"42\n", key=key) == output_digest(b"42\n", key=digest_key(KEY))
    assert output_digest(b"42\n", key=key) != output_digest(b"42\n", key=digest_key(OTHER_KEY))
    assert output_digest(b"42\n", key=key) != output_digest(b"43\n", key=key)


@pytest.mark.parametrize(
    "fields",
    [{}, {"inline": b"a", "blob": blob_ref(b"b")}, {"inline": None, "blob": None}],
)
def test_content_is_inline_or_a_blob_never_both_nor_none(fields: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError, match="either inline or a blob"):
        msgspec.convert(fields, Content)


def test_inline_content_is_at_most_32_kib_of_plaintext() -> None:
    longest = bytes(INLINE_BYTES_MAX + SEALED_EXTRA_BYTES)
    assert msgspec.convert({"inline": longest}, Content).inline == longest
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"inline": longest + b"\0"}, Content)


@given(values_of(Invocation))
def test_an_invocation_comes_back(invocation: Invocation) -> None:
    assert decode_invocation(encode_body(invocation)) == invocation


@pytest.mark.parametrize(
    "fields",
    [
        {"args": ["a\0b"]},
        {"env": [["A", "b\0c"]]},
        {"env": [["A\0B", "c"]]},
        {"env": [["", "value"]]},
        {"env": [["A=B", "value"]]},
        {"env": [["A", "1"], ["A", "2"]]},
        {"args": ["x"] * 257},
        {"args": ["x" * 4_097]},
        {"stdin": "text"},
        {"stdin": bytes(CONTENT_BYTES_MAX + 1)},
        [],
    ],
)
def test_an_invocation_that_a_program_would_misread_is_malformed(fields: object) -> None:
    with pytest.raises(MalformedFrame, match=r"^input: "):
        decode_invocation(msgspec.msgpack.encode(fields))
