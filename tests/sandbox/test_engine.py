"""How runs end, in this process: what kills a process is tested through the pool."""

from __future__ import annotations

import ctypes
import struct

import pytest
from support.wasm import NOTHING, calling, example, job_of, wat

from sandbox.engine import Engine, check_version, compile_module
from sandbox.errors import UnsupportedModule, UnusableNativeCode
from sandbox.job import Execution
from sandbox.precheck import check_module
from sandbox.profile import ENGINE_PROFILE, WASMTIME_VERSION
from sandbox.wasi import CALL_FUEL
from sandbox.wasi_abi import PARAMETERS, Errno
from wire.execution import ExecutionStatus
from wire.limits import MIB, Limits

SMALL = Limits(fuel=10_000_000, memory_bytes=4 * MIB)
ROOMY = Limits(fuel=100_000_000, memory_bytes=64 * MIB)  # Zig's programs start with 16 MiB of stack


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


def run(
    engine: Engine,
    module: bytes,
    *args: str,
    stdin: bytes = b"",
    seed: bytes = b"",
    limits: Limits = SMALL,
) -> Execution:
    check_module(module)
    job = job_of(module, *args, stdin=stdin, seed=seed, limits=limits)
    return engine.run(engine.load(compile_module(module)), job)


def start(body: str, *, memory: str = "(memory 1)") -> bytes:
    return wat(f'(module {memory} (func $start (export "_start") {body}))')


def test_the_profile_names_the_installed_engine() -> None:
    check_version()
    assert f"wasmtime-{WASMTIME_VERSION}/" in ENGINE_PROFILE


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("unreachable", "unreachable instruction"),
        ("(drop (i32.load (i32.const 0x7fffffff)))", "memory access out of bounds"),
        ("(drop (i32.load offset=0xffffffff (i32.const -1)))", "memory access out of bounds"),
        ("(drop (i32.load (i32.const 65533)))", "memory access out of bounds"),
        ("(drop (i32.div_s (i32.const 1) (i32.const 0)))", "division by zero"),
        ("call $start", "stack overflow"),
    ],
)
def test_a_trap_says_which(engine: Engine, body: str, detail: str) -> None:
    execution = run(engine, start(body))
    assert execution.status is ExecutionStatus.TRAPPED
    assert detail in execution.detail


def test_an_endless_loop_ends_with_exactly_its_fuel(engine: Engine) -> None:
    execution = run(engine, start("(loop br 0)"), limits=Limits(fuel=12_345))
    assert (execution.status, execution.fuel_used) == (ExecutionStatus.OUT_OF_FUEL, 12_345)


def test_a_start_function_is_metered_too(engine: Engine) -> None:
    module = wat('(module (func $s (loop br 0)) (start $s) (func (export "_start")))')
    assert run(engine, module).status is ExecutionStatus.OUT_OF_FUEL


def test_host_calls_without_bytes_end_with_the_fuel(engine: Engine) -> None:
    execution = run(engine, calling("sched_yield", "(loop (drop (call $f)) br 0)"))
    assert (execution.status, execution.fuel_used) == (ExecutionStatus.OUT_OF_FUEL, SMALL.fuel)
    assert execution.wall_us < SMALL.fuel / CALL_FUEL * 1000


GROW = "(drop (memory.grow (i32.const 100)))"


def test_a_program_that_copes_with_refused_memory_is_not_out_of_memory(engine: Engine) -> None:
    assert run(engine, start(GROW)).status is ExecutionStatus.EXITED


def test_a_program_that_traps_after_refused_memory_is_out_of_memory(engine: Engine) -> None:
    execution = run(engine, start(f"{GROW} unreachable"))
    assert execution.status is ExecutionStatus.OUT_OF_MEMORY
    assert f"{101 * 65536} bytes of memory, {4 * MIB} is its limit" in execution.detail


def test_a_program_that_exits_with_an_error_after_refused_memory_is_out_of_memory(
    engine: Engine,
) -> None:
    execution = run(engine, calling("proc_exit", f"{GROW} (call $f (i32.const 3))"))
    assert (execution.status, execution.exit_code) == (ExecutionStatus.OUT_OF_MEMORY, 3)
    execution = run(engine, calling("proc_exit", f"{GROW} (call $f (i32.const 0))"))
    assert execution.status is ExecutionStatus.EXITED


def test_a_modules_own_maximum_is_no_limit_of_ours(engine: Engine) -> None:
    execution = run(engine, start(f"{GROW} unreachable", memory="(memory 1 2)"))
    assert execution.status is ExecutionStatus.TRAPPED


def test_memory_up_to_the_limit_is_given_and_zeroed(engine: Engine) -> None:
    body = """
        (if (i32.ne (memory.grow (i32.const 63)) (i32.const 1)) (then unreachable))
        (if (i32.load (i32.const 4194300)) (then unreachable))
        (i32.store (i32.const 4194300) (i32.const 7))"""
    for _ in range(2):
        assert run(engine, start(body)).status is ExecutionStatus.EXITED


@pytest.mark.parametrize("memory", ["(memory 65)", "(memory 1) (table 20001 funcref)"])
def test_starting_with_more_than_the_limit_is_out_of_memory(engine: Engine, memory: str) -> None:
    execution = run(engine, start("", memory=memory))
    assert execution.status is ExecutionStatus.OUT_OF_MEMORY
    assert "limit" in execution.detail


