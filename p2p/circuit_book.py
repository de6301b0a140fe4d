"""Which circuits a relay carries, and which it refuses: no bytes here, only counts.

A circuit carries the bytes of one link between two members that are both linked directly with the
relay (libp2p/specs, relay, *Circuit Relay v2*). There are no reservations: that both are members is
the permission.
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field

from msgspec import Struct

from wire.ids import PeerId


class CircuitLimits(Struct, frozen=True, kw_only=True):
    """What one device carries for others, at most."""

    circuits_max: int = 64
    circuits_per_device_max: int = 16  # where it is either end
    circuits_per_pair_max: int = 2  # the second takes the place of a first that hangs
    bytes_per_s_max: int = 1_000_000  # of each circuit, each way


class CircuitRefusal(enum.Enum):
    """Why a relay does not carry a circuit."""

    NOT_LINKED = "it has no direct link to that device"
    FULL = "it carries as many circuits as it may"
    FULL_FOR_DEVICE = "it carries as many circuits of one of the two as it may"
    FULL_FOR_PAIR = "it carries two circuits between the two already"
    TO_ITSELF = "a circuit leads from one device to another"


@dataclass(slots=True, kw_only=True)
class CircuitBook:
    """The circuits that one relay carries."""

    limits: CircuitLimits = field(default_factory=CircuitLimits)
    _count: int = 0
    _of_device: Counter[PeerId] = field(default_factory=Counter)
    _of_pair: Counter[frozenset[PeerId]] = field(default_factory=Counter)

    def __len__(self) -> int:
        """How many circuits there are."""
        return self._count

    def refusal(
        self, source: PeerId, target: PeerId, *, is_target_linked: bool
    ) -> CircuitRefusal | None:
        """Return why one more is not carried, None if it is. `source` is linked: it asks."""
        limits = self.limits
        if source == target:
            return CircuitRefusal.TO_ITSELF
        if not is_target_linked:
            return CircuitRefusal.NOT_LINKED
        if self._of_pair[frozenset((source, target))] >= limits.circuits_per_pair_max:
            return CircuitRefusal.FULL_FOR_PAIR
        if max(self._of_device[source], self._of_device[target]) >= limits.circuits_per_device_max:
            return CircuitRefusal.FULL_FOR_DEVICE
        if self._count >= limits.circuits_max:
            return CircuitRefusal.FULL
        return None

    def begin(self, source: PeerId, target: PeerId) -> None:
        """Count a circuit that is carried from now on."""
        self._add(source, target, 1)

    def end(self, source: PeerId, target: PeerId) -> None:
        """Count a circuit no more."""
        self._add(source, target, -1)
        for peer in (source, target):
            if not self._of_device[peer]:
                del self._of_device[peer]
        if not self._of_pair[frozenset((source, target))]:
            del self._of_pair[frozenset((source, target))]

    def _add(self, source: PeerId, target: PeerId, change: int) -> None:
        self._count += change
        self._of_device[source] += change
        self._of_device[target] += change
        self._of_pair[frozenset((source, target))] += change
