"""Kademlia provider records: which devices claim to provide a key.

py-libp2p's Kademlia answers others; the walk to the nearest is ours (`p2p.provider_lookup`), for
lookups and announcements: its own believes every name, stops at the local store, counts the same
provider many times and keeps what it found for 48 hours. A record is a claim of whoever made it:
ask the provider before relying on it.

Kademlia follows the libp2p specification *kad-dht*; the key of a text is the SHA-256 multihash of
its UTF-8, so that other implementations, which look up CIDs, find it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, cast

import structlog
import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.kad_dht.common import PROTOCOL_ID
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.provider_store import ProviderStore
from libp2p.kad_dht.routing_table import RoutingTable
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.records.validator import NamespacedValidator
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types

from p2p.errors import StreamBroken
from p2p.gate import Gate
from p2p.identity import libp2p_id, peer_of
from p2p.kad_query import Named, ask_for_providers, claim_of, dialable, tell_provider
from p2p.members_view import MembersView
from p2p.provider_lookup import ProviderLookup, record_key
from wire.ids import PeerId, peer_text

LOOKUP_S: Final = 5.0
QUERY_S: Final = 2.5  # with the dial, if there is no connection
SLOW_S: Final = 0.6  # then another device is asked meanwhile
PROVIDED_KEYS_MAX: Final = 20_000
PROVIDERS_PER_KEY_MAX: Final = 20
REFRESH_S: Final = 600.0
_HEARSAY_S: Final = 600

log = structlog.get_logger()


class Provider(NamedTuple):
    """A device that claims to provide a key, and where it said it is."""

    peer: PeerId
    addresses: tuple[str, ...]


def protocol_names(prefix: str) -> dict[TProtocol, TProtocol]:
    """Return libp2p's name of Kademlia with its name in our mesh, `<prefix>/1.0.0`."""
    return {PROTOCOL_ID: TProtocol(f"{prefix}/1.0.0")}


class Dht:
    """One device's part of the mesh's Kademlia."""

    def __init__(self, members: MembersView, gate: Gate) -> None:
        self.kad = _MembersKad(members, gate)
        self._members = members
        self._gate = gate
        self._me = members.get_id()

    async def admit(self, peer: ID, addresses: Sequence[Multiaddr]) -> None:
        """Take an admitted peer into the routing table."""
        await self.kad.routing_table.add_peer(PeerInfo(peer, list(addresses)))

    def expel(self, peer: ID) -> None:
        """Drop a peer from the routing table."""
        self.kad.routing_table.remove_peer(peer)

    def forget_records(self, peer: ID) -> None:
        """Drop every record that names a peer as provider."""
        providers = self.kad.provider_store.providers
        for key in self.kad.provider_store.get_provided_keys(peer):
            del providers[key][str(peer)]
            if not providers[key]:
                del providers[key]

    async def provide(self, key: str) -> bool:
        """Announce that we provide `key`; say whether the record was sent to anybody.

        The nearest devices are found as for a lookup, for libp2p's own walk follows every name that
        a liar makes up. Records are kept for 48 hours by whoever took them: announce again before.
        """
        store, target = self.kad.provider_store, record_key(key)
        me = PeerInfo(self._me, self._members.get_addrs())
        store.providing_keys.add(target)
        store.add_provider(target, me)
        walk = self._new_lookup(target, is_thorough=True)
        await self._run(walk)
        heard: list[ID] = []
        async with trio.open_nursery() as nursery:
            for peer in walk.nearest():
                nursery.start_soon(self._announce, libp2p_id(peer), target, me, heard)
        return bool(heard)

    def withdraw(self, key: str) -> None:
        """Forget that we provide `key`. What other devices took stays with them: see `Host`."""
        store, target = self.kad.provider_store, record_key(key)
        store.providing_keys.discard(target)
        store.providers.get(target, {}).pop(str(self._me), None)
        if target in store.providers and not store.providers[target]:
            del store.providers[target]

    async def find_providers(self, key: str, *, is_thorough: bool = False) -> tuple[Provider, ...]:
        """Return who claims to provide `key`, each device once, those first whom most named.

        A thorough lookup asks all of the nearest. Either takes `LOOKUP_S` at most, and returns what
        was found by then.
        """
        lookup = self._new_lookup(record_key(key), is_thorough=is_thorough)
        lookup.add_own_claims(
            claim_of(Named(info.peer_id, tuple(dialable(info.addrs))))
            for info in self.kad.provider_store.get_providers(lookup.target)
        )
        await self._run(lookup)
        return tuple(Provider(one.peer, one.addresses) for one in lookup.providers())

    def _new_lookup(self, target: bytes, *, is_thorough: bool) -> ProviderLookup:
        lookup = ProviderLookup(own=peer_of(self._me), target=target, is_thorough=is_thorough)
        lookup.add_linked(map(peer_of, self.kad.routing_table.get_peer_ids()))
        return lookup

    async def _run(self, lookup: ProviderLookup) -> None:
        """Ask until the lookup is over, `LOOKUP_S` at most."""
        with trio.move_on_after(LOOKUP_S):
            async with trio.open_nursery() as nursery:
                self._ask_next(lookup, nursery)

    def _ask_next(self, lookup: ProviderLookup, nursery: trio.Nursery) -> None:
        for peer in lookup.next_to_ask():
            nursery.start_soon(self._ask, peer, lookup, nursery)
        if lookup.is_over:
            nursery.cancel_scope.cancel()

    async def _ask(self, peer: PeerId, lookup: ProviderLookup, nursery: trio.Nursery) -> None:
        with trio.move_on_after(QUERY_S):
            async with trio.open_nursery() as asking:
                asking.start_soon(self._note_slow, peer, lookup, nursery)
                await self._question(peer, lookup)
                asking.cancel_scope.cancel()
        lookup.on_failed(peer)  # unless it answered
        self._ask_next(lookup, nursery)

    async def _note_slow(self, peer: PeerId, lookup: ProviderLookup, nursery: trio.Nursery) -> None:
        await trio.sleep(SLOW_S)
        lookup.on_slow(peer)
        self._ask_next(lookup, nursery)

    async def _question(self, peer: PeerId, lookup: ProviderLookup) -> None:
        try:
            answer = await ask_for_providers(self._members, libp2p_id(peer), lookup.target)
        except StreamBroken as error:
            log.info("dht.query_failed", peer_id=peer_text(peer), error=str(error.__cause__))
            return
        for named in answer.nearer:
            self._learn(named)
        nearer = [peer_of(named.peer) for named in answer.nearer]
        lookup.on_answer(peer, map(claim_of, answer.providers), nearer)

    async def _announce(self, peer: ID, target: bytes, me: PeerInfo, heard: list[ID]) -> None:
        with trio.move_on_after(QUERY_S):
            try:
                await tell_provider(self._members, peer, target, me)
            except StreamBroken as error:
                log.info("dht.announce_failed", peer_id=str(peer), error=str(error.__cause__))
                return
            heard.append(peer)

    def _learn(self, named: Named) -> None:
        # Of an admitted peer we have addresses from itself; others' word must not join them.
        if not self._gate.is_admitted(named.peer) and named.addresses:
            multiaddrs = [Multiaddr(str(address)) for address in named.addresses]
            self._members.get_peerstore().add_addrs(named.peer, multiaddrs, _HEARSAY_S)


