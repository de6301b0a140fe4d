"""Draws a run: what befell which devices, who knew whom when, and what became of each task.

Time goes from left to right. From top to bottom: the faults, a lane for each device, the tasks, and
what the signs mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from simulations.drawing import (
    BAD,
    GOOD,
    GRAY,
    WHITE,
    Anchor,
    Drawing,
    Mark,
    Rect,
    Text,
    cut_text,
    line,
    text_width,
)
from simulations.story import Story, story_of
from simulations.timeline_faults import fault_bars, shadows
from simulations.timeline_lanes import lanes
from simulations.timeline_legend import legend
from simulations.timeline_scale import (
    LEFT,
    MARGIN,
    RIGHT,
    WIDTH,
    Scale,
    Section,
    axis,
    grid,
    heading,
    seconds,
)
from simulations.timeline_work import executor_colours, work
from simulations.trace_lines import TraceLine

DIGEST_CHARACTERS = 12
MOMENT_HEIGHT = 18.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Title:
    """Which run it is and what came of it. `broken` says what did not hold, None if all did."""

    scenario: str
    seed: int
    digest: str
    broken: str | None = None
    broken_at_us: int | None = None


def timeline(lines: Iterable[TraceLine], title: Title) -> Drawing:
    """Return the picture of the run with these trace lines, which are read once."""
    story = story_of(lines)
    scale = Scale(max(story.end_us, title.broken_at_us or 0, 1))
    colours = executor_colours(story)
    head = _headline(story, title)
    moments = _moments(story, title, scale, head.bottom)
    faults = _faults(story, scale, moments.bottom)
    devices = lanes(story, scale, faults.bottom, colours=colours)
    tasks = work(story, scale, devices.bottom, colours=colours)
    times = axis(scale, tasks.bottom)
    signs = legend(story, times.bottom)
    what = f"Timeline of the scenario {title.scenario}, seed {title.seed}"
    drawing = Drawing(WIDTH, signs.bottom, what)
    drawing.add(*shadows(story.faults, scale, moments.bottom, tasks.bottom))
    drawing.add(*grid(scale, moments.bottom, tasks.bottom))
    drawing.add(*_moment_lines(story, title, scale, moments.bottom, tasks.bottom))
    for section in (head, moments, faults, devices, tasks, times, signs):
        drawing.add(*section.marks)
    return drawing


def _headline(story: Story, title: Title) -> Section:
    name = cut_text(f"{title.scenario}, seed {title.seed}", 700, 20)
    verdict = "held" if title.broken is None else "broken"
    x = MARGIN + text_width(name, 20) + 14
    fill = GOOD if title.broken is None else BAD
    tasks_count = sum(len(batch.tasks) for batch in story.batches)
    facts = [
        f"{len(story.devices)} devices",
        f"{tasks_count} tasks",
        f"{seconds(story.end_us)} of virtual time",
        f"digest {title.digest[:DIGEST_CHARACTERS]}",
    ]
    marks: list[Mark] = [
        Text(x=MARGIN, y=32, text=name, size=20),
        Rect(x=x, y=16, width=text_width(verdict, 13) + 16, height=20, fill=fill),
        Text(x=x + 8, y=30, text=verdict, size=13, fill=WHITE),
        Text(x=MARGIN, y=52, text=", ".join(facts), fill=GRAY),
    ]
    return Section(marks, 62)


def _faults(story: Story, scale: Scale, top: float) -> Section:
    if not story.faults:
        return Section([], top)
    marks, y = heading("Faults", top)
    bars = fault_bars(story.faults, scale, top + 9)
    return Section([*marks, *bars.marks], max(y, bars.bottom))


# Moments that concern everything.


def _moments(story: Story, title: Title, scale: Scale, top: float) -> Section:
    """Return the labels of what a line through the whole picture marks, a row for each."""
    marks: list[Mark] = []
    for text, time_us, colour in _named_moments(story, title, scale):
        x = scale.x(time_us)
        shown = cut_text(text, RIGHT - LEFT - 10)
        is_left = x + 6 + text_width(shown) > WIDTH - MARGIN
        place = max(MARGIN + text_width(shown), x - 6) if is_left else x + 6
        anchor: Anchor = "end" if is_left else "start"
        marks.append(Text(x=place, y=top + 11, text=shown, fill=colour, anchor=anchor))
        marks.append(line((x, top), (x, top + MOMENT_HEIGHT), colour, width=1.5))
        top += MOMENT_HEIGHT
    return Section(marks, top)


def _moment_lines(
    story: Story, title: Title, scale: Scale, top: float, bottom: float
) -> Iterator[Mark]:
    for text, time_us, colour in _named_moments(story, title, scale):
        x = scale.x(time_us)
        dash = 0.0 if colour == BAD else 5.0
        yield line((x, top), (x, bottom), colour, width=1.5, dash=dash, tooltip=text)


def _named_moments(story: Story, title: Title, scale: Scale) -> Iterator[tuple[str, int, str]]:
    if story.mended_us is not None:
        yield f"everything mended, {seconds(story.mended_us)}", story.mended_us, GOOD
    if title.broken is not None:
        time_us = title.broken_at_us if title.broken_at_us is not None else scale.end_us
        yield f"{title.broken}, {seconds(time_us)}", time_us, BAD
