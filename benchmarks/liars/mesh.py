"""Tasks, one after another, among devices of which some conspire: only what decides, no messages.

Sampling, quorums, disputes and convictions are those that ship (`scheduler.spot_checks`,
`scheduler.agreement`). Liars agree with each other on the same wrong result, know when an
accomplice runs the task, too, and are honest whenever an honest device was first.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random

from scheduler.agreement import Ruling, Tally
from scheduler.ledger import FINISHED_TASKS_MAX
from scheduler.spot_checks import Draw, SpotChecks, counted

RIGHT, WRONG = "right", "wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiarSettings:
    """One run. Liars begin to lie after `honest_count` valid results; None: there are none."""

    honest_count: int | None
    floor_permille: int = 20
    devices_count: int = 100
    liars_share: float = 0.2
    stewards_count: int = 1
    tasks_count: int = 1_000_000
    seed: int = 1


@dataclass(slots=True, kw_only=True)
class LiarFigures:
    """What came of it; `wrong_count` are results accepted wrong, marked or not."""

    tasks_count: int
    wrong_count: int = 0
    unmarked_count: int = 0
    failed_count: int = 0
    runs_count: int = 0
    warm_runs_count: int = 0  # of the tasks after the first tenth
    liars_convicted_count: int = 0
    honest_convicted_count: int = 0

    @property
    def extra(self) -> float:
        """Runs beyond one a task, as a share."""
        return self.runs_count / self.tasks_count - 1

    @property
    def warm_extra(self) -> float:
        """The same without the first tenth of the tasks."""
        return self.warm_runs_count / (self.tasks_count * 9 // 10) - 1


@dataclass(slots=True)
class _Accepted:
    number: int
    value: str
    is_marked: bool = False


@dataclass(slots=True)
class LiarMesh:
    """One steward or several, which share convictions and nothing else."""

    settings: LiarSettings
    figures: LiarFigures = field(init=False)
    _rng: Random = field(init=False)
    _working: list[int] = field(init=False)
    _liars: frozenset[int] = field(init=False)
    _valid: list[dict[int, int]] = field(init=False)  # in a row, by steward
    _checks: list[SpotChecks[int]] = field(init=False)
    _done: dict[int, int] = field(init=False)  # results of each device that stand
    _of_device: dict[int, deque[_Accepted]] = field(init=False)
    _number: int = 0

    def __post_init__(self) -> None:
        """Begin with strangers."""
        settings = self.settings
        self.figures = LiarFigures(tasks_count=settings.tasks_count)
        self._rng = Random(settings.seed)  # noqa: S311 - a simulation must repeat
        devices = range(settings.devices_count)
        self._working = list(devices)
        liars = 0 if settings.honest_count is None else settings.liars_share
        self._liars = frozenset(devices[: int(settings.devices_count * liars)])
        self._valid = [dict.fromkeys(devices, 0) for _ in range(settings.stewards_count)]
        self._checks = [
            SpotChecks(valid_in_a_row=valid.__getitem__, floor_permille=settings.floor_permille)
            for valid in self._valid
        ]
        self._done = dict.fromkeys(devices, 0)
        self._of_device = {device: deque() for device in devices}

    def run(self) -> LiarFigures:
        """Run all tasks."""
        for number in range(self.settings.tasks_count):
            self._number = number
            self._task()
        return self.figures

    def _task(self) -> None:
        steward = self._rng.randrange(self.settings.stewards_count)
        first = self._rng.choice(self._working)
        is_lie = self._lies(first)
        value = WRONG if is_lie else RIGHT
        self._count_run()
        if self._checks[steward].draw(first, self._rng.random()) is Draw.TAKE:
            self._accept(_Accepted(self._number, value), [first])
            self._valid[steward][first] = counted(
                self._valid[steward][first], checked_count=0, unchecked_count=1
            )
            return
        tally = self._compare(first, value, is_lie=is_lie)
        if tally is None:
            self.figures.failed_count += 1
            return
        agreeing = tally.agreeing()
        self._accept(_Accepted(self._number, str(tally.answers[agreeing[0]])), agreeing)
        for device in agreeing:
            self._valid[steward][device] = counted(
                self._valid[steward][device], checked_count=1, unchecked_count=0
            )
        self._judge(steward, tally)

    def _compare(self, first: int, value: str, *, is_lie: bool) -> Tally[int] | None:
        """Have a result compared; None if no majority came about."""
        tally = Tally[int](equal_wanted=2, runs_wanted=2)
        ruling = tally.add(first, value)
        while ruling is Ruling.OPEN:
            left = [device for device in self._working if device not in tally.answers]
            if not left:
                ruling = tally.settle()
                break
            device = self._rng.choice(left)
            self._count_run()
            ruling = tally.add(device, WRONG if is_lie and device in self._liars else RIGHT)
        return tally if ruling is Ruling.AGREED else None

    def _accept(self, accepted: _Accepted, agreeing: list[int]) -> None:
        if accepted.value == WRONG:
            self.figures.wrong_count += 1
            self.figures.unmarked_count += 1
        for device in agreeing:
            self._note(device, accepted)

    def _note(self, device: int, accepted: _Accepted) -> None:
        self._done[device] += 1
        kept = self._of_device[device]
        kept.append(accepted)
        while kept[0].number <= self._number - FINISHED_TASKS_MAX:
            kept.popleft()

    def _judge(self, steward: int, tally: Tally[int]) -> None:
        for device in tally.differing():
            self._valid[steward][device] = 0
        for device in tally.convicted():
            if device in self._working:
                self._convict(device)

    def _convict(self, device: int) -> None:
        """Exclude a device, and run again what it did within retention."""
        self._working.remove(device)
        if device in self._liars:
            self.figures.liars_convicted_count += 1
        else:
            self.figures.honest_convicted_count += 1
        for accepted in self._of_device.pop(device):
            if not accepted.is_marked and accepted.number > self._number - FINISHED_TASKS_MAX:
                self._run_again(accepted)

    def _run_again(self, accepted: _Accepted) -> None:
        is_lie = accepted.value == WRONG
        device = self._rng.choice(self._working)
        value = WRONG if is_lie and device in self._liars else RIGHT
        self._count_run()
        if value == accepted.value:
            self._note(device, accepted)
            return
        tally = self._compare(device, value, is_lie=is_lie)
        if tally is None or tally.answers[tally.agreeing()[0]] == accepted.value:
            return
        accepted.is_marked = True
        if is_lie:
            self.figures.unmarked_count -= 1

    def _lies(self, device: int) -> bool:
        honest_count = self.settings.honest_count
        return device in self._liars and self._done[device] >= (honest_count or 0)

    def _count_run(self) -> None:
        self.figures.runs_count += 1
        if self._number >= self.settings.tasks_count // 10:
            self.figures.warm_runs_count += 1


def figures_of(settings: LiarSettings) -> LiarFigures:
    """Run a mesh."""
    return LiarMesh(settings).run()
