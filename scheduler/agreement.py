"""When results of one task, by distinct devices, agree: the rules of quorums and disputes.

`Tally` counts what results have in common and nothing else: it knows of no messages, leases or
time. Results are compared by engine profile, status, exit code and output digest. One that does not
depend on the program alone (out of time) is never compared: it neither agrees nor contradicts.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from wire.convictions import CONVICTING_RESULTS
from wire.ids import PeerId
from wire.messages import LeaseRef
from wire.signed import Signed
from wire.tasks import Lease, LeasedResult, ProvenResult, Result

# Whoever differs calls in two more devices; so often, then a majority has to be there.
DISPUTE_RUNS = 2
DISPUTE_ROUNDS_MAX = 3

Device = TypeVar("Device", bound=Hashable)


class Ruling(enum.Enum):
    """What the results of a task add up to."""

    OPEN = enum.auto()  # more results are to come
    AGREED = enum.auto()
    NO_MAJORITY = enum.auto()  # all were asked who may be: their results differ
    NOT_COMPARABLE = enum.auto()  # as many as had to agree say what nobody can compare


@dataclass(slots=True, kw_only=True)
class Tally(Generic[Device]):
    """Results of one task by likeness, None for one that is never compared.

    `equal_wanted` equal ones decide while none differs. When two differ, two more devices run the
    task, and more than half of all have to be equal.
    """

    equal_wanted: int
    runs_wanted: int
    answers: dict[Device, Hashable | None] = field(default_factory=dict)
    _rounds_count: int = 0

    def add(self, device: Device, likeness: Hashable | None) -> Ruling:
        """Take up a result; `runs_wanted` may be higher then. A device counts once."""
        self.answers.setdefault(device, likeness)
        ruling = self._ruling()
        if ruling is Ruling.OPEN:
            self._want_more()
        return ruling

    def settle(self) -> Ruling:
        """Return the ruling if no further device can be asked."""
        counts = self._counts()
        if not self.is_disputed:
            return Ruling.OPEN
        most, compared_count = max(counts.values()), sum(counts.values())
        is_majority = most >= self.equal_wanted and 2 * most > compared_count
        return Ruling.AGREED if is_majority else Ruling.NO_MAJORITY

    @property
    def is_disputed(self) -> bool:
        """Whether results differ."""
        return len(self._counts()) > 1

    @property
    def equal_count(self) -> int:
        """How many results are equal, of those that most are equal to."""
        return max(self._counts().values(), default=0)

    def agreeing(self) -> list[Device]:
        """Return those whose results most are equal to, the first first."""
        likeness = max(self._counts().items(), key=lambda item: item[1])[0]
        return [device for device, answer in self.answers.items() if answer == likeness]

    def not_compared(self) -> list[Device]:
        """Return those whose results are never compared."""
        return [device for device, answer in self.answers.items() if answer is None]

    def differing(self) -> list[Device]:
        """Return those whose results differ from these."""
        agreeing = self.agreeing()
        return [d for d, answer in self.answers.items() if answer is not None and d not in agreeing]

    def convicted(self) -> list[Device]:
        """Return those who are convicted once these results agree: three equal ones prove it."""
        return self.differing() if self.equal_count >= CONVICTING_RESULTS else []

    def _counts(self) -> Counter[Hashable]:
        return Counter(answer for answer in self.answers.values() if answer is not None)

    def _ruling(self) -> Ruling:
        counts = self._counts()
        incomparable_count = len(self.answers) - sum(counts.values())
        if not counts:
            is_over = incomparable_count >= self.equal_wanted
            return Ruling.NOT_COMPARABLE if is_over else Ruling.OPEN
        most = max(counts.values())
        if len(counts) == 1:
            return Ruling.AGREED if most >= self.equal_wanted else Ruling.OPEN
        more_count = 0 if self._rounds_count else DISPUTE_RUNS
        pool = max(self.runs_wanted, len(self.answers) + more_count) - incomparable_count
        if most >= self.equal_wanted and 2 * most > pool:
            return Ruling.AGREED
        is_last = self._rounds_count >= DISPUTE_ROUNDS_MAX
        all_in = len(self.answers) >= self.runs_wanted
        return Ruling.NO_MAJORITY if is_last and all_in else Ruling.OPEN

    def _want_more(self) -> None:
        """Ask for as many devices as it takes: never for fewer than before."""
        counts = self._counts()
        answers_count = len(self.answers)
        if len(counts) > 1:
            if self._rounds_count == 0 or answers_count >= self.runs_wanted:
                self._rounds_count += 1
                self.runs_wanted = max(self.runs_wanted, answers_count + DISPUTE_RUNS)
        else:
            missing_count = self.equal_wanted - max(counts.values(), default=0)
            self.runs_wanted = max(self.runs_wanted, answers_count + missing_count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A result with the lease that it was made under; its output was checked."""

    lease: Signed[Lease]
    proven: ProvenResult
    result: Result

    @property
    def ref(self) -> LeaseRef:
        """The name of the lease."""
        return LeaseRef(self.result.batch, self.result.epoch, self.result.attempt)

    def leased(self) -> LeasedResult:
        """Return it as proposals and receipts hold it."""
        return LeasedResult(lease=self.lease, result=self.proven)


@dataclass(slots=True, kw_only=True)
class Comparison:
    """The results of a task that are here, and how they compare."""

    tally: Tally[PeerId]
    is_spot_check: bool = False  # the contract does not ask for a second result
    answers: dict[PeerId, Answer] = field(default_factory=dict)

    @property
    def first(self) -> Answer:
        """The result that came first."""
        return next(iter(self.answers.values()))

    @property
    def is_held(self) -> bool:
        """Whether it waits for checks of other results of its device."""
        return self.tally.runs_wanted == 1

    def add(self, answer: Answer) -> Ruling:
        """Take up a result."""
        executor = answer.result.executor
        self.answers[executor] = answer
        return self.tally.add(executor, likeness(answer.result))

    def has_equal(self, result: Result) -> bool:
        """Say whether an equal result is here, so that its output is, too."""
        like = likeness(result)
        return like is not None and like in self.tally.answers.values()

    @property
    def text(self) -> str:
        """How far it is, for people."""
        tally = self.tally
        if self.is_held:
            return "spot checks of its device are under way"
        if tally.is_disputed:
            return f"results of {len(tally.answers)} devices differ, {tally.equal_count} are equal"
        wanted = tally.equal_wanted
        what = "a spot check: " if self.is_spot_check else ""
        return f"{what}{tally.equal_count} of {wanted} equal results are here"


def likeness(result: Result) -> Hashable | None:
    """Return what equal results have in common; None for one that is never compared."""
    if not result.status.is_comparable:
        return None
    return result.engine_profile, result.status, result.exit_code, result.output_digest


def quorum_fault(result: Result, others: list[Result], *, quorum: int) -> str | None:
    """Return why `others` do not make a quorum with a result, None if they do."""
    executors = {one.executor for one in (result, *others)}
    if len(executors) != 1 + len(others):
        return "a device is counted twice"
    if any((one.batch, one.index) != (result.batch, result.index) for one in others):
        return "a result of another task"
    if others and any(likeness(one) != likeness(result) for one in (result, *others)):
        return "the results differ"
    if others and likeness(result) is None:
        return f"results that are {result.status} are not compared"
    if len(executors) < quorum:
        return f"{len(executors)} results, and the quorum is {quorum}"
    return None
