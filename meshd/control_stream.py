"""One client's connection as frames: bounded both ways, so that no client holds the daemon up."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable

import trio

from meshd.control_errors import ClientMisbehaved
from meshd.control_frames import LENGTH, MalformedControlFrame, frame_length

SEND_TIMEOUT_S = 10
UPLOAD_TIMEOUT_S = 30
_RECEIVE_BYTES = 64 * 1024


class FrameStream:
    """Frames over `stream`. A connection carries one request at a time."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._received = bytearray()

    async def send(self, frame: bytes) -> None:
        """Send an encoded frame. Raises ClientMisbehaved if the client does not take it."""
        try:
            with trio.fail_after(SEND_TIMEOUT_S):
                await self._stream.send_all(frame)
        except trio.TooSlowError as error:
            raise ClientMisbehaved(f"took no bytes for {SEND_TIMEOUT_S} s") from error
        except trio.BrokenResourceError as error:
            raise ClientMisbehaved("hung up") from error

    async def send_each(self, frames: Iterable[bytes]) -> None:
        """Send several encoded frames, each bounded as `send` is."""
        for frame in frames:
            await self.send(frame)

    async def receive(self) -> bytes | None:
        """Return the next frame without its length, None at the end. Raises ClientMisbehaved."""
        if not await self._fill(LENGTH.size):
            return None
        try:
            length = frame_length(self._take(LENGTH.size))
        except MalformedControlFrame as error:
            raise ClientMisbehaved(str(error)) from error
        if length and not await self._fill(length):
            raise ClientMisbehaved("ended in the middle of a frame")
        return self._take(length)

    async def receive_upload(self) -> bytes:
        """Return the next frame of an upload, which must come soon. Raises ClientMisbehaved."""
        try:
            with trio.fail_after(UPLOAD_TIMEOUT_S):
                frame = await self.receive()
        except trio.TooSlowError as error:
            raise ClientMisbehaved(f"sent nothing for {UPLOAD_TIMEOUT_S} s") from error
        if frame is None:
            raise ClientMisbehaved("ended in the middle of an upload")
        return frame

    async def answer_with(self, answer: Callable[[], Awaitable[None]]) -> None:
        """Run `answer`, but only as long as the client is there and listens.

        Raises what `answer` raises, and ClientMisbehaved when the client hung up, or spoke before
        it had its answer, meanwhile.
        """
        failure: Exception | None = None
        is_answered = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_gone, nursery.cancel_scope)
            try:
                await answer()
                is_answered = True
            except Exception as error:  # noqa: BLE001 - carried out of the nursery, raised below
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if not is_answered:
            raise ClientMisbehaved("hung up before it had its answer")

    async def _cancel_when_gone(self, scope: trio.CancelScope) -> None:
        if not self._received:
            with contextlib.suppress(trio.BrokenResourceError):  # that is gone as well
                self._received += await self._stream.receive_some(_RECEIVE_BYTES)
        scope.cancel()

    async def _fill(self, wanted: int) -> bool:
        """Have `wanted` bytes at hand; False if the client ended before the first of them."""
        while len(self._received) < wanted:
            try:
                received = await self._stream.receive_some(_RECEIVE_BYTES)
            except trio.BrokenResourceError as error:
                raise ClientMisbehaved("hung up") from error
            if not received:
                if self._received:
                    raise ClientMisbehaved("ended in the middle of a frame")
                return False
            self._received += received
        return True

    def _take(self, count: int) -> bytes:
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken
