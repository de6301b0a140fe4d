"""Kademlia provider records: which devices claim to provide a key.

py-libp2p's Kademlia answers others and announces; the lookup is ours, because its own stops at the
local store, counts the same provider many times and keeps what it found for 48 hours. A record is a
claim of whoever made it: ask the provider before relying on it.

Kademlia follows the libp2p specification *kad-dht*; the key of a text is the SHA-256 multihash of
its UTF-8, so that other implementations, which look up CIDs, find it too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, cast

import structlog
import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.kad_dht.common import BUCKET_SIZE, PROTOCOL_ID
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.provider_store import ProviderStore
from libp2p.kad_dht.routing_table import RoutingTable
from libp2p.kad_dht.utils import sort_peer_ids_by_distance
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.records.validator import NamespacedValidator
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types

from p2p.errors import StreamBroken
from p2p.gate import Gate
from p2p.identity import peer_of
from p2p.kad_query import Named, ask_for_providers, dialable
from p2p.members_view import MembersView
from wire.ids import PeerId

CONCURRENCY: Final = 5
QUERY_S: Final = 5.0
PROVIDED_KEYS_MAX: Final = 20_000
PROVIDERS_PER_KEY_MAX: Final = 20
REFRESH_S: Final = 600.0
_HEARSAY_S: Final = 600
_SHA2_256: Final = bytes.fromhex("1220")

log = structlog.get_logger()


class Provider(NamedTuple):
    """A device that claims to provide a key, and where it said it is."""

    peer: PeerId
    addresses: tuple[str, ...]


def protocol_names(prefix: str) -> dict[TProtocol, TProtocol]:
    """Return libp2p's name of Kademlia with its name in our mesh, `<prefix>/1.0.0`."""
    return {PROTOCOL_ID: TProtocol(f"{prefix}/1.0.0")}


def record_key(key: str) -> bytes:
    """Return the bytes that Kademlia knows `key` by."""
    return _SHA2_256 + hashlib.sha256(key.encode("utf-8")).digest()


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

        Records are kept for 48 hours by whoever took them: announce again before that.
        """
        return await self.kad.provider_store.provide(record_key(key))

    def withdraw(self, key: str) -> None:
        """Forget that we provide `key`. What other devices took stays with them: see `Host`."""
        store, target = self.kad.provider_store, record_key(key)
        store.providing_keys.discard(target)
        store.providers.get(target, {}).pop(str(self._me), None)
        if target in store.providers and not store.providers[target]:
            del store.providers[target]

    async def find_providers(self, key: str) -> tuple[Provider, ...]:
        """Return who claims to provide `key`, each device once, from the devices nearest to it.

        Ends when the 20 nearest known have been asked; the caller's timeout bounds it.
        """
        target = record_key(key)
        lookup = _Lookup(self._me, target, self.kad.routing_table.get_peer_ids())
        for info in self.kad.provider_store.get_providers(target):
            lookup.add_provider(Named(info.peer_id, tuple(dialable(info.addrs))))
        while batch := lookup.next_to_ask():
            async with trio.open_nursery() as nursery:
                for peer in batch:
                    nursery.start_soon(self._ask, peer, lookup)
        return lookup.providers()

    async def _ask(self, peer: ID, lookup: _Lookup) -> None:
        with trio.move_on_after(QUERY_S):
            try:
                answer = await ask_for_providers(self._members, peer, lookup.target)
            except StreamBroken as error:
                log.info("dht.query_failed", peer_id=str(peer), error=str(error.__cause__))
                return
            for named in answer.providers:
                lookup.add_provider(named)
            for named in answer.nearer:
                self._learn(named)
                lookup.known.add(named.peer)

    def _learn(self, named: Named) -> None:
        # Of an admitted peer we have addresses from itself; others' word must not join them.
        if not self._gate.is_admitted(named.peer) and named.addresses:
            multiaddrs = [Multiaddr(str(address)) for address in named.addresses]
            self._members.get_peerstore().add_addrs(named.peer, multiaddrs, _HEARSAY_S)


class _Lookup:
    """The state of one lookup: whom we know, whom we asked, who provides."""

    def __init__(self, me: ID, target: bytes, known: Iterable[ID]) -> None:
        self.target = target
        self.known = set(known)
        self._me = me
        self._asked: set[ID] = set()
        self._addresses: dict[PeerId, dict[str, None]] = {}

    def next_to_ask(self) -> list[ID]:
        """Return the next of the 20 nearest that were not asked, [] at the end."""
        nearest = sort_peer_ids_by_distance(self.target, list(self.known - {self._me}))
        batch = [peer for peer in nearest[:BUCKET_SIZE] if peer not in self._asked][:CONCURRENCY]
        self._asked.update(batch)
        return batch

    def add_provider(self, named: Named) -> None:
        """Merge one claim with those of the same provider."""
        kept = self._addresses.setdefault(peer_of(named.peer), {})
        kept.update(dict.fromkeys(map(str, named.addresses)))

    def providers(self) -> tuple[Provider, ...]:
        """Return what was found, in the order of its peer ids."""
        found = sorted(self._addresses.items())
        return tuple(Provider(peer, tuple(addresses)) for peer, addresses in found)


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
