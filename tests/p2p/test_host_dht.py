"""Kademlia provider records through the host: per mesh, fresh, each provider once, members only."""

from __future__ import annotations

import logging

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.kad_dht.common import PROTOCOL_ID
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.peerinfo import PeerInfo
from support.hosts import befriend, config, connect, running, until

from p2p.dht import PROVIDED_KEYS_MAX
from p2p.host import Host, Provider
from p2p.identity import libp2p_id
from p2p.kad_query import ask_for_providers, claim_of
from p2p.provider_lookup import record_key
from wire.ids import PeerId

KEY = "arch:aarch64"


async def family(*hosts: Host) -> None:
    for index, host in enumerate(hosts):
        for other in hosts[:index]:
            await befriend(host, other)


def claim(host: Host) -> Provider:
    return Provider(host.peer, host.addresses)


async def test_every_provider_is_found_once_by_every_device() -> None:
    hosts = [Host(config(number)) for number in range(1, 7)]
    async with running(*hosts):
        await family(*hosts)
        for provider in hosts[:3]:
            assert await provider.provide(KEY)
        expected = tuple(sorted(claim(provider) for provider in hosts[:3]))
        some, nothing = (host._dht.kad.provider_store.providers for host in hosts[4:])
        some[record_key(KEY)].popitem()  # libp2p would stop at what it has stored itself,
        nothing.clear()  # or count every copy of a record that others have, and keep one
        for seeker in hosts:
            with trio.fail_after(10):
                assert await seeker.find_providers(KEY) == expected
        assert nothing == {}
        assert await hosts[5].find_providers("arch:x86_64") == ()


async def test_a_lookup_is_answered_afresh_and_leaves_no_copy_behind() -> None:
    alice, bob, carol = hosts = [Host(config(number)) for number in range(1, 4)]
    async with running(*hosts):
        await family(*hosts)
        await alice.provide(KEY)
        assert await carol.find_providers(KEY) == (claim(alice),)
        for host in (bob, carol):
            host._dht.kad.provider_store.providers.clear()
        alice.withdraw(KEY)
        assert await carol.find_providers(KEY) == ()
        await bob.provide(KEY)
        assert await carol.find_providers(KEY) == (claim(bob),)


async def test_records_and_questions_that_end_well_are_no_news(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("libp2p"), "propagate", True)
    alice, bob = Host(config(1)), Host(config(2))
    async with running(alice, bob):
        await befriend(alice, bob)
        with caplog.at_level(logging.DEBUG, logger="libp2p.kad_dht.kad_dht"):
            await alice.provide(KEY)
            assert await bob.find_providers(KEY) == (claim(alice),)
            await until(lambda: "Stream closed (EOF)" in caplog.text)
        assert [line for line in caplog.records if line.levelno >= logging.WARNING] == []


async def test_a_withdrawn_record_stays_with_those_who_took_it() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    async with running(alice, bob):
        await befriend(alice, bob)
        await alice.provide(KEY)
        alice.withdraw(KEY)
        assert record_key(KEY) not in alice._dht.kad.provider_store.providers
        assert await bob.find_providers(KEY) == (claim(alice),)


async def test_meshes_of_other_prefixes_do_not_see_each_other_in_one_process() -> None:
    red = [Host(config(number, dht_prefix="/meshd/red/kad")) for number in (1, 2)]
    blue = [Host(config(number, dht_prefix="/meshd/blue/kad")) for number in (3, 4)]
    async with running(*red, *blue):
        await family(*red, *blue)  # even where they admit each other
        assert await red[0].provide(KEY)
        assert await blue[0].provide(KEY)
        assert await red[1].find_providers(KEY) == (claim(red[0]),)
        assert await blue[1].find_providers(KEY) == (claim(blue[0]),)


async def test_only_admitted_peers_enter_the_routing_table() -> None:
    alice, bob, mallory = (Host(config(number)) for number in range(1, 4))
    async with running(alice, bob, mallory):
        await befriend(alice, bob)
        await connect(mallory, alice)
        await mallory.admit(alice.peer, alice.addresses)
        await bob.admit(mallory.peer, mallory.addresses)  # bob will name mallory to alice
        await connect(bob, mallory)
        await mallory.provide(KEY)
        assert claim(mallory) not in await alice.find_providers(KEY)
        table = alice._dht.kad.routing_table
        await alice._dht.kad.peer_routing.refresh_routing_table()
        assert table.get_peer_ids() == [libp2p_id(bob.peer)]
        await alice.expel(bob.peer)
        assert table.get_peer_ids() == []


