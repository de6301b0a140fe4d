"""Makes a new batch of one whose stewards are gone: the only way on when a majority never returns.

The old batch may have an outcome that nobody can tell any more, so two results may exist. The new
contract names the old batch, under the same key: inputs need not be sealed again.
"""

from __future__ import annotations

from scheduler.batch import Batch
from wire.answers import RefusalCode, Refused
from wire.commands import Submit, Terms
from wire.ids import PeerId, peer_text
from wire.tasks import Durability

_OF_A_CONTRACT = frozenset(Terms.__struct_fields__) - {"durability"}


def resubmission(batch: Batch, own: PeerId, durability: Durability) -> Submit | Refused:
    """Return what submits all tasks of a stuck batch again, or why that is not done."""
    if batch.is_decided:
        return _refused("the task is decided", "`meshctl result` and `receipt` have it")
    if batch.stuck is None or batch.tasks is None:
        return _refused(
            "the task is not stuck: its stewards can decide it",
            "`meshctl why` says where it is, `meshctl cancel` ends it",
        )
    contract = batch.contract.body
    named = {steward.peer for stewards in batch.steward_sets for steward in stewards}
    readers = [key.recipient for key in contract.keys if key.recipient not in named]
    terms = {name: getattr(contract, name) for name in _OF_A_CONTRACT}
    return Submit(
        **terms,
        durability=durability,
        module=contract.module,
        tasks=batch.tasks,
        key=batch.own_key(own),
        readers=tuple(map(peer_text, readers)),
        resubmits=batch.batch,
    )


def _refused(message: str, hint: str) -> Refused:
    return Refused(code=RefusalCode.REFUSED, message=message, hint=hint)
