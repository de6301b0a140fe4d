"""WASI preview 1 with the same answers on every device: no files, no network, no real time.

A program sees its arguments, its environment, standard input, output and error, a clock that only
moves when it is looked at, and random bytes that follow from the job's seed. Every call costs fuel,
and so does every byte it moves: a program that only calls the host ends as surely as one that only
computes. Pointers are the program's and hostile until checked: a bad one is answered EFAULT before
anything was read, written or counted.

Nothing here knows the engine. Source of the functions and layouts: WebAssembly/WASI,
*legacy/preview1/docs.md*.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from blake3 import blake3

from sandbox.job import Job
from sandbox.wasi_abi import (
    FILETYPE_UNKNOWN,
    PARAMETERS,
    RIGHT_FD_READ,
    RIGHT_FD_WRITE,
    RIGHT_POLL,
    SUBSCRIPTION_CLOCK_ABSTIME,
    ClockId,
    Errno,
    EventType,
)

PROGRAM_NAME = b"task"

# A host call takes about as long as this many instructions, so that fuel, which every device counts
# alike, ends a program that spins on host calls before the clock does.
CALL_FUEL = 10_000
BYTE_FUEL = 1
RANDOM_BYTE_FUEL = 10

# The clock starts at 2000-01-01T00:00:00Z and moves a millisecond each time it is read, so that a
# program that waits for time to pass gets there.
CLOCK_START_NS = 946_684_800_000_000_000
CLOCK_STEP_NS = 1_000_000

IO_VECTORS_MAX = 1024
SUBSCRIPTIONS_MAX = 1024
_RANDOM_CHUNK_BYTES = 64 * 1024
_RANDOM_CONTEXT = "meshd 2026 wasi random"
_U64 = (1 << 64) - 1

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_SUBSCRIPTION = struct.Struct("<QB7xI4xQQH6x")  # user data, type, clock or fd, timeout, -, flags
_EVENT = struct.Struct("<QHB5xQH6x")  # user data, error, type, bytes ready, flags
_FDSTAT = struct.Struct("<BxH4xQQ")  # file type, flags, rights, rights of what is opened through it
_FILESTAT = struct.Struct("<QQB7xQQQQQ")  # device, inode, type, links, size, three times


class GuestFault(Exception):
    """The program gave a pointer outside its memory."""


class ProgramStopped(Exception):
    """Base of what ends a program from within a host call."""


class ProgramExited(ProgramStopped):
    """It called proc_exit."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class FuelSpent(ProgramStopped):
    """A host call cost more fuel than was left."""


class OutputFull(ProgramStopped):
    """It wrote more than its limit; what fitted is kept."""


class GuestMemory(Protocol):
    """The program's memory. Both methods raise GuestFault and change nothing if out of bounds."""

    def read(self, address: int, size: int) -> bytes: ...

    def write(self, address: int, content: bytes) -> None: ...

    def check(self, address: int, size: int) -> None: ...


