"""Takes requests of devices that hold an invitation, few at a time, and sends the answers.

This is all that a stranger with the network key can ask for. What the answer is, the node decides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio
from msgspec import Struct

from p2p.addresses import parse_address
from p2p.errors import MalformedAddress, NetworkError
from p2p.framing import FrameReader, framed
from p2p.hosting import StreamHost
from p2p.join_messages import JOIN_PROTOCOL_ID, REQUEST_BYTES_MAX, join_codec, pages_of
from p2p.rate_limit import Rate, RateTable, TokenBucket
from p2p.streams import Stream
from wire.answers import JoinAnswer
from wire.errors import MalformedFrame
from wire.ids import PeerId, peer_text
from wire.membership import JoinGranted, JoinRefusal, JoinRefused, JoinRequest

log = structlog.get_logger()


class JoinServerSettings(Struct, frozen=True, kw_only=True):
    """How much strangers may ask. Over any bound the answer is `busy`, and the node hears nothing.

    Peer ids are free to make, so the rate per address is what stops one guesser; a secret has 128
    bits, so guessing is hopeless at any rate.
    """

    requests_count_max: int = 8
    rate: Rate = Rate(per_s=5, burst=40)
    rate_per_address: Rate = Rate(per_s=1, burst=20)
    rate_per_peer: Rate = Rate(per_s=0.5, burst=5)
    table_count_max: int = 1_024
    request_timeout_s: float = 10.0
    answer_timeout_s: float = 30.0


class JoinServer:
    """Hands each request to `ask_join` and sends what it returns; the node bounds that time."""

    def __init__(
        self,
        host: StreamHost,
        ask_join: Callable[[PeerId, JoinRequest], Awaitable[JoinAnswer]],
        settings: JoinServerSettings | None = None,
    ) -> None:
        self._host = host
        self._ask_join = ask_join
        self._settings = settings = settings or JoinServerSettings()
        self._codec = join_codec()
        self._requests_count = 0
        self._bucket: TokenBucket | None = None
        self._addresses = RateTable[str](
            settings.rate_per_address, count_max=settings.table_count_max
        )
        self._peers = RateTable[PeerId](settings.rate_per_peer, count_max=settings.table_count_max)

    def serve(self) -> None:
        """Begin to answer; from now on each request is a task of the host."""
        self._bucket = TokenBucket(self._settings.rate, now_s=trio.current_time())
        self._host.serve(JOIN_PROTOCOL_ID, self._serve, members_only=False)

    async def _serve(self, stream: Stream) -> None:
        try:
            await self._answer(stream)
        except (MalformedFrame, NetworkError, trio.TooSlowError) as error:
            reason = str(error) or "too slow"
            log.info("join.broken", peer_id=peer_text(stream.peer), reason=reason)
            await stream.reset()

    async def _answer(self, stream: Stream) -> None:
        if not self._has_room(stream.peer):
            log.info("join.refused", peer_id=peer_text(stream.peer), reason="too many requests")
            await self._send(stream, JoinRefused(reason=JoinRefusal.BUSY))
            return
        self._requests_count += 1
        try:
            request = await self._receive(stream)
            answer = await self._ask_join(stream.peer, request)
        finally:
            self._requests_count -= 1
        await self._send(stream, answer)

    def _has_room(self, peer: PeerId) -> bool:
        now_s = trio.current_time()
        assert self._bucket is not None  # noqa: S101 - made by `serve`, which leads here
        return (
            self._requests_count < self._settings.requests_count_max
            and self._peers.take(peer, now_s=now_s)
            and all(self._addresses.take(ip, now_s=now_s) for ip in self._ips_of(peer))
            and self._bucket.take(1, now_s=now_s)
        )

    def _ips_of(self, peer: PeerId) -> set[str]:
        return {_ip(address) for address in self._host.seen_at(peer)}

    async def _receive(self, stream: Stream) -> JoinRequest:
        with trio.fail_after(self._settings.request_timeout_s):
            frame = await FrameReader(stream, REQUEST_BYTES_MAX).receive()
        if frame is None:
            raise MalformedFrame("no request came")
        request = self._codec.decode(frame)
        if not isinstance(request, JoinRequest):
            raise MalformedFrame(f"{type(request).__name__} is no request")
        return request

    async def _send(self, stream: Stream, answer: JoinAnswer) -> None:
        parts = pages_of(answer) if isinstance(answer, JoinGranted) else [answer]
        with trio.fail_after(self._settings.answer_timeout_s):
            for part in parts:
                await stream.send_all(framed(self._codec.encode(part)))
            await stream.aclose()


def _ip(address: str) -> str:
    try:
        return parse_address(address).host
    except MalformedAddress:
        return address
