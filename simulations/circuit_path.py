"""The way of packets through a third device: two paths, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from simulations.path import Path


class AnyPath(Protocol):
    """What a link asks of its path: a `Path` has it, and so have two in a row."""

    @property
    def loss_permille(self) -> int:
        """How many of a thousand packets are lost."""
        ...

    @property
    def bytes_per_second(self) -> int | None:
        """How much passes; None: no limit."""
        ...

    def fate(self, lane: int) -> int:
        """Return the 64 bits that decide what befalls the next packet of a lane."""
        ...

    def flight_us(self, fate: int) -> int:
        """Return how long a packet with this fate takes if it is not lost."""
        ...

    def delay_us(self, lane: int) -> int:
        """Return how long the next packet of a lane takes, its retransmissions included."""
        ...


@dataclass(frozen=True, slots=True)
class CircuitPath:
    """From a device to the relay, and from there to the other device."""

    first: Path
    second: Path
    relay_bytes_per_second: int

    @property
    def loss_permille(self) -> int:
        """How many of a thousand packets are lost on either path."""
        return min(1_000, self.first.loss_permille + self.second.loss_permille)

    @property
    def bytes_per_second(self) -> int:
        """How much passes: what the relay lets pass of one circuit, or what a path does."""
        caps = (self.first.bytes_per_second, self.second.bytes_per_second)
        return min([self.relay_bytes_per_second, *(cap for cap in caps if cap is not None)])

    def fate(self, lane: int) -> int:
        """Return the 64 bits that decide what befalls the next packet of a lane."""
        return self.first.fate(lane) ^ self.second.fate(lane)

    def flight_us(self, fate: int) -> int:
        """Return how long a packet with this fate takes if it is not lost."""
        return self.first.flight_us(fate) + self.second.flight_us(fate >> 16)

    def delay_us(self, lane: int) -> int:
        """Return how long the next packet of a lane takes, its retransmissions included."""
        return self.first.delay_us(lane) + self.second.delay_us(lane)
