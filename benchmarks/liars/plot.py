"""The curve of the floor: what checks cost, and what liars get past them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.liars.mesh import LiarFigures
from simulations.drawing import Drawing, Mark, Shape, Text

COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#7a4e9f")
WIDTH, HEIGHT = 720.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 60.0, 330.0, 40.0, 240.0
PANEL = 360.0  # from one panel to the next
SIZE = 11.0
INK, PALE = "#222222", "#bbbbbb"


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot beside the other: its title, its bar in percent, and what it shows of a run."""

    title: str
    bar: float
    percents: Mapping[int, Sequence[float]]  # by when liars begin to lie, in the order of floors


def curve_of(floors_permille: Sequence[int], runs: Mapping[int, Sequence[LiarFigures]]) -> Drawing:
    """Return the curve: extra work and wrong results at acceptance, each over the floor."""
    extra = {n: [100 * one.extra for one in figures] for n, figures in runs.items()}
    wrong = {
        n: [100 * one.wrong_count / one.tasks_count for one in figures]
        for n, figures in runs.items()
    }
    panels = (
        Panel("extra work, % (bar: 10)", 10.0, extra),
        Panel("wrong when accepted, % (bar: 0.3)", 0.3, wrong),
    )
    marks: list[Mark] = []
    for number, panel in enumerate(panels):
        marks += _panel(panel, floors_permille, number * PANEL)
    for place, n in enumerate(runs):
        x = LEFT + place * 160
        marks.append(Shape(points=((x, 282), (x + 18, 282)), stroke=COLOURS[place], width=2))
        text = "lie always" if n == 0 else f"lie after {n} valid"
        marks.append(Text(x=x + 24, y=286, text=text, size=SIZE, fill=INK))
    title = "Spot checks: what the floor costs, and what it lets pass"
    return Drawing(width=WIDTH, height=HEIGHT, title=title, marks=marks)


def _panel(panel: Panel, floors_permille: Sequence[int], shift: float) -> list[Mark]:
    highest = 1.1 * max(panel.bar, *(value for line in panel.percents.values() for value in line))
    most = max(floors_permille)

    def place(floor: float, percent: float) -> tuple[float, float]:
        x = shift + LEFT + (RIGHT - LEFT) * floor / most
        return x, BOTTOM - (BOTTOM - TOP) * percent / highest

    marks: list[Mark] = [
        Text(x=shift + LEFT, y=TOP - 14, text=panel.title, size=SIZE + 1, fill=INK),
        Shape(points=(place(0, highest), place(0, 0), place(most, 0)), stroke=INK, width=1),
        Shape(points=(place(0, panel.bar), place(most, panel.bar)), stroke=PALE, width=1, dash=4),
    ]
    for floor in floors_permille:
        x, y = place(floor, 0)
        label = f"{floor / 10:g}"
        marks.append(Text(x=x, y=y + 14, text=label, size=SIZE, fill=INK, anchor="middle"))
    x, y = place(most / 2, 0)
    marks.append(Text(x=x, y=y + 28, text="floor, %", size=SIZE, fill=INK, anchor="middle"))
    for share in (0.0, 0.5, 1.0):
        x, y = place(0, share * panel.bar)
        label = f"{share * panel.bar:g}"
        marks.append(Text(x=x - 6, y=y + 4, text=label, size=SIZE, fill=INK, anchor="end"))
    for number, line in enumerate(panel.percents.values()):
        points = tuple(place(f, v) for f, v in zip(floors_permille, line, strict=True))
        marks.append(Shape(points=points, stroke=COLOURS[number], width=2))
    return marks
