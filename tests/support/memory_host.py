"""Hosts in memory with the interface of `p2p.host.Host`: latency, windows, cuts, no libp2p.

Streams have a receive window, as Yamux's have: who does not read makes the sender wait. A send that
was cancelled half-way leaves a broken stream, as `p2p.muxed_stream` does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from p2p.errors import PeerUnreachable, ProtocolRefused, StreamBroken
from p2p.streams import READ_BYTES_MAX, Stream, StreamHandler
from wire.ids import PeerId

WINDOW_BYTES = 256 * 1024
GRACE_S = 2.0


class MemoryPipe:
    """One direction of a stream: bytes arrive `latency_s` after they were sent."""

    def __init__(self, latency_s: float = 0, window_bytes: int = WINDOW_BYTES) -> None:
        self._latency_s = latency_s
        self._window_bytes = window_bytes
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._buffered_bytes = 0
        self._changed = trio.Event()
        self.is_finished = False
        self.is_broken = False
        self.writes: list[bytes] = []

    def change(self) -> None:
        """Wake whoever waits for this pipe."""
        self._changed.set()
        self._changed = trio.Event()

    async def send(self, data: bytes) -> None:
        """Send all of `data`, waiting for room in the window."""
        self.writes.append(data)
        rest = memoryview(data)
        while rest:
            await trio.lowlevel.checkpoint()
            if self.is_broken or self.is_finished:
                raise StreamBroken("the stream is closed")
            room = self._window_bytes - self._buffered_bytes
            if room <= 0:
                await self._changed.wait()
                continue
            piece = bytes(rest[:room])
            self._pieces.append((trio.current_time() + self._latency_s, piece))
            self._buffered_bytes += len(piece)
            rest = rest[room:]
            self.change()

    async def receive(self, bytes_max: int) -> bytes:
        """Return what has arrived, at least one byte; b"" at the end."""
        await trio.lowlevel.checkpoint()
        while True:
            if self.is_broken:
                raise StreamBroken("the peer reset the stream")
            if not self._pieces:
                if self.is_finished:
                    return b""
                await self._changed.wait()
                continue
            due_s, piece = self._pieces[0]
            if due_s > trio.current_time():
                with trio.move_on_at(due_s):
                    await self._changed.wait()
                continue
            self._pieces.popleft()
            if len(piece) > bytes_max:
                self._pieces.appendleft((due_s, piece[bytes_max:]))
                piece = piece[:bytes_max]
            self._buffered_bytes -= len(piece)
            self.change()
            return piece


@dataclass(eq=False)
class MemoryStream:
    """One end of a stream to `peer`."""

    peer: PeerId
    incoming: MemoryPipe
    outgoing: MemoryPipe
    via: PeerId | None = None
    dialled: bool = False
    _is_cut_short: bool = False

    async def receive_some(self, bytes_max: int = READ_BYTES_MAX) -> bytes:
        """Return what has arrived."""
        return await self.incoming.receive(bytes_max)

    async def send_all(self, frame: bytes) -> None:
        """Send all of `frame`."""
        if self._is_cut_short:
            raise StreamBroken("an earlier send was cancelled half-way")
        self._is_cut_short = True
        await self.outgoing.send(frame)
        self._is_cut_short = False

    async def aclose(self) -> None:
        """Finish sending."""
        await trio.lowlevel.checkpoint()
        self.outgoing.is_finished = True
        self.outgoing.change()

    async def reset(self) -> None:
        """Drop the stream both ways."""
        await trio.lowlevel.checkpoint()
        self.break_now()

    def break_now(self) -> None:
        """Drop the stream both ways, without waiting."""
        for pipe in (self.incoming, self.outgoing):
            pipe.is_broken = True
            pipe.change()


def memory_streams(
    near: PeerId, far: PeerId, *, latency_s: float = 0, window_bytes: int = WINDOW_BYTES
) -> tuple[MemoryStream, MemoryStream]:
    """Return both ends of a stream: that of `near`, which leads to `far`, and the other."""
    there = MemoryPipe(latency_s, window_bytes)
    back = MemoryPipe(latency_s, window_bytes)
    return MemoryStream(far, back, there), MemoryStream(near, there, back)


@dataclass(eq=False)
class MemoryNetwork:
    """Which hosts there are. `latency_s` is one way; pairs in `cut` reach each other no more."""

    latency_s: float = 0.001
    window_bytes: int = WINDOW_BYTES
    hosts: dict[PeerId, MemoryHost] = field(default_factory=dict)
    cut: set[frozenset[PeerId]] = field(default_factory=set)

    def host(self, peer: PeerId) -> MemoryHost:
        """Return the host of `peer`, made on first use."""
        if peer not in self.hosts:
            self.hosts[peer] = MemoryHost(peer, self)
        return self.hosts[peer]


@dataclass(eq=False)
class MemoryHost:
    """One device on a MemoryNetwork."""

    peer: PeerId
    network: MemoryNetwork
    admitted: set[PeerId] = field(default_factory=set)
    expelled_for_good: set[PeerId] = field(default_factory=set)
    connected: set[PeerId] = field(default_factory=set)
    streams: list[tuple[str, MemoryStream]] = field(default_factory=list)
    handler_errors: list[Exception] = field(default_factory=list)
    _served: dict[str, tuple[StreamHandler, bool]] = field(default_factory=dict)
    _nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve streams until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def serve(self, protocol: str, handler: StreamHandler, *, members_only: bool) -> None:
        """Give every stream of `protocol` to `handler`."""
        self._served[protocol] = (handler, members_only)

    async def connect(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Connect after a round trip, if there is such a host and an address is given."""
        if peer in self.connected:
            return
        await trio.sleep(2 * self.network.latency_s)
        if not addresses:
            raise PeerUnreachable("no address is known")
        if peer not in self.network.hosts or frozenset((self.peer, peer)) in self.network.cut:
            raise PeerUnreachable(f"{addresses[0]}: Connection refused")
        self.connected.add(peer)
        self.network.hosts[peer].connected.add(self.peer)

    async def connect_directly(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Connect: all connections are direct here."""
        await self.connect(peer, addresses)

    async def connect_through(self, peer: PeerId, relays: Sequence[PeerId]) -> None:
        """Refuse: nothing is carried here."""
        await trio.lowlevel.checkpoint()
        raise PeerUnreachable(f"{relays[0].hex()} does not carry it to {peer.hex()}")

    async def leave_circuits(self, peer: PeerId) -> None:
        """Do nothing."""
        del peer
        await trio.lowlevel.checkpoint()

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        """Open a stream after a round trip."""
        await trio.sleep(2 * self.network.latency_s)
        if peer not in self.connected:
            raise PeerUnreachable("not connected")
        other = self.network.hosts[peer]
        if protocol not in other._served or other._nursery is None:
            raise ProtocolRefused(f"{peer.hex()} does not serve {protocol}")
        near, far = memory_streams(
            self.peer,
            peer,
            latency_s=self.network.latency_s,
            window_bytes=self.network.window_bytes,
        )
        near.dialled = True
        self.streams.append((protocol, near))
        other.streams.append((protocol, far))
        other._nursery.start_soon(other._handle, protocol, far)
        return near

    async def disconnect(self, peer: PeerId) -> None:
        """Break every stream to `peer`."""
        await trio.lowlevel.checkpoint()
        self.cut_off(peer)

    def cut_off(self, peer: PeerId) -> None:
        """Lose the connection to `peer`, without waiting."""
        self.connected.discard(peer)
        self.network.hosts[peer].connected.discard(self.peer)
        for _, stream in self.streams:
            if stream.peer == peer:
                stream.break_now()

    def seen_at(self, peer: PeerId) -> tuple[str, ...]:
        """Return an address made of the peer's id."""
        return (f"/dns/{peer.hex()[:8]}.test/tcp/4001",) if peer in self.connected else ()

    async def admit(self, peer: PeerId, addresses: Sequence[str] = ()) -> None:
        """Let `peer` use what is for members."""
        del addresses
        await trio.lowlevel.checkpoint()
        self.admitted.add(peer)

    async def expel(self, peer: PeerId, *, for_good: bool = False) -> None:
        """Shut `peer` out."""
        if for_good:
            self.expelled_for_good.add(peer)
        await trio.lowlevel.checkpoint()
        self.admitted.discard(peer)

    async def _handle(self, protocol: str, stream: MemoryStream) -> None:
        handler, members_only = self._served[protocol]
        if members_only and stream.peer not in self.admitted:
            await trio.sleep(GRACE_S)
        if members_only and stream.peer not in self.admitted:
            await stream.reset()
            return
        try:
            await handler(stream)
            await stream.aclose()
        except Exception as error:  # noqa: BLE001 - as the real host: a handler must not end it
            self.handler_errors.append(error)
            await stream.reset()
