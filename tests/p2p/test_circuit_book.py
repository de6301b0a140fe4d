"""What a relay carries, and what it refuses."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2p.circuit_book import CircuitBook, CircuitLimits, CircuitRefusal
from wire.ids import PeerId

PEERS = [PeerId(bytes([number]) * 32) for number in range(5)]
A, B, C, D, E = PEERS
LIMITS = CircuitLimits(circuits_max=4, circuits_per_device_max=3, circuits_per_pair_max=2)


def book(*carried: tuple[PeerId, PeerId]) -> CircuitBook:
    one = CircuitBook(limits=LIMITS)
    for source, target in carried:
        assert one.refusal(source, target, is_target_linked=True) is None
        one.begin(source, target)
    return one


def test_a_circuit_leads_to_another_device_that_is_linked() -> None:
    assert book().refusal(A, A, is_target_linked=True) is CircuitRefusal.TO_ITSELF
    assert book().refusal(A, B, is_target_linked=False) is CircuitRefusal.NOT_LINKED
    assert book().refusal(A, B, is_target_linked=True) is None


def test_the_bounds_are_of_a_pair_of_a_device_at_either_end_and_of_all() -> None:
    assert book((A, B), (B, A)).refusal(A, B, is_target_linked=True) is (
        CircuitRefusal.FULL_FOR_PAIR
    )
    crowded = book((A, B), (C, A), (A, D))
    for source, target in ((A, E), (E, A)):
        assert crowded.refusal(source, target, is_target_linked=True) is (
            CircuitRefusal.FULL_FOR_DEVICE
        )
    assert crowded.refusal(D, E, is_target_linked=True) is None
    full = book((A, B), (C, D), (A, C), (B, D))
    assert full.refusal(A, E, is_target_linked=True) is CircuitRefusal.FULL


@given(st.lists(st.tuples(st.sampled_from(PEERS), st.sampled_from(PEERS)), max_size=40))
def test_what_ended_counts_no_more_and_no_bound_is_exceeded(
    asked: list[tuple[PeerId, PeerId]],
) -> None:
    one, carried = CircuitBook(limits=LIMITS), []
    for number, (source, target) in enumerate(asked):
        if one.refusal(source, target, is_target_linked=True) is None:
            one.begin(source, target)
            carried.append((source, target))
        elif carried and number % 2:
            one.end(*carried.pop(0))
        assert len(one) == len(carried) <= LIMITS.circuits_max
        for peer in PEERS:
            count = sum(peer in pair for pair in carried)
            assert count <= LIMITS.circuits_per_device_max
    for pair in carried:
        one.end(*pair)
    assert one == CircuitBook(limits=LIMITS)
