"""What a steward keeps of a batch on its disk, and how it lets go of it."""

from __future__ import annotations

from scheduler.batch import BATCH_ROW, DECISION_ROW, PROMISE_ROW, Batch, BatchRow
from scheduler.paxos import Acceptor
from scheduler.stewardship import Stewardship
from wire.effects import Effect, Offer, Persist, Release, Row


def kept_batch(row: BatchRow, office: Stewardship) -> Batch:
    """Return the batch of a row, as one of its stewards keeps it before anything is decided."""
    stewards = row.contract.body.stewards
    batch = Batch(
        contract=row.contract,
        submitted_wall_us=row.submitted_wall_us,
        tasks=row.tasks,
        made_in=row.epoch,
        chains=row.chains,
        rank=stewards.index(office.named) if office.named in stewards else 0,
        acceptor=Acceptor(promised=row.epoch),
    )
    for task in batch.progress:
        task.reason = "another steward leads it"
    return batch


def offered_blobs(batch: Batch) -> list[Effect]:
    """Return the effects that keep a batch's module and inputs here for others."""
    blobs = [batch.contract.body.module]
    blobs += [task.input.blob for task in batch.tasks or () if task.input.blob is not None]
    return [Offer(blob, batch.batch) for blob in blobs]


def retired(office: Stewardship) -> list[Effect]:
    """Forget the batches that finished first, where more are kept than the ledger's bounds."""
    return [effect for batch in office.ledger.retire() for effect in forgotten_batch(batch)]


def forgotten_batch(batch: Batch) -> list[Effect]:
    """Forget what the disk keeps of a batch."""
    keys = {task.decided.row for task in batch.progress if task.decided is not None}
    rows = [Row(DECISION_ROW, key, None) for key in sorted(keys)]
    if len(batch.contract.body.stewards) > 1:
        rows.append(Row(PROMISE_ROW, batch.batch, None))
    rows += batch.lease_history.erased(batch.batch)
    return [Persist((Row(BATCH_ROW, batch.batch, None), *rows)), Release(batch.batch)]
