"""A child process of ours at the other end of a socketpair, seen from the trio side.

Started by exec with an environment that holds nothing of the daemon's, in a process group of its
own (Ctrl-C at the terminal is the daemon's business). It is started from the thread that runs trio
and not from a helper thread: Linux sends the "parent died" signal when the *thread* that started
the child ends.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

import sandbox
from sandbox.errors import ChildBroken
from sandbox.frames import LENGTH, body_bytes, decode_frame, encode_frame

LAST_WORDS_BYTES_MAX = 64 * 1024
_RIGHTS = (socket.SOL_SOCKET, socket.SCM_RIGHTS)
_IMPORT_ROOT = Path(sandbox.__file__).parent.parent

Frame = TypeVar("Frame")


class Child:
    """One child. Whoever starts it must `end` it, whatever happens in between."""

    def __init__(self, module: str) -> None:
        """Start `python -m module`. Raises ChildBroken if the system cannot."""
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise ChildBroken(f"cannot start {module}: {error}") from error
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    [sys.executable, "-P", "-m", module, str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=(theirs.fileno(),),
                    cwd="/",
                    env=_environment(),
                    process_group=0,
                )
            except OSError as error:
                ours.close()
                raise ChildBroken(f"cannot start {module}: {error}") from error
        self._socket = trio.socket.from_stdlib_socket(ours)

    @property
    def pid(self) -> int:
        """The process id, valid until `end` returns."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    async def send(self, frame: msgspec.Struct, descriptor: int) -> None:
        """Send `frame` with a file descriptor. Raises ChildBroken."""
        length, body = encode_frame(frame)
        rights = (*_RIGHTS, descriptor.to_bytes(4, sys.byteorder))
        try:
            sent_bytes = await self._socket.sendmsg([length], [rights])
            if sent_bytes != LENGTH.size:
                raise ChildBroken("the socket took a part of four bytes")
            view = memoryview(body)
            while view:
                view = view[await self._socket.send(view) :]
        except (OSError, trio.ClosedResourceError) as error:
            raise ChildBroken(f"it does not listen: {error}") from error

    async def receive(self, decoder: msgspec.msgpack.Decoder[Frame]) -> Frame:
        """Return the child's next frame. Raises ChildBroken, also when the child has gone."""
        prefix = await self._receive_exactly(LENGTH.size)
        return decode_frame(
            await self._receive_exactly(body_bytes(LENGTH.unpack(prefix)[0])), decoder
        )

    def kill(self) -> None:
        """End the process at once. It stays for `wait` to collect."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def wait(self) -> int:
        """Return the exit status once the process has ended, negative for a signal."""
        if self._process.poll() is None:
            await _until_dead(self._process)
        return self._process.wait()

    async def end(self) -> str:
        """Kill, collect and close; return what it wrote to its standard error, one line.

        Not interrupted by cancellation: a killed process is gone within moments.
        """
        with trio.CancelScope(shield=True):
            self.kill()
            await self.wait()
        self._socket.close()
        stderr = self._process.stderr
        if stderr is None or stderr.closed:
            return ""
        with stderr:
            os.set_blocking(stderr.fileno(), False)
            words = stderr.read(LAST_WORDS_BYTES_MAX) or b""
        lines = words.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip()[:500] if lines else ""

    async def _receive_exactly(self, size: int) -> bytearray:
        received = bytearray(size)
        view = memoryview(received)
        try:
            while view:
                received_bytes = await self._socket.recv_into(view)
                if received_bytes == 0:
                    raise ChildBroken("it has gone")
                view = view[received_bytes:]
        except (OSError, trio.ClosedResourceError) as error:
            raise ChildBroken(f"it does not speak: {error}") from error
        return received


def _environment() -> dict[str, str]:
    """Return what a child needs to find its code, and to use the memory limits well."""
    threads = min(4, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else 2
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return kept | {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(_IMPORT_ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "RAYON_NUM_THREADS": str(threads),
        "MALLOC_ARENA_MAX": "2",
    }


async def _until_dead(process: subprocess.Popen[bytes]) -> None:
    """Return once `process` has ended and can be collected."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # not Linux, or a kernel or container without it
        await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
        return
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
