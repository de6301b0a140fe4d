"""Carrying circuits for others: bytes between two devices that are both linked with this one.

It asks no questions but whether both are members, and carries so many, so fast, for as long as
anything moves. What it carries it cannot read: the two devices do with each other what they would
do on a socket.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio

from p2p.circuit_book import CircuitBook, CircuitLimits, CircuitRefusal
from p2p.circuit_messages import (
    CONNECTION_FAILED,
    MALFORMED_MESSAGE,
    NO_RESERVATION,
    OK,
    PERMISSION_DENIED,
    RESOURCE_LIMIT_EXCEEDED,
    STOP,
    hop_status,
    read_hop_connect,
    read_stop_status,
    stop_connect,
)
from p2p.errors import MalformedCircuit, NetworkError
from p2p.host_metrics import CircuitCounters
from p2p.rate_limit import Rate, TokenBucket
from p2p.streams import Stream
from wire.ids import PeerId, peer_text

PIECE_BYTES_MAX: Final = 32 * 1024
SETUP_S_MAX: Final = 10.0
IDLE_S_MAX: Final = 120.0  # links say something every ten seconds
CLEANUP_S: Final = 1.0

_STATUS: Final = {
    CircuitRefusal.NOT_LINKED: NO_RESERVATION,
    CircuitRefusal.TO_ITSELF: PERMISSION_DENIED,
    CircuitRefusal.FULL: RESOURCE_LIMIT_EXCEEDED,
    CircuitRefusal.FULL_FOR_DEVICE: RESOURCE_LIMIT_EXCEEDED,
    CircuitRefusal.FULL_FOR_PAIR: RESOURCE_LIMIT_EXCEEDED,
}

log = structlog.get_logger()


class Relay:
    """The circuits that this device carries.

    `open_stream` opens a stream of a protocol to a member, which ends when it is one no more;
    `is_linked` says whether a device is a member with a direct connection.
    """

    def __init__(
        self,
        *,
        limits: CircuitLimits,
        open_stream: Callable[[PeerId, str], Awaitable[Stream]],
        is_linked: Callable[[PeerId], bool],
        counters: CircuitCounters,
    ) -> None:
        self._limits = limits
        self._book = CircuitBook(limits=limits)
        self._open_stream = open_stream
        self._is_linked = is_linked
        self._counters = counters

    async def serve(self, source: Stream) -> None:
        """Carry one circuit for the member at the other end of `source`, or say why not."""
        try:
            with trio.fail_after(SETUP_S_MAX):
                target = await read_hop_connect(source)
        except MalformedCircuit as error:
            log.info("circuit.refused", peer_id=peer_text(source.peer), reason=str(error))
            await self._refuse(source, MALFORMED_MESSAGE)
            return
        except trio.TooSlowError:
            await source.reset()
            return
        if source.via is not None:
            await self._refuse(source, PERMISSION_DENIED)  # no chains
            return
        refusal = self._book.refusal(source.peer, target, is_target_linked=self._is_linked(target))
        if refusal is not None:
            await self._refuse(source, _STATUS[refusal])
            return
        self._book.begin(source.peer, target)
        self._counters.carried.set(len(self._book))
        try:
            await self._connect(source, target)
        finally:
            self._book.end(source.peer, target)
            self._counters.carried.set(len(self._book))

    async def _refuse(self, source: Stream, status: int) -> None:
        self._counters.refused.increment()
        await source.send_all(hop_status(status))

    async def _connect(self, source: Stream, target: PeerId) -> None:
        far: Stream | None = None
        is_whole = False
        try:
            try:
                with trio.fail_after(SETUP_S_MAX):
                    far = await self._open_stream(target, STOP)
                    await far.send_all(stop_connect(source.peer))
                    is_whole = far.via is None and await read_stop_status(far) == OK
            except (NetworkError, trio.TooSlowError) as error:
                log.info("circuit.failed", peer_id=peer_text(target), reason=str(error))
            if far is None or not is_whole:
                await self._refuse(source, CONNECTION_FAILED)
                return
            self._counters.begun.increment()
            await source.send_all(hop_status(OK))
            await self._carry(source, far)
        finally:
            if far is not None:
                await _drop(far)

    async def _carry(self, source: Stream, far: Stream) -> None:
        """Pass bytes both ways until one side ends or breaks, or nothing has moved for long."""
        with trio.CancelScope() as patience:
            patience.deadline = trio.current_time() + IDLE_S_MAX
            async with trio.open_nursery() as nursery:

                async def one_way(origin: Stream, target: Stream) -> None:
                    try:
                        await self._pass_on(origin, target, patience)
                    except NetworkError as error:
                        log.debug("circuit.broken", reason=str(error))
                    nursery.cancel_scope.cancel()

                nursery.start_soon(one_way, source, far)
                nursery.start_soon(one_way, far, source)

    async def _pass_on(self, origin: Stream, target: Stream, patience: trio.CancelScope) -> None:
        per_s = self._limits.bytes_per_s_max
        tokens = TokenBucket(Rate(per_s=per_s, burst=per_s), now_s=trio.current_time())
        while piece := await origin.receive_some(PIECE_BYTES_MAX):
            await target.send_all(piece)
            now_s = trio.current_time()
            patience.deadline = now_s + IDLE_S_MAX
            self._counters.carried_bytes.increment(len(piece))
            await trio.sleep(tokens.owe(len(piece), now_s=now_s))


async def _drop(stream: Stream) -> None:
    with trio.move_on_after(CLEANUP_S, shield=True):
        await stream.aclose()
