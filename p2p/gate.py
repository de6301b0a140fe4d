"""Who has been admitted, and the streams that only they may have.

The network key is a doorbell: holding it gives a connection, identify, ping and what is served to
everybody. Gossip, Kademlia and `members_only` protocols wait for `admit`.
"""

from __future__ import annotations

from typing import Final
from weakref import WeakSet

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import StreamHandlerFn
from libp2p.peer.id import ID

from p2p.guards import log

GRACE_S: Final = 2.0


class Gate:
    """The admitted peers. Admission is by key, so it outlives a connection; `expel` ends it."""

    def __init__(self) -> None:
        self._admitted: set[ID] = set()
        self._awaited: dict[ID, trio.Event] = {}
        self._streams: dict[ID, WeakSet[INetStream]] = {}

    def is_admitted(self, peer: ID) -> bool:
        """Say whether the peer may use what is for members."""
        return peer in self._admitted

    def admit(self, peer: ID) -> bool:
        """Let the peer in; say whether that is news."""
        news = peer not in self._admitted
        self._admitted.add(peer)
        if (waiting := self._awaited.pop(peer, None)) is not None:
            waiting.set()
        return news

    async def expel(self, peer: ID) -> None:
        """Shut the peer out and reset its members' streams, both ways."""
        self._admitted.discard(peer)
        for stream in list(self._streams.pop(peer, ())):
            await stream.reset()

    def track(self, stream: INetStream) -> None:
        """Remember a members' stream until it is gone, for `expel`."""
        self._streams.setdefault(stream.muxed_conn.peer_id, WeakSet()).add(stream)

    def forget(self, peer: ID) -> None:
        """Drop what is kept about the streams of a peer that is no longer connected."""
        self._streams.pop(peer, None)

    def members_only(self, handler: StreamHandlerFn) -> StreamHandlerFn:
        """Return `handler` for members alone; streams of others are reset.

        Two devices admit each other a moment apart, so a stream waits for that moment first.
        """

        async def gated(stream: INetStream) -> None:
            peer = stream.muxed_conn.peer_id
            if not await self._admitted_soon(peer):
                log.info("stream.refused", peer_id=str(peer), protocol=stream.get_protocol())
                await stream.reset()
                return
            self.track(stream)
            await handler(stream)

        return gated

    async def _admitted_soon(self, peer: ID) -> bool:
        if peer not in self._admitted:
            arrival = self._awaited.setdefault(peer, trio.Event())
            with trio.move_on_after(GRACE_S):
                await arrival.wait()
            if peer not in self._admitted:
                self._awaited.pop(peer, None)
        return peer in self._admitted
