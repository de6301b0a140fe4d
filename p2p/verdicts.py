"""Who is alive, degraded or dead: what follows from all that devices say of whom they hear.

A device is dead when min(3, its observers) of them do not hear it; fewer make it degraded.
Observers that are dead or left themselves, or that this device does not hear itself, are not waited
for, as they may never say anything; so the last of an island learn of each other's death too. One
half-cut device kills nobody, as it is at most one of the observers of any other.

A device none of whose observers is left to speak is dead after ten seconds, and alive again as soon
as one of them is. A verdict is a function of the records alone, up to that delay, so those who hold
the same records judge alike.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Callable, Set
from dataclasses import dataclass, field

from p2p.directory import Directory
from wire.ids import PeerId

ACCUSERS_COUNT = 3
UNOBSERVED_US_MAX = 10_000_000


class Liveliness(enum.StrEnum):
    """How a member is, as the mesh sees it."""

    ALIVE = "alive"
    DEGRADED = "degraded"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a member is, and why: the observers that do not hear it, and how many it has."""

    state: Liveliness = Liveliness.ALIVE
    accusers_count: int = 0
    observers_count: int = 0

    @property
    def reason(self) -> str | None:
        """Why it is not alive, in words."""
        if self.state is Liveliness.ALIVE:
            return None
        if not self.accusers_count:
            return "nobody who observed it is left"
        return f"not heard by {self.accusers_count} of its {self.observers_count} observers"


ALIVE = Verdict()


@dataclass(slots=True, kw_only=True)
class Verdicts:
    """Judges the members of a directory. Times are on the caller's clock."""

    own: PeerId
    directory: Directory
    is_linked: Callable[[PeerId], bool]
    _judged: dict[PeerId, Verdict] = field(default_factory=dict)  # those not alive
    _dead: Set[PeerId] = frozenset()
    _revision_judged: int | None = None
    _unobserved_since_us: dict[PeerId, int] = field(default_factory=dict)
    _again_us: int | None = None  # when somebody was unobserved for too long
    _told: dict[PeerId, Liveliness] = field(default_factory=dict)

    def on_links_changed(self) -> None:
        """Judge anew: a link is as good as an observer for those who have none left."""
        self._revision_judged = None

    def of(self, peer: PeerId, *, now_us: int) -> Verdict:
        """Return the verdict over a member; this device itself is alive."""
        return self.judged(now_us=now_us).get(peer, ALIVE)

    def dead(self, *, now_us: int) -> Set[PeerId]:
        """Return the members that are dead."""
        self.judged(now_us=now_us)
        return self._dead

    def changes(self, *, now_us: int) -> list[tuple[PeerId, Verdict]]:
        """Return the verdicts that are others than when this was asked last."""
        judged = self.judged(now_us=now_us)
        concerned = sorted(judged.keys() | self._told.keys())
        verdicts = [(peer, judged.get(peer, ALIVE)) for peer in concerned]
        changed = [
            (peer, verdict)
            for peer, verdict in verdicts
            if verdict.state is not self._told.get(peer, Liveliness.ALIVE)
        ]
        self._told = {peer: verdict.state for peer, verdict in judged.items()}
        return changed

    def judged(self, *, now_us: int) -> dict[PeerId, Verdict]:
        """Return the verdicts over all who are not alive."""
        is_same = self.directory.watch_revision == self._revision_judged
        if not is_same or (self._again_us is not None and now_us >= self._again_us):
            self._revision_judged = self.directory.watch_revision
            self._judge(now_us=now_us)
        return self._judged

    def _judge(self, *, now_us: int) -> None:
        observers = {
            member.peer: () if member.watch is None else member.watch.observers
            for member in self.directory
            if not member.has_left
        }
        accusers = self._accusers(observers)
        own = self.directory.get(self.own)
        unheard = set() if own is None or own.watch is None else set(own.watch.silent)
        silenced = unheard | {member.peer for member in self.directory if member.has_left}
        dead = _dead(observers, accusers, silenced)
        unobserved = [
            peer
            for peer, named in observers.items()
            if peer != self.own
            and peer not in dead
            and not self.is_linked(peer)
            and all(one in dead or one in silenced for one in named)
        ]
        since_us = self._unobserved_since_us
        self._unobserved_since_us = {peer: since_us.get(peer, now_us) for peer in unobserved}
        self._judged = {}
        self._again_us = None
        for peer, began_us in self._unobserved_since_us.items():
            if now_us - began_us >= UNOBSERVED_US_MAX:
                self._judged[peer] = Verdict(Liveliness.DEAD, 0, len(observers[peer]))
            elif self._again_us is None or began_us + UNOBSERVED_US_MAX < self._again_us:
                self._again_us = began_us + UNOBSERVED_US_MAX
        for peer, accusing in accusers.items():
            state = Liveliness.DEAD if peer in dead else Liveliness.DEGRADED
            self._judged[peer] = Verdict(state, len(accusing), len(observers[peer]))
        self._judged.pop(self.own, None)
        self._dead = {
            peer for peer, verdict in self._judged.items() if verdict.state is Liveliness.DEAD
        }

    def _accusers(self, observers: dict[PeerId, tuple[PeerId, ...]]) -> dict[PeerId, set[PeerId]]:
        """Return by whom each is accused: only a device's own observers may accuse it."""
        accusers: defaultdict[PeerId, set[PeerId]] = defaultdict(set)
        for member in self.directory:
            if member.watch is not None and member.watch.silent and not member.has_left:
                for subject in member.watch.silent:
                    if member.peer in observers.get(subject, ()):
                        accusers[subject].add(member.peer)
        return accusers


def _dead(
    observers: dict[PeerId, tuple[PeerId, ...]],
    accusers: dict[PeerId, set[PeerId]],
    silenced: set[PeerId],
) -> set[PeerId]:
    """Return the least set that holds everybody with enough accusers.

    A death lowers how many accusers others need, and raises nothing, so the set is the same in
    whatever order it is found.
    """
    dead: set[PeerId] = set()
    remaining = dict.fromkeys(accusers)
    while True:
        found = [
            subject
            for subject in remaining
            if len(accusers[subject])
            >= min(
                ACCUSERS_COUNT, _speaking(observers[subject], accusers[subject], dead | silenced)
            )
        ]
        if not found:
            return dead
        dead.update(found)
        for subject in found:
            del remaining[subject]


def _speaking(named: tuple[PeerId, ...], accusing: set[PeerId], mute: set[PeerId]) -> int:
    """Count the observers that accuse, or that could still."""
    return sum(1 for observer in named if observer in accusing or observer not in mute)
