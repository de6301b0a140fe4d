"""What one connection may ask of us below its streams."""

from __future__ import annotations

import contextlib
import struct
from typing import cast

import pytest
import trio
from libp2p.abc import ISecureConn
from libp2p.io.exceptions import IOException
from libp2p.network.connection.exceptions import RawConnError
from libp2p.stream_muxer.yamux.yamux import (
    FLAG_SYN,
    TYPE_DATA,
    TYPE_PING,
    YAMUX_HEADER_FORMAT,
    YamuxStream,
)
from support.hosts import befriend, config, connect, echo, receive_exactly, running, until

from p2p.courtesy import IDENTIFY_RATE
from p2p.errors import PeerUnreachable, StreamBroken
from p2p.guards import WINDOW_BYTES_MAX
from p2p.host import Host
from p2p.host_metrics import HostCounters
from p2p.identity import libp2p_id
from p2p.judge import Judge
from p2p.muxing import FRAMES_AT_ONCE_MAX, STRANGER_RATE, BoundedYamux, _FramesOf
from p2p.ping import PING_BYTES, PING_PROTOCOL_ID, PING_RATE
from p2p.rate_limit import Rate
from p2p.streams import Stream
from telemetry.metrics import Metrics

ECHO = "/test/echo/1"
PING = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, FLAG_SYN, 0, 7)


def muxed(host: Host, other: Host) -> BoundedYamux:
    (connection,) = host._swarm.live_connections(libp2p_id(other.peer))
    found = connection.muxed_conn
    assert isinstance(found, BoundedYamux)
    return found


async def pour(connection: BoundedYamux, frames: bytes) -> None:
    """Send frames until the other side has had enough."""
    with trio.fail_after(10):
        while not connection.is_closed:
            try:
                await connection._write_frame(frames)
            except (IOException, RawConnError):
                return
            await trio.sleep(0.01)


async def test_a_flood_of_frames_ends_in_a_ban_within_five_seconds() -> None:
    metrics = Metrics()
    counters = HostCounters(metrics)
    alice = Host(config(1))
    bob = Host(config(2), judge=Judge(metrics=metrics), counters=counters)
    async with running(alice, bob):
        await befriend(alice, bob)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour, muxed(alice, bob), PING * 100)
            with trio.fail_after(5):
                await until(lambda: bob._judge.is_banned(alice.peer))
        await until(lambda: not bob.connected() and not alice.connected())
        assert metrics.snapshot()["meshd_peers_flooded_total"] == 2
        await connect(alice, bob)  # a banned peer is known by its handshake, and let go
        await until(lambda: not alice.connected() and not bob.connected())
        await until(lambda: counters.connections_failed.value == 1)  # against its address, too


async def test_a_flood_of_one_peer_does_not_concern_another() -> None:
    alice, bob, carol = Host(config(1)), Host(config(2)), Host(config(3))
    bob.serve(ECHO, echo, members_only=True)
    async with running(alice, bob, carol):
        await befriend(alice, bob)
        await befriend(carol, bob)
        stream = await carol.open_stream(bob.peer, ECHO)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour, muxed(alice, bob), PING * 100)
            while not bob._judge.is_banned(alice.peer):
                with trio.fail_after(1):
                    await stream.send_all(b"x")
                    assert await receive_exactly(stream, 1) == b"x"
                await trio.sleep(0.05)
        assert carol.peer in bob.connected()


async def test_a_stranger_opens_few_streams() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    bob.serve(ECHO, echo, members_only=False)
    async with running(alice, bob):
        await connect(alice, bob)
        opened = 0
        with trio.move_on_after(1), contextlib.suppress(StreamBroken):
            while True:
                stream = await alice.open_stream(bob.peer, ECHO)
                await stream.aclose()
                opened += 1
        assert 0 < opened <= STRANGER_RATE.burst / 20


async def test_a_member_opens_streams_no_faster_than_its_rate_and_is_not_blamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("p2p.muxing.MEMBER_STREAMS_RATE", Rate(per_s=20, burst=5))
    alice, bob = Host(config(1)), Host(config(2))
    bob.serve(ECHO, echo, members_only=True)
    async with running(alice, bob):
        await befriend(alice, bob)
        began_s = trio.current_time()
        for _ in range(15):
            stream = await alice.open_stream(bob.peer, ECHO)
            await stream.aclose()
        assert trio.current_time() - began_s > 0.4
        assert not bob._judge.is_banned(alice.peer)


async def test_who_asks_again_and_again_who_we_are_is_banned() -> None:
    metrics = Metrics()
    alice, bob = Host(config(1)), Host(config(2), judge=Judge(metrics=metrics))
    async with running(alice, bob):
        await befriend(alice, bob)

        async def identify() -> bytes:
            stream = await alice.open_stream(bob.peer, "/ipfs/id/1.0.0")
            answer = await stream.receive_some()
            await stream.aclose()
            return answer

        for _ in range(int(IDENTIFY_RATE.burst)):
            assert await identify()
        assert metrics.snapshot()["meshd_peers_flooded_total"] == 0
        with trio.fail_after(5):
            while not bob._judge.is_banned(alice.peer):
                with contextlib.suppress(StreamBroken, PeerUnreachable):
                    await identify()