async def test_records_outlive_the_link_they_came_by_but_not_their_devices_membership() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    async with running(alice, bob):
        await befriend(alice, bob)
        await bob.provide(KEY)
        await alice.expel(bob.peer)
        assert await alice.find_providers(KEY) == (claim(bob),)
        await alice.expel(bob.peer, for_good=True)
        assert alice._dht.kad.provider_store.providers == {}


async def test_a_device_that_is_not_connected_is_introduced_and_then_asked() -> None:
    alice, bob, carol = (Host(config(number)) for number in range(1, 4))
    introduced: list[PeerId] = []

    async def introduce(peer: PeerId, addresses: tuple[str, ...]) -> None:
        introduced.append(peer)
        await alice.connect(peer, addresses)
        await alice.admit(peer, addresses)
        await carol.admit(alice.peer, alice.addresses)  # what a handshake does at the other end

    alice._introduce = introduce
    async with running(alice, bob, carol):
        await befriend(alice, bob)
        await befriend(bob, carol)
        await carol.provide(KEY)
        bob._dht.kad.provider_store.providers.clear()  # only carol can tell
        assert await alice.find_providers(KEY) == (claim(carol),)
        assert introduced == [carol.peer]


async def test_a_device_that_does_not_answer_hides_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p.dht.QUERY_S", 0.3)
    alice, bob, carol = hosts = [Host(config(number)) for number in range(1, 4)]

    async def hang(_: INetStream) -> None:
        await trio.sleep_forever()

    async with running(*hosts):
        await family(*hosts)
        await bob.provide(KEY)
        carol._members.set_stream_handler(PROTOCOL_ID, hang)
        with trio.fail_after(2):
            assert await alice.find_providers(KEY, is_thorough=True) == (claim(bob),)


async def test_a_device_that_serves_no_kademlia_is_none_of_the_nearest() -> None:
    alice, bob, carol = hosts = [Host(config(number)) for number in range(1, 4)]
    async with running(*hosts):
        await family(*hosts)
        carol._libp2p.get_mux().handlers.pop(TProtocol("/meshd/test/kad/1.0.0"))
        assert await bob.provide(KEY)
        with trio.fail_after(2):
            assert await alice.find_providers(KEY, is_thorough=True) == (claim(bob),)


async def test_a_question_is_one_write_and_so_takes_one_round_trip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alice, bob = Host(config(1)), Host(config(2))
    written: list[bytes] = []
    async with running(alice, bob):
        await befriend(alice, bob)
        await bob.provide(KEY)
        write = NetStream.write

        async def noted(stream: NetStream, frame: bytes) -> None:
            if stream.muxed_conn.peer_id == libp2p_id(bob.peer):
                written.append(frame)
            await write(stream, frame)

        monkeypatch.setattr(NetStream, "write", noted)
        answer = await ask_for_providers(alice._members, libp2p_id(bob.peer), record_key(KEY))
        assert [claim_of(named).peer for named in answer.providers] == [bob.peer]
    assert len(written) == 1


async def test_nobody_stores_values() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    async with running(alice, bob):
        await befriend(alice, bob)
        for key in ("/pk/x", "/ipns/x", "plain", "/anything/x"):
            stored = alice._dht.kad.value_store._store_at_peer(
                libp2p_id(bob.peer), key.encode(), b"value"
            )
            await stored
        assert bob._dht.kad.get_value_store_size() == 0


async def test_provider_records_are_bounded_and_the_newest_win() -> None:
    store = Host(config(1))._dht.kad.provider_store
    clock = iter(range(1_000_000))
    for number in range(25):
        store.add_provider(b"key", info(number))
        newest = store.providers[b"key"][str(info(number).peer_id)]
        newest.timestamp = next(clock)
    assert len(store.providers[b"key"]) == 20
    assert str(info(24).peer_id) in store.providers[b"key"]
    assert str(info(0).peer_id) not in store.providers[b"key"]
    for number in range(PROVIDED_KEYS_MAX + 10):
        store.add_provider(number.to_bytes(4, "big"), info(1))
    assert len(store.providers) == PROVIDED_KEYS_MAX


def info(number: int) -> PeerInfo:
    return PeerInfo(libp2p_id(PeerId(number.to_bytes(32, "big"))), [])
