"""Finds the other stewards of a batch: linked devices that agree before they are named.

Three stewards keep a batch, never two: two outlive no more losses than one. Those that agreed are
named with the store they have. Who declines or says nothing within a second makes way for the next
ones: in the first seconds of a split half of the links may lead nowhere. Where too few agree, the
batch is not taken.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field
from functools import partial

from scheduler.batch import inline_bytes_of
from scheduler.ledger import UNDECIDED_INLINE_BYTES_MAX, UNDECIDED_TASKS_MAX
from scheduler.stewardship import Stewardship
from wire.answers import RefusalCode, Refused
from wire.commands import Submit
from wire.effects import Answer, Effect, Send, SetTimer
from wire.ids import PeerId
from wire.membership import Role
from wire.messages import StewardAgreed, StewardAsked, StewardDeclined
from wire.tasks import Durability, Steward, Task

STEWARDS_COUNT = 3
ASKED_MAX = 4  # at a time: one or two may decline
ANSWER_US_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Colleague:
    """A linked device that may keep tasks. Better ones have a higher `health`."""

    peer: PeerId
    name: str
    health: float
    region: str | None = None


@dataclass(frozen=True, slots=True)
class ConveneDue:
    """Timer: go on with those who agreed."""

    token: int


# Makes the batch of a submission, kept by these besides this device.
Found = Callable[[int, Submit, tuple[Steward, ...]], list[Effect]]


@dataclass(slots=True)
class _Convening:
    count: int  # how many have to agree
    message: StewardAsked
    rest: list[PeerId]  # who has not been asked, the best first
    then: Callable[[tuple[Steward, ...]], list[Effect]]
    lost: Callable[[_Convening], list[Effect]]
    agreed: list[Steward] = field(default_factory=list)
    asked: set[PeerId] = field(default_factory=set)
    declined: dict[PeerId, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Convening:
    """Submissions whose stewards are being asked, and the answers to those of others."""

    office: Stewardship
    colleagues: Callable[[], list[Colleague]]
    found: Found
    _open: dict[int, _Convening] = field(default_factory=dict)
    _count: int = 0

    def on_submit(self, request: int, submit: Submit) -> list[Effect]:
        """Find stewards for a submission that is not to be kept here alone."""
        if submit.durability is not Durability.MESH:
            return self.found(request, submit, ())
        return self.find(
            STEWARDS_COUNT - 1,
            submit.tasks,
            then=partial(self.found, request, submit),
            lost=lambda convening: [Answer(request, _too_few(convening))],
        )

    def find(
        self,
        count: int,
        tasks: tuple[Task, ...],
        *,
        then: Callable[[tuple[Steward, ...]], list[Effect]],
        lost: Callable[[_Convening], list[Effect]],
        excluded: Set[PeerId] = frozenset(),
    ) -> list[Effect]:
        """Ask linked devices to keep tasks, and name those that agree to `then`, if enough do."""
        colleagues = [one for one in self.colleagues() if one.peer not in excluded]
        message = StewardAsked(
            token=self._count + 1,
            tasks_count=len(tasks),
            input_bytes=sum(map(inline_bytes_of, tasks)),
        )
        rest = [one.peer for one in _mixed(colleagues)]
        convening = _Convening(count, message, rest, then, lost)
        if len(rest) < count:
            convening.asked = set(rest)
            return lost(convening)
        self._count += 1
        self._open[self._count] = convening
        return self._ask(convening)

    def would_ask(self, durability: Durability | None) -> list[Colleague]:
        """Return whom a submission would be kept with, if they agree."""
        if durability is not Durability.MESH:
            return []
        return _mixed(self.colleagues())[:ASKED_MAX]

    def on_agreed(self, peer: PeerId, agreed: StewardAgreed) -> list[Effect]:
        """Name it; with two the batch is made."""
        convening = self._open.get(agreed.token)
        if convening is None or peer not in convening.asked:
            return []
        convening.asked.discard(peer)
        convening.agreed.append(Steward(peer, agreed.store))
        if len(convening.agreed) < convening.count:
            return self._go_on_if_answered(agreed.token)
        del self._open[agreed.token]
        return convening.then(tuple(convening.agreed))

    def on_declined(self, peer: PeerId, declined: StewardDeclined) -> list[Effect]:
        """One fewer."""
        convening = self._open.get(declined.token)
        if convening is None or peer not in convening.asked:
            return []
        convening.asked.discard(peer)
        convening.declined[peer] = declined.reason
        return self._go_on_if_answered(declined.token)

    def on_due(self, due: ConveneDue) -> list[Effect]:
        """Silence declines."""
        convening = self._open.get(due.token)
        if convening is None:
            return []
        convening.asked.clear()
        return self._go_on_if_answered(due.token)

    def on_asked(self, peer: PeerId, asked: StewardAsked) -> list[Effect]:
        """Somebody wants this device to keep a batch with it."""
        ledger = self.office.ledger
        rules = (
            (self.office.is_stopping, "it is stopping"),
            (not self.office.may(self.office.own, Role.STEWARD), "it may not keep tasks"),
            (not self.office.may(peer, Role.SUBMITTER), "it takes none of who may not submit"),
            (
                ledger.undecided_tasks_count + asked.tasks_count > UNDECIDED_TASKS_MAX,
                "it keeps too many tasks that are not finished",
            ),
            (
                ledger.inline_bytes + asked.input_bytes > UNDECIDED_INLINE_BYTES_MAX,
                "it keeps too many bytes of input",
            ),
        )
        reason = next((text for applies, text in rules if applies), None)
        if reason is not None:
            return [Send(peer, StewardDeclined(token=asked.token, reason=reason))]
        return [Send(peer, StewardAgreed(token=asked.token, store=self.office.store))]

    def _ask(self, convening: _Convening) -> list[Effect]:
        chosen, convening.rest = convening.rest[:ASKED_MAX], convening.rest[ASKED_MAX:]
        convening.asked = set(chosen)
        due = SetTimer(ConveneDue(convening.message.token), ANSWER_US_MAX)
        return [*(Send(peer, convening.message) for peer in chosen), due]

    def _go_on_if_answered(self, token: int) -> list[Effect]:
        """When all have answered or had their time, ask the next ones; the last are the end."""
        convening = self._open[token]
        if convening.asked:
            return []
        if convening.rest:
            return self._ask(convening)
        del self._open[token]
        return convening.lost(convening)


def _too_few(convening: _Convening) -> Refused:
    count = len(convening.agreed) + len(convening.asked)
    reasons = sorted(set(convening.declined.values()))
    because = f" ({'; '.join(reasons)})" if reasons else ""
    return Refused(
        code=RefusalCode.REFUSED,
        message=f"durability mesh needs {STEWARDS_COUNT} devices that keep the task: "
        f"{count} besides this one would{because}",
        hint="link more devices with the role steward, or submit with --durability local",
    )


def _mixed(colleagues: list[Colleague]) -> list[Colleague]:
    """Return the best first, one of each region before a second one of any."""
    seen: dict[str | None, int] = {}
    turns: list[tuple[int, Colleague]] = []
    for one in sorted(colleagues, key=lambda one: (-one.health, one.peer)):
        turns.append((seen.get(one.region, 0), one))
        if one.region is not None:
            seen[one.region] = seen.get(one.region, 0) + 1
    return [one for _, one in sorted(turns, key=lambda turn: turn[0])]
