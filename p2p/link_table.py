"""Which link to each peer is the one: decided here, alike at both ends, without waiting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from p2p.link import Link
from wire.ids import PeerId


@dataclass(slots=True, kw_only=True)
class LinkTable:
    """At most one link to each peer; a link leaves the table after its last event was told.

    `race_s` is how long a dial may take, handshake included: two links to one peer within it are a
    race of two dials; later, the peer dialled because it has forgotten the older one.
    """

    own: PeerId
    race_s: float
    _links: dict[PeerId, Link] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many links there are, those that are ending included."""
        return len(self._links)

    def __iter__(self) -> Iterator[Link]:
        """Go through all links; the table may change meanwhile."""
        return iter(tuple(self._links.values()))

    def __contains__(self, peer: PeerId) -> bool:
        """Say whether the peer's LinkDown is still to come."""
        return peer in self._links

    def get(self, peer: PeerId) -> Link | None:
        """Return the link that messages to `peer` take."""
        link = self._links.get(peer)
        return None if link is None or link.is_closing else link

    def holds(self, link: Link) -> bool:
        """Say whether no other link took the place of `link`."""
        return self._links.get(link.peer) is link

    def refuses(
        self, peer: PeerId, *, is_outbound: bool, is_direct: bool = True, now_s: float
    ) -> bool:
        """Say whether the link that there is outlives a new one. Both ends say the same.

        Of a direct link and one that another device carries the direct one stays.
        """
        current = self._links.get(peer)
        if current is None or not self._is_race(current, is_outbound=is_outbound, now_s=now_s):
            return False
        if (current.via is None) is not is_direct:
            return current.via is None
        return current.is_outbound == (self.own < peer)  # the smaller id dialled it

    def put(self, link: Link) -> bool:
        """Make `link` the one, unless another stays; True if the two were a race of dials."""
        now_s = link.established_s
        current = self._links.get(link.peer)
        if current is None:
            self._links[link.peer] = link
            return False
        is_direct = link.via is None
        if self.refuses(link.peer, is_outbound=link.is_outbound, is_direct=is_direct, now_s=now_s):
            link.second(current)
            return True
        self._links[link.peer] = link
        is_alike = (current.via is None) is is_direct
        if is_alike and self._is_race(current, is_outbound=link.is_outbound, now_s=now_s):
            current.hand_over(link)
            return True
        current.make_way(link)
        return False

    def _is_race(self, current: Link, *, is_outbound: bool, now_s: float) -> bool:
        return (
            not current.is_closing
            and current.is_outbound != is_outbound  # who dials again has lost the link
            and now_s - current.established_s <= self.race_s
        )

    def remove(self, link: Link) -> bool:
        """Forget `link`; False if another one has its place."""
        if not self.holds(link):
            return False
        del self._links[link.peer]
        return True