class Wasi:
    """The host side of one run. `charge` takes fuel away, or raises FuelSpent.

    One method per function of WASI, named as there, taking unsigned integers and returning an error
    number. A function without a method is one that this host refuses.
    """

    def __init__(self, job: Job, memory: GuestMemory, charge: Callable[[int], None]) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self._memory = memory
        self._charge = charge
        self._args = [PROGRAM_NAME, *(argument.encode() for argument in job.args)]
        self._environ = [f"{name}={value}".encode() for name, value in job.env]
        self._stdin = job.stdin
        self._stdin_at = 0
        self._output_bytes_left = job.limits.output_bytes
        self._random = blake3(job.seed, derive_key_context=_RANDOM_CONTEXT)
        self._random_at = 0
        self._elapsed_ns = 0
        self._open_fds = {_STDIN, _STDOUT, _STDERR}

    def call(self, name: str, arguments: Sequence[int]) -> Errno:
        """Carry out function `name`. Raises ProgramStopped if it ends the program."""
        self._charge(CALL_FUEL)
        function = _FUNCTIONS.get(name)
        try:
            if function is None:
                return self._refuse(name, arguments)
            return function(self, *arguments)
        except GuestFault:
            return Errno.FAULT

    # Arguments and environment.

    def args_sizes_get(self, count_at: int, size_at: int) -> Errno:
        return self._write_sizes(self._args, count_at, size_at)

    def args_get(self, pointers_at: int, strings_at: int) -> Errno:
        return self._write_strings(self._args, pointers_at, strings_at)

    def environ_sizes_get(self, count_at: int, size_at: int) -> Errno:
        return self._write_sizes(self._environ, count_at, size_at)

    def environ_get(self, pointers_at: int, strings_at: int) -> Errno:
        return self._write_strings(self._environ, pointers_at, strings_at)

    # Standard input, output and error.

    def fd_read(self, fd: int, vectors_at: int, count: int, size_at: int) -> Errno:
        if not self._is_open(fd) or fd != _STDIN:
            return Errno.BADF
        if count > IO_VECTORS_MAX:
            return Errno.INVAL
        self._memory.check(size_at, 4)
        read_bytes = 0
        for address, size in self._vectors(vectors_at, count):
            piece = self._stdin[self._stdin_at : self._stdin_at + size]
            self._charge(len(piece) * BYTE_FUEL)
            self._memory.write(address, piece)
            self._stdin_at += len(piece)
            read_bytes += len(piece)
        self._write_u32(size_at, read_bytes)
        return Errno.SUCCESS

    def fd_write(self, fd: int, vectors_at: int, count: int, size_at: int) -> Errno:
        if not self._is_open(fd) or fd == _STDIN:
            return Errno.BADF
        if count > IO_VECTORS_MAX:
            return Errno.INVAL
        self._memory.check(size_at, 4)
        output = self.stdout if fd == _STDOUT else self.stderr
        written_bytes = 0
        for address, size in self._vectors(vectors_at, count):
            fitting = min(size, self._output_bytes_left)
            self._charge(fitting * BYTE_FUEL)
            output += self._memory.read(address, fitting)
            self._output_bytes_left -= fitting
            if fitting < size:
                raise OutputFull
            written_bytes += size
        self._write_u32(size_at, written_bytes)
        return Errno.SUCCESS

    def fd_close(self, fd: int) -> Errno:
        if not self._is_open(fd):
            return Errno.BADF
        self._open_fds.remove(fd)
        return Errno.SUCCESS

    def fd_seek(self, fd: int, _offset: int, _whence: int, _position_at: int) -> Errno:
        return Errno.SPIPE if self._is_open(fd) else Errno.BADF

    def fd_tell(self, fd: int, _position_at: int) -> Errno:
        return Errno.SPIPE if self._is_open(fd) else Errno.BADF

    def fd_fdstat_get(self, fd: int, stat_at: int) -> Errno:
        # Not a character device: a C library would take that for a terminal and flush every line.
        if not self._is_open(fd):
            return Errno.BADF
        rights = RIGHT_POLL | (RIGHT_FD_READ if fd == _STDIN else RIGHT_FD_WRITE)
        self._memory.write(stat_at, _FDSTAT.pack(FILETYPE_UNKNOWN, 0, rights, 0))
        return Errno.SUCCESS

    def fd_fdstat_set_flags(self, fd: int, _flags: int) -> Errno:
        return Errno.SUCCESS if self._is_open(fd) else Errno.BADF

    def fd_filestat_get(self, fd: int, stat_at: int) -> Errno:
        if not self._is_open(fd):
            return Errno.BADF
        self._memory.write(stat_at, _FILESTAT.pack(0, fd, FILETYPE_UNKNOWN, 1, 0, 0, 0, 0))
        return Errno.SUCCESS

    # Time, chance and the end.

    def clock_res_get(self, clock: int, resolution_at: int) -> Errno:
        if clock > ClockId.THREAD_CPUTIME:
            return Errno.INVAL
        self._write_u64(resolution_at, CLOCK_STEP_NS)
        return Errno.SUCCESS

    def clock_time_get(self, clock: int, _precision: int, time_at: int) -> Errno:
        if clock > ClockId.THREAD_CPUTIME:
            return Errno.INVAL
        self._elapsed_ns += CLOCK_STEP_NS
        self._write_u64(time_at, self._clock_ns(clock))
        return Errno.SUCCESS

    def random_get(self, buffer_at: int, size: int) -> Errno:
        self._memory.check(buffer_at, size)
        self._charge(size * RANDOM_BYTE_FUEL)
        for done in range(0, size, _RANDOM_CHUNK_BYTES):
            length = min(_RANDOM_CHUNK_BYTES, size - done)
            self._memory.write(buffer_at + done, self._random.digest(length, seek=self._random_at))
            self._random_at += length
        return Errno.SUCCESS

    def poll_oneoff(
        self, subscriptions_at: int, events_at: int, count: int, count_at: int
    ) -> Errno:
        """Report what is ready; if only clocks are waited for, move time to the first of them."""
        if not 1 <= count <= SUBSCRIPTIONS_MAX:
            return Errno.INVAL
        self._memory.check(count_at, 4)
        self._charge(count * (_SUBSCRIPTION.size + _EVENT.size) * BYTE_FUEL)
        raw = self._memory.read(subscriptions_at, count * _SUBSCRIPTION.size)
        subscriptions = list(_SUBSCRIPTION.iter_unpack(raw))
        due_ns = [self._due_ns(*subscription[1:]) for subscription in subscriptions]
        self._elapsed_ns = max(self._elapsed_ns, min(due_ns))
        events = [
            self._event(user_tag, kind, fd)
            for (user_tag, kind, fd, *_), due in zip(subscriptions, due_ns, strict=True)
            if due <= self._elapsed_ns
        ]
        self._memory.write(events_at, b"".join(events))
        self._write_u32(count_at, len(events))
        return Errno.SUCCESS

    def sched_yield(self) -> Errno:
        return Errno.SUCCESS

    def proc_exit(self, exit_code: int) -> Errno:
        raise ProgramExited(exit_code)

    # What the functions share.

    def _refuse(self, name: str, arguments: Sequence[int]) -> Errno:
        """Return why a function without a method cannot be used."""
        if name == "proc_raise":
            return Errno.NOSYS
        # There are no directories, so no path is relative to anything open: not a mistake here.
        if name.startswith(("path_", "fd_prestat_")) or not self._is_open(arguments[0]):
            return Errno.BADF
        if name.startswith("sock_"):
            return Errno.NOTSOCK
        return Errno.SPIPE if name in ("fd_pread", "fd_pwrite") else Errno.NOTSUP

    def _is_open(self, fd: int) -> bool:
        return fd in self._open_fds

    def _vectors(self, vectors_at: int, count: int) -> Iterator[tuple[int, int]]:
        """Return (address, size) of each buffer, all of them inside the memory."""
        raw = self._memory.read(vectors_at, 8 * count)
        vectors = list(struct.iter_unpack("<II", raw))
        for address, size in vectors:
            self._memory.check(address, size)
        return iter(vectors)

    def _write_sizes(self, strings: list[bytes], count_at: int, size_at: int) -> Errno:
        self._memory.check(size_at, 4)
        self._write_u32(count_at, len(strings))
        self._write_u32(size_at, sum(len(string) + 1 for string in strings))
        return Errno.SUCCESS

    def _write_strings(self, strings: list[bytes], pointers_at: int, strings_at: int) -> Errno:
        block = b"".join(string + b"\0" for string in strings)
        pointers, at = [], strings_at
        for string in strings:
            pointers.append(at)
            at += len(string) + 1
        self._memory.check(pointers_at, 4 * len(pointers))
        self._charge((len(block) + 4 * len(pointers)) * BYTE_FUEL)
        self._memory.write(strings_at, block)
        self._memory.write(pointers_at, struct.pack(f"<{len(pointers)}I", *pointers))
        return Errno.SUCCESS

    def _clock_ns(self, clock: int) -> int:
        start_ns = CLOCK_START_NS if clock == ClockId.REALTIME else 0
        return (start_ns + self._elapsed_ns) & _U64

    def _due_ns(self, kind: int, clock: int, timeout: int, _precision: int, flags: int) -> int:
        """Return when a subscription is due, in elapsed time. All but clocks are due at once."""
        if kind != EventType.CLOCK or clock > ClockId.THREAD_CPUTIME:
            return self._elapsed_ns
        if not flags & SUBSCRIPTION_CLOCK_ABSTIME:
            return self._elapsed_ns + timeout
        return timeout - (CLOCK_START_NS if clock == ClockId.REALTIME else 0)

    def _event(self, user_tag: int, kind: int, target: int) -> bytes:
        error, ready_bytes = Errno.SUCCESS, 0
        if kind == EventType.CLOCK:
            error = Errno.SUCCESS if target <= ClockId.THREAD_CPUTIME else Errno.INVAL
        elif kind > EventType.FD_WRITE:
            error = Errno.INVAL
        elif not self._is_open(target):
            error = Errno.BADF
        elif kind == EventType.FD_READ:
            ready_bytes = len(self._stdin) - self._stdin_at
        return _EVENT.pack(user_tag, error, kind, ready_bytes, 0)

    def _write_u32(self, address: int, number: int) -> None:
        self._memory.write(address, number.to_bytes(4, "little"))

    def _write_u64(self, address: int, number: int) -> None:
        self._memory.write(address, number.to_bytes(8, "little"))


_FUNCTIONS: dict[str, Callable[..., Errno]] = {
    name: vars(Wasi)[name] for name in PARAMETERS if name in vars(Wasi)
}
