"""The part of a timeline with a lane for each device: what befell it, how its process fared, whom
it held for degraded or dead, and to how many of the others it was linked, as it knew itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from types import MappingProxyType

from simulations.device_life import Condition, DeviceLife
from simulations.drawing import (
    GRAY,
    GREEN,
    INK,
    PURPLE,
    VERMILLION,
    WHITE,
    YELLOW,
    Mark,
    Rect,
    Shape,
    Text,
    cut_text,
    line,
    readable_on,
    text_width,
    tint,
)
from simulations.story import Story
from simulations.timeline_doubts import doubt_bars
from simulations.timeline_faults import Bar, bars, fault_colour
from simulations.timeline_lane import LOW, ROOMY, SMALL, Lane
from simulations.timeline_links import link_counts
from simulations.timeline_scale import (
    MARGIN,
    MARK_WIDTH_MIN,
    WIDTH,
    Scale,
    Section,
    heading,
    rows,
    seconds,
)

LANES_MAX = 40
ROOMY_MAX = 12  # with more devices their lanes are lower
STRIPS_MAX = 4
CUT_WORDS_MIN = 16  # characters: less of a sentence says nothing

CONDITIONS: Mapping[Condition, tuple[str, str]] = MappingProxyType(
    {
        Condition.RUNNING: (tint(GREEN, 280), GREEN),
        Condition.FROZEN: (tint(YELLOW, 800), "#8a7f00"),
        Condition.SUSPENDED: (tint(PURPLE, 600), PURPLE),
        Condition.DOWN: (WHITE, GRAY),
        Condition.DISK_LOST: (tint(VERMILLION, 350), VERMILLION),
    }
)


def lanes(story: Story, scale: Scale, top: float, *, colours: Mapping[int, str]) -> Section:
    """Return the lanes of the devices that matter most; `colours` are those of executors."""
    chosen = _chosen(story)
    form = ROOMY if len(chosen) <= ROOMY_MAX else LOW
    marks, y = heading("Devices", top, right="linked to")
    for device in chosen:
        lane = Lane(device, y, form, scale, story)
        strips, strips_bottom = _strips(lane)
        marks += _label(lane, colours.get(device.node))
        marks += strips
        marks += _process(lane, strips_bottom)
        doubts = doubt_bars(lane, strips_bottom + form.process + 2)
        links = link_counts(lane, doubts.bottom)
        marks += [*doubts.marks, *links.marks]
        y = links.bottom + form.gap
        separator = y - form.gap / 2
        marks.append(line((MARGIN, separator), (WIDTH - MARGIN, separator), "#e4e8ec", width=0.5))
    hidden_count = len(story.devices) - len(chosen)
    if hidden_count:
        more = f"and {hidden_count} more devices"
        marks.append(Text(x=MARGIN, y=y + 10, text=more, fill=GRAY))
        y += 18
    return Section(marks, y)


def _chosen(story: Story) -> list[DeviceLife]:
    """Return the devices that faults or tasks concern, then others, as many as are drawn."""
    if len(story.devices) <= LANES_MAX:
        return list(story.devices.values())
    shapes = dict.fromkeys(fault.shape for fault in story.faults)
    few = [shape for shape in shapes if 2 * len(shape.nodes) <= len(story.devices)]
    of_faults = {node for shape in few for node in shape.nodes}
    of_tasks = {*story.executors, *story.submitters}

    def place(device: DeviceLife) -> tuple[int, int]:
        is_concerned = device.node in of_faults or device.is_troubled
        return -2 * is_concerned - (device.node in of_tasks), device.node

    first = sorted(story.devices.values(), key=place)[:LANES_MAX]
    return sorted(first, key=lambda device: device.node)


def _label(lane: Lane, colour: str | None) -> Iterator[Mark]:
    y = lane.top + lane.form.process - 3
    yield Text(x=MARGIN + 14, y=y, text=f"device {lane.device.node}")
    if colour is not None:
        yield Rect(x=MARGIN, y=y - 8, width=9, height=9, fill=colour, tooltip="tasks run here")
    if lane.device.node in lane.story.submitters and lane.form is ROOMY:
        yield Text(x=MARGIN + 14, y=y + 13, text="submits", size=SMALL, fill=GRAY)


# What befell it.


def _strips(lane: Lane) -> Section:
    """Return a strip for each fault that concerns the device, in its words."""
    node = lane.device.node
    concerned = [fault for fault in lane.story.faults if fault.shape.meaning(node) is not None]
    found = bars(concerned, lane.scale)
    places = rows([(bar.start, bar.end) for bar in found], gap=0, rows_max=STRIPS_MAX)
    marks: list[Mark] = []
    for bar, row in zip(found, places, strict=True):
        if row < STRIPS_MAX:
            marks += _strip(lane, bar, lane.top + row * lane.form.strip)
    rows_count = min(max(places, default=-1) + 1, STRIPS_MAX)
    return Section(marks, lane.top + rows_count * lane.form.strip)


def _strip(lane: Lane, bar: Bar, y: float) -> Iterator[Mark]:
    words = bar.shape.meaning(lane.device.node) or ""
    fill = fault_colour(bar.shape, lane.device.node)
    width = max(MARK_WIDTH_MIN, bar.end - bar.start)
    height = lane.form.strip - 1
    yield Rect(x=bar.start, y=y, width=width, height=height, fill=fill, tooltip=words)
    if lane.form is ROOMY:
        text = cut_text(words, width - 8, SMALL)
        if text == words or len(text) >= CUT_WORDS_MIN:
            yield Text(x=bar.start + 4, y=y + 9, text=text, size=SMALL, fill=readable_on(fill))


# How its process fared.


def _process(lane: Lane, top: float) -> Iterator[Mark]:
    stretches = lane.device.stretches
    times_us = [*(stretch.start_us for stretch in stretches), lane.scale.end_us]
    for stretch, (start_us, end_us) in zip(stretches, pairwise(times_us), strict=True):
        start, end = lane.scale.x(start_us), lane.scale.x(end_us)
        fill, stroke = CONDITIONS[stretch.condition]
        yield Rect(
            x=start,
            y=top,
            width=max(MARK_WIDTH_MIN, end - start),
            height=lane.form.process,
            fill=fill,
            stroke=stroke,
            tooltip=f"{stretch.words}, from {seconds(start_us)} to {seconds(end_us)}",
        )
        if lane.form is ROOMY:
            text = _fitting(stretch.words, end - start - 8)
            yield Text(x=start + 4, y=top + 10, text=text, size=SMALL)
    yield from _remarks(lane, top)


def _fitting(words: str, width: float) -> str:
    """Return the words, or what is before their comma, or nothing if that does not fit either."""
    short = words.partition(",")[0]
    return next((one for one in (words, short) if text_width(one, SMALL) <= width), "")


def _remarks(lane: Lane, top: float) -> Iterator[Mark]:
    bottom = top + lane.form.process
    for time_us, words in lane.device.remarks:
        x = lane.scale.x(time_us)
        tooltip = f"{words}, {seconds(time_us)}"
        middle = (top + bottom) / 2
        points = ((x, top + 2), (x + 4, middle), (x, bottom - 2), (x - 4, middle))
        yield Shape(points=points, fill=INK, tooltip=tooltip)
