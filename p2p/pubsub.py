"""GossipSub 1.1 among admitted peers: records that others may want at once.

At most about one record a second per topic: a delivery costs 2-10 ms of CPU. Nothing may depend on
it. Follows *gossipsub v1.1* of the libp2p specifications, with signed messages (StrictSign).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

import structlog
import trio
from google.protobuf.message import DecodeError
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.score import ScoreParams
from libp2p.pubsub.validators import signature_validator

from p2p.conduct import Offence
from p2p.errors import ForeignKey, RecordTooLarge
from p2p.gossip_intake import GossipIntake
from p2p.guards import accepts
from p2p.identity import peer_of
from p2p.judge import Judge
from p2p.members_view import MembersView
from wire.ids import PeerId

PROTOCOL: Final = TProtocol("/meshsub/1.1.0")
RECORD_BYTES_MAX: Final = 32 * 1024
RPC_BYTES_MAX: Final = 64 * 1024
TOPICS_PER_PEER_MAX: Final = 64
# What a peer sends costs tokens of `p2p.gossip_intake`: a message that it passes on is one.
OWN_MESSAGE_TOKENS: Final = 20  # a device publishes when it changed, which is seldom
SUBSCRIPTION_TOKENS: Final = 10
CONTROL_TOKENS: Final = 4
REPUTATION_NEUTRAL: Final = 0.5
CONTROL_TOKEN_BYTES: Final = 64  # more than the id of a message
_RESTART_S: Final = 1.0

log = structlog.get_logger()


class Gossip:
    """One device's part of the mesh's topics."""

    def __init__(self, members: MembersView, judge: Judge) -> None:
        intake = GossipIntake(judge)
        self.router = _ContainedGossipSub(intake, self._application_score)
        self.pubsub = _ContainedPubsub(members, self.router, intake)
        self._me = members.get_id()
        self._reputation_of: Callable[[PeerId], float] = lambda _: REPUTATION_NEUTRAL

    def rank_by(self, reputation_of: Callable[[PeerId], float]) -> None:
        """Prefer peers of higher reputation, in [0, 1], as neighbours in topics from now on."""
        self._reputation_of = reputation_of

    def _application_score(self, peer: ID) -> float:
        """Return the application-specific score of *gossipsub v1.1*, P5 there: in [-1, 1]."""
        return 2 * (self._reputation_of(peer_of(peer)) - REPUTATION_NEUTRAL)

    async def publish(self, topic: str, record: bytes) -> None:
        """Send `record` to the topic's subscribers, as far as they are reachable now.

        Raises RecordTooLarge: libp2p would drop it without a word.
        """
        if len(record) > RECORD_BYTES_MAX:
            raise RecordTooLarge(f"a record of {len(record)} bytes, {RECORD_BYTES_MAX} are allowed")
        await self.pubsub.publish(topic, record)

    async def subscribe(
        self,
        topic: str,
        validate: Callable[[PeerId, bytes], bool],
        deliver: Callable[[PeerId, bytes], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Deliver the topic's records until cancelled; `started` once subscribed.

        Both callables get the author, whose signature holds, and the record. `validate` decides
        whether it is delivered and passed on; one that raises refuses. `deliver` must not block:
        of more than 32 records that wait, libp2p drops the newest.
        """
        validator = functools.partial(self._is_valid, validate)
        self.pubsub.set_topic_validator(topic, validator, is_async_validator=False)
        subscription = await self.pubsub.subscribe(topic)
        task_status.started()
        try:
            while True:
                message = await subscription.get()
                author = ID(message.from_id)
                if author != self._me:
                    deliver(peer_of(author), bytes(message.data))
        finally:
            self.pubsub.remove_topic_validator(topic)
            with trio.move_on_after(1, shield=True):
                await self.pubsub.unsubscribe(topic)

    def _is_valid(
        self, validate: Callable[[PeerId, bytes], bool], forwarder: ID, message: rpc_pb2.Message
    ) -> bool:
        del forwarder
        author = ID(message.from_id)
        if author == self._me:
            return True
        return accepts(lambda: validate(peer_of(author), bytes(message.data)))

    def stop(self) -> None:
        """End the thread that libp2p starts for its cache of seen messages."""
        self.pubsub.seen_messages.stop()


