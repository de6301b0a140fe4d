"""Joining a mesh with an invitation, `/meshd/join/1`: the newcomer's side, and the front door.

Every way in which it can fail has an error of its own whose message is one line for a person.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog
import trio
from msgspec import Struct

from p2p.errors import NetworkError, PeerUnreachable, ProtocolRefused, StreamBroken, WrongNetwork
from p2p.framing import FrameReader, framed, open_frame
from p2p.hosting import StreamHost, dialable
from p2p.join_messages import JOIN_PROTOCOL_ID, PAGES_MAX, join_codec, joined_pages
from p2p.join_server import JoinServer, JoinServerSettings
from p2p.protocol_errors import (
    DeviceRemoved,
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
from p2p.streams import Stream
from wire.errors import MalformedFrame, NotAMember
from wire.ids import PeerId, mesh_text, peer_text
from wire.membership import (
    Invitation,
    JoinGranted,
    JoinRefusal,
    JoinRefused,
    JoinRequest,
    check_chain,
    mesh_id_of,
)

__all__ = [
    "JOIN_PROTOCOL_ID",
    "JoinServer",
    "JoinServerSettings",
    "JoinSettings",
    "redeem",
]

ADDRESSES_AT_ONCE = 8  # as many as a host tries
CLEANUP_S = 1.0

log = structlog.get_logger()


class JoinSettings(Struct, frozen=True, kw_only=True):
    """How patient a newcomer is. Seconds; the wait doubles with every try."""

    connect_timeout_s: float = 15.0
    answer_timeout_s: float = 20.0
    tries_count_max: int = 5
    first_wait_s: float = 1.0


async def redeem(
    host: StreamHost, invitation: Invitation, name: str, settings: JoinSettings | None = None
) -> JoinGranted:
    """Return our papers in the invitation's mesh, checked. `host` must use its network key.

    Asking again is harmless: the issuer gives the same device the same papers, and counts one use.
    Raises JoinError and nothing else.
    """
    settings = settings or JoinSettings()
    await _connect(host, invitation, settings)
    failure: JoinError = IssuerBusy("the issuer was not asked")
    for attempt in range(settings.tries_count_max):
        if attempt:
            await trio.sleep(settings.first_wait_s * 2 ** (attempt - 1) * _jitter(host.peer))
        try:
            answer = await _ask(host, invitation, name, settings)
        except (NetworkError, trio.TooSlowError) as error:
            if isinstance(error, JoinError):
                raise
            failure = JoinBroken(f"the issuer did not answer: {str(error) or 'no answer in time'}")
            failure.__cause__ = error
        else:
            if isinstance(answer, JoinGranted):
                return _checked(answer, invitation, host.peer)
            failure = _refusal(answer, invitation)
            if not isinstance(failure, IssuerBusy):
                raise failure
        log.info("join.retried", reason=str(failure))
    raise failure


async def _connect(host: StreamHost, invitation: Invitation, settings: JoinSettings) -> None:
    addresses = dialable(invitation.addresses)
    groups = [
        addresses[start : start + ADDRESSES_AT_ONCE]
        for start in range(0, len(addresses), ADDRESSES_AT_ONCE)
    ]
    failures: list[PeerUnreachable] = []
    for group in groups:
        try:
            with trio.fail_after(settings.connect_timeout_s):
                await host.connect(invitation.issuer, group)
        except PeerUnreachable as error:
            failures.append(error)
        except trio.TooSlowError:
            where = ", ".join(group)
            failures.append(PeerUnreachable(f"no answer in time at {where}"))
        else:
            return
    raise _not_reached(failures, invitation)


def _not_reached(failures: Sequence[PeerUnreachable], invitation: Invitation) -> JoinError:
    issuer = peer_text(invitation.issuer)
    if failures and all(isinstance(failure, WrongNetwork) for failure in failures):
        return IssuerOnOtherNetwork(
            f"the device {issuer} that invited has another network key by now: ask for a new"
            " invitation"
        )
    told = [str(failure).removeprefix(f"{issuer} is unreachable: ") for failure in failures]
    reasons = "; ".join(told) or "the invitation holds no usable address"
    return IssuerUnreachable(
        f"the device {issuer} that invited does not answer: is it running, and can this device"
        f" reach it? {reasons}"
    )


async def _ask(
    host: StreamHost, invitation: Invitation, name: str, settings: JoinSettings
) -> JoinGranted | JoinRefused:
    try:
        with trio.fail_after(settings.connect_timeout_s):
            await host.connect(invitation.issuer, dialable(invitation.addresses))
            stream = await host.open_stream(invitation.issuer, JOIN_PROTOCOL_ID)
    except ProtocolRefused as error:
        raise JoinBroken("the issuer takes no joins: it runs another version") from error
    is_over = False
    try:
        with trio.fail_after(settings.answer_timeout_s):
            answer = await _exchange(stream, JoinRequest(secret=invitation.secret, name=name))
        is_over = True
        return answer
    except MalformedFrame as error:
        raise JoinBroken(f"the issuer gave no proper answer: {error}") from error
    finally:
        with trio.move_on_after(CLEANUP_S, shield=True):
            await (stream.aclose() if is_over else stream.reset())


async def _exchange(stream: Stream, request: JoinRequest) -> JoinGranted | JoinRefused:
    codec = join_codec()
    await stream.send_all(framed(codec.encode(request)))
    reader = FrameReader(stream)
    pages: list[JoinGranted] = []
    while (frame := await reader.receive()) is not None:
        answer = await open_frame(codec, frame)
        if isinstance(answer, JoinRefused):
            return answer
        if not isinstance(answer, JoinGranted) or len(pages) >= PAGES_MAX:
            raise MalformedFrame(f"{type(answer).__name__} is no answer, or one page too many")
        pages.append(answer)
    if not pages:
        raise StreamBroken("the issuer closed the stream")
    return joined_pages(pages)


def _checked(granted: JoinGranted, invitation: Invitation, own: PeerId) -> JoinGranted:
    mesh = mesh_id_of(granted.genesis)
    if mesh != invitation.mesh:
        raise WrongMesh(
            f"the invitation is to mesh {mesh_text(invitation.mesh)}, the issuer answered for"
            f" {mesh_text(mesh)}: ask for a new invitation"
        )
    try:
        check_chain(granted.chain, genesis=granted.genesis, subject=own)
    except NotAMember as error:
        raise WrongMesh(f"the issuer's answer makes this device no member: {error}") from error
    return granted


def _refusal(refused: JoinRefused, invitation: Invitation) -> JoinError:
    issuer = peer_text(invitation.issuer)
    match refused.reason:
        case JoinRefusal.UNKNOWN:
            return InvitationUnknown(
                f"the device {issuer} does not know this invitation (it may have lost its store):"
                " ask for a new one"
            )
        case JoinRefusal.EXPIRED:
            return InvitationExpired("the invitation has expired: ask for a new one")
        case JoinRefusal.USED_UP:
            return InvitationUsedUp("the invitation was used by others already: ask for a new one")
        case JoinRefusal.NOT_ADMIN:
            return IssuerNotAdmin(
                f"the device {issuer} may no longer invite: ask another admin of the mesh"
            )
        case JoinRefusal.REMOVED:
            return DeviceRemoved(
                "this device was removed from the mesh, for good: to come back as a new device,"
                " start with another --home and an invitation"
            )
        case JoinRefusal.BUSY:
            return IssuerBusy(f"the device {issuer} is busy: try again in a minute")


def _jitter(own: PeerId) -> float:
    """Return 0.5 to 1.5, another for each device, so that many newcomers do not come in step."""
    return 0.5 + own[0] / 255
