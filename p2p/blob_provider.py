"""One device that blobs are fetched from: what it was asked, and whether its answers are true."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from p2p.blob_messages import (
    ANSWER_BYTES_MAX,
    BlobNotHere,
    ChunkGiven,
    ChunksWanted,
    ManifestGiven,
    ManifestWanted,
    NothingSigned,
    blob_codec,
)
from p2p.errors import NetworkError, StreamBroken
from p2p.framing import FrameReader, framed
from p2p.protocol_errors import BlobMismatch, ProviderFailed
from p2p.streams import Stream
from wire.blobs import CHUNK_BYTES, BlobRef, Manifest, blob_digest
from wire.codec import Decoder
from wire.errors import MalformedFrame
from wire.ids import DIGEST_BYTES, digest_text

_codec = blob_codec()
_manifests = Decoder(Manifest, NothingSigned())


@dataclass(slots=True, eq=False, kw_only=True)
class Provider:
    """A stream to a device that may hold `blob`.

    `asked` are the chunks it owes us or that are not on the disk yet: never more than
    `under_way_chunks_max`, so that all of them fit between reader and disk.
    """

    stream: Stream
    blob: BlobRef
    stall_timeout_s: float
    under_way_chunks_max: int
    asked: set[int] = field(default_factory=set)
    received_bytes: int = 0
    _owed: set[int] = field(default_factory=set)
    _reader: FrameReader = field(init=False)
    _failure: Exception | None = None
    _arrive: trio.MemorySendChannel[tuple[int, bytes]] = field(init=False)
    _arrived: trio.MemoryReceiveChannel[tuple[int, bytes]] = field(init=False)

    def __post_init__(self) -> None:
        """Make room for what may be under way."""
        self._reader = FrameReader(self.stream, ANSWER_BYTES_MAX)
        self._arrive, self._arrived = trio.open_memory_channel[tuple[int, bytes]](
            self.under_way_chunks_max
        )

    async def ask_manifest(self) -> bytes:
        """Return the blob's encoded manifest. Raises NetworkError, MalformedFrame, TooSlowError."""
        await self._send(ManifestWanted(blob=self.blob))
        with trio.fail_after(self.stall_timeout_s):
            answer = await self._receive()
        if not isinstance(answer, ManifestGiven):
            raise MalformedFrame(f"{type(answer).__name__} instead of a manifest")
        if blob_digest(answer.manifest) != self.blob.digest:
            raise ProviderFailed("gave another blob's manifest")
        return answer.manifest

    async def ask_chunks(self, run: list[int]) -> None:
        """Ask for chunks next to each other, within what may be under way."""
        self.asked.update(run)
        self._owed.update(run)
        await self._send(ChunksWanted(blob=self.blob, first=run[0], count=len(run)))

    async def next_chunk(self) -> tuple[int, bytes]:
        """Return a chunk that is what it should be. Raises what the device failed with."""
        try:
            with trio.fail_after(self.stall_timeout_s):
                return await self._arrived.receive()
        except trio.EndOfChannel:
            assert self._failure is not None  # noqa: S101 - why the reader ended
            raise self._failure from None

    async def run_reader(self, manifest: Manifest) -> None:
        """Take chunks off the stream as they come, until the device fails or we are cancelled."""
        with self._arrive:
            try:
                while True:
                    await self._arrive.send(self._checked(await self._receive(), manifest))
            except (NetworkError, MalformedFrame) as error:
                self._failure = error

    def _checked(self, answer: object, manifest: Manifest) -> tuple[int, bytes]:
        if not isinstance(answer, ChunkGiven):
            raise MalformedFrame(f"{type(answer).__name__} instead of a chunk")
        if answer.index not in self._owed:
            raise ProviderFailed(f"gave chunk {answer.index}, which it was not asked for")
        if not manifest.accepts(answer.index, answer.chunk):
            raise ProviderFailed(f"gave a wrong chunk {answer.index}")
        self._owed.discard(answer.index)
        self.received_bytes += len(answer.chunk)
        return answer.index, answer.chunk

    async def _receive(self) -> object:
        frame = await self._reader.receive()
        if frame is None:
            raise StreamBroken("the device closed the stream")
        answer = _codec.decode(frame)
        if isinstance(answer, BlobNotHere):
            raise ProviderFailed("does not have it")
        return answer

    async def _send(self, request: object) -> None:
        with trio.fail_after(self.stall_timeout_s):
            await self.stream.send_all(framed(_codec.encode(request)))


def opened_manifest(encoded: bytes, ref: BlobRef) -> Manifest:
    """Return the manifest of `ref`, whose digest it has. Raises BlobMismatch."""
    name = digest_text(ref.digest)
    try:
        manifest = _manifests.decode(encoded)
    except MalformedFrame as error:
        raise BlobMismatch(f"{name} is no blob: {error}") from error
    if manifest.size_bytes != ref.size_bytes:
        sizes = f"{manifest.size_bytes} bytes, not {ref.size_bytes}"
        raise BlobMismatch(f"blob {name} has {sizes}")
    if len(manifest.chunks) != -(-ref.size_bytes // CHUNK_BYTES) * DIGEST_BYTES:
        raise BlobMismatch(f"blob {name} has chunks for another size")
    return manifest
