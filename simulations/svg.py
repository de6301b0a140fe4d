"""Renders a drawing as SVG: text without scripts, the same bytes for the same drawing."""

from __future__ import annotations

import re

from simulations.drawing import Drawing, Mark, Rect, Shape, Text, text_width

FONTS = "Aileron, Helvetica, Arial, 'Liberation Sans', sans-serif"

# XML 1.0 has no place for most of these, not even escaped, and readers change the others.
_NO_XML = re.compile("[^\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}


def svg_of(drawing: Drawing) -> str:
    """Return the drawing as one SVG document; tooltips show where a browser shows it."""
    width, height = _length(drawing.width), _length(drawing.height)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" role="img" font-family="{_escaped(FONTS)}">',
        f"<title>{_escaped(drawing.title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *map(_element, drawing.marks),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _element(mark: Mark) -> str:
    match mark:
        case Rect():
            return _rect(mark)
        case Shape():
            return _shape(mark)
        case Text():
            return _text(mark)


def _rect(mark: Rect) -> str:
    box = (("x", mark.x), ("y", mark.y), ("width", mark.width), ("height", mark.height))
    attributes = [f'{name}="{_length(value)}"' for name, value in box]
    attributes += _colours(mark.fill, mark.stroke)
    return _tag("rect", attributes, _tooltip(mark))


def _shape(mark: Shape) -> str:
    points = " ".join(f"{_length(x)},{_length(y)}" for x, y in mark.points)
    attributes = [f'points="{points}"', *_colours(mark.fill, mark.stroke)]
    if mark.stroke is not None:
        attributes.append(f'stroke-width="{_length(mark.width)}"')
    if mark.dash:
        attributes.append(f'stroke-dasharray="{_length(mark.dash)}"')
    return _tag("polyline" if mark.fill is None else "polygon", attributes, _tooltip(mark))


def _text(mark: Text) -> str:
    # A reader's font may be wider than ours: the text is held to the width it was laid out with.
    width = text_width(mark.text, mark.size)
    attributes = [
        f'x="{_length(mark.x)}"',
        f'y="{_length(mark.y)}"',
        f'font-size="{_length(mark.size)}"',
        f'fill="{mark.fill}"',
        f'textLength="{_length(width)}"',
        'lengthAdjust="spacingAndGlyphs"',
    ]
    if mark.anchor != "start":
        attributes.append(f'text-anchor="{mark.anchor}"')
    return _tag("text", attributes, _escaped(mark.text) + _tooltip(mark))


def _colours(fill: str | None, stroke: str | None) -> list[str]:
    attributes = [f'fill="{fill or "none"}"']
    if stroke is not None:
        attributes.append(f'stroke="{stroke}"')
    return attributes


def _tag(name: str, attributes: list[str], content: str) -> str:
    head = f"<{name} {' '.join(attributes)}"
    return f"{head}>{content}</{name}>" if content else f"{head}/>"


def _tooltip(mark: Mark) -> str:
    return f"<title>{_escaped(mark.tooltip)}</title>" if mark.tooltip else ""


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(one, one) for one in _NO_XML.sub("?", text))


def _length(value: float) -> str:
    """A hundredth of a pixel is more than a screen shows; 12.0 is written 12."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
