"""What the signs of a timeline mean: only those that its run can show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from simulations.device_life import Condition
from simulations.drawing import (
    BLACK,
    BLUE,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    SKY,
    VERMILLION,
    WHITE,
    Mark,
    Rect,
    Shape,
    Text,
    line,
    text_width,
    tint,
)
from simulations.story import Story
from simulations.timeline_batches import PHASES
from simulations.timeline_doubts import DEAD, DEGRADED
from simulations.timeline_lanes import CONDITIONS
from simulations.timeline_scale import LEFT, MARGIN, WIDTH, Section, heading, triangle
from simulations.timeline_work import drawn_batches

ROW = 19.0
SIGN_WIDTH = 18.0
SPACE = 20.0

CONDITION_WORDS = {
    Condition.RUNNING: "process runs",
    Condition.FROZEN: "process frozen",
    Condition.SUSPENDED: "device suspended",
    Condition.DOWN: "no process",
    Condition.DISK_LOST: "no process, and its disk lost",
}


def legend(story: Story, top: float) -> Section:
    """Return the signs with their meanings."""
    marks, y = heading("Signs", top)
    y = _row(marks, y, "devices", [*_device_signs(story)])
    forms = [is_by_task for _, is_by_task in drawn_batches(story)]
    if any(forms):
        y = _row(marks, y, "tasks", [*_task_signs()])
    if not all(forms):
        y = _row(marks, y, "batches", [*_batch_signs()])
    return Section(marks, y + 6)


Sign = tuple[list[Mark], str]


def _row(marks: list[Mark], y: float, name: str, signs: list[Sign]) -> float:
    """Add signs at (0, 0) from `y` on, as many in a line as fit; return where they end."""
    marks.append(Text(x=MARGIN + 14, y=y + 10, text=name, fill=GRAY))
    x = LEFT
    for parts, words in signs:
        width = SIGN_WIDTH + text_width(words) + SPACE
        if x + width > WIDTH - MARGIN + SPACE:
            x, y = LEFT, y + ROW
        marks += [_moved(part, x, y) for part in parts]
        marks.append(Text(x=x + SIGN_WIDTH, y=y + 10, text=words))
        x += width
    return y + ROW


def _device_signs(story: Story) -> Iterator[Sign]:
    seen = {stretch.condition for device in story.devices.values() for stretch in device.stretches}
    for condition, words in CONDITION_WORDS.items():
        if condition in seen:
            fill, stroke = CONDITIONS[condition]
            yield [Rect(x=0, y=1, width=13, height=11, fill=fill, stroke=stroke)], words
    held = {doubt.is_dead for device in story.devices.values() for doubt in device.doubts.all}
    for is_dead, fill, word in ((False, DEGRADED, "degraded"), (True, DEAD, "dead")):
        if is_dead in held:
            yield [Rect(x=0, y=1, width=13, height=11, fill=fill)], f"holds somebody for {word}"
    area = Rect(x=0, y=4, width=13, height=8, fill=tint(SKY, 350))
    yield (
        [area, line((0, 4), (13, 4), BLUE, width=1.5)],
        "how many others it is linked to, as it knows itself",
    )
    yield [triangle(6, 6, 4, VERMILLION, is_up=False, tooltip="")], "learns that it lost somebody"
    yield [triangle(6, 6, 4, GREEN, is_up=True, tooltip="")], "found somebody"
    if any(device.remarks for device in story.devices.values()):
        yield [_diamond(INK)], "remark (hover in the SVG)"


def _task_signs() -> Iterator[Sign]:
    yield [line((0, 6), (13, 6), GRAY, width=1.5)], "accepted, undecided"
    yield (
        [Rect(x=0, y=4, width=13, height=5, fill=tint(ORANGE, 450))],
        "leased to whom the colour says",
    )
    yield [Rect(x=0, y=0, width=13, height=12, fill=ORANGE)], "runs there"
    cross = [line((3, 3), (10, 10), VERMILLION, width=1.75)]
    cross.append(line((3, 10), (10, 3), VERMILLION, width=1.75))
    yield [*cross], "run in vain"
    yield [_diamond(BLACK)], "decided"
    yield [_diamond(VERMILLION)], "decided, without a result"
    told = Rect(x=3, y=3.5, width=5, height=5, fill=WHITE, stroke=BLUE)
    yield [line((-6, 6), (3, 6), BLUE, dash=2), told], "submitter told"


def _batch_signs() -> Iterator[Sign]:
    for phase, colour in PHASES:
        yield [Rect(x=0, y=1, width=13, height=11, fill=colour)], f"tasks {phase}"


def _diamond(fill: str) -> Shape:
    return Shape(points=((6, 1), (11, 6), (6, 11), (1, 6)), fill=fill)


def _moved(mark: Mark, x: float, y: float) -> Mark:
    match mark:
        case Shape(points=points):
            return replace(mark, points=tuple((px + x, py + y) for px, py in points))
        case _:
            return replace(mark, x=mark.x + x, y=mark.y + y)
