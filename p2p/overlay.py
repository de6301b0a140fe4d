"""Which devices to hold links to: few, connected, and redialled for ever.

With up to `links_max` members everybody links to everybody. In a larger mesh a device links to its
two nearest on each side of the ring of ids, which alone connects the mesh, and to random others.
A device that cannot be reached is tried again for ever, with a backoff that ends at a minute.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from msgspec import Struct

from p2p.directory import Directory
from wire.effects import Dial, Effect, Hangup, Persist, Row, SetTimer
from wire.ids import PeerId
from wire.membership import ADDRESSES_MAX, Addresses

LINKS_MAX = 24
DIALS_MAX = 16
PEERS_REMEMBERED_MAX = 2_000
REVIEW_EVERY_US = 1_000_000
BACKOFF_FIRST_US = 500_000
BACKOFF_MAX_US = 60_000_000
BRIEF_LINK_US = 30_000_000
NEAR_EACH_SIDE = 2

ADDRESS_ROW = "address"


@dataclass(frozen=True, slots=True)
class ReviewDue:
    """Timer: see which links are missing or too many."""


class AddressRow(Struct, frozen=True, kw_only=True):
    """Where a device was last reached or said to be."""

    peer: PeerId
    addresses: Addresses


@dataclass(slots=True)
class _Backoff:
    failures_count: int = 0
    retry_at_us: int = 0


@dataclass(slots=True, kw_only=True)
class Overlay:
    """The links wanted, and the addresses to get them at."""

    own: PeerId
    directory: Directory
    links: dict[PeerId, object]  # shared with the node; only its keys are read
    rng: Random
    links_max: int = LINKS_MAX
    dials_max: int = DIALS_MAX
    last_failure: dict[PeerId, str] = field(default_factory=dict)
    _addresses: dict[PeerId, tuple[str, ...]] = field(default_factory=dict)
    _dialling: set[PeerId] = field(default_factory=set)
    _backoff: dict[PeerId, _Backoff] = field(default_factory=dict)
    _brief_until_us: dict[PeerId, int] = field(default_factory=dict)

    def on_restarted(self, rows: list[AddressRow]) -> list[Effect]:
        """Remember who was reached before; the first review is at once."""
        for row in rows[-PEERS_REMEMBERED_MAX:]:
            self._addresses[row.peer] = row.addresses
        return [SetTimer(ReviewDue(), 1)]

    def addresses_of(self, peer: PeerId) -> tuple[str, ...]:
        """Return where to dial a device: what it says itself first, then what was seen."""
        member = self.directory.get(peer)
        told = () if member is None or member.presence is None else member.presence.addresses
        both = dict.fromkeys((*told, *self._addresses.get(peer, ())))
        return tuple(both)[:ADDRESSES_MAX]

    def on_peer_seen(self, peer: PeerId, addresses: tuple[str, ...]) -> list[Effect]:
        """Somebody told where a device may be: try it now."""
        if peer == self.own or not addresses:
            return []
        merged = tuple(dict.fromkeys((*addresses, *self._addresses.get(peer, ()))))
        if peer not in self._addresses and len(self._addresses) >= PEERS_REMEMBERED_MAX:
            return []
        self._addresses[peer] = merged[:ADDRESSES_MAX]
        self._backoff.pop(peer, None)
        return [SetTimer(ReviewDue(), 1)]

    def on_review_due(self, *, now_us: int) -> list[Effect]:
        """Dial what is missing, hang up what is too much."""
        effects: list[Effect] = [SetTimer(ReviewDue(), REVIEW_EVERY_US)]
        wanted = self._wanted()
        room = self.dials_max - len(self._dialling)
        for peer in wanted:
            if room <= 0:
                break
            if self._may_dial(peer, now_us=now_us):
                effects += self._dial(peer)
                room -= 1
        effects += self._hang_up_excess(wanted, now_us=now_us)
        return effects

    def reach(self, peer: PeerId, addresses: tuple[str, ...], *, now_us: int) -> list[Effect]:
        """Dial a device for a short piece of work, whether or not a link to it is wanted."""
        if peer in self.links or peer == self.own:
            return []
        self._brief_until_us[peer] = now_us + BRIEF_LINK_US
        known = tuple(dict.fromkeys((*addresses, *self.addresses_of(peer))))[:ADDRESSES_MAX]
        if peer in self._dialling or not known or len(self._dialling) >= self.dials_max:
            return []
        self._dialling.add(peer)
        return [Dial(peer, known)]

    def on_link_up(self, peer: PeerId, address: str, *, is_outbound: bool) -> list[Effect]:
        """Forget the failures; remember the address that worked."""
        self._dialling.discard(peer)
        self._backoff.pop(peer, None)
        self.last_failure.pop(peer, None)
        if not is_outbound or not address:
            return []
        known = self._addresses.get(peer, ())
        if known[:1] == (address,):
            return []
        # The port of an inbound connection is not one that anybody listens on.
        self._addresses[peer] = tuple(dict.fromkeys((address, *known)))[:ADDRESSES_MAX]
        row = AddressRow(peer=peer, addresses=self._addresses[peer])
        return [Persist((Row(ADDRESS_ROW, peer, row),))]

    def on_link_down(self, peer: PeerId, reason: str, *, now_us: int) -> list[Effect]:
        """Dial it again soon; the jitter keeps two sides from dialling in step."""
        self.last_failure[peer] = reason
        backoff = self._backoff.setdefault(peer, _Backoff())
        backoff.retry_at_us = now_us + self.rng.randrange(BACKOFF_FIRST_US)
        return []

    def on_dial_failed(self, peer: PeerId, reason: str, *, now_us: int) -> list[Effect]:
        """Wait longer before the next try, up to a minute."""
        self._dialling.discard(peer)
        self.last_failure[peer] = reason
        backoff = self._backoff.setdefault(peer, _Backoff())
        backoff.failures_count += 1
        longest = min(BACKOFF_FIRST_US << min(backoff.failures_count, 16), BACKOFF_MAX_US)
        backoff.retry_at_us = now_us + self.rng.randrange(longest // 2, longest + 1)
        return []

    def forget(self, peer: PeerId) -> list[Effect]:
        """Never dial a device again."""
        self._backoff.pop(peer, None)
        if self._addresses.pop(peer, None) is None:
            return []
        return [Persist((Row(ADDRESS_ROW, peer, None),))]

    def _may_dial(self, peer: PeerId, *, now_us: int) -> bool:
        backoff = self._backoff.get(peer)
        return (
            peer not in self.links
            and peer not in self._dialling
            and (backoff is None or backoff.retry_at_us <= now_us)
        )

    def _dial(self, peer: PeerId) -> list[Effect]:
        addresses = self.addresses_of(peer)
        if not addresses:
            return []
        self._dialling.add(peer)
        return [Dial(peer, addresses)]

    def _wanted(self) -> list[PeerId]:
        known = {member.peer for member in self.directory if not member.has_left}
        known |= self._addresses.keys()
        known.discard(self.own)
        candidates = sorted(peer for peer in known if not self.directory.is_removed(peer))
        if len(candidates) <= self.links_max:
            return candidates
        near = self._near(candidates)
        linked = [peer for peer in candidates if peer in self.links and peer not in near]
        others = [peer for peer in candidates if peer not in self.links and peer not in near]
        self.rng.shuffle(others)
        return [*near, *linked, *others][: self.links_max]

    def _near(self, candidates: list[PeerId]) -> list[PeerId]:
        above = [peer for peer in candidates if peer > self.own]
        ring = above + candidates[: len(candidates) - len(above)]  # from here around the ring
        return list(dict.fromkeys((*ring[:NEAR_EACH_SIDE], *ring[-NEAR_EACH_SIDE:])))

    def _hang_up_excess(self, wanted: list[PeerId], *, now_us: int) -> list[Effect]:
        for peer in [peer for peer, until in self._brief_until_us.items() if until <= now_us]:
            del self._brief_until_us[peer]
        excess = len(self.links) - self.links_max
        if excess <= 0:
            return []
        spare = sorted(
            peer for peer in self.links if peer not in wanted and peer not in self._brief_until_us
        )
        chosen = self.rng.sample(spare, min(excess, len(spare)))
        return [Hangup(peer, "too many links") for peer in chosen]
