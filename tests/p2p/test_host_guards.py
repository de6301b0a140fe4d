"""Each guard of `p2p.guards` and `p2p.swarm` against the bug of py-libp2p that it is there for."""

from __future__ import annotations

import socket
import types

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamError
from libp2p.stream_muxer.yamux import yamux as yamux_module
from libp2p.stream_muxer.yamux.yamux import Yamux
from support.hosts import befriend, config, connect, echo, receive_exactly, running, until

from p2p.addresses import Address, parse_address
from p2p.doorway import DoorwaySettings
from p2p.errors import PeerUnreachable, StreamBroken
from p2p.host import Host
from p2p.identity import libp2p_id
from p2p.judge import Judge
from p2p.muxing import BoundedYamux
from p2p.private_network import GREETING
from p2p.rate_limit import Rate
from p2p.streams import Stream
from p2p.transport import PeerStalled, TcpConnection
from telemetry.metrics import Metrics

ECHO = "/test/echo/1"
UNHURRIED = DoorwaySettings(strangers_max=64, entry_rate=Rate(per_s=1_000, burst=1_000))


async def raw_connection(host: Host) -> trio.SocketStream:
    address = parse_address(host.addresses[0])
    return await trio.open_tcp_stream(address.host, address.port)


def line(text: str) -> bytes:
    return bytes([len(text) + 1]) + text.encode() + b"\n"


def muxed_connection(host: Host, peer: Host) -> Yamux:
    (connection,) = host._swarm.live_connections(libp2p_id(peer.peer))
    muxed = connection.muxed_conn
    assert isinstance(muxed, Yamux)
    return muxed


@pytest.mark.parametrize("security", ["/plaintext/2.0.0", "/secio/1.0.0", "/tls/1.0.0"])
async def test_nothing_but_noise_is_negotiated(security: str) -> None:
    host = Host(config(1, network_key=None))
    async with running(host):
        stream = await raw_connection(host)
        await stream.send_all(GREETING + line(security))
        received = b""
        with trio.fail_after(5):
            while len(received) < len(GREETING) + 4:
                received += await stream.receive_some()
        assert received == GREETING + line("na")
        await stream.send_all(line("/noise"))
        assert await stream.receive_some() == line("/noise")
        await stream.aclose()


async def test_a_dial_does_not_wait_for_other_addresses_after_it_succeeded() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    async with running(alice, bob):
        took_s = []
        for _ in range(5):  # libp2p waits 250 ms every time
            before = trio.current_time()
            await connect(alice, bob)
            took_s.append(trio.current_time() - before)
            await alice.disconnect(bob.peer)
        assert min(took_s) < 0.2


async def test_a_place_is_free_again_after_each_of_1_040_connections() -> None:
    host = Host(config(1, connections_max=24, doorway=UNHURRIED))
    diallers = [Host(config(number)) for number in range(2, 22)]
    async with running(host, *diallers):

        async def cycle(dialler: Host) -> None:
            for _ in range(52):
                await connect(dialler, host)
                await dialler.disconnect(host.peer)

        async with trio.open_nursery() as nursery:
            for dialler in diallers:
                nursery.start_soon(cycle, dialler)
        await until(lambda: not host._swarm._doorway.inside_count)


async def test_a_handler_that_raises_resets_its_stream_and_nothing_else() -> None:
    alice, bob = Host(config(1)), Host(config(2))

    async def fail(stream: Stream) -> None:
        await stream.receive_some()
        raise ValueError("a bug")

    bob.serve("/test/fail/1", fail, members_only=False)
    bob.serve(ECHO, echo, members_only=False)
    async with running(alice, bob):
        await connect(alice, bob)
        failing = await alice.open_stream(bob.peer, "/test/fail/1")
        await failing.send_all(b"x")
        with pytest.raises(StreamBroken):
            await failing.receive_some()
        await assert_echoes(alice, bob)


async def assert_echoes(alice: Host, bob: Host) -> None:
    stream = await alice.open_stream(bob.peer, ECHO)
    with trio.fail_after(5):
        await stream.send_all(b"still here")
        assert await receive_exactly(stream, 10) == b"still here"
    await stream.aclose()


@pytest.mark.parametrize(
    "negotiation",
    [
        GREETING + b"\x03\xff\xfe\n",  # a protocol name that is no text
        GREETING + b"\x01\n",  # none at all
        GREETING + b"\x02xx",  # without an end
        GREETING + b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # 2^63 bytes are announced
        b"\x00" * 100,
    ],
)
async def test_a_hostile_negotiation_ends_its_stream_alone(negotiation: bytes) -> None:
    alice, bob = Host(config(1)), Host(config(2))
    bob.serve(ECHO, echo, members_only=False)
    async with running(alice, bob):
        await connect(alice, bob)
        hostile = await alice._swarm.new_stream(libp2p_id(bob.peer))
        await hostile.write(negotiation)
        await assert_echoes(alice, bob)
        await hostile.close()
        await assert_echoes(alice, bob)


