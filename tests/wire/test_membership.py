"""Membership: a chain leads to the founder or is worth nothing; an invitation is whole or none."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.meshes import keys_of, small_mesh
from support.strategies import values_of

from wire.codec import Decoder
from wire.errors import MalformedFrame, NotAMember
from wire.ids import MeshId, PeerId, peer_text
from wire.keys import Ed25519Verifier
from wire.membership import (
    ALL_ROLES,
    CHAIN_LENGTH_MAX,
    INVITATION_LETTERS_MAX,
    INVITATION_PREFIX,
    Certificate,
    Chain,
    Genesis,
    Invitation,
    JoinGranted,
    Role,
    check_chain,
    found_mesh,
    invitation_from_text,
    invitation_text,
    issue_certificate,
    mesh_id_of,
)
from wire.signed import Signed, encode_body, sign

MESH = small_mesh(3)
OTHER = small_mesh(3, nonce=8)
VERIFIER = Ed25519Verifier()
INVITATION = Invitation(
    mesh=MESH.id,
    network_key=bytes(range(32)),
    issuer=keys_of(0).peer,
    addresses=("/ip4/192.168.1.20/tcp/4001",),
    secret=bytes(range(16)),
    expires_wall_s=1_800_000_000,
)


def certificate(
    issuer: int, subject: int, *, roles: tuple[Role, ...] = ALL_ROLES, mesh: MeshId = MESH.id
) -> Signed[Certificate]:
    body = Certificate(
        mesh=mesh, subject=keys_of(subject).peer, roles=roles, operator=f"operator {subject}"
    )
    return sign(body, keys_of(issuer))


def chain(*numbers: int, admin: bool = True) -> Chain:
    """Return the chain of devices, the newest first: each issued by the next, the last by 0."""
    links = [
        certificate(issuer, subject)
        if place == 0 or admin
        else certificate(issuer, subject, roles=(Role.EXECUTOR,))
        for place, (subject, issuer) in enumerate(zip(numbers, (*numbers[1:], 0), strict=True))
    ]
    return (*links, certificate(0, 0))


def checked(links: Chain, *, subject: int, genesis: Signed[Genesis] = MESH.genesis) -> Certificate:
    return check_chain(links, genesis=genesis, subject=keys_of(subject).peer)


def test_the_founder_and_those_it_invited_are_members_with_their_roles() -> None:
    for number, device in enumerate(MESH.devices):
        assert checked(device.chain, subject=number) == device.certificate
    only = small_mesh(2, roles={1: (Role.OBSERVER,)})
    found = check_chain(only.chains[1], genesis=only.genesis, subject=keys_of(1).peer)
    assert found.roles == (Role.OBSERVER,)


def test_a_chain_of_admins_leads_to_the_founder_up_to_its_longest() -> None:
    longest = chain(*range(CHAIN_LENGTH_MAX - 1, 0, -1))
    assert len(longest) == CHAIN_LENGTH_MAX
    assert checked(longest, subject=CHAIN_LENGTH_MAX - 1).subject == keys_of(7).peer


def impostor() -> tuple[Chain, Signed[Genesis]]:
    """Return a genesis that names device 0 as founder but was signed by device 2."""
    genesis = sign(MESH.genesis.body, keys_of(2))
    mesh = mesh_id_of(genesis)
    return (certificate(0, 1, mesh=mesh), certificate(0, 0, mesh=mesh)), genesis


BROKEN: dict[str, tuple[Callable[[], Chain], str]] = {
    "of another mesh": (lambda: OTHER.chains[1], "certificate of mesh"),
    "with one link of another mesh": (
        lambda: (certificate(0, 1), certificate(0, 0, mesh=OTHER.id)),
        "certificate of mesh",
    ),
    "of another device": (lambda: MESH.chains[2], "certificate 0 is for"),
    "cut at the founder's end": (lambda: MESH.chains[1][:1], "the founder's own"),
    "cut at the member's end": (lambda: MESH.chains[1][1:], "certificate 0 is for"),
    "with a link missing in between": (
        lambda: (chain(1, 2, 3)[0], *chain(1, 2, 3)[2:]),
        "certificate 1 is for",
    ),
    "with two links swapped": (
        lambda: (chain(1, 2, 3)[0], *reversed(chain(1, 2, 3)[1:3]), chain(1, 2, 3)[3]),
        "certificate 1 is for",
    ),
    "empty": (tuple, "does not end at the founder"),
    "too long": (lambda: chain(1, *range(10, 17)), "9 certificates; 8 are allowed"),
    "through one that is no admin": (
        lambda: chain(1, 2, admin=False),
        f"{peer_text(keys_of(2).peer)} issued a certificate and is no admin",
    ),
    "that the member signed for itself": (
        lambda: (certificate(1, 1), certificate(0, 0)),
        "certificate 1 is for",
    ),
    "that a stranger ends with its own": (
        lambda: (certificate(5, 1), certificate(5, 5)),
        "does not end at the founder",
    ),
    "through a cycle": (lambda: chain(1, 2, 3, 2), "names a device twice"),
    "with the founder in between": (lambda: chain(1, 0), "names a device twice"),
    "of two members who certify each other": (
        lambda: (certificate(2, 1), certificate(1, 2)),
        "does not end at the founder",
    ),
}


@pytest.mark.parametrize(("make", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_chain_is_refused_and_the_broken_link_named(
    make: Callable[[], Chain], message: str
) -> None:
    with pytest.raises(NotAMember, match=message):
        checked(make(), subject=1)


def test_a_founder_that_did_not_sign_the_genesis_founded_nothing() -> None:
    links, genesis = impostor()
    with pytest.raises(NotAMember, match="founder"):
        checked(links, subject=1, genesis=genesis)


def test_the_same_device_with_another_nonce_founds_another_mesh() -> None:
    assert MESH.id != OTHER.id
    assert MESH.genesis.body.founder == OTHER.genesis.body.founder
    genesis, own = found_mesh(
        keys_of(0), operator="operator 0", recovery_key=keys_of(200).peer, nonce=bytes([7]) * 16
    )
    assert mesh_id_of(genesis) == MESH.id
    assert own == MESH.chains[0]


def test_an_admin_too_deep_to_invite_is_told_so_instead_of_issuing_a_worthless_chain() -> None:
    deepest = chain(*range(CHAIN_LENGTH_MAX - 1, 0, -1))
    with pytest.raises(NotAMember, match="let another admin invite"):
        issue_certificate(
            keys_of(7),
            mesh=MESH.id,
            subject=keys_of(8).peer,
            roles=ALL_ROLES,
            operator="operator 8",
            issuer_chain=deepest,
        )


def test_a_chain_longer_than_the_longest_does_not_decode() -> None:
    granted = JoinGranted(genesis=MESH.genesis, chain=chain(1, *range(10, 17)))
    with pytest.raises(MalformedFrame, match="length <= 8"):
        Decoder(JoinGranted, VERIFIER).decode(encode_body(granted))


@settings(max_examples=30)
@given(values_of(Invitation))
def test_an_invitation_comes_back_from_its_text(invitation: Invitation) -> None:
    assert invitation_from_text(invitation_text(invitation), VERIFIER) == invitation


def test_an_invitation_may_come_wrapped_in_lines_or_in_capitals() -> None:
    text = invitation_text(INVITATION)
    wrapped = "\n".join(text[start : start + 40] for start in range(0, len(text), 40))
    for written in (text.upper(), f"  {text}\r\n", wrapped):
        assert invitation_from_text(written, VERIFIER) == INVITATION


def test_an_invitation_cut_anywhere_is_refused() -> None:
    text = invitation_text(INVITATION)
    for length in range(len(text)):
        with pytest.raises(MalformedFrame, match=r"not an invitation|cut or mistyped"):
            invitation_from_text(text[:length], VERIFIER)


def test_an_invitation_with_any_letter_mistyped_is_refused() -> None:
    text = invitation_text(INVITATION)
    for position in range(len(INVITATION_PREFIX), len(text)):
        for letter in ("a", "7", "1", "é"):
            if text[position] != letter:
                mistyped = text[:position] + letter + text[position + 1 :]
                with pytest.raises(MalformedFrame, match="cut or mistyped: copy it whole"):
                    invitation_from_text(mistyped, VERIFIER)


@pytest.mark.parametrize(
    "text", ["", "meshd", "meshd2abc", "hello", "12D3KooW", "meshd1" + "a" * INVITATION_LETTERS_MAX]
)
def test_other_text_is_not_an_invitation(text: str) -> None:
    with pytest.raises(MalformedFrame, match="not an invitation: it begins with 'meshd1'"):
        invitation_from_text(text, VERIFIER)


@pytest.mark.parametrize(
    "changes",
    [
        {"addresses": ()},
        {"addresses": ("/ip4/127.0.0.1/tcp/1",) * 17},
        {"secret": b"short"},
        {"network_key": bytes(31)},
        {"issuer": PeerId(bytes(33))},
    ],
)
def test_an_invitation_whose_content_makes_no_sense_is_malformed(
    changes: dict[str, object],
) -> None:
    text = invitation_text(msgspec.structs.replace(INVITATION, **changes))
    with pytest.raises(MalformedFrame):
        invitation_from_text(text, VERIFIER)


@given(st.text("abcdefghijklmnopqrstuvwxyz234567", max_size=300))
def test_any_letters_behind_the_prefix_are_an_invitation_or_malformed(letters: str) -> None:
    with pytest.raises(MalformedFrame):
        invitation_from_text(INVITATION_PREFIX + letters, VERIFIER)
