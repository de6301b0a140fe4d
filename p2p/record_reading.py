"""What a record says, and its part of the state hash: worked out once for all who hold the record.

A node reads a record once anyway. But where many nodes share a process, as in a simulation, they
hold the same record, and what it says would take most of their memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from blake3 import blake3

from p2p.observations import Observed, observed_in
from telemetry.sample import Sample, decode_sample
from wire.messages import HASH_BYTES
from wire.records import (
    Presence,
    Record,
    RecordKind,
    Watch,
    decode_capabilities,
    decode_observations,
    decode_presence,
    decode_watch,
)
from wire.signed import Signed

CapabilityKeys: TypeAlias = frozenset[str]
RecordBody: TypeAlias = Presence | CapabilityKeys | Sample | Watch | Observed


@dataclass(frozen=True, slots=True)
class Reading:
    """What a record says, and the hash of its version."""

    body: RecordBody
    fingerprint: int


def reading_of(signed: Signed[Record]) -> Reading:
    """Return the reading of a record of a known kind. Raises MalformedFrame."""
    reading = signed.memo
    if not isinstance(reading, Reading):
        record = signed.body
        reading = signed.memo = Reading(_decode(record), _fingerprint(record))
    return reading


def _fingerprint(record: Record) -> int:
    identity = b"%s\0%s\0%d\0%d" % (
        record.owner,
        record.kind.encode(),
        record.incarnation,
        record.counter,
    )
    return int.from_bytes(blake3(identity).digest(HASH_BYTES), "big")


def _decode(record: Record) -> RecordBody:
    match record.kind:
        case RecordKind.PRESENCE:
            return decode_presence(record.body)
        case RecordKind.CAPABILITIES:
            return frozenset(decode_capabilities(record.body).keys)
        case RecordKind.WATCH:
            return decode_watch(record.body)
        case RecordKind.OBSERVATIONS:
            return observed_in(record.incarnation, decode_observations(record.body))
        case _:
            return decode_sample(record.body)
