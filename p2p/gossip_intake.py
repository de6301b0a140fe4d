"""How fast peers are read on GossipSub, whose messages cost a hundred times their bytes.

libp2p reads an RPC and then acts on its parts, so what those cost is paid before the next read.
"""

from __future__ import annotations

from typing import Final, cast

import trio
from libp2p.abc import INetStream
from libp2p.peer.id import ID

from p2p.conduct import Offence
from p2p.identity import peer_of
from p2p.judge import Judge, Pacer
from p2p.rate_limit import Rate
from p2p.streams import READ_BYTES_MAX

# All devices of a large mesh coming back at once are some 3,000 messages through one peer.
GOSSIP_RATE: Final = Rate(per_s=400, burst=10_000)
READ_TOKENS: Final = 0.5  # an RPC is three reads: one at least for its length
PEERS_MAX: Final = 256


class GossipIntake:
    """What each peer owes. The `PEERS_MAX` that were read from last are remembered."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._pacers: dict[ID, Pacer] = {}
        self._owed: dict[ID, float] = {}

    def paced(self, stream: INetStream) -> INetStream:
        """Return `stream`, read no faster than its peer may send, on all its streams together."""
        return cast(INetStream, _PacedStream(stream, self))

    def charge(self, peer: ID, tokens: float) -> None:
        """Let a peer pay `tokens` before it is read again."""
        if peer in self._pacers:
            self._owed[peer] = self._owed.get(peer, 0) + tokens

    async def before_read(self, peer: ID) -> None:
        """Wait until the peer may be read again."""
        pacer = self._pacers.pop(peer, None) or self._new_pacer(peer)
        self._pacers[peer] = pacer
        await pacer.pace(READ_TOKENS + self._owed.pop(peer, 0))

    def blame(self, peer: ID, offence: Offence, detail: str) -> None:
        """Lower a peer's score."""
        self._judge.blame(peer_of(peer), offence, detail)

    def is_banned(self, peer: ID) -> bool:
        """Say whether nothing is taken from a peer."""
        return self._judge.is_banned(peer_of(peer))

    def _new_pacer(self, peer: ID) -> Pacer:
        while len(self._pacers) >= PEERS_MAX:
            oldest = next(iter(self._pacers))
            del self._pacers[oldest]
            self._owed.pop(oldest, None)
        return Pacer(GOSSIP_RATE, peer=peer_of(peer), what="gossip", judge=self._judge)


class _PacedStream:
    """A stream whose reads wait for their turn. libp2p reads the length of an RPC byte by byte,
    which costs a third of a millisecond each unless it comes from a buffer.
    """

    def __init__(self, stream: INetStream, intake: GossipIntake) -> None:
        self._stream = stream
        self._intake = intake
        self._buffer = b""

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    async def read(self, n: int | None = None) -> bytes:
        await self._intake.before_read(self._stream.muxed_conn.peer_id)
        if self._buffer or n == 0:
            await trio.lowlevel.checkpoint()
        else:
            self._buffer = await self._stream.read(READ_BYTES_MAX)
        taken = self._buffer[:n]
        self._buffer = self._buffer[len(taken) :]
        return taken
