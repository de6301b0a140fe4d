"""Native code for modules, made at most once, in a process that may take only so much."""

from __future__ import annotations

import signal
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec
import trio

from sandbox.child import Child
from sandbox.errors import ChildBroken, JobFailed, ModuleMissing, UnusableCache
from sandbox.frames import Compile, Compiled, FromCompiler, Refused
from sandbox.native_cache import Draft, NativeCache
from wire.execution import ExecutionFailure
from wire.ids import Digest
from wire.limits import MIB

REMEMBERED_FAILURES_MAX = 256
_decoder = msgspec.msgpack.Decoder(FromCompiler)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompilerLimits:
    """What compiling one module may take. Generous: real modules of 4 MB take 5 s on a laptop.

    `wall_s` is for a device so busy that the CPU time never comes.
    """

    cpu_s: int = 60
    memory_bytes: int = 3072 * MIB
    wall_s: int = 240


@dataclass(slots=True)
class _Attempt:
    """A compilation that somebody drives and others may wait for."""

    done: trio.Event = field(default_factory=trio.Event)
    failure: JobFailed | None = None


@dataclass(slots=True)
class Compilation:
    """Sees to it that the cache holds what is to be run, one compiler process at a time."""

    cache: NativeCache
    load_module: Callable[[Digest], Awaitable[bytes]]
    limits: CompilerLimits
    _attempts: dict[Digest, _Attempt] = field(default_factory=dict)
    _failures: OrderedDict[Digest, Refused] = field(default_factory=OrderedDict)
    _turn: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(1))

    async def ensure(self, module: Digest) -> None:
        """Return once the cache has an entry for `module`. Raises JobFailed.

        Whoever comes first drives the compilation; if that caller is cancelled, another starts
        again. What a module itself is to blame for is remembered and not tried again.
        """
        while not self.cache.has(module):
            if (refused := self._failures.get(module)) is not None:
                raise JobFailed(refused.reason, refused.detail)
            attempt = self._attempts.get(module)
            if attempt is None:
                await self._drive(module)
                continue
            await attempt.done.wait()
            if attempt.failure is not None:
                raise JobFailed(attempt.failure.reason, attempt.failure.detail)

    async def _drive(self, module: Digest) -> None:
        attempt = self._attempts[module] = _Attempt()
        try:
            await self._compile(module)
        except JobFailed as failure:
            attempt.failure = failure
            raise
        finally:
            del self._attempts[module]
            attempt.done.set()

    async def _compile(self, module: Digest) -> None:
        try:
            source = await self.load_module(module)
            async with self._turn:
                with self.cache.draft() as draft:
                    await self._run_compiler(source, draft, module)
                    await trio.to_thread.run_sync(self.cache.put, draft, module)
        except ModuleMissing as error:
            raise JobFailed(ExecutionFailure.MODULE_MISSING, str(error)) from error
        except UnusableCache as error:
            raise JobFailed(ExecutionFailure.WORKER_DIED, str(error)) from error

    async def _run_compiler(self, source: bytes, draft: Draft, module: Digest) -> None:
        request = Compile(source, self.limits.cpu_s, self.limits.memory_bytes)
        try:
            compiler = Child("sandbox.compiler")
        except ChildBroken as error:
            raise JobFailed(ExecutionFailure.WORKER_DIED, str(error)) from error
        try:
            with trio.move_on_after(self.limits.wall_s) as patience:
                answer = await self._ask(compiler, request, draft)
        finally:
            words = await compiler.end()
        if patience.cancelled_caught:
            reason = f"compiling it took longer than {self.limits.wall_s} s on this device"
            raise JobFailed(ExecutionFailure.COMPILER_LIMIT, reason)
        match answer:
            case Compiled():
                return
            case Refused(reason, detail):
                self._remember(module, answer)
                raise JobFailed(reason, detail)
            case int():
                raise self._why_it_died(answer, words, module)

    async def _ask(self, compiler: Child, request: Compile, draft: Draft) -> FromCompiler | int:
        """Return the compiler's answer, or how it died."""
        try:
            await compiler.send(request, draft.descriptor)
            return await compiler.receive(_decoder)
        except ChildBroken:
            return await compiler.wait()

    def _why_it_died(self, status: int, words: str, module: Digest) -> JobFailed:
        detail = {
            -signal.SIGXCPU: f"compiling it takes more than {self.limits.cpu_s} s of CPU time",
            -signal.SIGABRT: f"compiling it takes more than {self.limits.memory_bytes} bytes",
        }.get(status)
        if detail is None:
            return JobFailed(
                ExecutionFailure.WORKER_DIED, f"the compiler ended with {status}: {words}"
            )
        self._remember(module, Refused(ExecutionFailure.COMPILER_LIMIT, detail))
        return JobFailed(ExecutionFailure.COMPILER_LIMIT, detail)

    def _remember(self, module: Digest, refused: Refused) -> None:
        self._failures[module] = refused
        while len(self._failures) > REMEMBERED_FAILURES_MAX:
            self._failures.popitem(last=False)
