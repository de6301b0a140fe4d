"""The first event in which two traces differ: where two runs that should be one came apart.

Traces are compared line by line as they are read, so files of any size may be. What follows the
first difference is its consequence, and is not looked at beyond `LOOKAHEAD_LINES`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest

from simulations.trace import WORLD, Field
from simulations.trace_lines import TraceLine, trace_lines

CONTEXT_LINES = 6
LOOKAHEAD_LINES = 20_000  # how far the same event may have moved in the other trace
CHARACTERS_MAX = 160  # of a value, and of a line of context
US_PER_S = 1_000_000
NO_FIELD = "-"


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """What the two traces say of one field, as text."""

    name: str
    in_a: str
    in_b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first event that is not in both traces as it is.

    `a` and `b` are the same line of the same node in each, None where it has no such line. Of an
    event that only one trace has, `instead` is what the other goes on with, None at its end.
    """

    same_count: int  # lines before it
    line: TraceLine  # the event, as the trace has it in which it comes first
    context: tuple[TraceLine, ...]  # the last of those
    a: TraceLine | None
    b: TraceLine | None
    instead: TraceLine | None
    fields: tuple[FieldDifference, ...]


def first_difference(
    a: Iterable[str], b: Iterable[str], *, names: tuple[str, str] = ("A", "B")
) -> Difference | None:
    """Return where two traces, given as their lines, first differ; None if they never do.

    Raises BadTrace, with the one of `names` whose line is not one of a trace.
    """
    lines_a, lines_b = trace_lines(a, name=names[0]), trace_lines(b, name=names[1])
    context: deque[TraceLine] = deque(maxlen=CONTEXT_LINES)
    for same_count, (line_a, line_b) in enumerate(zip_longest(lines_a, lines_b)):
        if line_a is not None and (line_b is None or line_a.place <= line_b.place):
            if line_a == line_b:
                context.append(line_a)
                continue
            same = _same_line(line_a, line_b, lines_b)
            before = (same_count, tuple(context))
            return _difference(before, line_a, (line_a, same), instead=line_b)
        if line_b is not None:
            same = _same_line(line_b, line_a, lines_a)
            before = (same_count, tuple(context))
            return _difference(before, line_b, (same, line_b), instead=line_a)
    return None


def difference_text(difference: Difference, *, names: tuple[str, str] = ("A", "B")) -> str:
    """Return what a person reads: the lines before, both versions, and the fields that differ."""
    width = max(map(len, names))
    line = difference.line
    out = [
        f"{_lines(difference.same_count)} the same. Then, at {_seconds(line)},"
        f" {_who(line)}, its line {line.sequence}:",
        "",
    ]
    out += [f"{'':{width}}  {_cut(line_text(one))}" for one in difference.context]
    for name, own in zip(names, (difference.a, difference.b), strict=True):
        out.append(f"{name:{width}}  {_version(own, difference.instead)}")
    if difference.fields:
        out += ["", "What differs:"]
        name_width = max(len(field.name) for field in difference.fields)
        for field in difference.fields:
            for name, value in zip(names, (field.in_a, field.in_b), strict=True):
                out.append(f"  {field.name:{name_width}}  {name:{width}}  {value}")
    return "\n".join(out) + "\n"


def line_text(line: TraceLine) -> str:
    """Return a trace line for a person to read."""
    fields = " ".join(f"{name}={_shown(value)}" for name, value in line.fields.items())
    return (
        f"{_seconds(line):>14}  {_who(line):<11} #{line.sequence:<6} {line.event} {fields}".strip()
    )


def _difference(
    before: tuple[int, tuple[TraceLine, ...]],
    line: TraceLine,
    versions: tuple[TraceLine | None, TraceLine | None],
    *,
    instead: TraceLine | None,
) -> Difference:
    return Difference(
        same_count=before[0],
        context=before[1],
        line=line,
        a=versions[0],
        b=versions[1],
        instead=instead if None in versions else None,
        fields=_differing(*versions),
    )


def _same_line(
    wanted: TraceLine, following: TraceLine | None, rest: Iterator[TraceLine]
) -> TraceLine | None:
    """Return the line of the other trace with the same node and sequence, if it comes soon."""
    if following is None:
        return None
    place = (wanted.node, wanted.sequence)
    if (following.node, following.sequence) == place:
        return following
    ahead = islice(rest, LOOKAHEAD_LINES)
    return next((line for line in ahead if (line.node, line.sequence) == place), None)


def _differing(a: TraceLine | None, b: TraceLine | None) -> tuple[FieldDifference, ...]:
    if a is None or b is None:
        return ()
    in_a: dict[str, Field] = {"time_us": a.time_us, "event": a.event, **a.fields}
    in_b: dict[str, Field] = {"time_us": b.time_us, "event": b.event, **b.fields}
    return tuple(
        FieldDifference(name, _value(in_a, name), _value(in_b, name))
        for name in in_a | in_b
        if name not in in_a or name not in in_b or in_a[name] != in_b[name]
    )


def _value(fields: dict[str, Field], name: str) -> str:
    return _shown(fields[name]) if name in fields else NO_FIELD


def _shown(value: Field) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= CHARACTERS_MAX else f"{text[:CHARACTERS_MAX]}..."


def _version(line: TraceLine | None, instead: TraceLine | None) -> str:
    if line is not None:
        return line_text(line)
    if instead is None:
        return "(ends here)"
    return f"(has no such line; it goes on with {line_text(instead).strip()})"


def _lines(count: int) -> str:
    return f"{count:,} {'line is' if count == 1 else 'lines are'}"


def _seconds(line: TraceLine) -> str:
    return f"{line.time_us // US_PER_S}.{line.time_us % US_PER_S:06} s"


def _who(line: TraceLine) -> str:
    return "the mesh" if line.node == WORLD else f"device {line.node}"
