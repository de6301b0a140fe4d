"""A blob store in memory, with the errors of a real one."""

from __future__ import annotations

from dataclasses import dataclass, field

from wire.blobs import CHUNK_BYTES, BlobRef, Manifest, blob_ref, manifest_of
from wire.errors import MeshError
from wire.ids import Digest
from wire.signed import encode_body


class StoreTrouble(MeshError):
    """What a store raises, as far as its callers are concerned."""


@dataclass
class MemoryBlobs:
    """Blobs by digest. `disk_full_at`: how many chunks fit."""

    contents: dict[Digest, bytes] = field(default_factory=dict)
    partial: dict[Digest, dict[int, bytes]] = field(default_factory=dict)
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    disk_full_at: int = 1 << 30
    put_indices: list[int] = field(default_factory=list)

    def put(self, content: bytes) -> BlobRef:
        """Keep a whole blob."""
        ref = blob_ref(content)
        self.contents[ref.digest] = content
        return ref

    def has(self, ref: BlobRef) -> bool:
        """Say whether the whole blob is here."""
        return ref.digest in self.contents

    def put_manifest(self, ref: BlobRef, manifest: bytes) -> frozenset[int]:
        """Begin or resume a blob."""
        count = -(-ref.size_bytes // CHUNK_BYTES)
        chunks = self.partial.setdefault(ref.digest, {})
        self._finish_if_whole(ref, count)
        return frozenset(range(count)) - chunks.keys()

    def put_chunk(self, ref: BlobRef, index: int, chunk: bytes) -> int:
        """Keep a chunk."""
        if len(self.put_indices) >= self.disk_full_at:
            raise StoreTrouble("No space left on device")
        self.put_indices.append(index)
        chunks = self.partial[ref.digest]
        chunks[index] = chunk
        count = -(-ref.size_bytes // CHUNK_BYTES)
        self._finish_if_whole(ref, count)
        return count - len(chunks)

    def read_manifest(self, ref: BlobRef) -> bytes:
        """Return the encoded manifest."""
        return encode_body(manifest_of(self._read(ref)))

    def read_chunk(self, ref: BlobRef, index: int) -> bytes:
        """Return one chunk."""
        chunk = self._read(ref)[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        if not chunk:
            raise StoreTrouble(f"no chunk {index}")
        return chunk

    def _read(self, ref: BlobRef) -> bytes:
        if not self.has(ref):
            raise StoreTrouble("not here")
        return self.contents[ref.digest]

    def _finish_if_whole(self, ref: BlobRef, count: int) -> None:
        chunks = self.partial[ref.digest]
        if len(chunks) == count:
            content = b"".join(chunks[index] for index in range(count))
            assert blob_ref(content) == ref
            self.contents[ref.digest] = content
