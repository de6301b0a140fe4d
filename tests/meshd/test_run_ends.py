"""How runs and fetches end: sealed outputs, each failure by its name, and kills at any moment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
import trio
from support.meshes import keys_of, small_mesh
from support.tasks import BATCH_KEY, contract_of, tasks_of
from support.wasm import example

from meshd import runs as runs_module
from meshd.batch_content import BatchContent, SealedOutput
from meshd.blobstore import BlobStore
from meshd.content import ContentGate
from meshd.errors import BlobBudgetExceeded
from meshd.runs import Contents, ModuleShelf, Runs
from p2p.blob_exchange import Transfer, TransferStats
from p2p.protocol_errors import BlobMismatch, BlobUnavailable
from sandbox.errors import JobFailed, ModuleMissing
from sandbox.job import Execution, Job
from sandbox.pool import Pool
from wire.blobs import BlobRef, blob_ref
from wire.content import Content, Invocation, digest_key, output_digest
from wire.effects import Execute, Fetch, OutputCheck, RunId
from wire.errors import MalformedFrame, MeshError
from wire.events import (
    Event,
    Executed,
    ExecutionFailed,
    Fetched,
    FetchFailed,
    TransferMeasured,
)
from wire.execution import ExecutionFailure, ExecutionStatus
from wire.ids import Digest, PeerId
from wire.limits import INLINE_BYTES_MAX, Limits
from wire.tasks import Epoch, batch_id_of

MESH = small_mesh(2)
OWN, GIVER = MESH.devices[0].peer, MESH.devices[1].peer
BOX = keys_of(0).seal(BATCH_KEY, OWN)
MODULE = b"\0asm, or so it says"
RUN = RunId(batch_id_of(contract_of(MESH, tasks_of(1))), 0, Epoch(0, 1, 0), 1)
GOOD = Execution(
    status=ExecutionStatus.EXITED,
    exit_code=3,
    stdout=b"out",
    stderr=b"log",
    fuel_used=5,
    wall_us=6,
    detail="fine",
)


class ScriptedPool:
    """Runs each job to the end that the test wants, once it `may_end`."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.end: Execution | JobFailed = GOOD
        self.may_end = trio.Event()
        self.may_end.set()

    async def execute(self, job: Job) -> Execution:
        """End as told."""
        self.jobs.append(job)
        await self.may_end.wait()
        if isinstance(self.end, JobFailed):
            raise self.end
        return self.end


class ScriptedFetcher:
    """Has some contents, and an error for the rest."""

    def __init__(self, blobs: BlobStore) -> None:
        self.blobs = blobs
        self.has: dict[Digest, bytes] = {}
        self.error: MeshError | None = None
        self.sources: Sequence[PeerId] = ()

    async def fetch(self, ref: BlobRef, sources: Sequence[PeerId]) -> TransferStats:
        """Put the blob into the store, or fail, or hang."""
        await trio.lowlevel.checkpoint()
        self.sources = sources
        if ref.digest in self.has:
            self.blobs.put(self.has[ref.digest])
            received = {GIVER: Transfer(ref.size_bytes, 250), OWN: Transfer(7, 9)}
            return TransferStats(received=received, dropped={}, resumed_count=0)
        if self.error is not None:
            raise self.error
        await trio.sleep_forever()
        raise AssertionError


class SlowGate(ContentGate):
    """A gate that tells when it seals, and seals when it may: in a thread, as the real one."""

    def __init__(self, blobs: BlobStore) -> None:
        super().__init__(keys_of(0), blobs)
        self.seals = trio.Event()
        self.may_seal = trio.Event()
        self.may_seal.set()
        self.is_full = False

    async def seal_output(
        self, *, box: bytes, index: int, stdout: bytes, stderr: bytes
    ) -> SealedOutput:
        """Seal when the test lets it; a cancel is not noticed meanwhile, as in a thread."""
        self.seals.set()
        with trio.CancelScope(shield=True):
            await self.may_seal.wait()
            if self.is_full:
                raise BlobBudgetExceeded("no room")
            sealed = await super().seal_output(box=box, index=index, stdout=stdout, stderr=stderr)
        return sealed  # noqa: RET504 - in the scope, mypy misses a return


