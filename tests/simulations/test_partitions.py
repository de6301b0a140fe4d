"""The shapes of partitions are what their names say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.errors import BadScenario
from simulations.partitions import (
    NodePair,
    bridge,
    isolate,
    one_way,
    ring_of_majorities,
    split,
)

node_counts = st.integers(min_value=1, max_value=24)


@st.composite
def sides(draw: st.DrawFn, sides_count: int) -> tuple[int, list[list[int]]]:
    """Draw how many devices there are, and some of them on each of several sides."""
    node_count = draw(node_counts)
    side = draw(
        st.lists(
            st.integers(min_value=0, max_value=sides_count),
            min_size=node_count,
            max_size=node_count,
        )
    )
    order = draw(st.permutations(range(node_count)))
    return node_count, [[node for node in order if side[node] == one] for one in range(sides_count)]


def reached(cut: list[NodePair], node: int, node_count: int) -> set[int]:
    """Return whom a device reaches, itself included."""
    return set(range(node_count)) - {target for origin, target in cut if origin == node}


@given(sides(3))
def test_a_split_leaves_each_device_its_group_and_those_in_none_each_other(
    drawn: tuple[int, list[list[int]]],
) -> None:
    node_count, groups = drawn
    cut = split(groups, node_count)
    rest = set(range(node_count)).difference(*groups)
    for group in (*map(set, groups), rest):
        for node in group:
            assert reached(cut, node, node_count) == group
    assert len(set(cut)) == len(cut)


@given(node_counts, st.data())
def test_an_isolated_device_reaches_nobody_and_nobody_reaches_it(
    node_count: int, data: st.DataObject
) -> None:
    alone = data.draw(st.integers(min_value=0, max_value=node_count - 1))
    cut = isolate(alone, node_count)
    others = set(range(node_count)) - {alone}
    assert reached(cut, alone, node_count) == {alone}
    assert all(reached(cut, node, node_count) == others for node in others)


@given(sides(2), st.booleans())
def test_a_cut_one_way_lets_the_other_way_pass(
    drawn: tuple[int, list[list[int]]], overlaps: bool
) -> None:
    _, (origins, targets) = drawn
    if overlaps:
        targets = targets + origins
    cut = one_way(origins, targets)
    assert set(cut) == {(one, other) for one in origins for other in targets if one != other}
    assert len(set(cut)) == len(cut)


@given(sides(3))
def test_a_bridge_is_reached_from_both_sides_and_they_reach_nothing_else(
    drawn: tuple[int, list[list[int]]],
) -> None:
    node_count, (left, middle, right) = drawn
    cut = bridge(left, middle, right)
    everybody = set(range(node_count))
    for node in everybody:
        unreached = set(right if node in left else left if node in right else ())
        assert reached(cut, node, node_count) == everybody - unreached
    assert len(set(cut)) == len(cut)


@given(st.integers(min_value=4, max_value=40))
def test_on_a_ring_everybody_reaches_a_majority_and_no_two_the_same_one(node_count: int) -> None:
    cut = ring_of_majorities(node_count)
    majorities = [frozenset(reached(cut, node, node_count)) for node in range(node_count)]
    assert len(set(majorities)) == node_count
    for node, majority in enumerate(majorities):
        assert node_count < 2 * len(majority) <= node_count + 4
        distances = sorted(
            min((node - other) % node_count, (other - node) % node_count) for other in majority
        )
        assert distances[-1] == (len(majority) - 1) // 2  # its nearest neighbours
    assert {(target, origin) for origin, target in cut} == set(cut)
    assert len(set(cut)) == len(cut)


def test_a_ring_goes_through_devices_in_the_order_given_and_leaves_others_alone() -> None:
    cut = ring_of_majorities([3, 0, 4, 1, 2])
    assert reached(cut, 3, 6) == {2, 3, 0, 5}
    assert reached(cut, 5, 6) == set(range(6))


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (lambda: split([[0], [7]], 3), "there is no device 7: they are 0 to 2"),
        (lambda: split([[0, 1], [1]], 3), "device 1 is named twice"),
        (lambda: isolate(-1, 3), "there is no device -1: they are 0 to 2"),
        (lambda: bridge([0], [1], [1, 2]), "device 1 is named twice"),
        (lambda: ring_of_majorities(3), "a ring of majorities takes 4 devices, not 3"),
        (lambda: ring_of_majorities([0, 1, 2, 0]), "device 0 is named twice"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_with_the_reason(
    shape: Callable[[], list[NodePair]], reason: str
) -> None:
    with pytest.raises(BadScenario, match=f"^{reason}$"):
        shape()