class _MembersKad(KadDHT):
    """py-libp2p's Kademlia, for admitted peers, providers only, with bounds."""

    def __init__(self, members: MembersView, gate: Gate) -> None:
        super().__init__(
            members.as_host(),
            DHTMode.SERVER,
            enable_random_walk=False,
            # Nobody stores values here: no namespace is valid, and there is no fallback.
            validator=NamespacedValidator({}, strict_validation=True),
            validator_changed=True,
            strict_validation=True,
            enable_providers=True,
            enable_values=False,
            persist_dir=None,
            max_peers_per_subnet=0,  # members are known by certificate; a home is one subnet
            max_peers_per_subnet_table=0,
        )
        self.routing_table = _MembersTable(members, gate)
        self.peer_routing.routing_table = self.routing_table
        self.provider_store: ProviderStore = _BoundedProviders(
            members.as_host(), self.peer_routing, None
        )

    async def handle_stream(self, stream: INetStream) -> None:
        # Its loop looks for an empty read at the end; Yamux raises, which it would take for a
        # failure: a warning for every question and every record that anybody sends us.
        await super().handle_stream(cast(INetStream, _EndsEmpty(stream)))

    async def _run_main_loop(self) -> None:
        while True:
            try:
                await self.peer_routing.refresh_routing_table()
                self.provider_store.cleanup_expired()
            except Exception as error:  # noqa: BLE001 - a failed refresh must not end the host
                log.warning("dht.refresh_failed", error=repr(error))
            await trio.sleep(REFRESH_S)


class _EndsEmpty:
    """A stream that reads as empty once its peer has finished."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    async def read(self, n: int | None = None) -> bytes:
        try:
            return await self._stream.read(n)
        except StreamEOF:
            return b""


class _MembersTable(RoutingTable):
    """A routing table that only admitted peers enter, whoever named them."""

    def __init__(self, members: MembersView, gate: Gate) -> None:
        super().__init__(members.get_id(), members.as_host(), 0, 0)
        self._gate = gate

    async def add_peer(
        self, peer_obj: PeerInfo | ID, *, skip_server_mode_check: bool = False
    ) -> bool:
        peer = peer_obj.peer_id if isinstance(peer_obj, PeerInfo) else peer_obj
        if not self._gate.is_admitted(peer):
            return False
        return await super().add_peer(peer_obj, skip_server_mode_check=True)


class _BoundedProviders(ProviderStore):
    """Provider records with a bound on keys, where a key's newest providers win."""

    def add_provider(self, key: bytes, provider: PeerInfo) -> None:
        providers = self.providers.get(key)
        if providers is None and len(self.providers) >= PROVIDED_KEYS_MAX:
            log.info("dht.record_refused", reason="too many keys")
            return
        name = str(provider.peer_id)
        if providers and name not in providers and len(providers) >= PROVIDERS_PER_KEY_MAX:
            # libp2p would keep the first twenty for 48 hours, dead or alive.
            del providers[min(providers, key=lambda old: providers[old].timestamp)]
        super().add_provider(key, provider)
