"""The shapes in which a network falls apart, as the ordered pairs (origin, target) that are cut.

Devices are numbers. Nothing gets from the origin of a cut pair to its target; a path that is broken
both ways is two pairs. The lists are in an order that only the arguments decide, without repeats.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TypeAlias

from simulations.errors import BadScenario

RING_NODES_MIN = 4

NodePair: TypeAlias = tuple[int, int]


def split(groups: Sequence[Sequence[int]], node_count: int) -> list[NodePair]:
    """Let devices reach those of their own group only; who is in none is a group with them.

    Raises BadScenario for a device that does not exist, or is in two groups.
    """
    named = list(chain.from_iterable(groups))
    _check_nodes(named, node_count)
    _check_apart(named)
    unnamed = set(named)
    parts = [*groups, [node for node in range(node_count) if node not in unnamed]]
    return [
        (origin, target)
        for here, part in enumerate(parts)
        for there, other in enumerate(parts)
        if here != there
        for origin in part
        for target in other
    ]


def isolate(node: int, node_count: int) -> list[NodePair]:
    """Cut one device off from all others, both ways. Raises BadScenario if it does not exist."""
    return split([[node]], node_count)


def one_way(origins: Iterable[int], targets: Iterable[int]) -> list[NodePair]:
    """Let nothing pass from `origins` to `targets`; what comes back still passes."""
    to = list(dict.fromkeys(targets))
    return [(one, other) for one in dict.fromkeys(origins) for other in to if one != other]


def bridge(left: Sequence[int], middle: Sequence[int], right: Sequence[int]) -> list[NodePair]:
    """Keep `left` and `right` apart, though both reach `middle` and it reaches them.

    Raises BadScenario for a device that is on two sides.
    """
    _check_apart([*left, *middle, *right])
    return one_way(left, right) + one_way(right, left)


def ring_of_majorities(nodes: int | Sequence[int]) -> list[NodePair]:
    """Let every device reach a majority, and no two the same one (Jepsen's `majorities-ring`).

    Each reaches its nearest neighbours on a ring, as many on either side, in the order in which the
    devices are given (a number means 0, 1, ...). Raises BadScenario for fewer than four: three on a
    ring are all neighbours.
    """
    ring = list(range(nodes)) if isinstance(nodes, int) else list(nodes)
    _check_apart(ring)
    if len(ring) < RING_NODES_MIN:
        raise BadScenario(f"a ring of majorities takes {RING_NODES_MIN} devices, not {len(ring)}")
    reach = (len(ring) // 2 + 1) // 2  # with itself in the middle: more than half of them
    return [
        (origin, ring[(place + step) % len(ring)])
        for place, origin in enumerate(ring)
        for step in range(reach + 1, len(ring) - reach)
    ]


def _check_nodes(nodes: Iterable[int], node_count: int) -> None:
    for node in nodes:
        if not 0 <= node < node_count:
            raise BadScenario(f"there is no device {node}: they are 0 to {node_count - 1}")


def _check_apart(nodes: Sequence[int]) -> None:
    seen = set[int]()
    for node in nodes:
        if node in seen:
            raise BadScenario(f"device {node} is named twice")
        seen.add(node)
