"""Each device names some of its links as its observers; they say when they no longer hear it.

Observers and subjects as in Rapid (Suresh et al. 2018), local health as in Lifeguard (Dadgar et al.
2018). What a device says is one gossiped record of its own, its watch: who observes it, and whom it
does not hear of those that it observes. So an accusation is state, not a message: it is signed,
repaired by anti-entropy, taken back by the next version, and a newcomer learns it like the rest.
What follows from all accusations is in `p2p.verdicts`. Observers are direct links only, so they
are also those through whom a device that nobody can dial is reached (`p2p.ways`).

A subject refutes by naming others: it names no one whom it does not hear, or who says that he does
not hear it. A device that stood still (suspended, swapped out, starved) says nothing about others,
and names nobody, until it has run for some seconds; and one that was silent must be heard without a
gap for two seconds before its observer takes the accusation back. So what wakes up for a moment now
and then stays dead to all until it is well, and accuses nobody. Whoever is late itself, as on a
machine with too much to do, waits longer for others.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from blake3 import blake3

from p2p.directory import Directory, Member
from p2p.liveness import Liveness
from wire.effects import Effect, SetTimer
from wire.ids import PeerId
from wire.records import SILENT_MAX, RecordKind, Watch

OBSERVERS_COUNT = 6
SUSPECT_US = 2_500_000
STEADY_US_MIN = 2_000_000
LENIENCE = 3
LATENESS_LASTS_US = 10_000_000
STOOD_STILL_US = 1_000_000
RECOVERY_US = 3_000_000  # after standing still
PUBLISH_EVERY_US = 1_000_000
DISTRUST_US = 30_000_000  # of an observer that fell silent
SETTLE_US = 100_000  # links come and go together
FIRST_SETTLE_US = 1_000_000  # at a start they come for some seconds, one wave after another
FIRST_SETTLE_US_MAX = 4_000_000
RECHECK_US = 500_000


@dataclass(frozen=True, slots=True)
class WatchDue:
    """Timer: somebody may have been silent for too long, or observers are to be named."""


@dataclass(slots=True)
class _Subject:
    incarnation: int
    heard_us: int
    is_accused: bool = False


@dataclass(slots=True, kw_only=True)
class FailureDetector:
    """Whom this device observes, and who observes it. Times are on the caller's clock."""

    own: PeerId
    directory: Directory
    liveness: Liveness
    links: dict[PeerId, object]  # shared with the node; only its keys are read
    observers_max: int = OBSERVERS_COUNT
    watch: Watch = field(default_factory=Watch)  # what was said last
    _subjects: dict[PeerId, _Subject] = field(default_factory=dict)
    _relayed: set[PeerId] = field(default_factory=set)  # linked through another device
    _ranks: dict[PeerId, bytes] = field(default_factory=dict)
    _distrusted_until_us: dict[PeerId, int] = field(default_factory=dict)  # of those linked
    _revision_seen: int = -1
    _said_us: int | None = None
    _first_link_us: int | None = None
    _last_link_us: int = 0
    _recovers_us: int = 0  # this device stood still, and is not sure of itself before
    _due_us: int | None = None
    _lateness_us: int = 0  # the worst of late of its own timer
    _lateness_until_us: int = 0

    def on_link_up(self, peer: PeerId, *, is_relayed: bool = False, now_us: int) -> list[Effect]:
        """It may become an observer. The link's liveness knows of it already."""
        if is_relayed:
            self._relayed.add(peer)
        self._ranks[peer] = blake3(min(peer, self.own) + max(peer, self.own)).digest()
        self._last_link_us = now_us
        if self._first_link_us is None:
            self._first_link_us = now_us
        return self._review_at(now_us + SETTLE_US, now_us=now_us)

    def on_link_down(self, peer: PeerId, *, now_us: int) -> list[Effect]:
        """Another observer may be needed. The link's liveness still knows of it."""
        self._ranks.pop(peer, None)
        self._relayed.discard(peer)
        self._distrusted_until_us.pop(peer, None)
        subject = self._subjects.get(peer)
        if subject is not None:
            subject.heard_us = self._heard_us(peer, subject)
        return self._review_at(now_us + SETTLE_US, now_us=now_us)

    def on_members_changed(self, *, now_us: int) -> list[Effect]:
        """Somebody may have named this device, or said that he does not hear it."""
        if self.directory.watch_revision == self._revision_seen:
            return []
        return self._review_at(now_us + SETTLE_US, now_us=now_us)

    def on_watch_due(self, *, now_us: int) -> tuple[Watch | None, list[Effect]]:
        """Return what to say, None if it is what was said last, and the next timer."""
        late_us = 0 if self._due_us is None else now_us - self._due_us
        self._due_us = None
        self._note_lateness(late_us, now_us=now_us)
        self._excuse(late_us, now_us=now_us)
        self._look_around(now_us=now_us)
        wanted = self._wanted(now_us=now_us)
        says = None
        if wanted != self.watch and self._may_say(wanted, now_us=now_us):
            says = self.watch = wanted
            self._said_us = now_us
        effects = self.liveness.watch(self._watched(), now_us=now_us)
        due_us = self._next_us(is_waiting=wanted != self.watch, now_us=now_us)
        if due_us is not None:
            effects += self._review_at(due_us, now_us=now_us)
        return says, effects

    def _watched(self) -> set[PeerId]:
        """Return whose links tell a silence soon: where no observer would, both ends listen."""
        if not self.watch.observers:
            return self._subjects.keys() | self.links.keys()
        unobserved = {peer for peer in self.links if not self._is_observed(peer)}
        return self._subjects.keys() | set(self.watch.observers) | unobserved

    def _is_observed(self, peer: PeerId) -> bool:
        member = self.directory.get(peer)
        return member is not None and member.watch is not None and bool(member.watch.observers)

    def _may_say(self, wanted: Watch, *, now_us: int) -> bool:
        """Say whether it is time: an accusation does not wait."""
        is_accusation = not set(wanted.silent) <= set(self.watch.silent)
        return is_accusation or now_us >= self._may_say_us

    @property
    def _may_say_us(self) -> int:
        """From when on it may say what does not hurry: first when its first links have come."""
        if self._said_us is not None:
            return self._said_us + PUBLISH_EVERY_US
        if self._first_link_us is None:
            return 0
        settled_us = self._last_link_us + FIRST_SETTLE_US
        return min(settled_us, self._first_link_us + FIRST_SETTLE_US_MAX)

    def _note_lateness(self, late_us: int, *, now_us: int) -> None:
        if late_us >= self._lateness_us or now_us >= self._lateness_until_us:
            self._lateness_us, self._lateness_until_us = late_us, now_us + LATENESS_LASTS_US

    @property
    def _suspect_us(self) -> int:
        """How long a silence is suspicious: longer where this device itself is behind."""
        return SUSPECT_US + LENIENCE * min(self._lateness_us, STOOD_STILL_US)

    def _excuse(self, late_us: int, *, now_us: int) -> None:
        """Do not take time that this device did not live through for silence of others."""
        if late_us < STOOD_STILL_US:
            return
        self._recovers_us = now_us + RECOVERY_US
        self.liveness.on_stood_still(late_us, now_us=now_us)
        for subject in self._subjects.values():
            subject.heard_us = min(now_us, subject.heard_us + late_us)

    def _look_around(self, *, now_us: int) -> None:
        """See who names this device: most reviews find the mesh as it was."""
        if self.directory.watch_revision == self._revision_seen:
            return
        self._revision_seen = self.directory.watch_revision
        self._subjects = {
            member.peer: self._subject(member, now_us=now_us)
            for member in self.directory.subjects.values()
            if not member.has_left
        }

    def _subject(self, member: Member, *, now_us: int) -> _Subject:
        """Return what is known of a subject, nothing if it was started anew."""
        incarnation = member.records[RecordKind.WATCH].body.incarnation
        subject = self._subjects.get(member.peer)
        if subject is None or subject.incarnation != incarnation:
            return _Subject(incarnation=incarnation, heard_us=now_us)
        return subject

    def _wanted(self, *, now_us: int) -> Watch:
        """Return what there is to say now."""
        if now_us < self._recovers_us:
            return self.watch
        for peer, subject in self._subjects.items():
            silence_us = now_us - self._heard_us(peer, subject)
            if silence_us >= self._suspect_us:
                subject.is_accused = True
            elif self.liveness.steady_us(peer) >= STEADY_US_MIN:
                subject.is_accused = False
        accused = [peer for peer, subject in self._subjects.items() if subject.is_accused]
        return Watch(
            observers=self._observers(now_us=now_us),
            # At the bound those are left out whom others accuse as well.
            silent=tuple(sorted(accused)[:SILENT_MAX]),
        )

    def _observers(self, *, now_us: int) -> tuple[PeerId, ...]:
        for peer in self.watch.observers:
            heard_us = self.liveness.heard_us(peer)
            if heard_us is not None and now_us - heard_us >= self._suspect_us:
                self._distrusted_until_us[peer] = now_us + DISTRUST_US
        here = [peer for peer in self.links if self._is_here(peer)]
        fit = [peer for peer in here if self._is_fit(peer, now_us=now_us)]
        # Where it hears nobody, or all accuse it, it cannot choose its judges.
        fit = fit or [peer for peer in self.watch.observers if peer in here] or here
        # Chosen by the pair: then two devices mostly observe each other, over one link.
        return tuple(sorted(sorted(fit, key=self._ranks.__getitem__)[: self.observers_max]))

    def _is_here(self, peer: PeerId) -> bool:
        """Say whether it could observe this device: what a third carries ends with the third."""
        member = self.directory.get(peer)
        return peer not in self._relayed and member is not None and not member.has_left

    def _is_fit(self, peer: PeerId, *, now_us: int) -> bool:
        """Say whether a device can be expected to hear this one."""
        subject = self._subjects.get(peer)
        is_accused = subject is not None and subject.is_accused
        is_distrusted = now_us < self._distrusted_until_us.get(peer, 0)
        return not is_accused and not is_distrusted and not self._is_accused_by(peer)

    def _is_accused_by(self, peer: PeerId) -> bool:
        member = self.directory.get(peer)
        return member is not None and member.watch is not None and self.own in member.watch.silent

    def _heard_us(self, peer: PeerId, subject: _Subject) -> int:
        heard_us = self.liveness.heard_us(peer)
        return subject.heard_us if heard_us is None else max(heard_us, subject.heard_us)

    def _next_us(self, *, is_waiting: bool, now_us: int) -> int | None:
        if now_us < self._recovers_us:
            return self._recovers_us
        dues_us = []
        for peer, subject in self._subjects.items():
            if subject.is_accused:
                dues_us.append(now_us + RECHECK_US)
            else:
                dues_us.append(self._heard_us(peer, subject) + self._suspect_us)
        for peer in self.watch.observers:
            heard_us = self.liveness.heard_us(peer)
            if heard_us is not None and now_us - heard_us < self._suspect_us:
                dues_us.append(heard_us + self._suspect_us)
        if is_waiting:
            dues_us.append(self._may_say_us)
        return min(dues_us, default=None)

    def _review_at(self, due_us: int, *, now_us: int) -> list[Effect]:
        """Set the timer, unless it is set for then or before."""
        due_us = max(due_us, now_us + 1)
        if self._due_us is not None and self._due_us <= due_us:
            return []
        self._due_us = due_us
        return [SetTimer(WatchDue(), due_us - now_us)]
