"""Links between devices in memory: handshake, traffic, races, misbehaviour, cancellation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from msgspec.structs import replace
from support.linked import CODEC, Linked, beats, hello_of, linking, wire_frame
from support.memory_host import MemoryHost, MemoryNetwork, MemoryStream, memory_streams
from support.meshes import keys_of, small_mesh
from support.records import record_of
from trio.testing import MockClock

from p2p.errors import StreamBroken
from p2p.framing import FrameReader, framed
from p2p.link import CarrySettings, Link
from p2p.link_table import LinkTable
from p2p.links import LINK_PROTOCOL_ID, LinkSettings
from p2p.rate_limit import Rate
from p2p.send_queue import QueueLimits
from p2p.streams import Stream
from wire.codec import FRAME_BYTES_MAX, encode_envelope
from wire.events import Congested, DialFailed, Drained, LinkDown, LinkUp, Received
from wire.ids import PeerId
from wire.membership import CHAIN_LENGTH_MAX, issue_certificate
from wire.messages import (
    Heartbeat,
    Hello,
    LinkRefused,
    Message,
    RecordsGiven,
    RefusalReason,
    Traffic,
)
from wire.records import ProtocolRange, Record, RecordKind
from wire.signed import Signed, sign

MESH = small_mesh(4)
SMALLER, LARGER, THIRD, FOURTH = sorted(MESH.devices, key=lambda device: device.peer)


@asynccontextmanager
async def network(*hosts: MemoryHost) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for host in hosts:
            await nursery.start(host.run)
        yield
        nursery.cancel_scope.cancel()
    assert not any(host.handler_errors for host in hosts)


@asynccontextmanager
async def two(
    settings: LinkSettings | None = None, net: MemoryNetwork | None = None
) -> AsyncIterator[tuple[Linked, Linked]]:
    """Run two devices that are not linked yet, the smaller id first."""
    net = net or MemoryNetwork()
    hosts = net.host(SMALLER.peer), net.host(LARGER.peer)
    a = Linked(hosts[0], MESH, SMALLER, settings=settings)
    b = Linked(hosts[1], MESH, LARGER, settings=settings)
    async with network(*hosts), linking(a, b):
        yield a, b


@asynccontextmanager
async def linked(
    settings: LinkSettings | None = None, net: MemoryNetwork | None = None
) -> AsyncIterator[tuple[Linked, Linked]]:
    """Run two devices that are linked, the first having dialled."""
    async with two(settings, net) as (a, b):
        await a.dial(b)
        await b.wait_for(LinkUp)
        yield a, b


@asynccontextmanager
async def stranger(
    settings: LinkSettings | None = None,
) -> AsyncIterator[tuple[Linked, MemoryHost, Callable[[], MemoryStream]]]:
    """Run a device, and the bare host of a member that a test speaks for."""
    net = MemoryNetwork()
    host, other = net.host(SMALLER.peer), net.host(LARGER.peer)
    device = Linked(host, MESH, SMALLER, settings=settings)
    async with network(host, other), linking(device):
        await other.connect(device.peer, ["/ip4/192.0.2.1/tcp/1"])
        yield device, other, lambda: other.streams[-1][1]


async def greet(other: MemoryHost, device: Linked, hello: Hello | None = None) -> FrameReader:
    """Link as LARGER; return the reader after the other's Hello."""
    stream = await other.open_stream(device.peer, LINK_PROTOCOL_ID)
    await stream.send_all(wire_frame(hello or hello_of(MESH, LARGER)))
    reader = FrameReader(stream)
    frame = await reader.receive()
    assert frame is not None
    assert isinstance(CODEC.decode(frame), Hello)
    return reader


async def last_word(reader: FrameReader) -> object:
    """Return the last message before the stream ends."""
    message: object = None
    with trio.fail_after(60):
        while (frame := await reader.receive()) is not None:
            message = CODEC.decode(frame)
    return message


def kinds(device: Linked) -> list[str]:
    return [type(event).__name__ for event in device.events]


def link_streams(net: MemoryNetwork, peer: PeerId) -> list[MemoryStream]:
    return [stream for name, stream in net.hosts[peer].streams if name == LINK_PROTOCOL_ID]


# Setting up


