"""Who belongs to a mesh: its genesis, certificates, invitations and removals.

A mesh is founded by a signed genesis; the digest of its body is the mesh id. A member holds a
chain of certificates: its own first, each signed by the subject of the next, the founder's own
last. Every issuer in a chain must be an admin of it.
"""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar, NewType

from blake3 import blake3
from msgspec import Meta, Struct

from wire.codec import Decoder
from wire.errors import MalformedFrame, MalformedId, NotAMember
from wire.ids import Digest, MeshId, PeerId, base32_text, bytes_from_base32, mesh_text, peer_text
from wire.signed import Body, Signed, Signer, Verifier, encode_body, sign
from wire.text import Address as Address
from wire.text import Name as Name
from wire.text import NameOrNothing

CHAIN_LENGTH_MAX = 8
ADDRESSES_MAX = 16
PAPER_ID_BYTES = 16
KEPT_MAX = 4_096  # papers of a removed admin that stay: with a full chain this is 70 KiB
INVITATION_PREFIX = "meshd1"
INVITATION_LETTERS_MAX = 4_096

_GENESIS_CONTEXT = "meshd 2026 genesis"
_PAPER_CONTEXT = "meshd 2026 paper id"
_NETWORK_KEY_CONTEXT = "meshd 2026 network key"
_INVITATION_CONTEXT = "meshd 2026 invitation checksum"
_CHECKSUM_BYTES = 4

Addresses = Annotated[tuple[Address, ...], Meta(max_length=ADDRESSES_MAX)]
Secret = Annotated[bytes, Meta(min_length=16, max_length=16)]
NetworkKey = Annotated[bytes, Meta(min_length=32, max_length=32)]


class Role(enum.StrEnum):
    """What a member may do."""

    ADMIN = "admin"  # invites and removes
    SUBMITTER = "submitter"
    EXECUTOR = "executor"
    STEWARD = "steward"
    OBSERVER = "observer"


ALL_ROLES = tuple(Role)


class Genesis(Struct, frozen=True, kw_only=True):
    """The founding of a mesh. The recovery key is kept offline and outranks every member."""

    DOMAIN: ClassVar[bytes] = b"meshd/genesis/1"

    founder: PeerId
    recovery_key: PeerId
    operator: Name
    nonce: Secret


class Certificate(Struct, frozen=True, kw_only=True):
    """A device's membership. It has no expiry: removal ends it."""

    DOMAIN: ClassVar[bytes] = b"meshd/certificate/1"

    mesh: MeshId
    subject: PeerId
    roles: Annotated[tuple[Role, ...], Meta(min_length=1, max_length=len(Role))]
    operator: Name


Chain = Annotated[tuple[Signed[Certificate], ...], Meta(min_length=1, max_length=CHAIN_LENGTH_MAX)]

# Names a certificate or a removal: a digest of who signed it and what it says.
PaperId = NewType(
    "PaperId", Annotated[bytes, Meta(min_length=PAPER_ID_BYTES, max_length=PAPER_ID_BYTES)]
)


class Removal(Struct, frozen=True, kw_only=True):
    """The word of an admin, or of the recovery key, that a device is out of the mesh for good.

    `chain` is the admin's; the recovery key needs none. Where the subject is an admin, `kept` names
    the certificates and removals it signed that stay: all others are void. `name` is what people
    called it, for those who never met it.
    """

    DOMAIN: ClassVar[bytes] = b"meshd/removal/1"

    mesh: MeshId
    subject: PeerId
    chain: Annotated[tuple[Signed[Certificate], ...], Meta(max_length=CHAIN_LENGTH_MAX)] = ()
    kept: Annotated[tuple[PaperId, ...], Meta(max_length=KEPT_MAX)] = ()
    name: NameOrNothing = ""


class NetworkKeyRoll(Struct, frozen=True, kw_only=True):
    """An admin's word that the mesh has another network key, of which this is the digest.

    Of two with one generation, the one with the greater digest is the later.
    """

    DOMAIN: ClassVar[bytes] = b"meshd/network-key/1"

    mesh: MeshId
    generation: Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
    digest: Digest
    chain: Chain


class Invitation(Struct, frozen=True, kw_only=True):
    """What a new device needs to reach its inviter, and the secret that lets it in.

    Uses and expiry are counted by the issuer; `expires_wall_s` only lets the joiner say so early.
    """

    mesh: MeshId
    network_key: NetworkKey
    issuer: PeerId
    addresses: Annotated[tuple[Address, ...], Meta(min_length=1, max_length=ADDRESSES_MAX)]
    secret: Secret
    expires_wall_s: Annotated[int, Meta(ge=0, le=1 << 40)]


class JoinRequest(Struct, frozen=True, kw_only=True):
    """A new device shows its invitation. Its peer id is the one the connection proved."""

    secret: Secret
    name: Name


class JoinGranted(Struct, frozen=True, kw_only=True):
    """The new member's papers, and all removals so that it serves nobody who was removed.

    Removals that do not fit into one frame come in further ones, which repeat the papers.
    """

    genesis: Signed[Genesis]
    chain: Chain
    removals: Annotated[tuple[Signed[Removal], ...], Meta(max_length=10_000)] = ()


class JoinRefusal(enum.StrEnum):
    """Why an invitation was not accepted."""

    UNKNOWN = "unknown"
    EXPIRED = "expired"
    USED_UP = "used_up"
    NOT_ADMIN = "not_admin"
    BUSY = "busy"
    REMOVED = "removed"


