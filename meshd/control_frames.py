"""The frames of the control socket: four bytes of length (big-endian), then a MessagePack map.

docs/protocol/control.md describes what the frames say. This module is all that both sides share; it
imports nothing that is slow, because `meshctl` starts with it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, cast

import msgpack

from meshd.control_errors import ControlError

PROTOCOL_LOWEST = 1
PROTOCOL_HIGHEST = 1
FRAME_BYTES_MAX = 1 << 20
CHUNK_BYTES = 256 * 1024
ANSWER_BYTES_MAX = 32 << 20  # of an answer that travels in parts, such as a list of 2,000 devices
LENGTH = struct.Struct(">I")

Frame: TypeAlias = dict[str, Any]


class MalformedControlFrame(ControlError):
    """Bytes that came are no frame: end the connection; or a frame cannot be made: mend it."""


def encode_frame(frame: Mapping[str, object]) -> bytes:
    """Return `frame` as it travels, its length first. Raises MalformedControlFrame."""
    try:
        encoded = cast(bytes, msgpack.packb(frame))
    except UnicodeEncodeError as error:
        raise MalformedControlFrame(f"{error.object!r} is not UTF-8") from error
    return with_length(encoded)


def with_length(encoded: bytes) -> bytes:
    """Return an encoded map with its length first. Raises MalformedControlFrame."""
    if len(encoded) > FRAME_BYTES_MAX:
        raise MalformedControlFrame(
            f"{len(encoded)} bytes fit no frame of at most {FRAME_BYTES_MAX}: submit fewer tasks at"
            " once, or give long arguments on standard input"
        )
    return LENGTH.pack(len(encoded)) + encoded


def frame_length(header: bytes) -> int:
    """Return how many bytes follow a frame's `header`. Raises MalformedControlFrame."""
    (length,) = LENGTH.unpack(header)
    if length > FRAME_BYTES_MAX:
        raise MalformedControlFrame(f"frame of {length} bytes, at most {FRAME_BYTES_MAX}")
    return int(length)


def decode_frame(encoded: bytes) -> Frame:
    """Return the map in `encoded`, whose size the caller bounds. Raises MalformedControlFrame."""
    try:
        frame = msgpack.unpackb(encoded)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise MalformedControlFrame(f"frame: {error}") from error
    if not isinstance(frame, dict):
        raise MalformedControlFrame("a frame is a map")
    return frame


def cut(content: bytes | memoryview) -> Iterator[bytes]:
    """Yield `content` in chunks of at most CHUNK_BYTES; nothing for nothing."""
    view = memoryview(content)
    for start in range(0, len(view), CHUNK_BYTES):
        yield bytes(view[start : start + CHUNK_BYTES])
