"""Which devices to hold links to: few, connected, and redialled for ever.

With up to `links_max` others everybody links to everybody. In a larger mesh a device links to its
two nearest on each side of the ring of ids, which alone connects the mesh, and dials random others
until half of what is left is used; the other half is for those who dial it, or nobody would find
room. Devices that left, died or cannot be reached lose their place to the next, so that the ring
closes over them, and one of them is tried every second. When one answers, the network may have
healed: all are tried anew; so is whoever says anew where it is.

Who has no link at all tries everybody it remembers, one after another: where all were down and
moved, one that did not move is the only one to be found. To that one all come at once, so a device
with many links keeps those that others dialled for half a second only, which is time enough to
learn from it where everybody is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest
from random import Random

from p2p.address_book import AddressBook, AddressRow
from p2p.directory import Directory
from p2p.redials import NO_WORD, Redials, Word
from p2p.ways import Ways
from wire.effects import Dial, Effect, Hangup, SetTimer
from wire.ids import PeerId
from wire.membership import ADDRESSES_MAX
from wire.records import RecordKind

LINKS_MAX = 24
DIALS_MAX = 16
DIALS_FOR_WORK_SHARE = 4  # a quarter of the dials is kept for `reach`
DIAL_US_MAX = 60_000_000
REVIEW_EVERY_US = 1_000_000
REVIEW_SOON_US = 100_000
BRIEF_LINK_US = 30_000_000
CROWDED_LINK_US = 500_000
CROWDED_REVIEW_US = 250_000
SWEEP_EVERY_US = 50_000
WRITE_ADDRESSES_EVERY_US = 5_000_000
HEAL_EVERY_US = 60_000_000
NEAR_EACH_SIDE = 2


@dataclass(frozen=True, slots=True)
class ReviewDue:
    """Timer: see which links are missing or too many."""


@dataclass(frozen=True, slots=True)
class _Up:
    since_us: int
    is_outbound: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """Who is known besides this device, as of these revisions of directory and address book."""

    revisions: tuple[int, int] = (-1, -1)
    ring: list[PeerId] = field(default_factory=list)  # in the order of their ids
    left: list[PeerId] = field(default_factory=list)  # those that said goodbye


@dataclass(slots=True, kw_only=True)
class Overlay:
    """The links wanted, and the addresses to get them at."""

    own: PeerId
    directory: Directory
    links: dict[PeerId, object]  # shared with the node; only its keys are read
    rng: Random
    dead: Callable[[], Set[PeerId]] = frozenset
    links_max: int = LINKS_MAX
    dials_max: int = DIALS_MAX
    book: AddressBook = field(default_factory=AddressBook)
    redials: Redials = field(init=False)
    ways: Ways = field(init=False)
    _dialling: dict[PeerId, int] = field(default_factory=dict)  # since when
    _up: dict[PeerId, _Up] = field(default_factory=dict)
    _needed_until_us: dict[PeerId, int] = field(default_factory=dict)
    _borrowed_until_us: dict[PeerId, int] = field(default_factory=dict)  # by the host itself
    _hanging_up: set[PeerId] = field(default_factory=set)
    _known: _Known = field(default_factory=_Known)
    _reviewed_us: int = 0
    _is_review_soon: bool = False  # its timer is set
    _is_word_heard: bool = False  # somebody may have said where a linked device is
    _healed_us: int | None = None
    _written_us: int | None = None  # the addresses of all members
    _revision_written: int = -1

    def __post_init__(self) -> None:
        """Draw the jitter of redials from the same source."""
        self.redials = Redials(rng=self.rng)
        self.ways = Ways(
            directory=self.directory, links=self.links, rng=self.rng, dead=lambda: self.dead()
        )

    @property
    def last_failure(self) -> dict[PeerId, str]:
        """Why devices that are not linked could not be reached, in words."""
        return self.redials.last_failure

    def on_restarted(self, rows: list[AddressRow]) -> list[Effect]:
        """Remember who was reached before; the first review is at once."""
        return [*self.book.on_restarted(rows), SetTimer(ReviewDue(), 1)]

    def addresses_of(self, peer: PeerId) -> tuple[str, ...]:
        """Return where to dial a device: what it says itself first, then what was seen."""
        both = dict.fromkeys((*self._told_by(peer), *self.book.of(peer)))
        return tuple(both)[:ADDRESSES_MAX]

    def is_dialling(self, peer: PeerId) -> bool:
        """Say whether a dial is under way."""
        return peer in self._dialling

    @property
    def may_dial_more(self) -> bool:
        """Whether a short piece of work finds room for one more dial."""
        return len(self._dialling) < self.dials_max

    def is_needed(self, peer: PeerId) -> bool:
        """Say whether a short piece of work needs the device."""
        return peer in self._needed_until_us

    # --- what happens -------------------------------------------------------------------------

    def on_peer_seen(self, peer: PeerId, addresses: tuple[str, ...], source: str) -> list[Effect]:
        """Somebody told where a device may be: try it now."""
        if peer == self.own or not addresses or self.directory.is_removed(peer):
            return []
        if set(addresses) <= set(self.addresses_of(peer)):
            self.redials.on_sighted(peer)
        else:
            self.redials.forgive(peer)
        return [*self.book.on_told(peer, addresses, source=source), SetTimer(ReviewDue(), 1)]

    def on_peer_needed(self, peer: PeerId, *, now_us: int) -> list[Effect]:
        """The host itself has something to ask a device: its link may stay for a while."""
        if peer != self.own and not self.directory.is_removed(peer):
            self._borrowed_until_us[peer] = now_us + BRIEF_LINK_US
        return []

    def on_link_up(
        self,
        peer: PeerId,
        address: str,
        *,
        is_outbound: bool,
        via: PeerId | None = None,
        now_us: int,
    ) -> list[Effect]:
        """Remember the address that worked, or who carries the link."""
        self._dialling.pop(peer, None)
        self.ways.on_link_up(peer, via, now_us=now_us)
        self._up[peer] = _Up(since_us=now_us, is_outbound=is_outbound)
        self._is_word_heard = True
        self.redials.on_linked(peer)
        is_first = not (self.links.keys() - {peer})
        was_lost = is_first or self.redials.is_doubtful(peer) or peer in self.dead()
        if was_lost and self._is_heal_due(now_us):
            self._healed_us = now_us
            self.redials.forgive_all_but(peer)
        effects: list[Effect] = []
        if len(self.links) == self._crowd_count + 1:
            effects.append(SetTimer(ReviewDue(), CROWDED_REVIEW_US))
        # The port of an inbound connection is not one that anybody listens on.
        if is_outbound and address and via is None:
            effects += self.book.on_reached(peer, address)
        return effects

    def on_link_down(self, peer: PeerId, reason: str, *, now_us: int) -> list[Effect]:
        """Dial it again, at once if the link lasted."""
        up = self._up.pop(peer, None)
        self.ways.on_link_down(peer)
        self._hanging_up.discard(peer)
        lasted_us = 0 if up is None or self._has_left(peer) else now_us - up.since_us
        self.redials.on_link_lost(
            peer, reason, lasted_us=lasted_us, word=self._word_of(peer), now_us=now_us
        )
        return []

    def on_dial_failed(
        self, peer: PeerId, reason: str, *, is_full: bool = False, now_us: int
    ) -> list[Effect]:
        """Wait longer before the next try, up to a minute. `is_full`: it has no room for a link."""
        self._dialling.pop(peer, None)
        self.ways.on_dial_failed(peer)
        if peer not in self.links:  # else it dialled us meanwhile
            self.redials.on_failed(peer, reason, word=self._word_of(peer), now_us=now_us)
        if self.links:
            return []
        if is_full:
            return [SetTimer(ReviewDue(), self.redials.on_full(peer, now_us=now_us))]
        is_anybody_untried = len(self.redials) < len(self._known.ring)
        return [SetTimer(ReviewDue(), SWEEP_EVERY_US)] if is_anybody_untried else []

    def on_word_of(self, peer: PeerId) -> list[Effect]:
        """Records came from a device: keep where it says it is at once, or a stop comes first.

        After a restart at another address, only we know how to find each other.
        """
        if peer not in self.links:
            return []
        return self.book.on_word_of_linked(peer, self._told_by(peer))

    def on_members_changed(self, *, now_us: int) -> list[Effect]:
        """Dial soon, if more are known and more are wanted: a mesh mixes by its links."""
        is_same = self.directory.roster_revision == self._known.revisions[0]
        count = len(self.links) + len(self._dialling)
        if is_same or count >= self._dialled_max or self._is_review_soon:
            return []
        self._is_review_soon = True
        pause_us = max(1, self._reviewed_us + REVIEW_SOON_US - now_us)
        return [SetTimer(ReviewDue(), pause_us)]

    def forget(self, peer: PeerId) -> list[Effect]:
        """Never dial a device again."""
        self._needed_until_us.pop(peer, None)
        self._borrowed_until_us.pop(peer, None)
        return self.book.forget(peer)

    # --- what is done -------------------------------------------------------------------------

    def on_review_due(self, *, now_us: int) -> list[Effect]:
        """Dial what is missing, hang up what is too much."""
        self._reviewed_us, self._is_review_soon = now_us, False
        self._clean_up(now_us=now_us)
        self._look_around()
        near = self._near()
        if len(self._known.ring) > self.links_max:
            chosen = self._chosen(near, now_us=now_us)
        else:
            chosen = self._missing(now_us=now_us)
        needed = self._needed_again(now_us=now_us)
        bridges = {peer: self._bridges_to(peer, now_us=now_us) for peer in needed}
        waiting = {peer: found for peer, found in bridges.items() if found}
        chosen = [peer for peer in dict.fromkeys((*needed, *chosen)) if peer not in waiting]
        pause_us = CROWDED_REVIEW_US if self._is_crowded else REVIEW_EVERY_US
        return [
            SetTimer(ReviewDue(), pause_us),
            *self._remember_linked(),
            *self._remember_members(now_us=now_us),
            *self._link_with_bridges(waiting, now_us=now_us),
            *self._dial(chosen, now_us=now_us),
            *self._straighten(now_us=now_us),
            *self._hang_up_excess(near, now_us=now_us),
        ]

    def reach(self, peer: PeerId, addresses: tuple[str, ...], *, now_us: int) -> list[Effect]:
        """Have a link to a device for a short piece of work, whether or not it is wanted besides.

        If there is neither a link nor a dial afterwards, it cannot be reached now.
        """
        if peer == self.own or self.directory.is_removed(peer):
            return []
        known = tuple(dict.fromkeys((*addresses, *self.addresses_of(peer))))[:ADDRESSES_MAX]
        is_dial_wanted = peer not in self.links and peer not in self._dialling
        is_way = bool(known) or self.ways.can_carry_to(peer)
        if is_dial_wanted and (not is_way or len(self._dialling) >= self.dials_max):
            return []
        self._needed_until_us[peer] = now_us + BRIEF_LINK_US
        if not is_dial_wanted:
            return []
        self._dialling[peer] = now_us
        return [self._next_try(peer, known)]

    def release(self, peer: PeerId) -> None:
        """A short piece of work needs a device no longer."""
        self._needed_until_us.pop(peer, None)

    def _look_around(self) -> None:
        """See who is known: most reviews find the mesh as it was a second ago."""
        revisions = self.directory.roster_revision, self.book.revision
        if revisions == self._known.revisions:
            return
        known = {member.peer for member in self.directory} | self.book.peers()
        known.discard(self.own)
        left = [member.peer for member in self.directory if member.has_left]
        self.redials.on_words(self._word_of)
        self._known = _Known(revisions=revisions, ring=sorted(known), left=left)
        self._is_word_heard = True

    def _clean_up(self, *, now_us: int) -> None:
        for peer, since_us in list(self._dialling.items()):
            if since_us + DIAL_US_MAX <= now_us:  # the host never said how it ended
                self.on_dial_failed(peer, "the dial was not answered", now_us=now_us)
        for short in (self._needed_until_us, self._borrowed_until_us):
            for peer, until_us in list(short.items()):
                if until_us <= now_us:
                    del short[peer]
        self.redials.keep_only(self._is_wanted)
        self.ways.keep_only(self._is_wanted)

    def _near(self) -> list[PeerId]:
        """Return the nearest on each side of the ring of those that can be expected to answer."""
        ring = self._known.ring
        place = bisect_left(ring, self.own)
        above = chain(range(place, len(ring)), range(place))
        below = chain(reversed(range(place)), reversed(range(place, len(ring))))
        sides = [
            islice((ring[at] for at in way if self._is_expected(ring[at])), NEAR_EACH_SIDE)
            for way in (above, below)
        ]
        nearest = [peer for pair in zip_longest(*sides) for peer in pair if peer is not None]
        return list(dict.fromkeys(nearest))[: self.links_max]

    def _chosen(self, near: list[PeerId], *, now_us: int) -> list[PeerId]:
        """Choose from those that could be dialled: there are more than links."""
        count = self._dialled_max - len(self.links.keys() | self._dialling.keys())
        if not self.links:  # whoever answers will do
            return self._missing(first=near, now_us=now_us)[: max(0, count)]
        nearest = [peer for peer in near if self._may_dial(peer, now_us=now_us)]
        count -= len(nearest)
        others: list[PeerId] = []
        if count > 0:
            missing = self._missing(now_us=now_us)
            others = [peer for peer in missing if peer not in near and self._is_hopeful(peer)]
        return [*nearest, *self._forlorn(near, now_us=now_us), *others[: max(0, count)]]

    def _missing(self, first: Sequence[PeerId] = (), *, now_us: int) -> list[PeerId]:
        """Return all that could be dialled, the likeliest first, else in random order."""
        missing = [peer for peer in self._known.ring if self._may_dial(peer, now_us=now_us)]
        self.rng.shuffle(missing)
        failures_count = self.redials.failures_count
        missing.sort(
            key=lambda peer: (failures_count(peer), peer not in first, not self._told_by(peer))
        )
        return missing

    def _forlorn(self, near: list[PeerId], *, now_us: int) -> list[PeerId]:
        """Return one of those that lost their place because they left, died or did not answer."""
        lost = dict.fromkeys((*self._known.left, *self.redials.doubtful(), *sorted(self.dead())))
        due = [peer for peer in lost if peer not in near and self._may_dial(peer, now_us=now_us)]
        return [self.rng.choice(due)] if due else []

    def _remember_linked(self) -> list[Effect]:
        """Keep what others passed on of where linked devices say they are."""
        if not self._is_word_heard:
            return []
        self._is_word_heard = False
        return [effect for peer in sorted(self.links) for effect in self.on_word_of(peer)]

    def _remember_members(self, *, now_us: int) -> list[Effect]:
        """Keep where all members say they are: many at a time, as a storm of joins has many."""
        if self.directory.roster_revision == self._revision_written:
            return []
        if self._written_us is not None and now_us < self._written_us + WRITE_ADDRESSES_EVERY_US:
            return []
        self._written_us, self._revision_written = now_us, self.directory.roster_revision
        told = {
            member.peer: member.presence.addresses
            for member in self.directory
            if member.presence is not None
            and member.peer != self.own
            and not self.directory.is_removed(member.peer)
        }
        return self.book.on_word_of_members(told)

    def _dial(self, missing: list[PeerId], *, now_us: int) -> list[Effect]:
        reserved = self.dials_max // DIALS_FOR_WORK_SHARE
        room = max(0, self.dials_max - reserved - len(self._dialling))
        chosen = [peer for peer in missing if peer not in self._dialling][:room]
        self._dialling.update(dict.fromkeys(chosen, now_us))
        return [self._next_try(peer, self.addresses_of(peer)) for peer in chosen]

    def _next_try(self, peer: PeerId, addresses: tuple[str, ...]) -> Dial:
        return self.ways.dial(
            peer,
            addresses,
            failures_count=self.redials.failures_count(peer),
            is_needed=self.is_needed(peer),
        )

    def _needed_again(self, *, now_us: int) -> list[PeerId]:
        """Return whom work needs and the last dial did not reach."""
        return [
            peer
            for peer in self._needed_until_us
            if self.redials.failures_count(peer) and self._may_dial(peer, now_us=now_us)
        ]

    def _bridges_to(self, peer: PeerId, *, now_us: int) -> list[PeerId]:
        """Return those to link with first, as nobody who is linked could carry a link to a device.

        In a mesh of more devices than links none of its observers may be linked.
        """
        if self.ways.can_carry_to(peer):
            return []
        return [
            one
            for one in self.ways.bridges_to(peer)
            if one in self._dialling or self._may_dial(one, now_us=now_us)
        ]

    def _link_with_bridges(
        self, waiting: dict[PeerId, list[PeerId]], *, now_us: int
    ) -> list[Effect]:
        return [
            effect
            for bridges in waiting.values()
            if not self._dialling.keys() & bridges
            for effect in self.reach(self.rng.choice(bridges), (), now_us=now_us)
        ]

    def _straighten(self, *, now_us: int) -> list[Effect]:
        """Try to do without the device that carries a link; if that fails, all stays as it is."""
        peer = self.ways.direct_due(now_us=now_us)
        if peer is None or not self._has_address(peer) or peer in self._hanging_up:
            return []
        return [Dial(peer, self.addresses_of(peer))]

    def _hang_up_excess(self, near: list[PeerId], *, now_us: int) -> list[Effect]:
        kept_max = self.links_max // 2 if self._is_crowded else self.links_max
        if len(self.links) <= kept_max:
            return []
        lasting = [
            peer
            for peer in sorted(self.links)
            if peer not in self._hanging_up and not self._is_brief(peer, now_us=now_us)
        ]
        spare = [peer for peer in lasting if peer not in near]
        chosen = self.rng.sample(spare, min(max(0, len(lasting) - kept_max), len(spare)))
        self._hanging_up.update(chosen)
        return [Hangup(peer, "too many links") for peer in chosen]

    # --- questions ----------------------------------------------------------------------------

    def _may_dial(self, peer: PeerId, *, now_us: int) -> bool:
        return (
            peer not in self.links
            and peer not in self._dialling
            and self.redials.is_due(peer, now_us=now_us)
            and self._has_way(peer)
            and not self.directory.is_removed(peer)
        )

    def _is_expected(self, peer: PeerId) -> bool:
        """Say whether a device would keep its place on the ring."""
        is_linked = peer in self.links and peer not in self.dead()
        return (is_linked or self._is_hopeful(peer)) and not self.directory.is_removed(peer)

    def _is_wanted(self, peer: PeerId) -> bool:
        """Say whether anybody would dial a device, or does, or is linked with it."""
        if peer in self.links or peer in self._dialling:
            return True
        is_known = self.directory.get(peer) is not None or peer in self.book
        return is_known and not self.directory.is_removed(peer)

    def _is_hopeful(self, peer: PeerId) -> bool:
        return (
            self._has_way(peer)
            and not self._has_left(peer)
            and not self.redials.is_doubtful(peer)
            and peer not in self.dead()
        )

    def _is_brief(self, peer: PeerId, *, now_us: int) -> bool:
        """Say whether a link is for a short piece of work: ours, or of somebody who dialled us."""
        up = self._up.get(peer)
        brief_us = CROWDED_LINK_US if self._is_crowded else BRIEF_LINK_US
        is_new_inbound = up is not None and not up.is_outbound and now_us < up.since_us + brief_us
        return is_new_inbound or peer in self._needed_until_us or peer in self._borrowed_until_us

    @property
    def _dialled_max(self) -> int:
        """How many links are dialled for: the rest is for those who dial this device."""
        near_count = min(2 * NEAR_EACH_SIDE, self.links_max)
        return near_count + (self.links_max - near_count) // 2

    @property
    def _crowd_count(self) -> int:
        """From how many links on the last places for others are in use."""
        return self.links_max + self.dials_max // 2

    @property
    def _is_crowded(self) -> bool:
        return len(self.links) > self._crowd_count

    def _word_of(self, peer: PeerId) -> Word:
        """Return the version of what a device last said of where it is."""
        signed = self.directory.record(peer, RecordKind.PRESENCE)
        return NO_WORD if signed is None or self._has_left(peer) else signed.body.version

    def _is_heal_due(self, now_us: int) -> bool:
        return self._healed_us is None or now_us >= self._healed_us + HEAL_EVERY_US

    def _has_left(self, peer: PeerId) -> bool:
        member = self.directory.get(peer)
        return member is not None and member.has_left

    def _has_way(self, peer: PeerId) -> bool:
        return self._has_address(peer) or self.ways.can_carry_to(peer)

    def _has_address(self, peer: PeerId) -> bool:
        return bool(self._told_by(peer)) or peer in self.book

    def _told_by(self, peer: PeerId) -> tuple[str, ...]:
        member = self.directory.get(peer)
        return () if member is None or member.presence is None else member.presence.addresses
