"""One link that stands: frames in, frames out, until either side ends it.

Who is linked to whom, and which of two links stays, is decided in `p2p.links`; here bytes move.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio
from msgspec import Struct

from p2p.errors import StreamBroken
from p2p.framing import FrameReader
from p2p.judge import Judge, Pacer
from p2p.rate_limit import Rate
from p2p.send_queue import QueueLimits, SendQueue
from p2p.streams import Stream
from wire.codec import FRAME_BYTES_MAX
from wire.errors import MalformedFrame
from wire.ids import PeerId
from wire.messages import Hello, Traffic


class CarrySettings(Struct, frozen=True, kw_only=True):
    """How bytes move on a link. Seconds and bytes.

    A link that is idle sends at once; else frames wait for company until `flush_bytes` are there or
    the oldest waited `flush_delay_s`: longer saves writes (1.2 ms of CPU each) and costs latency.
    A write that takes `write_timeout_s` per 64 KiB ends the link: the device does not read. A frame
    costs a token of `receive_rate` for every 16 KiB begun, and one for eight signatures of records;
    without tokens the link is read no further until there are some, so that a flood slows down its
    sender alone. No honest device sends half as much: a full directory is some 1,750 tokens, once.
    """

    flush_delay_s: float = 0.003
    flush_bytes: int = 32 * 1024
    write_bytes_max: int = 64 * 1024
    write_timeout_s: float = 10.0
    close_timeout_s: float = 1.0
    receive_rate: Rate = Rate(per_s=1_000, burst=2_000)
    queue: QueueLimits = QueueLimits()


@dataclass(slots=True, eq=False, kw_only=True)
class Link:
    """A stream whose handshake succeeded. Two tasks serve it: one reads, one writes."""

    stream: Stream
    reader: FrameReader
    hello: Hello
    address: str
    is_outbound: bool
    established_s: float
    settings: CarrySettings
    queue: SendQueue = field(init=False)
    is_closing: bool = False
    is_superseded: bool = False  # another link goes on in its place: no word of its end
    waits_for: trio.Event | None = None  # the predecessor's last or first word
    continues: bool = False  # a predecessor's link: no word of its beginning
    announced: trio.Event = field(default_factory=trio.Event)
    finished: trio.Event = field(default_factory=trio.Event)
    end_reason: str = ""
    is_ours_to_end: bool = False  # we ended it, so the connection goes too
    farewell: bytes = b""  # the last frame before the stream closes
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    _patience: trio.CancelScope = field(default_factory=trio.CancelScope)
    is_stalled: bool = False  # the device did not read what we sent
    _is_broken: bool = False
    _pacer: Pacer | None = None

    def __post_init__(self) -> None:
        """Begin with an empty queue."""
        self.queue = SendQueue(self.settings.queue)

    @property
    def peer(self) -> PeerId:
        """Whose link this is."""
        return self.stream.peer

    @property
    def via(self) -> PeerId | None:
        """Who carries it, None if nobody does."""
        return self.stream.via

    def pacer(self, judge: Judge) -> Pacer:
        """Return what slows down the reading of this link."""
        if self._pacer is None:
            rate = self.settings.receive_rate
            self._pacer = Pacer(rate, peer=self.peer, what="frames on a link", judge=judge)
        return self._pacer

    def close(self, reason: str, *, farewell: bytes = b"") -> None:
        """End the link once what is queued is sent, within `close_timeout_s`."""
        if self.is_closing:
            return
        self.is_ours_to_end = True
        self.farewell = farewell
        self._end(reason, grace_s=self.settings.close_timeout_s)

    def abort(self, reason: str, *, farewell: bytes = b"") -> None:
        """End the link at once; what is queued is dropped."""
        self.queue.drop()
        self.close(reason, farewell=farewell)
        self._scope.cancel()

    def hand_over(self, successor: Link) -> None:
        """Let `successor`, another stream to the same device, go on in our place."""
        successor.queue.absorb(self.queue)
        successor.waits_for, successor.continues = self.announced, True
        self._only_read()

    def second(self, first: Link) -> None:
        """Let `first`, the link that there is, stay: ours brings only what is sent on it already.

        The device may have taken it for the link until it heard of the other.
        """
        self.waits_for, self.continues = first.announced, True
        self._only_read()

    def _only_read(self) -> None:
        self.is_superseded = True
        self._end("replaced", grace_s=self.settings.close_timeout_s)

    def make_way(self, successor: Link) -> None:
        """End; `successor`, a link of a device that forgot this one, begins after our last word."""
        successor.waits_for = self.finished
        self._break("the device made a new link")

    async def run(
        self,
        on_frame: Callable[[Link, bytes], Awaitable[None]],
        on_malformed: Callable[[Link, MalformedFrame], None],
        on_notice: Callable[[Link, Traffic, bool], Awaitable[None]],
    ) -> None:
        """Carry frames until the link ends; `end_reason` says why."""
        self.reader.allow(FRAME_BYTES_MAX)
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_writer)
                nursery.start_soon(self._run_notices, on_notice)
                nursery.start_soon(self._run_reader, on_frame, on_malformed)

    async def shut(self) -> None:
        """Say goodbye and give up the stream, whatever state it is in. Bounded in time."""
        with trio.move_on_after(self.settings.close_timeout_s, shield=True) as patience:
            if self._is_broken:
                await self.stream.reset()
                return
            try:
                await self._send_rest()
                await self.stream.aclose()
                await self._linger()
            except StreamBroken:
                await self.stream.reset()
        if patience.cancelled_caught:
            with trio.move_on_after(self.settings.close_timeout_s, shield=True):
                await self.stream.reset()

    async def _send_rest(self) -> None:
        self.queue.close()
        while rest := self.queue.take(self.settings.write_bytes_max):
            await self.stream.send_all(rest)
        if self.farewell:
            await self.stream.send_all(self.farewell)

    async def _linger(self) -> None:
        """Wait for the device to end its side: with the connection goes what it has not read."""
        while self.is_ours_to_end and await self.stream.receive_some():
            pass

    def _end(self, reason: str, *, grace_s: float) -> None:
        self.is_closing = True
        self.end_reason = self.end_reason or reason
        self.queue.close()
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + grace_s)

    def _break(self, reason: str) -> None:
        """Note that the stream is good for nothing more."""
        self._is_broken = True
        self._patience.cancel()
        self._end(reason, grace_s=0)
        self._scope.cancel()

    async def _run_reader(
        self,
        on_frame: Callable[[Link, bytes], Awaitable[None]],
        on_malformed: Callable[[Link, MalformedFrame], None],
    ) -> None:
        try:
            while (frame := await self.reader.receive()) is not None:
                await on_frame(self, frame)
            self.queue.drop()
            self._end("the device closed the link", grace_s=0)
        except StreamBroken as error:
            self._break(f"the link broke: {error}")
        except MalformedFrame as error:
            # Where the next frame begins is not known any more: the stream is lost.
            on_malformed(self, error)
            self.abort(f"the device sent garbage: {error}")
        finally:
            self._hurry()
        self._scope.cancel()

    async def _run_writer(self) -> None:
        written_s = -math.inf
        while await self.queue.wait_for_frames():
            await self._gather(written_s)
            batch = self.queue.take(self.settings.write_bytes_max)
            if batch and not await self._send(batch):
                return
            written_s = trio.current_time()
        if not self.is_superseded:  # else the reader takes what is still under way
            self._scope.cancel()

    async def _gather(self, written_s: float) -> None:
        delay_s = self.settings.flush_delay_s
        if trio.current_time() - written_s < delay_s:
            with trio.move_on_at(self.queue.oldest_s + delay_s):
                await self.queue.wait_for_frames(self.settings.flush_bytes)

    async def _send(self, batch: bytes) -> bool:
        """Send `batch`; False if that failed. Not cancelled half-way: a cut frame ends a stream."""
        pieces = -(-len(batch) // self.settings.write_bytes_max)
        patience_s = self.settings.write_timeout_s * pieces
        self._patience = trio.CancelScope(deadline=trio.current_time() + patience_s, shield=True)
        try:
            with self._patience:
                await self.stream.send_all(batch)
        except StreamBroken as error:
            self._break(f"the link broke: {error}")
            return False
        if self._patience.cancelled_caught and not self._is_broken:
            self.is_ours_to_end = self.is_stalled = True
            self._break("the device does not read what we send")
        return not self._is_broken

    def _hurry(self) -> None:
        """Leave a write that is under way no more than the time to close."""
        latest_s = trio.current_time() + self.settings.close_timeout_s
        self._patience.deadline = min(self._patience.deadline, latest_s)

    async def _run_notices(
        self, on_notice: Callable[[Link, Traffic, bool], Awaitable[None]]
    ) -> None:
        while True:
            for traffic, is_congested in await self.queue.wait_for_notices():
                await on_notice(self, traffic, is_congested)
