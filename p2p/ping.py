"""Ping, `/ipfs/ping/1.0.0` of libp2p: 32 bytes, sent back, to everybody and not too often."""

from __future__ import annotations

from typing import Final

from p2p.judge import Judge, Pacer
from p2p.rate_limit import Rate
from p2p.streams import Stream

PING_PROTOCOL_ID: Final = "/ipfs/ping/1.0.0"
PING_BYTES: Final = 32
PING_RATE: Final = Rate(per_s=20, burst=50)  # each stream's; js-libp2p sends one a second


class PingServer:
    """Answers pings at `PING_RATE`; who sends more waits, and is blamed."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    async def serve(self, stream: Stream) -> None:
        """Answer the pings of one stream until its peer ends it. Raises StreamBroken."""
        pacer = Pacer(PING_RATE, peer=stream.peer, what="pings", judge=self._judge)
        waiting = b""
        while received := await stream.receive_some(PING_BYTES - len(waiting)):
            waiting += received
            if len(waiting) == PING_BYTES:
                await pacer.pace(1)
                await stream.send_all(waiting)
                waiting = b""
