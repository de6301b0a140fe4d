"""What one task may use, as its contract says it and the executor enforces it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

MIB = 1 << 20
INLINE_BYTES_MAX = 32 * 1024
CONTENT_BYTES_MAX = 64 * MIB
MODULE_BYTES_MAX = 64 * MIB


class Limits(Struct, frozen=True, kw_only=True):
    """Limits of one task. A device may cap each of them lower and then refuses the task.

    `fuel` is counted by the engine, about one unit an instruction; host calls are charged too.
    """

    memory_bytes: Annotated[int, Meta(ge=64 * 1024, le=4096 * MIB)] = 512 * MIB
    fuel: Annotated[int, Meta(ge=1, le=1_000_000_000_000)] = 10_000_000_000
    wall_us: Annotated[int, Meta(ge=1_000, le=3_600_000_000)] = 30_000_000
    output_bytes: Annotated[int, Meta(ge=0, le=CONTENT_BYTES_MAX)] = 16 * MIB
    table_elements: Annotated[int, Meta(ge=0, le=1_000_000)] = 20_000
