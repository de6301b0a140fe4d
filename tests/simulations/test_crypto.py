"""Simulated keys do what real ones do, and give the same bytes every time."""

from __future__ import annotations

import pytest

from simulations.crypto import Ed25519Maker, KeyMaker, StandInMaker, seal_repeatably
from wire.content import input_purpose, open_content
from wire.errors import CannotUnseal
from wire.ids import PEER_ID_BYTES
from wire.keys import Ed25519Keys
from wire.signed import SIGNATURE_BYTES

MAKERS = [Ed25519Maker, StandInMaker]
SECRET = b"k" * 32


@pytest.mark.parametrize("maker", [kind() for kind in MAKERS])
def test_a_signature_is_good_for_its_message_and_signer_only(maker: KeyMaker) -> None:
    ours, theirs = maker.make(b"a" * 32), maker.make(b"b" * 32)
    signature = ours.sign(b"message")
    assert (len(ours.peer), len(signature)) == (PEER_ID_BYTES, SIGNATURE_BYTES)
    assert maker.verifier.verify(b"message", signature, ours.peer)
    assert not maker.verifier.verify(b"massage", signature, ours.peer)
    assert not maker.verifier.verify(b"message", signature, theirs.peer)
    assert not maker.verifier.verify(b"message", theirs.sign(b"message"), ours.peer)
    assert not maker.verifier.verify(b"message", signature[:-1], ours.peer)


@pytest.mark.parametrize("maker", [kind() for kind in MAKERS])
def test_a_box_opens_for_its_recipient_only_and_repeats(maker: KeyMaker) -> None:
    ours, theirs, others = (maker.make(seed * 32) for seed in (b"a", b"b", b"c"))
    box = ours.seal(SECRET, theirs.peer)
    assert box == ours.seal(SECRET, theirs.peer)
    assert len(box) == 80  # what wire.tasks.SealedKey holds
    assert theirs.unseal(box) == SECRET
    for wrong in (others.unseal, ours.unseal):
        with pytest.raises(CannotUnseal):
            wrong(box)
    changed = box[:40] + bytes([box[40] ^ 1]) + box[41:]
    with pytest.raises(CannotUnseal):
        theirs.unseal(changed)


def test_a_repeatable_box_is_one_that_the_shipped_keys_open() -> None:
    sealer, recipient = Ed25519Maker().make(b"a" * 32), Ed25519Keys(b"b" * 32)
    assert recipient.unseal(sealer.seal(SECRET, recipient.peer)) == SECRET


def test_content_sealed_repeatably_is_what_the_wire_opens() -> None:
    sealed = [
        seal_repeatably(text, batch_key=SECRET, purpose=input_purpose(index))
        for text, index in ((b"one", 1), (b"one", 1), (b"one", 2), (b"two", 1))
    ]
    assert sealed[0] == sealed[1]
    assert len({box[:24] for box in sealed}) == 3  # no nonce serves two texts
    assert open_content(sealed[0], batch_key=SECRET, purpose=input_purpose(1)) == b"one"
    with pytest.raises(CannotUnseal):
        open_content(sealed[0], batch_key=SECRET, purpose=input_purpose(2))
