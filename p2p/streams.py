"""The stream that everything above libp2p is written against.

Real streams come from `p2p.host`, in-memory ones from the tests; no libp2p type comes through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from wire.ids import PeerId

READ_BYTES_MAX = 64 * 1024


class Stream(Protocol):
    """An ordered, reliable, encrypted pipe to one authenticated device.

    One task may send while another receives; two tasks must not do the same at once.
    """

    peer: PeerId
    via: PeerId | None  # who carries the connection, None if it is direct

    async def receive_some(self, bytes_max: int = READ_BYTES_MAX) -> bytes:
        """Return 1 to `bytes_max` bytes as soon as any are there; b"" when the peer has finished.

        Raises StreamBroken if the stream was reset.
        """
        ...

    async def send_all(self, frame: bytes) -> None:
        """Send `frame`, waiting as long as the peer does not read. Raises StreamBroken."""
        ...

    async def aclose(self) -> None:
        """Tell the peer that we have finished sending, and give up our end."""
        ...

    async def reset(self) -> None:
        """Drop the stream in both directions; the peer sees StreamBroken."""
        ...


StreamHandler: TypeAlias = Callable[[Stream], Awaitable[None]]
