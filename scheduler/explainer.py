"""Answers `plan` and `why`: where a task would go, why it is where it is, and what holds it up.

It reads what the steward keeps and decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scheduler.batch import Batch, TaskProgress
from scheduler.explanation import (
    Because,
    Place,
    Rule,
    device_reason,
    in_order,
    placing,
    since_placed,
)
from scheduler.placement import Placements
from scheduler.selection import Candidate
from scheduler.stewardship import Stewardship
from wire.answers import DeviceReason, PlanView, StewardReason, TaskView, WhyView
from wire.ids import BatchId, PeerId, peer_text
from wire.tasks import Contract

_NO_BATCH = BatchId(bytes(20))


@dataclass(slots=True, kw_only=True)
class Explainer:
    """Tells why. `office` and `placements` are the steward's."""

    office: Stewardship
    placements: Placements
    candidates: Callable[[], list[Candidate]]
    name_of: Callable[[PeerId], str]

    def plan(
        self, contract: Contract, tasks_count: int, *, stewards: list[str], now_us: int
    ) -> PlanView:
        """Return where tasks under `contract` would go; `stewards` would be asked to keep them."""
        candidates = self.candidates()
        eligible, excluded = self.placements.exclusions(
            _NO_BATCH, contract, candidates, now_us=now_us
        )
        first, stands = placing(contract, eligible, excluded, self.placements.sampler)
        devices = [device_reason(one, *stands[one.peer]) for one in candidates]
        reason = "no device is eligible now: each says what would change that"
        if first is not None:
            reason = f"{first.name} is likeliest to get it, of {len(eligible)} that could"
        if first is not None and len(eligible) == 1:
            reason = f"{first.name} alone could take it"
        return PlanView(
            tasks_count=tasks_count,
            strategy=str(contract.strategy),
            device=None if first is None else peer_text(first.peer),
            device_name=None if first is None else first.name,
            reason=reason,
            stewards=stewards,
            devices=in_order(devices),
        )

    def why(self, batch: Batch, index: int, *, now_us: int) -> WhyView:
        """Return why a task is where it is, as far as this steward knows."""
        task, view = batch.progress[index], batch.view(index, self.name_of)
        candidates = self.candidates()
        return WhyView(
            task=view,
            told_by=peer_text(self.office.own),
            told_by_name=self.name_of(self.office.own),
            is_current=batch.is_leading or batch.is_decided,
            reason=_reason(view),
            hint=view.hint,
            stewards=self._stewards(batch, candidates),
            devices=in_order(self._devices(batch, task, index, candidates, now_us=now_us)),
        )

    def _devices(
        self,
        batch: Batch,
        task: TaskProgress,
        index: int,
        candidates: list[Candidate],
        *,
        now_us: int,
    ) -> list[DeviceReason]:
        contract = batch.contract.body
        eligible, excluded = self.placements.exclusions(
            batch.batch, contract, candidates, failed_on=task.failed_on or {}, now_us=now_us
        )
        _, stands = placing(contract, eligible, excluded, self.placements.sampler)
        placement = task.placed or self.placements.of(batch.batch, index)
        asked_count = 0 if placement is None else len(placement.asked)
        reasons = []
        for one in candidates:
            place, because, share = stands[one.peer]
            if task.decided is not None:
                place, because = _when_decided(one, task)
            elif placement is not None:
                asked = since_placed(placement, task.executor, one.peer)
                if asked is not None:
                    place, because = asked
                elif place is not Place.EXCLUDED:
                    place, because = Place.OUTRANKED, _not_asked(asked_count)
            is_waiting = task.decided is None and placement is None
            reasons.append(device_reason(one, place, because, share if is_waiting else None))
        return reasons

    def _stewards(self, batch: Batch, candidates: list[Candidate]) -> list[StewardReason]:
        known = {one.peer: one for one in candidates}
        return [
            StewardReason(
                id=peer_text(steward.peer),
                name=self.name_of(steward.peer),
                state=steward_state(known.get(steward.peer)),
                is_leading=rank == batch.epoch.rank and not batch.is_decided,
            )
            for rank, steward in enumerate(batch.stewards)
        ]


def steward_state(candidate: Candidate | None) -> str:
    """Return in a word whether a steward can be reached from here."""
    if candidate is None:
        return "unknown"
    if candidate.is_self:
        return "self"
    if candidate.has_left:
        return "left"
    if candidate.is_dead:
        return "dead"
    return "linked" if candidate.is_linked else "not_linked"


def _reason(view: TaskView) -> str:
    where = f" on {view.executor_name}" if view.executor_name else ""
    return f"{view.state}{where}" + (f": {view.reason}" if view.reason else "")


def _when_decided(candidate: Candidate, task: TaskProgress) -> tuple[Place, Because | None]:
    if candidate.peer == task.executor:
        return Place.HAS_IT, None
    ended = "" if task.decided is None else f": {task.decided.kind}"
    return Place.OUTRANKED, Because(
        Rule.DECIDED, f"the task is decided{ended}, and an outcome stands for good", ""
    )


def _not_asked(asked_count: int) -> Because:
    detail = f"the task was offered to {asked_count}, drawn by free slots times speed"
    return Because(Rule.NOT_ASKED, detail, "it may be drawn if the task has to be offered again")
