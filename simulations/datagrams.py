"""What becomes of one packet on a network that keeps no order: which copies of it arrive, and how.

`simulations.conditions.Datagrams` says how often; 64 bits of fate decide.
"""

from __future__ import annotations

from dataclasses import dataclass

from simulations.conditions import Datagrams
from simulations.seeds import splitmix64


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a packet that arrives."""

    fate: int  # 64 bits of its own: decides its latency, and which of its bits flip
    late_us: int  # 0 unless it is reordered
    is_corrupt: bool


def copies(settings: Datagrams, fate: int, *, loss_permille: int) -> list[Copy]:
    """Return the copies of a packet that arrive: none, one or two.

    `loss_permille` is what the path itself loses, on top of the settings.
    """
    loss_permille += settings.loss_permille
    copies_count = 1 + _happens(fate, settings.duplicate_permille)
    arriving = []
    for number in range(copies_count):
        own = splitmix64(fate ^ number)
        if _happens(own, loss_permille):
            continue
        late_us = 0
        if _happens(own >> 16, settings.reorder_permille):
            late_us = 1 + splitmix64(own) % max(1, settings.reorder_us_max)
        is_corrupt = _happens(own >> 32, settings.corrupt_permille)
        arriving.append(Copy(own >> 48, late_us, is_corrupt))
    return arriving


def _happens(bits: int, permille: int) -> bool:
    """Say whether the lowest 16 bits are among those of so many in a thousand."""
    return (bits & 0xFFFF) * 1_000 >> 16 < permille
