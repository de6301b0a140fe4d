"""What passes the content gate, and what does not."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.answer_views import TASK, task_view
from support.control_node import KEYS, MODULE, MemoryBlobs
from support.tasks import BATCH_KEY, finished_task

from meshd.batch_content import LOG_BYTES_MAX, BatchContent
from meshd.content import ContentGate
from sandbox.errors import NotWasm
from scheduler.receipt import receipt_from_file, receipt_to_file
from wire.answers import ReceiptView, ResultView
from wire.content import SEALED_EXTRA_BYTES, Content, Invocation, digest_key, output_digest
from wire.effects import OutputCheck
from wire.errors import CannotUnseal, MalformedFrame
from wire.keys import Ed25519Keys, Ed25519Verifier
from wire.limits import INLINE_BYTES_MAX

BOX = KEYS.seal(BATCH_KEY, KEYS.peer)


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs()


@pytest.fixture
def gate(blobs: MemoryBlobs) -> ContentGate:
    return ContentGate(KEYS, blobs)


@given(
    st.binary(max_size=300),
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20), max_size=5
    ),
    st.integers(0, 1023),
)
def test_an_invocation_comes_out_as_it_went_in(stdin: bytes, args: list[str], index: int) -> None:
    batch = BatchContent(BATCH_KEY, MemoryBlobs())
    invocation = Invocation(args=tuple(args), env=(("A", "b"),), stdin=stdin)
    assert batch.open_invocation(index, batch.seal_invocation(index, invocation)) == invocation


def test_a_sealed_input_opens_only_as_the_input_of_its_own_task(blobs: MemoryBlobs) -> None:
    batch = BatchContent(BATCH_KEY, blobs)
    content = batch.seal_invocation(4, Invocation(stdin=b"for 4"))
    with pytest.raises(CannotUnseal):
        batch.open_invocation(5, content)
    with pytest.raises(CannotUnseal):
        batch.open_output(4, content)
    with pytest.raises(CannotUnseal):
        BatchContent(os.urandom(32), blobs).open_invocation(4, content)


def test_what_opens_but_is_no_invocation_is_malformed(blobs: MemoryBlobs) -> None:
    batch = BatchContent(BATCH_KEY, blobs)
    content = batch._seal(b"\xc1", b"meshd/input/1\0\0\0")
    with pytest.raises(MalformedFrame):
        batch.open_invocation(0, content)


@pytest.mark.parametrize(
    ("size_bytes", "is_blob"), [(0, False), (INLINE_BYTES_MAX, False), (INLINE_BYTES_MAX + 1, True)]
)
def test_long_contents_are_blobs_and_short_ones_travel_inline(
    blobs: MemoryBlobs, size_bytes: int, is_blob: bool
) -> None:
    stdout = os.urandom(size_bytes)
    sealed = BatchContent(BATCH_KEY, blobs).seal_output(0, stdout=stdout, stderr=b"")
    assert (sealed.output.blob is not None) is is_blob
    if sealed.output.inline is not None:
        assert len(sealed.output.inline) == size_bytes + SEALED_EXTRA_BYTES
    assert BatchContent(BATCH_KEY, blobs).open_output(0, sealed.output) == stdout


def test_the_end_of_standard_error_is_kept_and_none_of_an_empty_one(blobs: MemoryBlobs) -> None:
    batch = BatchContent(BATCH_KEY, blobs)
    assert batch.seal_output(0, stdout=b"", stderr=b"").log is None
    sealed = batch.seal_output(0, stdout=b"", stderr=b"x" * LOG_BYTES_MAX + b"the end")
    log = batch.open_log(0, sealed.log)
    assert (len(log), log[-7:]) == (LOG_BYTES_MAX, b"the end")


def test_equal_outputs_have_equal_digests_and_different_seals(blobs: MemoryBlobs) -> None:
    batch = BatchContent(BATCH_KEY, blobs)
    first, second = (batch.seal_output(0, stdout=b"same", stderr=b"") for _ in range(2))
    assert first.output != second.output
    assert first.output_digest == second.output_digest
    assert first.output_digest == output_digest(b"same", key=digest_key(BATCH_KEY))


async def test_a_bad_module_is_refused_and_not_kept(gate: ContentGate, blobs: MemoryBlobs) -> None:
    with pytest.raises(NotWasm):
        await gate.store_module(b"#!/bin/sh")
    assert blobs.stored == {}
    assert blobs.stored[await gate.store_module(MODULE)] == MODULE


async def test_every_batch_has_a_key_of_its_own(gate: ContentGate) -> None:
    boxes = [gate.new_batch().sealed_key for _ in range(2)]
    keys = {KEYS.unseal(box) for box in boxes}
    assert len(keys) == 2
    assert {len(key) for key in keys} == {32}


async def test_a_submitted_task_opens_for_an_executor_with_the_sealed_key(
    gate: ContentGate, blobs: MemoryBlobs
) -> None:
    batch = gate.new_batch()
    task = await batch.seal_task(7, Invocation(args=("x",), stdin=b"in"))
    executor = Ed25519Keys(bytes(range(1, 33)))
    box = executor.seal(KEYS.unseal(batch.sealed_key), executor.peer)
    theirs = ContentGate(executor, blobs)
    opened = await theirs.open_invocation(task.input, box=box, index=7)
    assert opened == Invocation(args=("x",), stdin=b"in")
    sealed = await theirs.seal_output(box=box, index=7, stdout=b"out", stderr=b"log")
    view = ResultView(
        task=task_view(), index=7, output=sealed.output, log=sealed.log, box=batch.sealed_key
    )
    output = await gate.open_result(view)
    assert (output.stdout, output.stderr) == (b"out", b"log")


async def test_a_box_for_another_device_or_of_another_length_is_refused(gate: ContentGate) -> None:
    other = Ed25519Keys(bytes(range(1, 33)))
    for box in (other.seal(BATCH_KEY, other.peer), KEYS.seal(b"short", KEYS.peer), bytes(80)):
        with pytest.raises(CannotUnseal):
            await gate.open_invocation(Content(inline=b""), box=box, index=0)


async def test_an_output_is_checked_against_its_digest(
    gate: ContentGate, blobs: MemoryBlobs
) -> None:
    batch = BatchContent(BATCH_KEY, blobs)
    sealed = batch.seal_output(2, stdout=b"out", stderr=b"")
    good = OutputCheck(box=BOX, index=2, digest=sealed.output_digest)
    assert await gate.is_output(sealed.output, good)
    other = batch.seal_output(2, stdout=b"lie", stderr=b"")
    assert not await gate.is_output(other.output, good)
    assert not await gate.is_output(Content(inline=b"garbage" * 9), good)
    elsewhere = OutputCheck(box=BOX, index=3, digest=sealed.output_digest)
    assert not await gate.is_output(sealed.output, elsewhere)


async def test_a_receipt_gets_its_digest_key_only_on_request(gate: ContentGate) -> None:
    receipt = receipt_to_file(finished_task().receipt(digest_key=None))
    assert await gate.finish_receipt(ReceiptView(task=TASK, receipt=receipt)) == receipt
    with_key = await gate.finish_receipt(ReceiptView(task=TASK, receipt=receipt, box=BOX))
    assert receipt_from_file(with_key, Ed25519Verifier()).digest_key == digest_key(BATCH_KEY)
