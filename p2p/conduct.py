"""How peers behave: scores that offences lower and time restores, and bans.

One for the host, its gossip and its links, so that offences add up wherever they were committed.
Scores outlive connections: hanging up and coming back cleans nothing. Both tables are bounded: a
full one forgets whoever is nearest to being forgotten anyway.
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
    a second of sending faster than one may, and four stalls in five minutes: a device that was
    frozen or suspended stalls once, and one behind a bad line now and then.
    """

    score_max: float = 100.0
    malformed_cost: float = 22.0
    forged_cost: float = 55.0
    flooded_cost: float = 55.0
    stalled_cost: float = 32.0
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
        self._clean_s: dict[PeerId, float] = {}  # when the peer's score is whole again
        self._banned_until_s: dict[PeerId, float] = {}

    def on_offence(self, peer: PeerId, offence: Offence, *, now_s: float) -> bool:
        """Lower the peer's score; True if that was the last straw and it is banned from now on.

        What a banned peer does meanwhile, such as what was under way, changes nothing.
        """
        settings = self._settings
        if self.banned_for_s(peer, now_s=now_s):
            return False
        clean_s = max(self._clean_s.pop(peer, now_s), now_s)
        clean_s += settings.cost(offence) / settings.restored_per_s
        if (clean_s - now_s) * settings.restored_per_s < settings.score_max:
            _insert(self._clean_s, peer, clean_s, settings.peers_count_max)
            return False
        _insert(self._banned_until_s, peer, now_s + settings.ban_s, settings.peers_count_max)
        return True

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