def test_address_space_is_given_back_after_each_run(engine: Engine) -> None:
    program = engine.load(compile_module(wat(NOTHING)))
    for _ in range(20_000 // 50):  # 4 GiB each: a leak would end at 128 TiB
        engine.run(program, job_of(wat(NOTHING)))
    with open("/proc/self/statm") as statm:  # noqa: PTH123 - a file of the kernel
        assert int(statm.read().split()[0]) * 4096 < 100 << 30


def test_output_over_the_limit_is_cut_there(engine: Engine) -> None:
    execution = run(engine, example("faults/flood"), limits=Limits(output_bytes=1_000))
    assert execution.status is ExecutionStatus.OUT_OF_OUTPUT
    assert len(execution.stdout) == 1_000


def test_arguments_input_and_exit_code_go_through(engine: Engine) -> None:
    execution = run(engine, example("faults/echo"), "one", stdin=b"hello", limits=ROOMY)
    assert execution.stdout == b"argument 0: task\nargument 1: one\nhello"
    assert run(engine, example("faults/exit_code"), "42", limits=ROOMY).exit_code == 42


@pytest.mark.parametrize("name", ["faults/chance", "faults/echo", "wordcount/wordcount"])
def test_the_same_job_gives_the_same_bytes_and_fuel(engine: Engine, name: str) -> None:
    executions = [
        run(engine, example(name), stdin=b"so so", seed=b"s", limits=ROOMY) for _ in range(3)
    ]
    assert len({(run.stdout, run.stderr, run.fuel_used) for run in executions}) == 1
    assert executions[0].status is ExecutionStatus.EXITED


def test_randomness_is_the_seeds(engine: Engine) -> None:
    module = example("faults/chance")
    outputs = {run(engine, module, seed=seed, limits=ROOMY).stdout for seed in (b"1", b"2")}
    assert len(outputs) == 2


def test_nans_are_canonical(engine: Engine) -> None:
    body = """
        (f64.store (i32.const 100) (f64.div (f64.const -0) (f64.const 0)))
        (f64.store (i32.const 108)
            (f64.add (f64.reinterpret_i64 (i64.const 0x7ff8000000000123)) (f64.const 1)))
        (i32.store (i32.const 0) (i32.const 100)) (i32.store (i32.const 4) (i32.const 16))
        (drop (call $f (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))"""
    execution = run(engine, calling("fd_write", body))
    assert execution.stdout == 2 * struct.pack("<Q", 0x7FF8000000000000)


@pytest.mark.parametrize("function", sorted(set(PARAMETERS) - {"proc_exit"}))
@pytest.mark.parametrize("pointer", ["-1", "0x7fffffff", "65535"])
def test_hostile_pointers_get_an_error_number(engine: Engine, function: str, pointer: str) -> None:
    kinds = {"i": "i32", "I": "i64"}
    arguments = " ".join(f"({kinds[kind]}.const {pointer})" for kind in PARAMETERS[function])
    execution = run(engine, calling(function, f"(drop (call $f {arguments}))"))
    assert execution.status is ExecutionStatus.EXITED


def test_a_pointer_outside_of_memory_is_answered_efault(engine: Engine) -> None:
    body = """
        (i32.store (i32.const 0) (i32.const 65000)) (i32.store (i32.const 4) (i32.const 537))
        (call $f (call $f (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))
            (i32.const 0) (i32.const 0) (i32.const 8)) drop"""
    exits = wat(
        '(module (import "wasi_snapshot_preview1" "fd_write"'
        " (func $f (param i32 i32 i32 i32) (result i32)))"
        ' (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
        ' (memory (export "memory") 1) (func (export "_start")'
        " (i32.store (i32.const 0) (i32.const 65000)) (i32.store (i32.const 4) (i32.const 537))"
        " (call $exit (call $f (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"
    )
    assert run(engine, calling("fd_write", body)).status is ExecutionStatus.EXITED
    assert run(engine, exits).exit_code == Errno.FAULT


def test_host_calls_without_any_memory_are_answered_efault(engine: Engine) -> None:
    module = wat(
        '(module (import "wasi_snapshot_preview1" "random_get"'
        " (func $f (param i32 i32) (result i32)))"
        ' (func (export "_start") (drop (call $f (i32.const 0) (i32.const 0)))))'
    )
    assert run(engine, module).status is ExecutionStatus.EXITED


@pytest.mark.parametrize(
    "module",
    [
        "(memory i64 1)",
        "(memory 1) (memory 1)",
        "(memory 1 1 shared)",
        "(type (struct (field i32)))",
        "(func (drop (i8x16.relaxed_swizzle (v128.const i64x2 0 0) (v128.const i64x2 0 0))))",
        "(tag)",
    ],
)
def test_proposals_that_are_not_deterministic_or_not_needed_are_off(module: str) -> None:
    with pytest.raises(UnsupportedModule):
        compile_module(wat(f'(module (func (export "_start")) {module})'))


def test_native_code_of_another_engine_is_refused(engine: Engine) -> None:
    with pytest.raises(UnusableNativeCode):
        engine.load(b"\x7fELF not ours")


def test_a_host_without_address_space_is_no_fault_of_the_program(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sandbox import linear_memory
    from sandbox.errors import JobFailed

    failed = ctypes.c_void_p(-1).value
    monkeypatch.setattr(linear_memory, "_mmap", lambda *_: failed)
    with pytest.raises(JobFailed, match="address space"):
        run(engine, start(""))
