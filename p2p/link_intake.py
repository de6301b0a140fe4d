"""What comes in on links: frames become events, offences lower scores and end in a ban."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

import structlog

from p2p.conduct import Offence
from p2p.framing import framed, open_frame
from p2p.judge import Judge
from p2p.link import Link
from p2p.link_metrics import LinkCounters
from p2p.link_table import LinkTable
from wire.codec import FrameCodec, UnknownMessage
from wire.errors import BadSignature, MalformedFrame
from wire.events import Congested, Drained, Event, Received
from wire.ids import PeerId, peer_text
from wire.messages import (
    Hello,
    LinkRefused,
    Message,
    RecordsGiven,
    RefusalReason,
    RemovalsGiven,
    Traffic,
)

TOKEN_BYTES = 16 * 1024
TOKEN_SIGNATURES = 8  # a millisecond

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """Decodes what peers send and judges how they behave."""

    codec: FrameCodec
    table: LinkTable
    judge: Judge
    counters: LinkCounters
    emit: Callable[[Event], Awaitable[None]]

    async def on_frame(self, link: Link, frame: bytes) -> None:
        """Take one frame of an untrusted peer, as soon as its rate allows."""
        await self._pace(link, 1 + len(frame) // TOKEN_BYTES)
        if self.judge.is_banned(link.peer):
            link.abort("banned")  # for what it did elsewhere, or a moment ago
            return
        try:
            message = await open_frame(self.codec, frame)
        except MalformedFrame as error:
            self.on_malformed(link, error)
            return
        self.counters.received.increment()
        await self._pace(link, _signatures_count(message) // TOKEN_SIGNATURES)
        match message:
            case UnknownMessage():
                self.counters.unknown.increment()  # of a newer peer: skipped, never scored
            case LinkRefused():
                link.close(f"the device ended the link: {message.reason}: {message.detail}")
            case Hello():
                self.on_malformed(link, MalformedFrame("a second Hello"))
            case _ if link.peer in self.table:
                await self.emit(Received(link.peer, cast(Message, message)))

    def on_malformed(self, link: Link, error: MalformedFrame) -> None:
        """Lower the score of a link's peer; end the link if that bans it."""
        if self.punish(link.peer, error):
            link.abort(f"banned: {error}", farewell=self.refusal(RefusalReason.MALFORMED, error))

    async def _pace(self, link: Link, tokens: int) -> None:
        if tokens and await link.pacer(self.judge).pace(tokens):
            error = MalformedFrame(Offence.FLOODED.value)
            link.abort(f"banned: {error}", farewell=self.refusal(RefusalReason.MALFORMED, error))

    def on_stalled(self, link: Link) -> None:
        """Lower the score of a link's peer that did not read what we sent."""
        self.judge.blame(link.peer, Offence.STALLED, link.end_reason)

    async def on_notice(self, link: Link, traffic: Traffic, is_congested: bool) -> None:
        """Tell that a queue became full, or has room again."""
        if link.peer in self.table:
            event = Congested(link.peer, traffic) if is_congested else Drained(link.peer, traffic)
            await self.emit(event)

    def punish(self, peer: PeerId, error: MalformedFrame) -> bool:
        """Lower a peer's score; True if it is banned now."""
        self.counters.malformed.increment()
        log.warning("frame.refused", peer_id=peer_text(peer), reason=str(error))
        offence = Offence.FORGED if isinstance(error, BadSignature) else Offence.MALFORMED
        return self.judge.blame(peer, offence, str(error))

    def refusal(self, reason: RefusalReason, detail: object) -> bytes:
        """Return the last frame of a link that we end, with its length."""
        return framed(self.codec.encode(LinkRefused(reason=reason, detail=str(detail)[:256])))


def _signatures_count(message: object) -> int:
    """Return how many signatures were checked for a message that may hold very many."""
    match message:
        case RecordsGiven(records=records, chains=chains):
            return len(records) + sum(map(len, chains))
        case RemovalsGiven(removals=removals):
            return len(removals)
        case _:
            return 0
