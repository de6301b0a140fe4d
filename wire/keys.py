"""Ed25519 keys of a device: signatures (RFC 8032) and sealed boxes (libsodium, X25519)."""

from __future__ import annotations

import nacl.bindings
import nacl.exceptions
import nacl.public
import nacl.signing

from wire.errors import CannotUnseal
from wire.ids import PEER_ID_BYTES, PeerId
from wire.signed import SIGNATURE_BYTES

SEED_BYTES = 32


class Ed25519Keys:
    """The private key of one device. Its text form shows the public half only."""

    def __init__(self, seed: bytes) -> None:
        self._signing_key = nacl.signing.SigningKey(seed)
        self._box_key = self._signing_key.to_curve25519_private_key()
        self._peer = PeerId(bytes(self._signing_key.verify_key))

    def __repr__(self) -> str:
        return f"Ed25519Keys({self._peer.hex()})"

    @property
    def peer(self) -> PeerId:
        """The public half, which is the device's id."""
        return self._peer

    def sign(self, message: bytes) -> bytes:
        """Return the signature of `message`, 64 bytes."""
        return self._signing_key.sign(message).signature

    def seal(self, secret: bytes, recipient: PeerId) -> bytes:
        """Return `secret` in a box that only `recipient` can open.

        The box names no sender: whoever needs to know signs around it. Raises CannotUnseal if
        `recipient` is no point of the curve.
        """
        try:
            key = nacl.bindings.crypto_sign_ed25519_pk_to_curve25519(recipient)
        except (nacl.exceptions.CryptoError, nacl.exceptions.TypeError) as error:
            raise CannotUnseal(f"{recipient.hex()} is no Ed25519 key") from error
        return nacl.public.SealedBox(nacl.public.PublicKey(key)).encrypt(secret)

    def unseal(self, box: bytes) -> bytes:
        """Return the secret in a `box` sealed to this device. Raises CannotUnseal."""
        try:
            return nacl.public.SealedBox(self._box_key).decrypt(box)
        except (nacl.exceptions.CryptoError, nacl.exceptions.ValueError) as error:
            raise CannotUnseal("the box is not for this device, or was changed") from error


class Ed25519Verifier:
    """Checks Ed25519 signatures with libsodium, which releases the interpreter lock.

    libsodium refuses keys of small order, keys and signatures in a second encoding.
    """

    def verify(self, message: bytes, signature: bytes, signer: PeerId) -> bool:
        """Say whether `signer` signed `message`. Malformed keys and signatures are just wrong."""
        # PyNaCl measures neither: libsodium would read past the end of a short key.
        if len(signature) != SIGNATURE_BYTES or len(signer) != PEER_ID_BYTES:
            return False
        try:
            nacl.bindings.crypto_sign_open(signature + message, signer)
        except nacl.exceptions.CryptoError:
            return False
        return True
