"""Runs and fetches beside hostile members: whatever they give, it comes back as an event."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import trio
from support.memory_blobs import MemoryBlobs
from support.memory_host import MemoryNetwork
from support.meshes import keys_of, small_mesh
from support.tasks import contract_of, tasks_of

from meshd.blobstore import BlobStore
from meshd.content import ContentGate
from meshd.runs import Contents, ModuleShelf, Runs
from p2p.blob_exchange import BlobFetcher, BlobServer
from sandbox.job import Execution, Job
from sandbox.pool import Pool
from wire.blobs import BlobRef, blob_digest, manifest_of
from wire.content import Content
from wire.effects import Execute, Fetch, RunId
from wire.events import Event, Executed, ExecutionFailed, FetchFailed
from wire.execution import ExecutionFailure, ExecutionStatus
from wire.ids import Digest
from wire.limits import Limits
from wire.signed import encode_body
from wire.tasks import Epoch, batch_id_of

MESH = small_mesh(2)
OWN, GIVER = MESH.devices[0].peer, MESH.devices[1].peer
BATCH_KEY = b"k" * 32


class Liar(MemoryBlobs):
    """Gives manifests that mean the same to a lax reader and are no manifests to a strict one."""

    def read_manifest(self, ref: BlobRef) -> bytes:
        """Return the manifest with an element more, which older decoders would skip."""
        return irregular(super().read_manifest(BlobRef(self.true_of[ref.digest], ref.size_bytes)))

    true_of: dict[Digest, Digest] = {}  # noqa: RUF012 - one liar in this file


def irregular(manifest: bytes) -> bytes:
    return bytes([manifest[0] + 1]) + manifest[1:] + b"\xc0"


class StuckPool:
    """Runs nothing to an end; a job that is cancelled is told of."""

    def __init__(self) -> None:
        self.started: list[Job] = []
        self.ends = trio.Event()

    async def execute(self, job: Job) -> Execution:
        """Wait for `ends`."""
        self.started.append(job)
        await self.ends.wait()
        return Execution(status=ExecutionStatus.EXITED)


@dataclass
class Setting:
    """A device with a real store, linked to a liar, and the events it got."""

    contents: Contents
    runs: Runs
    pool: StuckPool
    blobs: BlobStore
    nursery: trio.Nursery
    liar: Liar
    events: list[Event] = field(default_factory=list)

    def lie(self, content: bytes) -> BlobRef:
        """Return a reference to `content` under an irregular manifest."""
        true = self.liar.put(content)
        digest = blob_digest(irregular(encode_body(manifest_of(content))))
        self.liar.true_of[digest] = true.digest
        return BlobRef(digest, len(content))

    def execute(self, module: BlobRef, attempt: int = 1) -> Execute:
        """Return the effect of a run whose input is good."""
        contract = contract_of(MESH, tasks_of(1))
        return Execute(
            run=RunId(batch_id_of(contract), 0, Epoch(0, 1, 0), attempt),
            module=module,
            input=tasks_of(1, batch_key=BATCH_KEY)[0].input,
            sources=(GIVER,),
            box=keys_of(0).seal(BATCH_KEY, OWN),
            limits=Limits(),
            seed=b"seed",
        )


@asynccontextmanager
async def setting(directory: Path) -> AsyncIterator[Setting]:
    network, liar = MemoryNetwork(latency_s=0), Liar()
    own, giver = network.host(OWN), network.host(GIVER)
    blobs = BlobStore(directory, 64 << 20)
    events: list[Event] = []

    async def emit(event: Event) -> None:
        await trio.lowlevel.checkpoint()
        events.append(event)

    gate, shelf, pool = ContentGate(keys_of(0), blobs), ModuleShelf(blobs), StuckPool()
    contents = Contents(blobs=blobs, gate=gate, fetcher=BlobFetcher(own, blobs), emit=emit)
    async with trio.open_nursery() as nursery:
        await nursery.start(own.run)
        await nursery.start(giver.run)
        await own.connect(GIVER, ["/ip4/192.0.2.1/tcp/1"])
        await giver.admit(OWN)
        BlobServer(giver, liar).serve()
        runs = Runs(pool=cast(Pool, pool), contents=contents, gate=gate, shelf=shelf, emit=emit)
        with trio.fail_after(20):
            yield Setting(contents, runs, pool, blobs, nursery, liar, events)
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - some of it happens in threads
        await trio.sleep(0.001)


async def test_an_output_under_an_irregular_manifest_is_a_wrong_output(tmp_path: Path) -> None:
    async with setting(tmp_path) as s:
        await s.contents.fetch(Fetch(Content(blob=s.lie(b"x" * 100)), (GIVER,), "token"))
        [failed] = s.events
        assert isinstance(failed, FetchFailed)
        assert failed.is_wrong


async def test_a_module_under_an_irregular_manifest_is_a_missing_module(tmp_path: Path) -> None:
    async with setting(tmp_path) as s:
        s.runs.begin(s.execute(s.lie(b"\0asm" * 9)), s.nursery)
        await until(lambda: bool(s.events))
        [failed] = s.events
        assert isinstance(failed, ExecutionFailed)
        assert failed.reason is ExecutionFailure.MODULE_MISSING


async def test_a_run_that_is_killed_and_begun_again_at_once_ends_once(tmp_path: Path) -> None:
    """A steward that ends a lease and grants the same again must not trip its executor."""
    async with setting(tmp_path) as s:
        execute = s.execute(s.blobs.put(b"\0asm, or so it says"))
        s.runs.begin(execute, s.nursery)
        await until(lambda: len(s.pool.started) == 1)
        s.runs.kill(execute.run)
        s.runs.begin(execute, s.nursery)
        await until(lambda: len(s.pool.started) == 2)
        s.pool.ends.set()
        await until(lambda: bool(s.events))
        [executed] = s.events
        assert isinstance(executed, Executed)
        s.runs.kill(execute.run)  # it is forgotten
