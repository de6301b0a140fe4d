"""Frames on a stream: four bytes of length, big-endian, then as many bytes.

A length that is zero or over the limit is refused before a byte of the frame is kept. Streams are
read in big pieces into one buffer: each read costs libp2p a window update, however short it is.
"""

from __future__ import annotations

import trio

from p2p.errors import StreamBroken
from p2p.streams import READ_BYTES_MAX, Stream
from wire.codec import FRAME_BYTES_MAX, FrameCodec
from wire.errors import MalformedFrame

LENGTH_BYTES = 4
THREAD_BYTES_MIN = 64 * 1024


def framed(frame: bytes) -> bytes:
    """Return `frame` as it travels, behind its length."""
    return len(frame).to_bytes(LENGTH_BYTES, "big") + frame


class FrameParser:
    """Cuts the bytes of a stream into frames, however the bytes were split on the way."""

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()

    @property
    def buffered_bytes(self) -> int:
        """How many bytes wait for the rest of their frame, or to be taken."""
        return len(self._buffer)

    def feed(self, received: bytes) -> None:
        """Add bytes; take all frames out of them before more are added, which bounds the buffer."""
        self._buffer += received

    def take(self) -> bytes | None:
        """Return the next whole frame, None until more bytes come. Raises MalformedFrame."""
        if len(self._buffer) < LENGTH_BYTES:
            return None
        size_bytes = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
        if not 0 < size_bytes <= self.frame_bytes_max:
            raise MalformedFrame(f"frame of {size_bytes} bytes, at most {self.frame_bytes_max}")
        end = LENGTH_BYTES + size_bytes
        if len(self._buffer) < end:
            return None
        frame = bytes(memoryview(self._buffer)[LENGTH_BYTES:end])
        del self._buffer[:end]  # moves no bytes: a bytearray keeps its start
        return frame


class FrameReader:
    """Reads frames from a stream, one task at a time."""

    def __init__(self, stream: Stream, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._stream = stream
        self._parser = FrameParser(frame_bytes_max)

    def allow(self, frame_bytes_max: int) -> None:
        """Change the longest frame that is accepted from now on."""
        self._parser.frame_bytes_max = frame_bytes_max

    async def receive(self) -> bytes | None:
        """Return the next frame; None when the peer has finished.

        Raises StreamBroken, also when the stream ends inside a frame, and MalformedFrame.
        """
        while (frame := self._parser.take()) is None:
            received = await self._stream.receive_some(READ_BYTES_MAX)
            if not received:
                if self._parser.buffered_bytes:
                    raise StreamBroken("the stream ended inside a frame")
                return None
            self._parser.feed(received)
        return frame


async def open_frame(codec: FrameCodec, frame: bytes) -> object:
    """Return the message in `frame`, or an UnknownMessage. Raises MalformedFrame.

    A big frame may hold hundreds of signatures, some 30 ms: it is decoded in a thread.
    """
    if len(frame) <= THREAD_BYTES_MIN:
        return codec.decode(frame)
    return await trio.to_thread.run_sync(codec.decode, frame)
