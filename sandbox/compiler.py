"""The compiler: one process per module, under limits of its own.

Started as `python -m sandbox.compiler DESCRIPTOR PARENT`, like a worker. A module can make a
compiler take minutes and gigabytes, and running out of memory aborts the process, so it happens
where nothing else lives. It reads one module, writes native code to the descriptor it was given,
behind room for the authentication code that the pool adds, and ends.
"""

from __future__ import annotations

import os
import resource

import msgspec

from sandbox.cache_entry import CODE_BYTES
from sandbox.child_main import connect_to_pool
from sandbox.engine import compile_module
from sandbox.errors import UnsupportedModule
from sandbox.frames import (
    DETAIL_LETTERS_MAX,
    Compile,
    Compiled,
    FromCompiler,
    Refused,
    ToCompiler,
    receive,
    send,
)
from sandbox.hardening import harden
from sandbox.precheck import check_module
from wire.execution import ExecutionFailure
from wire.limits import MIB

NATIVE_BYTES_MAX = 512 * MIB
NICENESS = 10


def compile_into(request: Compile, output: int) -> FromCompiler:
    """Write native code for the module to `output`, and say what came of it."""
    try:
        check_module(request.module)
        native = compile_module(request.module)
    except UnsupportedModule as error:
        return Refused(error.reason, str(error)[:DETAIL_LETTERS_MAX])
    except MemoryError:
        return Refused(ExecutionFailure.COMPILER_LIMIT, "compiling it takes too much memory")
    if len(native) > NATIVE_BYTES_MAX:
        return Refused(ExecutionFailure.COMPILER_LIMIT, f"its native code has {len(native)} bytes")
    view = memoryview(native)
    while view:
        view = view[os.pwrite(output, view, CODE_BYTES + len(native) - len(view)) :]
    return Compiled(len(native))


def limit(request: Compile) -> None:
    """Have the kernel end this process when it takes more than it was given."""
    used_s = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    soft = used_s + request.cpu_s_max
    resource.setrlimit(resource.RLIMIT_CPU, (soft, soft + 5))  # first SIGXCPU, then SIGKILL
    resource.setrlimit(resource.RLIMIT_AS, (request.memory_bytes_max, request.memory_bytes_max))


def main() -> None:
    """Compile the one module that the pool sends."""
    pool, parent_pid = connect_to_pool(niceness=NICENESS)
    harden(parent_pid=parent_pid)
    received = receive(pool, msgspec.msgpack.Decoder(ToCompiler))
    if received is not None:
        request, output = received
        limit(request)
        send(pool, compile_into(request, output))


if __name__ == "__main__":
    main()
