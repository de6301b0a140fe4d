"""What the pool and its children say to each other over a socketpair.

A frame is a length, four bytes little-endian, and one MessagePack struct. A file descriptor may
travel with the length. Children are ours but run hostile code, so what they send is bounded and
decoded like a stranger's.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Annotated, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from sandbox.errors import ChildBroken
from sandbox.job import Execution, Job
from wire.execution import ExecutionFailure
from wire.limits import CONTENT_BYTES_MAX, MIB

FRAME_BYTES_MAX = CONTENT_BYTES_MAX + 16 * MIB  # input or output, and all arguments
DETAIL_LETTERS_MAX = 1_000
LENGTH = struct.Struct("<I")

_Detail = Annotated[str, Meta(max_length=DETAIL_LETTERS_MAX)]


class Run(Struct, frozen=True, tag="run"):
    """To a worker: run `job`. The module's cache entry comes as a descriptor with the frame."""

    job: Job
    cache_key: Annotated[bytes, Meta(min_length=32, max_length=32)]


class Ready(Struct, frozen=True, tag="ready"):
    """From a worker, once: it can run jobs. `enforced` names what it gave up."""

    engine_profile: Annotated[str, Meta(max_length=64)]
    enforced: Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=32)]


class Started(Struct, frozen=True, tag="started"):
    """From a worker: the module is loaded and runs from now on. The wall clock starts."""


class Ended(Struct, frozen=True, tag="ended"):
    """From a worker: the run has ended."""

    execution: Execution


class Refused(Struct, frozen=True, tag="refused"):
    """From a worker or the compiler: not on this device."""

    reason: ExecutionFailure
    detail: _Detail


class Unusable(Struct, frozen=True, tag="unusable"):
    """From a worker: the cache entry is damaged, forged or of another engine."""

    detail: _Detail


class Compile(Struct, frozen=True, tag="compile"):
    """To the compiler, once: write native code to the descriptor that comes with the frame."""

    module: bytes
    cpu_s_max: Annotated[int, Meta(ge=1)]
    memory_bytes_max: Annotated[int, Meta(ge=1)]


class Compiled(Struct, frozen=True, tag="compiled"):
    """From the compiler: the native code is written."""

    native_bytes: Annotated[int, Meta(ge=0)]


ToWorker: TypeAlias = Run
FromWorker: TypeAlias = Ready | Started | Ended | Refused | Unusable
ToCompiler: TypeAlias = Compile
FromCompiler: TypeAlias = Compiled | Refused

Frame = TypeVar("Frame")


def encode_frame(frame: Struct) -> tuple[bytes, bytes]:
    """Return the length and the body of `frame`. Raises ChildBroken if it is too large."""
    body = msgspec.msgpack.encode(frame)
    return LENGTH.pack(body_bytes(len(body))), body


def body_bytes(length: int) -> int:
    """Return `length` if a frame may have it. Raises ChildBroken."""
    if not 0 < length <= FRAME_BYTES_MAX:
        raise ChildBroken(f"a frame of {length} bytes")
    return length


def decode_frame(body: bytes | bytearray, decoder: msgspec.msgpack.Decoder[Frame]) -> Frame:
    """Return the struct in `body`. Raises ChildBroken and nothing else."""
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ChildBroken(f"a frame that cannot be read: {error}") from error


def send(connection: socket.socket, frame: Struct) -> None:
    """Send `frame` from a child, blocking."""
    length, body = encode_frame(frame)
    connection.sendall(length + body if len(body) < MIB else length)
    if len(body) >= MIB:
        connection.sendall(body)


def receive(
    connection: socket.socket, decoder: msgspec.msgpack.Decoder[Frame]
) -> tuple[Frame, int] | None:
    """Return the next frame and its descriptor in a child, blocking; None if the pool has gone.

    Raises ChildBroken. The descriptor is the caller's to close.
    """
    prefix, descriptors, _, _ = socket.recv_fds(connection, LENGTH.size, 1, socket.MSG_WAITALL)
    if len(prefix) < LENGTH.size:
        for descriptor in descriptors:
            os.close(descriptor)
        return None
    if len(descriptors) != 1:
        raise ChildBroken("a frame without its file descriptor")
    body = bytearray(body_bytes(LENGTH.unpack(prefix)[0]))
    view = memoryview(body)
    while view:
        received_bytes = connection.recv_into(view)
        if received_bytes == 0:
            os.close(descriptors[0])
            return None
        view = view[received_bytes:]
    return decode_frame(body, decoder), descriptors[0]
