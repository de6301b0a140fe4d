"""The contents of one batch, sealed and opened in one place: inputs, outputs and logs.

Short contents travel in messages, long ones as blobs. Every function here blocks on cryptography
and the disk: `meshd.content` calls them in threads.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from wire.blobs import BlobRef
from wire.content import (
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
from wire.ids import Digest
from wire.limits import INLINE_BYTES_MAX
from wire.signed import encode_body

LOG_BYTES_MAX = 8 * 1024  # of the end of a standard error: results travel by the dozen in a frame


class Blobs(Protocol):
    """Where long contents are kept, under the digest of their bytes."""

    def put(self, content: bytes) -> BlobRef:
        """Keep `content`. Raises BlobError."""
        ...

    def read(self, ref: BlobRef) -> bytes:
        """Return the content. Raises BlobMissing (BlobCorrupt)."""
        ...


class SealedOutput(Struct, frozen=True, kw_only=True):
    """What a program put out, sealed, and the keyed digest that results compare."""

    output: Content
    output_digest: Digest
    log: Content | None


class BatchContent:
    """Seals and opens under one batch key, 32 bytes. Its text form does not show the key."""

    def __init__(self, batch_key: bytes, blobs: Blobs) -> None:
        self._batch_key = batch_key
        self._blobs = blobs

    def seal_invocation(self, index: int, invocation: Invocation) -> Content:
        """Return the input of task `index`. Raises BlobError."""
        return self._seal(encode_body(invocation), input_purpose(index))

    def open_invocation(self, index: int, content: Content) -> Invocation:
        """Return what task `index` is started with.

        Raises BlobMissing, CannotUnseal or MalformedFrame.
        """
        return decode_invocation(self._open(content, input_purpose(index)))

    def seal_output(self, index: int, *, stdout: bytes, stderr: bytes) -> SealedOutput:
        """Return what task `index` put out; of `stderr` the last LOG_BYTES_MAX.

        Raises BlobError.
        """
        log = stderr[-LOG_BYTES_MAX:]
        return SealedOutput(
            output=self._seal(stdout, output_purpose(index)),
            output_digest=output_digest(stdout, key=self.digest_key),
            log=self._seal(log, log_purpose(index)) if log else None,
        )

    def open_output(self, index: int, output: Content) -> bytes:
        """Return the standard output of task `index`. Raises BlobMissing or CannotUnseal."""
        return self._open(output, output_purpose(index))

    def open_log(self, index: int, log: Content | None) -> bytes:
        """Return the end of the standard error. Raises BlobMissing or CannotUnseal."""
        return b"" if log is None else self._open(log, log_purpose(index))

    def is_output(self, index: int, output: Content, digest: Digest) -> bool:
        """Say whether `output` opens to what has this keyed digest. Raises BlobMissing."""
        opened = self.open_output(index, output)
        return output_digest(opened, key=self.digest_key) == digest

    @property
    def digest_key(self) -> bytes:
        """The key of the batch's output digests."""
        return digest_key(self._batch_key)

    def _seal(self, plaintext: bytes, purpose: bytes) -> Content:
        sealed = seal_content(plaintext, batch_key=self._batch_key, purpose=purpose)
        if len(plaintext) <= INLINE_BYTES_MAX:
            return Content(inline=sealed)
        return Content(blob=self._blobs.put(sealed))

    def _open(self, content: Content, purpose: bytes) -> bytes:
        sealed = content.inline
        if sealed is None:
            assert content.blob is not None, "Content holds one of the two"  # noqa: S101
            sealed = self._blobs.read(content.blob)
        return open_content(sealed, batch_key=self._batch_key, purpose=purpose)
