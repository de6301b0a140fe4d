"""A mesh with admins of several ranks, and the removals that they sign."""

from __future__ import annotations

from dataclasses import dataclass

from support.meshes import RECOVERY_DEVICE, keys_of

from wire.ids import MeshId, PeerId
from wire.keys import Ed25519Keys
from wire.membership import (
    ALL_ROLES,
    Chain,
    PaperId,
    Removal,
    Role,
    found_mesh,
    issue_certificate,
    mesh_id_of,
    paper_id,
)
from wire.signed import Signed, sign

RECOVERY = keys_of(RECOVERY_DEVICE)
GENESIS, FOUNDER_CHAIN = found_mesh(
    keys_of(0), operator="ada", recovery_key=RECOVERY.peer, nonce=b"n" * 16
)
MESH: MeshId = mesh_id_of(GENESIS)


@dataclass(frozen=True, slots=True)
class Member:
    """A device and the papers that somebody gave it."""

    keys: Ed25519Keys
    chain: Chain

    @property
    def peer(self) -> PeerId:
        """The device's id."""
        return self.keys.peer

    @property
    def paper(self) -> PaperId:
        """The id of its own certificate."""
        return paper_id(self.chain[0])


def member(number: int, issuer: Member, *roles: Role) -> Member:
    """Return device `number`, let in by `issuer` with all roles or these."""
    chain = issue_certificate(
        issuer.keys,
        mesh=MESH,
        subject=keys_of(number).peer,
        roles=roles or ALL_ROLES,
        operator="ada",
        issuer_chain=issuer.chain,
    )
    return Member(keys_of(number), chain)


FOUNDER = Member(keys_of(0), FOUNDER_CHAIN)
ADMIN = member(1, FOUNDER)
OTHER_ADMIN = member(2, FOUNDER)
DEEPER = member(3, ADMIN)
LAPTOP = member(4, DEEPER, Role.EXECUTOR)
KITCHEN = member(5, ADMIN, Role.EXECUTOR, Role.SUBMITTER)
HALL = member(6, FOUNDER, Role.EXECUTOR)
MEMBERS = (FOUNDER, ADMIN, OTHER_ADMIN, DEEPER, LAPTOP, KITCHEN, HALL)


def removal(
    subject: Member | PeerId,
    by: Member | None,
    *,
    kept: tuple[PaperId, ...] = (),
    mesh: MeshId = MESH,
    name: str = "",
) -> Signed[Removal]:
    """Return the word of `by`, None for the recovery key, that `subject` is out."""
    peer = subject.peer if isinstance(subject, Member) else subject
    chain = () if by is None else by.chain
    body = Removal(mesh=mesh, subject=peer, chain=chain, kept=kept, name=name)
    return sign(body, RECOVERY if by is None else by.keys)
