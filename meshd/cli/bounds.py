"""What a person may ask for, checked before the daemon is asked.

The same bounds are in `wire`, which checks them again; they stand here too because `meshctl` starts
without it. A test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_MIB: Final = 1 << 20
_DAY_US: Final = 86_400_000_000

MODULE_BYTES_MAX: Final = 64 * _MIB
INPUT_BYTES_MAX: Final = 64 * _MIB - 64 * 1024
OUTPUT_BYTES_MAX: Final = 64 * _MIB
RECEIPT_BYTES_MAX: Final = 4 * _MIB

MEMORY_BYTES: Final = (64 * 1024, 4096 * _MIB)
FUEL: Final = (1, 1_000_000_000_000)
WALL_US: Final = (1_000, 3_600_000_000)
DEADLINE_US: Final = (0, 31 * _DAY_US)
RETRIES: Final = (0, 100)
REPLICAS: Final = (1, 7)
INVITATION_US: Final = (1_000_000, 365 * _DAY_US)
USES: Final = (1, 10_000)
CAPABILITIES_MAX: Final = 16
READERS_MAX: Final = 16
CAPABILITY_LETTERS_MAX: Final = 160
TASKS_LISTED: Final = (1, 1_000)

# What the daemon takes where a term is not given, by the name of its option.
DEFAULTS: Final[Mapping[str, int | str]] = MappingProxyType(
    {
        "strategy": "weighted",
        "priority": "normal",
        "memory_bytes": 512 * _MIB,
        "fuel": 10_000_000_000,
        "wall_us": 30_000_000,
        "output_bytes": 16 * _MIB,
        "deadline_us": 3_600_000_000,
        "retries_max": 8,
        "replicas": 1,
    }
)
