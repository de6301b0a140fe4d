"""The bytes of a connection that a third device carries: under our network key, as on a socket."""

from __future__ import annotations

from typing import Final

import trio
from libp2p.io.exceptions import ConnectionClosedError

from p2p.errors import StreamBroken
from p2p.private_connection import PrivateConnection
from p2p.streams import READ_BYTES_MAX, Stream
from p2p.transport import WRITE_BYTES_MAX, WRITE_S_MAX
from wire.ids import PeerId

CLEANUP_S: Final = 1.0


class CircuitConnection(PrivateConnection):
    """A circuit, on a stream to its relay. The relay sees what a socket would show: ciphertext.

    Who takes less than `WRITE_BYTES_MAX` in `WRITE_S_MAX` loses it; nobody is blamed, as it may be
    the relay's doing.
    """

    def __init__(self, stream: Stream, network_keys: tuple[bytes, ...]) -> None:
        super().__init__(network_keys)
        self._stream = stream
        self._is_over = False
        self._reading = trio.CancelScope()
        self._is_closed = False

    @property
    def relay(self) -> PeerId:
        """Who carries it."""
        return self._stream.peer

    async def _receive(self) -> bytes:
        received = b""
        if not self._is_over:
            with trio.CancelScope() as self._reading:
                try:
                    received = await self._stream.receive_some(READ_BYTES_MAX)
                except StreamBroken as error:
                    raise ConnectionClosedError("the circuit was reset") from error
        return received

    async def _send(self, rest: memoryview) -> None:
        if self._is_over:
            raise ConnectionClosedError("the circuit is closed")
        patience_s = WRITE_S_MAX * -(-len(rest) // WRITE_BYTES_MAX)
        try:
            with trio.fail_after(patience_s):
                await self._stream.send_all(bytes(rest))
        except trio.TooSlowError as error:
            self.abort()
            raise ConnectionClosedError("too little passes through the circuit") from error
        except StreamBroken as error:
            raise ConnectionClosedError("the circuit was reset") from error

    async def close(self) -> None:
        """Finish sending, which ends the circuit at its relay; a second time does nothing."""
        self.abort()
        if self._is_closed:
            return
        self._is_closed = True
        with trio.move_on_after(CLEANUP_S, shield=True) as patience:
            await self._stream.aclose()
        if patience.cancelled_caught:
            with trio.move_on_after(CLEANUP_S, shield=True):
                await self._stream.reset()

    def abort(self) -> None:
        """Neither read nor write any more, and wake who reads; whoever serves it closes it."""
        self._is_over = True
        self._reading.cancel()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return None: nobody sees where the device is."""
        return None
