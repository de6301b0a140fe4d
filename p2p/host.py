"""One device on the network: the front door to libp2p for everything else.

TCP with Noise and Yamux in a private network; identify and ping answer everybody who holds the
network key, everything else only whom `admit` let in. No type of libp2p leaves this module:
devices are `PeerId`s, addresses are text, streams are `p2p.streams.Stream`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import structlog
import trio
from libp2p.abc import INetStream
from libp2p.crypto.x25519 import create_new_key_pair as create_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.identify import identify_handler_for
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as NoiseTransport
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types

from p2p.addresses import Address, expand_wildcard, parse_address
from p2p.circuit_messages import HOP, STOP
from p2p.circuits import Circuits
from p2p.connections import Connected, ConnectionWatch, Disconnected, seen_at
from p2p.courtesy import seldom
from p2p.dht import Dht, Provider, protocol_names
from p2p.errors import NetworkError, NoMulticast, PeerUnreachable, ProtocolRefused, StreamBroken
from p2p.gate import Gate
from p2p.guards import NEGOTIATE_S, SilentHost
from p2p.host_config import HostConfig
from p2p.host_metrics import HostCounters
from p2p.identity import key_pair, libp2p_id, peer_of
from p2p.judge import Judge
from p2p.kad_query import dialable
from p2p.mdns import run_mdns
from p2p.members_view import MembersView
from p2p.muxed_stream import MuxedStream
from p2p.muxing import NoiseYamuxUpgrader
from p2p.ping import PING_PROTOCOL_ID, PingServer
from p2p.pubsub import Gossip
from p2p.relay import Relay
from p2p.services import Services
from p2p.streams import Stream, StreamHandler
from p2p.swarm import MeshSwarm, SwarmLimits
from p2p.transport import TcpTransport, bind_all
from telemetry.metrics import Metrics
from wire.ids import PeerId, peer_text

LOOK_EVERY_S: Final = 5.0
_FOREVER_S: Final = 10 * 365 * 24 * 3_600

log = structlog.get_logger()

__all__ = ["Connected", "Disconnected", "Host", "HostConfig", "Provider"]


async def _nobody_introduces(peer: PeerId, addresses: tuple[str, ...]) -> None:
    del peer, addresses


class Host:
    """One device's connections, streams, gossip and provider records.

    The callbacks are called from `run`, must not block, and end it if they raise:
    `on_connected`/`on_disconnected` for a peer's first and last connection, `on_discovered` for
    devices that announce themselves on the local network (dial them or not: nobody else does),
    `on_moved` with `addresses` when those have changed.
    `introduce(peer, addresses)` is awaited when Kademlia would ask a device that is not connected
    or not admitted: it should connect, do the membership handshake and `admit`; or raise a
    NetworkError; or just return.
    `judge` is told of offences, and connections of those that it bans are closed.
    """

    def __init__(
        self,
        config: HostConfig,
        *,
        on_connected: Callable[[Connected], None] = lambda event: None,
        on_disconnected: Callable[[Disconnected], None] = lambda event: None,
        on_discovered: Callable[[PeerId, tuple[str, ...]], None] = lambda peer, addresses: None,
        on_moved: Callable[[tuple[str, ...]], None] = lambda addresses: None,
        introduce: Callable[[PeerId, tuple[str, ...]], Awaitable[None]] = _nobody_introduces,
        judge: Judge | None = None,
        counters: HostCounters | None = None,
    ) -> None:
        self._config = config
        self._listen = [parse_address(text) for text in config.listen]
        self._announce = [parse_address(text) for text in config.announce]
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._on_discovered = on_discovered
        self._on_moved = on_moved
        self._moved = trio.Event()  # set, and replaced, when our addresses have changed
        self._introduce = introduce
        self._judge = judge or Judge()
        self._counters = counters or HostCounters(Metrics())
        self._addresses: tuple[Address, ...] = ()
        self._gate = Gate()
        self._transport = TcpTransport(config.network_key)
        self._peerstore = PeerStore()
        self._swarm = self._new_swarm()
        self._libp2p = SilentHost(
            self._swarm,
            enable_mDNS=False,
            enable_upnp=False,
            bootstrap=None,
            negotiate_timeout=NEGOTIATE_S,
            addrs_factory=lambda candidates: [Multiaddr(str(own)) for own in self._addresses],
            disable_identify_address_discovery=True,
        )
        self._libp2p.remove_stream_handler(ID_PUSH)  # it would let anybody write our peerstore
        self._watch = ConnectionWatch(self._swarm)
        self._swarm.register_notifee(self._watch)
        self._members = MembersView(
            self._libp2p,
            self._swarm,
            self._gate,
            names=protocol_names(config.dht_prefix),
            introduce=self._introduced,
        )
        self._gossip = Gossip(self._members, self._judge)
        self._dht = Dht(self._members, self._gate)
        self._libp2p.set_stream_handler(
            IDENTIFY, seldom(identify_handler_for(self._libp2p), self._judge)
        )
        self.serve(PING_PROTOCOL_ID, PingServer(self._judge).serve, members_only=False)
        self._circuits = Circuits(
            network_keys=lambda: self._transport.network_keys,
            open_stream=self._open_member_stream,
            accept=self._swarm.accept_circuit,
            is_banned=self._judge.is_banned,
        )
        self.serve(STOP, self._circuits.serve, members_only=True)
        relay = Relay(
            limits=config.circuits,
            open_stream=self._open_member_stream,
            is_linked=self._is_linked,
            counters=self._counters.circuits,
        )
        self.serve(HOP, relay.serve, members_only=True)

    def _new_swarm(self) -> MeshSwarm:
        config = self._config
        keys = key_pair(config.identity_seed)
        me = ID.from_pubkey(keys.public_key)
        self._peerstore.add_key_pair(me, keys)
        noise = NoiseTransport(keys, noise_privkey=create_x25519_key_pair().private_key)
        limits = SwarmLimits(
            connections_max=config.connections_max,
            doorway=config.doorway,
            connections_per_peer_max=config.connections_per_peer_max,
            member_streams_max=config.member_streams_max,
            stranger_streams_max=config.stranger_streams_max,
            stranger_s_max=config.stranger_s_max,
        )
        return MeshSwarm(
            peer_id=me,
            peerstore=self._peerstore,
            # Noise alone: libp2p's default would accept connections without encryption, too.
            upgrader=NoiseYamuxUpgrader(
                {NOISE_PROTOCOL: noise}, self._gate.is_admitted, self._judge
            ),
            transport=self._transport,
            limits=limits,
            is_admitted=self._gate.is_admitted,
            judge=self._judge,
            counters=self._counters,
        )

    @property
    def peer(self) -> PeerId:
        """Our own id."""
        return peer_of(self._swarm.get_peer_id())

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others can dial us: real ports, wildcards as the addresses of our interfaces.

        They change when those do; `on_moved` tells.
        """
        return tuple(str(address) for address in self._addresses)

    def use_network_keys(self, network_keys: tuple[bytes, ...]) -> None:
        """Accept these keys from now on, the first to dial with; at most two. Connections stay."""
        self._transport.use_network_keys(network_keys)

    # Running

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be on the network until cancelled; `started` once listening.

        Raises CannotListen before anything else happens. A cancelled host says goodbye to its peers
        and is gone after at most `SHUTDOWN_S` + 1 s (`p2p.services`).
        """
        try:
            bound = await bind_all(self._listen)
            self._addresses = self._dialable(bound)
            await self._run_on(bound, task_status)
        finally:
            self._gossip.stop()

    def _dialable(self, bound: Iterable[Address]) -> tuple[Address, ...]:
        reached = [expanded for own in bound for expanded in expand_wildcard(own)]
        return tuple(dict.fromkeys(self._announce or reached))

    async def _run_on(
        self, bound: dict[Address, trio.SocketListener], task_status: trio.TaskStatus[None]
    ) -> None:
        self._transport.offer(bound)
        services = Services(
            swarm=self._swarm,
            transport=self._transport,
            peerstore=self._peerstore,
            upper=(self._gossip.pubsub, self._gossip.router, self._dht.kad),
        )
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(services.run, list(bound), stop)
            try:
                nursery.start_soon(self._run_events)
                nursery.start_soon(self._run_addresses, tuple(bound))
                if self._config.mdns_service is not None:
                    nursery.start_soon(self._run_mdns, self._config.mdns_service)
                task_status.started()
                await trio.sleep_forever()
            finally:
                stop.set()

    async def _run_events(self) -> None:
        async for event in self._watch.events:
            peer = libp2p_id(event.peer)
            if isinstance(event, Connected):
                self._on_connected(event)
                if self._gate.is_admitted(peer):
                    await self._members.arrived(peer)
            else:
                self._gate.forget(peer)
                await self._members.left(peer)
                self._on_disconnected(event)

    async def _run_addresses(self, bound: tuple[Address, ...]) -> None:
        """Look where we can be dialled, for ever: a laptop moves, a router forgets, a Pi boots
        before its network does.
        """
        while True:
            await trio.sleep(LOOK_EVERY_S)
            found = self._dialable(bound)
            # Without a network nobody hears us: what we said may be true again when it is back.
            if found == self._addresses or all(address.is_loopback for address in found):
                continue
            self._addresses = found
            log.info("addresses.changed", addresses=list(self.addresses))
            self._moved.set()
            self._moved = trio.Event()
            self._on_moved(self.addresses)

    async def _run_mdns(self, service: str) -> None:
        """Announce us, anew when we have moved: zeroconf stays with the interfaces it began on."""
        while True:
            moved = self._moved
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._announce_us, service)
                await moved.wait()
                nursery.cancel_scope.cancel()

    async def _announce_us(self, service: str) -> None:
        try:
            await run_mdns(service, self.peer, self.addresses, self._on_discovered)
        except NoMulticast as error:
            log.warning("mdns.unavailable", reason=str(error))

    # Connections and streams

    async def connect(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Connect to `peer` at one of `addresses` (at most 8 are tried), unless it is connected.

        Raises PeerUnreachable, or WrongNetwork or WrongPeer if that is so at every address. The
        timeout is the caller's.
        """
        if not self._swarm.live_connections(libp2p_id(peer)):
            await self.connect_directly(peer, addresses)

    async def connect_directly(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Connect as `connect` does, also where there is a connection that another carries."""
        await self._swarm.reach(libp2p_id(peer), [parse_address(text) for text in addresses])

    async def connect_through(self, peer: PeerId, relays: Sequence[PeerId]) -> None:
        """Connect to `peer` through the first of `relays`, all members, that carries it there.

        Raises PeerUnreachable. The timeout is the caller's.
        """
        if self._swarm.live_connections(libp2p_id(peer)):
            return
        failures = []
        for relay in relays:
            for place in range(max(1, len(self._transport.network_keys))):
                try:
                    connection = await self._circuits.open(relay, peer, place)
                    await self._swarm.reach_through(libp2p_id(peer), connection)
                except NetworkError as error:
                    failures.append(str(error))
                else:
                    return
        raise PeerUnreachable("; ".join(failures) or "nobody is asked to carry it")

    async def leave_circuits(self, peer: PeerId) -> None:
        """Close the connections to `peer` that another device carries."""
        async with trio.open_nursery() as nursery:
            for connection in self._swarm.carried_connections(libp2p_id(peer)):
                nursery.start_soon(connection.close)

    def _is_linked(self, peer: PeerId) -> bool:
        known = libp2p_id(peer)
        return self._gate.is_admitted(known) and bool(self._swarm.direct_connections(known))

    async def _open_member_stream(self, peer: PeerId, protocol: str) -> Stream:
        """Open a stream that ends when the peer is expelled. Raises PeerUnreachable."""
        known = libp2p_id(peer)
        if not self._is_linked(peer):
            raise PeerUnreachable(f"{peer_text(peer)} is not linked")
        try:
            return MuxedStream(await self._members.new_stream(known, [TProtocol(protocol)]))
        except (SwarmException, StreamFailure) as error:
            raise PeerUnreachable(f"{peer_text(peer)}: {error}") from error

    async def disconnect(self, peer: PeerId) -> None:
        """Close every connection to `peer`."""
        connections = self._swarm.live_connections(libp2p_id(peer))
        async with trio.open_nursery() as nursery:
            for connection in connections:
                nursery.start_soon(connection.close)

    def connected(self) -> frozenset[PeerId]:
        """Return the devices that are connected."""
        peers = list(self._swarm.connections)
        return frozenset(peer_of(peer) for peer in peers if self._swarm.live_connections(peer))

    def seen_at(self, peer: PeerId) -> tuple[str, ...]:
        """Return the other ends of the connections to `peer`, none if it is not connected.

        Of connections that the peer made, the port is that of an outgoing socket.
        """
        connections = self._swarm.live_connections(libp2p_id(peer))
        return tuple(dict.fromkeys(text for text in map(seen_at, connections) if text))

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        """Open a stream on a standing connection; two round trips.

        Raises PeerUnreachable if there is none, ProtocolRefused, or StreamBroken. A peer that does
        not admit us resets the stream of a members' protocol after this returned.
        """
        try:
            stream = await self._libp2p.new_stream(libp2p_id(peer), [TProtocol(protocol)])
        except SwarmException as error:
            raise PeerUnreachable(f"{peer_text(peer)}: {error}") from error
        except StreamFailure as error:
            if "not supported" in str(error.__cause__):
                raise ProtocolRefused(f"{peer_text(peer)} does not serve {protocol}") from error
            raise StreamBroken(f"{peer_text(peer)}: {error.__cause__}") from error
        return MuxedStream(stream)

    def serve(self, protocol: str, handler: StreamHandler, *, members_only: bool) -> None:
        """Give every stream of `protocol` to `handler`, each in a task of its own.

        A stream ends with its handler: finished if that returned, reset if it raised (which is
        logged). With `members_only`, streams of peers that are not admitted within 2 s are reset.
        """

        async def handle(stream: INetStream) -> None:
            muxed = MuxedStream(stream)
            try:
                await handler(muxed)
            except StreamBroken as error:  # the peer's doing or the network's: nothing failed here
                log.debug("stream.broken", peer_id=peer_text(muxed.peer), reason=str(error))
                await muxed.reset()
            else:
                await muxed.aclose()

        gated = self._gate.members_only(handle) if members_only else handle
        self._libp2p.set_stream_handler(TProtocol(protocol), gated)

    # Membership

    async def admit(self, peer: PeerId, addresses: Sequence[str] = ()) -> None:
        """Let `peer` in: gossip, Kademlia and members' protocols. Lasts until `expel`.

        `addresses` are where it says others can dial it; Kademlia passes them on.
        """
        known = libp2p_id(peer)
        multiaddrs = [Multiaddr(str(parse_address(text))) for text in addresses]
        if multiaddrs:
            self._peerstore.clear_addrs(known)  # what it said before is out of date
            self._peerstore.add_addrs(known, multiaddrs, _FOREVER_S)
        news = self._gate.admit(known)
        await self._dht.admit(known, multiaddrs)
        if news:
            await self._members.arrived(known)

    async def expel(self, peer: PeerId, *, for_good: bool = False) -> None:
        """Shut `peer` out of everything for members; it stays connected.

        Its provider records stay: it gave them to whom is nearest to a key, mostly over a link that
        ended a moment later. `for_good`, they are forgotten, too.
        """
        known = libp2p_id(peer)
        await self._gate.expel(known)
        self._dht.expel(known)
        if for_good:
            self._dht.forget_records(known)
        self._peerstore.clear_addrs(known)
        await self._members.left(known)

    async def _introduced(self, peer: ID) -> None:
        if self._swarm.live_connections(peer) and self._gate.is_admitted(peer):
            return
        stored = self._peerstore
        addresses = dialable(stored.addrs(peer)) if stored.has_peer(peer) else []
        try:
            await self._introduce(peer_of(peer), tuple(map(str, addresses)))
        except NetworkError as error:
            log.info("peer.not_introduced", peer_id=str(peer), reason=str(error))

    # Provider records and gossip

    async def provide(self, key: str) -> bool:
        """Announce to the devices nearest to `key` that we provide it; say whether there were any.

        Nobody confirms. They keep the record for 48 hours: provide again before that. At most one
        key a second: libp2p's hosts accept ten records in ten seconds of a peer, no more.
        """
        return await self._dht.provide(key)

    def withdraw(self, key: str) -> None:
        """Stop claiming to provide `key`.

        From now on we do not answer with it ourselves. Kademlia has no message that takes a record
        back: other devices go on telling that we provide the key until 48 hours after the last
        `provide`, or until twenty newer providers pushed us out. Whoever finds us that way has to
        ask us, as for every record.
        """
        self._dht.withdraw(key)

    async def find_providers(self, key: str, *, is_thorough: bool = False) -> tuple[Provider, ...]:
        """Return who claims to provide `key`, each device once, asked afresh from the network.

        May name ourselves, and devices that stopped providing: ask them. Those come first whom
        most others named. Takes `p2p.dht.LOOKUP_S` at most, and returns what was found by then.
        """
        return await self._dht.find_providers(key, is_thorough=is_thorough)

    def rank_gossip_by(self, reputation_of: Callable[[PeerId], float]) -> None:
        """Prefer peers of higher reputation, in [0, 1], as neighbours in GossipSub's topics."""
        self._gossip.rank_by(reputation_of)

    async def publish(self, topic: str, record: bytes) -> None:
        """Send `record` to the topic's subscribers. Raises RecordTooLarge above 32 KiB."""
        await self._gossip.publish(topic, record)

    async def subscribe(
        self,
        topic: str,
        validate: Callable[[PeerId, bytes], bool],
        deliver: Callable[[PeerId, bytes], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Deliver the records of `topic` until cancelled; start it with `nursery.start`.

        Both callables get the author and the record, in the order received. What `validate` refuses
        is neither delivered nor passed on. `deliver` must not block.
        """
        await self._gossip.subscribe(topic, validate, deliver, task_status=task_status)
