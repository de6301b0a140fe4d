"""Lines of a canonical trace, read back from its text (`simulations.trace` writes them)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeGuard

import msgspec

from simulations.errors import SimulationError
from simulations.trace import ID_BYTES, WORLD, Field
from wire.errors import MalformedId
from wire.ids import peer_from_text

_HEAD = ("time_us", "node", "sequence", "event")
_decoder = msgspec.json.Decoder(dict[str, Field])


class BadTrace(SimulationError):
    """This is not the trace of a run: name another file. The text says which line and why."""


@dataclass(frozen=True, slots=True)
class TraceLine:
    """What one line says. Node WORLD (-1) stands for the whole mesh."""

    time_us: int
    node: int
    sequence: int  # counts the lines of this node, from 1
    event: str
    fields: Mapping[str, Field]

    @property
    def place(self) -> tuple[int, int, int]:
        """Where the line stands: traces are sorted by this."""
        return self.time_us, self.node, self.sequence

    def text(self, field: str) -> str:
        """Return a field that is text, empty if there is none."""
        value = self.fields.get(field)
        return value if isinstance(value, str) else ""

    def number(self, field: str) -> int | None:
        """Return a field that is a number, None if there is none."""
        value = self.fields.get(field)
        return value if isinstance(value, int) else None

    def peer(self, field: str) -> str:
        """Return the beginning, as other lines have it, of the id whose text is in a field.

        Raises BadTrace if there is none.
        """
        try:
            return peer_from_text(self.text(field))[:ID_BYTES].hex()
        except MalformedId as error:
            raise BadTrace(f"{self.event} at {self.time_us} us, {field}: {error}") from error


def trace_lines(texts: Iterable[str], *, name: str = "trace") -> Iterator[TraceLine]:
    """Yield what the lines of a trace say. Raises BadTrace, which calls the trace `name`."""
    before: TraceLine | None = None
    for number, text in enumerate(texts, 1):
        try:
            line = _line(text)
        except BadTrace as error:
            raise BadTrace(f"{name}, line {number}: {error}") from error
        if before is not None and line.place <= before.place:
            raise BadTrace(f"{name}, line {number}: not sorted by time, node and sequence")
        yield line
        before = line


def _line(text: str) -> TraceLine:
    try:
        found = _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadTrace(f"no JSON object of plain fields: {error}") from error
    if missing := [name for name in _HEAD if name not in found]:
        if "version" in found:
            raise BadTrace(f"a file of version {found['version']}, and no trace line")
        raise BadTrace(f"without {', '.join(missing)}")
    time_us, node, sequence, event = (found.pop(name) for name in _HEAD)
    if not (_is_count(time_us) and _is_count(sequence) and isinstance(event, str)):
        raise BadTrace("time_us and sequence are counts, event is text")
    if not isinstance(node, int) or isinstance(node, bool) or node < WORLD:
        raise BadTrace("node is a number, -1 for the whole mesh")
    return TraceLine(time_us, node, sequence, event, found)


def _is_count(value: Field) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