async def test_both_sides_hear_of_a_link_with_the_others_papers(autojump_clock: MockClock) -> None:
    async with linked() as (a, b):
        (up_a,), (up_b,) = a.seen(LinkUp), b.seen(LinkUp)
        assert (up_a.peer, up_a.is_outbound) == (b.peer, True)
        assert (up_b.peer, up_b.is_outbound) == (a.peer, False)
        assert up_a.hello == hello_of(MESH, LARGER)
        assert up_a.address == a.host.seen_at(b.peer)[0]
        assert a.links.peers == {b.peer}
        assert a.host.admitted == {b.peer}  # type: ignore[attr-defined] # of the host in memory


async def test_messages_arrive_in_order_both_ways(autojump_clock: MockClock) -> None:
    async with linked() as (a, b):
        for beat in beats(*range(100)):
            a.links.enqueue(b.peer, beat)
            b.links.enqueue(a.peer, beat)
        for one, other in ((a, b), (b, a)):
            received = await one.wait_for(Received, 100)
            assert received == [Received(other.peer, beat) for beat in beats(*range(100))]


async def test_a_link_refused_by_the_listener_is_a_failed_dial_with_its_reason(
    autojump_clock: MockClock,
) -> None:
    async with two() as (a, b):
        b.removed.add(a.peer)
        await a.dial(b)
        (failed,) = a.seen(DialFailed)
        assert failed.peer == b.peer
        assert "removed" in failed.reason
        assert kinds(a) == ["DialFailed"]
        assert kinds(b) == []
        assert not b.host.admitted  # type: ignore[attr-defined] # of the host in memory


async def test_a_dialler_refuses_a_listener_and_tells_it(autojump_clock: MockClock) -> None:
    async with two() as (a, b):
        a.removed.add(b.peer)
        await a.dial(b)
        assert kinds(a) == ["DialFailed"]
        (down,) = await b.wait_for(LinkDown)
        assert "removed" in down.reason
        assert not b.links.peers


OTHER_MESH = small_mesh(4, nonce=8)
FORGED_CHAIN = issue_certificate(
    LARGER.keys,
    mesh=MESH.id,
    subject=LARGER.peer,
    roles=LARGER.certificate.roles,
    operator="nobody",
    issuer_chain=(),
)
NEWER = ProtocolRange(7, 9)


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (hello_of(OTHER_MESH, OTHER_MESH.devices[1]), RefusalReason.OTHER_MESH),
        (hello_of(MESH, THIRD), RefusalReason.NOT_A_MEMBER),
        (replace(hello_of(MESH, LARGER), chain=FORGED_CHAIN), RefusalReason.NOT_A_MEMBER),
        (hello_of(MESH, LARGER, protocol=NEWER), RefusalReason.NO_COMMON_VERSION),
        (replace(hello_of(MESH, LARGER), genesis=OTHER_MESH.genesis), RefusalReason.OTHER_MESH),
    ],
)
async def test_bad_papers_are_refused_with_their_reason(
    hello: Hello, reason: RefusalReason, autojump_clock: MockClock
) -> None:
    async with stranger() as (device, other, _):
        stream = await other.open_stream(device.peer, LINK_PROTOCOL_ID)
        await stream.send_all(wire_frame(hello))
        refusal = await last_word(FrameReader(stream))
        assert isinstance(refusal, LinkRefused)
        assert refusal.reason is reason
        assert kinds(device) == []


@pytest.mark.parametrize(
    "first",
    [
        wire_frame(Heartbeat(token=1)),
        framed(b"\x01garbage"),
        (1 << 20).to_bytes(4, "big"),
        framed(b"\x01" + encode_envelope("newer", b"")),
    ],
)
async def test_nothing_but_hello_is_taken_first(first: bytes, autojump_clock: MockClock) -> None:
    async with stranger() as (device, other, _):
        stream = await other.open_stream(device.peer, LINK_PROTOCOL_ID)
        await stream.send_all(first)
        refusal = await last_word(FrameReader(stream))
        assert isinstance(refusal, LinkRefused)
        assert refusal.reason is RefusalReason.MALFORMED
        assert kinds(device) == []


async def test_the_longest_chain_fits_into_a_handshake() -> None:
    chain = MESH.devices[0].chain
    for number in range(1, CHAIN_LENGTH_MAX):
        chain = issue_certificate(
            keys_of(number - 1),
            mesh=MESH.id,
            subject=keys_of(number).peer,
            roles=LARGER.certificate.roles,
            operator="\N{GRINNING FACE}" * 64,
            issuer_chain=chain,
        )
    frame = CODEC.encode(replace(hello_of(MESH, LARGER), chain=chain))
    assert len(frame) < 8 * 1024