async def test_a_line_of_a_negotiation_is_bounded_before_it_is_read() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    async with running(alice, bob):
        await connect(alice, bob)
        hostile = await alice._swarm.new_stream(libp2p_id(bob.peer))
        await hostile.write(GREETING + b"\x81\x08")  # 1,025 bytes are announced, none sent
        with trio.fail_after(2), pytest.raises(StreamError):
            await drain(hostile)


async def drain(stream: INetStream) -> None:
    while await stream.read(100):
        pass


async def test_a_failed_dial_does_not_stop_the_next_one() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    async with running(alice):
        with pytest.raises(PeerUnreachable):
            await alice.connect(bob.peer, ["/ip4/127.0.0.1/tcp/1"])
        async with running(bob):
            await connect(alice, bob)  # libp2p refuses for 60 s


async def test_libp2p_dials_nobody_by_itself() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    async with running(alice, bob):
        await alice.admit(bob.peer, bob.addresses)  # so that libp2p knows the address
        await alice._swarm.auto_connector.maybe_connect()
        await alice._dht.kad.peer_routing.refresh_routing_table()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert alice.connected() == frozenset()


async def test_connections_from_one_address_are_limited_and_counted_back() -> None:
    host = Host(config(1, doorway=DoorwaySettings(connections_max=3)))
    async with running(host):
        kept = [await raw_connection(host) for _ in range(3)]
        await until(lambda: host._swarm._doorway.inside_count == 3)
        refused = await raw_connection(host)
        with trio.fail_after(5):
            assert await refused.receive_some() == b""
        for stream in [*kept, refused]:
            await stream.aclose()
        await until(lambda: not host._swarm._doorway.inside_count)


async def test_connections_of_one_peer_are_limited() -> None:
    alice, bob = Host(config(1)), Host(config(2, connections_per_peer_max=2))
    async with running(alice, bob):
        target = parse_address(bob.addresses[0])
        for _ in range(4):
            await alice._swarm._dial(libp2p_id(bob.peer), [target])
        await until(lambda: len(bob._swarm.live_connections(libp2p_id(alice.peer))) == 2)


async def test_a_stranger_that_is_never_admitted_is_disconnected() -> None:
    alice, bob = Host(config(1)), Host(config(2, stranger_s_max=0.2))
    carol = Host(config(3))
    async with running(alice, bob, carol):
        await bob.admit(carol.peer)
        await connect(alice, bob)
        await connect(carol, bob)
        await until(lambda: bob.connected() == {carol.peer})


async def test_strangers_make_way_for_strangers_and_members_stay() -> None:
    places_count = 2
    host = Host(config(1, doorway=DoorwaySettings(strangers_max=places_count)))
    member, *strangers = [Host(config(number)) for number in range(2, 8)]
    async with running(host, member, *strangers):
        await befriend(member, host)
        for stranger in strangers:
            await connect(stranger, host)
        await until(lambda: strangers[-1].peer in host.connected())
        await until(lambda: len(host.connected()) == 1 + places_count)
        assert member.peer in host.connected()


async def test_silence_makes_way_for_those_who_speak() -> None:
    alice, bob = Host(config(1)), Host(config(2, doorway=DoorwaySettings(strangers_max=2)))
    async with running(alice, bob):
        silent = [await raw_connection(bob) for _ in range(4)]
        await connect(alice, bob)
        ended = []

        async def await_end(stream: trio.SocketStream) -> None:
            async with stream:
                while await stream.receive_some():
                    pass
                ended.append(stream)

        async with trio.open_nursery() as nursery:
            for stream in silent:
                nursery.start_soon(await_end, stream)
            await until(lambda: len(ended) == 3)
            assert alice.peer in bob.connected()
            nursery.cancel_scope.cancel()


async def test_a_strangers_streams_are_limited() -> None:
    alice, bob = Host(config(1)), Host(config(2, stranger_streams_max=2))

    async def hold(stream: Stream) -> None:
        await stream.receive_some()

    bob.serve("/test/hold/1", hold, members_only=False)
    async with running(alice, bob):
        await connect(alice, bob)
        held = [await alice.open_stream(bob.peer, "/test/hold/1") for _ in range(2)]
        with pytest.raises(StreamBroken):
            await alice.open_stream(bob.peer, "/test/hold/1")
        await held[0].aclose()
        await until(lambda: bob._swarm._streams_per_peer[libp2p_id(alice.peer)] == 1)
        await alice.open_stream(bob.peer, "/test/hold/1")


async def test_a_peer_that_ignores_its_window_is_disconnected_before_it_fills_memory() -> None:
    alice, bob = Host(config(1)), Host(config(2))

    async def never_read(stream: Stream) -> None:
        await trio.sleep_forever()

    bob.serve("/test/hold/1", never_read, members_only=False)
    async with running(alice, bob):
        await connect(alice, bob)
        stream = await alice.open_stream(bob.peer, "/test/hold/1")
        with trio.fail_after(10), pytest.raises(StreamBroken):
            await flood(stream)
        await until(lambda: bob.connected() == frozenset())


