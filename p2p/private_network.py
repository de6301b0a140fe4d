"""libp2p's private networks: whoever lacks the network key gets nothing but noise.

Follows the specification *Private Networks* (libp2p/specs, pnet, PSK v1): each side sends a random
24-byte nonce in the clear and then everything under XSalsa20 with the 32-byte network key.
py-libp2p's own version uses Salsa20 with an 8-byte nonce, which no other implementation speaks.

The cipher authenticates nothing, so a wrong key would show only as a handshake that hangs. Both
sides open with the same fixed greeting, so a foreign network is recognised by its first bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from Crypto.Cipher import Salsa20

from p2p.errors import WrongNetwork

NETWORK_KEY_BYTES = 32
NONCE_BYTES = 24
SHORT_BYTES_MAX = 256
AHEAD_BYTES = 1_024
GREETING = b"\x13/multistream/1.0.0\n"
_SIGMA = struct.unpack("<4I", b"expand 32-byte k")
_QUARTERS = (
    (0, 4, 8, 12),
    (5, 9, 13, 1),
    (10, 14, 2, 6),
    (15, 3, 7, 11),
    (0, 1, 2, 3),
    (5, 6, 7, 4),
    (10, 11, 8, 9),
    (15, 12, 13, 14),
)


def xsalsa20(key: bytes, nonce: bytes) -> Salsa20.Salsa20Cipher:
    """Return the XSalsa20 stream of a 32-byte key and a 24-byte nonce (Bernstein 2011)."""
    return Salsa20.new(key=_hsalsa20(key, nonce[:16]), nonce=nonce[16:])


@dataclass(slots=True)
class PrivateBytes:
    """One direction of a connection under XSalsa20, which is the same to encrypt and to decrypt.

    What is short takes from a stretch of the stream that was made before: to call the cipher costs
    ten times what it does to a heartbeat.
    """

    _cipher: Salsa20.Salsa20Cipher
    _ahead: bytes = b""
    _used_count: int = 0  # of `_ahead`

    def apply(self, piece: bytes) -> bytes:
        """Return the next bytes, en- or decrypted."""
        if len(self._ahead) - self._used_count < len(piece) <= SHORT_BYTES_MAX:
            made = self._cipher.decrypt(bytes(AHEAD_BYTES))
            self._ahead, self._used_count = self._ahead[self._used_count :] + made, 0
        stretch = self._ahead[self._used_count : self._used_count + len(piece)]
        self._used_count += len(stretch)
        applied = _xor(piece[: len(stretch)], stretch)
        rest = piece[len(stretch) :]
        return applied + self._cipher.decrypt(rest) if rest else applied


def _xor(piece: bytes, stretch: bytes) -> bytes:
    return (int.from_bytes(piece) ^ int.from_bytes(stretch)).to_bytes(len(piece))


def _hsalsa20(key: bytes, nonce: bytes) -> bytes:
    k, n = struct.unpack("<8I", key), struct.unpack("<4I", nonce)
    x = [_SIGMA[0], *k[:4], _SIGMA[1], *n, _SIGMA[2], *k[4:], _SIGMA[3]]
    for _ in range(10):
        for a, b, c, d in _QUARTERS:
            x[b] ^= _rotated(x[a] + x[d], 7)
            x[c] ^= _rotated(x[b] + x[a], 9)
            x[d] ^= _rotated(x[c] + x[b], 13)
            x[a] ^= _rotated(x[d] + x[c], 18)
    return struct.pack("<8I", *(x[i] for i in (0, 5, 10, 15, 6, 7, 8, 9)))


def _rotated(word: int, bits: int) -> int:
    word &= 0xFFFFFFFF
    return ((word << bits) | (word >> (32 - bits))) & 0xFFFFFFFF


@dataclass(slots=True)
class _Candidate:
    """One key that the other side may use, and what its bytes are if it does."""

    key: bytes
    cipher: PrivateBytes
    plain: bytes = b""
    greeting_missing: bytes = GREETING

    def feed(self, received: bytes) -> bool:
        """Say whether the bytes so far may be under this key."""
        plain = self.cipher.apply(received)
        self.plain += plain
        compared = min(len(plain), len(self.greeting_missing))
        is_possible = plain[:compared] == self.greeting_missing[:compared]
        self.greeting_missing = self.greeting_missing[compared:]
        return is_possible


@dataclass(slots=True)
class InboundBytes:
    """What arrives on one connection: takes off nonce and cipher, and checks the greeting.

    While a network key is being rolled there are two: what comes is decrypted with both until the
    greeting tells which it is, a matter of its first byte or two. `network_keys` is empty for a
    host without a private network, which then refuses those that have one. At most 24 bytes are
    held back under no key, and 20 under several, whatever the peer sends.
    """

    network_keys: tuple[bytes, ...]
    key: bytes | None = None  # once it is known
    _nonce: bytes = b""
    _candidates: list[_Candidate] = field(default_factory=list)
    _greeting_missing: bytes = field(default=GREETING)

    def feed(self, received: bytes) -> bytes:
        """Return the plaintext of the bytes `received`. Raises WrongNetwork."""
        if not self.network_keys:
            self._check_plain(received)
            return received
        if not self._candidates:
            received = self._take_nonce(received)
        if self.key is not None and not self._candidates[0].greeting_missing:
            return self._candidates[0].cipher.apply(received)
        return self._try(received) if self._candidates else b""

    def _take_nonce(self, received: bytes) -> bytes:
        self._nonce += received
        if self._nonce.startswith(GREETING):
            raise WrongNetwork("it speaks without any network key")
        if len(self._nonce) < NONCE_BYTES:
            return b""
        nonce, rest = self._nonce[:NONCE_BYTES], self._nonce[NONCE_BYTES:]
        self._nonce = b""
        self._candidates = [
            _Candidate(key, PrivateBytes(xsalsa20(key, nonce))) for key in self.network_keys
        ]
        return rest

    def _try(self, received: bytes) -> bytes:
        self._candidates = [one for one in self._candidates if one.feed(received)]
        if not self._candidates:
            raise WrongNetwork("it has another network key")
        first = self._candidates[0]
        if len(self._candidates) > 1 and first.greeting_missing:
            return b""  # both are possible so far
        del self._candidates[1:]
        self.key = first.key
        plain, first.plain = first.plain, b""
        return plain

    def _check_plain(self, plain: bytes) -> None:
        compared = min(len(plain), len(self._greeting_missing))
        if plain[:compared] != self._greeting_missing[:compared]:
            raise WrongNetwork("it has another network key")
        self._greeting_missing = self._greeting_missing[compared:]
