"""Merkle trees of RFC 9162, section 2.1, over BLAKE3: one signature for a batch of items.

Leaves and inner nodes are hashed under different prefixes, so neither can pass for the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from blake3 import blake3

from wire.ids import Digest

PROOF_LENGTH_MAX = 16

_LEAF = b"\0"
_NODE = b"\1"


def leaf_hash(leaf: bytes) -> Digest:
    """Return the hash of one leaf."""
    return Digest(blake3(_LEAF + leaf).digest())


def merkle_root(leaves: Sequence[bytes]) -> Digest:
    """Return the root over `leaves`. Raises ValueError if there is none."""
    if not leaves:
        raise ValueError("a tree of no leaves has no root here")
    return _root([leaf_hash(leaf) for leaf in leaves])


def inclusion_proof(leaves: Sequence[bytes], index: int) -> tuple[Digest, ...]:
    """Return the audit path of leaf `index`, nearest sibling first (RFC 9162, section 2.1.3.1)."""
    return tuple(_path([leaf_hash(leaf) for leaf in leaves], index))


def inclusion_proofs(leaves: Sequence[bytes]) -> tuple[tuple[Digest, ...], ...]:
    """Return the audit path of every leaf; each node is hashed once for all of them."""
    _, paths = _all_paths([leaf_hash(leaf) for leaf in leaves])
    return tuple(tuple(path) for path in paths)


def proves_inclusion(
    leaf: bytes, *, index: int, count: int, proof: Sequence[Digest], root: Digest
) -> bool:
    """Say whether `proof` places `leaf` at `index` of `count` under `root` (section 2.1.3.2)."""
    if not 0 <= index < count or len(proof) > PROOF_LENGTH_MAX:
        return False
    position, last, digest = index, count - 1, leaf_hash(leaf)
    for sibling in proof:
        if last == 0:
            return False
        if position & 1 or position == last:
            digest = _node(sibling, digest)
            while not (position & 1 or position == 0):
                position, last = position >> 1, last >> 1
        else:
            digest = _node(digest, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and digest == root


def _node(left: Digest, right: Digest) -> Digest:
    return Digest(blake3(_NODE + left + right).digest())


def _root(hashes: list[Digest]) -> Digest:
    if len(hashes) == 1:
        return hashes[0]
    split = _split(len(hashes))
    return _node(_root(hashes[:split]), _root(hashes[split:]))


def _path(hashes: list[Digest], index: int) -> list[Digest]:
    if len(hashes) == 1:
        return []
    split = _split(len(hashes))
    if index < split:
        return [*_path(hashes[:split], index), _root(hashes[split:])]
    return [*_path(hashes[split:], index - split), _root(hashes[:split])]


def _all_paths(hashes: list[Digest]) -> tuple[Digest, list[list[Digest]]]:
    if len(hashes) == 1:
        return hashes[0], [[]]
    split = _split(len(hashes))
    left, left_paths = _all_paths(hashes[:split])
    right, right_paths = _all_paths(hashes[split:])
    for path in left_paths:
        path.append(right)
    for path in right_paths:
        path.append(left)
    return _node(left, right), left_paths + right_paths


def _split(count: int) -> int:
    return 1 << ((count - 1).bit_length() - 1)
