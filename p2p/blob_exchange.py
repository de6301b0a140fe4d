"""Blobs between members, `/meshd/blob/1`: a manifest, then chunks, each checked as it arrives.

Who wants a blob asks for a few chunks at a time, so that nobody writes more than the other side has
asked for and a slow reader only slows itself. Several devices are asked at once for different
chunks; one that lies, stalls or does not have it is dropped and the others go on. Chunks that are
on the disk from an earlier try are not asked for again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Protocol

import structlog
import trio
from msgspec import Meta, Struct

from p2p.errors import NetworkError, StreamBroken
from p2p.framing import FrameReader, framed
from p2p.hosting import StreamHost
from p2p.protocol_errors import BlobUnavailable
from p2p.streams import Stream
from wire.blobs import CHUNK_BYTES, CHUNKS_MAX, BlobRef
from wire.codec import FrameCodec
from wire.errors import MalformedFrame, MeshError
from wire.ids import PeerId, digest_text, peer_text
from wire.keys import Ed25519Verifier

BLOB_PROTOCOL_ID = "/meshd/blob/1"
CHUNKS_WANTED_MAX = 8  # half a megabyte on its way
MANIFEST_BYTES_MAX = 64 + 32 * CHUNKS_MAX
REQUEST_BYTES_MAX = 1_024
ANSWER_BYTES_MAX = CHUNK_BYTES + 4_096
IDLE_S_MAX = 15.0
SOURCES_MAX = 4
SERVED_COUNT_MAX = 16

log = structlog.get_logger()


class BlobWanted(Struct, frozen=True, kw_only=True):
    """Do you have it? Answered by `ManifestGiven` or `BlobMissing`."""

    blob: BlobRef


class ManifestGiven(Struct, frozen=True, kw_only=True):
    """The blob is here: its manifest."""

    manifest: Annotated[bytes, Meta(max_length=MANIFEST_BYTES_MAX)]


class ChunksWanted(Struct, frozen=True, kw_only=True):
    """Please send these chunks, in this order. Each is answered by `ChunkGiven`."""

    indices: Annotated[
        tuple[Annotated[int, Meta(ge=0, lt=CHUNKS_MAX)], ...],
        Meta(min_length=1, max_length=CHUNKS_WANTED_MAX),
    ]


class ChunkGiven(Struct, frozen=True, kw_only=True):
    """One chunk."""

    index: Annotated[int, Meta(ge=0, lt=CHUNKS_MAX)]
    chunk: Annotated[bytes, Meta(max_length=CHUNK_BYTES)]


class BlobMissing(Struct, frozen=True, kw_only=True):
    """The blob is not here, or not any more."""


BLOB_MESSAGES: dict[str, type] = {
    "blob_wanted": BlobWanted,
    "manifest_given": ManifestGiven,
    "chunks_wanted": ChunksWanted,
    "chunk_given": ChunkGiven,
    "blob_missing": BlobMissing,
}


class BlobShelf(Protocol):
    """Where blobs are kept; `meshd.blobstore` has the real one. All methods block."""

    def has(self, ref: BlobRef) -> bool:
        """Say whether the whole blob is here."""
        ...

    def put_manifest(self, ref: BlobRef, manifest: bytes) -> frozenset[int]:
        """Begin or resume a blob; return which chunks are missing. Raises MeshError."""
        ...

    def put_chunk(self, ref: BlobRef, index: int, chunk: bytes) -> int:
        """Keep a chunk; return how many are missing. Raises MalformedFrame, MeshError."""
        ...

    def read_manifest(self, ref: BlobRef) -> bytes:
        """Return the manifest. Raises MeshError."""
        ...

    def read_chunk(self, ref: BlobRef, index: int) -> bytes:
        """Return one chunk. Raises MeshError."""
        ...


class TransferStats(Struct, frozen=True, kw_only=True):
    """What one device gave."""

    peer: PeerId
    received_bytes: int
    duration_s: float


class BlobServer:
    """Serves the blobs of this device to members, SERVED_COUNT_MAX streams at once."""

    def __init__(self, host: StreamHost, blobs: BlobShelf) -> None:
        self._host = host
        self._blobs = blobs
        self._codec = FrameCodec(BLOB_MESSAGES, Ed25519Verifier())
        self._slots = trio.CapacityLimiter(SERVED_COUNT_MAX)

    def serve(self) -> None:
        """Answer from now on."""
        self._host.serve(BLOB_PROTOCOL_ID, self._serve, members_only=True)

    async def _serve(self, stream: Stream) -> None:
        async with self._slots:
            try:
                await self._answer_all(stream)
            except MalformedFrame as error:
                log.info("blob.malformed", peer_id=peer_text(stream.peer), reason=str(error))
                await stream.reset()
            except (StreamBroken, trio.TooSlowError) as error:
                log.debug("blob.given_up", peer_id=peer_text(stream.peer), reason=str(error))
                await stream.reset()

    async def _answer_all(self, stream: Stream) -> None:
        reader = FrameReader(stream, REQUEST_BYTES_MAX)
        wanted: BlobRef | None = None
        while True:
            with trio.fail_after(IDLE_S_MAX):
                frame = await reader.receive()
            match None if frame is None else self._codec.decode(frame):
                case None:
                    return
                case BlobWanted(blob=blob):
                    wanted = blob
                    await self._send(stream, await self._manifest(blob))
                case ChunksWanted(indices=indices) if wanted is not None:
                    for index in indices:
                        await self._send(stream, await self._chunk(wanted, index))
                case message:
                    raise MalformedFrame(f"{type(message).__name__} is no request")

    async def _manifest(self, ref: BlobRef) -> Struct:
        try:
            manifest = await trio.to_thread.run_sync(self._blobs.read_manifest, ref)
        except MeshError:
            return BlobMissing()
        return ManifestGiven(manifest=manifest)

    async def _chunk(self, ref: BlobRef, index: int) -> Struct:
        try:
            chunk = await trio.to_thread.run_sync(self._blobs.read_chunk, ref, index)
        except MeshError:
            return BlobMissing()
        return ChunkGiven(index=index, chunk=chunk)

    async def _send(self, stream: Stream, message: Struct) -> None:
        with trio.fail_after(IDLE_S_MAX):
            await stream.send_all(framed(self._codec.encode(message)))


class BlobFetcher:
    """Brings blobs of other members here. Two fetches of one blob share one transfer."""

    def __init__(self, host: StreamHost, blobs: BlobShelf) -> None:
        self._host = host
        self._blobs = blobs
        self._codec = FrameCodec(BLOB_MESSAGES, Ed25519Verifier())
        self._under_way: dict[BlobRef, trio.Lock] = {}

    async def fetch(self, ref: BlobRef, sources: Sequence[PeerId]) -> tuple[TransferStats, ...]:
        """Bring a blob into the store from any of `sources`, the first SOURCES_MAX of them.

        Raises BlobUnavailable with what each did. The timeout of the whole is the caller's.
        """
        lock = self._under_way.setdefault(ref, trio.Lock())
        try:
            async with lock:
                if self._blobs.has(ref):
                    return ()
                transfer = _Transfer(ref)
                others = [peer for peer in dict.fromkeys(sources) if peer != self._host.peer]
                async with trio.open_nursery() as nursery:
                    for peer in others[:SOURCES_MAX]:
                        nursery.start_soon(self._fetch_from, peer, transfer)
        finally:
            if not lock.statistics().tasks_waiting:
                self._under_way.pop(ref, None)
        if not self._blobs.has(ref):
            raise BlobUnavailable(transfer.summary())
        return tuple(transfer.stats)

    async def _fetch_from(self, peer: PeerId, transfer: _Transfer) -> None:
        started_s = trio.current_time()
        received_bytes = 0
        taken: tuple[int, ...] = ()
        try:
            stream = await self._host.open_stream(peer, BLOB_PROTOCOL_ID)
            try:
                reader = FrameReader(stream, max(ANSWER_BYTES_MAX, MANIFEST_BYTES_MAX + 4_096))
                await self._send(stream, BlobWanted(blob=transfer.ref))
                await self._begin(await self._receive(reader), transfer)
                while taken := transfer.take():
                    await self._send(stream, ChunksWanted(indices=taken))
                    for index in taken:
                        chunk = await self._receive(reader)
                        received_bytes += await self._keep(chunk, index, transfer)
                await stream.aclose()
            except BaseException:
                with trio.move_on_after(1, shield=True):
                    await stream.reset()
                raise
        except (NetworkError, MalformedFrame, trio.TooSlowError) as error:
            transfer.give_back(taken)
            reason = str(error) or "no answer in time"
            transfer.failures.append(f"{peer_text(peer)[-8:]}: {reason}")
            return
        duration_s = trio.current_time() - started_s
        transfer.stats.append(
            TransferStats(peer=peer, received_bytes=received_bytes, duration_s=duration_s)
        )

    async def _begin(self, answer: object, transfer: _Transfer) -> None:
        if not isinstance(answer, ManifestGiven):
            raise StreamBroken("it does not have the blob")
        missing = await trio.to_thread.run_sync(
            self._blobs.put_manifest, transfer.ref, answer.manifest
        )
        transfer.begin(missing)

    async def _keep(self, answer: object, index: int, transfer: _Transfer) -> int:
        if not isinstance(answer, ChunkGiven) or answer.index != index:
            raise StreamBroken(f"it did not give chunk {index}")
        await trio.to_thread.run_sync(self._blobs.put_chunk, transfer.ref, index, answer.chunk)
        transfer.done(index)
        return len(answer.chunk)

    async def _send(self, stream: Stream, message: Struct) -> None:
        with trio.fail_after(IDLE_S_MAX):
            await stream.send_all(framed(self._codec.encode(message)))

    async def _receive(self, reader: FrameReader) -> object:
        with trio.fail_after(IDLE_S_MAX):
            frame = await reader.receive()
        if frame is None:
            raise StreamBroken("it closed the stream")
        return self._codec.decode(frame)


class _Transfer:
    """Who brings which chunk of one blob."""

    def __init__(self, ref: BlobRef) -> None:
        self.ref = ref
        self.failures: list[str] = []
        self.stats: list[TransferStats] = []
        self._missing: set[int] | None = None
        self._taken: set[int] = set()

    def begin(self, missing: frozenset[int]) -> None:
        """Note which chunks are wanted; only the first manifest says so."""
        if self._missing is None:
            self._missing = set(missing)

    def take(self) -> tuple[int, ...]:
        """Return the next chunks to ask for; none when others are on them or all are here."""
        free = sorted((self._missing or set()) - self._taken)[:CHUNKS_WANTED_MAX]
        self._taken.update(free)
        return tuple(free)

    def done(self, index: int) -> None:
        """Note that a chunk is here."""
        self._taken.discard(index)
        (self._missing or set()).discard(index)

    def give_back(self, indices: tuple[int, ...]) -> None:
        """Let others bring what a device did not."""
        self._taken.difference_update(indices)

    def summary(self) -> str:
        """Return one line: what is missing, and what each device did."""
        tried = "; ".join(self.failures) or "no device to ask"
        return f"blob {digest_text(self.ref.digest)[:12]} cannot be had: {tried}"
