"""GossipSub through the host: members hear each other, strangers and bad records are not heard."""

from __future__ import annotations

import contextlib
import logging

import pytest
import trio
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import encode_varint_prefixed
from support.hosts import befriend, config, connect, running, until

from p2p.errors import RecordTooLarge, StreamBroken
from p2p.gossip_intake import GOSSIP_RATE, GossipIntake
from p2p.host import Host
from p2p.identity import libp2p_id, peer_of
from p2p.judge import Judge
from p2p.pubsub import OWN_MESSAGE_TOKENS, PROTOCOL, TOPICS_PER_PEER_MAX
from wire.ids import PeerId

TOPIC = "/meshd/test/joins"


class Heard:
    """A subscription that keeps what it was given."""

    def __init__(self) -> None:
        self.records: list[tuple[PeerId, bytes]] = []

    def validate(self, author: PeerId, record: bytes) -> bool:
        if record == b"raise":
            raise ValueError("a bug")
        return record != b"refuse"

    def deliver(self, author: PeerId, record: bytes) -> None:
        self.records.append((author, record))


async def meshed(*hosts: Host) -> None:
    for host in hosts:
        await until(lambda host=host: len(host._gossip.router.mesh[TOPIC]) > 0)  # type: ignore[misc]


async def test_a_record_reaches_every_subscriber_with_its_author() -> None:
    alice, bob, carol = hosts = [Host(config(number)) for number in range(1, 4)]
    heard = [Heard() for _ in hosts]
    async with running(*hosts), trio.open_nursery() as nursery:
        await befriend(alice, bob)
        await befriend(bob, carol)  # alice's record has to be passed on
        for host, ear in zip(hosts, heard, strict=True):
            await nursery.start(host.subscribe, TOPIC, ear.validate, ear.deliver)
        await meshed(*hosts)
        await alice.publish(TOPIC, b"record")
        await until(lambda: len(heard[1].records) == len(heard[2].records) == 1)
        assert heard[2].records == [(alice.peer, b"record")]
        assert heard[0].records == []  # nobody hears itself
        nursery.cancel_scope.cancel()


async def test_refused_records_are_not_delivered_and_a_raising_validator_ends_nothing() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    ear = Heard()
    async with running(alice, bob), trio.open_nursery() as nursery:
        await befriend(alice, bob)
        await nursery.start(alice.subscribe, TOPIC, lambda author, record: True, ear.deliver)
        await nursery.start(bob.subscribe, TOPIC, ear.validate, ear.deliver)
        await meshed(alice, bob)
        for record in (b"raise", b"refuse", b"good"):
            await alice.publish(TOPIC, record)
        await until(lambda: bool(ear.records))
        assert ear.records == [(alice.peer, b"good")]
        nursery.cancel_scope.cancel()


def self_signed(author: Host, record: bytes) -> rpc_pb2.Message:
    keys = author._libp2p
    message = rpc_pb2.Message(
        data=record, topicIDs=[TOPIC], from_id=keys.get_id().to_bytes(), seqno=bytes(7) + b"\x01"
    )
    message.signature = keys.get_private_key().sign(b"libp2p-pubsub:" + message.SerializeToString())
    message.key = keys.get_public_key().serialize()
    return message


async def send(host: Host, other: Host, message: rpc_pb2.Message) -> None:
    stream = await host.open_stream(other.peer, "/meshsub/1.1.0")
    rpc = rpc_pb2.RPC(publish=[message])
    with contextlib.suppress(StreamBroken):
        await stream.send_all(encode_varint_prefixed(rpc.SerializeToString()))


async def test_a_member_is_heard_on_any_stream() -> None:
    # Shows that what the next test sends would be taken from a member.
    alice, bob = Host(config(1)), Host(config(2))
    ear = Heard()
    async with running(alice, bob), trio.open_nursery() as nursery:
        await befriend(alice, bob)
        await nursery.start(bob.subscribe, TOPIC, ear.validate, ear.deliver)
        await send(alice, bob, self_signed(alice, b"sent"))
        await until(lambda: ear.records == [(alice.peer, b"sent")])
        nursery.cancel_scope.cancel()


