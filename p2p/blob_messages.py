"""The messages of `/meshd/blob/1`, and what the exchange needs of a blob store.

One side asks, the other answers in the order of the questions. A question is also the credit for
its answer: nothing is sent that was not asked for, and nobody asks for more than it can hold.
"""

from __future__ import annotations

from typing import Annotated, Protocol

from msgspec import Meta, Struct

from wire.blobs import CHUNK_BYTES, CHUNKS_MAX, BlobRef
from wire.codec import FrameCodec
from wire.ids import DIGEST_BYTES, PeerId

BLOB_PROTOCOL_ID = "/meshd/blob/1"
RUN_CHUNKS_MAX = 16
MANIFEST_BYTES_MAX = CHUNKS_MAX * DIGEST_BYTES + 64
REQUEST_BYTES_MAX = 512
ANSWER_BYTES_MAX = CHUNK_BYTES + 512

ChunkIndex = Annotated[int, Meta(ge=0, lt=CHUNKS_MAX)]


class ManifestWanted(Struct, frozen=True, kw_only=True):
    """Please send the manifest of a blob."""

    blob: BlobRef


class ManifestGiven(Struct, frozen=True, kw_only=True):
    """The manifest as it is encoded: its digest is the blob's id."""

    manifest: Annotated[bytes, Meta(max_length=MANIFEST_BYTES_MAX)]


class ChunksWanted(Struct, frozen=True, kw_only=True):
    """Please send `count` chunks of a blob, beginning with `first`, each in a frame of its own."""

    blob: BlobRef
    first: ChunkIndex
    count: Annotated[int, Meta(ge=1, le=RUN_CHUNKS_MAX)]


class ChunkGiven(Struct, frozen=True, kw_only=True):
    """One chunk."""

    index: ChunkIndex
    chunk: Annotated[bytes, Meta(min_length=1, max_length=CHUNK_BYTES)]


class BlobNotHere(Struct, frozen=True, kw_only=True):
    """The blob, or a chunk that was asked for, is not here: the rest of the run is not sent."""

    blob: BlobRef


BLOB_MESSAGES: dict[str, type] = {
    "manifest_wanted": ManifestWanted,
    "manifest_given": ManifestGiven,
    "chunks_wanted": ChunksWanted,
    "chunk_given": ChunkGiven,
    "blob_not_here": BlobNotHere,
}


class NothingSigned:
    """A verifier for protocols without signatures: what is in them proves itself by its digest."""

    def verify(self, message: bytes, signature: bytes, signer: PeerId) -> bool:
        """Accept nothing."""
        del message, signature, signer
        return False


def blob_codec() -> FrameCodec:
    """Return the codec of the protocol."""
    return FrameCodec(BLOB_MESSAGES, NothingSigned())


class Blobs(Protocol):
    """A store of blobs. `has` is quick; the others block and may be called from threads.

    They raise kinds of MeshError when something is not here or the disk does not do its work.
    """

    def has(self, ref: BlobRef) -> bool:
        """Say whether the whole blob is here."""
        ...

    def put_manifest(self, ref: BlobRef, manifest: bytes) -> frozenset[int]:
        """Begin or resume a blob; return which chunks are missing."""
        ...

    def put_chunk(self, ref: BlobRef, index: int, chunk: bytes) -> int:
        """Keep one chunk of a begun blob; return how many are missing."""
        ...

    def read_manifest(self, ref: BlobRef) -> bytes:
        """Return the encoded manifest of a whole blob."""
        ...

    def read_chunk(self, ref: BlobRef, index: int) -> bytes:
        """Return one chunk of a whole blob."""
        ...
