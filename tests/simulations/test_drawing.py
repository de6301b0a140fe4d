"""Drawings: the same in SVG and PNG, the same bytes each time, whatever text is in them."""

from __future__ import annotations

from io import BytesIO
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from simulations import drawing, timeline_faults, timeline_lanes, timeline_work
from simulations.drawing import (
    BAD,
    GOOD,
    GRAY,
    INK,
    WHITE,
    Drawing,
    Rect,
    Shape,
    Text,
    cut_text,
    line,
    readable_on,
    text_width,
    tint,
)
from simulations.png import SCALE, png_of
from simulations.svg import svg_of

SVG = "{http://www.w3.org/2000/svg}"
PRINTABLE = "".join(map(chr, range(32, 127)))


def example(text: str = "a text") -> Drawing:
    picture = Drawing(100, 50, "an example")
    picture.add(
        Rect(x=10, y=10, width=20, height=10, fill="#d55e00", tooltip=text),
        Shape(points=((50, 10), (60, 10), (55, 20)), fill="#0072b2"),
        line((0, 40), (100, 40), "#000000", dash=5),
        Text(x=50, y=35, text=text, anchor="middle"),
    )
    return picture


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 - our own text, and it names no entity


def pixels(picture: Drawing) -> Image.Image:
    return Image.open(BytesIO(png_of(picture))).convert("RGB")


def test_both_renderings_have_the_same_marks_in_the_same_places() -> None:
    root = parsed(svg_of(example()))
    rect = root.findall(f"{SVG}rect")[1]
    assert [rect.get(name) for name in ("x", "y", "width", "height")] == ["10", "10", "20", "10"]
    assert root.findall(f"{SVG}polygon")[0].get("points") == "50,10 60,10 55,20"
    image = pixels(example())
    assert image.size == (100 * SCALE, 50 * SCALE)
    assert image.getpixel((20 * SCALE, 15 * SCALE)) == (0xD5, 0x5E, 0x00)
    assert image.getpixel((20 * SCALE, 25 * SCALE)) == (255, 255, 255)
    assert image.getpixel((55 * SCALE, 12 * SCALE)) == (0x00, 0x72, 0xB2)
    dashes = [image.getpixel((x * SCALE, 40 * SCALE)) == (0, 0, 0) for x in (2, 7, 12, 17)]
    assert dashes == [True, False, True, False]


def test_the_same_drawing_gives_the_same_bytes() -> None:
    assert svg_of(example()) == svg_of(example())
    assert png_of(example()) == png_of(example())


@given(st.text())
def test_any_text_gives_an_svg_that_parses_and_shows_it(text: str) -> None:
    root = parsed(svg_of(example(text)))
    (shown,) = root.findall(f"{SVG}text")
    kept = "".join(one if one.isprintable() else "?" for one in text)
    assert len(shown.text or "") == len(text)
    if kept == text:
        assert (shown.text or "") == text
    assert {element.tag for element in root} <= {
        SVG + tag for tag in ("title", "rect", "text", "polyline", "polygon")
    }


def test_text_that_looks_like_markup_stays_text() -> None:
    hostile = '</text><script>alert(1)</script>&amp;"\x00\ud800'
    svg = svg_of(example(hostile))
    assert "<script" not in svg
    assert parsed(svg).findall(f"{SVG}text")[0].text == hostile[:-2] + "??"
    assert pixels(example(hostile)).size == (200, 100)


def test_texts_are_as_wide_as_they_are_laid_out() -> None:
    font = ImageFont.load_default(1_000)
    assert isinstance(font, ImageFont.FreeTypeFont)
    for character in PRINTABLE:
        assert text_width(character, 1_000) == pytest.approx(font.getlength(character), abs=1)


@given(st.text(alphabet=PRINTABLE), st.floats(min_value=0, max_value=200))
def test_a_text_that_was_cut_fits_and_begins_as_before(text: str, width: float) -> None:
    cut = cut_text(text, width)
    assert cut == text or text_width(cut) <= width
    assert cut == text or not cut or (cut.endswith("...") and text.startswith(cut[:-3]))
    assert cut == text or text_width(text) > width


def test_a_text_is_cut_no_shorter_than_it_must_be() -> None:
    assert cut_text("abcdefghij", text_width("abcdef...")) == "abcdef..."
    assert cut_text("abcdefghij", text_width("abcde...")) == "abcde..."
    assert cut_text("abcdefghij", text_width("..")) == ""


FILLS = (
    *timeline_faults.SIDES,
    timeline_faults.OTHER,
    timeline_faults.LIE,
    *(fill for fill, _ in timeline_lanes.CONDITIONS.values()),
    *timeline_work.EXECUTOR_COLOURS,
)


def contrast(one: str, other: str) -> float:
    """As WCAG 2.1 computes it, from 1 to 21."""
    light, dark = sorted((drawing._luminance(one), drawing._luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("fill", FILLS)
def test_text_on_a_fill_has_enough_contrast(fill: str) -> None:
    assert contrast(fill, readable_on(fill)) >= 4.5


@pytest.mark.parametrize("ink", [INK, GRAY, GOOD, BAD])
def test_text_on_white_has_enough_contrast(ink: str) -> None:
    assert contrast(WHITE, ink) >= 4.5


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert (readable_on("#ffffff"), readable_on("#000000")) == (INK, WHITE)
    assert (tint("#000000", 0), tint("#123456", 1_000)) == ("#ffffff", "#123456")


def test_a_picture_too_large_for_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="pixels"):
        png_of(Drawing(100_000, 100_000, "too large"))