@dataclass
class Setting:
    """The parts around runs, and the events that came of them."""

    blobs: BlobStore
    gate: SlowGate
    fetcher: ScriptedFetcher
    contents: Contents
    pool: ScriptedPool
    runs: Runs
    nursery: trio.Nursery
    events: list[Event] = field(default_factory=list)

    async def ended(self, execute: Execute) -> Event:
        """Run to the end and return its event."""
        self.runs.begin(execute, self.nursery)
        return await self.last_event()

    async def last_event(self) -> Event:
        """Wait for the one event of a run."""
        await until(lambda: bool(self.events))
        await self.at_rest()
        [event] = (one for one in self.events if not isinstance(one, TransferMeasured))
        return event

    async def at_rest(self) -> None:
        """Wait until no run is left."""
        await until(lambda: not self.nursery.child_tasks)


@asynccontextmanager
async def setting(directory: Path, pool: Pool | None = None) -> AsyncIterator[Setting]:
    blobs = BlobStore(directory / "blobs", 64 << 20)
    gate, fetcher, scripted = SlowGate(blobs), ScriptedFetcher(blobs), ScriptedPool()
    shelf = ModuleShelf(blobs)
    events: list[Event] = []

    async def emit(event: Event) -> None:
        await trio.lowlevel.checkpoint()
        events.append(event)

    contents = Contents(blobs=blobs, gate=gate, fetcher=fetcher, emit=emit)
    runs = Runs(
        pool=pool or cast(Pool, scripted), contents=contents, gate=gate, shelf=shelf, emit=emit
    )
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            yield Setting(blobs, gate, fetcher, contents, scripted, runs, nursery, events)
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - some of it happens in threads
        await trio.sleep(0.001)


def execute_of(s: Setting, **changes: object) -> Execute:
    """Return a run whose module is here and whose input is good."""
    fields: dict[str, object] = {
        "run": RUN,
        "module": s.blobs.put(MODULE),
        "input": tasks_of(1)[0].input,
        "sources": (GIVER,),
        "box": BOX,
        "limits": Limits(),
        "seed": b"seed",
    }
    return Execute(**{**fields, **changes})  # type: ignore[arg-type]  # the fields of a test


def nowhere(size_bytes: int = 100) -> BlobRef:
    return blob_ref(b"?" * size_bytes)


# --- runs -----------------------------------------------------------------------------------


async def test_an_output_comes_back_sealed_with_the_digest_of_what_was_put_out(
    tmp_path: Path,
) -> None:
    async with setting(tmp_path) as s:
        executed = await s.ended(execute_of(s))
        assert isinstance(executed, Executed)
        batch = BatchContent(BATCH_KEY, s.blobs)
        assert batch.open_output(0, executed.output) == b"out"
        assert batch.open_log(0, executed.log) == b"log"
        assert executed.output_digest == output_digest(b"out", key=digest_key(BATCH_KEY))
        assert (executed.run, executed.status, executed.exit_code) == (RUN, GOOD.status, 3)
        assert (executed.fuel_used, executed.wall_us, executed.detail) == (5, 6, "fine")
        [job] = s.pool.jobs
        assert (job.args, job.seed, job.module) == (("0",), b"seed", blob_ref(MODULE).digest)


async def test_content_that_is_elsewhere_is_brought_and_its_transfer_measured(
    tmp_path: Path,
) -> None:
    async with setting(tmp_path) as s:
        s.fetcher.has = {blob_ref(b"elsewhere").digest: b"elsewhere"}
        executed = await s.ended(execute_of(s, module=blob_ref(b"elsewhere")))
        assert isinstance(executed, Executed)
        assert [event for event in s.events if isinstance(event, TransferMeasured)] == [
            TransferMeasured(GIVER, 0, 9, 250),
            TransferMeasured(OWN, 0, 7, 9),
        ]
        assert s.fetcher.sources == (GIVER,)