async def test_strangers_are_neither_heard_nor_told() -> None:
    alice, bob, mallory = (Host(config(number)) for number in range(1, 4))
    ear, stranger = Heard(), Heard()
    async with running(alice, bob, mallory), trio.open_nursery() as nursery:
        await befriend(alice, bob)
        await connect(mallory, bob)
        await mallory.admit(bob.peer, bob.addresses)  # bob does not admit mallory
        for host, one in ((alice, ear), (bob, ear), (mallory, stranger)):
            await nursery.start(host.subscribe, TOPIC, one.validate, one.deliver)
        await meshed(alice, bob)
        await mallory.publish(TOPIC, b"published")
        await send(mallory, bob, self_signed(mallory, b"sent"))
        await alice.publish(TOPIC, b"good")
        await until(lambda: bool(ear.records))
        await trio.sleep(0.2)
        assert ear.records == [(alice.peer, b"good")]
        assert stranger.records == []
        assert libp2p_id(mallory.peer) not in bob._gossip.pubsub.peers
        nursery.cancel_scope.cancel()


async def test_an_expelled_peer_leaves_the_topics() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    ear = Heard()
    async with running(alice, bob), trio.open_nursery() as nursery:
        await befriend(alice, bob)
        for host in (alice, bob):
            await nursery.start(host.subscribe, TOPIC, ear.validate, ear.deliver)
        await meshed(alice, bob)
        await bob.expel(alice.peer)
        await until(lambda: not bob._gossip.pubsub.peers)
        await until(lambda: not bob._gossip.router.mesh[TOPIC])
        nursery.cancel_scope.cancel()


async def test_a_peer_that_comes_back_is_heard_again() -> None:
    alice, bob = Host(config(1)), Host(config(2))
    ear = Heard()
    async with running(alice, bob), trio.open_nursery() as nursery:
        await befriend(alice, bob)
        for host in (alice, bob):
            await nursery.start(host.subscribe, TOPIC, ear.validate, ear.deliver)
        await meshed(alice, bob)
        await alice.disconnect(bob.peer)
        await until(lambda: not alice._gossip.pubsub.peers and not bob._gossip.pubsub.peers)
        await connect(bob, alice)
        await meshed(alice, bob)
        await alice.publish(TOPIC, b"again")
        await until(lambda: ear.records == [(alice.peer, b"again")])
        nursery.cancel_scope.cancel()


def signed(author: Host, **changes: bytes) -> rpc_pb2.Message:
    message = rpc_pb2.Message(
        from_id=libp2p_id(author.peer).to_bytes(), data=b"x", seqno=bytes(8), topicIDs=[TOPIC]
    )
    for field, content in changes.items():
        setattr(message, field, content)
    return message