async def stay_silent(stream: Stream) -> None:
    del stream
    await trio.sleep_forever()


async def test_a_silent_listener_fails_the_dial_in_time(autojump_clock: MockClock) -> None:
    async with stranger() as (device, other, _):
        other.serve(LINK_PROTOCOL_ID, stay_silent, members_only=False)
        began_s = trio.current_time()
        await device.links.dial(other.peer, ["/ip4/192.0.2.1/tcp/1"])
        assert kinds(device) == ["DialFailed"]
        assert 9 < trio.current_time() - began_s < 12


async def test_a_silent_dialler_is_given_up_in_time(autojump_clock: MockClock) -> None:
    async with stranger() as (device, other, _):
        stream = await other.open_stream(device.peer, LINK_PROTOCOL_ID)
        began_s = trio.current_time()
        with pytest.raises(Exception, match="reset"):
            await stream.receive_some()
        assert 9 < trio.current_time() - began_s < 12


async def test_half_open_handshakes_are_bounded_in_all_and_per_peer(
    autojump_clock: MockClock,
) -> None:
    net = MemoryNetwork()
    host = net.host(SMALLER.peer)
    others = [net.host(device.peer) for device in (LARGER, THIRD, FOURTH)]
    device = Linked(host, MESH, SMALLER, settings=LinkSettings(handshakes_count_max=2))
    async with network(host, *others), linking(device):
        streams = []
        for other in (others[0], *others):
            await other.connect(device.peer, ["/ip4/192.0.2.1/tcp/1"])
            streams.append(await other.open_stream(device.peer, LINK_PROTOCOL_ID))
            await trio.testing.wait_all_tasks_blocked()
        broken = [stream.incoming.is_broken for stream in streams]  # type: ignore[attr-defined]
        assert broken == [False, True, False, True]
        assert device.count("meshd_links_refused_total") == 2


async def test_a_dial_that_reaches_nobody_says_why(autojump_clock: MockClock) -> None:
    async with two() as (a, b):
        await a.dial(b, "not an address")
        a.host.network.cut.add(frozenset((a.peer, b.peer)))  # type: ignore[attr-defined]
        await a.dial(b)
        reasons = [failed.reason for failed in a.seen(DialFailed)]
        assert "no address" in reasons[0]
        assert "Connection refused" in reasons[1]


async def test_links_are_bounded_and_the_refused_one_is_told(autojump_clock: MockClock) -> None:
    net = MemoryNetwork()
    settings = LinkSettings(links_count_max=1)
    host = net.host(SMALLER.peer)
    device = Linked(host, MESH, SMALLER, settings=settings)
    others = [Linked(net.host(d.peer), MESH, d) for d in (LARGER, THIRD)]
    async with network(*net.hosts.values()), linking(device, *others):
        await others[0].dial(device)
        await others[1].dial(device)
        assert kinds(others[0]) == ["LinkUp"]
        (failed,) = others[1].seen(DialFailed)
        assert "too_many_links" in failed.reason
        await device.links.dial(THIRD.peer, ["/ip4/192.0.2.1/tcp/1"])
        assert "1 links are open" in device.seen(DialFailed)[0].reason
        await others[0].dial(device)  # who is linked is no further link
        assert kinds(others[0]) == ["LinkUp"]


# Two dials at once


@pytest.mark.parametrize("ahead_s", [-0.004, -0.003, -0.002, -0.001, 0, 0.001, 0.002, 0.003, 0.004])
@pytest.mark.parametrize("latency_s", [0.0, 0.001])
async def test_two_devices_dialling_each_other_end_with_the_smaller_ones_link(
    ahead_s: float, latency_s: float, autojump_clock: MockClock
) -> None:
    net = MemoryNetwork(latency_s=latency_s)
    async with two(net=net) as (a, b), trio.open_nursery() as nursery:
        dials = [(a, b), (b, a)] if ahead_s <= 0 else [(b, a), (a, b)]
        nursery.start_soon(dials[0][0].dial, dials[0][1])
        await trio.sleep(abs(ahead_s))
        nursery.start_soon(dials[1][0].dial, dials[1][1])
        # Traffic from the first moment on, which a careless change of links would lose.
        for one, other in ((a, b), (b, a)):
            nursery.start_soon(partial(say_when_linked, one, other, 50))
        await a.wait_for(Received, 50)
        await b.wait_for(Received, 50)
        await trio.sleep(5)
        for device, other in ((a, b), (b, a)):
            assert kinds(device) == ["LinkUp"] + ["Received"] * 50
            assert {event.message.token for event in device.seen(Received)} == set(range(50))  # type: ignore[union-attr]
            assert device.links.peers == {other.peer}
        open_streams = [
            stream
            for stream in link_streams(net, a.peer)
            if not (stream.incoming.is_finished or stream.incoming.is_broken)
        ]
        assert len(open_streams) == 1
        was_race = len(link_streams(net, a.peer)) == 2
        races = a.count("meshd_link_races_total"), b.count("meshd_link_races_total")
        assert was_race or races == (0, 0)
        if was_race:  # the one that is left was dialled by the smaller id: by a
            assert open_streams[0] is next(
                stream for stream in link_streams(net, a.peer) if stream.dialled
            )


