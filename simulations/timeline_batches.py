"""The row of a batch on a timeline: how many of its tasks were in which phase of their life."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from simulations.drawing import (
    BAD,
    BLUE,
    GRAY,
    INK,
    ORANGE,
    SILVER,
    SKY,
    YELLOW,
    Mark,
    Point,
    Shape,
    Text,
    line,
    tint,
)
from simulations.task_life import BatchLife
from simulations.timeline_lane import SMALL
from simulations.timeline_scale import MARGIN, RIGHT, WIDTH, Scale

BATCH_HEIGHT = 46.0

# The phases of a batch's tasks, from the bottom of its row upwards.
PHASES: tuple[tuple[str, str], ...] = (
    ("told", tint(BLUE, 850)),
    ("decided", tint(SKY, 800)),
    ("running", ORANGE),
    ("leased", tint(YELLOW, 700)),
    ("waiting", "#d8dee4"),
)


def batch_row(batch: BatchLife, scale: Scale, top: float) -> Iterator[Mark]:
    """Yield how many tasks of a batch were in which phase."""
    count = len(batch.tasks)
    height = BATCH_HEIGHT - 10
    yield Text(x=MARGIN + 14, y=top + 14, text=f"batch {batch.number}")
    detail = f"{count} tasks of device {batch.node}"
    yield Text(x=MARGIN + 14, y=top + 28, text=detail, size=SMALL, fill=GRAY)
    bottom = top + height
    steps = _phase_counts(batch, scale)
    for place, (phase, colour) in enumerate(PHASES):
        edge = _edge(steps, place, bottom=bottom, unit=height / max(1, count))
        under = _edge(steps, place - 1, bottom=bottom, unit=height / max(1, count))
        points = (*edge, *reversed(under))
        yield Shape(points=points, fill=colour, tooltip=f"batch {batch.number}: {phase}")
    yield line((scale.x(batch.accepted_us), bottom), (RIGHT, bottom), SILVER, width=0.5)
    decided_count = count - batch.undecided_count
    fill = INK if decided_count == count else BAD
    text = f"{decided_count} of {count}"
    yield Text(x=WIDTH - MARGIN, y=top + 14, text=text, fill=fill, anchor="end")
    if batch.failed_count:
        text = f"{batch.failed_count} failed"
        yield Text(x=WIDTH - MARGIN, y=top + 28, text=text, fill=BAD, anchor="end")


def _phase_counts(batch: BatchLife, scale: Scale) -> list[tuple[float, tuple[int, ...]]]:
    """Return how many tasks are in each phase from each place of the picture on."""
    changes: list[tuple[int, int, int]] = []
    for task in batch.tasks:
        phases = [(batch.accepted_us, 4), *((lease.start_us, 3) for lease in task.leases)]
        for run in task.runs:
            phases.append((run.start_us, 2))
            if run.end_us is not None:
                phases.append((run.end_us, 3 if run.is_good else 4))
        if task.decided_us is not None:
            phases = [one for one in phases if one[0] < task.decided_us]
            phases.append((task.decided_us, 1))
        if task.told_us is not None:
            phases = [one for one in phases if one[0] <= task.told_us]
            phases.append((task.told_us, 0))
        before = -1
        for time_us, phase in sorted(phases, key=lambda one: one[0]):
            changes.append((time_us, before, phase))
            before = phase
    return _summed(sorted(changes, key=lambda change: change[0]), scale)


def _summed(
    changes: Sequence[tuple[int, int, int]], scale: Scale
) -> list[tuple[float, tuple[int, ...]]]:
    counts = [0] * len(PHASES)
    steps: list[tuple[float, tuple[int, ...]]] = []
    for time_us, before, after in changes:
        if before >= 0:
            counts[before] -= 1
        counts[after] += 1
        x = float(int(scale.x(time_us) * 2)) / 2
        if steps and steps[-1][0] == x:
            steps.pop()
        steps.append((x, tuple(counts)))
    return steps


def _edge(
    steps: Sequence[tuple[float, tuple[int, ...]]], place: int, *, bottom: float, unit: float
) -> tuple[Point, ...]:
    """Return the upper edge of the phases up to `place`."""
    points: list[Point] = []
    for x, counts in steps:
        y = bottom - sum(counts[: place + 1]) * unit
        if points:
            points.append((x, points[-1][1]))
        points.append((x, y))
    points.append((RIGHT, points[-1][1]))
    return tuple(points)
