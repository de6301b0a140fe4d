"""Which mesh this home belongs to: founded at the first start, or joined by an invitation."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import ClassVar

import structlog
from msgspec import Struct
from msgspec.structs import replace

from meshd.errors import DaemonError, InvitationUnreadable
from meshd.home import Home
from meshd.store import Store, Write
from p2p.network_keys import NETWORK_KEY_KEY, NETWORK_KEY_ROW, NetworkKeyRow
from p2p.removals import RemovalRow, Removals
from wire.codec import Decoder
from wire.effects import Row
from wire.errors import MalformedFrame
from wire.ids import MeshId, PeerId, mesh_text, peer_text
from wire.keys import SEED_BYTES, Ed25519Keys, Ed25519Verifier
from wire.membership import (
    Chain,
    Genesis,
    Invitation,
    JoinGranted,
    NetworkKey,
    Removal,
    found_mesh,
    invitation_from_text,
    mesh_id_of,
)
from wire.signed import Signed, encode_body

NETWORK_KEY_BYTES = 32

log = structlog.get_logger()


class MembershipError(DaemonError):
    """The invitation or the home's mesh does not fit: show the message, change the command."""


class MembershipRow(Struct, frozen=True, kw_only=True):
    """The papers of this device. `recovery_seed` is there until it is taken offline."""

    KIND: ClassVar[str] = "membership"
    KEY: ClassVar[bytes] = b"own"

    genesis: Signed[Genesis]
    chain: Chain
    network_key: NetworkKey
    removals: tuple[Signed[Removal], ...] = ()
    recovery_seed: bytes | None = None

    def __repr__(self) -> str:
        """Name the mesh only: the rest is secret."""
        return f"MembershipRow({mesh_text(self.mesh)})"

    @property
    def mesh(self) -> MeshId:
        """The mesh's id."""
        return mesh_id_of(self.genesis)


def load_membership(store: Store) -> MembershipRow | None:
    """Return the papers in a store that is not running yet, None before the first start.

    Raises MembershipError if they are damaged.
    """
    rows = store.load_all((MembershipRow.KIND,))[MembershipRow.KIND]
    if not rows:
        return None
    try:
        return Decoder(MembershipRow, Ed25519Verifier()).decode(rows[-1][1])
    except MalformedFrame as error:
        raise MembershipError(
            f"the membership in {store.path} is damaged ({error}): move the home away and join"
            " again with an invitation"
        ) from error


def check_owner(membership: MembershipRow, *, own: PeerId, home: Home) -> None:
    """Raise MembershipError if the papers are another device's: key and store belong together."""
    owner = membership.chain[0].body.subject
    if owner != own:
        raise MembershipError(
            f"{home.key} is the key of {peer_text(own)}, {home.database} is of {peer_text(owner)}:"
            f" restore the key that belongs to it, or move {home.database.name} away to start as a"
            " new device, which needs an invitation"
        )


async def save_membership(
    store: Store, membership: MembershipRow, network_key: NetworkKeyRow | None = None
) -> None:
    """Keep the papers, and the network key where that is not the node's yet. Raises StoreError."""
    writes = [Write(kind=MembershipRow.KIND, key=MembershipRow.KEY, body=encode_body(membership))]
    if network_key is not None:
        body = encode_body(network_key)
        writes.append(Write(kind=NETWORK_KEY_ROW, key=NETWORK_KEY_KEY, body=body))
    await store.persist(writes)


class Papers:
    """The papers of the running device: what they are now, and how they change on the disk."""

    def __init__(self, store: Store, row: MembershipRow) -> None:
        self._store = store
        self.row = row

    async def erase_recovery_seed(self) -> None:
        """Forget the recovery key, so that no copy of it stays in the files. Raises StoreError."""
        row = replace(self.row, recovery_seed=None)
        body = encode_body(row)
        write = Write(kind=MembershipRow.KIND, key=MembershipRow.KEY, body=body)
        await self._store.overwrite(write)
        self.row = row


def found(keys: Ed25519Keys, *, operator: str) -> MembershipRow:
    """Return the papers of a new mesh of one."""
    recovery_seed = os.urandom(SEED_BYTES)
    genesis, chain = found_mesh(
        keys,
        operator=operator,
        recovery_key=Ed25519Keys(recovery_seed).peer,
        nonce=os.urandom(16),
    )
    return MembershipRow(
        genesis=genesis,
        chain=chain,
        network_key=os.urandom(NETWORK_KEY_BYTES),
        recovery_seed=recovery_seed,
    )


def joined(
    invitation: Invitation, granted: JoinGranted, known: MembershipRow | None
) -> MembershipRow:
    """Return the papers that an invitation was redeemed for, perhaps by a member of before.

    The removals that came with them are the node's to keep: there may be megabytes of them.
    """
    papers = MembershipRow(
        genesis=granted.genesis, chain=granted.chain, network_key=invitation.network_key
    )
    if known is None or known.mesh != papers.mesh:
        return papers
    return replace(papers, removals=known.removals, recovery_seed=known.recovery_seed)


def removals_of(membership: MembershipRow, stored: Iterable[Row]) -> Removals:
    """Return the removals that a home holds."""
    removals = Removals(genesis=membership.genesis)
    rows = [row.value for row in stored if isinstance(row.value, RemovalRow)]
    removals.add((*membership.removals, *(row.removal for row in rows)))
    return removals


def network_key_of(membership: MembershipRow, stored: Iterable[Row]) -> NetworkKeyRow:
    """Return the network key of a home, and the one of before while it is accepted."""
    rows = [row.value for row in stored if isinstance(row.value, NetworkKeyRow)]
    return rows[-1] if rows else NetworkKeyRow(key=membership.network_key)


def with_key_of(invitation: Invitation, held: NetworkKeyRow) -> NetworkKeyRow:
    """Return what a member holds that was away for long, and learns the key by an invitation.

    Who rolled it is told on the first link.
    """
    if held.was_held(invitation.network_key):
        return held
    return held.followed_by(invitation.network_key, None)


def needs_new_papers(membership: MembershipRow, removals: Removals, *, own: PeerId) -> bool:
    """Say whether a member has to be let in anew. Raises MembershipError if that cannot be."""
    if removals.is_removed(own):
        raise MembershipError(
            f"this device was removed from mesh {mesh_text(membership.mesh)[:12]}, for good: to"
            " come back as a new device, start with another --home"
        )
    return removals.is_void(membership.chain)


def read_invitation(text: str) -> Invitation:
    """Return the invitation in a token. Raises InvitationUnreadable."""
    try:
        return invitation_from_text(text, Ed25519Verifier())
    except MalformedFrame as error:
        raise InvitationUnreadable(
            f"{error}; `meshctl invite` on a device of the mesh makes a new one"
        ) from error


def may_leave(membership: MembershipRow, *, own: PeerId, store: Store) -> bool:
    """Say whether nothing would be lost by joining another mesh.

    So it is for a mesh of one that was founded by a first start and used for nothing.
    """
    kinds = ("batch", "invitation", "result", "address")
    is_unused = not any(store.load_all(kinds).values())
    return membership.genesis.body.founder == own and is_unused


def refuse_other_mesh(membership: MembershipRow, invitation: Invitation) -> MembershipError:
    """Return the error of an invitation to another mesh than the home's."""
    return MembershipError(
        f"this home belongs to mesh {mesh_text(membership.mesh)[:12]}, the invitation is to"
        f" {mesh_text(invitation.mesh)[:12]}: start with another --home to be in both"
    )
