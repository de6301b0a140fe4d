"""Identify, `/ipfs/id/1.0.0` of libp2p: answered to everybody, and to nobody again and again."""

from __future__ import annotations

from typing import Final

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import StreamHandlerFn
from libp2p.peer.id import ID

from p2p.conduct import Offence
from p2p.identity import peer_of
from p2p.judge import Judge
from p2p.rate_limit import Rate, RateTable

IDENTIFY_RATE: Final = Rate(per_s=2, burst=20)  # others ask once for each connection
_PEERS_MAX: Final = 1_024


def seldom(handler: StreamHandlerFn, judge: Judge) -> StreamHandlerFn:
    """Return `handler` for each peer at `IDENTIFY_RATE`: more is reset, and a flood."""
    rates = RateTable[ID](IDENTIFY_RATE, count_max=_PEERS_MAX)

    async def handle(stream: INetStream) -> None:
        peer = stream.muxed_conn.peer_id
        if not rates.take(peer, now_s=trio.current_time()):
            judge.blame(peer_of(peer), Offence.FLOODED, "identify")
            await stream.reset()
            return
        await handler(stream)

    return handle
