"""Anti-entropy over links: two devices compare hashes, then versions, then give what is newer.

An exchange opens with one hash over everything that lasts; equal means done. Else the bucket hashes
follow, then the versions in the buckets that differ, then the records. A new record also goes on to
a few links (rumor mongering, Demers et al. 1987): at once, or, where many come one after another,
with the others of the same twentieth of a second. What a rumor misses, the next exchange repairs.

Telemetry is not in the hashes. It changes somewhere all the time, so no two devices would ever find
their states equal, and what a device misses of it is replaced by the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from p2p.directory import Chain, Directory, Merge
from wire.effects import Effect, Send, SetTimer, Trace
from wire.errors import NotAMember
from wire.ids import PeerId, peer_text
from wire.messages import (
    BUCKET_COUNT,
    HASH_BYTES,
    RECORDS_MAX,
    VERSIONS_MAX,
    BucketSummary,
    BucketVersions,
    RecordsGiven,
    RecordsWanted,
    RecordVersion,
    StateSummary,
)
from wire.records import KNOWN_KINDS, Record, RecordKind
from wire.signed import Signed

EXCHANGE_EVERY_US = 2_000_000
EXCHANGE_SOON_US = 300_000  # while members come, or say whom they hear
EXCHANGE_FULL_US = 60_000_000  # a directory that is full is a sample, equal to no other
ANSWER_US_MAX = 300_000  # of one whose state is equal there is none
RUMOR_FANOUT = 4  # all but 2 % hear it at once
# Most of what is gossiped is telemetry, and it is soon replaced: a fifth may miss one.
TELEMETRY_FANOUT = 2
STORM_NEWS_COUNT = 8  # of so many at a time what one link misses another soon brings
STORM_FANOUT = 2
RUMOR_PAUSE_US = 50_000
OWNER_WINDOW_US = 10_000_000
OWNER_RUMORS_MAX = 32  # of one device in a window; a start and a bad minute need fewer
GIVEN_MESSAGES_MAX = 16  # an empty directory is filled in several exchanges, not in one burst

# What a device with the same code and the same removals would not have passed on.
_OFFENCES = frozenset({Merge.MALFORMED, Merge.NOT_A_MEMBER})


@dataclass(frozen=True, slots=True)
class ExchangeDue:
    """Timer: open an exchange with one random link."""


@dataclass(frozen=True, slots=True)
class AnswerDue:
    """Timer: compare with the next new link, whether or not the last one answered."""


@dataclass(frozen=True, slots=True)
class RumorsDue:
    """Timer: pass on what came since the last rumor."""


@dataclass(slots=True, kw_only=True)
class Gossip:
    """Keeps the directory equal to those of the linked devices. Times are on the caller's clock."""

    directory: Directory
    links: dict[PeerId, object]  # shared with the node; only its keys are read
    rng: Random
    # What is to be passed on, by owner and kind, and who gave it: RECORDS_MAX of them at most.
    _news: dict[tuple[PeerId, str], PeerId | None] = field(default_factory=dict)
    _passed_on_us: int | None = None
    _passed_on_count: dict[PeerId, int] = field(default_factory=dict)  # by owner, in this window
    _window_ends_us: int = 0
    _is_rumor_due: bool = False  # its timer is set
    _new_links: list[PeerId] = field(default_factory=list)  # to compare with, the newest last
    _compared: PeerId | None = None  # the new link whose answer is awaited
    _revision_exchanged: int = -1

    def start(self) -> list[Effect]:
        """Return the first timer."""
        return [SetTimer(ExchangeDue(), self.rng.randrange(EXCHANGE_EVERY_US) + 1)]

    def on_exchange_due(self) -> list[Effect]:
        """Compare with one random link."""
        is_news = self.directory.watch_revision != self._revision_exchanged
        self._revision_exchanged = self.directory.watch_revision
        pause_us = EXCHANGE_SOON_US if is_news else EXCHANGE_EVERY_US
        if self.directory.is_full:
            pause_us = EXCHANGE_FULL_US
        again: list[Effect] = [SetTimer(ExchangeDue(), pause_us)]
        if not self.links:
            return again
        return [*again, self._summary_to(self.rng.choice(sorted(self.links)))]

    def on_link_up(self, peer: PeerId, chain: Chain, *, is_outbound: bool) -> list[Effect]:
        """Take in the new neighbour. Whoever dialled compares, with one new link at a time."""
        try:
            self.directory.introduce(peer, chain)
        except NotAMember as error:  # the handshake checked the chain: it was removed meanwhile
            return [Trace("gossip.stranger", {"peer_id": peer_text(peer), "reason": str(error)})]
        if not is_outbound:
            return []
        self._new_links.append(peer)
        return [] if self._compared is not None else self._compare_next()

    def on_link_down(self, peer: PeerId) -> None:
        """Do not compare with it any more; if it is being asked, its time just runs out."""
        if peer in self._new_links:
            self._new_links.remove(peer)

    def on_answer_due(self) -> list[Effect]:
        """Compare with the next new link: the last one had nothing new, or is slow."""
        return self._compare_next()

    def on_state_summary(self, peer: PeerId, summary: StateSummary) -> list[Effect]:
        """Answer with bucket hashes if anything differs."""
        if summary.state == self.directory.state_hash():
            return []
        return [Send(peer, BucketSummary(buckets=self.directory.bucket_hashes()))]

    def on_bucket_summary(self, peer: PeerId, summary: BucketSummary) -> list[Effect]:
        """Answer with the versions in the buckets that differ, as many buckets as a frame holds."""
        own = self.directory.bucket_hashes()
        unequal = [
            bucket
            for bucket in range(BUCKET_COUNT)
            if _part(own, bucket) != _part(summary.buckets, bucket)
        ]
        # A random order, so that what one frame cannot hold is the subject of the next exchange.
        self.rng.shuffle(unequal)
        buckets: list[int] = []
        versions: list[RecordVersion] = []
        for bucket in unequal:
            found = self.directory.versions([bucket])
            if len(found) > VERSIONS_MAX:
                # Ids were ground into one bucket. What is left out is given to us once more.
                found = self.rng.sample(found, VERSIONS_MAX)
            if len(versions) + len(found) <= VERSIONS_MAX:
                buckets.append(bucket)
                versions += found
        if not buckets:
            return []
        return [Send(peer, BucketVersions(buckets=tuple(buckets), versions=tuple(versions)))]

    def on_bucket_versions(self, peer: PeerId, theirs: BucketVersions) -> list[Effect]:
        """Give what they lack, ask for what we lack."""
        ours = {
            (version.owner, version.kind): version
            for version in self.directory.versions(theirs.buckets)
        }
        wanted = []
        for version in theirs.versions:
            held = ours.pop((version.owner, version.kind), None)
            if held is None or _number(held) < _number(version):
                if self.directory.would_hold(version.owner) and version.kind in KNOWN_KINDS:
                    wanted.append(version)
            elif _number(held) > _number(version):
                ours[version.owner, version.kind] = held
        # Presence first: it brings the chain without which the others are not accepted.
        wanted.sort(key=lambda version: version.kind != RecordKind.PRESENCE)
        if self.directory.is_full:
            # Whom the other does not list it may have no room for: it asks, when it compares.
            listed = {version.owner for version in theirs.versions}
            ours = {place: version for place, version in ours.items() if version.owner in listed}
        effects = self._given(peer, list(ours.values()))
        if wanted:
            effects.append(Send(peer, RecordsWanted(versions=tuple(wanted[:RECORDS_MAX]))))
        return effects

    def on_records_wanted(self, peer: PeerId, wanted: RecordsWanted) -> list[Effect]:
        """Give what was asked for, at whichever version is held."""
        return self._given(peer, list(wanted.versions))

    def on_records_given(
        self, peer: PeerId | None, given: RecordsGiven, *, now_us: int
    ) -> list[Effect]:
        """Merge, and pass on what was new. `peer` is None for what came by GossipSub."""
        chains = {chain[0].body.subject: chain for chain in given.chains}
        newer: list[Signed[Record]] = []
        refused: dict[Merge, int] = {}
        held_back: dict[PeerId, int] = {}
        for signed in given.records:
            if signed.body.owner == self.directory.own:
                continue  # the node decides what to make of news about itself
            merge = self.directory.merge(signed, chains.get(signed.body.owner), now_us=now_us)
            if merge is Merge.NEWER:
                if self._may_go_on(signed.body.owner, now_us=now_us):
                    newer.append(signed)
                else:
                    held_back[signed.body.owner] = held_back.get(signed.body.owner, 0) + 1
            elif merge is Merge.KNOWN and signed.body.kind == RecordKind.TELEMETRY:
                # Others tell it: with fewer still to tell, it need not go on from here (Demers et
                # al. 1987, section 1.4, feedback).
                self._news.pop((signed.body.owner, signed.body.kind), None)
            elif merge in _OFFENCES:
                refused[merge] = refused.get(merge, 0) + 1
        effects: list[Effect] = [_refusal(peer, merge, count) for merge, count in refused.items()]
        for owner, count in held_back.items():
            effects.append(Trace("rumor.held_back", {"peer_id": peer_text(owner), "count": count}))
        if peer is not None and peer == self._compared:
            effects += self._compare_next()
        return effects + (self._pass_on(newer, peer, now_us=now_us) if newer else [])

    def _may_go_on(self, owner: PeerId, *, now_us: int) -> bool:
        """Say whether a device's word may be passed on at once: not if it says too much.

        It is held all the same, and exchanges tell it: so a device that signs a thousand records a
        second makes its own links busy, and nobody else.
        """
        if now_us >= self._window_ends_us:
            self._window_ends_us = now_us + OWNER_WINDOW_US
            self._passed_on_count.clear()
        count = self._passed_on_count[owner] = self._passed_on_count.get(owner, 0) + 1
        return count <= OWNER_RUMORS_MAX

    def on_rumors_due(self, *, now_us: int) -> list[Effect]:
        """Pass on what came meanwhile."""
        self._is_rumor_due = False
        return self._pass_on_all(now_us=now_us)

    def spread(self, records: tuple[Signed[Record], ...]) -> list[Effect]:
        """Send records to a few random links at once."""
        given = self.with_chains(records)
        fanout = max(_fanout(signed.body.kind) for signed in records)
        return [Send(link, given) for link in self._random_links(fanout)]

    def with_chains(self, records: tuple[Signed[Record], ...]) -> RecordsGiven:
        """Return records with the chains that a stranger to their owners needs."""
        return RecordsGiven(records=records, chains=self._chains_for(records))

    def _compare_next(self) -> list[Effect]:
        """Compare with the newest link: many at once would all bring the same records."""
        self._compared = self._new_links.pop() if self._new_links else None
        if self._compared is None:
            return []
        return [self._summary_to(self._compared), SetTimer(AnswerDue(), ANSWER_US_MAX)]

    def _summary_to(self, peer: PeerId) -> Effect:
        return Send(peer, StateSummary(state=self.directory.state_hash()))

    def _pass_on(
        self, newer: list[Signed[Record]], origin: PeerId | None, *, now_us: int
    ) -> list[Effect]:
        """Pass news on at once after a quiet while, else with what else comes until the pause ends.

        So one word travels as fast as it can, and a thousand do not make a thousand messages.
        """
        effects: list[Effect] = []
        for signed in newer:
            self._news[signed.body.owner, signed.body.kind] = origin
            if len(self._news) >= RECORDS_MAX:
                effects += self._pass_on_all(now_us=now_us)
        if not self._news or self._is_rumor_due:
            return effects
        pause_us = 0
        if self._passed_on_us is not None:
            pause_us = self._passed_on_us + RUMOR_PAUSE_US - now_us
        if pause_us <= 0:
            return effects + self._pass_on_all(now_us=now_us)
        self._is_rumor_due = True
        return [*effects, SetTimer(RumorsDue(), pause_us)]

    def _pass_on_all(self, *, now_us: int) -> list[Effect]:
        """Send each piece of news to a few links, but not to where it came from."""
        news, self._news = self._news, {}
        is_storm = len(news) >= STORM_NEWS_COUNT
        self._passed_on_us = now_us
        links = self._random_links(RUMOR_FANOUT + 1)  # one of them may be where it came from
        records: dict[PeerId, list[Signed[Record]]] = {link: [] for link in links}
        for (owner, kind), origin in news.items():
            signed = self.directory.record(owner, kind)
            if signed is not None:  # else its owner was dropped meanwhile
                count = STORM_FANOUT if is_storm else _fanout(kind)
                for link in [link for link in links if link != origin][:count]:
                    records[link].append(signed)
        return [effect for link in links for effect in self._records_to(link, records[link])]

    def _random_links(self, count: int) -> list[PeerId]:
        links = sorted(self.links)
        return self.rng.sample(links, min(count, len(links)))

    def _given(self, peer: PeerId, versions: list[RecordVersion]) -> list[Effect]:
        found = (self.directory.record(version.owner, version.kind) for version in versions)
        return self._records_to(peer, [record for record in found if record is not None])

    def _records_to(self, peer: PeerId, records: list[Signed[Record]]) -> list[Effect]:
        """Return what gives the records, in as many messages as they need; presence first."""
        records = sorted(records, key=_presence_first)
        return [
            Send(peer, self.with_chains(tuple(records[start : start + RECORDS_MAX])))
            for start in range(0, len(records), RECORDS_MAX)[:GIVEN_MESSAGES_MAX]
        ]

    def _chains_for(self, records: tuple[Signed[Record], ...]) -> tuple[Chain, ...]:
        owners = dict.fromkeys(
            signed.body.owner for signed in records if signed.body.kind == RecordKind.PRESENCE
        )
        members = (self.directory.get(owner) for owner in owners)
        return tuple(member.chain for member in members if member is not None)


def _fanout(kind: str) -> int:
    return TELEMETRY_FANOUT if kind == RecordKind.TELEMETRY else RUMOR_FANOUT


def _part(hashes: bytes, bucket: int) -> bytes:
    return hashes[bucket * HASH_BYTES : (bucket + 1) * HASH_BYTES]


def _number(version: RecordVersion) -> tuple[int, int]:
    return version.incarnation, version.counter


def _refusal(peer: PeerId | None, merge: Merge, count: int) -> Effect:
    fields = {"peer_id": None if peer is None else peer_text(peer), "reason": merge.name.lower()}
    return Trace("record.refused", {**fields, "count": count})


def _presence_first(signed: Signed[Record]) -> bool:
    return signed.body.kind != RecordKind.PRESENCE
