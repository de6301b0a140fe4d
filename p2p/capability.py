"""Capabilities: typed keys that say what a device provides, and who comes closest to a request.

Sizes are powers of two: a device provides its bucket and all below, so that a request names one.
If there are too many keys, labels go first: what placement needs is never lost to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wire.records import CAPABILITIES_MAX

BUCKETS_PER_KIND_MAX = 16
GIB = 1 << 30


def own_capabilities(
    *,
    engine_profile: str,
    architecture: str,
    cpu_count: int,
    memory_bytes: int,
    node_type: str,
    region: str,
    labels: Mapping[str, str],
    bandwidth_bits_per_second: int | None = None,
    gpu_kinds: Iterable[str] = (),
) -> tuple[str, ...]:
    """Return the sorted capability keys of a device, CAPABILITIES_MAX at most."""
    keys = {"runtime:wasi-p1", f"profile:{engine_profile}", f"arch:{architecture}"}
    keys.add(f"type:{node_type}")
    keys |= {f"cpu:{count}" for count in _powers_up_to(cpu_count)}
    keys |= {f"mem:{count}GiB" for count in _powers_up_to(memory_bytes // GIB)}
    if bandwidth_bits_per_second is not None:
        megabits = bandwidth_bits_per_second // 1_000_000
        keys |= {f"bw:{count}Mbit" for count in _powers_up_to(megabits)}
    if region:
        keys.add(f"region:{region}")
    keys |= {f"gpu:{kind}" for kind in gpu_kinds}
    found = sorted(f"label:{name}={value}" for name, value in labels.items())
    return tuple(sorted([*keys, *found[: max(0, CAPABILITIES_MAX - len(keys))]]))


def missing(wanted: Iterable[str], provided: frozenset[str]) -> list[str]:
    """Return what of `wanted` is not in `provided`, in the order it was asked for."""
    return [key for key in wanted if key not in provided]


def _powers_up_to(count: int) -> list[int]:
    # The lowest are kept: a giant lacks only what nobody asks for.
    return [1 << power for power in range(count.bit_length())][:BUCKETS_PER_KIND_MAX]
