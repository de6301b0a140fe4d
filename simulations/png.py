"""Renders a drawing as PNG with Pillow and the font it brings, at twice the size for sharp text."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont

from simulations.drawing import Anchor, Drawing, Point, Rect, Shape, Text

SCALE = 2
COLOURS_MAX = 256
PIXELS_MAX = 100_000_000  # 300 MB while it is drawn
_ANCHORS: dict[Anchor, str] = {"start": "ls", "middle": "ms", "end": "rs"}


def png_of(drawing: Drawing) -> bytes:
    """Return the drawing as a PNG file: the same bytes for the same drawing and Pillow."""
    size = (round(drawing.width * SCALE), round(drawing.height * SCALE))
    if size[0] * size[1] > PIXELS_MAX:
        raise ValueError(f"a picture of {size[0]} x {size[1]} pixels")
    image = Image.new("RGB", size, "#ffffff")
    canvas = ImageDraw.Draw(image)
    for mark in drawing.marks:
        match mark:
            case Rect():
                _rect(canvas, mark)
            case Shape():
                _shape(canvas, mark)
            case Text():
                _text(canvas, mark)
    file = BytesIO()
    # Flat colours and the shades of their text: a palette holds them, in a third of the bytes.
    image.quantize(COLOURS_MAX, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        file, "PNG", optimize=True
    )
    return file.getvalue()


def _rect(canvas: ImageDraw.ImageDraw, mark: Rect) -> None:
    left, top = _scaled((mark.x, mark.y))
    right, bottom = _scaled((mark.x + mark.width, mark.y + mark.height))
    box = (left, top, max(left, right - 1), max(top, bottom - 1))  # Pillow paints the last pixel
    canvas.rectangle(box, fill=mark.fill, outline=mark.stroke, width=SCALE)


def _shape(canvas: ImageDraw.ImageDraw, mark: Shape) -> None:
    points = [_scaled(point) for point in mark.points]
    if mark.fill is not None and len(points) > 2:
        canvas.polygon(points, fill=mark.fill)
    if mark.stroke is None:
        return
    if mark.fill is not None:
        points.append(points[0])
    for start, end in pairwise(points):
        for part in _dashes(start, end, mark.dash * SCALE):
            canvas.line(part, fill=mark.stroke, width=max(1, round(mark.width * SCALE)))


def _dashes(start: Point, end: Point, dash: float) -> list[tuple[Point, Point]]:
    """Return the pieces of a line that are painted."""
    length = ((end[0] - start[0]) ** 2 + (end[1] - start[1]) ** 2) ** 0.5
    if dash <= 0 or length <= dash:
        return [(start, end)]

    def at(distance: float) -> Point:
        part = min(distance / length, 1.0)
        return start[0] + (end[0] - start[0]) * part, start[1] + (end[1] - start[1]) * part

    count = int(length // (2 * dash)) + 1
    return [(at(number * 2 * dash), at((number * 2 + 1) * dash)) for number in range(count)]


def _text(canvas: ImageDraw.ImageDraw, mark: Text) -> None:
    # The font has ASCII alone, and a box for everything else.
    text = "".join(one if " " <= one <= "~" else "?" for one in mark.text)
    place = (mark.x * SCALE, mark.y * SCALE)
    canvas.text(place, text, fill=mark.fill, font=_font(mark.size), anchor=_ANCHORS[mark.anchor])


@cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size * SCALE)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError("this Pillow was built without FreeType, and has no font to scale")
    return font


def _scaled(point: Point) -> tuple[int, int]:
    return round(point[0] * SCALE), round(point[1] * SCALE)
