"""Confidential content: sealed under a key per batch, with digests that only its holders can test.

Sealing is XChaCha20-Poly1305 with a random nonce; what it was sealed for is authenticated with it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import nacl.exceptions
import nacl.secret
from blake3 import blake3
from msgspec import Meta, Struct

from wire.blobs import BlobRef
from wire.errors import CannotUnseal
from wire.ids import Digest
from wire.limits import CONTENT_BYTES_MAX, INLINE_BYTES_MAX
from wire.strict import decode_strictly

BATCH_KEY_BYTES = 32
SEALED_EXTRA_BYTES = 40  # nonce and tag

_DIGEST_KEY_CONTEXT = "meshd 2026 digest key"


class Content(Struct, frozen=True, kw_only=True):
    """Sealed bytes: in the message itself when short, else a blob. Exactly one of the two."""

    inline: Annotated[bytes, Meta(max_length=INLINE_BYTES_MAX + SEALED_EXTRA_BYTES)] | None = None
    blob: BlobRef | None = None

    def __post_init__(self) -> None:
        """Refuse neither and both: msgspec turns the ValueError into a decoding error."""
        if (self.inline is None) == (self.blob is None):
            raise ValueError("content is either inline or a blob")


class Invocation(Struct, frozen=True, kw_only=True):
    """What a program is started with: its arguments, environment and standard input."""

    args: Annotated[tuple[Annotated[str, Meta(max_length=4096)], ...], Meta(max_length=256)] = ()
    env: Annotated[
        tuple[
            tuple[Annotated[str, Meta(max_length=256)], Annotated[str, Meta(max_length=4096)]], ...
        ],
        Meta(max_length=256),
    ] = ()
    stdin: Annotated[bytes, Meta(max_length=CONTENT_BYTES_MAX)] = b""

    def __post_init__(self) -> None:
        """Refuse what a C program could not tell from something else. Raises ValueError."""
        names = [name for name, _ in self.env]
        if any("\0" in word for word in (*self.args, *names, *(value for _, value in self.env))):
            raise ValueError("an argument or variable holds a zero byte")
        if any(not name or "=" in name for name in names) or len(set(names)) != len(names):
            raise ValueError("a variable has no name, one with '=', or is given twice")


def seal_content(plaintext: bytes, *, batch_key: bytes, purpose: bytes) -> bytes:
    """Return `plaintext` encrypted for those who hold the batch key."""
    return bytes(nacl.secret.Aead(batch_key).encrypt(plaintext, aad=purpose))


def open_content(sealed: bytes, *, batch_key: bytes, purpose: bytes) -> bytes:
    """Return the plaintext. Raises CannotUnseal for another key, purpose or a changed byte."""
    if len(sealed) < SEALED_EXTRA_BYTES:  # PyNaCl would ask for a buffer of negative length
        raise CannotUnseal(f"{len(sealed)} bytes are no sealed content")
    try:
        return nacl.secret.Aead(batch_key).decrypt(sealed, aad=purpose)
    except (nacl.exceptions.CryptoError, nacl.exceptions.ValueError) as error:
        raise CannotUnseal("the content is not sealed under this key, or was changed") from error


def input_purpose(index: int) -> bytes:
    """Return what the input of task `index` is sealed for."""
    return b"meshd/input/1\0" + index.to_bytes(2, "big")


def output_purpose(index: int) -> bytes:
    """Return what the output of task `index` is sealed for."""
    return b"meshd/output/1\0" + index.to_bytes(2, "big")


def log_purpose(index: int) -> bytes:
    """Return what the standard error of task `index` is sealed for."""
    return b"meshd/log/1\0" + index.to_bytes(2, "big")


def digest_key(batch_key: bytes) -> bytes:
    """Return the key of a batch's output digests: secret, as it lets guesses be tested."""
    return blake3(batch_key, derive_key_context=_DIGEST_KEY_CONTEXT).digest()


def output_digest(output: bytes, *, key: bytes) -> Digest:
    """Return the digest of a task's standard output under the batch's digest key."""
    return Digest(blake3(output, key=key).digest())


def decode_invocation(plaintext: bytes) -> Invocation:
    """Return the invocation in an opened input. Raises MalformedFrame."""
    return decode_strictly(_invocation, plaintext, "input")


_invocation = msgspec.msgpack.Decoder(Invocation)
