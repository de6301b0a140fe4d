"""Joining a mesh, `/meshd/join/1`: a stranger shows an invitation, once, and gets its papers.

The only thing that a device without a certificate may ask: one request of a few hundred bytes on a
stream, so many a minute.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import structlog
import trio

from p2p.errors import NetworkError, PeerUnreachable, StreamBroken, WrongNetwork
from p2p.framing import FrameReader, framed
from p2p.hosting import StreamHost, dialable
from p2p.protocol_errors import (
    InvitationExpired,
    InvitationUnknown,
    InvitationUsedUp,
    IssuerBusy,
    IssuerNotAdmin,
    IssuerOnOtherNetwork,
    IssuerUnreachable,
    JoinBroken,
    JoinError,
    WrongMesh,
)
from p2p.rate_limit import Rate, RateTable, TokenBucket
from p2p.streams import Stream
from wire.answers import JoinAnswer
from wire.codec import FRAME_BYTES_MAX, FrameCodec
from wire.errors import MalformedFrame, NotAMember
from wire.ids import PeerId, peer_text
from wire.keys import Ed25519Verifier
from wire.membership import (
    JOIN_MESSAGES,
    Invitation,
    JoinGranted,
    JoinRefusal,
    JoinRefused,
    JoinRequest,
    check_chain,
    mesh_id_of,
)

JOIN_PROTOCOL_ID = "/meshd/join/1"
REQUEST_BYTES_MAX = 1_024
REQUEST_S_MAX = 10.0
REDEEM_S_MAX = 30.0
BUSY_RETRIES_MAX = 4
BUSY_PAUSE_S = 1.0
ALL_RATE = Rate(per_s=2, burst=20)
PEER_RATE = Rate(per_s=0.2, burst=5)
PEERS_COUNT_MAX = 1_024

AskJoin: TypeAlias = Callable[[PeerId, JoinRequest], Awaitable[JoinAnswer]]

log = structlog.get_logger()


class JoinServer:
    """Hands the requests of strangers to `ask_join`, at a bounded rate."""

    def __init__(self, host: StreamHost, ask_join: AskJoin) -> None:
        self._host = host
        self._ask_join = ask_join
        self._codec = FrameCodec(JOIN_MESSAGES, Ed25519Verifier())
        self._all: TokenBucket | None = None
        self._peers: RateTable[PeerId] = RateTable(PEER_RATE, count_max=PEERS_COUNT_MAX)

    def serve(self) -> None:
        """Answer from now on."""
        self._host.serve(JOIN_PROTOCOL_ID, self._answer, members_only=False)

    async def _answer(self, stream: Stream) -> None:
        answer: JoinAnswer = JoinRefused(reason=JoinRefusal.BUSY)
        with trio.move_on_after(REQUEST_S_MAX):
            request = await self._receive(stream)
            if request is None:
                await stream.reset()
                return
            if self._may_ask(stream.peer):
                answer = await self._ask_join(stream.peer, request)
        name = "granted" if isinstance(answer, JoinGranted) else str(answer.reason)
        log.info("join.answered", peer_id=peer_text(stream.peer), answer=name)
        await stream.send_all(framed(self._codec.encode(answer)))

    def _may_ask(self, peer: PeerId) -> bool:
        now_s = trio.current_time()
        self._all = self._all or TokenBucket(ALL_RATE, now_s=now_s)
        return self._peers.take(peer, now_s=now_s) and self._all.take(1, now_s=now_s)

    async def _receive(self, stream: Stream) -> JoinRequest | None:
        try:
            frame = await FrameReader(stream, REQUEST_BYTES_MAX).receive()
            message = None if frame is None else self._codec.decode(frame)
        except MalformedFrame as error:
            log.info("join.malformed", peer_id=peer_text(stream.peer), reason=str(error))
            return None
        return message if isinstance(message, JoinRequest) else None


async def redeem(host: StreamHost, invitation: Invitation, name: str) -> JoinGranted:
    """Return the papers that `invitation` is redeemed for, checked to be ours and the mesh's.

    Raises JoinError with one line for a person. Takes at most a minute.
    """
    for attempt in range(BUSY_RETRIES_MAX):
        try:
            with trio.fail_after(REDEEM_S_MAX):
                return _checked(host, invitation, await _ask(host, invitation, name))
        except IssuerBusy:
            if attempt + 1 == BUSY_RETRIES_MAX:
                raise
            await trio.sleep(BUSY_PAUSE_S * 2**attempt)
        except trio.TooSlowError as error:
            raise IssuerUnreachable(_unreachable(invitation, "no answer in time")) from error
    raise AssertionError("the loop returns or raises")


async def _ask(host: StreamHost, invitation: Invitation, name: str) -> object:
    codec = FrameCodec(JOIN_MESSAGES, Ed25519Verifier())
    try:
        await host.connect(invitation.issuer, dialable(invitation.addresses))
    except WrongNetwork as error:
        raise IssuerOnOtherNetwork(
            "the network key of the mesh has changed since the invitation was made: ask for a"
            " new one"
        ) from error
    except PeerUnreachable as error:
        raise IssuerUnreachable(_unreachable(invitation, str(error))) from error
    try:
        stream = await host.open_stream(invitation.issuer, JOIN_PROTOCOL_ID)
        request = JoinRequest(secret=invitation.secret, name=name)
        await stream.send_all(framed(codec.encode(request)))
        frame = await FrameReader(stream, FRAME_BYTES_MAX).receive()
        if frame is None:
            raise StreamBroken("the device closed the stream without an answer")
        return codec.decode(frame)
    except JoinError:
        raise
    except (NetworkError, MalformedFrame) as error:
        raise JoinBroken(
            f"the device that invited does not answer as it should: {error}"
        ) from error


def _checked(host: StreamHost, invitation: Invitation, answer: object) -> JoinGranted:
    if isinstance(answer, JoinRefused):
        raise _REFUSALS[answer.reason]
    if not isinstance(answer, JoinGranted):
        raise JoinBroken(f"the device that invited answered with {type(answer).__name__}")
    if mesh_id_of(answer.genesis) != invitation.mesh:
        raise WrongMesh("the answer is for another mesh than the invitation: nothing was joined")
    try:
        check_chain(answer.chain, genesis=answer.genesis, subject=host.peer)
    except NotAMember as error:
        raise WrongMesh(f"the papers in the answer are not good: {error}") from error
    return answer


def _unreachable(invitation: Invitation, reason: str) -> str:
    where = " ".join(invitation.addresses)
    return (
        f"the device that invited does not answer at {where} ({reason}): is it running, and can"
        " this device reach it?"
    )


_ASK_AGAIN = "`meshctl invite` there makes a new one"
_REFUSALS: dict[JoinRefusal, JoinError] = {
    JoinRefusal.UNKNOWN: InvitationUnknown(
        f"the invitation is not known to the device that made it: {_ASK_AGAIN}"
    ),
    JoinRefusal.EXPIRED: InvitationExpired(f"the invitation has expired: {_ASK_AGAIN}"),
    JoinRefusal.USED_UP: InvitationUsedUp(
        f"the invitation was used by another device: {_ASK_AGAIN}, --uses lets in several"
    ),
    JoinRefusal.NOT_ADMIN: IssuerNotAdmin(
        "the device that invited is no admin of the mesh any more: ask another"
    ),
    JoinRefusal.BUSY: IssuerBusy(
        "the device that invited has too many requests: try again in a minute"
    ),
}