async def say_when_linked(one: Linked, other: Linked, count: int) -> None:
    await one.wait_for(LinkUp)
    for beat in beats(*range(count)):
        one.links.enqueue(other.peer, beat)
        await trio.sleep(0.0003)


def bare_link(*, is_outbound: bool, established_s: float) -> Link:
    stream, _ = memory_streams(SMALLER.peer, LARGER.peer)
    return Link(
        stream=stream,
        reader=FrameReader(stream),
        hello=hello_of(MESH, LARGER),
        address="",
        is_outbound=is_outbound,
        established_s=established_s,
        settings=CarrySettings(),
    )


@pytest.mark.parametrize("first_is_outbound", [True, False])
async def test_what_waits_on_the_link_that_goes_leaves_on_the_one_that_stays(
    first_is_outbound: bool,
) -> None:
    table = LinkTable(own=SMALLER.peer, race_s=20)
    links = [
        bare_link(is_outbound=is_outbound, established_s=established_s)
        for established_s, is_outbound in enumerate((first_is_outbound, not first_is_outbound))
    ]
    table.put(links[0])
    links[0].queue.push(b"waiting", Traffic.TASK, now_s=0)
    assert table.put(links[1])
    stays = table.get(LARGER.peer)
    assert stays is not None
    assert stays.is_outbound  # the smaller id dialled it
    assert stays.queue.take(100) == framed(b"waiting")


async def test_a_failed_dial_does_not_break_a_link_that_the_other_is_making(
    autojump_clock: MockClock,
) -> None:
    async with stranger() as (device, other, _):
        stream = await other.open_stream(device.peer, LINK_PROTOCOL_ID)
        other.serve(LINK_PROTOCOL_ID, Stream.aclose, members_only=False)
        await device.links.dial(other.peer, ["/ip4/192.0.2.1/tcp/1"])
        assert kinds(device) == ["DialFailed"]
        await stream.send_all(wire_frame(hello_of(MESH, LARGER)))
        await device.wait_for(LinkUp)


async def test_a_device_that_lost_its_link_dials_anew_and_both_hear_of_it(
    autojump_clock: MockClock,
) -> None:
    async with linked() as (a, b):
        await trio.sleep(60)
        # b restarts without a's noticing: its new link must not lose against the dead one, though
        # a, the smaller id, dialled that.
        reborn = Linked(b.host, MESH, LARGER)
        b.host.streams.clear()  # type: ignore[attr-defined] # nobody holds b's end any more
        async with linking(reborn):
            await reborn.dial(a)
            await a.wait_for(LinkUp, 2)
            assert kinds(a) == ["LinkUp", "LinkDown", "LinkUp"]
            assert "new link" in a.seen(LinkDown)[0].reason
            a.links.enqueue(b.peer, Heartbeat(token=9))
            assert await reborn.wait_for(Received) == [Received(a.peer, Heartbeat(token=9))]


async def test_who_dials_twice_has_one_link(autojump_clock: MockClock) -> None:
    async with two() as (a, b):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(a.dial, b)
        await a.dial(b)
        await b.wait_for(LinkUp)
        await trio.sleep(1)
        assert kinds(a) == kinds(b) == ["LinkUp"]


# Sending


