"""Letting new devices in: invitations, counted on disk by the device that issued them.

Uses are keyed by the joiner's peer id, so a device that asks again, because the answer was lost or
because it was reset, gets the same certificate and costs no further use. The answer leaves only
when the use is durable, also when it is given again.

An invitation is good from its making until its expiry on the issuer's wall clock. A clock that says
it was not made yet was set back, so it no longer tells when the invitation ends: it is refused, and
while no clock is known at all nobody is invited or let in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Annotated

from blake3 import blake3
from msgspec import Meta, Struct
from msgspec.structs import replace

from p2p.directory import Chain
from p2p.removals import Removals
from wire.answers import Invited, RefusalCode, Refused
from wire.commands import Invite
from wire.effects import Answer, AnswerJoin, Effect, Persist, Row
from wire.events import JoinAsked
from wire.ids import MeshId, PeerId
from wire.membership import (
    ADDRESSES_MAX,
    CHAIN_LENGTH_MAX,
    Genesis,
    Invitation,
    JoinGranted,
    JoinRefusal,
    JoinRefused,
    Name,
    NetworkKey,
    Role,
    invitation_text,
    issue_certificate,
    mesh_id_of,
)
from wire.signed import Signed, Signer

INVITATIONS_MAX = 1_000
INVITATION_ROW = "invitation"

_KEY_CONTEXT = "meshd 2026 invitation secret"
_US_PER_S = 1_000_000
_CLOCK_STEP_US = 300 * _US_PER_S  # a clock that is set right may go back a little


class InvitationRow(Struct, frozen=True, kw_only=True):
    """An invitation as its issuer keeps it: without the secret, under its digest."""

    roles: tuple[Role, ...]
    operator: Name
    uses: int
    made_wall_us: int
    expires_wall_us: int
    redeemed_by: Annotated[tuple[PeerId, ...], Meta(max_length=10_000)] = ()


@dataclass(slots=True, kw_only=True)
class Admission:
    """The invitations of this device. Secrets are drawn from `rng`: let it be unpredictable."""

    signer: Signer
    genesis: Signed[Genesis]
    chain: Chain
    network_key: Callable[[], NetworkKey]
    removals: Removals
    rng: Random
    _invitations: dict[bytes, InvitationRow] = field(default_factory=dict)

    @property
    def _mesh(self) -> MeshId:
        return mesh_id_of(self.genesis)

    @property
    def _is_admin(self) -> bool:
        """Whether anybody would accept a certificate by this device."""
        is_out = self.removals.is_removed(self.signer.peer) or self.removals.is_void(self.chain)
        return Role.ADMIN in self.chain[0].body.roles and not is_out

    def on_restarted(self, rows: list[tuple[bytes, InvitationRow]]) -> None:
        """Take up the invitations that are still out."""
        self._invitations.update(rows)

    def on_invite(
        self, request: int, invite: Invite, *, addresses: tuple[str, ...], wall_us: int
    ) -> list[Effect]:
        """Make an invitation; its token is shown once it is durable."""
        if not self._is_admin:
            return [_refused(request, "this device is no admin of the mesh", "ask an admin")]
        if len(self.chain) >= CHAIN_LENGTH_MAX:
            hint = "invite from a device nearer to the founder"
            return [_refused(request, "a certificate chain would grow too long", hint)]
        if not wall_us:
            return [_refused(request, "the wall clock is not known yet", "try again in a minute")]
        if not addresses:
            return [_refused(request, "this device listens nowhere", "start it with --listen")]
        cleanup = self._drop_expired(wall_us)
        if len(self._invitations) >= INVITATIONS_MAX:
            hint = "wait until some expire"
            return [*cleanup, _refused(request, f"{INVITATIONS_MAX} invitations are out", hint)]
        secret = self.rng.randbytes(16)
        expires_wall_us = wall_us + invite.ttl_us
        row = InvitationRow(
            roles=tuple(dict.fromkeys(invite.roles)),
            operator=invite.operator or self.chain[0].body.operator,
            uses=invite.uses,
            made_wall_us=wall_us,
            expires_wall_us=expires_wall_us,
        )
        key = _key_of(secret)
        self._invitations[key] = row
        token = invitation_text(
            Invitation(
                mesh=self._mesh,
                network_key=self.network_key(),
                issuer=self.signer.peer,
                addresses=addresses[:ADDRESSES_MAX],
                secret=secret,
                expires_wall_s=expires_wall_us // _US_PER_S,
            )
        )
        invited = Invited(
            token=token,
            # Not as an argument: other users of that device could read it in the process list.
            command=f"echo {token} | meshd start --join -",
            roles=[str(role) for role in row.roles],
            uses=row.uses,
            ttl_us=invite.ttl_us,
            addresses=list(addresses),
        )
        return [*cleanup, Persist((Row(INVITATION_ROW, key, row),), (Answer(request, invited),))]

    def on_join_asked(self, asked: JoinAsked, *, wall_us: int) -> list[Effect]:
        """Answer a device that shows an invitation."""
        key = _key_of(asked.join.secret)
        row = self._invitations.get(key)
        refusal = self._refusal(row, asked.peer, wall_us)
        if row is None or refusal is not None:
            reason = refusal or JoinRefusal.UNKNOWN
            return [AnswerJoin(asked.request, JoinRefused(reason=reason))]
        granted = AnswerJoin(
            asked.request,
            JoinGranted(
                genesis=self.genesis,
                chain=self._chain_for(asked.peer, row),
                removals=self.removals.all(),
            ),
        )
        if asked.peer not in row.redeemed_by:
            row = replace(row, redeemed_by=(*row.redeemed_by, asked.peer))
            self._invitations[key] = row
        # Also when it was counted before: that may not be durable yet.
        return [Persist((Row(INVITATION_ROW, key, row),), (granted,))]

    def _refusal(self, row: InvitationRow | None, peer: PeerId, wall_us: int) -> JoinRefusal | None:
        if not self._is_admin or len(self.chain) >= CHAIN_LENGTH_MAX:
            return JoinRefusal.NOT_ADMIN
        if row is None:
            return JoinRefusal.UNKNOWN
        if self.removals.is_removed(peer):
            return JoinRefusal.REMOVED
        if not wall_us:
            return JoinRefusal.BUSY
        if not row.made_wall_us - _CLOCK_STEP_US <= wall_us < row.expires_wall_us:
            return JoinRefusal.EXPIRED
        if peer not in row.redeemed_by and len(row.redeemed_by) >= row.uses:
            return JoinRefusal.USED_UP
        return None

    def _chain_for(self, peer: PeerId, row: InvitationRow) -> Chain:
        for position, link in enumerate(self.chain):
            if link.body.subject == peer:
                # It let this device in, if at a remove, and lost its papers: a chain that names it
                # twice would lead nowhere.
                return self.chain[position:]
        return issue_certificate(
            self.signer,
            mesh=self._mesh,
            subject=peer,
            roles=row.roles,
            operator=row.operator,
            issuer_chain=self.chain,
        )

    def _drop_expired(self, wall_us: int) -> list[Effect]:
        expired = [key for key, row in self._invitations.items() if row.expires_wall_us <= wall_us]
        for key in expired:
            del self._invitations[key]
        if not expired:
            return []
        return [Persist(tuple(Row(INVITATION_ROW, key, None) for key in expired))]


def _key_of(secret: bytes) -> bytes:
    return blake3(secret, derive_key_context=_KEY_CONTEXT).digest()


def _refused(request: int, message: str, hint: str) -> Answer:
    return Answer(request, Refused(code=RefusalCode.REFUSED, message=message, hint=hint))
