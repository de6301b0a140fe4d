"""The part of a timeline that says what became of tasks: a row for each, or for each batch."""

from __future__ import annotations

from collections.abc import Mapping

from simulations.drawing import (
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    YELLOW,
    Text,
    tint,
)
from simulations.story import Story
from simulations.task_life import BatchLife
from simulations.timeline_batches import BATCH_HEIGHT, batch_row
from simulations.timeline_scale import MARGIN, Scale, Section, heading
from simulations.timeline_tasks import TASK_HEIGHT, TaskRow, task_row

TASKS_MAX = 20  # with more of them, batches of several tasks have one row each
BATCHES_MAX = 40
GAP = 4.0
EXECUTOR_COLOURS = (ORANGE, BLUE, PURPLE, GREEN, YELLOW, SKY, tint(VERMILLION, 800))


def executor_colours(story: Story) -> dict[int, str]:
    """Return a colour for each device that runs tasks; with many devices colours come again."""
    return {
        node: EXECUTOR_COLOURS[place % len(EXECUTOR_COLOURS)]
        for place, node in enumerate(story.executors)
    }


def drawn_batches(story: Story) -> list[tuple[BatchLife, bool]]:
    """Return the batches that are drawn, in their order, and whether each task has a row.

    They are those with most trouble, and then those that took longest.
    """
    tasks_count = sum(len(batch.tasks) for batch in story.batches)
    chosen = sorted(story.batches, key=_interest)[:BATCHES_MAX]
    return [
        (batch, tasks_count <= TASKS_MAX or len(batch.tasks) == 1)
        for batch in sorted(chosen, key=lambda batch: batch.number)
    ]


def work(story: Story, scale: Scale, top: float, *, colours: Mapping[int, str]) -> Section:
    """Return the rows of the tasks; nothing if there was none."""
    if not story.batches:
        return Section([], top)
    marks, y = heading("Tasks", top, right="outcome")
    chosen = drawn_batches(story)
    for batch, is_by_task in chosen:
        if not is_by_task:
            marks += batch_row(batch, scale, y)
            y += BATCH_HEIGHT
            continue
        for task in batch.tasks:
            marks += task_row(story, batch, task, TaskRow(scale, y, colours))
            y += TASK_HEIGHT
        y += GAP if len(batch.tasks) > 1 else 0
    hidden_count = len(story.batches) - len(chosen)
    if hidden_count:
        more = f"and {hidden_count} more batches, with less trouble"
        marks.append(Text(x=MARGIN, y=y + 10, text=more, fill=GRAY))
        y += TASK_HEIGHT
    return Section(marks, y + GAP)


def _interest(batch: BatchLife) -> tuple[int, int, int]:
    """Sort first what is most worth a row."""
    troubles_count = batch.undecided_count + batch.failed_count + batch.again_count
    return -troubles_count, -batch.lasted_us, batch.number