def module_elsewhere(s: Setting, error: MeshError) -> Execute:
    s.fetcher.error = error
    return execute_of(s, module=nowhere())


def input_elsewhere(s: Setting, error: MeshError) -> Execute:
    s.fetcher.error = error
    return execute_of(s, input=Content(blob=nowhere()))


def long_input_lost(s: Setting) -> Execute:
    """The input is known to be here, but its file is gone."""
    batch = BatchContent(BATCH_KEY, s.blobs)
    content = batch.seal_invocation(0, Invocation(stdin=b"x" * 2 * INLINE_BYTES_MAX))
    for file in s.blobs.directory.iterdir():
        file.unlink()
    return execute_of(s, input=content)


def no_invocation(s: Setting) -> Execute:
    batch = BatchContent(BATCH_KEY, s.blobs)
    return execute_of(s, input=batch._seal(b"\xc1", b"meshd/input/1\0\0\0"))


CONTENT_FAILURES: dict[str, tuple[Callable[[Setting], Execute], ExecutionFailure]] = {
    "module at nobody": (
        lambda s: module_elsewhere(s, BlobUnavailable("nobody has it")),
        ExecutionFailure.MODULE_MISSING,
    ),
    "module does not fit": (
        lambda s: module_elsewhere(s, BlobBudgetExceeded("no room")),
        ExecutionFailure.MODULE_MISSING,
    ),
    "module with a bad manifest": (
        lambda s: module_elsewhere(s, MalformedFrame("bad")),
        ExecutionFailure.MODULE_MISSING,
    ),
    "input at nobody": (
        lambda s: input_elsewhere(s, BlobUnavailable("nobody has it")),
        ExecutionFailure.INPUT_MISSING,
    ),
    "input lost on the disk": (long_input_lost, ExecutionFailure.INPUT_MISSING),
    "input does not fit": (
        lambda s: input_elsewhere(s, BlobBudgetExceeded("no room")),
        ExecutionFailure.INPUT_UNREADABLE,
    ),
    "input with a bad manifest": (
        lambda s: input_elsewhere(s, MalformedFrame("bad")),
        ExecutionFailure.INPUT_UNREADABLE,
    ),
    "input of another task": (
        lambda s: execute_of(s, input=tasks_of(2)[1].input),
        ExecutionFailure.INPUT_UNREADABLE,
    ),
    "box for another device": (
        lambda s: execute_of(s, box=keys_of(1).seal(BATCH_KEY, GIVER)),
        ExecutionFailure.INPUT_UNREADABLE,
    ),
    "input is no invocation": (no_invocation, ExecutionFailure.INPUT_UNREADABLE),
}


@pytest.mark.parametrize("name", CONTENT_FAILURES)
async def test_each_failure_of_content_has_its_name_and_the_program_is_not_started(
    tmp_path: Path, name: str
) -> None:
    async with setting(tmp_path) as s:
        make, reason = CONTENT_FAILURES[name]
        failed = await s.ended(make(s))
        assert isinstance(failed, ExecutionFailed)
        assert (failed.run, failed.reason) == (RUN, reason)
        assert failed.detail
        assert s.pool.jobs == []
        assert not s.runs._scopes


@pytest.mark.parametrize("reason", ExecutionFailure)
async def test_a_failure_of_the_sandbox_keeps_its_name(
    tmp_path: Path, reason: ExecutionFailure
) -> None:
    async with setting(tmp_path) as s:
        s.pool.end = JobFailed(reason, "why")
        assert await s.ended(execute_of(s)) == ExecutionFailed(RUN, reason, "why")


async def test_an_output_that_cannot_be_kept_is_the_devices_failure(tmp_path: Path) -> None:
    async with setting(tmp_path) as s:
        s.gate.is_full = True
        failed = await s.ended(execute_of(s))
        assert isinstance(failed, ExecutionFailed)
        assert failed.reason.is_of_device
        assert "no room" in failed.detail


async def test_content_that_never_comes_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "FETCH_S_MAX", 0.02)
    async with setting(tmp_path) as s:
        failed = await s.ended(execute_of(s, input=Content(blob=nowhere())))
        assert isinstance(failed, ExecutionFailed)
        assert failed.reason is ExecutionFailure.INPUT_MISSING


