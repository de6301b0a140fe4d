"""Provider records of a simulated Kademlia: who provides a capability, possibly long ago.

A record lies at the few devices nearest to its key that its provider could reach when it published;
a lookup sees what those it can reach hold. Records of devices that have died or withdrawn stay
until they run out, a fresh one is seen after a while only, and a device that restarts has lost what
it held for others. A holder takes ten records in ten seconds from one provider, as py-libp2p does.
Liars may plant records and, where they hold all of a key's records, hide the others': an answer
proves nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from blake3 import blake3

from simulations.engine import US_PER_S, Engine
from simulations.network import Network
from simulations.paths import LANE_LOOKUP
from wire.events import Provider
from wire.ids import PeerId

HOLDERS_COUNT = 20
LOOKUP_ROUND_TRIPS = 3
PUBLISH_US = 1 * US_PER_S
REPUBLISH_US = 600 * US_PER_S
RECORD_TTL_US = 2 * REPUBLISH_US
PROVIDERS_MAX = 20
RECORDS_PER_WINDOW_MAX = 10  # py-libp2p's limit on ADD_PROVIDER
RATE_WINDOW_US = 10 * US_PER_S


@dataclass(frozen=True, slots=True)
class Record:
    """One device's claim to provide a key."""

    addresses: tuple[str, ...]
    expires_us: int


class Dht:
    """All provider records, by who holds them."""

    def __init__(self, engine: Engine, network: Network) -> None:
        self._engine = engine
        self._network = network
        self._held: dict[PeerId, dict[str, dict[PeerId, Record]]] = {}
        self._provided: dict[PeerId, set[str]] = {}
        self._taken: dict[tuple[PeerId, PeerId], deque[int]] = {}
        self._poison: dict[str, Counter[PeerId]] = {}
        self._eclipses: dict[str, list[tuple[PeerId, ...]]] = {}
        self.counts: Counter[str] = Counter()  # what happened how often

    def poison(self, key: str, claimed: Sequence[PeerId]) -> None:
        """Let all lookups of `key` find these devices too, whatever they provide."""
        self._poison.setdefault(key, Counter()).update(claimed)

    def cleanse(self, key: str, claimed: Sequence[PeerId]) -> None:
        """End one poisoning."""
        self._poison[key] -= Counter(claimed)

    def eclipse(self, key: str, liars: Sequence[PeerId]) -> None:
        """Let these devices alone hold the records of `key`, and name nobody but themselves."""
        self._eclipses.setdefault(key, []).append(tuple(liars))

    def uncover(self, key: str, liars: Sequence[PeerId]) -> None:
        """End one eclipse."""
        self._eclipses[key].remove(tuple(liars))

    def provide(self, provider: PeerId, key: str) -> None:
        """Publish a record soon, and again for as long as it is not withdrawn."""
        keys = self._provided.setdefault(provider, set())
        if key not in keys:
            keys.add(key)
            boot = self._network.endpoint(provider).boot
            self._engine.after(PUBLISH_US, partial(self._publish, provider, boot, key))

    def withdraw(self, provider: PeerId, key: str) -> None:
        """Stop publishing; the records that are out stay until they run out."""
        self._provided.get(provider, set()).discard(key)

    def process_died(self, peer: PeerId) -> None:
        """Forget what the process held for others, and what it would have published again."""
        self._held.pop(peer, None)
        self._provided.pop(peer, None)

    def find(
        self,
        seeker: PeerId,
        key: str,
        *,
        is_thorough: bool,
        then: Callable[[tuple[Provider, ...]], None],
    ) -> None:
        """Look a key up; `then` hears who was named, unless the seeker has restarted."""
        del is_thorough  # all are asked who can be reached
        endpoint = self._network.endpoint(seeker)
        boot = endpoint.boot

        def found() -> None:
            if endpoint.boot == boot:
                then(self.providers(seeker, key))

        self._engine.after(self.lookup_us(seeker, key), found)

    def lookup_us(self, seeker: PeerId, key: str) -> int:
        """Return how long a lookup takes: a few round trips, one after the other."""
        holder = self._holders(key)[0]
        trips = (
            self._network.paths.round_trip_us(LANE_LOOKUP, seeker, holder)
            for _ in range(LOOKUP_ROUND_TRIPS)
        )
        return sum(trips)

    def providers(self, seeker: PeerId, key: str) -> tuple[Provider, ...]:
        """Return what the seeker finds now."""
        if self._eclipses.get(key):
            self.counts["dht.eclipsed"] += 1
            hidden_by = self._eclipses[key][-1]
            return self._claims(peer for peer in hidden_by if self._network.can_reach(seeker, peer))
        found = {
            provider: record
            for holder in self._reached(seeker, key)
            for provider, record in self._held.get(holder, {}).get(key, {}).items()
            if record.expires_us > self._engine.now_us
        }
        ordered = sorted(found.items(), key=lambda item: item[0])[:PROVIDERS_MAX]
        true = tuple(Provider(peer, record.addresses) for peer, record in ordered)
        poison = self._poison.get(key, Counter())
        planted = self._claims(peer for peer in sorted(poison) if poison[peer] > 0)
        self.counts["dht.poisoned"] += bool(planted)
        return (planted + tuple(one for one in true if one not in planted))[:PROVIDERS_MAX]

    def _claims(self, claimed: Iterable[PeerId]) -> tuple[Provider, ...]:
        return tuple(Provider(peer, self._network.endpoint(peer).addresses) for peer in claimed)[
            :PROVIDERS_MAX
        ]

    def _publish(self, provider: PeerId, boot: int, key: str) -> None:
        endpoint = self._network.endpoint(provider)
        if endpoint.boot != boot or key not in self._provided.get(provider, set()):
            return
        record = Record(endpoint.addresses, self._engine.now_us + RECORD_TTL_US)
        for holder in self._reached(provider, key):
            if self._takes(holder, provider):
                self._held.setdefault(holder, {}).setdefault(key, {})[provider] = record
        self._engine.after(REPUBLISH_US, partial(self._publish, provider, boot, key))

    def _takes(self, holder: PeerId, provider: PeerId) -> bool:
        """Say whether a holder takes one more record from a provider just now."""
        taken = self._taken.setdefault((holder, provider), deque(maxlen=RECORDS_PER_WINDOW_MAX))
        now_us = self._engine.now_us
        if len(taken) == RECORDS_PER_WINDOW_MAX and taken[0] > now_us - RATE_WINDOW_US:
            self.counts["dht.record_refused"] += 1
            return False
        taken.append(now_us)
        return True

    def _reached(self, seeker: PeerId, key: str) -> list[PeerId]:
        return [peer for peer in self._holders(key) if self._network.can_reach(seeker, peer)]

    def _holders(self, key: str) -> list[PeerId]:
        target = int.from_bytes(blake3(key.encode()).digest(), "big")

        def distance(peer: PeerId) -> int:
            return int.from_bytes(blake3(peer).digest(), "big") ^ target

        return sorted(self._network.peers(), key=distance)[:HOLDERS_COUNT]
