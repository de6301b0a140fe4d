"""The canonical trace of a run: what every node saw and did, in an order that does not depend on
how the host stepped through it.

Lines are JSON objects sorted by (time, node, sequence), where each node counts its own lines. The
digest over them is what two runs of the same seed must agree on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from blake3 import blake3
from msgspec import Struct

Field: TypeAlias = str | int | bool | None

_ID_BYTES = 6
WORLD = -1  # the node of lines that belong to no node: faults, steps of the scenario


class TraceLog:
    """Collects the lines of one run and counts what they are about."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._sequences: Counter[int] = Counter()
        self._lines: list[tuple[int, int, int, str, Mapping[str, Field]]] = []

    def add(self, time_us: int, node: int, event: str, fields: Mapping[str, Field]) -> None:
        """Note that `event` happened at a node, WORLD for none."""
        self.counts[event] += 1
        self._sequences[node] += 1
        self._lines.append((time_us, node, self._sequences[node], event, fields))

    def lines(self) -> Iterator[str]:
        """Yield the canonical lines, one JSON object each."""
        ordered = sorted(self._lines, key=lambda line: line[:3])
        for time_us, node, sequence, event, fields in ordered:
            head = {"time_us": time_us, "node": node, "sequence": sequence, "event": event}
            yield json.dumps(head | dict(sorted(fields.items())), separators=(",", ":"))

    def digest(self) -> str:
        """Return the BLAKE3 digest of the canonical lines, in hexadecimal."""
        hasher = blake3()
        for line in self.lines():
            hasher.update(line.encode() + b"\n")
        return hasher.hexdigest()


def summary(struct: Struct) -> dict[str, Field]:
    """Return what a trace line says of an event: plain fields as they are, of others the type.

    Ids are cut to their beginning. Nothing that differs between processes may come in, so no
    `repr` and no `hash`.
    """
    return {name: _plain(getattr(struct, name)) for name in struct.__struct_fields__}


def _plain(value: object) -> Field:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):  # enumerations of text too
        return str(value)
    if isinstance(value, bytes):
        return value[:_ID_BYTES].hex()
    return type(value).__name__
