"""Content-addressed blobs: a manifest of 64 KiB chunks, each checked as it arrives.

A blob's id is the BLAKE3 digest of its manifest, which holds the digest of every chunk. Chunks may
come in any order and from several devices; one wrong byte is found in the chunk it is in.
"""

from __future__ import annotations

from typing import Annotated

from blake3 import blake3
from msgspec import Meta, Struct

from wire.ids import DIGEST_BYTES, Digest
from wire.limits import CONTENT_BYTES_MAX
from wire.signed import encode_body

CHUNK_BYTES = 64 * 1024
BLOB_BYTES_MAX = CONTENT_BYTES_MAX + 4096  # a sealed content is a little longer than the content
CHUNKS_MAX = -(-BLOB_BYTES_MAX // CHUNK_BYTES)

_CHUNK_CONTEXT = "meshd 2026 blob chunk"
_MANIFEST_CONTEXT = "meshd 2026 blob manifest"


class BlobRef(Struct, frozen=True, array_like=True):
    """Where a blob is found: the digest of its manifest, and its size in bytes."""

    digest: Digest
    size_bytes: Annotated[int, Meta(ge=0, le=BLOB_BYTES_MAX)]


class Manifest(Struct, frozen=True, array_like=True):
    """The chunks of a blob, in order: their digests, one after another."""

    version: Annotated[int, Meta(ge=1, le=1)]
    size_bytes: Annotated[int, Meta(ge=0, le=BLOB_BYTES_MAX)]
    chunks: Annotated[bytes, Meta(max_length=CHUNKS_MAX * DIGEST_BYTES)]

    @property
    def chunk_count(self) -> int:
        """How many chunks the blob has."""
        return len(self.chunks) // DIGEST_BYTES

    def chunk_digest(self, index: int) -> bytes:
        """Return the digest of chunk `index`."""
        return self.chunks[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]

    def chunk_bytes(self, index: int) -> int:
        """Return the size of chunk `index`; only the last is shorter than CHUNK_BYTES."""
        return min(CHUNK_BYTES, self.size_bytes - index * CHUNK_BYTES)

    def accepts(self, index: int, chunk: bytes) -> bool:
        """Say whether `chunk` is the chunk `index` of this blob."""
        return (
            0 <= index < self.chunk_count
            and len(chunk) == self.chunk_bytes(index)
            and chunk_digest(chunk) == self.chunk_digest(index)
        )


def chunk_digest(chunk: bytes) -> bytes:
    """Return the digest of one chunk."""
    return blake3(chunk, derive_key_context=_CHUNK_CONTEXT).digest()


def manifest_of(content: bytes) -> Manifest:
    """Return the manifest of `content`, at most BLOB_BYTES_MAX."""
    view = memoryview(content)
    starts = range(0, len(content), CHUNK_BYTES)
    digests = (chunk_digest(bytes(view[start : start + CHUNK_BYTES])) for start in starts)
    return Manifest(version=1, size_bytes=len(content), chunks=b"".join(digests))


def blob_digest(manifest: bytes) -> Digest:
    """Return the id of the blob whose encoded manifest this is."""
    return Digest(blake3(manifest, derive_key_context=_MANIFEST_CONTEXT).digest())


def blob_ref(content: bytes) -> BlobRef:
    """Return the reference under which `content` is found."""
    return BlobRef(blob_digest(encode_body(manifest_of(content))), len(content))
