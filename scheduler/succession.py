"""Replaces stewards that are gone, while a majority of them is there to decide it.

Who leads a batch gives it to devices that agree to keep it. When they hold the tasks, what these
refer to, and all outcomes so far, it prepares an epoch, and proposes in it that they decide what is
open from then on. They act when they have the votes of a majority in hand, never before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from scheduler.batch import Batch, DecisionRow
from scheduler.convening import Convening
from scheduler.keeping import provided_key
from scheduler.leadership import Leadership
from scheduler.moves import Stewards
from scheduler.register import Register, proposed
from scheduler.replication import Replication, kept
from scheduler.retelling import Retelling
from scheduler.stewardship import Stewardship
from wire.effects import Effect, Provide, SetTimer, Trace
from wire.ids import BatchId, PeerId
from wire.messages import BatchDeclined, BatchKept
from wire.tasks import MOVES_MAX, Steward

GONE_US = 600_000_000
REVIEWS_PER_ABSENCE = 60  # so often it is looked at before a steward counts as gone
PLANS_MAX = 64  # moves prepared at a time: the other batches wait for the next review


@dataclass(frozen=True, slots=True)
class AbsenceReview:
    """Timer: see which stewards are gone, and for how long."""


class Resume(Protocol):
    """Goes on with a batch that this device leads."""

    def __call__(self, batch: Batch) -> list[Effect]:
        """Return what that takes."""
        ...


@dataclass(slots=True)
class _Plan:
    """A move on its way. `stewards` is empty until enough devices have agreed."""

    since_us: int
    stewards: Stewards = ()
    joiners: tuple[PeerId, ...] = ()
    holds: dict[PeerId, frozenset[int]] = field(default_factory=dict)  # outcomes, by joiner

    def is_held(self, batch: Batch) -> bool:
        """Say whether all who join have all outcomes that there are."""
        decided = set(batch.decided_indices())
        return all(decided <= self.holds.get(peer, _NOTHING) for peer in self.joiners)


_NOTHING: frozenset[int] = frozenset({-1})  # held by nobody: also what is no task


@dataclass(slots=True, kw_only=True)
class Succession:
    """The stewards that are not there, and the moves to others."""

    office: Stewardship
    register: Register
    leadership: Leadership
    replication: Replication
    convening: Convening
    retelling: Retelling
    resume: Resume
    gone_us: int = GONE_US
    _absent_us: dict[Steward, int] = field(default_factory=dict)  # since when
    _lost: set[Steward] = field(default_factory=set)  # their devices have other stores now
    _plans: dict[BatchId, _Plan] = field(default_factory=dict)
    _is_reviewing: bool = False
    _now_us: int = 0

    # --- who is there -----------------------------------------------------------------------

    def review_later(self) -> list[Effect]:
        """Return the timer of the next review, while any batch has several stewards."""
        if self._is_reviewing or not self._batches():
            return []
        self._is_reviewing = True
        return [SetTimer(AbsenceReview(), self.gone_us // REVIEWS_PER_ABSENCE)]

    def on_review(self, *, now_us: int) -> list[Effect]:
        """Note who is not there; replace who is gone; say where nothing can be decided."""
        self._is_reviewing, self._now_us = False, now_us
        batches = self._batches()
        named = {one for batch in batches for one in batch.stewards if one != self.office.named}
        absent = {one for one in named if self._is_absent(one)}
        self._absent_us = {
            one: self._absent_us.get(one, now_us) for one in sorted(absent, key=_by_peer)
        }
        self._lost &= named
        effects = [e for one in sorted(absent, key=_by_peer) for e in self.office.reach(one.peer)]
        for batch in batches:
            effects += self._review(batch)
        for batch_id in [one for one in self._plans if one not in self.office.ledger.undecided]:
            del self._plans[batch_id]
        return effects + self.review_later()

    def on_declined(self, peer: PeerId, declined: BatchDeclined) -> None:
        """A device has another store than the one that was named: that steward is no more."""
        batch = self.office.batch(declined.batch)
        if batch is not None and declined.is_final:
            self._lost.update(one for one in batch.stewards if one.peer == peer)

    def _review(self, batch: Batch) -> list[Effect]:
        gone = [one for one in batch.stewards if self._is_gone(one)]
        effects = self._explain(batch, len(gone))
        plan = self._plans.get(batch.batch)
        if plan is not None and self._is_over(plan, batch, gone):
            return effects + self._give_up(batch)
        absent_count = sum(one in self._absent_us for one in batch.stewards)
        can_decide = len(batch.stewards) - absent_count >= batch.majority_count
        is_wanted = bool(gone) and can_decide and batch.is_leading and plan is None
        if not is_wanted or len(batch.moves) == MOVES_MAX or len(self._plans) >= PLANS_MAX:
            return effects
        self._plans[batch.batch] = _Plan(self._now_us)
        staying = [one for one in batch.stewards if one not in gone]
        return effects + self.convening.find(
            len(gone),
            batch.tasks or (),
            then=partial(self._on_agreed, batch.batch, staying),
            lost=lambda _: self._on_nobody(batch.batch),
            excluded={one.peer for one in staying},
        )

    def _explain(self, batch: Batch, gone_count: int) -> list[Effect]:
        count = len(batch.stewards)
        is_stuck = count - gone_count < batch.majority_count
        stuck = f"stuck: {gone_count} of {count} stewards gone" if is_stuck else None
        if stuck == batch.stuck:
            return []
        batch.stuck = stuck
        return self.office.on_changed(batch, batch.open_indices())

    # --- moving -----------------------------------------------------------------------------

    def _on_agreed(
        self, batch_id: BatchId, staying: Sequence[Steward], joining: Stewards
    ) -> list[Effect]:
        """Give the batch to those who agreed to keep it."""
        batch, plan = self.office.batch(batch_id), self._plans.get(batch_id)
        if batch is None or plan is None or batch.is_decided or not batch.is_leading:
            return self._on_nobody(batch_id)
        own = self.office.named
        plan.stewards = (own, *(one for one in staying if one != own), *joining)
        plan.joiners = tuple(one.peer for one in joining)
        return self.replication.give_to(batch, list(plan.joiners))

    def _on_nobody(self, batch_id: BatchId) -> list[Effect]:
        self._plans.pop(batch_id, None)
        return [Trace("batch.not_moved", {"batch": batch_id.hex(), "reason": "nobody agreed"})]

    def on_kept(self, peer: PeerId, message: BatchKept, *, now_us: int) -> list[Effect]:
        """Somebody who shall become a steward says what it holds: all, or not yet."""
        batch, plan = self.office.batch(message.batch), self._plans.get(message.batch)
        if batch is None or plan is None or peer not in plan.joiners or not batch.is_leading:
            return []
        plan.holds[peer] = frozenset(message.decided) | _NOTHING
        if not plan.is_held(batch):
            return self._tell_joiners(batch, plan)
        if batch.moving_to is not None:
            return self._propose(batch)
        # A new epoch: what was proposed in this one is decided first, and nothing is leased.
        effects = self.leadership.prepare(batch, now_us=now_us)
        batch.moving_to = plan.stewards
        return effects

    def on_leading(self, batch: Batch) -> list[Effect]:
        """The epoch for the move has its promises."""
        return self._propose(batch)

    def on_decided(self, row: DecisionRow) -> list[Effect]:
        """Tell who joins of new outcomes; a device that is no steward tells what it has now."""
        batch = self.office.batch(row.batch)
        if batch is None:
            return []
        if not batch.is_steward:
            return self.office.send(batch.leader, kept(batch))
        plan = self._plans.get(row.batch)
        if plan is None or not batch.is_leading:
            return []
        return [*self._tell_joiners(batch, plan), *self._propose(batch)]

    def on_moved(self, row: DecisionRow, *, now_us: int) -> list[Effect]:
        """Others decide from now on: tell them, and be one of them, or no more."""
        batch = self.office.batch(row.batch)
        if batch is None or row.epoch.move != len(batch.moves):
            return []
        is_proposer = batch.steward_of(row.epoch) == self.office.named
        self._plans.pop(batch.batch, None)
        effects = self.leadership.move(batch, row, now_us=now_us)
        for peer in batch.co_stewards() if is_proposer else ():
            effects += self.office.send(peer, proposed(row))
        told = Trace(
            "batch.moved",
            {"batch": batch.batch.hex(), "move": len(batch.moves), "rank": batch.rank},
        )
        return [*effects, told, *self.provided(batch)]

    def provided(self, batch: Batch) -> list[Effect]:
        """Return what lets others find a batch whose ids do not name all of its stewards."""
        return [Provide(provided_key(batch))] if batch.moves and batch.is_steward else []

    # --- details ----------------------------------------------------------------------------

    def _propose(self, batch: Batch) -> list[Effect]:
        """Propose the move, once nothing else is on its way and who joins holds everything."""
        plan, stewards = self._plans.get(batch.batch), batch.moving_to
        if plan is None or stewards is None or not batch.is_leading or not plan.is_held(batch):
            return []
        if any(batch.progress[index].is_deciding for index in batch.open_indices()):
            return []
        return self.register.move(batch, stewards)

    def _tell_joiners(self, batch: Batch, plan: _Plan) -> list[Effect]:
        effects: list[Effect] = []
        for peer in plan.joiners:
            known = plan.holds.get(peer)
            if known is not None:
                missing = [index for index in batch.decided_indices() if index not in known]
                effects += self.retelling.tell(peer, batch, missing, moves_from=len(batch.moves))
        return effects

    def _is_over(self, plan: _Plan, batch: Batch, gone: list[Steward]) -> bool:
        """Say whether a plan has come to nothing. What was proposed stands."""
        is_proposed = batch.moving_to is not None and any(
            task.is_deciding for task in batch.progress
        )
        is_late = self._now_us - plan.since_us > self.gone_us
        is_lacking = any(not self.office.is_linked(peer) for peer in plan.joiners)
        return not is_proposed and (is_late or is_lacking or not gone or batch.proposer is None)

    def _give_up(self, batch: Batch) -> list[Effect]:
        del self._plans[batch.batch]
        was_moving, batch.moving_to = batch.moving_to is not None, None
        return self.resume(batch) if was_moving and batch.is_leading else []

    def _is_absent(self, steward: Steward) -> bool:
        return steward in self._lost or not self.office.is_linked(steward.peer)

    def _is_gone(self, steward: Steward) -> bool:
        since_us = self._absent_us.get(steward)
        return since_us is not None and self._now_us - since_us >= self.gone_us

    def _batches(self) -> list[Batch]:
        undecided = self.office.ledger.undecided.values()
        return [
            one for one in undecided if len(one.stewards) > 1 and one.is_steward and one.is_durable
        ]


def _by_peer(steward: Steward) -> tuple[bytes, bytes]:
    return steward.peer, steward.store
