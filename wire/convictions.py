"""Proof that a device signed a wrong result, and an admin's word that it may work again.

The proof is what anybody can check: a contract, a result under its lease, and equal results of
three other devices that differ from it (docs/protocol/verification.md).
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from wire.ids import BatchId, MeshId, PeerId
from wire.membership import Chain
from wire.signed import Signed
from wire.tasks import CHAINS_MAX, Contract, Index, LeasedResult

CONVICTING_RESULTS = 3
CONVICTIONS_MAX = 256


class ConvictionRef(Struct, frozen=True, array_like=True, order=True):
    """Names a conviction: whose result of which task was wrong."""

    executor: PeerId
    batch: BatchId
    index: Index


class Conviction(Struct, frozen=True, kw_only=True):
    """A wrong result, and the right ones that show it."""

    contract: Signed[Contract]
    wrong: LeasedResult
    right: Annotated[
        tuple[LeasedResult, ...],
        Meta(min_length=CONVICTING_RESULTS, max_length=CONVICTING_RESULTS),
    ]
    chains: Annotated[tuple[Chain, ...], Meta(max_length=CHAINS_MAX)] = ()


class Pardon(Struct, frozen=True, kw_only=True):
    """A device may work again in spite of these convictions. Signed by an admin."""

    DOMAIN: ClassVar[bytes] = b"meshd/pardon/1"

    mesh: MeshId
    convictions: Annotated[
        tuple[ConvictionRef, ...], Meta(min_length=1, max_length=CONVICTIONS_MAX)
    ]
