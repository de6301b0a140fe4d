"""Carries out `Execute` and `Fetch`: content comes here, is opened, run, sealed and checked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog
import trio

from meshd.batch_content import SealedOutput
from meshd.blobstore import BlobStore
from meshd.content import ContentGate
from meshd.errors import BlobError, BlobMissing
from p2p.blob_exchange import TransferStats
from p2p.errors import NetworkError
from p2p.protocol_errors import BlobMismatch
from sandbox.errors import JobFailed, ModuleMissing
from sandbox.job import Execution, Job
from sandbox.pool import Pool
from wire.blobs import BlobRef
from wire.content import Content
from wire.effects import Execute, Fetch, RunId
from wire.errors import CannotUnseal, MalformedFrame, MeshError
from wire.events import Event, Executed, ExecutionFailed, Fetched, FetchFailed, TransferMeasured
from wire.execution import ExecutionFailure
from wire.ids import Digest, PeerId

FETCH_S_MAX = 120.0
MODULES_NOTED_MAX = 4_096

log = structlog.get_logger()


class Fetcher(Protocol):
    """Brings blobs from other devices; `p2p.blob_exchange` has the real one."""

    async def fetch(self, ref: BlobRef, sources: Sequence[PeerId]) -> TransferStats:
        """Bring a blob into the store.

        Raises NetworkError naming what was tried, or what the store raised.
        """
        ...


class Contents:
    """Brings contents to this device and checks them."""

    def __init__(
        self,
        *,
        blobs: BlobStore,
        gate: ContentGate,
        fetcher: Fetcher,
        emit: Callable[[Event], Awaitable[None]],
    ) -> None:
        self._blobs = blobs
        self._gate = gate
        self._fetcher = fetcher
        self._emit = emit

    async def bring(self, content: Content, sources: Sequence[PeerId]) -> None:
        """Return when `content` is here. Raises what `bring_blob` raises."""
        if content.blob is not None:
            await self.bring_blob(content.blob, sources)

    async def bring_blob(self, ref: BlobRef, sources: Sequence[PeerId]) -> None:
        """Return when the blob is here.

        Raises NetworkError or BlobError, or MalformedFrame if its manifest is irregular.
        """
        if self._blobs.has(ref):
            return
        stats: TransferStats | None = None
        with trio.move_on_after(FETCH_S_MAX):
            stats = await self._fetcher.fetch(ref, sources)
        if stats is not None:
            for peer, transfer in stats.received.items():
                measured = TransferMeasured(peer, 0, transfer.received_bytes, transfer.duration_us)
                await self._emit(measured)
            return
        raise BlobMissing(f"a blob did not come within {FETCH_S_MAX:.0f} s")

    async def fetch(self, fetch: Fetch) -> None:
        """Carry out one `Fetch`."""
        try:
            await self.bring(fetch.content, fetch.sources)
            is_right = fetch.check is None or await self._gate.is_output(fetch.content, fetch.check)
        except MeshError as error:
            # A reference that is no blob's can be had from nobody: whoever signed it is to blame.
            is_wrong = isinstance(error, MalformedFrame | BlobMismatch)
            await self._emit(FetchFailed(fetch.token, str(error), is_wrong=is_wrong))
            return
        if is_right:
            await self._emit(Fetched(fetch.token))
        else:
            reason = "the output does not have the digest that its result names"
            await self._emit(FetchFailed(fetch.token, reason, is_wrong=True))


class Runs:
    """The programs that run here, each in its own cancel scope."""

    def __init__(
        self,
        *,
        pool: Pool,
        contents: Contents,
        gate: ContentGate,
        shelf: ModuleShelf,
        emit: Callable[[Event], Awaitable[None]],
    ) -> None:
        self._pool = pool
        self._shelf = shelf
        self._contents = contents
        self._gate = gate
        self._emit = emit
        self._scopes: dict[RunId, trio.CancelScope] = {}

    def begin(self, execute: Execute, nursery: trio.Nursery) -> None:
        """Start a run; its end comes as an event, unless it is killed."""
        scope = self._scopes[execute.run] = trio.CancelScope()
        nursery.start_soon(self._run, execute, scope)

    def kill(self, run: RunId) -> None:
        """Stop a run; one that is not there has ended."""
        scope = self._scopes.get(run)
        if scope is not None:
            scope.cancel()

    async def _run(self, execute: Execute, scope: trio.CancelScope) -> None:
        event: Event | None = None
        with scope:
            event = await self._outcome(execute)
        if self._scopes.get(execute.run) is scope:  # else it was killed and begun again meanwhile
            del self._scopes[execute.run]
        # A kill may come while a thread works, which does not notice: what ends then is killed too.
        if event is not None and not scope.cancel_called:
            await self._emit(event)

    async def _outcome(self, execute: Execute) -> Event:
        run = execute.run
        try:
            await self._contents.bring_blob(execute.module, execute.sources)
        except MeshError as error:
            return ExecutionFailed(run, ExecutionFailure.MODULE_MISSING, str(error))
        try:
            await self._contents.bring(execute.input, execute.sources)
            invocation = await self._gate.open_invocation(
                execute.input, box=execute.box, index=run.index
            )
        except (NetworkError, BlobMissing) as error:
            return ExecutionFailed(run, ExecutionFailure.INPUT_MISSING, str(error))
        except (BlobError, CannotUnseal, MalformedFrame) as error:
            return ExecutionFailed(run, ExecutionFailure.INPUT_UNREADABLE, str(error))
        job = Job(
            job_id=run.index,
            module=execute.module.digest,
            args=invocation.args,
            env=invocation.env,
            stdin=invocation.stdin,
            limits=execute.limits,
            seed=execute.seed,
        )
        self._shelf.note(execute.module)
        try:
            execution = await self._pool.execute(job)
            return await self._sealed(execute, execution)
        except JobFailed as failure:
            return ExecutionFailed(run, failure.reason, failure.detail)
        except (BlobError, CannotUnseal) as error:
            return ExecutionFailed(run, ExecutionFailure.WORKER_DIED, f"its output: {error}")

    async def _sealed(self, execute: Execute, execution: Execution) -> Event:
        sealed: SealedOutput = await self._gate.seal_output(
            box=execute.box,
            index=execute.run.index,
            stdout=execution.stdout,
            stderr=execution.stderr,
        )
        return Executed(
            run=execute.run,
            status=execution.status,
            exit_code=execution.exit_code,
            output=sealed.output,
            output_digest=sealed.output_digest,
            log=sealed.log,
            detail=execution.detail,
            fuel_used=execution.fuel_used,
            wall_us=execution.wall_us,
        )


class ModuleShelf:
    """Gives the pool a module's bytes by its digest: those of the runs that are under way."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._refs: dict[Digest, BlobRef] = {}

    def note(self, ref: BlobRef) -> None:
        """Remember how large the module is, which its digest alone does not tell."""
        self._refs.pop(ref.digest, None)  # so that the order is that of the last use
        if len(self._refs) >= MODULES_NOTED_MAX:
            del self._refs[next(iter(self._refs))]
        self._refs[ref.digest] = ref

    async def load(self, digest: Digest) -> bytes:
        """Return the module. Raises ModuleMissing."""
        ref = self._refs.get(digest)
        if ref is None:
            raise ModuleMissing("the module was forgotten meanwhile")
        try:
            return await trio.to_thread.run_sync(self._blobs.read, ref)
        except BlobError as error:
            raise ModuleMissing(str(error)) from error
