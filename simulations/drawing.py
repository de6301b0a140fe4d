"""A picture as a list of marks, for whatever renders it: `simulations.svg`, `simulations.png`.

Lengths are in units that a screen shows as one pixel; (0, 0) is at the top left. Marks are painted
in their order. Colours are "#rrggbb". A mark may carry a tooltip, which pictures that cannot be
hovered over do not show.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Anchor: TypeAlias = Literal["start", "middle", "end"]
Point: TypeAlias = tuple[float, float]

TEXT_SIZE = 11.0

# Okabe and Ito, "Color Universal Design" (2008): told apart by all kinds of colour vision.
ORANGE, SKY, GREEN, YELLOW = "#e69f00", "#56b4e9", "#009e73", "#f0e442"
BLUE, VERMILLION, PURPLE, BLACK = "#0072b2", "#d55e00", "#cc79a7", "#000000"
GOOD, BAD = "#007a58", "#b84e00"  # green and vermillion, dark enough for text on white
WHITE, INK, GRAY, SILVER, MIST = "#ffffff", "#1f2328", "#59636e", "#b6bec8", "#eef1f4"

# Widths of the characters from space to tilde in the font that Pillow brings (Aileron), in
# thousandths of the text's size. Common sans-serif fonts differ little.
_WIDTH_ROWS = (
    (216, 242, 339, 580, 580, 740, 654, 176, 315, 315, 560, 580, 220, 274, 220, 303),
    (580, 580, 580, 580, 580, 580, 580, 580, 580, 580, 220, 220, 580, 580, 580, 499),
    (852, 639, 627, 699, 709, 587, 567, 710, 730, 264, 544, 609, 575, 866, 718, 737),
    (598, 733, 619, 585, 612, 682, 622, 952, 625, 581, 591, 307, 303, 295, 580, 500),
    (300, 531, 611, 529, 615, 549, 290, 615, 593, 238, 233, 522, 247, 855, 593, 586),
    (611, 615, 330, 459, 313, 592, 514, 785, 482, 513, 462, 303, 250, 303, 580),
)
_WIDTHS = tuple(width for row in _WIDTH_ROWS for width in row)
_WIDTH_OTHER = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rect:
    """A box, filled, outlined or both."""

    x: float
    y: float
    width: float
    height: float
    fill: str | None = None
    stroke: str | None = None
    tooltip: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A polygon if it is filled, otherwise a line through its points."""

    points: tuple[Point, ...]
    fill: str | None = None
    stroke: str | None = None
    width: float = 1.0
    dash: float = 0.0  # length of dashes and of gaps; 0: a line without gaps
    tooltip: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One line of text; `y` is its baseline."""

    x: float
    y: float
    text: str
    size: float = TEXT_SIZE
    fill: str = INK
    anchor: Anchor = "start"
    tooltip: str = ""


Mark: TypeAlias = Rect | Shape | Text


@dataclass(slots=True)
class Drawing:
    """A picture. `title` says what it shows to who cannot see it."""

    width: float
    height: float
    title: str
    marks: list[Mark] = field(default_factory=list)

    def add(self, *marks: Mark) -> None:
        """Paint over what is there."""
        self.marks.extend(marks)


def line(
    start: Point,
    end: Point,
    stroke: str,
    *,
    width: float = 1.0,
    dash: float = 0.0,
    tooltip: str = "",
) -> Shape:
    """Return a straight line."""
    return Shape(points=(start, end), stroke=stroke, width=width, dash=dash, tooltip=tooltip)


def text_width(text: str, size: float = TEXT_SIZE) -> float:
    """Return how wide a text is."""
    return sum(map(_character_width, text)) * size / 1_000


def cut_text(text: str, width: float, size: float = TEXT_SIZE) -> str:
    """Return as much of a text as fits, with dots where something is left out; maybe nothing."""
    if text_width(text, size) <= width:
        return text
    kept = text
    while kept and text_width(f"{kept}...", size) > width:
        kept = kept[:-1]
    return f"{kept.rstrip()}..." if kept else ""


def readable_on(fill: str) -> str:
    """Return the text colour, dark or white, with the better contrast on a fill (WCAG 2.1)."""
    bright = _luminance(fill) + 0.05
    return INK if bright / (_luminance(INK) + 0.05) >= 1.05 / bright else WHITE


def tint(colour: str, permille: int) -> str:
    """Return a colour thinned with white; 1,000 leaves it as it is."""
    parts = (255 - (255 - part) * permille // 1_000 for part in _parts(colour))
    return "#" + "".join(f"{part:02x}" for part in parts)


def _character_width(character: str) -> int:
    place = ord(character) - ord(" ")
    return _WIDTHS[place] if 0 <= place < len(_WIDTHS) else _WIDTH_OTHER


def _parts(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _luminance(colour: str) -> float:
    """Relative luminance in [0, 1], as WCAG 2.1 defines it."""
    red, green, blue = (
        part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4
        for part in _parts(colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
