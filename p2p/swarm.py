"""The connections of one host: who may connect, how we dial, who is there.

libp2p's swarm with its accepting and dialling replaced. Bounds: connections in all, per address and
per peer, streams per peer, and how long somebody may stay connected without being admitted.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import SystemRandom
from typing import Final

import structlog
import trio
from libp2p.abc import IMuxedConn, INetConn, INetStream, IPeerStore
from libp2p.connection_types import ConnectionType
from libp2p.custom_types import StreamHandlerFn
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types

from p2p.addresses import Address
from p2p.circuit_address import circuit_address, is_carried
from p2p.circuit_connection import CircuitConnection
from p2p.dialling import causes_of, race, unreachable, why
from p2p.doorway import Doorway, DoorwaySettings
from p2p.errors import PeerUnreachable
from p2p.guards import NEGOTIATE_S, contained
from p2p.host_metrics import HostCounters
from p2p.identity import peer_of
from p2p.judge import Judge
from p2p.transport import TcpConnection, TcpTransport, dialling_with
from wire.ids import PeerId, peer_text

ADDRESSES_DIALLED_MAX: Final = 8
STREAMS_UNFINISHED_MAX: Final = 1_024

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmLimits:
    """How much anybody may have of us; counts, and seconds."""

    connections_max: int
    doorway: DoorwaySettings
    connections_per_peer_max: int
    member_streams_max: int
    stranger_streams_max: int
    stranger_s_max: float


@dataclass(slots=True, eq=False)
class _Visitor:
    """An incoming connection. `peer` is None until its handshake is over."""

    connection: TcpConnection
    peer: ID | None = None
    is_turned_out: bool = False

    @property
    def ip(self) -> str:
        return self.connection.remote.host

    def turn_out(self) -> None:
        self.is_turned_out = True
        self.connection.abort()


class _PeerIsBanned(SwarmException):
    """Nothing is taken from the peer at the other end, whom the handshake named."""


class MeshSwarm(Swarm):
    """libp2p's swarm, accepting and dialling by our rules."""

    def __init__(
        self,
        *,
        peer_id: ID,
        peerstore: IPeerStore,
        upgrader: TransportUpgrader,
        transport: TcpTransport,
        limits: SwarmLimits,
        is_admitted: Callable[[ID], bool],
        judge: Judge,
        counters: HostCounters,
    ) -> None:
        super().__init__(
            peer_id,
            peerstore,
            upgrader,
            [transport],
            RetryConfig(max_retries=0),
            _connection_config(limits.connections_max),
        )
        self.auto_connector = _NoAutoConnector(self)
        self._tcp = transport
        transport.may_come_in = self._may_come_in
        self._limits = limits
        self._is_admitted = is_admitted
        self._judge = judge
        self._counters = counters
        self._doorway = Doorway(limits.doorway, SystemRandom())
        self._visitors: dict[_Visitor, None] = {}  # in the order in which they came
        self._streams_per_peer: Counter[ID] = Counter()
        self._dialling: dict[ID, trio.Event] = {}

    async def _handle_inbound_connection(
        self, read_write_closer: ReadWriteCloser, maddr: Multiaddr
    ) -> None:
        """Serve one accepted connection until it ends, and give back its place then."""
        assert isinstance(read_write_closer, TcpConnection)  # noqa: S101 - our transport is the only one
        ip = read_write_closer.remote.host
        visitor = _Visitor(read_write_closer)
        self._visitors[visitor] = None
        self._make_room()
        try:
            await self._accept(visitor, maddr)
        except Exception as error:  # noqa: BLE001 - a stranger's handshake must not end the host
            self._counters.connections_failed.increment()
            self._note_failure(ip, of_banned_peer=isinstance(error, _PeerIsBanned))
            is_news = not self._doorway.is_notorious(ip, now_s=trio.current_time())
            (log.info if is_news else log.debug)(
                "connection.refused", address=ip, reason=why(error)
            )
        finally:
            del self._visitors[visitor]
            self._doorway.left(ip)
            with trio.move_on_after(1, shield=True):
                await read_write_closer.close()

    def _may_come_in(self, ip: str) -> bool:
        """Say whether a connection is taken, which then has a place."""
        objection = self._doorway.objection(ip, now_s=trio.current_time())
        if objection is None:
            return True
        self._counters.connections_refused.increment()
        log.debug("connection.refused", address=ip, reason=objection)
        self._note_failure(ip)
        return False

    def _make_room(self) -> None:
        """Let a stranger leave if there are more than there may be."""
        strangers = [visitor for visitor in self._visitors if self._is_stranger(visitor)]
        ips = [stranger.ip for stranger in strangers]
        place = self._doorway.whom_to_turn_out(ips, now_s=trio.current_time())
        if place is not None:
            strangers[place].turn_out()

    def _is_stranger(self, visitor: _Visitor) -> bool:
        """Say whether a connection takes one of the places of strangers."""
        if visitor.is_turned_out:
            return False
        return visitor.peer is None or not self._is_admitted(visitor.peer)

    def _note_failure(self, ip: str, *, of_banned_peer: bool = False) -> None:
        now_s = trio.current_time()
        if self._doorway.on_failure(ip, now_s=now_s, of_banned_peer=of_banned_peer):
            self._counters.addresses_banned.increment()
            log.warning("address.banned", address=ip, reason="too many connections to no end")

    async def _accept(self, visitor: _Visitor, maddr: Multiaddr) -> None:
        if visitor.is_turned_out:
            raise SwarmException("too many strangers, and its address failed most often")
        raw = RawConnection(visitor.connection, False)
        muxed = await self.upgrade_inbound_raw_conn(raw, maddr)
        visitor.peer = muxed.peer_id
        await self._stay(muxed, lambda: visitor.is_turned_out)

    async def accept_circuit(self, connection: CircuitConnection, source: PeerId) -> None:
        """Serve a connection that another device carries, until it ends."""
        address = circuit_address(connection.relay)
        raw = RawConnection(connection, False, ConnectionType.RELAYED, [address])
        try:
            muxed = await self.upgrade_inbound_raw_conn(raw, address)
            if peer_of(muxed.peer_id) != source:
                raise SwarmException("another device than the relay named")
            await self._stay(muxed, lambda: False)
        except Exception as error:  # noqa: BLE001 - a stranger's handshake must not end the host
            self._counters.connections_failed.increment()
            log.info("circuit.ended", peer_id=peer_text(source), reason=why(error))
        finally:
            await connection.close()

    async def _stay(self, muxed: IMuxedConn, is_turned_out: Callable[[], bool]) -> None:
        """Wait for the end of an incoming connection. Raises SwarmException if it may not stay."""
        if self._judge.is_banned(peer_of(muxed.peer_id)):
            raise _PeerIsBanned("banned")
        if len(self.get_connections(muxed.peer_id)) > self._limits.connections_per_peer_max:
            raise SwarmException("too many connections from one peer")
        closed: trio.Event = muxed.event_closed  # type: ignore[attr-defined] # every Yamux has it
        with trio.move_on_after(self._limits.stranger_s_max):
            await closed.wait()
        if is_turned_out():
            raise SwarmException("made way for another stranger")
        if self._is_admitted(muxed.peer_id):
            await closed.wait()
        elif not closed.is_set():
            raise SwarmException("not admitted in time")

    def set_stream_handler(self, stream_handler: StreamHandlerFn) -> None:
        """Serve inbound streams with `stream_handler`, contained and counted."""
        super().set_stream_handler(functools.partial(self._serve, stream_handler))

    async def _serve(self, handler: StreamHandlerFn, stream: INetStream) -> None:
        peer = stream.muxed_conn.peer_id
        admitted = self._is_admitted(peer)
        limits = self._limits
        streams_max = limits.member_streams_max if admitted else limits.stranger_streams_max
        if len(stream.muxed_conn.streams) > STREAMS_UNFINISHED_MAX:  # type: ignore[attr-defined] # Yamux
            # It never ends its side of streams that we finished; each would be kept for ever.
            log.warning("connection.closed", peer_id=str(peer), reason="streams are never ended")
            await stream.muxed_conn.close()
            return
        if self._streams_per_peer[peer] >= streams_max:
            self._counters.streams_refused.increment()
            log.info("stream.refused", peer_id=str(peer), reason="too many streams")
            await stream.reset()
            return
        self._streams_per_peer[peer] += 1
        try:
            await contained(handler, stream)
        finally:
            self._streams_per_peer[peer] -= 1
            if not self._streams_per_peer[peer]:
                del self._streams_per_peer[peer]

    def live_connections(self, peer: ID) -> list[INetConn]:
        """Return the connections to `peer` that are not closing."""
        return [connection for connection in self.get_connections(peer) if not connection.is_closed]

    def direct_connections(self, peer: ID) -> list[INetConn]:
        """Return those to `peer` that nobody carries."""
        return [one for one in self.live_connections(peer) if not is_carried(one)]

    def carried_connections(self, peer: ID) -> list[INetConn]:
        """Return those to `peer` that another device carries."""
        return [one for one in self.live_connections(peer) if is_carried(one)]

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """Return the connections that there are: libp2p itself may not dial. Raises SwarmException.

        Its own version waits 250 ms per address even after success, tries one TCP address of many,
        and refuses for a minute to try again.
        """
        connections = self.live_connections(peer_id)
        if not connections:
            raise SwarmException("not connected")
        return connections

    async def new_stream(self, peer_id: ID) -> INetStream:
        """Open a stream on a standing connection. Raises SwarmException.

        Shielded: cancelled half-way, libp2p would lose one of the 256 streams a connection has.
        """
        with trio.CancelScope(shield=True):
            stream = await super().new_stream(peer_id)
        return stream  # noqa: RET504 - mypy thinks that the scope may swallow a return inside

    async def reach(self, peer: ID, addresses: Sequence[Address]) -> None:
        """Connect to `peer` unless it is so directly. Raises PeerUnreachable and its kinds."""
        while not self.direct_connections(peer):
            under_way = self._dialling.get(peer)
            if under_way is None:
                return await self._dial(peer, addresses)
            await under_way.wait()
        return None

    async def _dial(self, peer: ID, addresses: Sequence[Address]) -> None:
        if not addresses:
            raise PeerUnreachable(f"{peer_text(peer_of(peer))}: no address is known")
        self._dialling[peer] = done = trio.Event()
        try:
            failures = await self._race(peer, addresses[:ADDRESSES_DIALLED_MAX])
        finally:
            del self._dialling[peer]
            done.set()
        if failures and not self.direct_connections(peer):
            raise unreachable(peer_of(peer), failures)

    async def reach_through(self, peer: ID, connection: CircuitConnection) -> None:
        """Connect to `peer` on a connection that another device carries. Raises PeerUnreachable."""
        address = circuit_address(connection.relay)
        raw = RawConnection(connection, True, ConnectionType.RELAYED, [address])
        is_up = False
        try:
            await self.upgrade_outbound_raw_conn(raw, peer)
            is_up = True
        except Exception as error:
            raise PeerUnreachable(f"{peer_text(peer_of(peer))}: {why(error)}") from error
        finally:
            if not is_up:
                await connection.close()

    async def _race(
        self, peer: ID, addresses: Sequence[Address]
    ) -> list[tuple[Address, Exception]]:
        """Try the addresses; those where somebody hung up again with the network key of before."""

        async def dial(address: Address) -> None:
            await self.dial_addr(Multiaddr(str(address)), peer)

        failures = await race(addresses, dial)
        answering = [address for address, error in failures if not _is_unanswered(error)]
        if not failures or not answering or len(self._tcp.network_keys) < 2:
            return failures
        with dialling_with(1):
            again = await race(answering, dial)
        unanswered = [pair for pair in failures if pair[0] not in answering]
        return [*again, *unanswered] if again else []

    async def close_all(self) -> None:
        """Close every connection, all at once: libp2p takes 0.2 s for each, one after the other."""
        async with trio.open_nursery() as nursery:
            for connection in self.get_connections():
                nursery.start_soon(connection.close)


def _is_unanswered(error: BaseException) -> bool:
    """Say whether there was not even a TCP connection."""
    return any(isinstance(link, OpenConnectionError) for link in causes_of(error))


class _NoAutoConnector(AutoConnector):
    """libp2p's automatic dialler, off: zero as its lower mark still means half of the upper one."""

    async def maybe_connect(self) -> None:
        """Dial nobody."""

    async def run_background_task(self, nursery: trio.Nursery) -> None:
        """Start nothing."""


def _connection_config(connections_max: int) -> ConnectionConfig:
    """Return libp2p's limits: only the total is left to it, everything else is ours or off."""
    return ConnectionConfig(
        max_connections=connections_max,
        min_connections=0,
        low_watermark=0,
        high_watermark=connections_max,
        max_connections_per_peer=connections_max,  # its trimming may close both of two
        inbound_upgrade_timeout=NEGOTIATE_S,
        outbound_upgrade_timeout=NEGOTIATE_S,
        inbound_stream_protocol_negotiation_timeout=NEGOTIATE_S,
        outbound_stream_protocol_negotiation_timeout=NEGOTIATE_S,
        load_balancing_strategy="best",
        auto_connect_interval=3_600.0,
        enable_health_monitoring=False,
    )
