"""How to dial each device: at its addresses, or through a member that is linked with both.

Two devices behind routers that let nobody in cannot dial each other. Nothing is reserved or
published for that: every device names its observers in its watch, and they are among its direct
links, so all know through whom it can be reached. Being a member is the permission.

The two ways take turns: a dial that failed is followed by one through others, and that by one at
the addresses; a device that was linked through another begins with that way. A link through another
is never part of the way to a third, and for as long as it stands a direct one is tried now and
then, which takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field
from random import Random

from p2p.directory import Directory
from wire.effects import Dial
from wire.ids import PeerId

RELAYS_TRIED_MAX = 3  # in one dial
RELAYED_LINKS_MAX = 8  # those that are for no work in particular
DIRECT_EVERY_US = 60_000_000


@dataclass(slots=True, kw_only=True)
class Ways:
    """Through whom devices are linked, and through whom they could be. Times: the caller's."""

    directory: Directory
    links: dict[PeerId, object]  # shared with the node; only its keys are read
    rng: Random
    dead: Callable[[], Set[PeerId]]
    _via: dict[PeerId, PeerId] = field(default_factory=dict)  # of the links that stand
    _asked: set[PeerId] = field(default_factory=set)  # dials through others that are under way
    _roundabout: set[PeerId] = field(default_factory=set)  # last linked through another
    _direct_due_us: dict[PeerId, int] = field(default_factory=dict)

    def via(self, peer: PeerId) -> PeerId | None:
        """Return who carries the link with a device, None if nobody does or there is no link."""
        return self._via.get(peer)

    def on_link_up(self, peer: PeerId, via: PeerId | None, *, now_us: int) -> None:
        """Remember which way led to the device."""
        self._asked.discard(peer)
        if via is None:
            self._roundabout.discard(peer)
            return
        self._via[peer] = via
        self._roundabout.add(peer)
        self._put_off(peer, now_us=now_us)

    def on_link_down(self, peer: PeerId) -> None:
        """The way that it went is tried first."""
        self._via.pop(peer, None)
        self._direct_due_us.pop(peer, None)

    def on_dial_failed(self, peer: PeerId) -> None:
        """Nobody carries a link to it now."""
        self._asked.discard(peer)

    def keep_only(self, is_wanted: Callable[[PeerId], bool]) -> None:
        """Forget the ways to all others: nobody would dial them."""
        self._roundabout = {peer for peer in self._roundabout if is_wanted(peer)}

    def can_carry_to(self, peer: PeerId) -> bool:
        """Say whether somebody could carry a link to a device."""
        return bool(self._relays(peer))

    def bridges_to(self, peer: PeerId) -> list[PeerId]:
        """Return who could carry a link to a device if there were a direct link with them."""
        return [one for one in self._hearing(peer) if one not in self.links]

    def dial(
        self,
        peer: PeerId,
        addresses: tuple[str, ...],
        *,
        failures_count: int,
        is_needed: bool = False,
    ) -> Dial:
        """Return the next try: there must be an address, or somebody who could carry the link.

        Links that are needed for no work are carried by others up to RELAYED_LINKS_MAX.
        """
        is_turn = (failures_count + (peer in self._roundabout)) % 2 == 1
        is_room = is_needed or len(self._via) + len(self._asked) < RELAYED_LINKS_MAX
        relays = self._relays(peer) if (is_turn and is_room) or not addresses else []
        if not relays:
            return Dial(peer, addresses)
        self._asked.add(peer)
        chosen = self.rng.sample(relays, min(RELAYS_TRIED_MAX, len(relays)))
        return Dial(peer, (), tuple(chosen))

    def direct_due(self, *, now_us: int) -> PeerId | None:
        """Return a device that is linked through another and should be tried directly now."""
        for peer, due_us in self._direct_due_us.items():
            if due_us <= now_us:
                self._put_off(peer, now_us=now_us)
                return peer
        return None

    def _put_off(self, peer: PeerId, *, now_us: int) -> None:
        pause_us = self.rng.randrange(DIRECT_EVERY_US // 2, DIRECT_EVERY_US + 1)
        self._direct_due_us[peer] = now_us + pause_us

    def _relays(self, peer: PeerId) -> list[PeerId]:
        """Return the observers of a device that hear it and to which there is a direct link."""
        hearing = self._hearing(peer)
        return [one for one in hearing if one in self.links and one not in self._via]

    def _hearing(self, peer: PeerId) -> list[PeerId]:
        member = self.directory.get(peer)
        if member is None or member.watch is None or peer in self.dead():
            return []
        return [one for one in member.watch.observers if not self._is_deaf_to(one, peer)]

    def _is_deaf_to(self, observer: PeerId, peer: PeerId) -> bool:
        member = self.directory.get(observer)
        return member is not None and member.watch is not None and peer in member.watch.silent
