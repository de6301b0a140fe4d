"""TCP for libp2p, with the private network inside it.

Ours instead of py-libp2p's because that one binds with SO_REUSEPORT (a second daemon on the same
port would start and steal half the connections), reads single bytes from the socket, applies a
private network that nobody else speaks, and leaves a connection half-written when a sender is
cancelled. Reads take up to 64 KiB from the socket and are handed out from a buffer.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Final
from weakref import WeakSet

import trio
from libp2p.abc import IListener, IRawConnection, ITransport
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types

from p2p.accepting import accept_all
from p2p.addresses import Address, from_socket, parse_address
from p2p.errors import CannotListen
from p2p.private_connection import PrivateConnection

READ_BYTES_MAX: Final = 64 * 1024
WRITE_STALL_S: Final = 5.0
WRITE_S_MAX: Final = 10.0  # for as many bytes:
WRITE_BYTES_MAX: Final = 64 * 1024
_BACKLOG: Final = 128

# Which of the network keys a task dials with: libp2p's swarm is between it and the transport.
_dialled_with: ContextVar[int] = ContextVar("dialled_with", default=0)


class PeerStalled(ConnectionClosedError):
    """The peer took too little from its socket for too long: the connection is closed."""


class TcpConnection(PrivateConnection):
    """One TCP connection. A peer that takes nothing for `WRITE_STALL_S`, or less than
    `WRITE_BYTES_MAX` in `WRITE_S_MAX`, loses it.
    """

    def __init__(
        self, stream: trio.SocketStream, network_keys: tuple[bytes, ...], *, remote: Address
    ) -> None:
        super().__init__(network_keys)
        self._stream = stream
        self.remote = remote

    async def _receive(self) -> bytes:
        """Wait, then read. Trio's own reads try first, and nearly always nothing is there yet."""
        socket = self._stream.socket
        try:
            while True:
                await trio.lowlevel.wait_readable(socket)
                with suppress(BlockingIOError):
                    return os.read(socket.fileno(), READ_BYTES_MAX)
        except trio.ClosedResourceError:
            return b""
        except OSError as error:
            if socket.fileno() < 0:  # closed here before this waited
                return b""
            raise ConnectionClosedError("connection reset by the peer", transport="tcp") from error

    def _send_now(self, sealed: bytes) -> int:
        """Return how many bytes the socket took at once, mostly all. Raises ConnectionClosedError.

        Without a turn of trio's loop, which costs as much as the call.
        """
        try:
            return os.write(self._stream.socket.fileno(), sealed)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ConnectionClosedError("connection is closed", transport="tcp") from error

    async def _send(self, rest: memoryview) -> None:
        patience_s = WRITE_S_MAX * -(-len(rest) // WRITE_BYTES_MAX)
        latest_s = trio.current_time() + patience_s  # or sips would hold it for ever
        try:
            while rest:
                with trio.fail_at(min(trio.current_time() + WRITE_STALL_S, latest_s)):
                    rest = rest[await self._stream.socket.send(rest) :]
        except trio.TooSlowError as error:
            self.abort()
            raise PeerStalled("the peer stopped reading", transport="tcp") from error
        except (OSError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError("connection is closed", transport="tcp") from error

    async def close(self) -> None:
        """Close the connection; a second time does nothing."""
        await self._stream.aclose()

    def abort(self) -> None:
        """Close at once, waking whoever reads or writes."""
        self._stream.socket.close()

    def get_remote_address(self) -> tuple[str, int]:
        """Return (ip, port) of the peer, as libp2p wants it."""
        return self.remote.host, self.remote.port


class TcpTransport(ITransport):
    """Dials and listens within one private network; listens only on sockets bound before.

    Listening sockets are bound by `bind_all`, so that a taken port is an error that names the port.
    `may_come_in` is asked about the IP address of each connection before anything else is done.
    """

    may_come_in: Callable[[str], bool]  # set by the swarm

    def __init__(self, network_key: bytes | None) -> None:
        self._network_keys: tuple[bytes, ...] = () if network_key is None else (network_key,)
        self._bound: dict[str, trio.SocketListener] = {}
        self._open: WeakSet[TcpConnection] = WeakSet()

    @property
    def network_keys(self) -> tuple[bytes, ...]:
        """The keys that are accepted, the one that is dialled with first in front."""
        return self._network_keys

    def use_network_keys(self, network_keys: tuple[bytes, ...]) -> None:
        """Accept these from now on; connections that there are stay."""
        self._network_keys = network_keys

    def offer(self, listeners: Mapping[Address, trio.SocketListener]) -> None:
        """Take the sockets that a later `listen` on their addresses will serve."""
        self._bound.update({str(address): listener for address, listener in listeners.items()})

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """Return a connection to `maddr`, nothing of libp2p spoken yet.

        Raises OpenConnectionError, with the OSError as its cause.
        """
        address = parse_address(str(maddr).partition("/p2p/")[0])
        try:
            stream = await trio.open_tcp_stream(address.host, address.port)
            remote = from_socket(*stream.socket.getpeername()[:2])
        except OSError as error:
            raise OpenConnectionError(str(error)) from error
        place = _dialled_with.get()
        keys = self._network_keys[place : place + 1]
        return RawConnection(self._wrapped(stream, keys, remote), True)

    def accepted(self, stream: trio.SocketStream, remote: Address) -> TcpConnection:
        """Return a connection that somebody at `remote` made."""
        return self._wrapped(stream, self._network_keys, remote)

    def _wrapped(
        self, stream: trio.SocketStream, keys: tuple[bytes, ...], remote: Address
    ) -> TcpConnection:
        connection = TcpConnection(stream, keys, remote=remote)
        self._open.add(connection)
        return connection

    def create_listener(
        self, handler_function: Callable[[ReadWriteCloser], Awaitable[None]]
    ) -> TcpListener:
        """Return a listener that gives each connection to `handler_function`."""
        return TcpListener(self, handler_function, self._bound)

    def can_dial(self, maddr: Multiaddr) -> bool:
        """Say whether `maddr` is plain TCP: libp2p asks before it dials."""
        names = [protocol.name for protocol in maddr.protocols()]
        return len(names) >= 2 and names[1] == "tcp" and set(names[2:]) <= {"p2p"}

    def can_listen(self, maddr: Multiaddr) -> bool:
        """Say whether a bound socket waits for `maddr`."""
        return str(maddr) in self._bound

    def protocols(self) -> list[str]:
        """Return the multiaddr protocols served, as libp2p wants it."""
        return ["tcp"]

    def abort_all(self) -> None:
        """Close every connection at once: the last step of a shutdown that takes too long."""
        for connection in list(self._open):
            connection.abort()


class TcpListener(IListener):
    """One listening socket, served in the nursery that libp2p's swarm lends it."""

    background_nursery: trio.Nursery  # set by the swarm before it calls `listen`

    def __init__(
        self,
        transport: TcpTransport,
        handler: Callable[[ReadWriteCloser], Awaitable[None]],
        bound: dict[str, trio.SocketListener],
    ) -> None:
        self._transport = transport
        self._handler = handler
        self._bound = bound
        self._addresses: tuple[Multiaddr, ...] = ()
        self._scope = trio.CancelScope()

    async def listen(self, maddr: Multiaddr) -> None:
        """Serve the socket bound for `maddr` until `close`."""
        socket_listener = self._bound.pop(str(maddr))
        self._addresses = (maddr,)
        await self.background_nursery.start(self._run, socket_listener)

    async def _run(
        self,
        socket_listener: trio.SocketListener,
        task_status: trio.TaskStatus[None],
    ) -> None:
        with self._scope:
            task_status.started()
            with socket.socket(fileno=socket_listener.socket.detach()) as listening:
                listening.setblocking(False)
                await accept_all(
                    listening, may_come_in=self._transport.may_come_in, take=self._take
                )

    def _take(self, stream: trio.SocketStream, remote: Address) -> None:
        connection = self._transport.accepted(stream, remote)
        self.background_nursery.start_soon(self._handler, connection)

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        """Return where we listen, as libp2p wants it."""
        return self._addresses

    async def close(self) -> None:
        """Stop accepting; connections stay."""
        self._scope.cancel()


@contextmanager
def dialling_with(place: int) -> Iterator[None]:
    """Let this task dial with another of the network keys than the first."""
    token = _dialled_with.set(place)
    try:
        yield
    finally:
        _dialled_with.reset(token)


async def bind_all(addresses: Sequence[Address]) -> dict[Address, trio.SocketListener]:
    """Return sockets listening on `addresses`, by address with its real port; all or none.

    Raises CannotListen, saying why.
    """
    bound: dict[Address, trio.SocketListener] = {}
    try:
        for address in addresses:
            listener = await _bind(address)
            port = listener.socket.getsockname()[1]
            bound[Address(address.kind, address.host, port)] = listener
    except CannotListen:
        for listener in bound.values():
            listener.socket.close()
        raise
    return bound


async def _bind(address: Address) -> trio.SocketListener:
    if not address.kind.startswith("ip"):
        raise CannotListen(f"cannot listen on {address}: give an IP address, not a name")
    try:
        (listener,) = await trio.open_tcp_listeners(
            address.port, host=address.host, backlog=_BACKLOG
        )
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise CannotListen(f"cannot listen on {address}: {reason}") from error
    return listener
