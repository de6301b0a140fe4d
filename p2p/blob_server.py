"""Gives blobs to members that ask for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import structlog
import trio
from msgspec import Struct

from p2p.blob_messages import (
    BLOB_PROTOCOL_ID,
    REQUEST_BYTES_MAX,
    BlobNotHere,
    Blobs,
    ChunkGiven,
    ChunksWanted,
    ManifestGiven,
    ManifestWanted,
    blob_codec,
)
from p2p.errors import NetworkError
from p2p.framing import FrameReader, framed
from p2p.hosting import StreamHost
from p2p.rate_limit import Rate, TokenBucket
from p2p.streams import Stream
from wire.codec import UnknownMessage
from wire.errors import MalformedFrame, MeshError
from wire.ids import PeerId, digest_text, peer_text

_Read = TypeVar("_Read")

log = structlog.get_logger()


class BlobServerSettings(Struct, frozen=True, kw_only=True):
    """How much others may take. Over a count, a stream is reset: its peer asks another device.

    A stream is reset, too, that asks nothing for `idle_timeout_s` or does not take one answer in
    `write_timeout_s`. `rate` in bytes, of all streams together; None for no limit.
    """

    streams_count_max: int = 32
    streams_per_peer_max: int = 4
    requests_per_stream_max: int = 8_192
    threads_count_max: int = 2
    idle_timeout_s: float = 60.0
    write_timeout_s: float = 20.0
    rate: Rate | None = None


class BlobServer:
    """Answers what `p2p.blob_fetcher` asks, from `blobs`."""

    def __init__(
        self, host: StreamHost, blobs: Blobs, settings: BlobServerSettings | None = None
    ) -> None:
        self._host = host
        self._blobs = blobs
        self._settings = settings or BlobServerSettings()
        self._codec = blob_codec()
        self._streams: Counter[PeerId] = Counter()
        self._threads = trio.CapacityLimiter(self._settings.threads_count_max)
        self._bucket: TokenBucket | None = None

    def serve(self) -> None:
        """Begin to answer; from now on each stream is a task of the host."""
        if self._settings.rate is not None:
            self._bucket = TokenBucket(self._settings.rate, now_s=trio.current_time())
        self._host.serve(BLOB_PROTOCOL_ID, self._serve, members_only=True)

    async def _serve(self, stream: Stream) -> None:
        peer = stream.peer
        if (
            self._streams[peer] >= self._settings.streams_per_peer_max
            or self._streams.total() >= self._settings.streams_count_max
        ):
            await stream.reset()
            return
        self._streams[peer] += 1
        try:
            await self._answer_all(stream)
        except (MalformedFrame, NetworkError, trio.TooSlowError) as error:
            log.info("blob.stream_ended", peer_id=peer_text(peer), reason=str(error))
            await stream.reset()
        finally:
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]

    async def _answer_all(self, stream: Stream) -> None:
        reader = FrameReader(stream, REQUEST_BYTES_MAX)
        for _ in range(self._settings.requests_per_stream_max):
            with trio.fail_after(self._settings.idle_timeout_s):
                frame = await reader.receive()
            if frame is None:
                return
            await self._answer(stream, self._codec.decode(frame))

    async def _answer(self, stream: Stream, request: object) -> None:
        match request:
            case ManifestWanted() | ChunksWanted():
                try:
                    await self._give(stream, request)
                except NetworkError:
                    raise
                except MeshError as error:  # the store's: not here, damaged, or a disk that fails
                    blob = request.blob
                    log.info("blob.refused", blob=digest_text(blob.digest), reason=str(error))
                    await self._send(stream, BlobNotHere(blob=blob))
            case UnknownMessage():
                raise MalformedFrame(f"unknown request {request.tag}: the asker waits for ever")
            case _:
                raise MalformedFrame(f"{type(request).__name__} is no request")

    async def _give(self, stream: Stream, request: ManifestWanted | ChunksWanted) -> None:
        blob = request.blob
        if isinstance(request, ManifestWanted):
            manifest = await self._in_thread(lambda: self._blobs.read_manifest(blob))
            await self._send(stream, ManifestGiven(manifest=manifest))
            return
        for index in range(request.first, request.first + request.count):
            chunk = await self._read_chunk(request, index)
            await self._send(stream, ChunkGiven(index=index, chunk=chunk))

    async def _read_chunk(self, request: ChunksWanted, index: int) -> bytes:
        return await self._in_thread(lambda: self._blobs.read_chunk(request.blob, index))

    async def _in_thread(self, read: Callable[[], _Read]) -> _Read:
        return await trio.to_thread.run_sync(read, limiter=self._threads)

    async def _send(self, stream: Stream, answer: object) -> None:
        travels = framed(self._codec.encode(answer))
        if self._bucket is not None:
            await trio.sleep(self._bucket.owe(len(travels), now_s=trio.current_time()))
        with trio.fail_after(self._settings.write_timeout_s):
            await stream.send_all(travels)