async def test_a_frame_beyond_the_window_of_its_stream_is_an_offence_and_the_end() -> None:
    alice, bob = Host(config(1)), Host(config(2))

    async def never_read(stream: Stream) -> None:
        await trio.sleep_forever()

    bob.serve(ECHO, never_read, members_only=True)
    async with running(alice, bob):
        await befriend(alice, bob)
        stream = await alice.open_stream(bob.peer, ECHO)
        stream_id = stream._yamux.stream_id  # type: ignore[attr-defined] # of MuxedStream
        header = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_DATA, 0, stream_id, 60_000)
        for _ in range(5):
            with trio.move_on_after(1):
                await muxed(alice, bob)._write_frame(header + bytes(60_000))
        await until(lambda: not bob.connected())
        assert not bob._judge.is_banned(alice.peer), "once is not enough"


async def test_a_fast_stream_gets_no_more_than_the_window_that_we_allow() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    bob.serve(ECHO, echo, members_only=True)
    async with running(alice, bob):
        await befriend(alice, bob)
        await alice.open_stream(bob.peer, ECHO)
        stream = next(iter(muxed(bob, alice).streams.values()))
        for _ in range(10):  # as if each came within four round trips of the one before
            stream.epoch_start = trio.current_time()
            stream._apply_autotune_epoch(0)
        assert stream.target_recv_window == WINDOW_BYTES_MAX


async def test_pings_are_answered_and_a_flood_of_them_is_a_ban() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    async with running(alice, bob):
        await connect(alice, bob)
        stream = await alice.open_stream(bob.peer, PING_PROTOCOL_ID)
        for number in range(20):
            payload = bytes([number]) * PING_BYTES
            await stream.send_all(payload[:7])
            await stream.send_all(payload[7:])
            assert await receive_exactly(stream, PING_BYTES) == payload
        pings = int(PING_RATE.burst + 2 * PING_RATE.per_s)
        with trio.fail_after(5):
            await stream.send_all(bytes(PING_BYTES * pings))
            await until(lambda: bob._judge.is_banned(alice.peer))


class Turns(trio.abc.Instrument):
    """Counts how often any task goes on."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


async def test_a_short_frame_costs_few_turns_of_the_loop() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    bob.serve(ECHO, echo, members_only=True)
    async with running(alice, bob):
        await befriend(alice, bob)
        stream = await alice.open_stream(bob.peer, ECHO)
        turns, frames_count = Turns(), 2 * 50
        trio.lowlevel.add_instrument(turns)
        for _ in range(frames_count // 2):
            await stream.send_all(b"x" * 60)
            await receive_exactly(stream, 60)
        trio.lowlevel.remove_instrument(turns)
    assert turns.count < 3 * frames_count, turns.count / frames_count  # 14 with the locks of libp2p


async def test_plain_data_goes_past_the_loops_of_libp2p(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*args: object, **options: object) -> bytes:
        raise AssertionError("libp2p's own way")

    alice, bob = Host(config(1)), Host(config(2))
    bob.serve(ECHO, echo, members_only=True)
    async with running(alice, bob):
        await befriend(alice, bob)
        stream = await alice.open_stream(bob.peer, ECHO)
        monkeypatch.setattr(BoundedYamux, "_read_data_body", fail)
        monkeypatch.setattr(BoundedYamux, "read_stream", fail)
        monkeypatch.setattr(YamuxStream, "write", fail)
        for _ in range(3):
            await stream.send_all(b"x" * 60)
            with trio.fail_after(5):
                assert await receive_exactly(stream, 60) == b"x" * 60
        monkeypatch.undo()


@pytest.mark.parametrize("cut", [1, 11, 12, 13, 30, 33])
async def test_frames_that_come_in_pieces_and_together_are_read_whole(cut: int) -> None:
    alice, bob = Host(config(1)), Host(config(2))
    bob.serve(ECHO, echo, members_only=True)
    async with running(alice, bob):
        await befriend(alice, bob)
        stream = await alice.open_stream(bob.peer, ECHO)
        connection, stream_id = muxed(alice, bob), stream._yamux.stream_id  # type: ignore[attr-defined] # of MuxedStream
        sent = [bytes([number]) * 20 for number in range(3)]
        frames = b"".join(
            struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_DATA, 0, stream_id, len(data)) + data + PING
            for data in sent
        )
        async with connection._write_lock:  # no frame of others may come between the pieces
            await connection._write(frames[:cut])
            await trio.sleep(0.05)
            await connection._write(frames[cut:])
        with trio.fail_after(5):
            assert await receive_exactly(stream, 60) == b"".join(sent)


async def test_many_frames_at_once_let_other_tasks_run() -> None:
    class Full:
        async def read(self, n: int | None = None) -> bytes:
            return PING * 1_000

    frames_count = 0

    async def is_done_with(header: bytes) -> bool:
        nonlocal frames_count
        frames_count += 1
        return frames_count < 1_000

    frames = _FramesOf(cast(ISecureConn, Full()), is_done_with)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(frames.read, 12)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert 0 < frames_count <= 4 * FRAMES_AT_ONCE_MAX
