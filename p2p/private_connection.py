"""A connection in its private network, whatever carries its bytes: a socket, or another device."""

from __future__ import annotations

import os
from abc import abstractmethod

import trio
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError

from p2p.errors import WrongNetwork
from p2p.private_network import NONCE_BYTES, InboundBytes, PrivateBytes, xsalsa20
from p2p.prompt_lock import PromptLock


class PrivateConnection(ReadWriteCloser):
    """Bytes both ways, under the network key. Writes either go out whole or end it.

    `network_keys` are those that the other side may use; it has to speak first if there are two, as
    whoever dialled does, and is answered under the same.
    """

    def __init__(self, network_keys: tuple[bytes, ...]) -> None:
        self._network_keys = network_keys
        self._inbound = InboundBytes(network_keys)
        self._read_lock = PromptLock()
        self._outbound: PrivateBytes | None = None
        self._plain = bytearray()
        self._write_lock = PromptLock()

    @abstractmethod
    async def _receive(self) -> bytes:
        """Return what has come, b"" at the end. Raises ConnectionClosedError."""

    def _send_now(self, sealed: bytes) -> int:
        """Return how many bytes of `sealed` could be sent at once. Raises ConnectionClosedError."""
        del sealed
        return 0

    @abstractmethod
    async def _send(self, rest: memoryview) -> None:
        """Send all of `rest`, within a bound of time. Raises ConnectionClosedError."""

    @abstractmethod
    def abort(self) -> None:
        """Be over at once."""

    async def read(self, n: int | None = None) -> bytes:
        """Return up to `n` bytes of plaintext, b"" at the end.

        Raises ConnectionClosedError if the connection broke or belongs to another network.
        """
        if len(self._network_keys) > 1 and not await self._learn_key():
            return b""
        while not self._plain:
            if not await self._take_in():
                return b""
        taken = bytes(self._plain if n is None else self._plain[:n])
        del self._plain[: len(taken)]
        return taken

    async def _take_in(self) -> bool:
        """Take in what comes; False at the end. Raises ConnectionClosedError."""
        received = await self._receive()
        try:
            self._plain += self._inbound.feed(received)
        except WrongNetwork as error:
            self.abort()
            raise ConnectionClosedError(str(error)) from error
        return bool(received)

    async def write(self, data: bytes) -> None:
        """Send all of `data`. Raises ConnectionClosedError.

        Not cancellable once it began: half a frame, or a cipher that ran ahead of what was sent,
        would break every stream of the connection. A peer that takes too little for too long loses
        the connection instead.
        """
        key = await self._key() if self._network_keys else None
        async with self._write_lock:
            sealed = self._sealed(data, key)
            rest = memoryview(sealed)[self._send_now(sealed) :]
            if rest:
                with trio.CancelScope(shield=True):
                    await self._send(rest)

    async def _key(self) -> bytes:
        """Return the network key to speak under. Raises ConnectionClosedError."""
        if len(self._network_keys) == 1:
            return self._network_keys[0]
        if not await self._learn_key() or self._inbound.key is None:
            raise ConnectionClosedError("the peer said nothing")
        return self._inbound.key

    async def _learn_key(self) -> bool:
        """Wait until the peer has shown which key it uses; False if it left before."""
        if self._inbound.key is None:
            async with self._read_lock:  # who reads and who writes may both want to know
                while self._inbound.key is None:
                    if not await self._take_in():
                        return False
        return True

    def _sealed(self, plain: bytes, key: bytes | None) -> bytes:
        if key is None:
            return plain
        nonce = b""
        if self._outbound is None:
            nonce = os.urandom(NONCE_BYTES)
            self._outbound = PrivateBytes(xsalsa20(key, nonce))
        return nonce + self._outbound.apply(plain)