class JoinRefused(Struct, frozen=True, kw_only=True):
    """The issuer does not accept the invitation."""

    reason: JoinRefusal


JOIN_MESSAGES = {
    "join_request": JoinRequest,
    "join_granted": JoinGranted,
    "join_refused": JoinRefused,
}


def mesh_id_of(genesis: Signed[Genesis]) -> MeshId:
    """Return the id of the mesh that `genesis` founded."""
    return MeshId(blake3(genesis.received, derive_key_context=_GENESIS_CONTEXT).digest())


def paper_id(paper: Signed[Body]) -> PaperId:
    """Return the id of a certificate or a removal.

    The signature is no part of it: two of the same words by the same signer are one paper.
    """
    hashed = blake3(paper.signer + paper.received, derive_key_context=_PAPER_CONTEXT)
    return PaperId(hashed.digest(PAPER_ID_BYTES))


def network_key_digest(key: bytes) -> Digest:
    """Return what a roll says of a network key."""
    return Digest(blake3(key, derive_key_context=_NETWORK_KEY_CONTEXT).digest())


def found_mesh(
    signer: Signer, *, operator: str, recovery_key: PeerId, nonce: bytes
) -> tuple[Signed[Genesis], tuple[Signed[Certificate], ...]]:
    """Return the genesis of a new mesh and its founder's chain, one certificate with all roles."""
    genesis = sign(
        Genesis(founder=signer.peer, recovery_key=recovery_key, operator=operator, nonce=nonce),
        signer,
    )
    own = issue_certificate(
        signer,
        mesh=mesh_id_of(genesis),
        subject=signer.peer,
        roles=ALL_ROLES,
        operator=operator,
        issuer_chain=(),
    )
    return genesis, own


def issue_certificate(
    signer: Signer,
    *,
    mesh: MeshId,
    subject: PeerId,
    roles: tuple[Role, ...],
    operator: str,
    issuer_chain: tuple[Signed[Certificate], ...],
) -> tuple[Signed[Certificate], ...]:
    """Return the chain of a new member, its own certificate first.

    Raises NotAMember when the issuer stands so deep that nobody would accept the new chain.
    """
    if len(issuer_chain) >= CHAIN_LENGTH_MAX:
        raise NotAMember(f"a chain holds {CHAIN_LENGTH_MAX} certificates: let another admin invite")
    certificate = Certificate(mesh=mesh, subject=subject, roles=roles, operator=operator)
    return (sign(certificate, signer), *issuer_chain)


def check_chain(
    chain: tuple[Signed[Certificate], ...], *, genesis: Signed[Genesis], subject: PeerId
) -> Certificate:
    """Return the certificate of `subject` if `chain` leads from it to the founder.

    The signatures of a decoded chain are verified already; this checks what they say. Raises
    NotAMember with the link that is broken.
    """
    if len(chain) > CHAIN_LENGTH_MAX:
        raise NotAMember(f"a chain of {len(chain)} certificates; {CHAIN_LENGTH_MAX} are allowed")
    if len({link.body.subject for link in chain}) != len(chain):
        raise NotAMember("the chain names a device twice")
    mesh = mesh_id_of(genesis)
    expected = subject
    for position, link in enumerate(chain):
        certificate = link.body
        if certificate.mesh != mesh:
            raise NotAMember(f"certificate of mesh {mesh_text(certificate.mesh)}, this is another")
        if certificate.subject != expected:
            raise NotAMember(f"certificate {position} is for {peer_text(certificate.subject)}")
        if position > 0 and Role.ADMIN not in certificate.roles:
            raise NotAMember(f"{peer_text(expected)} issued a certificate and is no admin")
        expected = link.signer
    if not chain or expected != genesis.body.founder or genesis.signer != genesis.body.founder:
        raise NotAMember("the chain does not end at the founder")
    if chain[-1].body.subject != genesis.body.founder:
        raise NotAMember("the chain's last certificate is not the founder's own")
    return chain[0].body


def invitation_text(invitation: Invitation) -> str:
    """Return the token that is typed, sent or scanned; the checksum finds a cut or mistyped one."""
    body = encode_body(invitation)
    return INVITATION_PREFIX + base32_text(_checksum(body) + body)


def invitation_from_text(text: str, verifier: Verifier) -> Invitation:
    """Return the invitation in a token. Raises MalformedFrame with what is wrong with it."""
    text = "".join(text.split()).lower()  # wrapped by a mail program, or in capitals for a QR code
    if not text.startswith(INVITATION_PREFIX) or len(text) > INVITATION_LETTERS_MAX:
        raise MalformedFrame(f"not an invitation: it begins with {INVITATION_PREFIX!r}")
    try:
        raw = bytes_from_base32(text.removeprefix(INVITATION_PREFIX))
    except MalformedId as error:
        raise MalformedFrame("the invitation was cut or mistyped: copy it whole") from error
    checksum, body = raw[:_CHECKSUM_BYTES], raw[_CHECKSUM_BYTES:]
    if checksum != _checksum(body):
        raise MalformedFrame("the invitation was cut or mistyped: copy it whole")
    return Decoder(Invitation, verifier).decode(body)


def _checksum(body: bytes) -> bytes:
    return blake3(body, derive_key_context=_INVITATION_CONTEXT).digest(_CHECKSUM_BYTES)
