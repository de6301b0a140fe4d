"""Which single results are run a second time: BOINC's adaptive replication.

Anderson 2020, *BOINC: A Platform for Volunteer Computing*, section 4.3. A device is trusted after
TRUSTED_AFTER valid results in a row; until then all its results are checked, from then on one with
the probability max(1/n, floor) for the n valid results in a row. A wrong one makes n zero. While as
many checks of a device are under way as it lacks, its other results wait for them: a stranger
costs TRUSTED_AFTER runs, however many tasks its first lease had.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from blake3 import blake3

from wire.ids import BatchId, PeerId

TRUSTED_AFTER = 10
FLOOR_PERMILLE = 20

LOTS_SECRET_BYTES = 32

_CHANCE_BYTES = 8

Device = TypeVar("Device", bound=Hashable)


class Draw(enum.Enum):
    """What to do about a result that nobody else ran."""

    TAKE = enum.auto()
    CHECK = enum.auto()
    HOLD = enum.auto()  # until checks of its device are over


@dataclass(slots=True, kw_only=True)
class SpotChecks(Generic[Device]):
    """Draws, and counts the checks that are under way. `valid_in_a_row` is what a device has."""

    valid_in_a_row: Callable[[Device], int]
    floor_permille: int = FLOOR_PERMILLE
    is_enabled: bool = True
    _under_way: Counter[Device] = field(default_factory=Counter)

    def draw(self, device: Device, chance: float) -> Draw:
        """Return what `chance`, uniform in [0, 1), makes of a result."""
        if not self.is_enabled:
            return Draw.TAKE
        valid_count = self.valid_in_a_row(device)
        if valid_count >= TRUSTED_AFTER:
            return Draw.CHECK if chance < self.share(valid_count) else Draw.TAKE
        is_enough = valid_count + self._under_way[device] >= TRUSTED_AFTER
        return Draw.HOLD if is_enough else Draw.CHECK

    def share(self, valid_count: int) -> float:
        """Return the share of results that are checked after so many valid ones in a row."""
        if valid_count < TRUSTED_AFTER:
            return 1.0
        return max(1 / valid_count, self.floor_permille / 1_000)

    def on_begun(self, device: Device) -> None:
        """A check of a result of this device is under way."""
        self._under_way[device] += 1

    def on_ended(self, device: Device) -> None:
        """It is over, and counted if it showed anything."""
        self._under_way[device] -= 1
        if self._under_way[device] <= 0:
            del self._under_way[device]


def counted(valid_count: int, *, checked_count: int, unchecked_count: int) -> int:
    """Return the valid results in a row after more: of a stranger only those that were checked."""
    valid_count += checked_count
    return valid_count + unchecked_count if valid_count >= TRUSTED_AFTER else valid_count


@dataclass(frozen=True, slots=True)
class Lots:
    """What decides by chance, and nobody but the steward that leads can foresee."""

    secret: bytes

    def chance(self, batch: BatchId, index: int) -> float:
        """Return a number in [0, 1) for a task."""
        drawn = self._hash(batch, index, b"")[:_CHANCE_BYTES]
        return int.from_bytes(drawn, "big") / (1 << 8 * _CHANCE_BYTES)

    def ranked(self, batch: BatchId, index: int, peers: Iterable[PeerId]) -> list[PeerId]:
        """Return devices in the order in which they are asked to run a task once more."""
        return sorted(peers, key=lambda peer: self._hash(batch, index, peer))

    def _hash(self, batch: BatchId, index: int, peer: bytes) -> bytes:
        return blake3(batch + index.to_bytes(2, "big") + peer, key=self.secret).digest()