async def test_an_idle_link_sends_at_once_and_a_busy_one_gathers(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0)
    async with linked(net=net) as (a, b):
        await trio.sleep(1)
        writes = link_streams(net, a.peer)[0].outgoing.writes
        writes.clear()
        began_s = trio.current_time()
        a.links.enqueue(b.peer, Heartbeat(token=0))
        await b.wait_for(Received)
        assert trio.current_time() == began_s
        for token in range(1, 31):  # one each 0.1 ms
            a.links.enqueue(b.peer, Heartbeat(token=token))
            await trio.sleep(0.0001)
        await b.wait_for(Received, 31)
        assert trio.current_time() - began_s == pytest.approx(0.003, abs=0.0002)
        assert len(writes) == 2


async def test_a_busy_link_flushes_early_once_enough_is_queued(autojump_clock: MockClock) -> None:
    net = MemoryNetwork(latency_s=0, window_bytes=1 << 22)
    async with linked(net=net) as (a, b):
        a.links.enqueue(b.peer, Heartbeat(token=0))
        await b.wait_for(Received)
        began_s = trio.current_time()
        for _ in range(12):
            a.links.enqueue(b.peer, bulky(8_000))
        await b.wait_for(Received, 8)
        assert trio.current_time() == began_s
        await b.wait_for(Received, 13)
        assert trio.current_time() <= began_s + 0.003  # the rest is old enough then
        assert max(map(len, link_streams(net, a.peer)[0].outgoing.writes)) <= 64 * 1024


