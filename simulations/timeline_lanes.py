"""The part of a timeline with a lane for each device: what befell it, how its process fared, and
to how many of the others it was linked, as it knew itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from simulations.device_life import Condition, DeviceLife, LinkChange
from simulations.drawing import (
    BLUE,
    GRAY,
    GREEN,
    INK,
    PURPLE,
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
    cut_text,
    line,
    readable_on,
    text_width,
    tint,
)
from simulations.fault_span import FaultSpan
from simulations.story import Story
from simulations.timeline_faults import end_of, fault_colour
from simulations.timeline_scale import (
    LEFT,
    MARGIN,
    MARK_WIDTH_MIN,
    RIGHT,
    WIDTH,
    Scale,
    Section,
    heading,
    rows,
    seconds,
    triangle,
)

LANES_MAX = 40
ROOMY_MAX = 12  # with more devices their lanes are lower
STRIPS_MAX = 4
TOGETHER = 5.0  # changes as near as this are told as one
SMALL = 9.0

CONDITIONS: Mapping[Condition, tuple[str, str]] = MappingProxyType(
    {
        Condition.RUNNING: (tint(GREEN, 280), GREEN),
        Condition.FROZEN: (tint(YELLOW, 800), "#8a7f00"),
        Condition.SUSPENDED: (tint(PURPLE, 600), PURPLE),
        Condition.DOWN: (WHITE, GRAY),
        Condition.DISK_LOST: (tint(VERMILLION, 350), VERMILLION),
    }
)


@dataclass(frozen=True, slots=True)
class _Form:
    """How high the parts of a lane are."""

    strip: float
    process: float
    links: float
    gap: float


ROOMY = _Form(strip=13.0, process=14.0, links=24.0, gap=12.0)
LOW = _Form(strip=6.0, process=8.0, links=10.0, gap=6.0)


@dataclass(frozen=True, slots=True)
class _Lane:
    """Where a lane is, and how it is drawn."""

    device: DeviceLife
    top: float
    form: _Form
    scale: Scale
    story: Story


def lanes(story: Story, scale: Scale, top: float, *, colours: Mapping[int, str]) -> Section:
    """Return the lanes of the devices that matter most; `colours` are those of executors."""
    chosen = _chosen(story)
    form = ROOMY if len(chosen) <= ROOMY_MAX else LOW
    marks, y = heading("Devices", top, right="linked to")
    for device in chosen:
        lane = _Lane(device, y, form, scale, story)
        strips, strips_bottom = _strips(lane)
        marks += _label(lane, colours.get(device.node))
        marks += strips
        marks += _process(lane, strips_bottom)
        links_top = strips_bottom + form.process + 3
        marks += _links(lane, links_top)
        y = links_top + form.links + form.gap
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
    few = [fault for fault in story.faults if 2 * len(fault.nodes) <= len(story.devices)]
    of_faults = {node for fault in few for node in fault.nodes}
    of_tasks = {*story.executors, *story.submitters}

    def place(device: DeviceLife) -> tuple[int, int]:
        is_concerned = device.node in of_faults or device.is_troubled
        return -2 * is_concerned - (device.node in of_tasks), device.node

    first = sorted(story.devices.values(), key=place)[:LANES_MAX]
    return sorted(first, key=lambda device: device.node)


def _label(lane: _Lane, colour: str | None) -> Iterator[Mark]:
    y = lane.top + lane.form.process - 3
    yield Text(x=MARGIN + 14, y=y, text=f"device {lane.device.node}")
    if colour is not None:
        yield Rect(x=MARGIN, y=y - 8, width=9, height=9, fill=colour, tooltip="tasks run here")
    if lane.device.node in lane.story.submitters and lane.form is ROOMY:
        yield Text(x=MARGIN + 14, y=y + 13, text="submits", size=SMALL, fill=GRAY)


# What befell it.


def _strips(lane: _Lane) -> Section:
    """Return a strip for each fault that concerns the device, in its words."""
    found = [
        (fault, words)
        for fault in lane.story.faults
        if (words := fault.meaning(lane.device.node)) is not None
    ]
    scale = lane.scale
    extents = [(scale.x(fault.begun_us), scale.x(end_of(fault, scale))) for fault, _ in found]
    places = rows(extents, gap=0)
    marks: list[Mark] = []
    for (fault, words), (start, end), row in zip(found, extents, places, strict=True):
        if row < STRIPS_MAX:
            y = lane.top + row * lane.form.strip
            marks += _strip(lane, fault, words, (start, end, y))
    rows_count = min(max(places, default=-1) + 1, STRIPS_MAX)
    return Section(marks, lane.top + rows_count * lane.form.strip)


def _strip(
    lane: _Lane, fault: FaultSpan, words: str, place: tuple[float, float, float]
) -> Iterator[Mark]:
    start, end, y = place
    fill = fault_colour(fault, lane.device.node)
    width = max(MARK_WIDTH_MIN, end - start)
    height = lane.form.strip - 1
    yield Rect(x=start, y=y, width=width, height=height, fill=fill, tooltip=words)
    if lane.form is ROOMY:
        text = cut_text(words, width - 8, SMALL)
        yield Text(x=start + 4, y=y + 9, text=text, size=SMALL, fill=readable_on(fill))


# How its process fared.


def _process(lane: _Lane, top: float) -> Iterator[Mark]:
    stretches = lane.device.stretches
    ends_us = [*(stretch.start_us for stretch in stretches[1:]), lane.scale.end_us]
    for stretch, end_us in zip(stretches, ends_us, strict=bool(stretches)):
        start, end = lane.scale.x(stretch.start_us), lane.scale.x(end_us)
        fill, stroke = CONDITIONS[stretch.condition]
        yield Rect(
            x=start,
            y=top,
            width=max(MARK_WIDTH_MIN, end - start),
            height=lane.form.process,
            fill=fill,
            stroke=stroke,
            tooltip=f"{stretch.words}, from {seconds(stretch.start_us)} to {seconds(end_us)}",
        )
        if lane.form is ROOMY:
            text = cut_text(stretch.words, end - start - 8, SMALL)
            yield Text(x=start + 4, y=top + 10, text=text, size=SMALL, fill=INK)
    yield from _remarks(lane, top)


def _remarks(lane: _Lane, top: float) -> Iterator[Mark]:
    bottom = top + lane.form.process
    for time_us, words in lane.device.remarks:
        x = lane.scale.x(time_us)
        tooltip = f"{words}, {seconds(time_us)}"
        middle = (top + bottom) / 2
        points = ((x, top + 2), (x + 4, middle), (x, bottom - 2), (x - 4, middle))
        yield Shape(points=points, fill=INK, tooltip=tooltip)


# Whom it was linked to.


def _links(lane: _Lane, top: float) -> Iterator[Mark]:
    others_count = _others_count(lane.story)
    bottom = top + lane.form.links
    counts = lane.device.link_counts

    def y(count: int) -> float:
        return bottom - (lane.form.links - 2) * min(count, others_count) / max(1, others_count)

    yield line((LEFT, y(others_count)), (RIGHT, y(others_count)), SILVER, width=0.5, dash=2)
    yield line((LEFT, bottom), (RIGHT, bottom), SILVER, width=0.5)
    steps = [(x, y(count)) for x, count in _per_pixel(counts, lane.scale)]
    if steps:
        edge = _stairs(steps, (LEFT, bottom))
        area = (*edge, (RIGHT, bottom), (LEFT, bottom))
        yield Shape(points=area, fill=tint(SKY, 350), tooltip=f"of {others_count} others")
        yield Shape(points=edge, stroke=BLUE, width=1.5)
    last = counts[-1][1] if counts else 0
    colour = INK if last >= others_count else VERMILLION
    text = f"{last} of {others_count}"
    size = SMALL if lane.form is LOW else 11.0
    yield Text(x=WIDTH - MARGIN, y=bottom - 1, text=text, size=size, fill=colour, anchor="end")
    yield from _changes(lane, top)


def _others_count(story: Story) -> int:
    """Return how many links a device can have, as far as the run shows: all others, or a cap."""
    most = max(
        (count for device in story.devices.values() for _, count in device.link_counts), default=0
    )
    others_count = len(story.devices) - 1
    return others_count if others_count <= ROOMY_MAX else max(most, 1)


def _per_pixel(counts: Sequence[tuple[int, int]], scale: Scale) -> Iterator[tuple[float, int]]:
    """Yield the counts, of those within a pixel the lowest and the last."""
    pixel, lowest, last = -1.0, 0, 0
    for time_us, count in counts:
        x = float(int(scale.x(time_us) * 2)) / 2
        if x != pixel:
            if pixel >= 0:
                yield from [(pixel, lowest), (pixel, last)]
            pixel, lowest = x, count
        lowest, last = min(lowest, count), count
    if pixel >= 0:
        yield from [(pixel, lowest), (pixel, last)]


def _stairs(steps: Sequence[tuple[float, float]], start: Point) -> tuple[Point, ...]:
    points = [start]
    for x, y in steps:
        points += [(x, points[-1][1]), (x, y)]
    return (*points, (RIGHT, points[-1][1]))


def _changes(lane: _Lane, top: float) -> Iterator[Mark]:
    """Yield a mark where the device lost or found somebody, with whom where there is room."""
    free_from = LEFT
    for changes in _together(lane.device.link_changes, lane.scale):
        x = lane.scale.x(changes[0].time_us)
        lost = [change for change in changes if not change.is_up]
        found = [change for change in changes if change.is_up]
        for some, word, colour, is_up in (
            (lost, "lost", VERMILLION, False),
            (found, "found", GREEN, True),
        ):
            if not some:
                continue
            text = f"{word} {_peers(some, lane.story)}"
            tooltip = f"{text} at {seconds(some[0].time_us)} {some[0].reason}".strip()
            y = top + (6 if lane.form is ROOMY else 4) + (8 if is_up and lost and found else 0)
            yield triangle(x, y, 3, colour, is_up=is_up, tooltip=tooltip)
            width = text_width(text, SMALL)
            if lane.form is ROOMY and x + 5 >= free_from and x + 5 + width <= RIGHT:
                yield Text(x=x + 6, y=y + 3, text=text, size=SMALL, fill=INK)
                free_from = x + 5 + width + 8


def _together(changes: Sequence[LinkChange], scale: Scale) -> Iterator[list[LinkChange]]:
    """Yield the changes, those that are too near each other to be told apart as one list."""
    some: list[LinkChange] = []
    for change in changes:
        if some and scale.x(change.time_us) - scale.x(some[0].time_us) > TOGETHER:
            yield some
            some = []
        some.append(change)
    if some:
        yield some


def _peers(changes: Sequence[LinkChange], story: Story) -> str:
    names = dict.fromkeys(story.device_name(change.peer) for change in changes)
    return " ".join(names) if len(names) <= 4 else f"{len(names)} devices"
