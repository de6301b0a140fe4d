"""Keys of simulated devices: real Ed25519 for small runs, a stand-in for large ones.

Both have the interface of `wire.keys` and give the same bytes for the same seed, sealed boxes
included: real sealed boxes are random, and their bytes are part of what batch ids are made from.
The stand-in cannot be forged from inside the simulation: nodes hold their own signer only, and the
ring that knows all secrets is the host's.
"""

from __future__ import annotations

from typing import Protocol

import nacl.bindings
import nacl.public
import nacl.secret
from blake3 import blake3

from wire.errors import CannotUnseal
from wire.ids import PeerId
from wire.keys import Ed25519Keys, Ed25519Verifier
from wire.signed import SIGNATURE_BYTES, Signer, Verifier

_EPHEMERAL_CONTEXT = "meshd 2026 simulation ephemeral key"
_PEER_CONTEXT = "meshd 2026 simulation peer id"
_BOX_CONTEXT = "meshd 2026 simulation box"
_NONCE_BYTES = 16
_TAG_BYTES = 32
BOX_EXTRA_BYTES = _NONCE_BYTES + _TAG_BYTES  # as much as libsodium's sealed box adds


class KeyMaker(Protocol):
    """Makes the keys of a run's devices, and checks their signatures."""

    @property
    def verifier(self) -> Verifier:
        """What checks the signatures of all keys made here."""
        ...

    def make(self, seed: bytes) -> Signer:
        """Return the key of the device with this 32-byte seed."""
        ...


class SeededKeys(Ed25519Keys):
    """Real Ed25519 keys whose sealed boxes repeat: the ephemeral key depends on what is sealed."""

    def __init__(self, seed: bytes) -> None:
        super().__init__(seed)
        self._ephemeral_secret = blake3(seed, derive_key_context=_EPHEMERAL_CONTEXT).digest()

    def seal(self, secret: bytes, recipient: PeerId) -> bytes:
        """Return a libsodium sealed box that `wire.keys` opens, the same one every time."""
        seed = blake3(recipient + secret, key=self._ephemeral_secret).digest()
        ephemeral = nacl.public.PrivateKey(seed)
        target = nacl.bindings.crypto_sign_ed25519_pk_to_curve25519(recipient)
        public = bytes(ephemeral.public_key)
        nonce = nacl.bindings.crypto_generichash.generichash_blake2b_salt_personal(
            public + target, digest_size=nacl.bindings.crypto_box_NONCEBYTES
        )
        box = nacl.public.Box(ephemeral, nacl.public.PublicKey(target))
        return public + box.encrypt(secret, nonce).ciphertext


class Ed25519Maker:
    """Real keys, for runs that exercise the wire."""

    def __init__(self) -> None:
        self._verifier = Ed25519Verifier()

    @property
    def verifier(self) -> Verifier:
        """libsodium's verifier."""
        return self._verifier

    def make(self, seed: bytes) -> Signer:
        """Return the key with this seed."""
        return SeededKeys(seed)


class StandInMaker:
    """Keyed hashes instead of signatures, about thirty times faster: for large runs."""

    def __init__(self) -> None:
        self._secrets: dict[PeerId, bytes] = {}

    @property
    def verifier(self) -> Verifier:
        """A verifier that knows every secret of the ring."""
        return _StandInVerifier(self._secrets)

    def make(self, seed: bytes) -> Signer:
        """Return the key with this seed and add it to the ring."""
        peer = PeerId(blake3(seed, derive_key_context=_PEER_CONTEXT).digest())
        self._secrets[peer] = seed
        return _StandInKeys(peer, self._secrets)


class _StandInVerifier:
    def __init__(self, secrets: dict[PeerId, bytes]) -> None:
        self._secrets = secrets

    def verify(self, message: bytes, signature: bytes, signer: PeerId) -> bool:
        """Say whether `signer` signed `message`."""
        secret = self._secrets.get(signer)
        return secret is not None and signature == _signature(secret, message)


class _StandInKeys:
    def __init__(self, peer: PeerId, secrets: dict[PeerId, bytes]) -> None:
        self._peer = peer
        self._secrets = secrets

    @property
    def peer(self) -> PeerId:
        """The device's id."""
        return self._peer

    def sign(self, message: bytes) -> bytes:
        """Return a keyed hash of `message`, 64 bytes."""
        return _signature(self._secrets[self._peer], message)

    def seal(self, secret: bytes, recipient: PeerId) -> bytes:
        """Return `secret` in a box for `recipient`. Raises CannotUnseal for an unknown one."""
        if recipient not in self._secrets:
            raise CannotUnseal(f"{recipient.hex()} is no device of this simulation")
        key = _box_key(self._secrets[recipient])
        nonce = blake3(secret, key=_box_key(self._secrets[self._peer])).digest(_NONCE_BYTES)
        masked = _masked(secret, key, nonce)
        return nonce + masked + blake3(nonce + masked, key=key).digest(_TAG_BYTES)

    def unseal(self, box: bytes) -> bytes:
        """Return the secret in a `box` sealed to this device. Raises CannotUnseal."""
        key = _box_key(self._secrets[self._peer])
        sealed, tag = box[:-_TAG_BYTES], box[-_TAG_BYTES:]
        if len(box) < BOX_EXTRA_BYTES or blake3(sealed, key=key).digest(_TAG_BYTES) != tag:
            raise CannotUnseal("the box is not for this device, or was changed")
        return _masked(sealed[_NONCE_BYTES:], key, sealed[:_NONCE_BYTES])


def seal_repeatably(plaintext: bytes, *, batch_key: bytes, purpose: bytes) -> bytes:
    """Return what `wire.content.open_content` opens, the same bytes every time.

    The nonce is derived from everything that is sealed, instead of drawn.
    """
    size = nacl.secret.Aead.NONCE_SIZE
    nonce = blake3(len(purpose).to_bytes(2, "big") + purpose + plaintext, key=batch_key)
    aead = nacl.secret.Aead(batch_key)
    return bytes(aead.encrypt(plaintext, aad=purpose, nonce=nonce.digest(size)))


def _signature(secret: bytes, message: bytes) -> bytes:
    return blake3(message, key=secret).digest(SIGNATURE_BYTES)


def _box_key(secret: bytes) -> bytes:
    return blake3(secret, derive_key_context=_BOX_CONTEXT).digest()


def _masked(text: bytes, key: bytes, nonce: bytes) -> bytes:
    stream = blake3(b"mask\0" + nonce, key=key).digest(len(text))
    mask = int.from_bytes(stream, "big") ^ int.from_bytes(text, "big")
    return mask.to_bytes(len(text), "big")