class _ContainedPubsub(Pubsub):
    """Pubsub that no message can end: libp2p's raises on some that are wrongly signed."""

    def __init__(self, members: MembersView, router: GossipSub, intake: GossipIntake) -> None:
        self._intake = intake
        super().__init__(
            members.as_host(),
            router,
            cache_size=128,
            seen_ttl=120,
            sweep_interval=60,
            strict_signing=True,
            validation_cache_ttl=120,
            validation_cache_size=1_000,
            validation_timeout=5.0,
            max_subscriptions_per_rpc=TOPICS_PER_PEER_MAX,
            max_subscriptions_per_peer=TOPICS_PER_PEER_MAX,
            max_inbound_rpc_size=RPC_BYTES_MAX,
            allowed_topics=None,
        )

    def _handle_dead_peer(self, peer_id: ID) -> None:
        """Give up the stream to a peer, but not what it subscribed to while it is connected.

        It told us on a stream of its own and will not say it again: libp2p would never send it
        anything any more.
        """
        connected = self._peer_is_connected(peer_id)
        topics = [topic for topic, peers in self.peer_topics.items() if peer_id in peers]
        super()._handle_dead_peer(peer_id)
        if connected and topics:
            self._peer_subscription_count[peer_id] = len(topics)
            for topic in topics:
                self.peer_topics.setdefault(topic, set()).add(peer_id)

    async def continuously_read_stream(self, stream: INetStream) -> None:
        """Read what a peer sends, as fast as it may send."""
        peer = stream.muxed_conn.peer_id
        try:
            await super().continuously_read_stream(self._intake.paced(stream))
        except DecodeError as error:
            self._intake.blame(peer, Offence.MALFORMED, f"an RPC of gossip: {error}")
            await stream.reset()

    def handle_subscription(self, origin_id: ID, sub_message: rpc_pb2.RPC.SubOpts) -> None:
        """Note that a peer subscribes to a topic, or no longer."""
        self._intake.charge(origin_id, SUBSCRIPTION_TOKENS)
        super().handle_subscription(origin_id, sub_message)

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Take in one message, ours or another's."""
        if msg_forwarder != self.my_id and not self._is_taken_from(msg_forwarder, msg):
            return
        if len(msg.topicIDs) != 1 or len(msg.data) > RECORD_BYTES_MAX:
            return  # a message of several topics would enter those we know nothing about
        try:
            peer_of(ID(msg.from_id))
            await super().push_msg(msg_forwarder, msg)
        except ForeignKey:
            log.info("gossip.refused", peer_id=str(msg_forwarder), reason="foreign author")
        except Exception as error:  # noqa: BLE001 - one message's failure must not end the host
            log.warning("gossip.message_failed", peer_id=str(msg_forwarder), error=repr(error))

    def _is_taken_from(self, forwarder: ID, msg: rpc_pb2.Message) -> bool:
        """Say whether a message is news that may be looked at further: whoever passes one on has
        checked its signature.
        """
        is_own_word = msg.from_id == forwarder.to_bytes()
        self._intake.charge(forwarder, OWN_MESSAGE_TOKENS if is_own_word else 1)
        if self._intake.is_banned(forwarder) or self._is_msg_seen(msg):
            return False
        if not accepts(lambda: signature_validator(msg)):
            self._intake.blame(forwarder, Offence.FORGED, "a message of gossip")
            return False
        return True


class _ContainedGossipSub(GossipSub):
    """GossipSub 1.1 with every option given: some defaults are far from the specification."""

    def __init__(self, intake: GossipIntake, application_score: Callable[[ID], float]) -> None:
        self._intake = intake
        super().__init__(
            protocols=[PROTOCOL],  # 1.2 doubles the CPU of a delivery
            degree=4,
            degree_low=3,
            degree_high=6,
            direct_peers=None,
            time_to_live=60,
            gossip_window=3,
            gossip_history=5,
            heartbeat_initial_delay=0.1,
            heartbeat_interval=1,  # the default is 120 s, the specification says 1 s
            direct_connect_initial_delay=0.1,
            direct_connect_interval=300,
            do_px=False,
            px_peers_count=0,
            prune_back_off=60,
            unsubscribe_back_off=10,
            # Conduct is judged by the intake. The score says whom to keep in a topic's mesh: there
            # are no thresholds, since who works badly may gossip well.
            score_params=ScoreParams(
                p6_appl_slack_weight=1.0,  # libp2p calls the application's P6
                app_specific_score_fn=application_score,
            ),
            max_idontwant_messages=10,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,  # it drops above ten a second of one *forwarder*
            max_messages_per_topic_per_second=10.0,
            eclipse_protection_enabled=False,  # a home has one address; members are certified
            min_mesh_diversity_ips=0,
            my_extensions=None,
            max_pending_messages_per_peer=32,
            pending_messages_ttl=30.0,
        )

    async def heartbeat(self) -> None:
        """Beat for ever; a beat that fails is logged and the next one comes."""
        while True:
            try:
                await super().heartbeat()
            except Exception as error:  # noqa: BLE001 - one topic's failure must not end the host
                log.warning("gossip.heartbeat_failed", error=repr(error))
            await trio.sleep(_RESTART_S)

    def fanout_heartbeat(self) -> None:
        """Do libp2p's part, and empty what it only ever fills while adaptive gossip is off."""
        self.recent_message_deliveries.clear()
        self.recent_peer_connections.clear()
        self.recent_peer_disconnections.clear()
        super().fanout_heartbeat()

    async def handle_rpc(self, rpc: rpc_pb2.RPC, sender_peer_id: ID) -> None:
        """Take in what a peer says about meshes and messages."""
        tokens = CONTROL_TOKENS + rpc.control.ByteSize() / CONTROL_TOKEN_BYTES
        self._intake.charge(sender_peer_id, tokens)
        await super().handle_rpc(rpc, sender_peer_id)

    async def on_peer_subscribed(self, peer_id: ID, topic: str) -> None:
        """Greet a new subscriber; runs as a task of its own, so it is contained."""
        try:
            await super().on_peer_subscribed(peer_id, topic)
        except Exception as error:  # noqa: BLE001 - one peer's failure must not end the host
            log.warning("gossip.greeting_failed", peer_id=str(peer_id), error=repr(error))

    async def flush_pending_messages(self, peer_id: ID) -> None:
        """Send what waited for a peer; runs as a task of its own, so it is contained."""
        try:
            await super().flush_pending_messages(peer_id)
        except Exception as error:  # noqa: BLE001 - one peer's failure must not end the host
            log.warning("gossip.flush_failed", peer_id=str(peer_id), error=repr(error))
