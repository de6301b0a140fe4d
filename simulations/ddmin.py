"""Delta debugging: the fewest of a list of items with which something still fails.

Zeller and Hildebrandt, *Simplifying and Isolating Failure-Inducing Input*, IEEE Transactions on
Software Engineering 28(2), 2002, section 3: the algorithm `ddmin`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def ddmin(
    items: Sequence[Item], still_fails: Callable[[tuple[Item, ...]], bool]
) -> tuple[Item, ...]:
    """Return a part of `items`, in order, that fails, and no longer does without any one of them.

    `items` themselves must fail. That holds only while `still_fails` answers truly: one that says
    no because its budget is spent ends the search early.
    """
    left = tuple(items)
    if still_fails(()):
        return ()
    parts_count = 2
    while len(left) >= 2:
        smaller = _reduced(left, parts_count, still_fails)
        if smaller is not None:
            left, parts_count = smaller
        elif parts_count < len(left):
            parts_count = min(len(left), 2 * parts_count)
        else:
            break
    return left


def _reduced(
    items: tuple[Item, ...],
    parts_count: int,
    still_fails: Callable[[tuple[Item, ...]], bool],
) -> tuple[tuple[Item, ...], int] | None:
    """Return a part or a complement that fails, and in how many parts to cut it, None if none."""
    bounds = [len(items) * place // parts_count for place in range(parts_count + 1)]
    spans = list(itertools.pairwise(bounds))
    for start, stop in spans:
        if still_fails(items[start:stop]):
            return items[start:stop], 2
    if parts_count > 2:  # of two parts each is the other's complement
        for start, stop in spans:
            if still_fails(items[:start] + items[stop:]):
                return items[:start] + items[stop:], parts_count - 1
    return None
