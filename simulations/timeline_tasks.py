"""The row of one task on a timeline: accepted, leased, run, decided and told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from simulations.drawing import (
    BAD,
    BLACK,
    BLUE,
    GRAY,
    INK,
    VERMILLION,
    WHITE,
    Mark,
    Rect,
    Shape,
    Text,
    line,
    readable_on,
    text_width,
    tint,
)
from simulations.story import Story
from simulations.task_life import BatchLife, Run, TaskLife
from simulations.timeline_lane import SMALL
from simulations.timeline_scale import (
    MARGIN,
    MARK_WIDTH_MIN,
    WIDTH,
    Scale,
    rows,
    seconds,
)

TASK_HEIGHT = 18.0
BAR_HEIGHT = 12.0


@dataclass(frozen=True, slots=True)
class TaskRow:
    """Where the row of a task is; `colours` are those of the devices on which tasks ran."""

    scale: Scale
    top: float
    colours: Mapping[int, str]

    @property
    def middle(self) -> float:
        """Where its line is."""
        return self.top + BAR_HEIGHT / 2


def task_row(story: Story, batch: BatchLife, task: TaskLife, row: TaskRow) -> Iterator[Mark]:
    """Yield what became of a task."""
    name = f"batch {batch.number}, task {task.index}"
    yield Text(x=MARGIN + 14, y=row.top + 10, text=name, size=10)
    start = row.scale.x(batch.accepted_us)
    end = row.scale.x(_until_us(batch, task, row.scale))
    tooltip = f"{name} of {batch.name}, accepted at {seconds(batch.accepted_us)}"
    yield line((start, row.middle), (end, row.middle), GRAY, width=1.5, tooltip=tooltip)
    yield line((start, row.top + 1), (start, row.top + BAR_HEIGHT - 1), GRAY, width=1.5)
    yield from _leases(story, batch, task, row)
    yield from _runs(task, row)
    yield from _end(task, row)
    if task.decided_us is None and batch.lost_us is not None:
        tooltip = f"its disk was lost at {seconds(batch.lost_us)}"
        yield from _cross(row.scale.x(batch.lost_us), row.middle, tooltip)
    text, colour = _outcome(batch, task)
    yield Text(x=WIDTH - MARGIN, y=row.top + 10, text=text, size=10, fill=colour, anchor="end")


def _until_us(batch: BatchLife, task: TaskLife, scale: Scale) -> int:
    """Return when a task ended, one way or another."""
    ends_us = (task.decided_us, batch.lost_us, scale.end_us)
    return next(end_us for end_us in ends_us if end_us is not None)


def _leases(story: Story, batch: BatchLife, task: TaskLife, row: TaskRow) -> Iterator[Mark]:
    """Yield a thin bar from each lease to the next, in the colour of who holds it."""
    times_us = [*(lease.start_us for lease in task.leases), _until_us(batch, task, row.scale)]
    for lease, (start_us, end_us) in zip(task.leases, pairwise(times_us), strict=True):
        node = story.node(lease.executor)
        colour = row.colours.get(node, GRAY) if node is not None else GRAY
        start, end = row.scale.x(start_us), row.scale.x(end_us)
        yield Rect(
            x=start,
            y=row.middle - 2.5,
            width=max(MARK_WIDTH_MIN, end - start),
            height=5,
            fill=tint(colour, 450),
            tooltip=f"leased to {story.device_name(lease.executor)} at {seconds(start_us)}",
        )


def _runs(task: TaskLife, row: TaskRow) -> Iterator[Mark]:
    """Yield a bar for each run; those at the same time share the height."""
    scale = row.scale
    spans = [(scale.x(run.start_us), scale.x(_run_end(run, scale))) for run in task.runs]
    places = rows(spans, gap=0, rows_max=len(spans))
    height = BAR_HEIGHT / (max(places, default=0) + 1)
    for run, (start, end), place in zip(task.runs, spans, places, strict=True):
        colour = row.colours.get(run.node, GRAY)
        y = row.top + place * height
        width = max(MARK_WIDTH_MIN, end - start)
        yield Rect(
            x=start,
            y=y,
            width=width,
            height=height,
            fill=colour,
            tooltip=_run_tooltip(run, scale),
        )
        text = str(run.node)
        if height == BAR_HEIGHT and text_width(text, SMALL) + 4 <= width:
            x = start + width / 2
            fill = readable_on(colour)
            yield Text(x=x, y=y + 9.2, text=text, size=SMALL, fill=fill, anchor="middle")
        if not run.is_good:
            yield from _cross(end + 1, row.middle, _run_tooltip(run, scale))


def _end(task: TaskLife, row: TaskRow) -> Iterator[Mark]:
    if task.decided_us is None:
        return
    x, y = row.scale.x(task.decided_us), row.middle
    if task.told_us is not None:
        told = row.scale.x(task.told_us)
        yield line((x, y), (told, y), BLUE, dash=2)
        tooltip = f"told at {seconds(task.told_us)}"
        yield Rect(x=told - 3, y=y - 3, width=6, height=6, fill=WHITE, stroke=BLUE, tooltip=tooltip)
    fill = BLACK if task.outcome == "result" else VERMILLION
    points = ((x, y - 5), (x + 5, y), (x, y + 5), (x - 5, y))
    yield Shape(
        points=points, fill=fill, tooltip=f"{task.outcome}, decided at {seconds(task.decided_us)}"
    )
    if task.told_us is not None:
        told, tooltip = row.scale.x(task.told_us), f"told at {seconds(task.told_us)}"
        yield Rect(
            x=told - 2.5, y=y - 2.5, width=5, height=5, fill=WHITE, stroke=BLUE, tooltip=tooltip
        )


def _cross(x: float, y: float, tooltip: str) -> Iterator[Mark]:
    for slope in (-1, 1):
        ends = ((x - 3, y - 3 * slope), (x + 3, y + 3 * slope))
        yield line(*ends, VERMILLION, width=1.75, tooltip=tooltip)


def _outcome(batch: BatchLife, task: TaskLife) -> tuple[str, str]:
    if task.decided_us is not None:
        return task.outcome, INK if task.outcome == "result" else BAD
    return ("disk lost" if batch.lost_us is not None else "undecided"), BAD


def _run_end(run: Run, scale: Scale) -> int:
    return run.end_us if run.end_us is not None else scale.end_us


def _run_tooltip(run: Run, scale: Scale) -> str:
    until = f"{seconds(_run_end(run, scale))}, {run.how or 'still running'}"
    return f"runs on {run.node} from {seconds(run.start_us)} to {until}"
