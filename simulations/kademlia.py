"""Kademlia by the walk that ships, over the links that devices have, with members that lie.

Every question is a message of its own: it takes a round trip, after the six of a dial if there is
no link, and what was measured of CPU time at both ends, of which the asking device has one core. A
device answers with the records it holds, and with those of its linked devices that are nearest to
the key. Whoever cannot be reached lets a question run out.

What it leaves out: a dial for a question opens no link and takes no place among the dials, and the
CPU time of a walk holds up nothing else on its device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial

from p2p.provider_lookup import PEERS_PER_ANSWER_MAX, ProviderLookup, place_of, record_key
from simulations.dht import PROVIDERS_MAX, RECORD_TTL_US, REPUBLISH_US, Dht, Record
from simulations.dials import DIAL_ROUND_TRIPS
from simulations.engine import Engine
from simulations.network import Network
from simulations.paths import LANE_LOOKUP
from wire.events import Provider
from wire.ids import PeerId

# As `p2p.dht` has them.
LOOKUP_US_MAX = 5_000_000
QUESTION_US_MAX = 2_500_000
SLOW_US = 600_000
# py-libp2p 0.8.1: a new stream with one request and its answer costs 6.6 ms of CPU time, both ends
# together. As in `simulations.cpu`, to open and to write costs more than to read; so does a dial.
ASK_CPU_US = 2_000
READ_CPU_US = 1_300
ANSWER_CPU_US = 3_300
DIAL_CPU_US = 12_000
MADE_UP_TRIED = 20_000  # ids that liars try, for those next to a key
MADE_UP_PER_LIAR = 10


@dataclass(eq=False, slots=True)
class _Walk:
    """One lookup or announcement under way."""

    seeker: PeerId
    boot: int
    key: str
    lookup: ProviderLookup
    then: Callable[[ProviderLookup], None]
    busy_until_us: int = 0
    is_over: bool = False


class WalkedDht(Dht):
    """All provider records, by who holds them, found by asking."""

    def __init__(self, engine: Engine, network: Network) -> None:
        super().__init__(engine, network)
        self.charges_dials = True
        self._liars: dict[PeerId, tuple[PeerId, ...]] = {}  # and whom each names for providers
        self._made_up: dict[str, list[PeerId]] = {}  # by key, nearest first

    def lie(self, liars: Iterable[PeerId], named: Iterable[PeerId]) -> None:
        """Let devices keep no records, and name these and each other for everything.

        For nearer ones they name each other, and ids that nobody has, next to the key.
        """
        all_liars = tuple(liars)
        for number, liar in enumerate(all_liars):
            others = all_liars[number + 1 :] + all_liars[:number]
            self._liars[liar] = (*named, *others)[:PROVIDERS_MAX]

    def find(
        self,
        seeker: PeerId,
        key: str,
        *,
        is_thorough: bool,
        then: Callable[[tuple[Provider, ...]], None],
    ) -> None:
        """Walk to the devices nearest to a key; `then` hears who was named."""

        def found(lookup: ProviderLookup) -> None:
            then(lookup.providers())

        held = self._claims_held(seeker, key)
        self._begin(seeker, key, held, is_thorough=is_thorough, then=found)

    # --- announcements ------------------------------------------------------------------------

    def _publish(self, provider: PeerId, boot: int, key: str) -> None:
        endpoint = self._network.endpoint(provider)
        if endpoint.boot != boot or key not in self._provided.get(provider, set()):
            return

        def announce(lookup: ProviderLookup) -> None:
            record = Record(endpoint.addresses, self._engine.now_us + RECORD_TTL_US)
            for holder in (provider, *lookup.nearest()):
                self._hand_over(holder, provider, key, record)

        self._begin(provider, key, (), is_thorough=True, then=announce)
        self._engine.after(REPUBLISH_US, partial(self._publish, provider, boot, key))

    def _hand_over(self, holder: PeerId, provider: PeerId, key: str, record: Record) -> None:
        if holder in self._liars:
            self.counts["dht.record_dropped"] += 1
        elif self._network.can_reach(provider, holder) and self._takes(holder, provider):
            self._held.setdefault(holder, {}).setdefault(key, {})[provider] = record

    # --- the walk -----------------------------------------------------------------------------

    def _begin(
        self,
        seeker: PeerId,
        key: str,
        held: Iterable[Provider],
        *,
        is_thorough: bool,
        then: Callable[[ProviderLookup], None],
    ) -> None:
        lookup = ProviderLookup(own=seeker, target=record_key(key), is_thorough=is_thorough)
        lookup.add_linked(self._network.neighbours(seeker))
        lookup.add_own_claims(held)
        walk = _Walk(seeker, self._network.endpoint(seeker).boot, key, lookup, then)
        self._engine.after(LOOKUP_US_MAX, partial(self._end, walk))
        self._go_on(walk)

    def _go_on(self, walk: _Walk) -> None:
        if walk.is_over:
            return
        for target in walk.lookup.next_to_ask():
            self._ask(walk, target)
        if walk.lookup.is_over:
            self._end(walk)

    def _end(self, walk: _Walk) -> None:
        if not walk.is_over and self._network.endpoint(walk.seeker).boot == walk.boot:
            walk.then(walk.lookup)
        walk.is_over = True

    def _ask(self, walk: _Walk, target: PeerId) -> None:
        self.counts["dht.questions"] += 1
        wait_us = self._spend(walk, ASK_CPU_US)
        self._engine.after(wait_us + SLOW_US, partial(self._note_slow, walk, target))
        self._engine.after(wait_us + QUESTION_US_MAX, partial(self._give_up, walk, target))
        if not self._network.can_reach(walk.seeker, target):
            return
        trips_count = 1
        if self.charges_dials and not self._network.is_linked(walk.seeker, target):
            trips_count += DIAL_ROUND_TRIPS
            wait_us = self._spend(walk, DIAL_CPU_US) + DIAL_CPU_US
        round_trip_us = self._network.paths.round_trip_us
        trips = (round_trip_us(LANE_LOOKUP, walk.seeker, target) for _ in range(trips_count))
        self._engine.after(wait_us + sum(trips) + ANSWER_CPU_US, partial(self._read, walk, target))

    def _read(self, walk: _Walk, target: PeerId) -> None:
        """An answer is here: it is taken in once the seeker's core is free."""
        if not walk.is_over and self._network.can_reach(walk.seeker, target):
            wait_us = self._spend(walk, READ_CPU_US)
            self._engine.after(wait_us, partial(self._take, walk, target))

    def _take(self, walk: _Walk, target: PeerId) -> None:
        if target in self._liars:
            self.counts["dht.lies"] += 1
            walk.lookup.on_answer(target, *self._lies_of(target, walk.key))
        else:
            place = _place_of_key(walk.key)
            linked = self._network.neighbours(target)
            nearer = sorted(linked, key=lambda peer: place_of(peer) ^ place)
            claims = self._claims_held(target, walk.key)
            walk.lookup.on_answer(target, claims, nearer[:PEERS_PER_ANSWER_MAX])
        self._go_on(walk)

    def _note_slow(self, walk: _Walk, target: PeerId) -> None:
        walk.lookup.on_slow(target)
        self._go_on(walk)

    def _give_up(self, walk: _Walk, target: PeerId) -> None:
        walk.lookup.on_failed(target)
        self._go_on(walk)

    def _spend(self, walk: _Walk, cost_us: int) -> int:
        """Use the seeker's core; return in how long it has done that."""
        now_us = self._engine.now_us
        walk.busy_until_us = max(walk.busy_until_us, now_us) + cost_us
        return walk.busy_until_us - now_us

    # --- answers ------------------------------------------------------------------------------

    def _claims_held(self, holder: PeerId, key: str) -> tuple[Provider, ...]:
        records = self._held.get(holder, {}).get(key, {})
        now_us = self._engine.now_us
        held = [peer for peer, record in records.items() if record.expires_us > now_us]
        return tuple(Provider(peer, records[peer].addresses) for peer in held)[:PROVIDERS_MAX]

    def _lies_of(self, liar: PeerId, key: str) -> tuple[tuple[Provider, ...], list[PeerId]]:
        made_up = self._made_up.get(key)
        if made_up is None:
            made_up = self._made_up[key] = _next_to(key, len(self._liars) * MADE_UP_PER_LIAR)
        place = _place_of_key(key)
        number = list(self._liars).index(liar)
        own = made_up[number * MADE_UP_PER_LIAR :][:MADE_UP_PER_LIAR]
        others = sorted(self._liars, key=lambda peer: place_of(peer) ^ place)
        nearer = [*own, *others][:PEERS_PER_ANSWER_MAX]
        return self._claims(self._liars[liar]), nearer


@lru_cache(maxsize=4_096)
def _place_of_key(key: str) -> int:
    return int.from_bytes(hashlib.sha256(record_key(key)).digest(), "big")


def _next_to(key: str, count: int) -> list[PeerId]:
    """Return ids that nobody has, the nearest to `key` of many that were tried."""
    tried = (
        PeerId(hashlib.sha256(f"{key}/{number}".encode()).digest())
        for number in range(MADE_UP_TRIED)
    )
    place = _place_of_key(key)
    return sorted(tried, key=lambda peer: place_of(peer) ^ place)[:count]
