"""A libp2p stream as `p2p.streams.Stream`."""

from __future__ import annotations

import contextlib
import struct
from typing import Final, cast

import trio
from libp2p.abc import INetStream
from libp2p.io.exceptions import IOException
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import TYPE_DATA, YAMUX_HEADER_FORMAT, YamuxStream

from p2p.circuit_address import carrier_of
from p2p.errors import StreamBroken
from p2p.identity import peer_of
from p2p.streams import READ_BYTES_MAX
from wire.ids import PeerId

_WINDOW_POLL_S: Final = 0.01
_SHORT_BYTES_MAX: Final = 4 * 1024


class MuxedStream:
    """One Yamux stream. Waits for a slow reader as long as its caller lets it.

    libp2p itself breaks a stream whose reader pauses for five seconds.
    """

    def __init__(self, stream: INetStream) -> None:
        self.peer: PeerId = peer_of(stream.muxed_conn.peer_id)
        self.via: PeerId | None = carrier_of(stream.muxed_conn)
        self._stream = stream
        self._yamux = cast(YamuxStream, stream.muxed_stream)  # type: ignore[attr-defined] # NetStream
        self._cut_short = False

    async def receive_some(self, bytes_max: int = READ_BYTES_MAX) -> bytes:
        """Return what is there, waiting for at least one byte; b"" at the end."""
        return await self._receive_open(bytes_max) or await self._receive(bytes_max)

    async def _receive_open(self, bytes_max: int) -> bytes:
        """Return what is there or comes while the stream is open, b"" when it is not any more.

        What libp2p does then, without its locks, each of which costs a turn of trio's loop.
        """
        yamux = self._yamux
        connection, stream_id = yamux.conn, yamux.stream_id
        if connection.stream_buffers.get(stream_id):
            await trio.lowlevel.checkpoint()
        while not (yamux.recv_closed or yamux.closed or connection.event_shutting_down.is_set()):
            buffer, event = (
                connection.stream_buffers.get(stream_id),
                connection.stream_events.get(stream_id),
            )
            if buffer is None or event is None:
                return b""
            if buffer:
                received = bytes(memoryview(buffer)[:bytes_max])
                del buffer[:bytes_max]
                await self._open_window(len(buffer))
                return received
            await event.wait()
            if connection.stream_events.get(stream_id) is event:
                connection.stream_events[stream_id] = trio.Event()
        return b""

    async def _open_window(self, buffered_bytes: int) -> None:
        """Let the peer send more when half of its window is used."""
        yamux = self._yamux
        if 2 * (yamux.recv_window + buffered_bytes) <= yamux.target_recv_window:
            await yamux._auto_tune_and_send_window_update()

    async def _receive(self, bytes_max: int) -> bytes:
        try:
            return await self._stream.read(bytes_max)
        except StreamEOF as error:
            # libp2p calls the loss of the whole connection an end of file, too.
            if self._yamux.reset_received or self._yamux.conn.event_shutting_down.is_set():
                raise StreamBroken("the connection was lost") from error
            return b""
        except (IOException, MuxedStreamError) as error:
            raise StreamBroken("the peer reset the stream") from error

    async def send_all(self, frame: bytes) -> None:
        """Send all of `frame`. A stream whose sending was cancelled half-way is broken."""
        if self._cut_short:
            raise StreamBroken("an earlier send was cancelled half-way")
        rest = memoryview(frame)
        self._cut_short = True
        while rest:
            room = await self._window()
            try:
                await self._send(bytes(rest[:room]))
            except (IOException, MuxedStreamError) as error:
                raise StreamBroken("the stream is closed") from error
            rest = rest[room:]
        self._cut_short = False

    async def _send(self, piece: bytes) -> None:
        """Send at most as much as there is window.

        A short piece goes as libp2p would send it, without its locks: nobody else writes here.
        """
        yamux = self._yamux
        is_open = not (yamux.send_closed or yamux.closed)
        if len(piece) > _SHORT_BYTES_MAX or len(piece) > yamux.send_window or not is_open:
            await self._stream.write(piece)
            return
        header = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_DATA, 0, yamux.stream_id, len(piece))
        yamux.send_window -= len(piece)
        await yamux.conn._write_frame(header + piece)

    async def _window(self) -> int:
        while self._yamux.send_window <= 0 and not self._yamux.send_closed:  # noqa: ASYNC110 - no event
            await trio.sleep(_WINDOW_POLL_S)
        return max(1, self._yamux.send_window)

    async def aclose(self) -> None:
        """Finish sending and give up the stream; one that is broken is given up silently."""
        with contextlib.suppress(IOException, MuxedStreamError):
            await self._stream.close()

    async def reset(self) -> None:
        """Drop the stream in both directions."""
        await self._stream.reset()
