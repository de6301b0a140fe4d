"""The rows that the node's cores keep in the store: their kinds, and sorting them at a restart."""

from __future__ import annotations

from typing import TypeVar

from msgspec import Struct

from p2p.address_book import ADDRESS_ROW, AddressRow
from p2p.admission import INVITATION_ROW, InvitationRow
from p2p.network_keys import NETWORK_KEY_ROW, NetworkKeyRow
from p2p.own_records import INCARNATION_ROW, IncarnationRow
from p2p.removals import REMOVAL_ROW, RemovalRow
from scheduler.batch import (
    BATCH_ROW,
    DECISION_ROW,
    PROMISE_ROW,
    BatchRow,
    DecisionRow,
    PromiseRow,
)
from scheduler.convictions import CONVICTION_ROW, PARDON_ROW, ConvictionRow, PardonRow
from scheduler.history import HISTORY_ROW, HistoryRow
from scheduler.lease_history import LEASE_ROW, LeaseRow
from scheduler.reputation import AGE_ROW, MEASUREMENT_ROW, AgeRow
from scheduler.results import RESULT_ROW, ResultRow
from scheduler.steward import ROUND_ROW, RoundRow
from telemetry.measurement import MeasurementRecord
from wire.effects import Row

ROW_KINDS: dict[str, type[Struct]] = {
    ADDRESS_ROW: AddressRow,
    AGE_ROW: AgeRow,
    BATCH_ROW: BatchRow,
    CONVICTION_ROW: ConvictionRow,
    DECISION_ROW: DecisionRow,
    HISTORY_ROW: HistoryRow,
    INCARNATION_ROW: IncarnationRow,
    INVITATION_ROW: InvitationRow,
    LEASE_ROW: LeaseRow,
    MEASUREMENT_ROW: MeasurementRecord,
    NETWORK_KEY_ROW: NetworkKeyRow,
    PARDON_ROW: PardonRow,
    PROMISE_ROW: PromiseRow,
    REMOVAL_ROW: RemovalRow,
    RESULT_ROW: ResultRow,
    ROUND_ROW: RoundRow,
}

_Value = TypeVar("_Value", bound=Struct)


def with_row(rows: tuple[Row, ...], row: Row) -> tuple[Row, ...]:
    """Return the rows of a restart, one of them replaced or added."""
    return (*(one for one in rows if (one.kind, one.key) != (row.kind, row.key)), row)


class RowsByKind:
    """The rows of a restart, sorted by what they are, each kind in order of first writing."""

    def __init__(self, rows: tuple[Row, ...]) -> None:
        self._rows: dict[str, list[tuple[bytes, Struct]]] = {}
        for row in rows:
            if row.value is not None:
                self._rows.setdefault(row.kind, []).append((row.key, row.value))

    def keyed(self, kind: str, struct: type[_Value]) -> list[tuple[bytes, _Value]]:
        """Return the rows of a kind with their keys."""
        return [
            (key, value) for key, value in self._rows.get(kind, ()) if isinstance(value, struct)
        ]

    def values(self, kind: str, struct: type[_Value]) -> list[_Value]:
        """Return the rows of a kind."""
        return [value for _, value in self.keyed(kind, struct)]
