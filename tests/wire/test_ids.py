"""Ids: each has one spelling, and hostile text is refused with one line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.strategies import values_of

from wire.errors import MalformedId
from wire.ids import (
    BatchId,
    Digest,
    MeshId,
    PeerId,
    TaskId,
    bytes_from_base32,
    did_key,
    digest_from_text,
    digest_text,
    mesh_from_text,
    mesh_text,
    peer_from_text,
    peer_text,
    steward_short,
    task_id_from_text,
)

PARSERS: list[Callable[[str], object]] = [
    peer_from_text,
    mesh_from_text,
    digest_from_text,
    task_id_from_text,
    bytes_from_base32,
]
TASK = TaskId(batch=BatchId(bytes(range(20))), index=7, stewards=(b"abcd", b"wxyz"))


@given(values_of(PeerId))
@example(PeerId(bytes(32)))
@example(PeerId(b"\xff" * 32))
def test_a_peer_id_has_two_texts_and_both_come_back(peer: PeerId) -> None:
    assert peer_from_text(peer_text(peer)) == peer
    assert peer_from_text(did_key(peer)) == peer
    assert peer_text(peer).startswith("12D3KooW")
    assert did_key(peer).startswith("did:key:z6Mk")


def test_the_texts_of_a_peer_are_those_of_the_specifications() -> None:
    # did:key v0.7, appendix B.1 (Ed25519); the peer id is the same key in libp2p's peer-ids.
    did = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"
    key = peer_from_text(did)
    assert key.hex() == "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"
    assert did_key(key) == did
    assert peer_text(key) == "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


@given(values_of(MeshId))
def test_a_mesh_id_comes_back_from_its_text(mesh: MeshId) -> None:
    assert mesh_from_text(mesh_text(mesh)) == mesh
    assert len(mesh_text(mesh)) == 52


@given(values_of(Digest))
def test_a_digest_comes_back_from_its_text(digest: Digest) -> None:
    assert digest_from_text(digest_text(digest)) == digest


@given(values_of(TaskId))
def test_a_task_id_comes_back_from_its_text(task: TaskId) -> None:
    assert task_id_from_text(str(task)) == task


def test_a_task_id_carries_the_beginning_of_each_stewards_id() -> None:
    assert steward_short(PeerId(bytes(range(32)))) == b"\0\1\2\3"
    assert str(TASK) == "aaaqeayeaudaocajbifqydiob4ibceqt.7.mfrggza.o54hs6q"


@given(st.text(max_size=200))
@example("")
@example("did:key:z")
@example("1" * 80)
@example("\ud800")
@example("A" * 100_000)
@example("\u017f" * 52)
def test_hostile_text_is_an_id_or_malformed(text: str) -> None:
    for parse in PARSERS:
        with contextlib.suppress(MalformedId):
            parse(text)


def spellings(text: str) -> list[str]:
    """Return near misses of an id that ends in base32."""
    spare = "abcdefghijklmnopqrstuvwxyz234567".replace(text[-1], "")
    return [
        text.upper(),
        text + "=",
        text + "====",
        text + "\n",
        " " + text,
        text[:-1],
        text + "a",
        text.replace("s", "\u017f") + ("\u017f" if "s" not in text else ""),
        *(text[:-1] + letter for letter in spare if letter > text[-1]),
    ]


def test_a_mesh_id_has_no_second_spelling() -> None:
    mesh = MeshId(bytes(range(32)))
    for text in spellings(mesh_text(mesh)):
        with contextlib.suppress(MalformedId):
            assert mesh_from_text(text) != mesh, text


@pytest.mark.parametrize(
    "text",
    [
        str(TASK).replace(".7.", ".07."),
        str(TASK).replace(".7.", ".\u0667."),  # a seven in Arabic-Indic digits
        str(TASK).replace(".7.", ".1024."),
        str(TASK).replace(".7.", ".-7."),
        str(TASK).replace(".7.", "."),
        str(TASK)[:-1] + "r",  # spare bits of the last letter
        str(TASK).upper(),
        str(TASK) + "\n",
        str(TASK) + ".",
        str(TASK) + ".mfrggza" * 4,  # six stewards
        str(TASK).split(".mfrggza", maxsplit=1)[0],  # none
    ],
)
def test_a_task_id_written_otherwise_is_refused(text: str) -> None:
    with pytest.raises(MalformedId):
        task_id_from_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",  # an RSA peer id
        "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme",  # secp256k1
        "did:web:example.org",
        peer_text(PeerId(bytes(32)))[:-1],
        peer_text(PeerId(bytes(32))) + "1",
        "1" + peer_text(PeerId(bytes(32))),
        peer_text(PeerId(bytes(32))).replace("K", "0"),
    ],
)
def test_another_kind_of_peer_id_is_refused_with_what_to_type(text: str) -> None:
    with pytest.raises(MalformedId, match="meshctl peers"):
        peer_from_text(text)


def test_the_message_about_a_long_text_is_short_and_shows_no_escapes() -> None:
    with pytest.raises(MalformedId) as caught:
        mesh_from_text("\x1b[2J" * 1_000)
    assert len(str(caught.value)) < 400
    assert "\x1b" not in str(caught.value)
