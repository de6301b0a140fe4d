"""How often a process that simulates looks for cyclic garbage."""

from __future__ import annotations

import gc

YOUNG_OBJECTS_MAX = 50_000


def collect_seldom() -> None:
    """Look for cyclic garbage seldom in this process: there is little of it, and much to search.

    With Python's own thresholds that takes a sixth of the time of a run of 200 devices.
    """
    gc.set_threshold(YOUNG_OBJECTS_MAX, 20, 100)
