"""The part of a timeline that says what befell the mesh: a bar for each fault, and its shadow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from simulations.drawing import (
    GRAY,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    YELLOW,
    Mark,
    Rect,
    Text,
    cut_text,
    line,
    readable_on,
    text_width,
    tint,
)
from simulations.fault_span import MOMENTS, FaultSpan
from simulations.timeline_scale import MARK_WIDTH_MIN, RIGHT, Scale, Section, rows, seconds

ROW_HEIGHT = 17.0
BAR_HEIGHT = 13.0
TEXT_SIZE = 10.0
GAP = 10.0
ROWS_MAX = 14
LABEL_WIDTH_MAX = 420.0

# One colour for each side of a cut; beyond them colours come again, the words do not.
SIDES = (tint(ORANGE, 550), tint(SKY, 650), tint(PURPLE, 600), tint(YELLOW, 750), tint(GREEN, 450))
OTHER = "#d8dee4"
LIE = tint(VERMILLION, 450)


def fault_colour(fault: FaultSpan, node: int | None = None) -> str:
    """Return the colour of a fault, as it concerns a device."""
    if fault.kind == "lie":
        return LIE
    if not fault.is_cut:
        return OTHER
    return SIDES[0 if node is None else fault.side_of(node) % len(SIDES)]


@dataclass(frozen=True, slots=True)
class _Kind:
    """The same fault, however often it comes: it has one row and one label."""

    faults: list[FaultSpan]

    @property
    def label(self) -> str:
        count = len(self.faults)
        return self.faults[0].name if count == 1 else f"{self.faults[0].name}, {count} times"


def end_of(fault: FaultSpan, scale: Scale) -> int:
    """Return when a fault ends, if it is drawn as one that lasts."""
    if fault.ended_us is not None:
        return fault.ended_us
    return fault.begun_us if fault.kind in MOMENTS else scale.end_us


def fault_bars(faults: Sequence[FaultSpan], scale: Scale, top: float) -> Section:
    """Return a labelled bar for each fault; the same ones share a row."""
    kinds = [*_kinds(faults)]
    labels = [cut_text(kind.label, LABEL_WIDTH_MAX, TEXT_SIZE) for kind in kinds]
    extents = [_extent(kind, label, scale) for kind, label in zip(kinds, labels, strict=True)]
    places = rows(extents, gap=GAP)
    marks: list[Mark] = []
    for kind, label, extent, row in zip(kinds, labels, extents, places, strict=True):
        if row < ROWS_MAX:
            y = top + row * ROW_HEIGHT
            marks += [_bar(fault, scale, y) for fault in kind.faults]
            marks.append(_label(kind, label, extent, scale, y))
    rows_count = min(max(places, default=-1) + 1, ROWS_MAX)
    bottom = top + rows_count * ROW_HEIGHT
    hidden_count = sum(
        len(kind.faults) for kind, row in zip(kinds, places, strict=True) if row >= ROWS_MAX
    )
    if hidden_count:
        more = f"and {hidden_count} more faults"
        marks.append(Text(x=RIGHT, y=bottom + 11, text=more, fill=GRAY, anchor="end"))
        bottom += ROW_HEIGHT
    return Section(marks, bottom + 4)


def shadows(faults: Sequence[FaultSpan], scale: Scale, top: float, bottom: float) -> list[Mark]:
    """Return what marks the time of each cut through the whole picture, to be painted first."""
    marks: list[Mark] = []
    for fault in faults:
        if fault.is_cut:
            start, end = scale.x(fault.begun_us), scale.x(end_of(fault, scale))
            box = Rect(x=start, y=top, width=end - start, height=bottom - top, fill="#f4f1ea")
            marks.append(box)
    for fault in faults:
        if fault.is_cut:
            for time_us in (fault.begun_us, end_of(fault, scale)):
                x = scale.x(time_us)
                marks.append(line((x, top), (x, bottom), "#a79a80", width=0.75, dash=3))
    return marks


def _kinds(faults: Sequence[FaultSpan]) -> Iterator[_Kind]:
    found: dict[tuple[str, tuple[int, ...], str], _Kind] = {}
    for fault in faults:
        key = (fault.kind, fault.nodes, fault.detail)
        found.setdefault(key, _Kind([])).faults.append(fault)
    yield from found.values()


def _extent(kind: _Kind, label: str, scale: Scale) -> tuple[float, float]:
    """Return from where to where a row is taken: the bars, and the label beside a short one."""
    start = scale.x(kind.faults[0].begun_us)
    end = max(scale.x(end_of(fault, scale)) for fault in kind.faults)
    width = text_width(label, TEXT_SIZE) + 8
    if _has_room(kind, width, scale):
        return start, end
    end = max(end, start + MARK_WIDTH_MIN)
    return (start, end + width) if end + width <= RIGHT + 80 else (start - width, end)


def _has_room(kind: _Kind, width: float, scale: Scale) -> bool:
    first = kind.faults[0]
    return scale.x(end_of(first, scale)) - scale.x(first.begun_us) >= width


def _bar(fault: FaultSpan, scale: Scale, y: float) -> Rect:
    start, end = scale.x(fault.begun_us), scale.x(end_of(fault, scale))
    return Rect(
        x=start,
        y=y,
        width=max(MARK_WIDTH_MIN, end - start),
        height=BAR_HEIGHT,
        fill=fault_colour(fault),
        stroke=GRAY,
        tooltip=f"{fault.name}, {seconds(fault.begun_us)} to {seconds(end_of(fault, scale))}",
    )


def _label(kind: _Kind, label: str, extent: tuple[float, float], scale: Scale, y: float) -> Text:
    start = scale.x(kind.faults[0].begun_us)
    is_inside = _has_room(kind, text_width(label, TEXT_SIZE) + 8, scale)
    if is_inside:
        fill = readable_on(fault_colour(kind.faults[0]))
        return Text(x=start + 4, y=y + 10, text=label, size=TEXT_SIZE, fill=fill)
    if extent[0] < start:
        return Text(x=start - 4, y=y + 10, text=label, size=TEXT_SIZE, fill=INK, anchor="end")
    return Text(x=extent[1], y=y + 10, text=label, size=TEXT_SIZE, fill=INK, anchor="end")
