"""Where devices may be: those reached or vouched for, kept over restarts, and those merely sighted.

Anybody on the LAN can announce anything, so sightings are few, in memory only, and the oldest makes
room. What was reached by a dial, came with an invitation or the configuration, or is the signed
word of a member about itself, is remembered: when all were down and nearly all came back elsewhere,
each has to know the one that did not move.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from msgspec import Struct

from wire.effects import Effect, Persist, Row
from wire.ids import PeerId
from wire.membership import ADDRESSES_MAX, Addresses

PEERS_REMEMBERED_MAX = 2_000
SIGHTINGS_MAX = 128
LASTING_SOURCES = frozenset({"invitation", "configuration"})

ADDRESS_ROW = "address"


class AddressRow(Struct, frozen=True, kw_only=True):
    """Where a device was last reached or said to be."""

    peer: PeerId
    addresses: Addresses


@dataclass(slots=True, kw_only=True)
class AddressBook:
    """The addresses of at most PEERS_REMEMBERED_MAX devices and SIGHTINGS_MAX sightings."""

    revision: int = 0  # rises whenever a device comes in or drops out
    # Both in order of use: the first is dropped when there is one too many.
    _remembered: dict[PeerId, Addresses] = field(default_factory=dict)
    _sighted: dict[PeerId, Addresses] = field(default_factory=dict)

    def on_restarted(self, rows: list[AddressRow]) -> list[Effect]:
        """Take up what is stored."""
        for row in rows:
            self._remembered[row.peer] = row.addresses
        self.revision += 1
        return self._drop_too_many()

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._remembered or peer in self._sighted

    def peers(self) -> set[PeerId]:
        """Return all devices with an address."""
        return self._remembered.keys() | self._sighted.keys()

    def of(self, peer: PeerId) -> Addresses:
        """Return where a device may be, the likeliest first."""
        return _merged(self._remembered.get(peer, ()), self._sighted.get(peer, ()))

    def on_told(self, peer: PeerId, addresses: tuple[str, ...], *, source: str) -> list[Effect]:
        """Somebody says where a device may be: `source` decides how much that is worth."""
        if source in LASTING_SOURCES:
            return self._remember(peer, _merged(addresses, self._remembered.get(peer, ())))
        self.revision += peer not in self
        self._sighted[peer] = _merged(addresses, self._sighted.pop(peer, ()))
        if len(self._sighted) > SIGHTINGS_MAX:
            del self._sighted[next(iter(self._sighted))]
            self.revision += 1
        return []

    def on_word_of_linked(self, peer: PeerId, addresses: Addresses) -> list[Effect]:
        """A device that is linked says, signed, where it is. It may have dialled us every time."""
        known = self._remembered.get(peer, ())
        if set(addresses) <= set(known):
            return []
        return self._remember(peer, _merged(addresses, known))

    def on_word_of_members(self, told: Mapping[PeerId, Addresses]) -> list[Effect]:
        """All members say, signed, where they are: write what is new of it at once.

        At the bound those make room first who are members no more, or of whom nothing was heard.
        """
        rows = []
        for peer, addresses in told.items():
            known = self._remembered.get(peer, ())
            if not set(addresses) <= set(known):
                self.revision += peer not in self
                self._remembered[peer] = merged = _merged(addresses, known)
                rows.append(Row(ADDRESS_ROW, peer, AddressRow(peer=peer, addresses=merged)))
        dropped = self._drop_too_many(spared=told.keys())
        return [Persist(tuple(rows)), *dropped] if rows else dropped

    def on_reached(self, peer: PeerId, address: str) -> list[Effect]:
        """A dial to the address led to the device: try it first from now on."""
        self._sighted.pop(peer, None)
        return self._remember(peer, _merged((address,), self._remembered.get(peer, ())))

    def forget(self, peer: PeerId) -> list[Effect]:
        """Drop all addresses of a device."""
        self.revision += peer in self
        self._sighted.pop(peer, None)
        if self._remembered.pop(peer, None) is None:
            return []
        return [Persist((Row(ADDRESS_ROW, peer, None),))]

    def _remember(self, peer: PeerId, addresses: Addresses) -> list[Effect]:
        self.revision += peer not in self
        known = self._remembered.pop(peer, None)
        self._remembered[peer] = addresses
        if known == addresses:
            return []
        row = Row(ADDRESS_ROW, peer, AddressRow(peer=peer, addresses=addresses))
        return [Persist((row,)), *self._drop_too_many()]

    def _drop_too_many(self, spared: Set[PeerId] = frozenset()) -> list[Effect]:
        excess = len(self._remembered) - PEERS_REMEMBERED_MAX
        if excess <= 0:
            return []
        # A stable sort: in order of use, whoever is spared last.
        oldest = sorted(self._remembered, key=spared.__contains__)[:excess]
        for peer in oldest:
            del self._remembered[peer]
        self.revision += len(oldest)
        return [Persist(tuple(Row(ADDRESS_ROW, peer, None) for peer in oldest))]


def _merged(first: tuple[str, ...], then: tuple[str, ...]) -> Addresses:
    return tuple(dict.fromkeys((*first, *then)))[:ADDRESSES_MAX]