# --- kills ----------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["at once", "fetching", "running", "sealing"])
async def test_a_killed_run_is_forgotten_whenever_it_is_killed(tmp_path: Path, moment: str) -> None:
    async with setting(tmp_path) as s:
        execute = execute_of(s)
        if moment == "fetching":
            execute = execute_of(s, module=nowhere())
        elif moment == "running":
            s.pool.may_end = trio.Event()
        elif moment == "sealing":
            s.gate.may_seal = trio.Event()
        s.runs.begin(execute, s.nursery)
        if moment == "fetching":
            await until(lambda: bool(s.fetcher.sources))
        elif moment == "running":
            await until(lambda: bool(s.pool.jobs))
        elif moment == "sealing":
            await s.gate.seals.wait()
        s.runs.kill(RUN)
        s.gate.may_seal.set()
        await s.at_rest()
        assert s.events == []
        assert not s.runs._scopes


async def test_a_run_killed_while_it_is_sealed_and_begun_again_ends_once(tmp_path: Path) -> None:
    async with setting(tmp_path) as s:
        s.gate.may_seal = trio.Event()
        s.runs.begin(execute_of(s), s.nursery)
        await s.gate.seals.wait()
        s.runs.kill(RUN)
        s.runs.begin(execute_of(s), s.nursery)
        s.gate.may_seal.set()
        assert isinstance(await s.last_event(), Executed)


async def test_a_kill_before_the_beginning_or_after_the_end_does_nothing(tmp_path: Path) -> None:
    async with setting(tmp_path) as s:
        s.runs.kill(RUN)
        assert isinstance(await s.ended(execute_of(s)), Executed)
        s.runs.kill(RUN)
        assert len(s.events) == 1


async def test_a_kill_ends_no_other_run(tmp_path: Path) -> None:
    async with setting(tmp_path) as s:
        s.pool.may_end = trio.Event()
        other = RunId(RUN.batch, RUN.index, RUN.epoch, 2)
        s.runs.begin(execute_of(s), s.nursery)
        s.runs.begin(execute_of(s, run=other), s.nursery)
        await until(lambda: len(s.pool.jobs) == 2)
        s.runs.kill(RUN)
        s.pool.may_end.set()
        executed = await s.last_event()
        assert isinstance(executed, Executed)
        assert executed.run == other


async def test_a_program_really_runs_between_a_sealed_input_and_a_sealed_output(
    tmp_path: Path,
) -> None:
    blobs = BlobStore(tmp_path / "blobs", 64 << 20)
    shelf = ModuleShelf(blobs)
    pool = Pool(
        worker_count=1,
        cache_directory=tmp_path / "cache",
        cache_bytes_max=64 << 20,
        load_module=shelf.load,
    )
    events: list[Event] = []

    async def emit(event: Event) -> None:
        await trio.lowlevel.checkpoint()
        events.append(event)

    gate = ContentGate(keys_of(0), blobs)
    contents = Contents(blobs=blobs, gate=gate, fetcher=ScriptedFetcher(blobs), emit=emit)
    runs = Runs(pool=pool, contents=contents, gate=gate, shelf=shelf, emit=emit)
    batch = BatchContent(BATCH_KEY, blobs)
    execute = Execute(
        run=RUN,
        module=blobs.put(example("wordcount/wordcount")),
        input=batch.seal_invocation(0, Invocation(stdin=b"three small words\n")),
        sources=(),
        box=BOX,
        limits=Limits(),
        seed=b"seed",
    )
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.run)
            runs.begin(execute, nursery)
            await until(lambda: bool(events))
            nursery.cancel_scope.cancel()
    [executed] = events
    assert isinstance(executed, Executed)
    assert (executed.status, executed.exit_code) == (ExecutionStatus.EXITED, 0)
    assert b"3" in batch.open_output(0, executed.output)
    assert executed.fuel_used > 0


# --- fetches --------------------------------------------------------------------------------


