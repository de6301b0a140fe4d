"""Links that another device carries, on real libp2p hosts on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from support.hosts import NETWORK_KEY, config, running, until
from support.linked import Linked, beats, linking
from support.meshes import Device, keys_of, small_mesh

from p2p.circuit_book import CircuitLimits
from p2p.circuit_messages import (
    CONNECTION_FAILED,
    HOP,
    MALFORMED_MESSAGE,
    NO_RESERVATION,
    OK,
    PERMISSION_DENIED,
    STOP,
    hop_connect,
    hop_status,
    read_hop_connect,
    read_hop_status,
    read_stop_status,
    stop_connect,
)
from p2p.errors import PeerUnreachable, StreamBroken
from p2p.host import Host
from p2p.host_metrics import HostCounters
from p2p.judge import Judge
from p2p.relay import Relay
from p2p.streams import Stream
from telemetry.metrics import Metrics
from wire.events import DialFailed, LinkDown, LinkUp, Received
from wire.ids import PeerId
from wire.messages import Heartbeat

MESH = small_mesh(4)
SMALLER, LARGER, RELAY, SECOND = sorted(MESH.devices, key=lambda device: device.peer)


class Carrier(Linked):
    """A device that counts what it carries."""

    def __init__(self, device: Device, **changes: object) -> None:
        number = next(n for n in range(4) if keys_of(n).peer == device.peer)
        self.judge = Judge(metrics=Metrics())
        self.host_metrics = Metrics()
        self.real = Host(
            config(number, identity_seed=bytes([number]) * 32, **changes),
            counters=HostCounters(self.host_metrics),
            judge=self.judge,
        )
        super().__init__(self.real, MESH, device)

    def carried(self, what: str) -> int:
        return self.host_metrics.snapshot()[f"meshd_circuit{what}"]

    async def link(self, *others: Carrier) -> None:
        for other in others:
            await self.links.dial(other.peer, other.real.addresses)
            await other.until(partial(_has_link, other, self))

    async def link_through(self, other: Linked, *relays: Linked) -> None:
        await self.dial_through(other.peer, *relays)

    async def dial_through(self, peer: PeerId, *relays: Linked) -> None:
        await self.links.dial(peer, (), [relay.peer for relay in relays])


@asynccontextmanager
async def devices(*members: Device, **changes: object) -> AsyncIterator[list[Carrier]]:
    """Run devices that are not linked yet; at most a minute."""
    carriers = [Carrier(member, **changes) for member in members]
    with trio.fail_after(60):
        async with running(*(one.real for one in carriers)), linking(*carriers):
            yield carriers


@asynccontextmanager
async def circuit(*more: Device, **changes: object) -> AsyncIterator[list[Carrier]]:
    """Run two devices whose link a third carries, and more that are linked with both."""
    async with devices(SMALLER, LARGER, RELAY, *more, **changes) as carriers:
        a, b, *relays = carriers
        for one in (a, b):
            await one.link(*relays)
        await a.link_through(b, relays[0])
        await b.until(partial(_has_link, b, a))
        yield carriers


async def ask(source: Carrier, relay: Carrier, request: bytes) -> int:
    """Return how a relay answers to a request."""
    stream = await source.real.open_stream(relay.peer, HOP)
    await stream.send_all(request)
    status = await read_hop_status(stream)
    await stream.reset()
    return status


async def test_messages_cross_both_ways_and_both_ends_know_through_whom() -> None:
    async with circuit() as (a, b, relay):
        for one, other in ((a, b), (b, a)):
            up = one.seen(LinkUp)[-1]
            assert (up.peer, up.via, up.address) == (other.peer, relay.peer, "")
            assert one.seen(LinkUp)[0].via is None
        for beat in beats(*range(500)):
            a.links.enqueue(b.peer, beat)
            b.links.enqueue(a.peer, beat)
        for one in (a, b):
            received = await one.wait_for(Received, 500)
            assert [event.message for event in received] == beats(*range(500))
        assert relay.seen(Received) == []
        assert relay.carried("s_carried") == relay.carried("s_begun_total") == 1
        assert relay.carried("_bytes_carried_total") > 500
        a.links.enqueue(b.peer, Heartbeat(token=9_999))
        a.links.hangup(b.peer, "enough")
        [down] = await b.wait_for(LinkDown)
        assert down.peer == a.peer
        assert b.seen(Received)[-1].message == Heartbeat(token=9_999)
        await until(lambda: relay.carried("s_carried") == 0)
        assert relay.peer in a.links.peers & b.links.peers


async def test_the_relay_sees_nothing_of_what_it_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[bytes] = []
    pass_on = Relay._pass_on

    async def overhear(
        self: Relay, origin: Stream, target: Stream, patience: trio.CancelScope
    ) -> None:
        take = origin.receive_some

        async def receive_some(bytes_max: int) -> bytes:
            pieces.append(await take(bytes_max))
            return pieces[-1]

        monkeypatch.setattr(origin, "receive_some", receive_some)
        await pass_on(self, origin, target, patience)

    monkeypatch.setattr(Relay, "_pass_on", overhear)
    async with circuit() as (a, b, _):
        secret = "a word that nobody else should read"
        b.removed.add(a.peer)  # its farewell says why
        a.links.enqueue(b.peer, Heartbeat(token=1))
        await b.wait_for(Received)
        b.links.hangup(a.peer, secret)
        await a.wait_for(LinkDown)
    overheard = b"".join(pieces)
    assert len(overheard) > 1_000
    for plain in (b"multistream", b"noise", b"yamux", MESH.id, a.peer, b"this device was removed"):
        assert plain not in overheard


async def test_it_ends_at_both_ends_with_the_relay_and_another_takes_over() -> None:
    async with circuit(SECOND) as (a, b, relay, second):
        for other in (a, b):
            relay.links.hangup(other.peer, "going down")
        for one in (a, b):
            await one.until(partial(_has_lost, one, 2))
            assert one.links.peers == {second.peer}
        await b.link_through(a, relay, second)
        assert (await a.wait_for(LinkUp, 4))[-1].via == second.peer
        assert b.seen(LinkUp)[-1].via == second.peer


async def test_a_direct_link_takes_the_place_of_a_carried_one_and_not_the_other_way() -> None:
    async with circuit() as (a, b, relay):
        await b.links.dial(a.peer, ("/ip4/127.0.0.1/tcp/1",))
        assert b.seen(DialFailed) == []  # nothing has changed
        await b.links.dial(a.peer, a.real.addresses)
        for one in (a, b):
            await one.wait_for(LinkUp, 3)
            *_, down, up = one.events
            assert isinstance(down, LinkDown)
            assert isinstance(up, LinkUp)
            assert up.via is None
        await until(lambda: relay.carried("s_carried") == 0)
        await a.link_through(b, relay)
        a.links.enqueue(b.peer, Heartbeat(token=1))
        await b.wait_for(Received)
        assert relay.carried("s_begun_total") == 1


async def test_two_who_dial_each_other_through_others_have_one_link() -> None:
    async with devices(SMALLER, LARGER, RELAY, SECOND) as (a, b, relay, second):
        for one in (a, b):
            await one.link(relay, second)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.link_through, b, relay)
            nursery.start_soon(b.link_through, a, second)
        a.links.enqueue(b.peer, Heartbeat(token=1))
        b.links.enqueue(a.peer, Heartbeat(token=2))
        for one in (a, b):
            await one.wait_for(Received)
            assert len(one.seen(LinkUp)) == 3
            assert one.seen(LinkDown) == []


async def test_a_relay_refuses_with_its_reason() -> None:
    none = {"circuits": CircuitLimits(circuits_max=0)}
    async with devices(SMALLER, LARGER, RELAY) as (a, b, relay), devices(SECOND, **none) as (full,):
        await a.link(relay, full)
        assert await ask(a, relay, hop_connect(b.peer)) == NO_RESERVATION
        assert await ask(a, relay, hop_connect(a.peer)) == PERMISSION_DENIED
        assert await ask(a, relay, b"\x03\x08\x00\x00") == MALFORMED_MESSAGE  # a RESERVE
        assert await ask(a, relay, b"\x04junk") == MALFORMED_MESSAGE
        assert await ask(a, relay, b"\xff\xff\xff") == MALFORMED_MESSAGE
        await b.link(relay, full)
        await a.link_through(b, full)
        [failed] = a.seen(DialFailed)
        assert "RESOURCE_LIMIT_EXCEEDED" in failed.reason
        await a.link_through(b, full, relay)
        assert a.seen(LinkUp)[-1].via == relay.peer
        assert relay.carried("s_refused_total") == 5
        assert full.carried("s_refused_total") == 2


async def test_a_relay_that_does_not_answer_is_passed_over() -> None:
    async with devices(SMALLER, LARGER, RELAY, SECOND) as (a, b, silent, relay):
        for one in (a, b):
            await one.link(silent, relay)

        async def say_nothing(stream: Stream) -> None:
            del stream
            await trio.sleep_forever()

        silent.real.serve(HOP, say_nothing, members_only=True)
        await a.link_through(b, silent, relay)
        assert a.seen(LinkUp)[-1].via == relay.peer


async def test_links_go_through_while_the_network_key_is_rolled() -> None:
    async with devices(SMALLER, LARGER, RELAY) as (a, b, relay):
        await a.link(relay)
        await b.link(relay)
        old, new = NETWORK_KEY, bytes(32)
        a.real.use_network_keys((new, old))  # it has heard of the new one, and the other has not
        await a.link_through(b, relay)
        assert a.seen(LinkUp)[-1].via == relay.peer
        b.links.hangup(a.peer, "once more")
        await a.wait_for(LinkDown)
        b.real.use_network_keys((new, old))
        await b.link_through(a, relay)
        assert b.seen(LinkUp)[-1].via == relay.peer


async def test_there_are_no_chains() -> None:
    async with circuit() as (a, b, _), devices(SECOND) as (far,):
        await a.link(far)
        with pytest.raises(PeerUnreachable, match="not linked"):
            await b.real.connect_through(far.peer, [a.peer])
        assert await ask(b, a, hop_connect(far.peer)) == PERMISSION_DENIED
        assert await ask(far, a, hop_connect(b.peer)) == NO_RESERVATION
        stream = await b.real.open_stream(a.peer, STOP)
        await stream.send_all(stop_connect(far.peer))
        assert await read_stop_status(stream) == PERMISSION_DENIED


async def test_a_relay_can_pass_off_nobody_for_another() -> None:
    async with devices(SMALLER, LARGER, RELAY) as (a, b, relay):
        await relay.link(a, b)
        stream = await relay.real.open_stream(b.peer, STOP)  # it brings itself, as another
        await stream.send_all(stop_connect(a.peer))
        assert await read_stop_status(stream) == OK
        connected = b.real.connected()
        assert connected == {relay.peer}

        async def lead_to_the_wrong_one(source: Stream) -> None:
            assert await read_hop_connect(source) == SECOND.peer
            far = await relay.real.open_stream(b.peer, STOP)
            await far.send_all(stop_connect(source.peer))
            assert await read_stop_status(far) == OK
            await source.send_all(hop_status(OK))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_pump, source, far, nursery.cancel_scope)
                nursery.start_soon(_pump, far, source, nursery.cancel_scope)

        relay.real.serve(HOP, lead_to_the_wrong_one, members_only=True)
        await a.dial_through(SECOND.peer, relay)
        [failed] = a.seen(DialFailed)
        assert failed.peer == SECOND.peer
        assert "another device answers there" in failed.reason
        assert a.links.peers == {relay.peer}
        assert a.real.connected() == {relay.peer}


async def test_a_circuit_of_another_than_the_relay_named_is_closed() -> None:
    async with devices(SMALLER, LARGER, RELAY) as (a, b, relay):
        await relay.link(a, b)

        async def name_another(source: Stream) -> None:
            assert await read_hop_connect(source) == b.peer
            far = await relay.real.open_stream(b.peer, STOP)
            await far.send_all(stop_connect(SECOND.peer))
            assert await read_stop_status(far) == OK
            await source.send_all(hop_status(OK))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_pump, source, far, nursery.cancel_scope)
                nursery.start_soon(_pump, far, source, nursery.cancel_scope)

        relay.real.serve(HOP, name_another, members_only=True)
        await a.link_through(b, relay)
        await until(lambda: b.real.connected() == {relay.peer})
        assert a.peer not in b.links.peers
        ends = [event for event in a.events if isinstance(event, DialFailed | LinkDown)]
        assert ends


async def test_strangers_and_the_banned_get_no_circuit() -> None:
    async with devices(SMALLER, LARGER, RELAY) as (a, b, relay):
        await b.link(relay)
        await a.real.connect(relay.peer, relay.real.addresses)  # it has the network key, no papers
        stream = await a.real.open_stream(relay.peer, HOP)
        await stream.send_all(hop_connect(b.peer))
        with pytest.raises(StreamBroken):
            await read_hop_status(stream)
        await a.link(relay)
        b.links.hangup(relay.peer, "for now")
        await until(lambda: b.peer not in relay.real.connected())
        await relay.real.connect(b.peer, b.real.addresses)  # but no papers were shown
        assert await ask(a, relay, hop_connect(b.peer)) == NO_RESERVATION
        await b.link(relay)
        b.judge.ban(a.peer, for_s=60)
        assert await ask(a, relay, hop_connect(b.peer)) == CONNECTION_FAILED
        assert a.peer not in b.real.connected()


async def test_who_is_expelled_by_the_relay_loses_its_circuits() -> None:
    async with circuit() as (a, b, relay):
        await relay.real.expel(a.peer)
        for one, other in ((a, b), (b, a)):
            await one.until(partial(_has_lost, one, 1))
            assert one.seen(LinkDown)[0].peer == other.peer
        await until(lambda: relay.carried("s_carried") == 0)


async def test_a_circuit_is_as_fast_as_its_relay_lets_it_be() -> None:
    slow = {"circuits": CircuitLimits(bytes_per_s_max=100_000)}
    async with circuit(**slow) as (a, b, _):

        async def sink(stream: Stream) -> None:
            while await stream.receive_some():
                pass

        b.real.serve("/test/sink", sink, members_only=True)
        stream = await a.real.open_stream(b.peer, "/test/sink")
        began_s = trio.current_time()
        await stream.send_all(bytes(300_000))
        await stream.aclose()
        assert await stream.receive_some() == b""
        assert 1.5 < trio.current_time() - began_s < 10
        a.links.enqueue(b.peer, Heartbeat(token=1))
        await b.wait_for(Received)


def _has_link(one: Linked, other: Linked) -> bool:
    return other.peer in one.links.peers


def _has_lost(one: Linked, count: int) -> bool:
    return len(one.seen(LinkDown)) >= count


async def _pump(origin: Stream, target: Stream, scope: trio.CancelScope) -> None:
    try:
        while piece := await origin.receive_some():
            await target.send_all(piece)
    finally:
        scope.cancel()
