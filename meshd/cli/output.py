"""What commands print: one JSON object, or text for people.

Names and reasons come from other devices, so nothing that a terminal would obey is printed. The
program's own output never passes through here.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import click

from meshd.cli.streams import silence

SHORT_ID_LETTERS = 12
LAST_COLUMN_MIN = 8
FIRST_COLUMN_MIN = 6

Cell: TypeAlias = str | int | float | None


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table. A cell longer than `width_max` is cut."""

    title: str
    is_number: bool = False
    width_max: int = 40


def print_json(value: object) -> None:
    """Print one JSON value, keys in the order they are documented in; bytes become base64."""
    click.echo(json.dumps(value, indent=2, default=_encode))


def print_json_line(value: object) -> None:
    """Print one JSON value on one line, for a stream of them."""
    click.echo(json.dumps(value, default=_encode))


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> None:
    """Print a table fitted to the terminal; whole cells when it goes elsewhere."""
    for line in table_lines(columns, rows, width=terminal_width()):
        click.echo(line)


def table_lines(
    columns: Sequence[Column], rows: Iterable[Sequence[Cell]], *, width: int | None
) -> list[str]:
    """Return the lines of a table, its titles first, in at most `width` cells of a terminal.

    Where it does not fit, gaps shrink, the last column is cut or left out, then the first is cut.
    """
    titles = [column.title for column in columns]
    lines = [titles]
    for row in rows:
        pairs = zip(row, columns, strict=True)
        lines.append([_cut(_text(cell), column.width_max) for cell, column in pairs])
    widths = [max(_width(line[place]) for line in lines) for place in range(len(titles))]
    gap = 2 if width is None else _fit(widths, width)
    return [
        (" " * gap)
        .join(
            _padded(_cut(cell, size), size, is_number=column.is_number)
            for cell, size, column in zip(line, widths, columns, strict=False)
        )
        .rstrip()
        for line in lines
    ]


def _fit(widths: list[int], width: int) -> int:
    """Change the widths of columns so that a line fits `width`; return the gap between them."""
    last_min = min(widths[-1], LAST_COLUMN_MIN)
    gap = 2 if sum(widths[:-1]) + last_min + 2 * (len(widths) - 1) <= width else 1
    left = width - sum(widths[:-1]) - gap * (len(widths) - 1)
    if left >= last_min:
        widths[-1] = min(widths[-1], left)
        return gap
    widths.pop()
    over = sum(widths) + gap * (len(widths) - 1) - width
    if over > 0:
        widths[0] = max(FIRST_COLUMN_MIN, widths[0] - over)
    return gap


def print_fields(fields: Iterable[tuple[str, Cell]]) -> None:
    """Print names and values, one a line; a value that is not known is left out."""
    known = [(name, plain(_text(value))) for name, value in fields if value not in (None, "")]
    size = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        click.echo(f"{name:{size}}  {value}")


def note(text: str) -> None:
    """Print a line beside the output, on standard error. A full or broken one is no error."""
    try:
        click.echo(plain(text), err=True)
    except OSError:
        silence(sys.stderr.fileno())


def plain(text: str) -> str:
    """Return `text` without what would move a cursor, colour, or reverse the reading order."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def short_id(text: str | None) -> str:
    """Return the beginning of an id, which is taken wherever the id is."""
    return (text or "")[:SHORT_ID_LETTERS]


def short_task(task: str) -> str:
    """Return the beginning of a task's batch, and its index."""
    batch, index, *_stewards = [*task.split("."), "0"]
    return f"{short_id(batch)}.{index}"


def terminal_width() -> int | None:
    """Return the width of the terminal that standard output is, None if it is none."""
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else None


def wants_colour() -> bool | None:
    """Return False where colour is not wanted (no-color.org), None to leave it to the terminal."""
    return False if os.environ.get("NO_COLOR") else None


def score(value: object) -> str:
    """Return a score in [0, 1] with two digits, `-` when it is not known."""
    return f"{value:.2f}" if isinstance(value, int | float) else "-"


def milliseconds(duration_us: object) -> str:
    """Return a short duration in milliseconds, `-` when it is not known."""
    if not isinstance(duration_us, int):
        return "-"
    return f"{duration_us / 1000:.1f}ms" if duration_us < 99_950 else f"{duration_us // 1000}ms"


def rough_duration(duration_us: object) -> str:
    """Return a duration in its two largest units, such as `1h2m`; seconds with a digit."""
    if not isinstance(duration_us, int):
        return "-"
    seconds = duration_us / 1_000_000
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86_400)
    if minutes < 60:
        return f"{minutes}m{int(seconds) % 60}s"
    return f"{hours}h{minutes % 60}m" if hours < 24 else f"{days}d{hours % 24}h"


def rough_bytes(size_bytes: object) -> str:
    """Return a size with at most one digit after the point, such as `1.5MiB`."""
    if not isinstance(size_bytes, int):
        return "-"
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f}{unit}" if unit == "B" else f"{size:.1f}{unit}"
        size /= 1024
    return f"{size:.1f}TiB"


def _encode(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    raise TypeError(f"{type(value).__name__} has no JSON")


def _text(cell: Cell) -> str:
    return "-" if cell is None else plain(str(cell))


def _width(text: str) -> int:
    """Return how many terminal cells `text` takes (Unicode Annex 11)."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    marks = sum(unicodedata.combining(letter) > 0 for letter in text)
    return len(text) + wide - marks


def _cut(text: str, width_max: int) -> str:
    if _width(text) <= width_max:
        return text
    while text and _width(text) > width_max - 1:
        text = text[:-1]
    return text + "\N{HORIZONTAL ELLIPSIS}"


def _padded(text: str, width: int, *, is_number: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if is_number else text + space