def output_of(s: Setting, stdout: bytes = b"y" * 2 * INLINE_BYTES_MAX) -> SealedOutput:
    return BatchContent(BATCH_KEY, s.blobs).seal_output(0, stdout=stdout, stderr=b"")


async def test_an_output_with_the_right_digest_is_fetched(tmp_path: Path) -> None:
    async with setting(tmp_path) as s:
        for stdout in (b"short", b"y" * 2 * INLINE_BYTES_MAX):
            sealed = output_of(s, stdout)
            check = OutputCheck(BOX, 0, sealed.output_digest)
            await s.contents.fetch(Fetch(sealed.output, (), "token", check))
        assert s.events == [Fetched("token"), Fetched("token")]


async def test_an_output_with_another_digest_is_wrong(tmp_path: Path) -> None:
    async with setting(tmp_path) as s:
        digest = output_digest(b"another", key=digest_key(BATCH_KEY))
        await s.contents.fetch(Fetch(output_of(s).output, (), "token", OutputCheck(BOX, 0, digest)))
        [failed] = s.events
        assert isinstance(failed, FetchFailed)
        assert (failed.token, failed.is_wrong) == ("token", True)


@pytest.mark.parametrize(
    ("error", "is_wrong"),
    [
        (BlobUnavailable("nobody has it"), False),
        (BlobBudgetExceeded("no room"), False),
        (BlobMismatch("the manifest says another size"), True),
        (MalformedFrame("an irregular manifest"), True),
    ],
)
async def test_only_a_reference_that_is_wrong_is_blamed_on_its_signer(
    tmp_path: Path, error: MeshError, is_wrong: bool
) -> None:
    async with setting(tmp_path) as s:
        s.fetcher.error = error
        await s.contents.fetch(Fetch(Content(blob=nowhere()), (GIVER,), "token"))
        assert s.events == [FetchFailed("token", str(error), is_wrong)]


async def test_what_is_here_is_not_fetched_and_what_is_inline_neither(tmp_path: Path) -> None:
    async with setting(tmp_path) as s:
        s.fetcher.error = BlobUnavailable("nobody has it")
        here = Content(blob=s.blobs.put(b"here"))
        for content in (here, Content(inline=b"inline")):
            await s.contents.fetch(Fetch(content, (), "token"))
        assert s.events == [Fetched("token")] * 2


async def test_a_box_that_does_not_open_fails_the_check_and_blames_nobody(tmp_path: Path) -> None:
    async with setting(tmp_path) as s:
        sealed = output_of(s)
        box = keys_of(1).seal(BATCH_KEY, GIVER)
        await s.contents.fetch(
            Fetch(sealed.output, (), "token", OutputCheck(box, 0, sealed.output_digest))
        )
        [failed] = s.events
        assert isinstance(failed, FetchFailed)
        assert not failed.is_wrong


# --- the shelf ------------------------------------------------------------------------------


async def test_the_shelf_gives_what_was_noted_and_is_there(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path, 1 << 20)
    shelf, ref = ModuleShelf(blobs), blobs.put(MODULE)
    with pytest.raises(ModuleMissing):
        await shelf.load(ref.digest)
    shelf.note(ref)
    assert await shelf.load(ref.digest) == MODULE
    shelf.note(nowhere())
    with pytest.raises(ModuleMissing):
        await shelf.load(nowhere().digest)


async def test_the_shelf_forgets_the_one_used_longest_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "MODULES_NOTED_MAX", 2)
    blobs = BlobStore(tmp_path, 1 << 20)
    shelf = ModuleShelf(blobs)
    first, second, third = (blobs.put(bytes([number]) * 9) for number in range(3))
    for ref in (first, second, second):
        shelf.note(ref)
    assert await shelf.load(first.digest) == bytes([0]) * 9  # what is noted again takes no room
    for ref in (first, third):
        shelf.note(ref)
    with pytest.raises(ModuleMissing):
        await shelf.load(second.digest)
    assert await shelf.load(first.digest) == bytes([0]) * 9
    assert await shelf.load(third.digest) == bytes([2]) * 9
