"""What protocols on streams need of a host: `p2p.host.Host` has it, and the tests' in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from p2p.addresses import parse_address
from p2p.errors import MalformedAddress
from p2p.streams import Stream, StreamHandler
from wire.ids import PeerId


class StreamHost(Protocol):
    """Connections and streams to authenticated devices. See `p2p.host.Host` for each."""

    @property
    def peer(self) -> PeerId:
        """Our own id."""
        ...

    def serve(self, protocol: str, handler: StreamHandler, *, members_only: bool) -> None:
        """Give every stream of `protocol` to `handler`; a stream ends with its handler."""
        ...

    async def connect(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Connect to `peer` unless it is connected. Raises PeerUnreachable, MalformedAddress."""
        ...

    async def connect_directly(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Connect also where there is a connection that another device carries. Raises the same."""
        ...

    async def connect_through(self, peer: PeerId, relays: Sequence[PeerId]) -> None:
        """Connect through the first of `relays` that carries it. Raises PeerUnreachable."""
        ...

    async def leave_circuits(self, peer: PeerId) -> None:
        """Close the connections to `peer` that another device carries."""
        ...

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        """Open a stream. Raises PeerUnreachable, ProtocolRefused, StreamBroken."""
        ...

    async def disconnect(self, peer: PeerId) -> None:
        """Close every connection to `peer`."""
        ...

    def seen_at(self, peer: PeerId) -> tuple[str, ...]:
        """Return the other ends of the connections to `peer`."""
        ...

    async def admit(self, peer: PeerId, addresses: Sequence[str] = ()) -> None:
        """Let `peer` in to what is for members, until `expel`."""
        ...

    async def expel(self, peer: PeerId, *, for_good: bool = False) -> None:
        """Shut `peer` out of what is for members; `for_good`, forget what it claimed to provide."""
        ...


def dialable(addresses: Iterable[str]) -> list[str]:
    """Return those that are addresses: one bad entry of a peer's record must not hide the rest."""
    return [text for text in addresses if _is_address(text)]


def _is_address(text: str) -> bool:
    try:
        parse_address(text)
    except MalformedAddress:
        return False
    return True
