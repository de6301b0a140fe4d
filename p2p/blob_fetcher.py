"""Brings blobs here, from several devices at once, every chunk checked as it arrives.

A device that lies, stalls or lacks the blob is dropped, and what it was asked for goes to others.
Chunks are asked for in short runs; a new run is asked for when an earlier chunk is on the disk, and
what arrives is taken off the stream at once, so that a slow disk never leaves a window at zero.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import structlog
import trio
from msgspec import Struct

from p2p.blob_messages import BLOB_PROTOCOL_ID, RUN_CHUNKS_MAX, Blobs
from p2p.blob_provider import Provider, opened_manifest
from p2p.blob_work import ChunkPool
from p2p.errors import NetworkError
from p2p.hosting import StreamHost
from p2p.protocol_errors import BlobUnavailable
from wire.blobs import BlobRef, Manifest
from wire.errors import MalformedFrame, MeshError
from wire.ids import Digest, PeerId, digest_text, peer_text

CLEANUP_S = 1.0

log = structlog.get_logger()


class BlobFetcherSettings(Struct, frozen=True, kw_only=True):
    """How blobs are fetched. Counts and seconds.

    More chunks under way are faster on long paths and cost 64 KiB of memory each, per device.
    """

    fetches_count_max: int = 4
    providers_count_max: int = 4
    under_way_chunks_max: int = 16
    run_chunks: int = 4
    open_timeout_s: float = 10.0
    stall_timeout_s: float = 10.0
    threads_count_max: int = 2


class Transfer(Struct, frozen=True):
    """What one device gave."""

    received_bytes: int
    duration_us: int


class TransferStats(Struct, frozen=True, kw_only=True):
    """How a blob came here. `resumed_count`: chunks that were on the disk before."""

    received: dict[PeerId, Transfer]
    dropped: dict[PeerId, str]
    resumed_count: int


class BlobFetcher:
    """Fetches blobs into `blobs`; more fetches than there is room for wait."""

    def __init__(
        self, host: StreamHost, blobs: Blobs, settings: BlobFetcherSettings | None = None
    ) -> None:
        self._host = host
        self._blobs = blobs
        self._settings = settings or BlobFetcherSettings()
        self._places = trio.Semaphore(self._settings.fetches_count_max)
        self._threads = trio.CapacityLimiter(self._settings.threads_count_max)
        self._under_way: dict[Digest, trio.Event] = {}

    async def fetch(self, ref: BlobRef, sources: Sequence[PeerId]) -> TransferStats:
        """Return when the whole blob is in the store; the caller bounds the time.

        Raises BlobUnavailable, BlobMismatch, or what the store raises when it cannot keep it. What
        came stays in the store: the next fetch goes on there.
        """
        while (other := self._under_way.get(ref.digest)) is not None:
            await other.wait()
        if self._blobs.has(ref):
            return TransferStats(received={}, dropped={}, resumed_count=0)
        self._under_way[ref.digest] = done = trio.Event()
        try:
            async with self._places:
                return await _Fetch(
                    self._host, self._blobs, ref, self._settings, self._threads
                ).run([peer for peer in dict.fromkeys(sources) if peer != self._host.peer])
        finally:
            del self._under_way[ref.digest]
            done.set()


class _Fetch:
    """One blob on its way."""

    def __init__(
        self,
        host: StreamHost,
        blobs: Blobs,
        ref: BlobRef,
        settings: BlobFetcherSettings,
        threads: trio.CapacityLimiter,
    ) -> None:
        self._host = host
        self._blobs = blobs
        self._ref = ref
        self._settings = settings
        self._threads = threads
        self._manifest: Manifest | None = None
        self._learning = trio.Lock()
        self._pool = ChunkPool()
        self._resumed_count = 0
        self._received: dict[PeerId, Transfer] = {}
        self._dropped: dict[PeerId, str] = {}
        self._failure: MeshError | None = None
        self._scope = trio.CancelScope()

    async def run(self, sources: list[PeerId]) -> TransferStats:
        waiting = deque(sources)
        with self._scope:
            async with trio.open_nursery() as nursery:
                for _ in range(min(len(sources), self._settings.providers_count_max)):
                    nursery.start_soon(self._run_providers, waiting)
        if self._failure is not None:
            raise self._failure
        if self._manifest is None or not self._pool.is_done:
            raise BlobUnavailable(self._complaint())
        return TransferStats(
            received=self._received, dropped=self._dropped, resumed_count=self._resumed_count
        )

    def _complaint(self) -> str:
        tried = "; ".join(f"{peer_text(peer)}: {why}" for peer, why in self._dropped.items())
        name = digest_text(self._ref.digest)
        return f"blob {name} is not to be had: {tried or 'no other device is known to hold it'}"

    async def _run_providers(self, waiting: deque[PeerId]) -> None:
        """Use one device after another until the blob is here or nobody is left."""
        while waiting and not self._pool.is_done:
            peer = waiting.popleft()
            try:
                await self._use(peer)
            except (NetworkError, MalformedFrame) as error:
                self._dropped[peer] = str(error)
                log.info("blob.provider_dropped", peer_id=peer_text(peer), reason=str(error))
            except trio.TooSlowError:
                self._dropped[peer] = "no answer in time"
                log.info("blob.provider_dropped", peer_id=peer_text(peer), reason="stalled")

    async def _use(self, peer: PeerId) -> None:
        with trio.fail_after(self._settings.open_timeout_s):
            stream = await self._host.open_stream(peer, BLOB_PROTOCOL_ID)
        is_over = False
        began_s = trio.current_time()
        provider = Provider(
            stream=stream,
            blob=self._ref,
            stall_timeout_s=self._settings.stall_timeout_s,
            under_way_chunks_max=self._settings.under_way_chunks_max,
        )
        try:
            await self._learn_manifest(provider)
            await self._take_chunks(provider)
            is_over = True
        finally:
            self._pool.give_back(provider.asked)
            if provider.received_bytes:
                duration_us = round((trio.current_time() - began_s) * 1_000_000)
                self._received[peer] = Transfer(provider.received_bytes, duration_us)
            with trio.move_on_after(CLEANUP_S, shield=True):
                await (stream.aclose() if is_over else stream.reset())

    async def _learn_manifest(self, provider: Provider) -> None:
        if self._manifest is not None:
            return
        encoded = await provider.ask_manifest()
        async with self._learning:
            if self._manifest is not None:
                return
            try:
                manifest = opened_manifest(encoded, self._ref)
                missing = await trio.to_thread.run_sync(
                    self._blobs.put_manifest, self._ref, encoded, limiter=self._threads
                )
            except MeshError as error:  # a wrong reference, or the store: no other device helps
                await self._fail(error)
                return
            self._resumed_count = manifest.chunk_count - len(missing)
            self._pool.fill(missing)
            self._manifest = manifest

    async def _take_chunks(self, provider: Provider) -> None:
        """Ask and store until nothing is missing. Raises what `provider` failed with."""
        assert self._manifest is not None  # noqa: S101 - learned before, or the scope is cancelled
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(provider.run_reader, self._manifest)
            try:
                await self._take_from(provider)
            except (NetworkError, MalformedFrame, trio.TooSlowError) as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _take_from(self, provider: Provider) -> None:
        while not self._pool.is_done:
            await self._ask(provider)
            if not provider.asked:
                await self._pool.wait_for_change()  # another device may yet give up its part
                continue
            index, chunk = await provider.next_chunk()
            await self._store(index, chunk)
            provider.asked.discard(index)

    async def _ask(self, provider: Provider) -> None:
        room = self._settings.under_way_chunks_max - len(provider.asked)
        while room >= self._settings.run_chunks or not provider.asked:
            run = self._pool.take(min(self._settings.run_chunks, RUN_CHUNKS_MAX))
            if not run:
                return
            room -= len(run)
            await provider.ask_chunks(run)

    async def _store(self, index: int, chunk: bytes) -> None:
        try:
            await trio.to_thread.run_sync(
                self._blobs.put_chunk, self._ref, index, chunk, limiter=self._threads
            )
        except MeshError as error:
            await self._fail(error)
        self._pool.finish(index)

    async def _fail(self, error: MeshError) -> None:
        """End the fetch: no other device would do better. Does not return."""
        self._failure = error
        self._scope.cancel()
        await trio.lowlevel.checkpoint()
