"""Errors of the protocols on streams - links, blobs, joining - by what the caller can do."""

from __future__ import annotations

from p2p.errors import NetworkError, PeerUnreachable
from wire.membership import Removal
from wire.messages import LinkRefused, RefusalReason
from wire.signed import Signed


class LinkError(NetworkError):
    """Base of the errors of setting up a link."""


class LinkNotAccepted(LinkError):
    """We do not accept the peer: `refusal` is what it is told."""

    def __init__(
        self, reason: RefusalReason, detail: str, removals: tuple[Signed[Removal], ...] = ()
    ) -> None:
        super().__init__(f"{reason}: {detail}")
        self.refusal = LinkRefused(reason=reason, detail=detail[:256], removals=removals)


class RefusedByPeer(LinkError):
    """The peer does not accept us; its `refusal` says why, and only NO ROOM passes by itself."""

    def __init__(self, refusal: LinkRefused) -> None:
        super().__init__(f"the device refused the link: {refusal.reason}: {refusal.detail}")
        self.refusal = refusal


class LinkLost(LinkError):
    """The stream ended before the handshake did: try again."""


class BlobError(NetworkError):
    """Base of the errors of bringing content here."""


class ProviderFailed(BlobError):
    """One device does not have the blob or gave something else: ask another."""


class BlobUnavailable(BlobError):
    """No device gave the whole blob; the message says what each was asked and did. Try later."""


class BlobMismatch(BlobError):
    """The blob is not what its reference says, wherever it comes from: the reference is wrong."""


class JoinError(NetworkError):
    """Base of the errors of redeeming an invitation. Each message is one line for a person."""


class IssuerUnreachable(JoinError, PeerUnreachable):
    """The device that made the invitation answers at none of its addresses: start it, try again."""


class IssuerOnOtherNetwork(JoinError):
    """What answers has another network key: the invitation is older than a change of the key."""


class InvitationUnknown(JoinError):
    """The issuer knows no such invitation: ask for a new one."""


class InvitationExpired(JoinError):
    """The invitation ran out: ask for a new one."""


class InvitationUsedUp(JoinError):
    """Other devices used the invitation: ask for a new one."""


class IssuerNotAdmin(JoinError):
    """The issuer may no longer invite: ask another admin."""


class DeviceRemoved(JoinError):
    """This device was removed from the mesh for good: join as a new one, from another home."""


class IssuerBusy(JoinError):
    """The issuer had no time for us, several times: try again in a minute."""


class WrongMesh(JoinError):
    """The answer is for another mesh than the invitation's, or is no membership for us: refuse."""


class JoinBroken(JoinError):
    """The issuer answered what is no answer, or nothing: it is faulty or runs another version."""
