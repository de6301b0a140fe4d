from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.wasm import NOTHING, calling, example, wat

from sandbox.errors import NotWasm, UnsupportedModule
from sandbox.precheck import BODY_BYTES_MAX, FUNCTION_COUNT_MAX, check_module
from sandbox.wasi_abi import PARAMETERS
from wire.execution import ExecutionFailure
from wire.limits import MODULE_BYTES_MAX

PREAMBLE = b"\0asm\1\0\0\0"
SEED = example("faults/echo")


def leb(number: int) -> bytes:
    digits = b""
    while number >= 0x80:
        digits += bytes([number & 0x7F | 0x80])
        number >>= 7
    return digits + bytes([number])


def section(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + leb(len(content)) + content


def refusal(module: bytes) -> str:
    with pytest.raises(UnsupportedModule) as caught:
        check_module(module)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "name", ["wordcount/wordcount", "mandelbrot/mandelbrot", "faults/spin", "faults/echo"]
)
def test_the_examples_pass(name: str) -> None:
    check_module(example(name))


@pytest.mark.parametrize("function", PARAMETERS)
def test_every_function_of_wasi_preview_1_can_be_imported(function: str) -> None:
    check_module(calling(function, ""))


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "the file is empty"),
        (b"\x7fELF\2\1\1", "a native program"),
        (b"  (module)", "wat2wasm"),
        (b"hello world", "not WebAssembly: it starts with 68 65 6c 6c"),
    ],
)
def test_what_is_not_webassembly_is_told_what_it_is(content: bytes, hint: str) -> None:
    with pytest.raises(NotWasm, match=hint) as caught:
        check_module(content)
    assert caught.value.reason is ExecutionFailure.NOT_WASM


def test_a_component_is_told_to_be_built_as_a_module() -> None:
    message = refusal(b"\0asm\x0d\0\1\0")
    assert "component" in message
    assert "wasm32-wasip1" in message


def test_a_module_without_start_is_refused_and_a_reactor_by_name() -> None:
    assert "no _start" in refusal(wat("(module)"))
    assert "reactor" in refusal(wat('(module (func (export "_initialize")))'))


@pytest.mark.parametrize(
    "start",
    [
        '(func (export "_start") (param i32))',
        '(func (export "_start") (result i32) i32.const 1)',
        '(memory (export "_start") 1)',
    ],
)
def test_a_start_of_another_type_is_refused(start: str) -> None:
    assert "no function () -> ()" in refusal(wat(f"(module {start})"))


@pytest.mark.parametrize(
    ("imported", "named"),
    [
        ('"env" "evil" (func)', "env.evil"),
        ('"wasi_snapshot_preview1" "fd_steal" (func)', "wasi_snapshot_preview1.fd_steal"),
        ('"env" "memory" (memory 1)', "env.memory"),
        ('"wasi_unstable" "fd_write" (func)', "before 2020"),
        ('"__wbindgen_placeholder__" "log" (func)', "JavaScript"),
        ('"env" "a\\nb" (func)', r"env.a\\nb"),
    ],
)
def test_an_unknown_import_is_named(imported: str, named: str) -> None:
    assert named in refusal(wat(f'(module (import {imported}) (func (export "_start")))')).replace(
        "\\", "\\\\"
    )


def test_a_wasi_function_of_another_type_or_kind_is_refused() -> None:
    for kind in ("(func (param i32))", "(global i32)"):
        module = wat(
            f'(module (import "wasi_snapshot_preview1" "fd_write" {kind}) (func (export "_start")))'
        )
        assert "fd_write with a type" in refusal(module)


def test_counts_and_sizes_are_bounded_before_any_compiler_sees_them() -> None:
    start = section(1, leb(1) + b"\x60\0\0") + section(3, leb(1) + b"\0")
    export = section(7, leb(1) + leb(6) + b"_start" + b"\0\0")
    body = leb(BODY_BYTES_MAX + 1) + b"\0" * (BODY_BYTES_MAX + 1)
    too_large = PREAMBLE + start + export + section(10, leb(1) + body)
    assert "bytes of code" in refusal(too_large)
    many = section(3, leb(FUNCTION_COUNT_MAX + 1) + b"\0" * (FUNCTION_COUNT_MAX + 1))
    assert f"{FUNCTION_COUNT_MAX + 1} functions" in refusal(PREAMBLE + many)
    assert "bytes, at most" in refusal(PREAMBLE + bytes(MODULE_BYTES_MAX))


def test_a_damaged_module_is_called_damaged() -> None:
    good = wat(NOTHING)
    assert "damaged" in refusal(PREAMBLE + b"\1\xff\xff\xff\xff\xff\xff")
    assert "damaged" in refusal(PREAMBLE + b"\1\x7f\0")
    assert "damaged" in refusal(good + section(1, b"\0"))
    assert "damaged" in refusal(good[: good.index(b"_start") + 2])


@given(st.binary(max_size=200).map(PREAMBLE.__add__))
def test_hostile_bytes_pass_or_are_refused(module: bytes) -> None:
    with pytest.raises(UnsupportedModule):
        check_module(module)


@given(st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.integers(0, 255)), max_size=4))
def test_a_mutated_module_passes_or_is_refused(changes: list[tuple[int, int]]) -> None:
    module = bytearray(SEED)
    for at, byte in changes:
        module[at] = byte
    try:
        check_module(bytes(module))
    except UnsupportedModule as error:
        assert str(error)  # noqa: PT017 - both outcomes are right, any other error is not


def test_megabytes_are_checked_within_milliseconds() -> None:
    count = 10_000
    code = b"".join([leb(400) + b"\0" + b"\1" * 398 + b"\x0b"] * count)
    module = (
        PREAMBLE
        + section(1, leb(1) + b"\x60\0\0")
        + section(3, leb(count) + b"\0" * count)
        + section(7, leb(1) + leb(6) + b"_start" + b"\0" + leb(count - 1))
        + section(10, leb(count) + code)
    )
    assert len(module) > 4_000_000
    times_s = []
    for _ in range(5):
        started_s = time.perf_counter()
        check_module(module)
        times_s.append(time.perf_counter() - started_s)
    assert min(times_s) < 0.02
