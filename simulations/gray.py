"""A gray failure: a process that answers heartbeats, gossips, and does not work."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class Gray(Struct, frozen=True, kw_only=True):
    """What a process no longer does, though it looks well.

    Programs that begin meanwhile take `slowdown` times as long, which counts against their limit of
    wall time; if `is_stuck`, those at work stand still until the device is well again. Messages of
    the type that `drops` names never leave the device, and the node is not told.
    """

    slowdown: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    is_stuck: bool = False
    drops: str | None = None
