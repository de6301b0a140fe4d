"""The part of a timeline with a row for each task, or with many tasks for each batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from simulations.drawing import (
    BLACK,
    BLUE,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    SILVER,
    SKY,
    VERMILLION,
    WHITE,
    YELLOW,
    Mark,
    Point,
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
from simulations.timeline_scale import (
    MARGIN,
    MARK_WIDTH_MIN,
    RIGHT,
    WIDTH,
    Scale,
    Section,
    heading,
    rows,
    seconds,
)

TASK_ROWS_MAX = 20  # with more tasks each batch has a row
BATCH_ROWS_MAX = 40
TASK_HEIGHT = 18.0
BAR_HEIGHT = 12.0
BATCH_HEIGHT = 46.0
SMALL = 9.0
EXECUTOR_COLOURS = (ORANGE, BLUE, "#cc79a7", GREEN, YELLOW, SKY, VERMILLION)

# The phases of a batch's tasks, from the bottom of its row upwards.
PHASES: tuple[tuple[str, str], ...] = (
    ("told", tint(BLUE, 850)),
    ("decided", tint(SKY, 800)),
    ("running", ORANGE),
    ("leased", tint(YELLOW, 700)),
    ("waiting", "#d8dee4"),
)


def executor_colours(story: Story) -> dict[int, str]:
    """Return a colour for each device that runs tasks; with many devices colours come again."""
    return {
        node: EXECUTOR_COLOURS[place % len(EXECUTOR_COLOURS)]
        for place, node in enumerate(story.executors)
    }


def is_by_task(story: Story) -> bool:
    """Whether each task has a row of its own."""
    return sum(len(batch.tasks) for batch in story.batches) <= TASK_ROWS_MAX


def task_rows(story: Story, scale: Scale, top: float, *, colours: Mapping[int, str]) -> Section:
    """Return what became of each task; nothing if there was none."""
    if not story.batches:
        return Section([], top)
    if is_by_task(story):
        return _by_task(story, scale, top, colours)
    return _by_batch(story, scale, top)


# A row for each task.


def _by_task(story: Story, scale: Scale, top: float, colours: Mapping[int, str]) -> Section:
    marks, y = heading("Tasks", top, right="outcome")
    for batch in story.batches:
        for task in batch.tasks:
            marks += _task(story, batch, task, _Row(scale, y, colours))
            y += TASK_HEIGHT
        y += 4
    return Section(marks, y)


class _Row:
    """Where the row of a task is."""

    def __init__(self, scale: Scale, top: float, colours: Mapping[int, str]) -> None:
        self.scale = scale
        self.colours = colours
        self.top = top
        self.middle = top + BAR_HEIGHT / 2


def _task(story: Story, batch: BatchLife, task: TaskLife, row: _Row) -> Iterator[Mark]:
    name = f"batch {batch.number}, task {task.index}"
    yield Text(x=MARGIN + 14, y=row.top + 10, text=name, size=10)
    start = row.scale.x(batch.accepted_us)
    until_us = task.decided_us if task.decided_us is not None else row.scale.end_us
    end = row.scale.x(until_us)
    tooltip = f"{name} of {batch.name}, accepted at {seconds(batch.accepted_us)}"
    yield line((start, row.middle), (end, row.middle), GRAY, width=1.5, tooltip=tooltip)
    yield line((start, row.top + 1), (start, row.top + BAR_HEIGHT - 1), GRAY, width=1.5)
    yield from _leases(story, task, row)
    yield from _runs(task, row)
    yield from _end(task, row)
    text, colour = _outcome(batch, task)
    yield Text(x=WIDTH - MARGIN, y=row.top + 10, text=text, size=10, fill=colour, anchor="end")


def _leases(story: Story, task: TaskLife, row: _Row) -> Iterator[Mark]:
    """Yield a thin bar from each lease to the next, in the colour of who holds it."""
    ends_us = [*(lease.start_us for lease in task.leases[1:])]
    ends_us.append(task.decided_us if task.decided_us is not None else row.scale.end_us)
    for lease, end_us in zip(task.leases, ends_us, strict=bool(task.leases)):
        node = story.node(lease.executor)
        colour = row.colours.get(node, GRAY) if node is not None else GRAY
        start, end = row.scale.x(lease.start_us), row.scale.x(end_us)
        yield Rect(
            x=start,
            y=row.middle - 2.5,
            width=max(MARK_WIDTH_MIN, end - start),
            height=5,
            fill=tint(colour, 450),
            tooltip=f"leased to {story.device_name(lease.executor)} at {seconds(lease.start_us)}",
        )


def _runs(task: TaskLife, row: _Row) -> Iterator[Mark]:
    """Yield a bar for each run; those at the same time share the height."""
    scale = row.scale
    spans = [(scale.x(run.start_us), scale.x(_run_end(run, scale))) for run in task.runs]
    places = rows(spans, gap=0)
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


def _end(task: TaskLife, row: _Row) -> Iterator[Mark]:
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


def _cross(x: float, y: float, tooltip: str) -> Iterator[Mark]:
    for slope in (-1, 1):
        ends = ((x - 3, y - 3 * slope), (x + 3, y + 3 * slope))
        yield line(*ends, VERMILLION, width=1.75, tooltip=tooltip)


def _outcome(batch: BatchLife, task: TaskLife) -> tuple[str, str]:
    if task.decided_us is not None:
        return task.outcome, INK if task.outcome == "result" else VERMILLION
    return ("disk lost" if batch.is_lost else "undecided"), VERMILLION


def _run_end(run: Run, scale: Scale) -> int:
    return run.end_us if run.end_us is not None else scale.end_us


def _run_tooltip(run: Run, scale: Scale) -> str:
    until = f"{seconds(_run_end(run, scale))}, {run.how or 'still running'}"
    return f"runs on {run.node} from {seconds(run.start_us)} to {until}"


# A row for each batch.


def _by_batch(story: Story, scale: Scale, top: float) -> Section:
    marks, y = heading("Tasks", top, right="decided")
    chosen = _chosen(story.batches)
    for batch in chosen:
        marks += _batch(batch, scale, y)
        y += BATCH_HEIGHT
    hidden_count = len(story.batches) - len(chosen)
    if hidden_count:
        more = f"and {hidden_count} more batches"
        marks.append(Text(x=MARGIN, y=y + 10, text=more, fill=GRAY))
        y += 18
    return Section(marks, y)


def _chosen(batches: Sequence[BatchLife]) -> list[BatchLife]:
    """Return those with most that is undecided or was not a plain success, in their order."""

    def troubles_count(batch: BatchLife) -> int:
        failed_count = sum(task.outcome not in ("", "result") for task in batch.tasks)
        return batch.undecided_count + failed_count

    first = sorted(batches, key=lambda batch: (-troubles_count(batch), batch.number))
    return sorted(first[:BATCH_ROWS_MAX], key=lambda batch: batch.number)


def _batch(batch: BatchLife, scale: Scale, top: float) -> Iterator[Mark]:
    count = len(batch.tasks)
    height = BATCH_HEIGHT - 10
    yield Text(x=MARGIN + 14, y=top + 14, text=f"batch {batch.number}")
    detail = f"{count} task{'s' * (count != 1)} of {batch.node}"
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
    fill = INK if decided_count == count else VERMILLION
    text = f"{decided_count} of {count}"
    yield Text(x=WIDTH - MARGIN, y=top + 14, text=text, fill=fill, anchor="end")
    failed_count = sum(task.outcome not in ("", "result") for task in batch.tasks)
    if failed_count:
        text = f"{failed_count} failed"
        yield Text(x=WIDTH - MARGIN, y=top + 28, text=text, fill=VERMILLION, anchor="end")


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
