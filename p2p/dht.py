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
from typing import Final, NamedTuple

import structlog
import trio
from libp2p.custom_types import TProtocol
from libp2p.kad_dht.common import BUCKET_SIZE, PROTOCOL_ID
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.provider_store import ProviderStore
from libp2p.kad_dht.routing_table import RoutingTable
from libp2p.kad_dht.utils import sort_peer_ids_by_distance
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.records.validator import NamespacedValidator
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types

from p2p.addresses import parse_address
from p2p.errors import ForeignKey, MalformedAddress
from p2p.gate import Gate
from p2p.identity import peer_of
from p2p.members_view import MembersView
from wire.ids import PeerId

CONCURRENCY: Final = 5
QUERY_S: Final = 5.0
PROVIDED_KEYS_MAX: Final = 20_000
PROVIDERS_PER_KEY_MAX: Final = 20
REFRESH_S: Final = 600.0
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
        self._me = members.get_id()

    async def admit(self, peer: ID, addresses: Sequence[Multiaddr]) -> None:
        """Take an admitted peer into the routing table."""
        await self.kad.routing_table.add_peer(PeerInfo(peer, list(addresses)))

    def expel(self, peer: ID) -> None:
        """Drop a peer and every record that it gave us."""
        self.kad.routing_table.remove_peer(peer)
        providers = self.kad.provider_store.providers
        for key in self.kad.provider_store.get_provided_keys(peer):
            del providers[key][str(peer)]
            if not providers[key]:
                del providers[key]

    async def provide(self, key: str) -> bool:
        """Announce that we provide `key`; say whether at least one other device took the record.

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
        found = _Found()
        found.add(self.kad.provider_store.get_providers(target))
        known = set(self.kad.routing_table.get_peer_ids())
        asked: set[ID] = set()
        while batch := self._to_ask(target, known, asked):
            asked.update(batch)
            async with trio.open_nursery() as nursery:
                for peer in batch:
                    nursery.start_soon(self._ask, peer, target, known, found)
        return found.providers()

    def _to_ask(self, target: bytes, known: set[ID], asked: set[ID]) -> list[ID]:
        nearest = sort_peer_ids_by_distance(target, list(known - {self._me}))[:BUCKET_SIZE]
        return [peer for peer in nearest if peer not in asked][:CONCURRENCY]

    async def _ask(self, peer: ID, target: bytes, known: set[ID], found: _Found) -> None:
        with trio.move_on_after(QUERY_S):
            store = self.kad.provider_store
            providers, nearer = await store._get_providers_from_peer_with_closers(peer, target)
            found.add(providers)
            known.update(nearer[:BUCKET_SIZE])


class _Found:
    """Providers by device, merged from many answers."""

    def __init__(self) -> None:
        self._addresses: dict[PeerId, dict[str, None]] = {}

    def add(self, answers: Iterable[PeerInfo]) -> None:
        """Merge an answer; what is no device of ours or no address is left out."""
        for info in answers:
            try:
                peer = peer_of(info.peer_id)
            except ForeignKey:
                continue
            kept = self._addresses.setdefault(peer, {})
            kept.update(dict.fromkeys(address_texts(info.addrs)))

    def providers(self) -> tuple[Provider, ...]:
        """Return what was found, in the order of its peer ids."""
        return tuple(
            Provider(peer, tuple(addresses)) for peer, addresses in sorted(self._addresses.items())
        )


def address_texts(multiaddrs: Iterable[Multiaddr]) -> list[str]:
    """Return the addresses of `multiaddrs` that we could dial, without `/p2p/...`."""
    texts = []
    for multiaddr in multiaddrs:
        try:
            texts.append(str(parse_address(str(multiaddr).partition("/p2p/")[0])))
        except MalformedAddress:
            continue
    return texts


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

    async def _run_main_loop(self) -> None:
        while True:
            try:
                await self.peer_routing.refresh_routing_table()
                self.provider_store.cleanup_expired()
            except Exception as error:  # noqa: BLE001 - a failed refresh must not end the host
                log.warning("dht.refresh_failed", error=repr(error))
            await trio.sleep(REFRESH_S)


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
