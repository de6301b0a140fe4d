"""What a trace says of tasks: accepted, leased to whom, running where, decided, and told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from simulations.disk import DiskFate
from simulations.trace_lines import TraceLine

PROCESS_ENDED = "its process ended"
GOOD_ENDS = ("exited",)


@dataclass(slots=True)
class Run:
    """A program at work on a device; no end: it still runs when the trace ends."""

    node: int
    start_us: int
    end_us: int | None = None
    how: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it did not end in vain."""
        return self.end_us is None or self.how in GOOD_ENDS


@dataclass(frozen=True, slots=True)
class Lease:
    """A device may work on the task from then on."""

    start_us: int
    executor: str  # the beginning of its id
    attempt: int


@dataclass(slots=True)
class TaskLife:
    """One task of a batch."""

    index: int
    leases: list[Lease] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    decided_us: int | None = None
    outcome: str = ""
    told_us: int | None = None


@dataclass(slots=True)
class BatchLife:
    """The tasks that were submitted together."""

    number: int  # of the batches of a run, from 1
    name: str
    node: int
    accepted_us: int
    tasks: list[TaskLife]
    lost_us: int | None = None  # when the disk that kept it was lost

    @property
    def undecided_count(self) -> int:
        """How many tasks the trace leaves undecided."""
        return sum(task.decided_us is None for task in self.tasks)

    @property
    def failed_count(self) -> int:
        """How many tasks were decided without a result."""
        return sum(task.outcome not in ("", "result") for task in self.tasks)

    @property
    def again_count(self) -> int:
        """How often a task had to be leased again."""
        return sum(max(0, len(task.leases) - 1) for task in self.tasks)

    @property
    def lasted_us(self) -> int:
        """How long its last decision took."""
        decided_us = (task.decided_us for task in self.tasks if task.decided_us is not None)
        return max(decided_us, default=self.accepted_us) - self.accepted_us


class TaskLives:
    """All batches of a run, in the order in which they were accepted."""

    def __init__(self) -> None:
        self.batches: dict[str, BatchLife] = {}
        self._running: dict[int, dict[tuple[str, int, int], Run]] = {}  # by device

    def on_line(self, line: TraceLine) -> None:
        """Take a line of any device; others than those that matter here change nothing."""
        match line.event:
            case "batch.accepted":
                self._on_accepted(line)
            case "task.leased":
                for task in self._leased(line):
                    attempt = line.number("attempt") or 0
                    task.leases.append(Lease(line.time_us, line.text("executor"), attempt))
            case "run.begun":
                self._on_begun(line)
            case "run.ended":
                run = self._running.get(line.node, {}).pop(_run(line), None)
                _end(run, line, line.text("how"))
            case "process.crashed":
                self._on_crashed(line)
            case "task.decided":
                for task in self._named(line.text("batch"), line.number("index")):
                    task.decided_us, task.outcome = line.time_us, line.text("outcome")
            case "answer.TaskView":
                self._on_view(line)

    def _on_accepted(self, line: TraceLine) -> None:
        name = line.text("batch")
        tasks = [TaskLife(index) for index in range(line.number("count") or 0)]
        number = len(self.batches) + 1
        self.batches.setdefault(name, BatchLife(number, name, line.node, line.time_us, tasks))

    def _on_begun(self, line: TraceLine) -> None:
        for task in self._named(line.text("batch"), line.number("index")):
            run = Run(line.node, line.time_us)
            task.runs.append(run)
            self._running.setdefault(line.node, {})[_run(line)] = run

    def _on_crashed(self, line: TraceLine) -> None:
        for run in self._running.pop(line.node, {}).values():
            _end(run, line, PROCESS_ENDED)
        if line.text("disk") == DiskFate.LOSE_ALL:
            for batch in self.batches.values():
                if batch.node == line.node and batch.lost_us is None:
                    batch.lost_us = line.time_us

    def _on_view(self, line: TraceLine) -> None:
        """Whoever asks at the submitting device is told."""
        if line.fields.get("is_decided") is not True:
            return
        name = line.text("batch")
        batch = self.batches.get(name)
        if batch is not None and batch.node == line.node:
            for task in self._named(name, line.number("index")):
                task.told_us = task.told_us if task.told_us is not None else line.time_us

    def _leased(self, line: TraceLine) -> Iterator[TaskLife]:
        for index in line.text("indices").split():
            yield from self._named(line.text("batch"), int(index) if index.isdecimal() else None)

    def _named(self, name: str, index: int | None) -> Iterator[TaskLife]:
        """Yield the task, unless the trace never said that its batch was accepted."""
        batch = self.batches.get(name)
        if batch is not None and index is not None and 0 <= index < len(batch.tasks):
            yield batch.tasks[index]


def _run(line: TraceLine) -> tuple[str, int, int]:
    return line.text("batch"), line.number("index") or 0, line.number("attempt") or 0


def _end(run: Run | None, line: TraceLine, how: str) -> None:
    if run is not None:
        run.end_us, run.how = line.time_us, how
