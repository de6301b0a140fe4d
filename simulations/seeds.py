"""Randomness by purpose: each use has a source of its own, derived from the run's seed.

With one shared source, one more draw anywhere would change everything after it. Sources are derived
with BLAKE3, never with `hash()`, which differs between processes. A packet's fate is not drawn from
a source at all, but computed from where it is (`packet_fate`).
"""

from __future__ import annotations

import random

from blake3 import blake3

_SEED_CONTEXT = "meshd 2026 simulation seed"
_MASK = (1 << 64) - 1


def derived_bytes(seed: int, *purpose: str | int, length: int = 32) -> bytes:
    """Return `length` bytes that only the seed and the purpose decide."""
    text = "\0".join(str(part) for part in (seed, *purpose))
    return blake3(text.encode(), derive_key_context=_SEED_CONTEXT).digest(length)


def source(seed: int, *purpose: str | int) -> random.Random:
    """Return the source of randomness for one purpose."""
    number = int.from_bytes(derived_bytes(seed, *purpose), "big")
    return random.Random(number)  # noqa: S311 - a simulation must repeat, not surprise


def seed_number(seed: int, *purpose: str | int) -> int:
    """Return 64 bits that only the seed and the purpose decide."""
    return int.from_bytes(derived_bytes(seed, *purpose, length=8), "big")


def splitmix64(state: int) -> int:
    """Return the next output of SplitMix64 (Steele, Lea, Flood 2014) from `state`."""
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


def packet_fate(seed: int, lane: int, origin: int, target: int, count: int) -> int:
    """Return 64 bits for packet number `count` of a lane from `origin` to `target`, by index.

    Nothing else goes in, so that one more message elsewhere changes nothing here.
    """
    link = (lane << 48) | (origin << 24) | target
    return splitmix64(seed ^ splitmix64(link ^ splitmix64(count)))
