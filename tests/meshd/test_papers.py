"""The papers of a home: founded, joined, kept, and given up only when nothing is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from support.meshes import keys_of, small_mesh

from meshd.errors import InvitationUnreadable, StoreFailed
from meshd.membership import (
    MembershipError,
    MembershipRow,
    found,
    joined,
    load_membership,
    may_leave,
    read_invitation,
    refuse_other_mesh,
    save_membership,
)
from meshd.rows import ROW_KINDS
from meshd.store import Store, Write
from wire.ids import mesh_text
from wire.keys import Ed25519Keys
from wire.membership import ALL_ROLES, Invitation, JoinGranted, Removal, check_chain
from wire.membership import invitation_text as text_of
from wire.signed import sign

MESH = small_mesh(3)
FOUNDER, MEMBER, REMOVED = MESH.devices
INVITATION = Invitation(
    mesh=MESH.id,
    network_key=b"n" * 32,
    issuer=FOUNDER.peer,
    addresses=("/ip4/192.0.2.1/tcp/4001",),
    secret=b"s" * 16,
    expires_wall_s=1 << 33,
)
REMOVAL = sign(
    Removal(mesh=MESH.id, subject=REMOVED.peer, chain=FOUNDER.chain),
    FOUNDER.keys,
)
GRANTED = JoinGranted(genesis=MESH.genesis, chain=MEMBER.chain, removals=(REMOVAL,))


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Store]:
    store = Store.open(path)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            yield store
            nursery.cancel_scope.cancel()
    finally:
        store.close()


def loaded(path: Path) -> MembershipRow | None:
    store = Store.open(path)
    try:
        return load_membership(store)
    finally:
        store.close()


def test_a_founded_mesh_has_its_founder_with_all_roles() -> None:
    papers = found(keys_of(5), operator="ada")
    certificate = check_chain(papers.chain, genesis=papers.genesis, subject=keys_of(5).peer)
    assert certificate.roles == ALL_ROLES
    assert certificate.operator == "ada"
    assert papers.recovery_seed is not None
    assert papers.genesis.body.recovery_key == Ed25519Keys(papers.recovery_seed).peer


def test_every_founding_is_another_mesh_with_other_secrets() -> None:
    first, second = (found(keys_of(5), operator="ada") for _ in range(2))
    assert first.mesh != second.mesh
    assert first.network_key != second.network_key
    assert first.recovery_seed != second.recovery_seed


def test_a_joined_device_has_what_the_invitation_and_the_issuer_gave() -> None:
    papers = joined(INVITATION, GRANTED, None)
    assert papers.mesh == MESH.id == INVITATION.mesh
    assert (papers.network_key, papers.chain) == (INVITATION.network_key, MEMBER.chain)
    assert papers.removals == (), "they are rows of the node: there may be megabytes"
    assert papers.recovery_seed is None


@pytest.mark.parametrize(
    "papers", [found(keys_of(5), operator="ada"), joined(INVITATION, GRANTED, None)]
)
async def test_papers_are_read_back_as_they_were_kept(
    tmp_path: Path, papers: MembershipRow
) -> None:
    path = tmp_path / "meshd.db"
    assert loaded(path) is None
    async with running(path) as store:
        await save_membership(store, papers)
    assert loaded(path) == papers


async def test_the_papers_of_a_mesh_that_was_left_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "meshd.db"
    async with running(path) as store:
        await save_membership(store, found(keys_of(1), operator="ada"))
        await save_membership(store, joined(INVITATION, GRANTED, None))
    papers = loaded(path)
    assert papers is not None
    assert papers.mesh == MESH.id


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x80"])
async def test_damaged_papers_are_an_error_that_says_what_to_do(
    tmp_path: Path, body: bytes
) -> None:
    path = tmp_path / "meshd.db"
    async with running(path) as store:
        await store.persist([Write(MembershipRow.KIND, MembershipRow.KEY, body)])
    with pytest.raises(MembershipError, match=r"damaged.*join again"):
        loaded(path)


async def test_papers_whose_signature_was_changed_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "meshd.db"
    async with running(path) as store:
        await save_membership(store, joined(INVITATION, GRANTED, None))
    async with running(path) as store:
        [row] = await store.load(MembershipRow.KIND)
        received = MESH.genesis.received
        at = row.body.index(received) + len(received) - 1
        changed = row.body[:at] + bytes([row.body[at] ^ 1]) + row.body[at + 1 :]
        await store.persist([Write(MembershipRow.KIND, MembershipRow.KEY, changed)])
    with pytest.raises(MembershipError, match="damaged"):
        loaded(path)


async def test_a_store_that_is_closed_keeps_no_papers(tmp_path: Path) -> None:
    async with running(tmp_path / "meshd.db") as store:
        pass
    with pytest.raises(StoreFailed):
        await save_membership(store, joined(INVITATION, GRANTED, None))


async def test_only_an_unused_mesh_of_ones_own_may_be_left(tmp_path: Path) -> None:
    own = found(keys_of(5), operator="ada")
    async with running(tmp_path / "fresh.db") as store:
        await save_membership(store, own)
        await store.persist([Write("incarnation", b"own", b"x"), Write("measurement", b"p", b"x")])
        assert may_leave(own, own=keys_of(5).peer, store=store)
        assert not may_leave(own, own=keys_of(6).peer, store=store)
        assert not may_leave(joined(INVITATION, GRANTED, None), own=MEMBER.peer, store=store)


@pytest.mark.parametrize("kind", ["batch", "invitation", "result", "address"])
async def test_a_mesh_that_was_used_is_not_left(tmp_path: Path, kind: str) -> None:
    assert kind in ROW_KINDS, "the rule names a kind of row that nobody writes"
    own = found(keys_of(5), operator="ada")
    async with running(tmp_path / "meshd.db") as store:
        await store.persist([Write(kind, b"key", b"x")])
        assert not may_leave(own, own=keys_of(5).peer, store=store)


def test_papers_show_no_secret_when_they_are_printed() -> None:
    papers = found(keys_of(5), operator="ada")
    for text in (repr(papers), str(papers), f"{papers}", repr([papers])):
        assert mesh_text(papers.mesh) in text
        for secret in (papers.network_key, papers.recovery_seed):
            assert secret is not None
            assert repr(secret)[2:-1] not in text
            assert secret.hex() not in text
        assert "seed" not in text


def test_an_invitation_is_read_and_a_mistyped_one_is_refused_with_a_hint() -> None:
    text = text_of(INVITATION)
    assert read_invitation(text) == INVITATION
    for wrong in (text[:-1], text[:20] + ("a" if text[20] != "a" else "b") + text[21:], "hello"):
        with pytest.raises(InvitationUnreadable, match="meshctl invite"):
            read_invitation(wrong)


def test_the_refusal_of_another_mesh_names_both_and_no_secret() -> None:
    own = found(keys_of(5), operator="ada")
    message = str(refuse_other_mesh(own, INVITATION))
    assert mesh_text(own.mesh)[:12] in message
    assert mesh_text(MESH.id)[:12] in message
    assert "--home" in message
