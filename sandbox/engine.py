"""wasmtime, set up so that the same program does the same on every device.

Everything the specification leaves open is pinned: NaNs are canonical, the proposals that bring
threads, hardware-dependent results or a second kind of memory are off, the stack has a fixed size,
and fuel, not time, interrupts. Only worker and compiler processes import this module.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable
from dataclasses import dataclass

import wasmtime

from sandbox.errors import ChildBroken, JobFailed, UnsupportedModule, UnusableNativeCode
from sandbox.job import Execution, Job
from sandbox.linear_memory import MemoryBudget, MemoryKeeper
from sandbox.profile import ENGINE_PROFILE, WASMTIME_VERSION
from sandbox.wasi import FuelSpent, OutputFull, ProgramExited, Wasi
from sandbox.wasi_abi import PARAMETERS, WASI_MODULE, results_of
from wire.execution import ExecutionFailure, ExecutionStatus

STACK_BYTES = 512 * 1024
TABLE_COUNT_MAX = 16

_MASKS = {"i": (1 << 32) - 1, "I": (1 << 64) - 1}
_TRAPS = {
    wasmtime.TrapCode.STACK_OVERFLOW: f"stack overflow: more than {STACK_BYTES // 1024} KiB",
    wasmtime.TrapCode.MEMORY_OUT_OF_BOUNDS: "memory access out of bounds",
    wasmtime.TrapCode.TABLE_OUT_OF_BOUNDS: "table access out of bounds",
    wasmtime.TrapCode.INDIRECT_CALL_TO_NULL: "call of a null function pointer",
    wasmtime.TrapCode.BAD_SIGNATURE: "call of a function pointer of another type",
    wasmtime.TrapCode.INTEGER_OVERFLOW: "integer overflow in a division",
    wasmtime.TrapCode.INTEGER_DIVISION_BY_ZERO: "integer division by zero",
    wasmtime.TrapCode.BAD_CONVERSION_TO_INTEGER: "a float out of range was made an integer",
    wasmtime.TrapCode.UNREACHABLE: "unreachable instruction: abort(), panic or failed assertion",
}


def check_version() -> None:
    """Raises ChildBroken if the installed engine is not the one that ENGINE_PROFILE names."""
    installed = importlib.metadata.version("wasmtime")
    if installed != WASMTIME_VERSION:
        raise ChildBroken(
            f"wasmtime {installed} is installed, {ENGINE_PROFILE} needs {WASMTIME_VERSION}; "
            "reinstall meshd-node"
        )


def configuration() -> wasmtime.Config:
    """Return the settings that ENGINE_PROFILE stands for."""
    config = wasmtime.Config()
    config.consume_fuel = True
    config.cranelift_nan_canonicalization = True
    config.cranelift_opt_level = "speed"
    config.max_wasm_stack = STACK_BYTES
    config.wasm_bulk_memory = True
    config.wasm_multi_value = True
    config.wasm_reference_types = True
    config.wasm_simd = True
    config.wasm_relaxed_simd = False
    config.wasm_threads = False
    config.shared_memory = False
    config.wasm_memory64 = False
    config.wasm_multi_memory = False
    config.wasm_tail_call = False
    config.wasm_function_references = False
    config.wasm_gc = False
    config.wasm_exceptions = False
    config.wasm_stack_switching = False
    config.wasm_custom_page_sizes = False
    config.wasm_wide_arithmetic = False
    config.wasm_component_model = False
    # Our memories are reservations that stay where they are and start empty.
    config.memory_may_move = False
    config.memory_init_cow = False
    return config


def compile_module(module: bytes) -> bytes:
    """Return native code for `module`, of this engine and this kind of CPU. Slow and hungry.

    Raises UnsupportedModule if the engine finds it invalid.
    """
    try:
        return bytes(wasmtime.Module(wasmtime.Engine(configuration()), module).serialize())
    except wasmtime.WasmtimeError as error:
        raise UnsupportedModule(
            f"the engine refuses the module: {_last_line(error)}; build it for plain WASI preview 1"
        ) from error


@dataclass(frozen=True, slots=True)
class Program:
    """A module that is ready to run."""

    prepared: wasmtime.InstancePre
    native_bytes: int


@dataclass(frozen=True, slots=True)
class _End:
    status: ExecutionStatus
    detail: str = ""
    exit_code: int = 0


class Engine:
    """Runs one program at a time."""

    def __init__(self) -> None:
        self._memories = MemoryKeeper()
        config = configuration()
        self._memories.attach(config)
        self._engine = wasmtime.Engine(config)
        self._wasi: Wasi | None = None
        self._linker = wasmtime.Linker(self._engine)
        for name in PARAMETERS:
            self._define(name)

    def load(self, native: bytes) -> Program:
        """Return the program in `native`, which must be our own compiler's: it is trusted code.

        Raises UnusableNativeCode, or JobFailed if it cannot be linked.
        """
        try:
            module = wasmtime.Module.deserialize(self._engine, native)
        except wasmtime.WasmtimeError as error:
            raise UnusableNativeCode(_last_line(error)) from error
        try:
            prepared = self._linker.instantiate_pre(module)
        except wasmtime.WasmtimeError as error:
            raise JobFailed(ExecutionFailure.UNSUPPORTED_MODULE, _last_line(error)) from error
        return Program(prepared, len(native))

    def run(self, program: Program, job: Job) -> Execution:
        """Run `program` to its end, whichever. Raises JobFailed if this device cannot.

        Nothing here watches the clock: the pool kills the worker of a program that overruns.
        """
        started_ns = time.perf_counter_ns()
        budget = self._memories.budget = MemoryBudget(limit_bytes=job.limits.memory_bytes)
        with wasmtime.Store(self._engine) as store:
            store.set_fuel(job.limits.fuel)
            store.set_limits(
                table_elements=job.limits.table_elements,
                instances=1,
                tables=TABLE_COUNT_MAX,
                memories=1,
            )
            wasi = self._wasi = Wasi(job, budget, _charger(store))
            end = _end_of_run(program, store, budget)
            fuel_used = job.limits.fuel - store.get_fuel()
        self._wasi = None
        if budget.host_failure is not None:
            raise JobFailed(ExecutionFailure.WORKER_DIED, str(budget.host_failure))
        return Execution(
            status=end.status,
            exit_code=end.exit_code,
            stdout=bytes(wasi.stdout),
            stderr=bytes(wasi.stderr),
            fuel_used=fuel_used,
            wall_us=(time.perf_counter_ns() - started_ns) // 1000,
            detail=end.detail,
        )

    def _define(self, name: str) -> None:
        masks = [_MASKS[letter] for letter in PARAMETERS[name]]
        returns = bool(results_of(name))

        def call(*arguments: int) -> int | None:
            if self._wasi is None:
                raise ChildBroken("a host call outside of a run")
            unsigned = [value & mask for value, mask in zip(arguments, masks, strict=True)]
            errno = self._wasi.call(name, unsigned)
            return int(errno) if returns else None

        kind = wasmtime.FuncType(_value_types(PARAMETERS[name]), _value_types(results_of(name)))
        self._linker.define_func(WASI_MODULE, name, kind, call)


def _end_of_run(program: Program, store: wasmtime.Store, budget: MemoryBudget) -> _End:
    """Run, and say how it ended. The order of the reasons is documented in docs/sandbox.md."""
    try:
        start = program.prepared.instantiate(store).exports(store)["_start"]
        if not isinstance(start, wasmtime.Func):
            raise JobFailed(ExecutionFailure.UNSUPPORTED_MODULE, "its _start is no function")
        start(store)
    except ProgramExited as exited:
        return _exited(exited.exit_code, budget)
    except FuelSpent:
        return _End(ExecutionStatus.OUT_OF_FUEL, "it used all its fuel")
    except OutputFull:
        return _End(ExecutionStatus.OUT_OF_OUTPUT, "it wrote more than its output limit")
    except wasmtime.Trap as trap:
        return _trapped(trap, budget)
    except wasmtime.WasmtimeError as error:
        return _not_instantiated(error, budget)
    return _exited(0, budget)


def _exited(exit_code: int, budget: MemoryBudget) -> _End:
    if exit_code != 0 and budget.refused_bytes is not None:
        detail = f"{_refusal(budget)}, and it exited with {exit_code}"
        return _End(ExecutionStatus.OUT_OF_MEMORY, detail, exit_code)
    return _End(ExecutionStatus.EXITED, exit_code=exit_code)


def _trapped(trap: wasmtime.Trap, budget: MemoryBudget) -> _End:
    code = trap.trap_code
    if code is wasmtime.TrapCode.OUT_OF_FUEL:
        return _End(ExecutionStatus.OUT_OF_FUEL, "it used all its fuel")
    what = _TRAPS.get(code) if code is not None else None
    what = what or _last_line(trap)
    if budget.refused_bytes is not None:
        return _End(ExecutionStatus.OUT_OF_MEMORY, f"{_refusal(budget)}, and it trapped: {what}")
    return _End(ExecutionStatus.TRAPPED, what)


def _not_instantiated(error: wasmtime.WasmtimeError, budget: MemoryBudget) -> _End:
    """Say why a linked module did not start, which is memory or table: all else was checked."""
    if budget.refused_bytes is not None:
        return _End(ExecutionStatus.OUT_OF_MEMORY, _refusal(budget))
    message = _last_line(error)
    if "exceeds table limits" in message or "resource limit exceeded" in message:
        return _End(ExecutionStatus.OUT_OF_MEMORY, f"its tables are over the limit: {message}")
    raise JobFailed(ExecutionFailure.WORKER_DIED, f"the engine could not start it: {message}")


def _refusal(budget: MemoryBudget) -> str:
    return f"it asked for {budget.refused_bytes} bytes of memory, {budget.limit_bytes} is its limit"


def _charger(store: wasmtime.Store) -> Callable[[int], None]:
    """Return what takes fuel from `store` on behalf of host calls."""

    def charge(fuel: int) -> None:
        left = store.get_fuel()
        store.set_fuel(max(0, left - fuel))
        if left < fuel:
            raise FuelSpent

    return charge


def _value_types(letters: str) -> list[wasmtime.ValType]:
    return [
        wasmtime.ValType.i32() if letter == "i" else wasmtime.ValType.i64() for letter in letters
    ]


def _last_line(error: Exception) -> str:
    """Return the cause that the engine names last, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
