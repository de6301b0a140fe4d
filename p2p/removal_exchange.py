"""How removals travel: new ones at once over all links, and what was missed when links come up.

Removals are rare, so what is new floods: each device passes it on to all its links but the one it
came by. Anti-entropy repairs the rest, whenever a link comes up and in the periodic exchange: one
hash; if that differs, the ids in ascending pages; then the removals that either side lacks. Each
message follows from the one before and no state is kept between them; the page's end only rises, so
every exchange ends. A device without removals sends nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise, takewhile
from random import Random

from p2p.removals import Chain, Removals, Sentence
from wire.effects import Effect, Send, Trace
from wire.ids import PeerId, peer_text
from wire.membership import PaperId, Removal
from wire.messages import (
    REMOVAL_IDS_MAX,
    REMOVALS_GIVEN_MAX,
    LinkRefused,
    RefusalReason,
    RemovalsGiven,
    RemovalsHeld,
    RemovalsSummary,
    RemovalsWanted,
)
from wire.signed import Signed

FLOODED_MAX = 16  # of more, only the hash: whoever lacks them asks
GIVEN_BYTES_MAX = 256 * 1024
GIVEN_MESSAGES_MAX = 2  # in one answer: more would crowd heartbeats out of the link's queue


@dataclass(slots=True, kw_only=True)
class RemovalExchange:
    """Keeps this device's removals equal to those of the linked devices."""

    removals: Removals
    links: dict[PeerId, object]  # shared with the node; only its keys are read
    rng: Random

    def on_link_up(self, peer: PeerId) -> list[Effect]:
        """Compare with the new neighbour; if only it holds any, it says so itself."""
        return [self._summary_to(peer)] if len(self.removals) else []

    def on_exchange_due(self) -> list[Effect]:
        """Compare with one random link."""
        if not len(self.removals) or not self.links:
            return []
        return [self._summary_to(self.rng.choice(sorted(self.links)))]

    def on_summary(self, peer: PeerId, summary: RemovalsSummary) -> list[Effect]:
        """List what is held here, if it is not the same."""
        if summary.removals == self.removals.state_hash:
            return []
        return [self._page_to(peer, b"")]

    def on_held(self, peer: PeerId, held: RemovalsHeld) -> list[Effect]:
        """Give what the peer lacks of this page, ask for what we lack, and for the next page."""
        if not _is_ascending((held.after, *held.ids)):
            return [_refused(peer, "a page out of order")]
        lacking = [removal for removal in held.ids if removal not in self.removals]
        end: PaperId | None = None if held.is_last or not held.ids else held.ids[-1]
        if len(lacking) > REMOVALS_GIVEN_MAX:
            lacking = lacking[:REMOVALS_GIVEN_MAX]
            end = lacking[-1]  # the rest of this page comes again
        ours = self.removals.ids_after(held.after)
        if end is not None:
            last = end
            ours = takewhile(lambda removal: removal <= last, ours)
        theirs = frozenset(held.ids)
        missing = [removal for removal in ours if removal not in theirs]
        effects, given_count = self._given_to(peer, missing)
        if given_count < len(missing):  # the peer asks for the rest as fast as it can take it
            effects.append(self._page_to(peer, missing[given_count - 1]))
        if lacking or end is not None:
            effects.append(Send(peer, RemovalsWanted(ids=tuple(lacking), after=end)))
        return effects

    def on_wanted(self, peer: PeerId, wanted: RemovalsWanted) -> list[Effect]:
        """Give what was asked for, as far as one answer goes, then the page that follows it."""
        asked = [removal for removal in wanted.ids if removal in self.removals]
        effects, given_count = self._given_to(peer, asked)
        after = wanted.after if given_count == len(asked) else asked[given_count - 1]
        return effects if after is None else [*effects, self._page_to(peer, after)]

    def on_given(self, peer: PeerId, given: RemovalsGiven) -> list[Effect]:
        """Take in removals, and pass on what was new."""
        added = self.removals.add(given.removals)
        effects = [_refused(peer, reason) for reason in dict.fromkeys(added.refused)]
        return [*effects, *added.effects, *self.spread(added.news, origin=peer)]

    def spread(
        self, news: tuple[Signed[Removal], ...], *, origin: PeerId | None = None
    ) -> list[Effect]:
        """Tell all links of removals that are new here: also the devices that they put out."""
        if not news:
            return []
        others = [peer for peer in sorted(self.links) if peer != origin]
        if len(news) > FLOODED_MAX:
            return [self._summary_to(peer) for peer in others]
        messages = list(_messages(news))
        return [Send(peer, message) for peer in others for message in messages]

    # --- what a device that is out is told ----------------------------------------------------

    def objection(self, peer: PeerId, chain: Chain) -> LinkRefused | None:
        """Return what to refuse a device with, its papers being in order otherwise."""
        sentence = self.removals.sentence(peer)
        if sentence is not None:
            return LinkRefused(
                reason=RefusalReason.REMOVED,
                detail="this device was removed from the mesh",
                removals=_proof(sentence),
            )
        admin = self.removals.voided_by(chain)
        if admin is None:
            return None
        against_admin = self.removals.sentence(admin)
        return LinkRefused(
            reason=RefusalReason.NOT_A_MEMBER,
            detail=f"{peer_text(admin)}, an admin in its chain, was removed",
            removals=() if against_admin is None else _proof(against_admin),
        )

    def on_refused(self, refusal: LinkRefused) -> list[Effect]:
        """Take in what a device proves by which this one is out."""
        added = self.removals.add(refusal.removals)
        return [*added.effects, *self.spread(added.news)]

    def _summary_to(self, peer: PeerId) -> Effect:
        return Send(peer, RemovalsSummary(removals=self.removals.state_hash))

    def _page_to(self, peer: PeerId, after: bytes) -> Effect:
        ids = tuple(islice(self.removals.ids_after(after), REMOVAL_IDS_MAX + 1))
        is_last = len(ids) <= REMOVAL_IDS_MAX
        return Send(peer, RemovalsHeld(after=after, ids=ids[:REMOVAL_IDS_MAX], is_last=is_last))

    def _given_to(self, peer: PeerId, ids: Iterable[PaperId]) -> tuple[list[Effect], int]:
        """Return what gives removals, and how many of them that are."""
        found = (self.removals.get(removal) for removal in ids)
        messages = _messages(removal for removal in found if removal is not None)
        given = list(islice(messages, GIVEN_MESSAGES_MAX))
        sends: list[Effect] = [Send(peer, message) for message in given]
        return sends, sum(len(message.removals) for message in given)


def _proof(sentence: Sentence) -> tuple[Signed[Removal], ...]:
    """Return removals that show why somebody is out, none if they are too long for a handshake."""
    signed = [held.signed for held in sentence.removals if not held.is_long]
    return tuple(signed[:1])


def _messages(removals: Iterable[Signed[Removal]]) -> Iterator[RemovalsGiven]:
    """Yield removals in as many messages as they need, none longer than a frame may be."""
    part: list[Signed[Removal]] = []
    part_bytes = 0
    for removal in removals:
        is_over = part_bytes + len(removal.received) > GIVEN_BYTES_MAX
        if part and (is_over or len(part) >= REMOVALS_GIVEN_MAX):
            yield RemovalsGiven(removals=tuple(part))
            part, part_bytes = [], 0
        part.append(removal)
        part_bytes += len(removal.received)
    if part:
        yield RemovalsGiven(removals=tuple(part))


def _is_ascending(ids: tuple[bytes, ...]) -> bool:
    return all(one < other for one, other in pairwise(ids))


def _refused(peer: PeerId, reason: str) -> Effect:
    return Trace("removal.refused", {"peer_id": peer_text(peer), "reason": reason})