async def flood(stream: Stream) -> None:
    while True:
        stream._yamux.send_window = 1 << 30  # type: ignore[attr-defined] # of MuxedStream
        await stream.send_all(bytes(60_000))


async def test_reading_costs_no_window_update_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    frames_count = 0
    write_frame = BoundedYamux._write_frame

    async def counted(self: BoundedYamux, frame: bytes) -> None:
        nonlocal frames_count
        frames_count += 1
        await write_frame(self, frame)

    alice, bob = Host(config(1)), Host(config(2))
    bob.serve(ECHO, echo, members_only=False)
    async with running(alice, bob):
        await connect(alice, bob)
        stream = await alice.open_stream(bob.peer, ECHO)
        monkeypatch.setattr(BoundedYamux, "_write_frame", counted)
        for _ in range(50):
            await stream.send_all(b"x" * 200)
            await receive_exactly(stream, 200)
    assert frames_count < 110  # 100 of data; libp2p sends 100 window updates as well


async def test_a_sender_waits_for_a_slow_reader_as_long_as_it_likes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # libp2p breaks the stream after five seconds without a window; here after a fiftieth of that.
    hasty = types.SimpleNamespace(**vars(trio))
    hasty.move_on_after = lambda seconds: trio.move_on_after(seconds / 50)
    monkeypatch.setattr(yamux_module, "trio", hasty)
    alice, bob = Host(config(1)), Host(config(2))
    wake = trio.Event()

    async def read_late(stream: Stream) -> None:
        await wake.wait()
        await echo(stream)

    bob.serve(ECHO, read_late, members_only=False)
    sent = bytes(400_000)
    async with running(alice, bob):
        await connect(alice, bob)
        stream = await alice.open_stream(bob.peer, ECHO)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, sent)
            await trio.sleep(0.3)
            wake.set()
            assert await receive_exactly(stream, len(sent)) == sent


async def test_a_cancelled_sender_leaves_the_connection_whole() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    received = 0

    async def swallow(stream: Stream) -> None:
        nonlocal received
        while part := await stream.receive_some():
            received += len(part)

    bob.serve("/test/swallow/1", swallow, members_only=False)
    bob.serve(ECHO, echo, members_only=False)
    async with running(alice, bob):
        await befriend(alice, bob)  # a stranger may not open as many streams
        for attempt in range(40):
            stream = await alice.open_stream(bob.peer, "/test/swallow/1")
            with trio.move_on_after(0.0005 * attempt) as scope:
                await stream.send_all(bytes(4 << 20))
            assert scope.cancelled_caught
            with pytest.raises(StreamBroken, match="half-way"):
                await stream.send_all(b"x")
            await stream.reset()
        await assert_echoes(alice, bob)
        assert alice.connected() == {bob.peer}
    assert received


async def test_a_peer_that_stops_reading_its_socket_loses_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("p2p.transport.WRITE_STALL_S", 0.2)
    metrics = Metrics()
    alice, bob = Host(config(1), judge=Judge(metrics=metrics)), Host(config(2))
    bob.serve(ECHO, echo, members_only=False)
    async with running(alice, bob):
        await connect(alice, bob)
        stream = await alice.open_stream(bob.peer, ECHO)
        (bobs_end,) = bob._transport._open
        stuck = trio.Event()
        monkeypatch.setattr(bobs_end, "_receive", stuck.wait)
        for connection in alice._transport._open:
            connection._stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        with trio.fail_after(5), pytest.raises(StreamBroken):
            await flood(stream)
        assert metrics.snapshot()["meshd_peers_stalled_total"] == 1


async def test_a_peer_that_reads_its_socket_by_sips_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("p2p.transport.WRITE_STALL_S", 1.0)
    monkeypatch.setattr("p2p.transport.WRITE_S_MAX", 2.0)
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    with ours, theirs:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        connection = TcpConnection(stream, (), remote=Address("ip4", "192.0.2.1", 1))
        reader = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        sips_count = 0

        async def sip() -> None:
            nonlocal sips_count
            while await reader.receive_some(1_024):
                sips_count += 1
                await trio.sleep(0.1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sip)
            with trio.fail_after(6), pytest.raises(PeerStalled):
                await connection.write(bytes(60_000))
            assert sips_count > 8
            nursery.cancel_scope.cancel()


async def test_nobody_is_identified_and_nobody_may_push_to_the_peerstore() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    async with running(alice, bob):
        await connect(alice, bob)
        await trio.testing.wait_all_tasks_blocked(0.05)
        for host, other in ((alice, bob), (bob, alice)):
            assert not host._peerstore.has_peer(libp2p_id(other.peer))
            served = host._libp2p.get_mux().get_protocols()
            assert TProtocol("/ipfs/id/push/1.0.0") not in served
            assert TProtocol("/ipfs/id/1.0.0") in served
