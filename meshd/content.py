"""The gate that content passes: into sealed batches, out of them again, never through a core.

A batch key is made here, leaves only in boxes sealed to a device, and is opened from such a box.
Cryptography and the disk run in threads, at most as many as there are cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol, TypeVar

import trio
from msgspec import Struct

from meshd.batch_content import BatchContent, Blobs, SealedOutput
from sandbox.precheck import check_module
from scheduler.receipt import receipt_from_file, receipt_to_file, with_digest_key
from wire.answers import ReceiptView, ResultView
from wire.blobs import BlobRef
from wire.content import BATCH_KEY_BYTES, Content, Invocation
from wire.effects import OutputCheck
from wire.errors import CannotUnseal
from wire.ids import PeerId
from wire.keys import Ed25519Verifier
from wire.tasks import Task

_Value = TypeVar("_Value")


class SealingKeys(Protocol):
    """The part of a device's keys that opens and makes boxes."""

    @property
    def peer(self) -> PeerId:
        """The device itself."""
        ...

    def seal(self, secret: bytes, recipient: PeerId) -> bytes:
        """Return `secret` in a box that only `recipient` can open."""
        ...

    def unseal(self, box: bytes) -> bytes:
        """Return the secret in a box sealed to this device. Raises CannotUnseal."""
        ...


class Output(Struct, frozen=True, kw_only=True):
    """What a program put out, opened."""

    stdout: bytes
    stderr: bytes  # the end of it


class ContentGate:
    """Opens and seals content with the device's `keys`, and keeps what is long in `blobs`."""

    def __init__(self, keys: SealingKeys, blobs: Blobs) -> None:
        self._keys = keys
        self._blobs = blobs
        self._threads = trio.CapacityLimiter(os.cpu_count() or 1)
        self._verifier = Ed25519Verifier()

    async def store_module(self, module: bytes) -> BlobRef:
        """Check and keep a module. Raises UnsupportedModule or BlobError."""

        def check_and_put() -> BlobRef:
            check_module(module)
            return self._blobs.put(module)

        return await self._in_thread(check_and_put)

    def new_batch(self) -> BatchDraft:
        """Return a batch with a fresh key and no tasks yet."""
        key = os.urandom(BATCH_KEY_BYTES)
        sealed_key = self._keys.seal(key, self._keys.peer)
        return BatchDraft(BatchContent(key, self._blobs), sealed_key, self._in_thread)

    async def open_result(self, view: ResultView) -> Output:
        """Return what a task put out. Raises BlobMissing or CannotUnseal."""

        def open_both() -> Output:
            batch = self._batch_of(view.box)
            return Output(
                stdout=batch.open_output(view.index, view.output),
                stderr=batch.open_log(view.index, view.log),
            )

        return await self._in_thread(open_both)

    async def finish_receipt(self, view: ReceiptView) -> bytes:
        """Return the file of a receipt, with its digest key if the view has the box for it.

        Raises CannotUnseal or MalformedFrame.
        """
        box = view.box
        if box is None:
            return view.receipt

        def add_digest_key() -> bytes:
            receipt = receipt_from_file(view.receipt, self._verifier)
            return receipt_to_file(with_digest_key(receipt, self._batch_of(box).digest_key))

        return await self._in_thread(add_digest_key)

    async def open_invocation(self, content: Content, *, box: bytes, index: int) -> Invocation:
        """Return what task `index` is started with; `box` is the batch key, sealed to this device.

        Raises BlobMissing, CannotUnseal or MalformedFrame.
        """
        return await self._in_thread(lambda: self._batch_of(box).open_invocation(index, content))

    async def seal_output(
        self, *, box: bytes, index: int, stdout: bytes, stderr: bytes
    ) -> SealedOutput:
        """Return what task `index` put out, sealed under the key in `box`.

        Raises CannotUnseal or BlobError.
        """
        return await self._in_thread(
            lambda: self._batch_of(box).seal_output(index, stdout=stdout, stderr=stderr)
        )

    async def is_output(self, output: Content, check: OutputCheck) -> bool:
        """Say whether `output` is what its result claims.

        A content that does not open is not. Raises BlobMissing if it is not here.
        """

        def compare() -> bool:
            batch = self._batch_of(check.box)
            try:
                return batch.is_output(check.index, output, check.digest)
            except CannotUnseal:
                return False

        return await self._in_thread(compare)

    def _batch_of(self, box: bytes) -> BatchContent:
        key = self._keys.unseal(box)
        if len(key) != BATCH_KEY_BYTES:
            raise CannotUnseal("the box does not hold a batch key")
        return BatchContent(key, self._blobs)

    async def _in_thread(self, work: Callable[[], _Value]) -> _Value:
        return await trio.to_thread.run_sync(work, limiter=self._threads)


class BatchDraft:
    """A batch whose tasks are being sealed one after another."""

    def __init__(self, content: BatchContent, sealed_key: bytes, in_thread: _InThread) -> None:
        self._content = content
        self._in_thread = in_thread
        self.sealed_key = sealed_key

    async def seal_task(self, index: int, invocation: Invocation) -> Task:
        """Return task `index` with its sealed input. Raises BlobError."""
        content = await self._in_thread(lambda: self._content.seal_invocation(index, invocation))
        return Task(index=index, input=content)


class _InThread(Protocol):
    async def __call__(self, work: Callable[[], _Value]) -> _Value: ...
