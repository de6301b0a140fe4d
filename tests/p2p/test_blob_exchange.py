"""Blobs between devices in memory: whole, resumed, from several, from liars."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from random import Random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.memory_blobs import MemoryBlobs, StoreTrouble
from support.memory_host import MemoryHost, MemoryNetwork

from p2p.blob_exchange import (
    BLOB_PROTOCOL_ID,
    BlobFetcher,
    BlobFetcherSettings,
    BlobServer,
    BlobServerSettings,
)
from p2p.blob_messages import (
    BlobNotHere,
    ChunkGiven,
    ChunksWanted,
    ManifestGiven,
    ManifestWanted,
    blob_codec,
)
from p2p.blob_work import ChunkPool
from p2p.errors import StreamBroken
from p2p.framing import FrameReader, framed
from p2p.protocol_errors import BlobMismatch, BlobUnavailable
from p2p.rate_limit import Rate
from p2p.streams import Stream, StreamHandler
from wire.blobs import CHUNK_BYTES, BlobRef, Manifest, blob_digest
from wire.ids import PeerId
from wire.signed import encode_body

OWN = PeerId(b"o" * 32)
GIVERS = [PeerId(bytes([index]) * 32) for index in range(1, 6)]
CODEC = blob_codec()
QUICK = BlobFetcherSettings(stall_timeout_s=0.5, open_timeout_s=0.5)


def content_of(chunks: float, seed: int = 1) -> bytes:
    return Random(seed).randbytes(round(chunks * CHUNK_BYTES))


@dataclass
class Setting:
    """A device that fetches, and devices that give."""

    net: MemoryNetwork
    own: MemoryHost
    blobs: MemoryBlobs
    givers: list[MemoryHost]
    stores: list[MemoryBlobs]
    fetcher: BlobFetcher

    def give(self, content: bytes, *numbers: int) -> BlobRef:
        refs = [self.stores[number].put(content) for number in numbers]
        return refs[0]

    def streams_to(self, number: int) -> list[object]:
        return [s for _, s in self.own.streams if s.peer == self.givers[number].peer]


@asynccontextmanager
async def setting(
    givers_count: int = 1,
    *,
    settings: BlobFetcherSettings = QUICK,
    server: BlobServerSettings | None = None,
) -> AsyncIterator[Setting]:
    """Run hosts on the real clock: the store is used in threads."""
    net = MemoryNetwork(latency_s=0)
    own = net.host(OWN)
    givers = [net.host(peer) for peer in GIVERS[:givers_count]]
    stores = [MemoryBlobs() for _ in givers]
    blobs = MemoryBlobs()
    async with trio.open_nursery() as nursery:
        await nursery.start(own.run)
        for host, store in zip(givers, stores, strict=True):
            await nursery.start(host.run)
            await own.connect(host.peer, ["/ip4/192.0.2.1/tcp/1"])
            await host.admit(own.peer)
            BlobServer(host, store, server).serve()
        with trio.fail_after(20):
            yield Setting(net, own, blobs, givers, stores, BlobFetcher(own, blobs, settings))
        nursery.cancel_scope.cancel()
    assert not any(host.handler_errors for host in givers)


def peers(numbers: range) -> list[PeerId]:
    return [GIVERS[number] for number in numbers]


@pytest.mark.parametrize("chunks", [0, 0.5, 1, 1.0001, 40.25])
async def test_a_blob_arrives_whole(chunks: float) -> None:
    async with setting() as s:
        content = content_of(chunks)
        ref = s.give(content, 0)
        stats = await s.fetcher.fetch(ref, peers(range(1)))
        assert s.blobs.contents[ref.digest] == content
        received = {peer: transfer.received_bytes for peer, transfer in stats.received.items()}
        assert received == ({GIVERS[0]: len(content)} if content else {})


async def test_several_devices_share_the_work_and_no_chunk_comes_twice() -> None:
    async with setting(3) as s:
        content = content_of(90)
        ref = s.give(content, 0, 1, 2)
        stats = await s.fetcher.fetch(ref, peers(range(3)))
        assert s.blobs.contents[ref.digest] == content
        assert sorted(s.blobs.put_indices) == list(range(90))
        assert len(stats.received) == 3


async def test_what_is_here_is_not_asked_for() -> None:
    async with setting() as s:
        content = content_of(3)
        ref = s.give(content, 0)
        s.blobs.put(content)
        await s.fetcher.fetch(ref, peers(range(1)))
        assert s.streams_to(0) == []


async def test_a_fetch_resumes_with_what_is_missing() -> None:
    async with setting() as s:
        content = content_of(30)
        ref = s.give(content, 0)
        s.blobs.disk_full_at = 11
        with pytest.raises(StoreTrouble, match="No space"):
            await s.fetcher.fetch(ref, peers(range(1)))
        s.blobs.disk_full_at = 1 << 30
        stats = await s.fetcher.fetch(ref, peers(range(1)))
        assert stats.resumed_count == 11
        assert stats.received[GIVERS[0]].received_bytes == 19 * CHUNK_BYTES
        assert sorted(s.blobs.put_indices) == list(range(30))


async def test_two_fetches_of_one_blob_bring_it_once() -> None:
    async with setting() as s:
        content = content_of(20)
        ref = s.give(content, 0)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(s.fetcher.fetch, ref, peers(range(1)))
        assert sorted(s.blobs.put_indices) == list(range(20))


async def test_a_device_without_the_blob_is_passed_over() -> None:
    async with setting(2) as s:
        ref = s.give(content_of(5), 1)
        stats = await s.fetcher.fetch(ref, peers(range(2)))
        assert "does not have it" in stats.dropped[GIVERS[0]]
        assert list(stats.received) == [GIVERS[1]]


async def test_more_sources_than_are_asked_at_once_are_all_tried_in_turn() -> None:
    settings = BlobFetcherSettings(providers_count_max=2)
    async with setting(5, settings=settings) as s:
        ref = s.give(content_of(5), 4)
        stats = await s.fetcher.fetch(ref, peers(range(5)))
        assert set(stats.dropped) == set(GIVERS[:4])


async def test_nobody_has_it_names_everybody_and_why() -> None:
    async with setting(2) as s:
        ref = MemoryBlobs().put(content_of(2))
        s.own.cut_off(GIVERS[1])
        with pytest.raises(BlobUnavailable) as caught:
            await s.fetcher.fetch(ref, peers(range(2)))
        assert "does not have it" in str(caught.value)
        assert "not connected" in str(caught.value)
        with pytest.raises(BlobUnavailable, match="no other device"):
            await s.fetcher.fetch(ref, [OWN])


# Those who do not play by the rules


def answering(reply: Callable[[object], list[object] | None]) -> StreamHandler:
    """Return a handler that answers requests with what `reply` makes of them; None: silence."""

    async def handle(stream: Stream) -> None:
        with contextlib.suppress(StreamBroken):  # the fetcher has had enough
            await answer_all(stream)

    async def answer_all(stream: Stream) -> None:
        reader = FrameReader(stream)
        while (frame := await reader.receive()) is not None:
            answers = reply(CODEC.decode(frame))
            if answers is None:
                await trio.sleep_forever()
                return
            for answer in answers:
                travels = answer if isinstance(answer, bytes) else framed(CODEC.encode(answer))
                await stream.send_all(travels)

    return handle


def honest(blobs: MemoryBlobs, request: object) -> list[object]:
    match request:
        case ManifestWanted():
            return [ManifestGiven(manifest=blobs.read_manifest(request.blob))]
        case ChunksWanted():
            indices = range(request.first, request.first + request.count)
            return [
                ChunkGiven(index=index, chunk=blobs.read_chunk(request.blob, index))
                for index in indices
            ]
    raise AssertionError(request)


def wrong_chunk(given: object) -> list[object]:
    assert isinstance(given, ChunkGiven)
    return [ChunkGiven(index=given.index, chunk=bytes(len(given.chunk)))]


def other_index(given: object) -> list[object]:
    assert isinstance(given, ChunkGiven)
    return [ChunkGiven(index=given.index + 500, chunk=given.chunk)]


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (wrong_chunk, "wrong chunk"),
        (other_index, "not asked for"),
        (lambda given: [given, given], "not asked for"),
        (lambda given: None, "no answer in time"),
        (lambda given: [framed(b"\x01junk")], "envelope"),
        (lambda given: [(1 << 20).to_bytes(4, "big")], "frame of"),
        (lambda given: [ManifestGiven(manifest=b"")], "instead of a chunk"),
    ],
)
async def test_a_liar_or_a_staller_is_dropped_and_the_others_go_on(
    lie: Callable[[object], list[object] | None], reason: str
) -> None:
    async with setting(2) as s:
        content = content_of(40)
        ref = s.give(content, 0, 1)
        lied: list[object] = []

        def reply(request: object) -> list[object] | None:
            answers = honest(s.stores[0], request)
            if isinstance(request, ManifestWanted) or len(lied) < 2:
                lied.append(request)
                return answers
            return lie(answers[0])

        s.givers[0].serve(BLOB_PROTOCOL_ID, answering(reply), members_only=True)
        stats = await s.fetcher.fetch(ref, peers(range(2)))
        assert s.blobs.contents[ref.digest] == content
        assert reason in stats.dropped[GIVERS[0]]
        assert sorted(s.blobs.put_indices) == list(range(40))


async def test_a_false_manifest_is_the_devices_fault_not_the_references() -> None:
    async with setting(2) as s:
        ref = s.give(content_of(3), 1)
        false = s.stores[0].read_manifest(s.give(content_of(3, seed=2), 0))
        reply = answering(lambda request: [ManifestGiven(manifest=false)])
        s.givers[0].serve(BLOB_PROTOCOL_ID, reply, members_only=True)
        stats = await s.fetcher.fetch(ref, peers(range(2)))
        assert "another blob's manifest" in stats.dropped[GIVERS[0]]


@pytest.mark.parametrize(
    ("manifest", "size"),
    [
        (encode_body(Manifest(version=1, size_bytes=70_000, chunks=bytes(64))), 70_001),
        (encode_body(Manifest(version=1, size_bytes=70_000, chunks=bytes(32))), 70_000),
        (encode_body(Manifest(version=1, size_bytes=70_000, chunks=bytes(63))), 70_000),
        (b"no manifest", 70_000),
    ],
    ids=["size", "too few", "half a digest", "garbage"],
)
async def test_a_reference_that_is_no_blob_is_refused_for_good(manifest: bytes, size: int) -> None:
    async with setting() as s:
        ref = BlobRef(blob_digest(manifest), size)
        reply = answering(lambda request: [ManifestGiven(manifest=manifest)])
        s.givers[0].serve(BLOB_PROTOCOL_ID, reply, members_only=True)
        with pytest.raises(BlobMismatch):
            await s.fetcher.fetch(ref, peers(range(1)))
        assert not s.blobs.partial


async def test_no_more_is_asked_for_than_may_be_under_way() -> None:
    async with setting() as s:
        content = content_of(100)
        ref = s.give(content, 0)
        open_count, most = 0, 0

        async def slow(stream: Stream) -> None:
            nonlocal open_count, most
            reader = FrameReader(stream)
            while (frame := await reader.receive()) is not None:
                request = CODEC.decode(frame)
                if isinstance(request, ChunksWanted):
                    open_count += request.count
                    most = max(most, open_count - len(s.blobs.put_indices))
                for answer in honest(s.stores[0], request):
                    await stream.send_all(framed(CODEC.encode(answer)))

        s.givers[0].serve(BLOB_PROTOCOL_ID, slow, members_only=True)
        await s.fetcher.fetch(ref, peers(range(1)))
        assert 4 < most <= 16


# The server


async def ask(s: Setting, *requests: object) -> FrameReader:
    stream = await s.own.open_stream(GIVERS[0], BLOB_PROTOCOL_ID)
    for request in requests:
        await stream.send_all(framed(CODEC.encode(request)))
    return FrameReader(stream)


async def test_requests_are_answered_in_order() -> None:
    async with setting() as s:
        content = content_of(6)
        ref = s.give(content, 0)
        missing = MemoryBlobs().put(content_of(1, seed=9))
        reader = await ask(
            s,
            ChunksWanted(blob=ref, first=4, count=2),
            ManifestWanted(blob=missing),
            ChunksWanted(blob=ref, first=5, count=3),
        )
        answers = [CODEC.decode(await reader.receive() or b"") for _ in range(5)]
        assert [type(answer) for answer in answers] == [
            ChunkGiven,
            ChunkGiven,
            BlobNotHere,
            ChunkGiven,
            BlobNotHere,
        ]
        assert answers[1] == ChunkGiven(index=5, chunk=content[5 * CHUNK_BYTES :])


@pytest.mark.parametrize("junk", [framed(b"\x01junk"), (1 << 20).to_bytes(4, "big")])
async def test_a_server_resets_a_stream_with_garbage_and_serves_on(junk: bytes) -> None:
    async with setting() as s:
        ref = s.give(content_of(2), 0)
        stream = await s.own.open_stream(GIVERS[0], BLOB_PROTOCOL_ID)
        await stream.send_all(junk)
        with pytest.raises(StreamBroken):
            await stream.receive_some()
        await s.fetcher.fetch(ref, peers(range(1)))


async def test_streams_are_bounded_per_peer_and_free_again_after_use() -> None:
    server = BlobServerSettings(streams_per_peer_max=2)
    async with setting(server=server) as s:
        ref = s.give(content_of(1), 0)
        for _ in range(2):
            assert await (await ask(s, ManifestWanted(blob=ref))).receive()
        with pytest.raises(StreamBroken):
            await (await ask(s, ManifestWanted(blob=ref))).receive()
        for _, stream in s.own.streams:
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert await (await ask(s, ManifestWanted(blob=ref))).receive()


async def test_who_does_not_read_is_given_up() -> None:
    server = BlobServerSettings(write_timeout_s=0.1)
    async with setting(server=server) as s:
        ref = s.give(content_of(30), 0)
        reader = await ask(
            s,
            ChunksWanted(blob=ref, first=0, count=16),
            ChunksWanted(blob=ref, first=14, count=16),
        )
        await trio.sleep(0.3)
        with pytest.raises(StreamBroken):
            await read_all(reader)


async def read_all(reader: FrameReader) -> None:
    while await reader.receive():
        pass


async def test_a_rate_limit_slows_the_bytes() -> None:
    server = BlobServerSettings(rate=Rate(per_s=40 * CHUNK_BYTES, burst=2 * CHUNK_BYTES))
    async with setting(server=server) as s:
        ref = s.give(content_of(12), 0)
        began_s = trio.current_time()
        await s.fetcher.fetch(ref, peers(range(1)))
        assert trio.current_time() - began_s > 0.2


async def test_strangers_get_nothing() -> None:
    async with setting() as s:
        ref = s.give(content_of(1), 0)
        await s.givers[0].expel(OWN)
        with pytest.raises(BlobUnavailable):
            await s.fetcher.fetch(ref, peers(range(1)))


# Cancellation and the pool


async def test_a_fetch_cancelled_anywhere_can_go_on_later() -> None:
    outcomes = set()
    async with setting(2) as s:
        for step in range(0, 400, 7):
            content = content_of(12, seed=step)
            ref = s.give(content, 0, 1)
            s.blobs.put_indices.clear()
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(partial(s.fetcher.fetch, ref, peers(range(2))))
                    for _ in range(step):
                        await trio.lowlevel.checkpoint()
                    await trio.sleep(step / 40_000)
                    scope.cancel()
            outcomes.add(s.blobs.has(ref))
            await s.fetcher.fetch(ref, peers(range(2)))
            assert s.blobs.contents[ref.digest] == content
            assert sorted(s.blobs.put_indices) == list(range(12))
        await trio.testing.wait_all_tasks_blocked()
        assert all(
            stream.incoming.is_broken or stream.incoming.is_finished
            for _, stream in s.givers[0].streams
        )
    assert False in outcomes


@given(st.sets(st.integers(0, 60)), st.lists(st.integers(1, 16), max_size=60), st.randoms())
def test_a_pool_gives_every_missing_chunk_to_one_at_a_time(
    missing: set[int], sizes: list[int], rng: Random
) -> None:
    pool = ChunkPool()
    pool.fill(missing)
    given_out: set[int] = set()
    for size in sizes:
        run = pool.take(size)
        assert run == list(range(run[0], run[0] + len(run))) if run else True
        assert len(run) <= size
        assert not given_out.intersection(run)
        given_out.update(run)
        for index in list(given_out):
            if rng.random() < 0.3:
                given_out.discard(index)
                if rng.random() < 0.5:
                    pool.give_back([index])
                else:
                    pool.finish(index)
    pool.give_back(given_out)
    while run := pool.take(16):
        for index in run:
            pool.finish(index)
    assert pool.is_done
