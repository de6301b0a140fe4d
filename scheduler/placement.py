"""Offering tasks: two devices are asked, the better of those that accept gets the lease.

Tasks go out in chunks that shrink as fewer are left (guided self-scheduling, Polychronopoulos and
Kuck 1987): large ones save messages at first, small ones balance the end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from scheduler.selection import (
    PERMANENT,
    Acceptance,
    Candidate,
    Exclusion,
    Sampler,
    choose,
    exclusion,
)
from telemetry.breaker import BreakerState
from wire.ids import BatchId, PeerId
from wire.messages import OfferRefusal
from wire.tasks import LEASE_TASKS_MAX, Contract, Strategy

PLACEMENTS_MAX = 16
CHUNKS_PER_SLOT = 2
REFUSED_PAUSE_US = 300_000
SILENT_PAUSE_US = 2_000_000
PAUSED_MAX = 4_096
NOBODY: Mapping[PeerId, str] = MappingProxyType({})

# A refusal for one of these reasons stands for this contract, not only for now.
LASTING = frozenset(
    {
        OfferRefusal.NOT_EXECUTOR,
        OfferRefusal.OVER_DEVICE_LIMIT,
        OfferRefusal.ENGINE_PROFILE,
        OfferRefusal.CAPABILITY_MISSING,
        OfferRefusal.NOT_A_SUBMITTER,
        OfferRefusal.BAD_CONTRACT,
    }
)


@dataclass(slots=True, kw_only=True)
class Placement:
    """Some tasks of a batch, offered to a few devices."""

    batch: BatchId
    indices: tuple[int, ...]
    strategy: Strategy
    asked: dict[PeerId, Candidate]
    accepted: dict[PeerId, Acceptance] = field(default_factory=dict)
    refused: dict[PeerId, str] = field(default_factory=dict)  # with the reason

    @property
    def silent(self) -> list[PeerId]:
        """Return those who have not answered."""
        return [
            peer for peer in self.asked if peer not in self.refused.keys() | self.accepted.keys()
        ]

    @property
    def is_answered(self) -> bool:
        """Whether everybody who was asked has answered."""
        return len(self.accepted) + len(self.refused) == len(self.asked)

    def best(self) -> Acceptance | None:
        """Return whom the strategy takes; None if nobody accepted."""
        in_order = [self.accepted[peer] for peer in self.asked if peer in self.accepted]
        return choose(self.strategy, in_order) if in_order else None

    def losers(self) -> list[PeerId]:
        """Return those whose reservation is not needed: all but the best, silent ones included."""
        best = self.best()
        winner = None if best is None else best.candidate.peer
        return [peer for peer in self.asked if peer not in self.refused and peer != winner]


@dataclass(slots=True, kw_only=True)
class Placements:
    """The offers that are out, PLACEMENTS_MAX at most; further tasks wait for an answer.

    What is out to a device counts as room it no longer has: it is not asked for more than it told.
    """

    sampler: Sampler
    _open: dict[int, Placement] = field(default_factory=dict)
    _count: int = 0
    _asked: dict[PeerId, int] = field(default_factory=dict)  # tasks in open offers
    _paused_until_us: dict[PeerId, int] = field(default_factory=dict)
    _refusals: dict[BatchId, dict[PeerId, str]] = field(default_factory=dict)

    @property
    def has_room(self) -> bool:
        """Whether another placement may be opened."""
        return len(self._open) < PLACEMENTS_MAX

    def exclusions(
        self,
        batch: BatchId,
        contract: Contract,
        candidates: Iterable[Candidate],
        *,
        engaged: Collection[PeerId] = (),
        failed_on: Mapping[PeerId, str] = NOBODY,
        now_us: int,
    ) -> tuple[list[Candidate], dict[PeerId, tuple[Exclusion, str]]]:
        """Return who is eligible now, and for everybody else the rule that excludes it.

        Those `engaged` have the task or have done it; those it `failed_on` are asked when nobody
        else is left.
        """
        eligible: list[Candidate] = []
        excluded: dict[PeerId, tuple[Exclusion, str]] = {}
        for candidate in candidates:
            reason = self._exclusion(batch, contract, candidate, now_us)
            if candidate.peer in engaged:
                excluded[candidate.peer] = Exclusion.ENGAGED, "it has this task, or has done it"
            elif reason is None:
                eligible.append(self._with_room_left(candidate))
            else:
                excluded[candidate.peer] = reason
        able = [one for one in eligible if one.peer not in failed_on]
        if not able:  # one of them may do better the next time: retries are counted
            return eligible, excluded
        for peer in [one.peer for one in eligible if one.peer in failed_on]:
            excluded[peer] = Exclusion.FAILED_THIS_TASK, failed_on[peer]
        return able, excluded

    def open(
        self,
        batch: BatchId,
        contract: Contract,
        indices: tuple[int, ...],
        eligible: list[Candidate],
    ) -> tuple[int, Placement]:
        """Draw whom to ask for `indices`; return the number of the offer."""
        self._count += 1
        placement = Placement(
            batch=batch,
            indices=indices,
            strategy=contract.strategy,
            asked={one.peer: one for one in self.sampler.sample(contract, eligible)},
        )
        self._open[self._count] = placement
        for peer in placement.asked:
            self._asked[peer] = self._asked.get(peer, 0) + len(indices)
        return self._count, placement

    def of(self, batch: BatchId, index: int) -> Placement | None:
        """Return the offer that is out for a task."""
        offers = (one for one in self._open.values() if one.batch == batch)
        return next((one for one in offers if index in one.indices), None)

    def on_accepted(
        self, offer: int, peer: PeerId, *, tasks_count: int, wait_us: int
    ) -> Placement | None:
        """Note an acceptance; None if nobody waits for it any more."""
        placement = self._open.get(offer)
        if placement is None or peer not in placement.asked or peer in placement.refused:
            return None
        placement.accepted[peer] = Acceptance(
            candidate=placement.asked[peer], tasks_count=tasks_count, wait_us=wait_us
        )
        return placement

    def on_rejected(
        self, offer: int, peer: PeerId, reason: OfferRefusal, detail: str, *, now_us: int
    ) -> Placement | None:
        """Note a refusal: pause that device, or leave it out for good if it would never do."""
        placement = self._open.get(offer)
        if placement is None or peer not in placement.asked:
            return None
        placement.accepted.pop(peer, None)
        placement.refused[peer] = f"{reason} {detail}".strip()
        if reason in LASTING:
            self._refusals.setdefault(placement.batch, {})[peer] = placement.refused[peer]
        else:
            self.pause(peer, REFUSED_PAUSE_US, now_us=now_us)
        return placement

    def pause(self, peer: PeerId, pause_us: int, *, now_us: int) -> None:
        """Ask a device nothing for a while, up to twice as long: others wait for it too."""
        paused = self._paused_until_us
        if len(paused) >= PAUSED_MAX:
            for other in [one for one, until_us in paused.items() if until_us <= now_us]:
                del paused[other]
        paused[peer] = now_us + pause_us + self.sampler.rng.randrange(pause_us)

    def on_room(self, peer: PeerId) -> None:
        """A device finished something, so it has room again."""
        self._paused_until_us.pop(peer, None)

    def close(self, offer: int) -> Placement | None:
        """End a placement, answered or not."""
        placement = self._open.pop(offer, None)
        if placement is None:
            return None
        for peer in placement.asked:
            left_count = self._asked[peer] - len(placement.indices)
            if left_count:
                self._asked[peer] = left_count
            else:
                del self._asked[peer]
        return placement

    def forget(self, batch: BatchId) -> None:
        """Drop what is remembered about a batch that is decided."""
        self._refusals.pop(batch, None)

    def _exclusion(
        self, batch: BatchId, contract: Contract, candidate: Candidate, now_us: int
    ) -> tuple[Exclusion, str] | None:
        peer = candidate.peer
        refusal = self._refusals.get(batch, {}).get(peer)
        if refusal is not None:
            return Exclusion.REFUSED, refusal
        excluded = exclusion(contract, candidate)
        if excluded is not None:
            return excluded
        asked_count = self._asked.get(peer, 0)
        if asked_count and candidate.breaker is BreakerState.HALF_OPEN:
            return Exclusion.BREAKER_OPEN, "its probe is being offered"
        if now_us < self._paused_until_us.get(peer, now_us):
            return Exclusion.REFUSED_RECENTLY, "it had no room a moment ago"
        if asked_count and asked_count >= (candidate.slots_free or 0):
            return Exclusion.REFUSED_RECENTLY, "as much as it has room for is being offered to it"
        return None

    def _with_room_left(self, candidate: Candidate) -> Candidate:
        asked_count = self._asked.get(candidate.peer, 0)
        if not asked_count or candidate.slots_free is None:
            return candidate
        workers_free = candidate.workers_free
        return replace(
            candidate,
            slots_free=candidate.slots_free - asked_count,
            workers_free=None if workers_free is None else max(0, workers_free - asked_count),
        )


def chunk_size(waiting_count: int, eligible: list[Candidate]) -> int:
    """Return how many tasks to offer at once."""
    slots = sum(candidate.slots_total or 1 for candidate in eligible)
    return max(1, min(LEASE_TASKS_MAX, -(-waiting_count // (CHUNKS_PER_SLOT * slots))))


def is_permanent(reasons: Iterable[Exclusion]) -> bool:
    """Say whether waiting alone would never make anybody eligible."""
    return all(reason in PERMANENT for reason in reasons)
