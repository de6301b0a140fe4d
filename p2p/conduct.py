"""How peers behave: scores that offences lower and time restores, and bans.

One for the host, its gossip and its links, so that offences add up wherever they were committed.
Scores outlive connections: hanging up and coming back cleans nothing. Slowness lowers a score, too,
but bans nobody that did nothing else: a disk may hang again and again, and whoever is slow loses
its links anyway. All tables are bounded: a full one forgets whoever is nearest to being forgotten.
"""

from __future__ import annotations

import enum

from msgspec import Struct

from wire.ids import PeerId


class Offence(enum.Enum):
    """What a peer did wrong."""

    MALFORMED = "sent what is malformed"
    FORGED = "sent a forged signature"
    FLOODED = "sent more than it may for half a second"
    STALLED = "did not read what it was sent"


class ConductSettings(Struct, frozen=True, kw_only=True):
    """What offences cost and how long a ban lasts. Higher costs ban faulty peers sooner.

    Five malformed frames, or two forged signatures, within a minute and a half are too many. So are
    a second of sending faster than one may, and half of that from a device that stalled twice in
    five minutes. Stalls take `slowness_max` together, however many there are.
    """

    score_max: float = 100.0
    malformed_cost: float = 22.0
    forged_cost: float = 55.0
    flooded_cost: float = 55.0
    stalled_cost: float = 32.0
    slowness_max: float = 64.0
    restored_per_s: float = 0.1
    ban_s: float = 600.0
    peers_count_max: int = 1_024

    def cost(self, offence: Offence) -> float:
        """Return what one offence takes from a score."""
        match offence:
            case Offence.MALFORMED:
                return self.malformed_cost
            case Offence.FORGED:
                return self.forged_cost
            case Offence.FLOODED:
                return self.flooded_cost
            case Offence.STALLED:
                return self.stalled_cost


class Conduct:
    """Scores and bans of peers. Times: seconds on the caller's clock."""

    def __init__(self, settings: ConductSettings) -> None:
        self._settings = settings
        # When a peer's score is whole again, so far as it was guilt and so far as it was slowness.
        self._innocent_s: dict[PeerId, float] = {}
        self._swift_s: dict[PeerId, float] = {}
        self._banned_until_s: dict[PeerId, float] = {}

    def on_offence(self, peer: PeerId, offence: Offence, *, now_s: float) -> bool:
        """Lower the peer's score; True if that was the last straw and it is banned from now on.

        What a banned peer does meanwhile, such as what was under way, changes nothing.
        """
        settings = self._settings
        if self.banned_for_s(peer, now_s=now_s):
            return False
        guilt_s = max(0.0, self._innocent_s.pop(peer, now_s) - now_s)
        slow_s = max(0.0, self._swift_s.pop(peer, now_s) - now_s)
        cost_s = settings.cost(offence) / settings.restored_per_s
        if offence is Offence.STALLED:
            slow_s = min(slow_s + cost_s, settings.slowness_max / settings.restored_per_s)
        else:
            guilt_s += cost_s
        if guilt_s and (guilt_s + slow_s) * settings.restored_per_s >= settings.score_max:
            self.ban(peer, for_s=settings.ban_s, now_s=now_s)
            return True
        if guilt_s:
            _insert(self._innocent_s, peer, now_s + guilt_s, settings.peers_count_max)
        if slow_s:
            _insert(self._swift_s, peer, now_s + slow_s, settings.peers_count_max)
        return False

    def ban(self, peer: PeerId, *, for_s: float, now_s: float) -> None:
        """Take nothing from the peer for a while, whatever it did elsewhere."""
        _insert(self._banned_until_s, peer, now_s + for_s, self._settings.peers_count_max)

    def banned_for_s(self, peer: PeerId, *, now_s: float) -> float:
        """Return for how many seconds more nothing is taken from the peer; 0 if it is welcome."""
        until_s = self._banned_until_s.get(peer, now_s)
        if until_s <= now_s:
            self._banned_until_s.pop(peer, None)
        return max(0.0, until_s - now_s)


def _insert(table: dict[PeerId, float], peer: PeerId, until_s: float, count_max: int) -> None:
    table[peer] = until_s
    if len(table) > count_max:
        del table[min(table, key=lambda other: table[other])]
