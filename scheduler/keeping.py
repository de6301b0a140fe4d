"""What a steward keeps of a batch on its disk, and how it lets go of it."""

from __future__ import annotations

from scheduler.batch import BATCH_ROW, DECISION_ROW, PROMISE_ROW, Batch, BatchRow, rank_of
from scheduler.paxos import Acceptor
from scheduler.stewardship import Stewardship
from wire.effects import Effect, Offer, Persist, Release, Row, Withdraw
from wire.tasks import Epoch


def kept_batch(row: BatchRow, office: Stewardship) -> Batch:
    """Return the batch of a row, as one of its stewards keeps it before anything is decided."""
    stewards = row.moves[-1].stewards if row.moves else row.contract.body.stewards
    batch = Batch(
        contract=row.contract,
        submitted_wall_us=row.submitted_wall_us,
        tasks=row.tasks,
        made_in=row.epoch,
        chains=row.chains,
        rank=rank_of(office.named, stewards),
        acceptor=Acceptor(promised=max(row.epoch, Epoch(len(row.moves), 0, 0))),
        joining=row.joining,
        moves=row.moves,
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
    rows = [Row(DECISION_ROW, key, None) for key in sorted(keys.union(batch.move_rows))]
    if len(batch.stewards) > 1:
        rows.append(Row(PROMISE_ROW, batch.batch, None))
    rows += batch.lease_history.erased(batch.batch)
    effects: list[Effect] = [Withdraw(provided_key(batch))] if batch.moves else []
    gone = Persist((Row(BATCH_ROW, batch.batch, None), *rows))
    return [*effects, gone, Release(batch.batch)]


def provided_key(batch: Batch) -> str:
    """Return the key under which those provide a batch in the DHT whom its ids do not name."""
    return f"batch:{batch.text}"
