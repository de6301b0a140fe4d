"""The part of a timeline that says what befell the mesh: a bar for each fault, and its shadow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from simulations.drawing import (
    GRAY,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    WHITE,
    YELLOW,
    Mark,
    Rect,
    Text,
    cut_text,
    line,
    text_width,
    tint,
)
from simulations.fault_shape import FaultShape
from simulations.fault_span import FaultSpan
from simulations.timeline_scale import MARK_WIDTH_MIN, RIGHT, Scale, Section, rows, seconds

ROW_HEIGHT = 17.0
BAR_HEIGHT = 13.0
TEXT_SIZE = 10.0
GAP = 10.0
ROWS_MAX = 14
LABEL_WIDTH_MAX = 360.0
LABELS_TO = RIGHT + 80  # the right column is empty here
NEAR = 1.0

# One colour for each side of a cut; beyond them colours come again, the words do not.
SIDES = (tint(ORANGE, 550), tint(SKY, 650), tint(PURPLE, 600), tint(YELLOW, 750), tint(GREEN, 450))
OTHER = "#d8dee4"
SHADOW, EDGE = "#f4f1ea", "#a79a80"
# Narrow or many shadows, and those of flaps, have no edges: these would hide the rest.
EDGES_FROM = 20.0
EDGED_MAX = 12
LIE = tint(VERMILLION, 450)


def fault_colour(shape: FaultShape, node: int | None = None) -> str:
    """Return the colour of a fault, as it concerns a device."""
    if shape.kind == "lie":
        return LIE
    if not shape.is_cut:
        return OTHER
    return SIDES[0 if node is None else shape.side_of(node) % len(SIDES)]


@dataclass(frozen=True, slots=True)
class Bar:
    """From where to where a fault is drawn."""

    shape: FaultShape
    begun_us: int
    start: float
    end: float


def bars(faults: Sequence[FaultSpan], scale: Scale) -> list[Bar]:
    """Return where each fault lies; the same ones become one where no eye could part them."""
    found: list[Bar] = []
    latest: dict[FaultShape, int] = {}
    for fault in faults:
        start, end = scale.x(fault.begun_us), scale.x(fault.end_us(scale.end_us))
        place = latest.get(fault.shape)
        if place is not None and start - found[place].end < NEAR:
            found[place] = replace(found[place], end=max(found[place].end, end))
        else:
            latest[fault.shape] = len(found)
            found.append(Bar(fault.shape, fault.begun_us, start, end))
    return found


def fault_bars(faults: Sequence[FaultSpan], scale: Scale, top: float) -> Section:
    """Return a labelled bar for each fault; the same ones share a row and a label."""
    named = [*_named(faults, scale)]
    places = rows([one.extent for one in named], gap=GAP, rows_max=ROWS_MAX)
    marks: list[Mark] = []
    for one, row in zip(named, places, strict=True):
        if row < ROWS_MAX:
            marks += one.marks(top + row * ROW_HEIGHT)
    rows_count = min(max(places, default=-1) + 1, ROWS_MAX)
    bottom = top + rows_count * ROW_HEIGHT
    hidden = [one for one, row in zip(named, places, strict=True) if row >= ROWS_MAX]
    if hidden:
        more = f"and {sum(one.count for one in hidden)} more faults"
        marks.append(Text(x=RIGHT, y=bottom + 11, text=more, fill=GRAY, anchor="end"))
        bottom += ROW_HEIGHT
    return Section(marks, bottom + 4)


def shadows(faults: Sequence[FaultSpan], scale: Scale, top: float, bottom: float) -> list[Mark]:
    """Return what marks the times of cuts through the whole picture, to be painted first."""
    cuts = bars([fault for fault in faults if fault.shape.is_cut], scale)
    times = Counter(bar.shape for bar in cuts)
    single = [bar for bar in cuts if times[bar.shape] == 1 and bar.end - bar.start >= EDGES_FROM]
    marks: list[Mark] = [
        Rect(x=start, y=top, width=end - start, height=bottom - top, fill=SHADOW)
        for start, end in _joined(cuts)
    ]
    if len(single) <= EDGED_MAX:
        edges = sorted({x for bar in single for x in (bar.start, bar.end)})
        marks += [line((x, top), (x, bottom), EDGE, width=0.75, dash=3) for x in edges]
    return marks


def _joined(cuts: Sequence[Bar]) -> list[tuple[float, float]]:
    """Return the extents that at least one of the bars covers."""
    found: list[tuple[float, float]] = []
    for start, end in sorted((bar.start, bar.end) for bar in cuts):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


@dataclass(frozen=True, slots=True)
class _Named:
    """The bars of the same fault, and the label of their row: in the first bar or beside them."""

    bars: Sequence[Bar]
    count: int
    label: str

    @property
    def extent(self) -> tuple[float, float]:
        """From where to where a row is taken."""
        start, end = self.bars[0].start, max(bar.end for bar in self.bars)
        if self._is_inside:
            return start, end
        end = max(end, start + MARK_WIDTH_MIN)
        if end + self._label_width <= LABELS_TO:
            return start, end + self._label_width
        return start - self._label_width, end

    def marks(self, y: float) -> Iterator[Mark]:
        """Yield what is painted in a row that begins at `y`."""
        for bar in self.bars:
            yield Rect(
                x=bar.start,
                y=y,
                width=max(MARK_WIDTH_MIN, bar.end - bar.start),
                height=BAR_HEIGHT,
                fill=fault_colour(bar.shape),
                stroke=GRAY,
                tooltip=f"{self.label}, from {seconds(bar.begun_us)}",
            )
        start, end = self.extent
        x = self.bars[0].start + 4
        if not self._is_inside:
            x = start + 4 if start < self.bars[0].start else end - self._label_width + 4
            width = self._label_width - 4
            yield Rect(x=x - 2, y=y, width=width, height=BAR_HEIGHT, fill=WHITE)
        yield Text(x=x, y=y + 10, text=self.label, size=TEXT_SIZE)

    @property
    def _label_width(self) -> float:
        return text_width(self.label, TEXT_SIZE) + 8

    @property
    def _is_inside(self) -> bool:
        return self.bars[0].end - self.bars[0].start >= self._label_width


def _named(faults: Sequence[FaultSpan], scale: Scale) -> Iterator[_Named]:
    same: dict[FaultShape, list[FaultSpan]] = {}
    for fault in faults:
        same.setdefault(fault.shape, []).append(fault)
    for shape, some in same.items():
        label = shape.name if len(some) == 1 else f"{shape.name}, {len(some)} times"
        yield _Named(bars(some, scale), len(some), cut_text(label, LABEL_WIDTH_MAX, TEXT_SIZE))
