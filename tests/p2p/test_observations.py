"""What is held of an observer's word: it grows, whatever order it came in."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.meshes import small_mesh
from support.records import directory_of, presence_of, record_of

from p2p.directory import Merge
from p2p.observations import Observed, observed_in
from telemetry.outcomes import Counts
from wire.errors import MalformedFrame
from wire.ids import PeerId
from wire.records import (
    OBSERVATIONS_MAX,
    RECORD_BYTES_MAX,
    Observation,
    Observations,
    RecordKind,
    decode_observations,
)
from wire.signed import encode_body

MESH = small_mesh(3)
OWN, PEER, THIRD = MESH.devices

subjects = st.sampled_from([PeerId(bytes([number]) * 32) for number in range(3)])
kinds = st.sampled_from(["any", "gpu"])
slots = st.tuples(subjects, kinds)
counts = st.builds(Counts, *[st.integers(0, 5)] * 3)
generations = st.tuples(st.integers(0, 2), st.integers(0, 1))
states = st.builds(Observed, generations, st.dictionaries(slots, counts, max_size=4))


@given(states, states)
def test_merging_is_commutative(one: Observed, other: Observed) -> None:
    assert one.joined(other) == other.joined(one)


@given(states, states, states)
def test_merging_is_associative(one: Observed, two: Observed, three: Observed) -> None:
    assert one.joined(two).joined(three) == one.joined(two.joined(three))


@given(states)
def test_merging_is_idempotent(one: Observed) -> None:
    assert one.joined(one) == one


@given(states, st.lists(states, max_size=5))
def test_a_count_never_falls_within_a_generation(one: Observed, heard: list[Observed]) -> None:
    held = one
    for told in heard:
        after = held.joined(told)
        assert after.generation >= held.generation
        if after.generation == held.generation:
            for slot, before in held.counts.items():
                assert before.beyond(after.counts[slot]) == Counts()
        held = after


def told(*places: tuple[PeerId, int], generation: int = 0) -> bytes:
    found = [Observation(subject, "any", count, 0, 0) for subject, count in sorted(places)]
    return encode_body(Observations(generation=generation, slots=tuple(found)))


def test_only_the_key_of_an_observer_writes_its_observations() -> None:
    directory = directory_of(MESH, OWN)
    directory.merge(presence_of(PEER), PEER.chain, now_us=0)
    body = told((OWN.peer, 9))
    forged = record_of(THIRD, RecordKind.OBSERVATIONS, body, owner=PEER.peer)
    assert directory.merge(forged, None, now_us=0) is Merge.MALFORMED
    member = directory.get(PEER.peer)
    assert member is not None
    assert member.observed is None
    signed = record_of(PEER, RecordKind.OBSERVATIONS, body)
    assert directory.merge(signed, None, now_us=0) is Merge.NEWER
    assert member.observed == observed_in(1, decode_observations(body))


def test_an_observer_that_counts_backwards_is_held_to_its_word_until_it_begins_anew() -> None:
    directory = directory_of(MESH, OWN)
    directory.merge(presence_of(PEER), PEER.chain, now_us=0)
    for version, body in (
        ((1, 2), told((OWN.peer, 9), (THIRD.peer, 2))),
        ((1, 3), told((OWN.peer, 3))),
    ):
        signed = record_of(PEER, RecordKind.OBSERVATIONS, body, version=version)
        assert directory.merge(signed, None, now_us=0) is Merge.NEWER
    member = directory.get(PEER.peer)
    assert member is not None
    assert member.observed is not None
    assert member.observed.counts[OWN.peer, "any"].valid_count == 9
    assert member.observed.counts[THIRD.peer, "any"].valid_count == 2
    anew = record_of(
        PEER, RecordKind.OBSERVATIONS, told((OWN.peer, 3), generation=1), version=(1, 4)
    )
    directory.merge(anew, None, now_us=0)
    assert {slot: one.valid_count for slot, one in member.observed.counts.items()} == {
        (OWN.peer, "any"): 3
    }


def raw(*slots: list[object]) -> bytes:
    return msgspec.msgpack.encode({"slots": slots})


@pytest.mark.parametrize(
    "body",
    [
        raw([OWN.peer, "any", 1, 0, 0], [OWN.peer, "any", 2, 0, 0]),
        raw([b"2" * 32, "any", 1, 0, 0], [b"1" * 32, "any", 2, 0, 0]),
        raw([OWN.peer, "any", -1, 0, 0]),
        raw([OWN.peer, "any", 1 << 53, 0, 0]),
        raw([OWN.peer, "a\x1b", 1, 0, 0]),
        raw(*([bytes([n]) * 32, "any", 1, 0, 0] for n in range(OBSERVATIONS_MAX + 1))),
    ],
    ids=["twice", "unordered", "negative", "too many", "hidden", "too long"],
)
def test_observations_of_no_sense_are_malformed(body: bytes) -> None:
    with pytest.raises(MalformedFrame):
        decode_observations(body)


def test_a_full_record_of_usual_kinds_fits() -> None:
    places = [(PeerId(bytes([n]) * 32), (1 << 53) - 1) for n in range(OBSERVATIONS_MAX)]
    assert len(told(*places)) < RECORD_BYTES_MAX