async def test_hostile_messages_of_a_member_end_nothing_but_its_welcome() -> None:
    alice, bob, carol = Host(config(1)), Host(config(2)), Host(config(3))
    ear = Heard()
    async with running(alice, bob, carol), trio.open_nursery() as nursery:
        await befriend(alice, bob)
        await befriend(carol, bob)
        for host in (alice, bob, carol):
            await nursery.start(host.subscribe, TOPIC, ear.validate, ear.deliver)
        await meshed(alice, bob)
        await meshed(carol, bob)
        hostile = [
            signed(alice, signature=b"x" * 64),
            signed(alice, from_id=b"\x12\x20" + bytes(32), signature=b"x", key=b"\xff" * 9),
            signed(alice, from_id=b"", signature=b"x", key=b"\x08\x01"),
            rpc_pb2.Message(data=b"x", topicIDs=[TOPIC, *(f"/t{n}" for n in range(100))]),
            rpc_pb2.Message(data=bytes(40_000), topicIDs=[TOPIC]),
        ]
        stream = alice._gossip.pubsub.peers[libp2p_id(bob.peer)]
        for message in hostile:
            rpc = rpc_pb2.RPC(publish=[message])
            await stream.write(encode_varint_prefixed(rpc.SerializeToString()))
        await stream.write(encode_varint_prefixed(b"\xff\xff no protobuf"))
        with trio.fail_after(10):
            while not ear.records:
                await carol.publish(TOPIC, b"good")
                await trio.sleep(0.1)
        assert set(ear.records) == {(carol.peer, b"good")}
        await until(lambda: bob.connected() == {carol.peer})  # two forgeries were too many
        assert bob._judge.is_banned(alice.peer)
        assert len(bob._gossip.router.time_since_last_publish) <= 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(
            rpc_pb2.RPC(
                subscriptions=[
                    rpc_pb2.RPC.SubOpts(subscribe=number % 2 == 0, topicid=f"t{number // 2}")
                    for number in range(TOPICS_PER_PEER_MAX)
                ]
            ),
            id="subscriptions",
        ),
        pytest.param(rpc_pb2.RPC(), id="nothing"),
        pytest.param(
            rpc_pb2.RPC(
                control=rpc_pb2.ControlMessage(
                    ihave=[rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=[b"x" * 40] * 20)]
                )
            ),
            id="what somebody has",
        ),
    ],
)
async def test_a_flood_of_gossip_ends_in_a_ban_and_others_are_heard(
    flood: rpc_pb2.RPC, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "libp2p")  # a line for each of a flood takes long
    alice, bob, carol = Host(config(1)), Host(config(2)), Host(config(3))
    ear = Heard()
    async with running(alice, bob, carol), trio.open_nursery() as nursery:
        await befriend(alice, bob)
        await befriend(carol, bob)
        for host in (bob, carol):
            await nursery.start(host.subscribe, TOPIC, ear.validate, ear.deliver)
        await meshed(carol, bob)
        stream = await alice.open_stream(bob.peer, PROTOCOL)
        rpc = encode_varint_prefixed(flood.SerializeToString())
        rpcs = rpc * max(50, 16_384 // len(rpc))

        async def pour() -> None:
            with contextlib.suppress(StreamBroken):
                while True:
                    await stream.send_all(rpcs)

        nursery.start_soon(pour)
        await until(lambda: bob._judge.is_banned(alice.peer))
        assert len(bob._gossip.pubsub.peer_topics) <= TOPICS_PER_PEER_MAX + 1
        await carol.publish(TOPIC, b"still here")
        await until(lambda: ear.records == [(carol.peer, b"still here")])
        nursery.cancel_scope.cancel()


async def test_all_devices_of_a_large_mesh_at_once_are_no_flood() -> None:
    intake = GossipIntake(judge := Judge())
    sender = libp2p_id(Host(config(1)).peer)
    began_s = trio.current_time()
    for _ in range(3_000):
        for _ in range(3):
            await intake.before_read(sender)
        intake.charge(sender, 1)
    assert trio.current_time() - began_s < 5
    assert not judge.is_banned(peer_of(sender))


async def test_a_device_that_publishes_without_end_is_banned() -> None:
    intake = GossipIntake(judge := Judge())
    sender = libp2p_id(Host(config(1)).peer)
    for _ in range(int(GOSSIP_RATE.burst / OWN_MESSAGE_TOKENS) + 100):
        intake.charge(sender, OWN_MESSAGE_TOKENS)
        await intake.before_read(sender)
        if judge.is_banned(peer_of(sender)):
            return
    raise AssertionError("it went on")


async def test_a_failing_heartbeat_is_followed_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("p2p.pubsub._RESTART_S", 0.05)
    host = Host(config(1))
    beats = 0

    def fail() -> None:
        nonlocal beats
        beats += 1
        raise KeyError("a topic that just went")

    monkeypatch.setattr(host._gossip.router, "mesh_heartbeat", fail)
    async with running(host):
        await until(lambda: beats >= 2)


async def test_what_gossip_only_counts_does_not_grow() -> None:
    host = Host(config(1))
    async with running(host), trio.open_nursery() as nursery:
        await nursery.start(host.subscribe, TOPIC, lambda *_: True, lambda *_: None)
        await host.publish(TOPIC, b"x")
        assert host._gossip.router.recent_message_deliveries
        await until(lambda: not host._gossip.router.recent_message_deliveries)
        nursery.cancel_scope.cancel()


async def test_a_record_too_large_for_gossip_is_refused() -> None:
    host = Host(config(1))
    async with running(host):
        with pytest.raises(RecordTooLarge):
            await host.publish(TOPIC, bytes(32 * 1024 + 1))


async def test_a_thousand_comings_and_goings_do_not_end_gossip() -> None:
    # libp2p counts the tasks it started for peers, and gives up at a thousand that it thinks run.
    host = Host(config(1))
    async with running(host):
        manager = host._gossip.pubsub.manager
        for number in range(1_100):
            peer = ID(bytes.fromhex("002408011220") + number.to_bytes(32, "big"))
            manager.run_task(host._gossip.pubsub._handle_new_peer_with_retry, peer)
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert manager.is_running


def test_peers_that_work_well_are_kept_as_neighbours_and_newcomers_count_neither_way() -> None:
    alice, good, bad, new = (Host(config(number)) for number in range(1, 5))
    reputations = {good.peer: 0.9, bad.peer: 0.1}
    alice.rank_gossip_by(lambda peer: reputations.get(peer, 0.5))
    router = alice._gossip.router
    ids = {host: libp2p_id(host.peer) for host in (good, bad, new)}
    assert router.scorer is not None
    scores = [router.scorer.score(ids[host], [TOPIC]) for host in (good, bad, new)]
    assert scores == pytest.approx([0.8, -0.8, 0.0])
    router.mesh[TOPIC] = set(ids.values())
    assert router._select_peers_for_pruning(TOPIC, 2) == [ids[bad], ids[new]]
    assert not any(router.scorer.is_graylisted(peer, [TOPIC]) for peer in ids.values())
