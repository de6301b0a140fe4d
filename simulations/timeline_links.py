"""The part of a lane that says to how many of the others a device was linked, as it knew itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from simulations.device_life import LinkChange
from simulations.drawing import (
    BAD,
    BLUE,
    GREEN,
    INK,
    SILVER,
    SKY,
    VERMILLION,
    Mark,
    Point,
    Shape,
    Text,
    line,
    text_width,
    tint,
)
from simulations.story import Story
from simulations.timeline_lane import SMALL, Lane, others_count, peers_text
from simulations.timeline_scale import LEFT, MARGIN, RIGHT, WIDTH, Scale, Section, seconds, triangle

TOGETHER = 6.0  # changes as near as this are told as one
SIGN = 8.0


def link_counts(lane: Lane, top: float) -> Section:
    """Return whom the device lost and found, and below it a line of how many it was linked to."""
    area_top = top + lane.form.changes
    bottom = area_top + lane.form.links
    return Section([*_area(lane, area_top, bottom), *_changes(lane, top)], bottom)


def _area(lane: Lane, top: float, bottom: float) -> Iterator[Mark]:
    most = others_count(lane.story)
    counts = lane.device.link_counts

    def y(count: int) -> float:
        return bottom - (bottom - top - 2) * min(count, most) / max(1, most)

    yield line((LEFT, y(most)), (RIGHT, y(most)), SILVER, width=0.5, dash=2)
    yield line((LEFT, bottom), (RIGHT, bottom), SILVER, width=0.5)
    steps = [(x, y(count)) for x, count in _per_pixel(counts, lane.scale)]
    if steps:
        edge = _stairs(steps, (LEFT, bottom))
        area = (*edge, (RIGHT, bottom), (LEFT, bottom))
        yield Shape(points=area, fill=tint(SKY, 350), tooltip=f"of {most} others")
        yield Shape(points=edge, stroke=BLUE, width=1.5)
    last = counts[-1][1] if counts else 0
    fill = INK if 2 * last >= most else BAD
    text = f"{last} of {most}"
    size = 11.0 if lane.form.changes else SMALL
    yield Text(x=WIDTH - MARGIN, y=bottom - 1, text=text, size=size, fill=fill, anchor="end")


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


def _changes(lane: Lane, top: float) -> Iterator[Mark]:
    """Yield a sign where the device lost or found somebody, and whom where there is room."""
    y = top + max(4.0, lane.form.changes / 2)
    groups = [*_together(lane.device.link_changes, lane.scale)]
    starts = [lane.scale.x(group[0].time_us) for group in groups]
    rooms = pairwise([*starts, WIDTH - MARGIN])
    for group, (x, room_to) in zip(groups, rooms, strict=True):
        lost = [change for change in group if not change.is_up]
        found = [change for change in group if change.is_up]
        words = _words(lost, found, lane.story)
        tooltip = f"{words} at {seconds(group[0].time_us)}"
        place = x
        for some, colour in ((lost, VERMILLION), (found, GREEN)):
            if some and (some is lost or lane.form.changes):
                reason = f", {some[0].reason}" if some[0].reason else ""
                yield triangle(
                    place, y, 3, colour, is_up=some is found, tooltip=f"{tooltip}{reason}"
                )
                place += SIGN
        if lane.form.changes and place + text_width(words, SMALL) + SIGN <= room_to:
            yield Text(x=place - 2, y=y + 3, text=words, size=SMALL)


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


def _words(lost: Sequence[LinkChange], found: Sequence[LinkChange], story: Story) -> str:
    parts = [("lost", lost), ("found", found)]
    return ", ".join(
        f"{word} {peers_text((change.peer for change in some), story)}"
        for word, some in parts
        if some
    )
