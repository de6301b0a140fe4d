"""Connections through other devices, at both of their ends.

Where nobody can dial a device, a member that is linked with both carries the bytes
(`p2p.relay`). What goes through is a connection like any other: our network key, Noise between the
two devices, Yamux with our bounds. So the relay can end it, and slow it down, and nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio

from p2p.circuit_connection import CircuitConnection
from p2p.circuit_messages import (
    HOP,
    MALFORMED_MESSAGE,
    OK,
    PERMISSION_DENIED,
    RESOURCE_LIMIT_EXCEEDED,
    hop_connect,
    read_hop_status,
    read_stop_connect,
    status_text,
    stop_status,
)
from p2p.errors import CircuitRefused, MalformedCircuit
from p2p.streams import Stream
from wire.ids import PeerId, peer_text

INCOMING_MAX: Final = 32  # circuits that lead here
SETUP_S_MAX: Final = 10.0
ANSWER_S_MAX: Final = 3.0  # of a relay: then the next one is asked
CLEANUP_S: Final = 1.0

log = structlog.get_logger()


class Circuits:
    """The circuits that begin or end here.

    `open_stream` opens a stream of a protocol to a member, which ends when it is one no more.
    `accept` serves a connection that a device is said to have made, until it ends.
    """

    def __init__(
        self,
        *,
        network_keys: Callable[[], tuple[bytes, ...]],
        open_stream: Callable[[PeerId, str], Awaitable[Stream]],
        accept: Callable[[CircuitConnection, PeerId], Awaitable[None]],
        is_banned: Callable[[PeerId], bool],
    ) -> None:
        self._network_keys = network_keys
        self._open_stream = open_stream
        self._accept = accept
        self._is_banned = is_banned
        self._incoming_count = 0

    async def open(self, relay: PeerId, target: PeerId, network_key: int = 0) -> CircuitConnection:
        """Return a connection to `target` that `relay` carries; nothing is spoken on it yet.

        `network_key` is the number of the key to speak under. Raises CircuitRefused, also if it
        does not answer within `ANSWER_S_MAX`, and what opening a stream raises.
        """
        keys = self._network_keys()[network_key : network_key + 1]
        try:
            with trio.fail_after(ANSWER_S_MAX):
                return CircuitConnection(await self._ask(relay, target), keys)
        except trio.TooSlowError as error:
            raise CircuitRefused(f"{peer_text(relay)} does not answer") from error

    async def _ask(self, relay: PeerId, target: PeerId) -> Stream:
        stream = await self._open_stream(relay, HOP)
        is_open = False
        try:
            if stream.via is not None:
                raise CircuitRefused(f"{peer_text(relay)} is linked through another itself")
            await stream.send_all(hop_connect(target))
            status = await read_hop_status(stream)
            if status != OK:
                raise CircuitRefused(f"{peer_text(relay)} carries none: {status_text(status)}")
            is_open = True
        finally:
            if not is_open:
                with trio.move_on_after(CLEANUP_S, shield=True):
                    await stream.reset()
        return stream

    async def serve(self, stream: Stream) -> None:
        """Take a circuit that the relay at the other end of `stream` brings."""
        try:
            with trio.fail_after(SETUP_S_MAX):
                source = await read_stop_connect(stream)
        except MalformedCircuit:
            await stream.send_all(stop_status(MALFORMED_MESSAGE))
            return
        except trio.TooSlowError:
            await stream.reset()
            return
        refusal = self._refusal(stream, source)
        if refusal is not None:
            await stream.send_all(stop_status(refusal))
            return
        self._incoming_count += 1
        try:
            await stream.send_all(stop_status(OK))
            await self._accept(CircuitConnection(stream, self._network_keys()), source)
        finally:
            self._incoming_count -= 1

    def _refusal(self, stream: Stream, source: PeerId) -> int | None:
        if stream.via is not None or self._is_banned(source):
            return PERMISSION_DENIED
        return RESOURCE_LIMIT_EXCEEDED if self._incoming_count >= INCOMING_MAX else None