def bulky(size: int) -> RecordsGiven:
    """Return a valid message of about `size` bytes."""
    return RecordsGiven(records=tuple(RECORD for _ in range(size // 8_000)))


RECORD: Signed[Record] = sign(
    Record(owner=SMALLER.peer, kind="presence", incarnation=1, counter=1, body=bytes(7_800)),
    SMALLER.keys,
)


async def test_a_full_queue_drops_counts_and_says_so_once_and_once_that_it_drained(
    autojump_clock: MockClock,
) -> None:
    settings = LinkSettings(carry=CarrySettings(queue=QueueLimits(bulk_bytes_max=100_000)))
    net = MemoryNetwork(window_bytes=20_000)
    async with linked(settings, net) as (a, b):
        b.may_emit = trio.Event()
        for _ in range(40):
            a.links.enqueue(b.peer, bulky(8_000))
            await trio.sleep(0.01)
        await a.wait_for(Congested)
        assert a.count("meshd_frames_dropped_total") > 10
        a.links.enqueue(b.peer, Heartbeat(token=5))  # other classes have room
        b.may_emit.set()
        await a.wait_for(Drained)
        await b.until(lambda: Received(a.peer, Heartbeat(token=5)) in b.events)
        await trio.sleep(1)
        assert a.seen(Congested) == [Congested(b.peer, Traffic.BULK)]
        assert a.seen(Drained) == [Drained(b.peer, Traffic.BULK)]
        received = len(b.seen(Received)) - 1
        assert received + a.count("meshd_frames_dropped_total") == 40
        assert not a.seen(LinkDown)


async def test_a_reader_that_stands_still_ends_the_link_not_the_sender(
    autojump_clock: MockClock,
) -> None:
    net = MemoryNetwork(window_bytes=20_000)
    async with linked(net=net) as (a, b):
        b.may_emit = trio.Event()
        began_s = trio.current_time()
        for _ in range(20):
            a.links.enqueue(b.peer, bulky(8_000))
        (down,) = await a.wait_for(LinkDown)
        assert "does not read" in down.reason
        assert a.count("meshd_peers_stalled_total") == 1
        assert not a.count("meshd_peers_banned_total"), "a laptop may be suspended"
        assert trio.current_time() - began_s < 15
        assert a.links.peers == frozenset()
        b.may_emit.set()
        await b.wait_for(LinkDown)


async def test_a_device_whose_disk_hangs_again_and_again_loses_its_links_and_is_linked_again(
    autojump_clock: MockClock,
) -> None:
    async with two(net=MemoryNetwork(window_bytes=20_000)) as (a, b):
        began_s = trio.current_time()
        for hangs_count in range(1, 9):
            b.may_emit = trio.Event()
            b.may_emit.set()
            await a.dial(b)
            await b.wait_for(LinkUp, hangs_count)
            b.may_emit = trio.Event()
            for _ in range(20):
                a.links.enqueue(b.peer, bulky(8_000))
            await a.wait_for(LinkDown, hangs_count)
            b.may_emit.set()
            await b.wait_for(LinkDown, hangs_count)
            assert a.count("meshd_peers_stalled_total") == hangs_count
        assert trio.current_time() - began_s < 300
        assert not a.count("meshd_peers_banned_total")


async def test_a_reader_that_stands_still_does_not_hold_up_the_stop(
    autojump_clock: MockClock,
) -> None:
    net = MemoryNetwork(window_bytes=20_000)
    async with linked(net=net) as (a, b):
        b.may_emit = trio.Event()
        for _ in range(20):
            a.links.enqueue(b.peer, bulky(8_000))
        await trio.sleep(1)
        began_s = trio.current_time()
    assert trio.current_time() - began_s < 4


async def test_what_is_sent_to_nobody_is_counted(autojump_clock: MockClock) -> None:
    async with two() as (a, b):
        a.links.enqueue(b.peer, Heartbeat(token=1))
        assert a.count("meshd_frames_unlinked_total") == 1


async def test_our_own_message_over_a_frame_is_dropped_and_the_link_goes_on(
    autojump_clock: MockClock,
) -> None:
    async with linked() as (a, b):
        a.links.enqueue(b.peer, bulky(8_000 * 200))
        a.links.enqueue(b.peer, Heartbeat(token=1))
        assert await b.wait_for(Received) == [Received(a.peer, Heartbeat(token=1))]
        assert a.count("meshd_frames_too_large_total") == 1


async def test_a_big_frame_is_decoded_in_a_thread_and_keeps_its_place() -> None:
    async with linked() as (a, b):  # on the real clock: a thread makes virtual time run away
        messages: list[Message] = [*beats(1), bulky(8_000 * 60), *beats(2)]
        for message in messages:
            a.links.enqueue(b.peer, message)
        received = await b.wait_for(Received, 3)
        # Control overtakes bulk in the queue; nothing overtakes on the stream.
        assert {type(event.message) for event in received} == {Heartbeat, RecordsGiven}
        a.links.enqueue(b.peer, Heartbeat(token=3))
        assert (await b.wait_for(Received, 4))[-1].message == Heartbeat(token=3)


# Misbehaviour


async def test_an_unknown_message_is_skipped_and_never_scored(autojump_clock: MockClock) -> None:
    async with stranger() as (device, other, stream_of):
        await greet(other, device)
        stream = stream_of()
        newer = framed(b"\x01" + encode_envelope("a_message_of_1999", b"anything"))
        await stream.send_all(newer * 500 + wire_frame(Heartbeat(token=1)))
        assert await device.wait_for(Received) == [Received(other.peer, Heartbeat(token=1))]
        assert device.count("meshd_frames_unknown_total") == 500
        assert not device.seen(LinkDown)


async def test_malformed_frames_end_the_link_and_ban_the_peer_for_a_while(
    autojump_clock: MockClock,
) -> None:
    async with stranger() as (device, other, stream_of):
        reader = await greet(other, device)
        bad = framed(b"\x01garbage")
        await stream_of().send_all(bad * 4 + wire_frame(Heartbeat(token=1)))
        await device.wait_for(Received)
        await stream_of().send_all(bad)
        farewell = await last_word(reader)
        assert isinstance(farewell, LinkRefused)
        assert farewell.reason is RefusalReason.MALFORMED
        (down,) = await device.wait_for(LinkDown)
        assert "banned" in down.reason
        await trio.sleep(2)

        await device.links.dial(other.peer, ["/ip4/192.0.2.1/tcp/1"])
        assert "banned" in device.seen(DialFailed)[0].reason
        await other.connect(device.peer, ["/ip4/192.0.2.1/tcp/1"])
        with pytest.raises(Exception, match=r"closed|reset"):
            await greet(other, device)
        await trio.sleep(600)
        await greet(other, device)
        await device.wait_for(LinkUp, 2)


async def test_two_forged_signatures_are_enough(autojump_clock: MockClock) -> None:
    async with stranger() as (device, other, stream_of):
        reader = await greet(other, device)
        forged = Signed(
            body=RECORD.body,
            received=RECORD.received,
            signer=RECORD.signer,
            signature=bytes(64),
        )
        frame = wire_frame(RecordsGiven(records=(forged,)))
        await stream_of().send_all(frame)
        await stream_of().send_all(frame)
        assert isinstance(await last_word(reader), LinkRefused)
        assert "banned" in (await device.wait_for(LinkDown))[0].reason
        assert not device.seen(Received)


async def test_a_hostile_length_ends_the_link_at_once(autojump_clock: MockClock) -> None:
    async with stranger() as (device, other, stream_of):
        await greet(other, device)
        await stream_of().send_all((FRAME_BYTES_MAX + 1).to_bytes(4, "big"))
        (down,) = await device.wait_for(LinkDown)
        assert "garbage" in down.reason
        await trio.sleep(2)
        await other.connect(device.peer, ["/ip4/192.0.2.1/tcp/1"])
        await greet(other, device)  # once is no reason for a ban
        await device.wait_for(LinkUp, 2)


async def test_a_second_hello_is_an_offence(autojump_clock: MockClock) -> None:
    async with stranger() as (device, other, stream_of):
        await greet(other, device)
        await stream_of().send_all(wire_frame(hello_of(MESH, LARGER)) * 5)
        assert "second Hello" in (await device.wait_for(LinkDown))[0].reason


async def test_a_flood_is_read_no_faster_than_its_rate(autojump_clock: MockClock) -> None:
    rate = Rate(per_s=100, burst=50)
    async with stranger(LinkSettings(carry=CarrySettings(receive_rate=rate))) as parts:
        device, other, stream_of = parts
        await greet(other, device)
        began_s = trio.current_time()
        await stream_of().send_all(b"".join(wire_frame(beat) for beat in beats(*range(120))))
        await device.wait_for(Received, 120)
        assert trio.current_time() - began_s == pytest.approx(0.7, abs=0.05)
        assert not device.seen(LinkDown)


async def test_a_flood_without_end_is_a_ban_that_says_why(autojump_clock: MockClock) -> None:
    rate = Rate(per_s=100, burst=50)
    async with stranger(LinkSettings(carry=CarrySettings(receive_rate=rate))) as parts:
        device, other, stream_of = parts
        reader = await greet(other, device)
        await stream_of().send_all(b"".join(wire_frame(beat) for beat in beats(*range(400))))
        refused = await last_word(reader)
        assert isinstance(refused, LinkRefused)
        assert "more than it may" in refused.detail
        await device.wait_for(LinkDown)
        assert device.count("meshd_peers_flooded_total") == 2
        assert len(device.seen(Received)) < 160


async def test_records_cost_what_their_signatures_do(autojump_clock: MockClock) -> None:
    rate = Rate(per_s=100, burst=100)
    records = tuple(
        record_of(LARGER, RecordKind.PRESENCE, b"", version=(1, number)) for number in range(64)
    )
    async with stranger(LinkSettings(carry=CarrySettings(receive_rate=rate))) as parts:
        device, other, stream_of = parts
        await greet(other, device)
        began_s = trio.current_time()
        for _ in range(15):  # nine tokens each
            await stream_of().send_all(wire_frame(RecordsGiven(records=records)))
        await device.wait_for(Received, 15)
        assert trio.current_time() - began_s == pytest.approx(0.35, abs=0.05)


async def test_a_peer_that_begins_links_without_end_is_not_answered(
    autojump_clock: MockClock,
) -> None:
    async with stranger(LinkSettings(handshake_rate=Rate(per_s=0.1, burst=3))) as parts:
        device, other, _ = parts

        async def link_again() -> None:
            await other.connect(device.peer, ["/ip4/192.0.2.1/tcp/1"])
            reader = await greet(other, device)
            await device.wait_for(LinkUp, len(device.seen(LinkUp)))
            await other.streams[-1][1].aclose()
            await last_word(reader)

        for _ in range(3):
            await link_again()
        with pytest.raises(StreamBroken):
            await link_again()
        assert device.count("meshd_handshakes_refused_total") == 1
        await trio.sleep(10)
        await link_again()


# Ending


async def test_hanging_up_sends_what_was_queued_first(autojump_clock: MockClock) -> None:
    async with linked() as (a, b):
        for beat in beats(*range(20)):
            a.links.enqueue(b.peer, beat)
        a.links.hangup(b.peer, "too many links")
        assert a.links.peers == frozenset()
        a.links.enqueue(b.peer, Heartbeat(token=99))
        assert (await a.wait_for(LinkDown)) == [LinkDown(b.peer, "too many links")]
        await b.wait_for(LinkDown)
        assert [event.message for event in b.seen(Received)] == beats(*range(20))
        assert a.count("meshd_frames_unlinked_total") == 1
        await trio.sleep(3)
        assert a.host.admitted == b.host.admitted == set()  # type: ignore[attr-defined]


async def test_hanging_up_on_a_removed_device_tells_it(autojump_clock: MockClock) -> None:
    async with linked() as (a, b):
        a.removed.add(b.peer)
        a.links.hangup(b.peer, "removed by an admin")
        (down,) = await b.wait_for(LinkDown)
        assert "removed" in down.reason
        await a.wait_for(LinkDown)
        assert a.host.expelled_for_good == {b.peer}  # type: ignore[attr-defined]


async def test_a_lost_connection_is_a_link_down_on_both_sides(autojump_clock: MockClock) -> None:
    async with linked() as (a, b):
        a.host.cut_off(b.peer)  # type: ignore[attr-defined] # of the host in memory
        for device in (a, b):
            await device.wait_for(LinkDown)
            assert kinds(device) == ["LinkUp", "LinkDown"]
            assert not device.host.expelled_for_good  # type: ignore[attr-defined]
        await b.dial(a)
        for device in (a, b):
            await device.wait_for(LinkUp, 2)


async def test_stopping_sends_what_is_queued(autojump_clock: MockClock) -> None:
    net = MemoryNetwork()
    hosts = net.host(SMALLER.peer), net.host(LARGER.peer)
    a, b = (Linked(host, MESH, d) for host, d in zip(hosts, (SMALLER, LARGER), strict=True))
    async with network(*hosts), linking(b):
        async with linking(a):
            await a.dial(b)
            await b.wait_for(LinkUp)
            a.links.enqueue(b.peer, Heartbeat(token=1))
        await b.wait_for(LinkDown)
        assert b.seen(Received) == [Received(a.peer, Heartbeat(token=1))]
        assert a.links.peers == frozenset()
        async with linking(a):  # and it may run again
            await a.dial(b)
            await b.wait_for(LinkUp, 2)


async def test_a_blocked_core_does_not_hold_up_the_stop(autojump_clock: MockClock) -> None:
    async with linked() as (a, b):
        b.may_emit = trio.Event()
        for beat in beats(*range(10)):
            a.links.enqueue(b.peer, beat)
        await trio.sleep(1)
    assert b.links.peers == frozenset()


# Cancelled anywhere


async def test_a_dial_cancelled_anywhere_leaves_a_whole_link_or_none(
    autojump_clock: MockClock,
) -> None:
    outcomes = set()
    for step in range(200):
        async with two(net=MemoryNetwork(latency_s=0)) as (a, b):
            finished = await cancelled_after(partial(a.dial, b), step)
            await trio.sleep(5)
            assert (b.peer in a.links.peers) == (a.peer in b.links.peers)
            for device in (a, b):
                ends = kinds(device)
                assert ends in ([], ["LinkUp"], ["LinkUp", "LinkDown"])
                assert (ends == ["LinkUp"]) == bool(device.links.peers)
            outcomes.add(bool(a.links.peers))
            await a.dial(b)  # and nothing stands in the way of the next
            assert a.links.peers == {b.peer}
        if finished:
            break
    assert finished
    assert outcomes == {True, False}


async def test_links_cancelled_anywhere_leave_no_half_state(autojump_clock: MockClock) -> None:
    for step in range(200):
        net = MemoryNetwork(latency_s=0)
        hosts = net.host(SMALLER.peer), net.host(LARGER.peer)
        a, b = (Linked(host, MESH, d) for host, d in zip(hosts, (SMALLER, LARGER), strict=True))
        async with network(*hosts), linking(b), trio.open_nursery() as nursery:
            nursery.start_soon(dial_soon, a, b)
            finished = await cancelled_after(partial(run_until_heard, a), step)
            await trio.sleep(5)
            assert a.links.peers == b.links.peers == frozenset()
            nursery.cancel_scope.cancel()
        if finished:
            break
    assert finished


async def dial_soon(a: Linked, b: Linked) -> None:
    await trio.lowlevel.checkpoint()
    await a.dial(b)
    b.links.enqueue(a.peer, Heartbeat(token=1))
    a.links.enqueue(b.peer, Heartbeat(token=2))


async def run_until_heard(a: Linked) -> None:
    async with linking(a):
        await a.wait_for(Received)


async def cancelled_after(call: Callable[[], object], steps: int) -> bool:
    """Run `call` and cancel it after so many rounds of the scheduler; True if it was done."""
    is_done = False

    async def run() -> None:
        nonlocal is_done
        await call()  # type: ignore[misc] # an async callable
        is_done = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
            if is_done:
                break
        nursery.cancel_scope.cancel()
    return is_done
