"""How people name tasks: by the whole id, or by the beginning of a batch's id and a number."""

from __future__ import annotations

from collections.abc import Mapping

from scheduler.batch import Batch
from wire.answers import RefusalCode, Refused
from wire.errors import MalformedId
from wire.ids import BATCH_TASKS_MAX, BatchId, task_id_from_text
from wire.text import visible

PREFIX_LETTERS_MIN = 4
REFERENCE_SHOWN_MAX = 80
_INDEX_DIGITS_MAX = len(str(BATCH_TASKS_MAX))

Place = tuple[Batch, int]


def resolve(batches: Mapping[BatchId, Batch], reference: str) -> Place | Refused:
    """Return the task that `reference` names, or why it names none."""
    try:
        task = task_id_from_text(reference)
    except MalformedId:
        return _resolve_prefix(batches, reference)
    batch = batches.get(task.batch)
    if batch is None or not batch.is_durable or task.index >= len(batch.progress):
        return _unknown(reference)
    return batch, task.index


def _resolve_prefix(batches: Mapping[BatchId, Batch], reference: str) -> Place | Refused:
    prefix, _, rest = reference.partition(".")
    index_text = rest.partition(".")[0]
    is_number = index_text.isascii() and index_text.isdecimal()
    if len(prefix) < PREFIX_LETTERS_MIN or (index_text and not is_number):
        return _unknown(reference)
    if len(index_text) > _INDEX_DIGITS_MAX:
        return _unknown(reference)
    matching = [
        batch for batch in batches.values() if batch.is_durable and batch.text.startswith(prefix)
    ]
    if not matching:
        return _unknown(reference)
    if len(matching) > 1:
        return _ambiguous(reference, sum(len(batch.progress) for batch in matching))
    batch = matching[0]
    if not index_text and len(batch.progress) > 1:
        return _ambiguous(reference, len(batch.progress))
    index = int(index_text or 0)
    return (batch, index) if index < len(batch.progress) else _unknown(reference)


def _unknown(reference: str) -> Refused:
    return Refused(
        code=RefusalCode.NOT_FOUND,
        message=f"unknown task {_shown(reference)}",
        hint="`meshctl tasks` lists those this device knows; of others the whole id is needed",
    )


def _ambiguous(reference: str, count: int) -> Refused:
    return Refused(
        code=RefusalCode.AMBIGUOUS,
        message=f"{_shown(reference)} may be any of {count} tasks",
        hint="give more of the id, or its number: ID.0, ID.1, ...",
    )


def _shown(reference: str) -> str:
    return repr(visible(reference[:REFERENCE_SHOWN_MAX]))
