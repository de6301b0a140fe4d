"""One lookup of Kademlia without I/O: whom to ask next, who was named, and by how many.

Kademlia follows the libp2p specification *kad-dht*: the devices nearest to a key, by the exclusive
or of hashes, hold its records and name nearer ones. Answers may be lies, so

- whoever does not answer is none of the nearest: made-up ids displace nobody;
- nobody's word alone costs more than `DEBT_MAX` questions that nobody answered. A device that names
  twenty made-up ids next to the key has three of them tried, and the walk goes on along others'
  words, as along the disjoint paths of S/Kademlia (Baumgart and Mies 2007);
- providers and addresses that more devices named come first: of a fifth that lie, few are among
  the holders of a key.

A quick lookup ends when holders tell nothing new. Those who agreed may all have lied: if nobody
whom they named proves true, a thorough one asks all of the nearest.
"""

from __future__ import annotations

import hashlib
from bisect import insort
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from wire.events import Provider
from wire.ids import PeerId

CONCURRENCY = 10
HOLDERS_COUNT = 20  # the `k` of kad-dht: so many hold a record
THOROUGH_COUNT = 30  # of the nearest, if a fifth of them may lie
AGREED_COUNT = 2  # answers in a row that name somebody, and nobody new
DEBT_MAX = 3
QUESTIONS_MAX = 96
PEERS_PER_ANSWER_MAX = 20
ADDRESSES_PER_PROVIDER_MAX = 8
_ID_PREFIX = bytes.fromhex("002408011220")  # of libp2p's id of an Ed25519 key


def record_key(key: str) -> bytes:
    """Return the bytes that Kademlia knows `key` by: the SHA-256 multihash of its UTF-8."""
    return b"\x12\x20" + hashlib.sha256(key.encode("utf-8")).digest()


def place_of(peer: PeerId) -> int:
    """Return where a device is in Kademlia's space of keys."""
    return int.from_bytes(hashlib.sha256(_ID_PREFIX + peer).digest(), "big")


