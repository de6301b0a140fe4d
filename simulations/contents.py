"""What a host does with content so that no core sees any: fetch, check, open, run, seal.

The same steps as the daemon takes, on simulated blobs and programs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from simulations.blobs import BlobStore, Transfers
from simulations.crypto import seal_repeatably
from simulations.engine import Action
from simulations.sandbox import Ended, Workers, drawn_speed_permille, foresee, program_of
from wire.blobs import BlobRef
from wire.content import (
    SEALED_EXTRA_BYTES,
    Content,
    digest_key,
    input_purpose,
    open_content,
    output_digest,
    output_purpose,
)
from wire.effects import Execute, Fetch, OutputCheck, RunId
from wire.errors import CannotUnseal
from wire.events import Event, Executed, ExecutionFailed, Fetched, FetchFailed
from wire.execution import ExecutionFailure
from wire.ids import PeerId
from wire.limits import INLINE_BYTES_MAX
from wire.signed import Signer


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What the work on content needs from its host."""

    index: int
    signer: Signer
    blobs: BlobStore
    transfers: Transfers
    workers: Workers
    seed: int
    speed_permille: int
    deliver: Callable[[Event], None]
    later: Callable[[int, Action], None]
    of_this_boot: Callable[[Action], Action]


class Contents:
    """Fetches and executions of one device."""

    def __init__(self, bench: Bench) -> None:
        self.slowdown = 1  # of the runs that begin from now on
        self._bench = bench
        self._active: dict[RunId, Execute] = {}

    def clear(self) -> None:
        """Forget what was under way: the process died."""
        self._active.clear()
        self._bench.workers.clear()

    def set_paused(self, is_paused: bool) -> None:
        """Let all programs stand still, or go on where they stood."""
        self._bench.workers.set_paused(is_paused)

    @property
    def active_count(self) -> int:
        """How many runs have been asked for and not ended."""
        return len(self._active)

    def fetch(self, wanted: Fetch) -> None:
        """Bring content here and check it. The node hears Fetched or FetchFailed."""

        def check(missing: str | None) -> None:
            self._bench.deliver(self._fetched(wanted, missing))

        self._bring(wanted.content, wanted.sources, check)

    def execute(self, wanted: Execute) -> None:
        """Fetch what is missing and run it. The node hears Executed or ExecutionFailed."""
        self.kill(wanted.run)  # of two runs with one id the later one counts
        self._active[wanted.run] = wanted
        module = Content(blob=wanted.module)
        self._bring(module, wanted.sources, partial(self._has_module, wanted))

    def kill(self, run: RunId) -> None:
        """Forget a run, wherever it is."""
        self._active.pop(run, None)
        self._bench.workers.kill(run)

    def _bring(
        self, content: Content, sources: Sequence[PeerId], done: Callable[[str | None], None]
    ) -> None:
        if content.blob is None:
            self._bench.later(0, partial(done, None))
            return
        missing: list[str | None] = []
        carry_on = self._bench.of_this_boot(lambda: done(missing[0]))

        def brought(reason: str | None) -> None:
            missing.append(reason)
            carry_on()

        self._bench.transfers.fetch(self._bench.signer.peer, content.blob, sources, brought)

    def _read(self, content: Content) -> bytes | None:
        if content.blob is not None:
            return self._bench.blobs.get(content.blob)
        return content.inline

    # Fetches.

    def _fetched(self, wanted: Fetch, missing: str | None) -> Event:
        sealed = self._read(wanted.content)
        if missing is not None or sealed is None:
            return FetchFailed(wanted.token, missing or "evicted meanwhile")
        if wanted.check is not None:
            wrong = self._wrong(sealed, wanted.check)
            if wrong is not None:
                return FetchFailed(wanted.token, wrong, is_wrong=True)
        return Fetched(wanted.token)

    def _wrong(self, sealed: bytes, check: OutputCheck) -> str | None:
        try:
            batch_key = self._bench.signer.unseal(check.box)
            purpose = output_purpose(check.index)
            output = open_content(sealed, batch_key=batch_key, purpose=purpose)
        except CannotUnseal as error:
            return str(error)
        is_right = output_digest(output, key=digest_key(batch_key)) == check.digest
        return None if is_right else "the output has another digest than its result says"

    # Executions.

    def _is_active(self, wanted: Execute) -> bool:
        return self._active.get(wanted.run) is wanted

    def _has_module(self, wanted: Execute, missing: str | None) -> None:
        if not self._is_active(wanted):
            return
        if missing is not None:
            self._fail(wanted, ExecutionFailure.MODULE_MISSING, missing)
        else:
            self._bring(wanted.input, wanted.sources, partial(self._has_input, wanted))

    def _has_input(self, wanted: Execute, missing: str | None) -> None:
        if not self._is_active(wanted):
            return
        module = self._bench.blobs.get(wanted.module)
        sealed = self._read(wanted.input)
        if missing is not None or sealed is None:
            self._fail(wanted, ExecutionFailure.INPUT_MISSING, missing or "evicted meanwhile")
        elif module is None:
            self._fail(wanted, ExecutionFailure.MODULE_MISSING, "evicted meanwhile")
        elif program_of(module) is None:
            self._fail(wanted, ExecutionFailure.NOT_WASM, "not a simulated module")
        else:
            self._open_and_start(wanted, module, sealed)

    def _open_and_start(self, wanted: Execute, module: bytes, sealed: bytes) -> None:
        index = wanted.run.index
        try:
            batch_key = self._bench.signer.unseal(wanted.box)
            purpose = input_purpose(index)
            plaintext = open_content(sealed, batch_key=batch_key, purpose=purpose)
        except CannotUnseal as error:
            self._fail(wanted, ExecutionFailure.INPUT_UNREADABLE, str(error))
            return
        drawn_permille = drawn_speed_permille(self._bench.seed, wanted.run, self._bench.index)
        ended = foresee(
            module,
            plaintext,
            index,
            wanted.limits,
            speed_permille=max(1, drawn_permille * self._bench.speed_permille // 1_000),
            slowdown=self.slowdown,
        )
        self._bench.workers.start(wanted.run, ended, partial(self._end, wanted, batch_key))

    def _end(self, wanted: Execute, batch_key: bytes, ended: Ended) -> None:
        del self._active[wanted.run]
        purpose = output_purpose(wanted.run.index)
        sealed = seal_repeatably(ended.output, batch_key=batch_key, purpose=purpose)
        executed = Executed(
            run=wanted.run,
            status=ended.status,
            exit_code=ended.exit_code,
            output=stored_content(self._bench.blobs, sealed),
            output_digest=output_digest(ended.output, key=digest_key(batch_key)),
            log=None,
            detail="",
            fuel_used=ended.fuel_used,
            wall_us=ended.wall_us,
        )
        self._bench.deliver(executed)

    def _fail(self, wanted: Execute, reason: ExecutionFailure, detail: str) -> None:
        del self._active[wanted.run]
        self._bench.deliver(ExecutionFailed(wanted.run, reason, detail))


def stored_content(blobs: BlobStore, sealed: bytes) -> Content:
    """Return sealed bytes as content: inline when short, else stored as a blob."""
    if len(sealed) <= INLINE_BYTES_MAX + SEALED_EXTRA_BYTES:
        return Content(inline=sealed)
    ref: BlobRef = blobs.put(sealed)
    return Content(blob=ref)
