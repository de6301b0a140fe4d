"""Yamux with bounds: how fast one connection is read, how much it may buffer, whole frames only.

libp2p's answers every frame as fast as it comes, lets a peer ignore the windows it was given, and
may be cancelled in the middle of a frame.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

import trio
from libp2p.abc import IMuxedConn, ISecureConn
from libp2p.custom_types import TMuxerOptions, TProtocol, TSecurityOptions
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import MultiselectClientError, MultiselectError
from libp2p.stream_muxer.yamux.yamux import (
    FLAG_SYN,
    HEADER_SIZE,
    TYPE_DATA,
    TYPE_PING,
    YAMUX_HEADER_FORMAT,
    Yamux,
)
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL
from libp2p.transport.exceptions import MuxerUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader

from p2p.conduct import Offence
from p2p.dialling import causes_of
from p2p.errors import ForeignKey
from p2p.guards import NEGOTIATE_S
from p2p.identity import peer_of
from p2p.judge import Judge, Pacer
from p2p.prompt_lock import PromptLock
from p2p.rate_limit import Rate, TokenBucket
from p2p.transport import READ_BYTES_MAX, PeerStalled
from wire.ids import PeerId

MEMBER_BUFFER_BYTES_MAX: Final = 8 << 20
STRANGER_BUFFER_BYTES_MAX: Final = 1 << 20

# A frame is a token, which is some 0.2 ms of CPU. A device that is linked and fetches as fast as it
# may sends some 750 of them a second.
MEMBER_RATE: Final = Rate(per_s=1_000, burst=4_000)
STRANGER_RATE: Final = Rate(per_s=50, burst=500)
_STREAM_TOKENS: Final = 20  # a stranger's new stream, which is negotiated: 5 ms
# A member that fetches many small blobs opens as many streams as it can: it waits, and is no flood.
MEMBER_STREAMS_RATE: Final = Rate(per_s=60, burst=300)
_PING_TOKENS: Final = 4  # it is answered at once
_TOKEN_BYTES: Final = 64 * 1024
FRAMES_AT_ONCE_MAX: Final = 16  # then others have their turn: a millisecond or two
_STRAY_TOKEN_BYTES: Final = 16 * 1024  # of data that nobody reads
_LAST_WORD_S: Final = 1.0  # how long a banned peer has to read why
# After a longer one others have their turn; after short ones, every `AT_ONCE_MAX`th time.
SHORT_FRAME_BYTES_MAX: Final = 4 * 1024

_Frame: TypeAlias = tuple[int, int, int, int]  # type, flags, stream id and length


@dataclass(frozen=True, slots=True)
class PeerRules:
    """What is known about the peer of a connection: whether it was let in, and how it behaves."""

    peer: PeerId
    is_admitted: Callable[[], bool]
    judge: Judge

    @property
    def buffer_bytes_max(self) -> int:
        """How many bytes of one connection may wait to be read."""
        return MEMBER_BUFFER_BYTES_MAX if self.is_admitted() else STRANGER_BUFFER_BYTES_MAX


class BoundedYamux(Yamux):
    """One connection, read as `rules` say."""

    def __init__(self, conn: ISecureConn, peer_id: ID, rules: PeerRules) -> None:
        super().__init__(conn, peer_id, is_initiator=conn.is_initiator, on_close=_nothing)
        self._frames = _FramesOf(conn, self._is_done_with)
        self.secured_conn = cast(ISecureConn, self._frames)
        self.streams_lock = cast(trio.Lock, PromptLock())
        self._write_lock = cast(trio.Lock, PromptLock())
        self._rules = rules
        self._is_member = False
        self._pacer = self._new_pacer(STRANGER_RATE)
        self._new_streams = TokenBucket(MEMBER_STREAMS_RATE, now_s=trio.current_time())

    def _new_pacer(self, rate: Rate) -> Pacer:
        rules = self._rules
        return Pacer(rate, peer=rules.peer, what="frames of Yamux", judge=rules.judge)

    async def _is_done_with(self, header: bytes) -> bool:
        """Let a frame in when its time has come; True if nothing of it is left for libp2p to do."""
        frame = _parsed(header)
        await self._admit(frame)
        return self._take_data(frame)

    def _take_data(self, frame: _Frame) -> bool:
        """Take in a frame that is nothing but data and all there: nearly all are.

        What libp2p does with one, without its locks, timers and lines for the log.
        """
        kind, flags, stream_id, length = frame
        stream = self.streams.get(stream_id)
        is_plain = kind == TYPE_DATA and not flags and stream is not None
        if not is_plain or self._frames.buffered_bytes < length:
            return False
        assert stream is not None, "of an open stream"  # noqa: S101
        self._refuse_excess(length)
        self.stream_buffers[stream_id] += self._frames.take(length)
        stream.recv_window -= length
        self.stream_events[stream_id].set()
        return True

    async def _admit(self, frame: _Frame) -> None:
        """Wait until the time of a frame has come, or end the connection."""
        rules = self._rules
        if rules.is_admitted() is not self._is_member:
            self._is_member = not self._is_member
            self._pacer = self._new_pacer(MEMBER_RATE if self._is_member else STRANGER_RATE)
        await self._pacer.pace(self._tokens(frame))
        if self._is_member and _opens_stream(frame):
            await trio.sleep(self._new_streams.owe(1, now_s=trio.current_time()))
        if rules.judge.is_banned(rules.peer):
            await trio.sleep(_LAST_WORD_S)
            raise _Misbehaved("banned")

    def _tokens(self, frame: _Frame) -> float:
        """Return what a frame costs; end them all if it exceeds the window of its stream."""
        kind, flags, stream_id, length = frame
        if kind == TYPE_PING:
            return _PING_TOKENS
        if flags & FLAG_SYN:
            return 1 if self._is_member else _STREAM_TOKENS
        if kind != TYPE_DATA:
            return 1
        stream = self.streams.get(stream_id)
        if stream is None:
            return 1 + length / _STRAY_TOKEN_BYTES
        if length > stream.recv_window:
            rules = self._rules
            rules.judge.blame(rules.peer, Offence.MALFORMED, "more than the window of a stream")
            raise _Misbehaved("more than the window of a stream")
        return 1 + length / _TOKEN_BYTES

    async def _read_data_body(self, length: int) -> bytes:
        self._refuse_excess(length)
        return await super()._read_data_body(length)

    def _refuse_excess(self, length: int) -> None:
        buffered = sum(map(len, self.stream_buffers.values()))
        if buffered + length > self._rules.buffer_bytes_max:
            # The one error that makes libp2p close the connection from wherever it reads.
            raise trio.TooSlowError

    async def _write_frame(self, data: bytes) -> None:
        # A frame larger than a Noise message is two writes; between them nobody may be cancelled.
        async with self._write_lock:
            with trio.CancelScope(shield=True):
                await self._write(data)
        if len(data) > SHORT_FRAME_BYTES_MAX:
            await trio.lowlevel.checkpoint()

    async def _write(self, data: bytes) -> None:
        try:
            await self.secured_conn.write(data)
        except Exception as error:
            if any(isinstance(cause, PeerStalled) for cause in causes_of(error)):
                self._rules.judge.blame(self._rules.peer, Offence.STALLED, "a full socket")
            raise


def _parsed(header: bytes) -> _Frame:
    _, kind, flags, stream_id, length = struct.unpack(YAMUX_HEADER_FORMAT, header)
    return kind, flags, stream_id, length


def _opens_stream(frame: _Frame) -> bool:
    kind, flags, _, _ = frame
    return kind != TYPE_PING and bool(flags & FLAG_SYN)


class _FramesOf:
    """A connection whose frames are first offered to `is_done_with`, by their headers.

    libp2p reads on from the first frame that this was not done with.
    """

    def __init__(self, conn: ISecureConn, is_done_with: Callable[[bytes], Awaitable[bool]]) -> None:
        self._conn = conn
        self._is_done_with = is_done_with
        self._buffer = bytearray()  # at most what one message of Noise brings
        self._body_bytes_left = 0
        self._frames_count = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._conn, name)

    @property
    def buffered_bytes(self) -> int:
        """How many bytes are here already."""
        return len(self._buffer)

    def take(self, length: int) -> bytes:
        """Return the next bytes, which have to be here."""
        taken = bytes(memoryview(self._buffer)[:length])
        del self._buffer[:length]  # moves no bytes: a bytearray keeps its start
        return taken

    async def read(self, n: int | None = None) -> bytes:
        """Return some bytes of a body, or a header: `n` is as many as are missing."""
        if self._body_bytes_left:
            await self._fill(1)
            taken = self.take(min(self._body_bytes_left, n or READ_BYTES_MAX))
            self._body_bytes_left -= len(taken)
            return taken
        header = await self._next_header()
        while await self._is_done_with(header):
            header = await self._next_header()
        kind, _, _, length = _parsed(header)
        self._body_bytes_left = length if kind == TYPE_DATA else 0
        return header

    async def _next_header(self) -> bytes:
        self._frames_count += 1
        if not self._frames_count % FRAMES_AT_ONCE_MAX:
            await trio.lowlevel.checkpoint()
        await self._fill(HEADER_SIZE)
        return self.take(HEADER_SIZE)

    async def _fill(self, length: int) -> None:
        while len(self._buffer) < length:
            self._buffer += await self._conn.read(None)


class _Misbehaved(Exception):
    """The connection is over: libp2p closes it on any error of reading a header."""


async def _nothing() -> None:
    """Stand in until the swarm sets its own `on_close`."""


class NoiseYamuxUpgrader(TransportUpgrader):
    """Secures and multiplexes connections with what it is given, and our bounded Yamux."""

    def __init__(
        self,
        secure_transports: TSecurityOptions,
        is_admitted: Callable[[ID], bool],
        judge: Judge,
    ) -> None:
        muxers: TMuxerOptions = {TProtocol(YAMUX_PROTOCOL): Yamux}
        super().__init__(secure_transports, muxers, NEGOTIATE_S)
        self._is_admitted = is_admitted
        self._judge = judge

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """Negotiate Yamux. Raises MuxerUpgradeFailure.

        libp2p's own version ignores the class it negotiated and builds its unbounded Yamux.
        """
        try:
            peer = peer_of(peer_id)
            await self.muxer_multistream.select_transport(conn)
        except ForeignKey as error:
            raise MuxerUpgradeFailure(str(error)) from error
        except (MultiselectError, MultiselectClientError) as error:
            raise MuxerUpgradeFailure("the peer does not speak Yamux") from error
        rules = PeerRules(peer, lambda: self._is_admitted(peer_id), self._judge)
        return BoundedYamux(conn, peer_id, rules)