@dataclass(slots=True, kw_only=True)
class ProviderLookup:
    """The state of one lookup; `target` are the bytes that Kademlia knows the key by."""

    own: PeerId
    target: bytes
    is_thorough: bool = False
    _place: int = field(init=False)
    _by_distance: list[tuple[int, PeerId]] = field(default_factory=list)
    # Whose word somebody is known by; nobody's, if this device has a link to it.
    _sponsors: dict[PeerId, set[PeerId]] = field(default_factory=dict)
    _debts: Counter[PeerId] = field(default_factory=Counter)  # questions asked on whose word
    _charged: dict[PeerId, tuple[PeerId, ...]] = field(default_factory=dict)  # for whom asked
    _awaited: set[PeerId] = field(default_factory=set)
    _slow: set[PeerId] = field(default_factory=set)  # of those awaited
    _failed: set[PeerId] = field(default_factory=set)
    _named: dict[PeerId, Counter[str]] = field(default_factory=dict)  # addresses by answers
    _namings: Counter[PeerId] = field(default_factory=Counter)  # answers that name a provider
    _agreed_count: int = 0

    def __post_init__(self) -> None:
        """Place the key."""
        self._place = int.from_bytes(hashlib.sha256(self.target).digest(), "big")

    # --- what is known ------------------------------------------------------------------------

    def add_linked(self, peers: Iterable[PeerId]) -> None:
        """Begin with devices that this one knows itself."""
        for peer in peers:
            self._learn(peer)
            if peer in self._sponsors:
                self._sponsors[peer].clear()

    def add_own_claims(self, claims: Iterable[Provider]) -> None:
        """Take in the records that this device holds itself."""
        for claim in claims:
            self._name(claim)

    # --- what happens -------------------------------------------------------------------------

    def next_to_ask(self) -> list[PeerId]:
        """Return whom to ask now, the nearest first; each is asked once."""
        room = min(
            CONCURRENCY - len(self._awaited - self._slow), QUESTIONS_MAX - len(self._charged)
        )
        chosen: list[PeerId] = []
        for peer in self._candidates():
            if len(chosen) >= room:
                break
            chosen.append(peer)
            self._charge(peer)
        return chosen

    def on_answer(
        self, peer: PeerId, providers: Iterable[Provider], nearer: Iterable[PeerId]
    ) -> None:
        """Take in what a device told that was asked."""
        if peer not in self._awaited:
            return
        self._end(peer)
        for sponsor in self._charged[peer]:
            self._debts[sponsor] -= 1
        claims = {one.peer: one for one in list(providers)[:PEERS_PER_ANSWER_MAX]}
        is_news = any(claimed not in self._named for claimed in claims)
        if claims:
            self._agreed_count = 0 if is_news else self._agreed_count + 1
        for claim in claims.values():
            self._name(claim)
        for named in list(nearer)[:PEERS_PER_ANSWER_MAX]:
            self._learn(named, sponsor=peer)

    def on_slow(self, peer: PeerId) -> None:
        """An answer takes long: ask another one meanwhile."""
        if peer in self._awaited:
            self._slow.add(peer)

    def on_failed(self, peer: PeerId) -> None:
        """No answer will come."""
        if peer in self._awaited:
            self._end(peer)
            self._failed.add(peer)

    # --- what came of it ----------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be asked or awaited."""
        if not self.is_thorough and self._agreed_count >= AGREED_COUNT:
            return True
        if self._awaited:
            return False
        return len(self._charged) >= QUESTIONS_MAX or next(self._candidates(), None) is None

    def providers(self) -> tuple[Provider, ...]:
        """Return who was named, those first whom most named."""
        ordered = sorted(self._named, key=lambda peer: (-self._namings[peer], peer))
        return tuple(
            Provider(
                peer,
                tuple(
                    address
                    for address, _ in self._named[peer].most_common(ADDRESSES_PER_PROVIDER_MAX)
                ),
            )
            for peer in ordered
        )

    def nearest(self) -> list[PeerId]:
        """Return the devices that are to hold the key's records: the nearest that answered."""
        pending = self._failed | self._awaited
        answered = (
            peer for _, peer in self._by_distance if peer in self._charged and peer not in pending
        )
        return [peer for _, peer in zip(range(HOLDERS_COUNT), answered, strict=False)]

    # --- details ------------------------------------------------------------------------------

    def _candidates(self) -> Iterator[PeerId]:
        """Yield those of the nearest who were not asked, as long as their sponsors have credit."""
        count = THOROUGH_COUNT if self.is_thorough else HOLDERS_COUNT
        for _, peer in self._by_distance:
            if count == 0:
                return
            if peer in self._failed:
                continue
            if peer in self._charged:
                count -= 1
            elif self._has_credit(peer):
                count -= 1
                yield peer

    def _has_credit(self, peer: PeerId) -> bool:
        sponsors = self._sponsors[peer]
        return not sponsors or any(self._debts[sponsor] < DEBT_MAX for sponsor in sponsors)

    def _charge(self, peer: PeerId) -> None:
        self._awaited.add(peer)
        self._charged[peer] = tuple(self._sponsors[peer])
        for sponsor in self._charged[peer]:
            self._debts[sponsor] += 1

    def _end(self, peer: PeerId) -> None:
        self._awaited.discard(peer)
        self._slow.discard(peer)

    def _learn(self, peer: PeerId, *, sponsor: PeerId | None = None) -> None:
        if peer == self.own:
            return
        sponsors = self._sponsors.get(peer)
        if sponsors is None:
            insort(self._by_distance, (place_of(peer) ^ self._place, peer))
            self._sponsors[peer] = set() if sponsor is None else {sponsor}
        elif sponsors and sponsor is not None:
            sponsors.add(sponsor)

    def _name(self, claim: Provider) -> None:
        self._namings[claim.peer] += 1
        addresses = self._named.setdefault(claim.peer, Counter())
        addresses.update(dict.fromkeys(claim.addresses[:ADDRESSES_PER_PROVIDER_MAX], 1))
