from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.job import Job
from sandbox.wasi import (
    BYTE_FUEL,
    CALL_FUEL,
    CLOCK_START_NS,
    CLOCK_STEP_NS,
    FuelSpent,
    GuestFault,
    OutputFull,
    ProgramExited,
    Wasi,
)
from sandbox.wasi_abi import PARAMETERS, Errno
from wire.ids import Digest
from wire.limits import Limits

MEMORY_BYTES = 64 * 1024


class Memory:
    def __init__(self) -> None:
        self.content = bytearray(MEMORY_BYTES)

    def check(self, address: int, size: int) -> None:
        if address + size > len(self.content):
            raise GuestFault

    def read(self, address: int, size: int) -> bytes:
        self.check(address, size)
        return bytes(self.content[address : address + size])

    def write(self, address: int, content: bytes) -> None:
        self.check(address, len(content))
        self.content[address : address + len(content)] = content


class Meter:
    def __init__(self, fuel: int = 1 << 60) -> None:
        self.left = self.fuel = fuel

    def charge(self, fuel: int) -> None:
        self.left = max(0, self.left - fuel)
        if self.left == 0:
            raise FuelSpent

    @property
    def used(self) -> int:
        return self.fuel - self.left


class Host:
    """A Wasi with its memory, and the calls a C library makes."""

    def __init__(
        self,
        *,
        args: tuple[str, ...] = (),
        env: tuple[tuple[str, str], ...] = (),
        stdin: bytes = b"",
        seed: bytes = b"",
        output_bytes: int = 1 << 20,
        fuel: int = 1 << 60,
    ) -> None:
        self.memory, self.meter = Memory(), Meter(fuel)
        job = Job(
            job_id=1,
            module=Digest(bytes(32)),
            args=args,
            env=env,
            stdin=stdin,
            limits=Limits(output_bytes=output_bytes),
            seed=seed,
        )
        self.wasi = Wasi(job, self.memory, self.meter.charge)

    def call(self, name: str, *arguments: int) -> Errno:
        return self.wasi.call(name, arguments)

    def u32(self, address: int) -> int:
        return int.from_bytes(self.memory.read(address, 4), "little")

    def u64(self, address: int) -> int:
        return int.from_bytes(self.memory.read(address, 8), "little")

    def write_text(self, fd: int, text: bytes) -> Errno:
        self.memory.write(1000, text)
        self.memory.write(0, struct.pack("<II", 1000, len(text)))
        return self.call("fd_write", fd, 0, 1, 16)

    def read_text(self, size: int) -> bytes:
        self.memory.write(0, struct.pack("<IIII", 1000, size // 2, 5000, size - size // 2))
        assert self.call("fd_read", 0, 0, 2, 32) is Errno.SUCCESS
        got = self.u32(32)
        text = self.memory.read(1000, size // 2) + self.memory.read(5000, size - size // 2)
        return text[:got]

    def now_ns(self, clock: int) -> int:
        assert self.call("clock_time_get", clock, 0, 64) is Errno.SUCCESS
        return self.u64(64)


def test_arguments_and_environment_arrive_as_a_c_library_reads_them() -> None:
    host = Host(args=("one", "zwei ö"), env=(("K", "V"),))
    assert host.call("args_sizes_get", 0, 4) is Errno.SUCCESS
    assert (host.u32(0), host.u32(4)) == (3, len(b"task\0one\0") + len("zwei ö\0".encode()))
    assert host.call("args_get", 100, 200) is Errno.SUCCESS
    assert host.memory.read(host.u32(100), 5) == b"task\0"
    assert host.memory.read(host.u32(108), 8) == "zwei ö\0".encode()
    assert host.call("environ_get", 100, 200) is Errno.SUCCESS
    assert host.memory.read(200, 4) == b"K=V\0"


def test_input_is_read_in_pieces_and_then_ends() -> None:
    host = Host(stdin=b"hello world")
    assert [host.read_text(6) for _ in range(3)] == [b"hello ", b"world", b""]


def test_output_and_error_are_kept_apart_and_counted_together() -> None:
    host = Host(output_bytes=8)
    assert host.write_text(1, b"out") is Errno.SUCCESS
    assert host.write_text(2, b"err") is Errno.SUCCESS
    with pytest.raises(OutputFull):
        host.write_text(1, b"more")
    assert host.wasi.stdout == b"outmo"
    assert host.wasi.stderr == b"err"


def test_standard_output_is_no_terminal_so_that_it_is_buffered() -> None:
    host = Host()
    assert host.call("fd_fdstat_get", 1, 0) is Errno.SUCCESS
    assert host.memory.read(0, 1) == b"\0"
    assert host.call("fd_seek", 1, 0, 1, 0) is Errno.SPIPE


def test_a_closed_descriptor_and_one_never_opened_are_bad() -> None:
    host = Host()
    assert host.call("fd_close", 1) is Errno.SUCCESS
    assert host.write_text(1, b"x") is Errno.BADF
    assert host.call("fd_close", 1) is Errno.BADF
    assert host.write_text(3, b"x") is Errno.BADF
    assert host.write_text(0, b"x") is Errno.BADF


@pytest.mark.parametrize(
    ("call", "errno"),
    [
        (("path_open", 3, 0, 0, 0, 0, 0, 0, 0, 0), Errno.BADF),
        (("fd_prestat_get", 3, 0), Errno.BADF),
        (("sock_send", 1, 0, 0, 0, 0), Errno.NOTSOCK),
        (("fd_pread", 0, 0, 0, 0, 0), Errno.SPIPE),
        (("fd_filestat_set_size", 1, 0), Errno.NOTSUP),
        (("proc_raise", 9), Errno.NOSYS),
    ],
)
def test_files_sockets_and_signals_are_refused(
    call: tuple[str, *tuple[int, ...]], errno: Errno
) -> None:
    name, *arguments = call
    assert Host().call(name, *arguments) is errno


def test_the_clock_is_virtual_and_moves_only_when_looked_at() -> None:
    host = Host()
    assert host.now_ns(0) == CLOCK_START_NS + CLOCK_STEP_NS
    assert host.now_ns(1) == 2 * CLOCK_STEP_NS
    assert host.call("clock_time_get", 99, 0, 64) is Errno.INVAL


def test_sleeping_takes_virtual_time_and_the_earliest_event_comes_first() -> None:
    host = Host()
    hour_ns, minute_ns = 3_600 * 10**9, 60 * 10**9
    layout = struct.Struct("<QB7xI4xQQH6x")
    host.memory.write(
        0, layout.pack(7, 0, 1, hour_ns, 0, 0) + layout.pack(8, 0, 1, minute_ns, 0, 0)
    )
    assert host.call("poll_oneoff", 0, 500, 2, 900) is Errno.SUCCESS
    assert (host.u32(900), host.u64(500)) == (1, 8)
    assert host.now_ns(1) == minute_ns + CLOCK_STEP_NS


def test_waiting_for_input_is_answered_at_once() -> None:
    host = Host(stdin=b"abc")
    layout = struct.Struct("<QB7xI4xQQH6x")
    host.memory.write(0, layout.pack(7, 0, 1, 10**12, 0, 0) + layout.pack(8, 1, 0, 0, 0, 0))
    assert host.call("poll_oneoff", 0, 500, 2, 900) is Errno.SUCCESS
    assert (host.u32(900), host.u64(500), host.u64(516)) == (1, 8, 3)
    assert host.now_ns(1) == CLOCK_STEP_NS


def random_bytes(seed: bytes, *sizes: int) -> bytes:
    host, drawn = Host(seed=seed), b""
    for size in sizes:
        assert host.call("random_get", 0, size) is Errno.SUCCESS
        drawn += host.memory.read(0, size)
    return drawn


def test_randomness_follows_from_the_seed_however_it_is_drawn() -> None:
    assert random_bytes(b"a", 64) == random_bytes(b"a", 1, 60, 3)
    assert random_bytes(b"a", 64) != random_bytes(b"b", 64)
    assert len(set(random_bytes(b"a", 256))) > 100


def test_every_call_costs_fuel_and_every_byte_too() -> None:
    host = Host()
    host.call("sched_yield")
    assert host.meter.used == CALL_FUEL
    host.write_text(1, b"x" * 500)
    assert host.meter.used == 2 * CALL_FUEL + 500 * BYTE_FUEL


def test_a_write_that_cannot_be_paid_writes_nothing() -> None:
    host = Host(fuel=CALL_FUEL + 100)
    with pytest.raises(FuelSpent):
        host.write_text(1, b"x" * 500)
    assert host.wasi.stdout == b""


def test_exit_codes_are_unsigned() -> None:
    with pytest.raises(ProgramExited) as caught:
        Host().call("proc_exit", 0xFFFFFFFF)
    assert caught.value.exit_code == 0xFFFFFFFF


def test_a_bad_pointer_changes_nothing() -> None:
    host = Host(stdin=b"abc")
    host.memory.write(0, struct.pack("<IIII", 1000, 2, MEMORY_BYTES - 1, 2))
    before = bytes(host.memory.content)
    assert host.call("fd_read", 0, 0, 2, 32) is Errno.FAULT
    assert host.call("fd_write", 1, 0, 2, 32) is Errno.FAULT
    assert host.call("fd_read", 0, 0, 0, 0xFFFFFFFF) is Errno.FAULT
    assert host.call("fd_read", 0, 0, 0xFFFFFFFF, 32) is Errno.INVAL
    assert host.call("random_get", 1, MEMORY_BYTES) is Errno.FAULT
    assert host.memory.content == before
    assert not host.wasi.stdout
    assert host.read_text(4) == b"abc"


_u32 = st.one_of(
    st.integers(0, 64),
    st.sampled_from([0xFFFFFFFF, 0x7FFFFFFF, MEMORY_BYTES - 1, MEMORY_BYTES]),
    st.integers(0, 0xFFFFFFFF),
)


@given(st.data(), st.sampled_from(sorted(set(PARAMETERS) - {"proc_exit"})))
def test_hostile_arguments_get_an_error_number_or_stop_the_program(
    data: st.DataObject, name: str
) -> None:
    host = Host(args=("a",), stdin=b"abc", output_bytes=1000, fuel=10**7)
    host.memory.write(0, data.draw(st.binary(max_size=256)))
    with contextlib.suppress(OutputFull, FuelSpent):
        assert isinstance(host.call(name, *(data.draw(_u32) for _ in PARAMETERS[name])), Errno)
    assert len(host.wasi.stdout) + len(host.wasi.stderr) <= 1000
    assert len(host.memory.content) == MEMORY_BYTES
