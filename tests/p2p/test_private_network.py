"""XSalsa20 as libsodium computes it, and strangers recognised by their first bytes."""

from __future__ import annotations

import contextlib

import nacl.bindings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import WrongNetwork
from p2p.private_network import (
    AHEAD_BYTES,
    GREETING,
    NONCE_BYTES,
    InboundBytes,
    PrivateBytes,
    xsalsa20,
)

KEY = bytes(range(32))
NONCE = bytes(range(100, 124))

keys = st.binary(min_size=32, max_size=32)
nonces = st.binary(min_size=24, max_size=24)


@given(keys, nonces, st.binary(min_size=1, max_size=300))
def test_the_stream_is_libsodiums_xsalsa20(key: bytes, nonce: bytes, plain: bytes) -> None:
    # A secretbox is the plaintext under the stream that follows the 32 bytes of the Poly1305 key.
    sealed = nacl.bindings.crypto_secretbox(plain, nonce, key)[16:]
    assert xsalsa20(key, nonce).encrypt(bytes(32) + plain)[32:] == sealed


def test_a_published_vector_of_nacl_holds() -> None:
    # tests/stream4.c of NaCl ("firstkey", the nonce of its boxes): first 32 bytes of the stream.
    key = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
    nonce = bytes.fromhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
    stream = xsalsa20(key, nonce).encrypt(bytes(32))
    assert stream.hex() == "eea6a7251c1e72916d11c2cb214d3c252539121d8e234e652d651fa4c8cff880"


@given(st.lists(st.integers(1, 40), max_size=20))
def test_plaintext_comes_out_whole_however_the_bytes_arrive(cuts: list[int]) -> None:
    plain = GREETING + b"/noise" * 20
    sent = NONCE + xsalsa20(KEY, NONCE).encrypt(plain)
    inbound = InboundBytes((KEY,))
    received = b""
    for cut in cuts:
        received += inbound.feed(sent[:cut])
        sent = sent[cut:]
    assert received + inbound.feed(sent) == plain


@given(st.lists(st.integers(0, 60) | st.integers(0, 2 * AHEAD_BYTES), max_size=30))
def test_pieces_of_any_length_are_one_stream(lengths: list[int]) -> None:
    pieces = [bytes([number]) * length for number, length in enumerate(lengths)]
    sent, plain = PrivateBytes(xsalsa20(KEY, NONCE)), b"".join(pieces)
    sealed = b"".join(map(sent.apply, pieces))
    assert sealed == (xsalsa20(KEY, NONCE).encrypt(plain) if plain else b"")


def test_another_key_is_refused_at_the_first_wrong_byte() -> None:
    inbound = InboundBytes((bytes(32),))
    with pytest.raises(WrongNetwork, match="another network key"):
        inbound.feed(NONCE + xsalsa20(KEY, NONCE).encrypt(GREETING)[:1])


def test_a_peer_without_any_key_is_refused_before_a_whole_nonce() -> None:
    assert len(GREETING) < NONCE_BYTES
    with pytest.raises(WrongNetwork, match="without any"):
        InboundBytes((KEY,)).feed(GREETING)


def test_a_host_without_a_key_refuses_a_peer_with_one() -> None:
    with pytest.raises(WrongNetwork):
        InboundBytes(()).feed(NONCE)
    assert InboundBytes(()).feed(GREETING + b"rest") == GREETING + b"rest"


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_wrong_network(received: bytes) -> None:
    with contextlib.suppress(WrongNetwork):
        InboundBytes((KEY,)).feed(received)


OTHER = bytes(range(1, 33))


@given(st.lists(st.integers(1, 30), max_size=20), st.booleans(), nonces)
def test_of_two_keys_the_one_in_use_is_found_however_the_bytes_arrive(
    cuts: list[int], is_first: bool, nonce: bytes
) -> None:
    key = KEY if is_first else OTHER
    plain = GREETING + b"/noise" * 20
    sent = nonce + xsalsa20(key, nonce).encrypt(plain)
    inbound = InboundBytes((KEY, OTHER))
    received = b""
    for cut in cuts:
        received += inbound.feed(sent[:cut])
        sent = sent[cut:]
    assert received + inbound.feed(sent) == plain
    assert inbound.key == key


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=20))
def test_a_stranger_to_both_keys_is_refused_and_little_is_held_back(parts: list[bytes]) -> None:
    inbound = InboundBytes((KEY, OTHER))
    fed = given_back = 0
    with contextlib.suppress(WrongNetwork):
        for part in parts:
            fed += len(part)
            given_back += len(inbound.feed(part))
            assert fed - given_back <= NONCE_BYTES + len(GREETING)
