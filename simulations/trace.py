"""The canonical trace of a run: what every node saw and did, in an order that does not depend on
how the host stepped through it.

Lines are JSON objects sorted by (time, node, sequence), where each node counts its own lines. The
digest over them is what two runs of the same seed must agree on. Time only goes on, so the lines of
a moment are complete when the next one begins: then they are sorted, hashed and, at level FULL,
kept. That costs as much memory as the lines have bytes, and at level DIGEST none.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TypeAlias

import msgspec
from blake3 import blake3
from msgspec import Struct

from wire.events import Received

Field: TypeAlias = str | int | bool | None

ID_BYTES = 6  # of the ids in lines
_HASHED_LINES_COUNT = 256  # hashed in one go: a call costs more than the bytes of a line
WORLD = -1  # the node of lines that belong to no node: faults, steps of the scenario


class TraceLevel(enum.StrEnum):
    """How much of a trace is kept. The digest does not depend on it, except that OFF has none."""

    FULL = "full"
    DIGEST = "digest"
    OFF = "off"  # what happened is counted, no more


class TraceLog:
    """Takes the lines of one run, in the order of time, and counts what they are about."""

    def __init__(self, level: TraceLevel = TraceLevel.FULL) -> None:
        self.level = level
        self.counts: Counter[str] = Counter()
        self._is_off = level is TraceLevel.OFF
        self._is_full = level is TraceLevel.FULL
        self._time_us = 0
        self._moment: list[tuple[int, int, bytes]] = []  # the lines of `_time_us`
        self._sequences: dict[int, int] = {}
        self._unhashed: list[bytes] = []
        self._hasher = blake3()
        self._kept: list[bytes] = []

    def add(self, time_us: int, node: int, event: str, fields: Mapping[str, Field]) -> None:
        """Note that `event` happened at a node, WORLD for none.

        Raises ValueError if something later was noted already.
        """
        self.counts[event] += 1
        if not self._is_off:
            sequence = self._next(time_us, node)
            place = {"time_us": time_us, "node": node, "sequence": sequence}
            self._moment.append((node, sequence, _encode({**place, "event": event, **fields})))

    def add_handled(self, time_us: int, node: int, event: Struct) -> None:
        """Note that a node is about to handle `event`."""
        name = _name_of(type(event))
        if type(event) is not Received or self._is_off:
            self.add(time_us, node, name, _NO_FIELDS if self._is_off else summary(event))
            return
        # Most lines are of messages that arrive: the same bytes in a fifth of the time.
        self.counts[name] += 1
        sequence = self._next(time_us, node)
        peer, message = _short(event.peer), type(event.message).__name__
        line = _RECEIVED_LINE % (time_us, node, sequence, peer, message.encode())
        self._moment.append((node, sequence, line))

    def _next(self, time_us: int, node: int) -> int:
        """Go on to this moment; return the number of the next line of a node."""
        if time_us != self._time_us:
            self._begin(time_us)
        sequence = self._sequences[node] = self._sequences.get(node, 0) + 1
        return sequence

    def lines(self) -> Iterator[str]:
        """Yield the canonical lines, one JSON object each. Raises LookupError if none were kept."""
        if not self._is_full:
            raise LookupError(f"the lines of a trace at level {self.level} are not kept")
        for line in [*self._kept, *self._of_this_moment()]:
            yield line.decode()

    def digest(self) -> str:
        """Return the BLAKE3 digest of the canonical lines, each with its newline, in hexadecimal.

        Raises LookupError at level OFF.
        """
        if self._is_off:
            raise LookupError("a trace that is off has no digest")
        self._hash()
        hasher = self._hasher.copy()
        hasher.update(_text(self._of_this_moment()))
        return hasher.hexdigest()

    def _begin(self, time_us: int) -> None:
        """Take leave of the moment before: nothing more happens in it."""
        if time_us < self._time_us:
            raise ValueError(f"{time_us} us is past, the trace is at {self._time_us} us")
        self._time_us = time_us
        lines = self._of_this_moment()
        self._moment.clear()
        self._unhashed += lines
        if self._is_full:
            self._kept += lines
        if len(self._unhashed) >= _HASHED_LINES_COUNT:
            self._hash()

    def _hash(self) -> None:
        self._hasher.update(_text(self._unhashed))
        self._unhashed.clear()

    def _of_this_moment(self) -> list[bytes]:
        self._moment.sort()
        return [line for _, _, line in self._moment]


def summary(struct: Struct) -> dict[str, Field]:
    """Return what a trace line says of an event: plain fields as they are, of others the type.

    Ids are cut to their beginning. Nothing that differs between processes may come in, so no
    `repr` and no `hash`.
    """
    fields: dict[str, Field] = {}
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if type(value) is bytes:  # nearly all are peers
            fields[name] = value[:ID_BYTES].hex()
        else:
            fields[name] = _plain(value)
    return fields


@lru_cache(maxsize=100_000)
def _short(peer: bytes) -> bytes:
    return peer[:ID_BYTES].hex().encode()


def _plain(value: object) -> Field:
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, bytes):
        return value[:ID_BYTES].hex()
    if isinstance(value, str):  # enumerations of text too
        return str(value)
    return type(value).__name__


def _name_of(kind: type[Struct]) -> str:
    name = _names.get(kind)
    if name is None:
        name = _names[kind] = f"event.{kind.__name__}"
    return name


def _text(lines: list[bytes]) -> bytes:
    return b"".join([line + b"\n" for line in lines])


_RECEIVED_LINE = (
    b'{"time_us":%d,"node":%d,"sequence":%d,"event":"event.Received","peer":"%s","message":"%s"}'
)
_NO_FIELDS: Mapping[str, Field] = {}
_names: dict[type[Struct], str] = {}
_encode = msgspec.json.Encoder().encode
