"""Which incoming connections are taken, by the address they come from, before a byte is read.

Peer ids are free to make and cost us a handshake to learn, so a flood of connections is stopped by
its address: by how many there are at once, how many begin, and how many lead to nothing. The last
two end in a ban of the address; connections that stand stay. An IPv6 address counts as its /64,
which one subscriber has whole.

Floods from many addresses are met by a bound on strangers, those who were not admitted (yet). When
their places are taken one has to leave: one of the address whose connections led to nothing most
often, at random among equals, of which the newest stays. To refuse whoever is the newest would let
those who came first shut the door, and to drop the oldest would let a flood push out every
handshake that is under way. (sshd draws, too: `MaxStartups`.)
"""

from __future__ import annotations

import ipaddress
import math
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Final

from msgspec import Struct

from p2p.rate_limit import Rate, RateTable

ADDRESSES_MAX: Final = 1_024
_IPV6_BITS: Final = 64
_CREDIT_STEPS: Final = 16


class DoorwaySettings(Struct, frozen=True, kw_only=True):
    """What one address may do. Counts and seconds.

    `entry_rate` is about connections that begin: each costs a handshake, some 10 ms of CPU.
    `failure_rate` is about those that were refused, or that spoke no libp2p, had another network
    key, or said nothing: a household whose devices have an old key stays within it. One of a banned
    peer counts as `banned_peer_cost`, since it is known only after the handshake: a banned device
    that dials with a backoff up to a minute stays within that, too.
    `strangers_max` is of all addresses together.
    """

    connections_max: int = 32
    strangers_max: int = 20
    entry_rate: Rate = Rate(per_s=8, burst=64)
    failure_rate: Rate = Rate(per_s=1, burst=64)
    banned_peer_cost: float = 8
    ban_s: float = 60.0


class Doorway:
    """Counts and bans by address, of `ADDRESSES_MAX` at most. Times: seconds, the caller's clock.

    Full tables refuse addresses that are not in them: they empty within a minute.
    """

    def __init__(self, settings: DoorwaySettings, rng: Random) -> None:
        self._settings = settings
        self._rng = rng
        self._inside: Counter[str] = Counter()
        self._entries = RateTable[str](settings.entry_rate, count_max=ADDRESSES_MAX)
        self._failures = RateTable[str](settings.failure_rate, count_max=ADDRESSES_MAX)
        self._banned_until_s: dict[str, float] = {}

    @property
    def inside_count(self) -> int:
        """How many connections are inside."""
        return self._inside.total()

    def objection(self, ip: str, *, now_s: float) -> str | None:
        """Say why a connection from `ip` is not taken; None if it is, and is inside until `left`.

        The caller tells `on_failure` of one that was not taken.
        """
        place = _place_of(ip)
        if self.is_banned(ip, now_s=now_s):
            return "banned"
        if self._inside[place] >= self._settings.connections_max:
            return "too many from one address"
        if not self._entries.take(place, now_s=now_s):
            return "too often from one address"
        self._inside[place] += 1
        return None

    def whom_to_turn_out(self, strangers: Sequence[str], *, now_s: float) -> int | None:
        """Return which of the strangers inside has to leave; None if there is room for all.

        `strangers` are their addresses, the newest last, which among equals stays; what is returned
        is a place among them.
        """
        if len(strangers) <= self._settings.strangers_max:
            return None
        credits_left = [self._credit(ip, now_s) for ip in strangers]
        *others, newest = range(len(strangers))
        least = [place for place in others if credits_left[place] == min(credits_left)]
        return self._rng.choice(least) if least else newest

    def _credit(self, ip: str, now_s: float) -> int:
        """Return how seldom an address failed lately, in steps: an honest one may fail, too."""
        step = self._settings.failure_rate.burst / _CREDIT_STEPS
        return math.ceil(self._failures.left(_place_of(ip), now_s=now_s) / step)

    def left(self, ip: str) -> None:
        """Take back the place of a connection that ended."""
        place = _place_of(ip)
        self._inside[place] -= 1
        if not self._inside[place]:
            del self._inside[place]

    def on_failure(self, ip: str, *, now_s: float, of_banned_peer: bool = False) -> bool:
        """Note that a connection led to nothing; True if the address is banned from now on."""
        place = _place_of(ip)
        tokens = self._settings.banned_peer_cost if of_banned_peer else 1
        if self.is_banned(ip, now_s=now_s) or self._failures.take(place, tokens, now_s=now_s):
            return False
        if len(self._banned_until_s) >= ADDRESSES_MAX:
            del self._banned_until_s[next(iter(self._banned_until_s))]  # all last equally long
        self._banned_until_s[place] = now_s + self._settings.ban_s
        return True

    def is_notorious(self, ip: str, *, now_s: float) -> bool:
        """Say whether one more failure of the address is no news."""
        left = self._failures.left(_place_of(ip), now_s=now_s)
        return left < self._settings.failure_rate.burst / 2

    def is_banned(self, ip: str, *, now_s: float) -> bool:
        """Say whether nothing is taken from the address."""
        place = _place_of(ip)
        if self._banned_until_s.get(place, now_s) > now_s:
            return True
        self._banned_until_s.pop(place, None)
        return False


def _place_of(ip: str) -> str:
    if ":" not in ip:
        return ip
    address = ipaddress.IPv6Address(ip)
    return str(ipaddress.ip_network((address, _IPV6_BITS), strict=False))
