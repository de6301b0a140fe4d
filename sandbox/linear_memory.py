"""The programs' memories, kept by us instead of the engine.

The engine's own limit answers a refused `memory.grow` with -1 and tells nobody, so a program that
then gives up could not be told from one that failed by itself. With memories of our own a refusal
is seen, a host that is short of memory is told from a program at its limit, and host calls reach
the bytes without asking the engine.

A memory is one reservation of address space, as large as the engine wants plus its guard region;
growing makes more of it readable, so it never moves. An access past the end hits what is not
readable, and the engine makes a trap of it. Source: wasmtime's C API, *wasmtime/config.h*,
`wasmtime_memory_creator_t`; only the pinned version is known to call it this way.
"""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass, field

import wasmtime
from wasmtime import _ffi as wasmtime_c

from sandbox.errors import HostOutOfMemory
from sandbox.wasi import GuestFault

_PROT_NONE = 0
_PROT_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_MAP_NORESERVE = 0x4000 if hasattr(mmap, "MAP_POPULATE") else 0  # Linux's; others need no such flag
_MAP_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_mprotect = _libc.mprotect
_mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_munmap = _libc.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)

_Finalizer = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class LinearMemory:
    """One program's memory: `size_bytes` of `reserved_bytes` can be used."""

    def __init__(self, size_bytes: int, reserved_bytes: int, guard_bytes: int) -> None:
        self.size_bytes = 0
        self.reserved_bytes = reserved_bytes
        self._mapped_bytes = reserved_bytes + guard_bytes
        base = _mmap(None, self._mapped_bytes, _PROT_NONE, _MAP_FLAGS, -1, 0)
        if base in (None, _MAP_FAILED):
            raise HostOutOfMemory("no address space for a program's memory")
        self.base: int = base
        self.resize(size_bytes)

    def resize(self, size_bytes: int) -> None:
        """Make the first `size_bytes` usable. Raises HostOutOfMemory."""
        if size_bytes > self.reserved_bytes or (
            size_bytes and _mprotect(self.base, size_bytes, _PROT_READ_WRITE) != 0
        ):
            raise HostOutOfMemory(f"no {size_bytes} bytes for a program's memory")
        self.size_bytes = size_bytes

    def read(self, address: int, size: int) -> bytes:
        """Return a copy of `size` bytes. Raises GuestFault."""
        self.check(address, size)
        return ctypes.string_at(self.base + address, size)

    def write(self, address: int, content: bytes) -> None:
        """Copy `content` into the memory. Raises GuestFault."""
        self.check(address, len(content))
        ctypes.memmove(self.base + address, content, len(content))

    def check(self, address: int, size: int) -> None:
        """Raises GuestFault unless all of the `size` bytes are inside."""
        if address + size > self.size_bytes:
            raise GuestFault

    def release(self) -> None:
        """Give the address space back. The memory cannot be used after it."""
        self.size_bytes = 0
        _munmap(self.base, self._mapped_bytes)


@dataclass(slots=True)
class MemoryBudget:
    """What the run at hand may have, and what became of it. The worker runs one program at once.

    `refused_bytes` is the first size that the limit did not allow. `host_failure` says that the
    device could not give what the limit allowed.
    """

    limit_bytes: int
    refused_bytes: int | None = None
    host_failure: HostOutOfMemory | None = None
    memory: LinearMemory | None = None

    def read(self, address: int, size: int) -> bytes:
        """Return a copy of `size` bytes of the program's memory. Raises GuestFault."""
        return self._present().read(address, size)

    def write(self, address: int, content: bytes) -> None:
        """Copy `content` into the program's memory. Raises GuestFault."""
        self._present().write(address, content)

    def check(self, address: int, size: int) -> None:
        """Raises GuestFault unless all of the `size` bytes are in the program's memory."""
        self._present().check(address, size)

    def allows(self, size_bytes: int) -> bool:
        """Say whether the memory may have this size, and remember the first time it may not."""
        if size_bytes > self.limit_bytes and self.refused_bytes is None:
            self.refused_bytes = size_bytes
        return size_bytes <= self.limit_bytes

    def _present(self) -> LinearMemory:
        if self.memory is None:
            raise GuestFault  # a program without memory has no valid pointer
        return self.memory


@dataclass(slots=True)
class MemoryKeeper:
    """Serves an engine's requests for memories. Must live as long as the engine.

    Its callbacks are called from native code, where an exception would be lost: they return an
    error instead.
    """

    budget: MemoryBudget = field(default_factory=lambda: MemoryBudget(limit_bytes=0))
    _memories: dict[int, LinearMemory] = field(default_factory=dict)
    _next_id: int = 1
    _callbacks: list[object] = field(default_factory=list)

    def attach(self, config: wasmtime.Config) -> None:
        """Make engines of `config` ask this keeper for their memories."""
        self._callbacks = [
            wasmtime_c.wasmtime_new_memory_callback_t(self._on_new),
            wasmtime_c.wasmtime_memory_get_callback_t(self._on_get),
            wasmtime_c.wasmtime_memory_grow_callback_t(self._on_grow),
            _Finalizer(self._on_release),
            _Finalizer(_do_nothing),
        ]
        creator = wasmtime_c.wasmtime_memory_creator_t(
            new_memory=self._callbacks[0], finalizer=self._callbacks[4]
        )
        wasmtime_c.wasmtime_config_host_memory_creator_set(config.ptr(), ctypes.byref(creator))

    def _on_new(  # the engine's signature
        self,
        _env: object,
        _type: object,
        minimum: int,
        _maximum: int,
        reserved_bytes: int,
        guard_bytes: int,
        into: ctypes._Pointer[wasmtime_c.wasmtime_linear_memory_t],
    ) -> int:
        if not self.budget.allows(minimum):
            return _error("the limit is smaller than the memory it starts with")
        try:
            memory = LinearMemory(minimum, reserved_bytes, guard_bytes)
        except HostOutOfMemory as failure:
            self.budget.host_failure = failure
            return _error(str(failure))
        self.budget.memory = memory
        memory_id, self._next_id = self._next_id, self._next_id + 1
        self._memories[memory_id] = memory
        _, get, grow, release, _ = self._callbacks
        into[0] = wasmtime_c.wasmtime_linear_memory_t(memory_id, get, grow, release)
        return 0

    def _on_get(
        self,
        memory_id: int,
        size_bytes: ctypes._Pointer[ctypes.c_size_t],
        capacity_bytes: ctypes._Pointer[ctypes.c_size_t],
    ) -> int:
        memory = self._memories[memory_id]
        size_bytes[0] = memory.size_bytes
        capacity_bytes[0] = memory.reserved_bytes
        return memory.base

    def _on_grow(self, memory_id: int, size_bytes: int) -> int:
        if not self.budget.allows(size_bytes):
            return _error("over the limit")
        try:
            self._memories[memory_id].resize(size_bytes)
        except HostOutOfMemory as failure:
            self.budget.host_failure = failure
            return _error(str(failure))
        return 0

    def _on_release(self, memory_id: int) -> None:
        self._memories.pop(memory_id).release()


def _error(message: str) -> int:
    """Return an error of the engine's, which owns it from now on."""
    error = wasmtime_c.wasmtime_error_new(message.encode() + b"\0")
    return ctypes.cast(error, ctypes.c_void_p).value or 0


def _do_nothing(_env: object) -> None:
    """Let the engine release its creator, which belongs to the keeper."""
