"""Merkle trees: the shape of RFC 9162, every proof good, every change to one refused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from wire.ids import Digest
from wire.merkle import (
    PROOF_LENGTH_MAX,
    inclusion_proof,
    inclusion_proofs,
    leaf_hash,
    merkle_root,
    proves_inclusion,
)

COUNTS = range(1, 34)


def leaves_of(count: int) -> list[bytes]:
    return [f"leaf {number}".encode() for number in range(count)]


def rfc_root(leaves: Sequence[bytes]) -> bytes:
    """MTH(D) of RFC 9162, section 2.1.1, written from its text: k < n <= 2k, k a power of two."""
    if len(leaves) == 1:
        return blake3(b"\x00" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return blake3(b"\x01" + rfc_root(leaves[:k]) + rfc_root(leaves[k:])).digest()


def rfc_path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH(m, D) of RFC 9162, section 2.1.3.1, written from its text."""
    if len(leaves) == 1:
        return []
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if m < k:
        return [*rfc_path(m, leaves[:k]), rfc_root(leaves[k:])]
    return [*rfc_path(m - k, leaves[k:]), rfc_root(leaves[:k])]


@pytest.mark.parametrize("count", [*COUNTS, 1_000, 1_024])
def test_root_and_paths_are_those_of_the_rfc(count: int) -> None:
    leaves = leaves_of(count)
    assert merkle_root(leaves) == rfc_root(leaves)
    proofs = inclusion_proofs(leaves)
    assert len(proofs) == count
    for index in {0, 1, count // 2, count - 2, count - 1} & set(range(count)):
        assert list(proofs[index]) == rfc_path(index, leaves)
        assert inclusion_proof(leaves, index) == proofs[index]


@pytest.mark.parametrize("count", COUNTS)
def test_every_leaf_is_proven_at_its_own_place_and_no_other(count: int) -> None:
    leaves, root = leaves_of(count), merkle_root(leaves_of(count))
    for index, proof in enumerate(inclusion_proofs(leaves)):
        for place in range(count):
            is_proven = proves_inclusion(
                leaves[index], index=place, count=count, proof=proof, root=root
            )
            assert is_proven == (place == index)


@pytest.mark.parametrize("count", COUNTS)
def test_a_changed_leaf_path_or_root_is_refused(count: int) -> None:
    leaves, root = leaves_of(count), merkle_root(leaves_of(count))
    index = count // 2
    proof = inclusion_proof(leaves, index)

    def accepts(leaf: bytes, path: Sequence[Digest], wanted: Digest) -> bool:
        return proves_inclusion(leaf, index=index, count=count, proof=path, root=wanted)

    other = Digest(bytes(32))
    assert accepts(leaves[index], proof, root)
    assert not accepts(b"other", proof, root)
    assert not accepts(leaves[index], proof, other)
    assert not accepts(leaves[index], (*proof, other), root)
    for place in range(len(proof)):
        assert not accepts(leaves[index], proof[:place] + proof[place + 1 :], root)
        assert not accepts(leaves[index], (*proof[:place], other, *proof[place + 1 :]), root)
        swapped = (*proof[:place], *reversed(proof[place : place + 2]), *proof[place + 2 :])
        assert accepts(leaves[index], swapped, root) == (swapped == proof)


def test_an_inner_node_cannot_pass_for_a_leaf() -> None:
    leaves = leaves_of(4)
    left, right = leaf_hash(leaves[0]), leaf_hash(leaves[1])
    proof = (merkle_root(leaves[2:]),)
    assert not proves_inclusion(
        left + right, index=0, count=2, proof=proof, root=merkle_root(leaves)
    )


@pytest.mark.parametrize(("index", "count"), [(-1, 4), (4, 4), (0, 0), (1 << 40, 1 << 41)])
def test_an_index_outside_the_tree_is_refused(index: int, count: int) -> None:
    root = merkle_root(leaves_of(4))
    assert not proves_inclusion(b"leaf 0", index=index, count=count, proof=(), root=root)


def test_an_endless_proof_is_refused_unread() -> None:
    sibling, digest = Digest(bytes(32)), leaf_hash(b"leaf 0")
    for length in range(1, PROOF_LENGTH_MAX + 2):
        digest = Digest(blake3(b"\1" + digest + sibling).digest())
        proof = (sibling,) * length
        is_proven = proves_inclusion(
            b"leaf 0", index=0, count=1 << length, proof=proof, root=digest
        )
        assert is_proven == (length <= PROOF_LENGTH_MAX)


def test_a_tree_without_leaves_has_no_root() -> None:
    with pytest.raises(ValueError, match="no leaves"):
        merkle_root([])


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=70), st.data())
def test_any_leaves_are_proven(leaves: list[bytes], drawn: st.DataObject) -> None:
    index = drawn.draw(st.integers(0, len(leaves) - 1))
    proof = inclusion_proof(leaves, index)
    root = merkle_root(leaves)
    assert proves_inclusion(leaves[index], index=index, count=len(leaves), proof=proof, root=root)
