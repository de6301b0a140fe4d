"""The steward's way to executors: it looks at what waits, makes offers, and leases to the best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from scheduler.batch import Batch, TaskProgress, inline_bytes_of
from scheduler.leasing import Leasing
from scheduler.placement import (
    REFUSED_PAUSE_US,
    SILENT_PAUSE_US,
    Placement,
    Placements,
    chunk_size,
)
from scheduler.selection import Candidate, Exclusion
from scheduler.spot_checks import Lots
from scheduler.standing import Standings
from scheduler.stewardship import Stewardship
from scheduler.waiting import TURNS_MAX, WaitingBatches
from wire.effects import Effect, Send, SetTimer
from wire.ids import PeerId
from wire.membership import Chain, Role
from wire.messages import Offer as OfferMessage
from wire.messages import OfferAccepted, OfferRejected, OfferReleased

# Half of what a reservation lasts: whoever accepted still has the room when the lease comes.
OFFER_ANSWER_US = 1_000_000
REVIEW_EVERY_US = 1_000_000
REVIEW_SOON_US = 250_000
# A lease message has to fit into a frame of 1 MiB, with its contract and proofs.
LEASE_INLINE_BYTES_MAX = 512 * 1024
REFUSALS_SHOWN_MAX = 2
LOOKED_MAX = 16  # kinds of tasks of a batch, by the devices that have or failed them

_BUSY = "waiting for a device that has room"


@dataclass(frozen=True, slots=True)
class OfferUnanswered:
    """Timer: go on with those who answered."""

    offer: int


@dataclass(slots=True, kw_only=True)
class Dispatch:
    """Offers tasks and leases them."""

    office: Stewardship
    waiting: WaitingBatches
    placements: Placements
    leasing: Leasing
    standings: Standings
    candidates: Callable[[], list[Candidate]]
    lots: Callable[[], Lots]
    is_ready: bool = False

    def on_review(self, *, now_us: int) -> list[Effect]:
        """Offer what is waiting, urgent batches first, a chunk of each in turn."""
        self.waiting.on_review_begins()
        if not len(self.waiting) or not self.is_ready or self.office.is_stopping:
            return []
        candidates = self.candidates()
        effects, unplaced = self._round(candidates, now_us=now_us)
        placed = effects
        while placed:
            placed, _ = self._round(candidates, now_us=now_us)
            effects += placed
        texts = set()
        for batch in unplaced:
            text = self._why_waiting(batch, candidates, now_us=now_us)
            effects += self._explain(batch, text)
            texts.add(text)
        is_soon = _BUSY in texts or len(self.waiting) > TURNS_MAX
        again_us = REVIEW_SOON_US if is_soon else REVIEW_EVERY_US
        # First: what this device answers itself may ask for an earlier review.
        return [*self.waiting.review_in(again_us, now_us=now_us), *effects]

    def on_offer_accepted(
        self, executor: PeerId, accepted: OfferAccepted, *, now_us: int
    ) -> list[Effect]:
        """Wait for the other answer, or decide."""
        placement = self.placements.on_accepted(
            accepted.offer, executor, tasks_count=accepted.tasks_count, wait_us=accepted.wait_us
        )
        if placement is None:
            return [Send(executor, OfferReleased(offer=accepted.offer))]
        return self._grant_if_answered(accepted.offer, placement, now_us=now_us)

    def on_offer_rejected(
        self, executor: PeerId, rejected: OfferRejected, *, now_us: int
    ) -> list[Effect]:
        """Go on with the others."""
        placement = self.placements.on_rejected(
            rejected.offer, executor, rejected.reason, rejected.detail, now_us=now_us
        )
        if placement is None:
            return []
        return self._grant_if_answered(rejected.offer, placement, now_us=now_us)

    def on_offer_unanswered(self, unanswered: OfferUnanswered, *, now_us: int) -> list[Effect]:
        """Silence is a refusal."""
        placement = self.placements.close(unanswered.offer)
        if placement is None:
            return []
        for peer in placement.silent:
            self.placements.pause(peer, SILENT_PAUSE_US, now_us=now_us)
        return self._grant(unanswered.offer, placement, now_us=now_us)

    def on_not_wanted(self, executor: PeerId, *, now_us: int) -> None:
        """A device accepted and then gave the lease back: others first."""
        self.placements.pause(executor, REFUSED_PAUSE_US, now_us=now_us)

    def exclusions(
        self, batch: Batch, index: int, candidates: Iterable[Candidate], *, now_us: int
    ) -> tuple[list[Candidate], dict[PeerId, tuple[Exclusion, str]]]:
        """Return who may be asked for a task now, and for every other device why not."""
        return self.placements.exclusions(
            batch.batch,
            batch.contract.body,
            candidates,
            engaged=batch.progress[index].engaged,
            failed_on=batch.progress[index].failed_on or {},
            now_us=now_us,
        )

    def has_partner(self, batch: Batch, index: int, now_us: int) -> bool:
        """Say whether some other device may run a task too, at once or when it has room."""
        eligible, excluded = self.exclusions(batch, index, self.candidates(), now_us=now_us)
        busy = (reason is Exclusion.REFUSED_RECENTLY for reason, _ in excluded.values())
        return bool(eligible) or any(busy)

    def _round(
        self, candidates: list[Candidate], *, now_us: int
    ) -> tuple[list[Effect], list[Batch]]:
        """Offer a chunk of each batch; return also the batches that nobody could be asked for."""
        effects: list[Effect] = []
        unplaced: list[Batch] = []
        for batch in self.waiting.turns():
            offered = self._place(batch, candidates, now_us=now_us)
            effects += offered
            if offered:
                self.waiting.served(batch)
            else:
                unplaced.append(batch)
            if not self.placements.has_room:
                break
        return effects, unplaced

    def _place(self, batch: Batch, candidates: list[Candidate], *, now_us: int) -> list[Effect]:
        if not self.placements.has_room:
            return []
        contract = batch.contract.body
        first, eligible = self._first_placeable(batch, candidates, now_us=now_us)
        if first is None:
            return []
        is_compared = batch.progress[first].comparison is not None  # each has partners of its own
        count = 1 if is_compared else chunk_size(batch.waiting_count, eligible)
        indices = self._chunk(batch, first, count)
        offer, placement = self.placements.open(batch.batch, contract, indices, eligible)
        batch.place(indices)
        message = OfferMessage(
            offer=offer,
            contract=batch.contract,
            tasks_count=len(indices),
            chain=self._chain_of_submitter(batch),
            moves=batch.moves,
        )
        asked = [Send(peer, message) for peer in placement.asked]
        return [*asked, SetTimer(OfferUnanswered(offer), OFFER_ANSWER_US)]

    def _chain_of_submitter(self, batch: Batch) -> Chain | None:
        submitter = batch.contract.signer
        if submitter == self.office.own:
            return None
        return next(iter(self.office.chains_of((submitter,), batch.chains)), None)

    def _first_placeable(
        self, batch: Batch, candidates: list[Candidate], *, now_us: int
    ) -> tuple[int | None, list[Candidate]]:
        """Return the first waiting task that somebody may be asked for, and whom to ask."""
        looked: set[tuple[frozenset[PeerId], frozenset[PeerId]]] = set()
        for index in batch.waiting():
            alike = _excluded_by(batch.progress[index])
            if alike in looked:
                continue
            eligible, _ = self.exclusions(batch, index, candidates, now_us=now_us)
            if eligible:
                task = batch.progress[index]
                eligible = _of_other_operators(task, eligible, candidates)
                return index, self._drawn(batch, index, eligible)
            looked.add(alike)
            if len(looked) == LOOKED_MAX:
                break
        return None, []

    def _drawn(self, batch: Batch, index: int, eligible: list[Candidate]) -> list[Candidate]:
        """Let lots, not loads, decide who runs a task whose result is compared."""
        if batch.progress[index].comparison is None:
            return eligible
        first = self.lots().ranked(batch.batch, index, (one.peer for one in eligible))[0]
        return [one for one in eligible if one.peer == first]

    def _chunk(self, batch: Batch, first: int, count: int) -> tuple[int, ...]:
        """Return waiting tasks that the same devices have or failed, as many as a lease holds."""
        alike = _excluded_by(batch.progress[first])
        indices: list[int] = []
        inline_bytes = 0
        for index in batch.waiting():
            if _excluded_by(batch.progress[index]) != alike:
                continue
            if batch.tasks is not None:
                inline_bytes += inline_bytes_of(batch.tasks[index])
            if indices and inline_bytes > LEASE_INLINE_BYTES_MAX:
                break
            indices.append(index)
            if len(indices) == count:
                break
        return tuple(indices)

    def _grant_if_answered(self, offer: int, placement: Placement, *, now_us: int) -> list[Effect]:
        if not placement.is_answered:
            return []
        self.placements.close(offer)
        return self._grant(offer, placement, now_us=now_us)

    def _grant(self, offer: int, placement: Placement, *, now_us: int) -> list[Effect]:
        effects: list[Effect] = [
            Send(peer, OfferReleased(offer=offer)) for peer in placement.losers()
        ]
        best = placement.best()
        batch = self.office.batch(placement.batch)
        if batch is None:  # decided and retired meanwhile
            return effects + _released(offer, placement)
        batch.displace(placement.indices)
        self.waiting.put(batch)
        again_us = REVIEW_SOON_US if best is None else 0
        effects += self.waiting.review_in(again_us, now_us=now_us)
        if best is None:
            return effects
        executor = best.candidate.peer
        open_indices = placement.indices if batch.is_leading else ()
        indices = tuple(
            index
            for index in open_indices
            if batch.progress[index].is_waiting and executor not in batch.progress[index].engaged
        )
        is_willing = self.standings.allows_work(executor) and not self.office.is_stopping
        if not indices or not is_willing or not self.office.may(executor, Role.EXECUTOR):
            return effects + _released(offer, placement)
        indices = indices[: best.tasks_count]
        for index in indices:
            batch.progress[index].placed = placement
        return effects + self.leasing.grant(offer, batch, executor, indices, now_us=now_us)

    def _why_waiting(self, batch: Batch, candidates: list[Candidate], *, now_us: int) -> str:
        first, _ = self._first_placeable(batch, candidates, now_us=now_us)
        if first is not None:
            return _BUSY
        first = next(batch.waiting())
        _, excluded = self.exclusions(batch, first, candidates, now_us=now_us)
        return _waiting_because(list(excluded.values()))

    def _explain(self, batch: Batch, text: str) -> list[Effect]:
        effects: list[Effect] = []
        for index in batch.waiting():
            task = batch.progress[index]
            said = task.said(text)
            if task.reason != said and not task.is_hedged:  # which is running
                task.reason = said
                effects += self.office.on_changed(batch, (index,))
        return effects


def _excluded_by(task: TaskProgress) -> tuple[frozenset[PeerId], frozenset[PeerId]]:
    """Return who has a task and who failed it: all that sets tasks of a batch apart."""
    return task.engaged, frozenset(task.failed_on or ())


def _of_other_operators(
    task: TaskProgress, eligible: list[Candidate], candidates: list[Candidate]
) -> list[Candidate]:
    """Prefer devices of operators that have none at a task yet, where operators are known."""
    if not task.engaged:
        return eligible
    operators = {one.operator for one in candidates if one.peer in task.engaged} - {None}
    return [one for one in eligible if one.operator not in operators] or eligible


def _released(offer: int, placement: Placement) -> list[Effect]:
    best = placement.best()
    return [] if best is None else [Send(best.candidate.peer, OfferReleased(offer=offer))]


def _waiting_because(excluded: list[tuple[Exclusion, str]]) -> str:
    """Say why nobody can be asked, in words that do not change while nothing else does."""
    counts = Counter(reason for reason, _ in excluded)
    if counts[Exclusion.REFUSED_RECENTLY]:
        return _BUSY
    refusals = sorted({text for reason, text in excluded if reason is Exclusion.REFUSED})
    summary = [f"{count} {reason}" for reason, count in sorted(counts.items())]
    if refusals:
        summary.append("; ".join(refusals[:REFUSALS_SHOWN_MAX]))
    return f"no device is eligible now: {', '.join(summary) or 'none is known'}"
