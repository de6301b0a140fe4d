"""The links of one device, `/meshd/link/1`: at most one to each peer, whoever dialled.

Events of a peer alternate:
LinkUp, what was received, LinkDown. Two devices that dial each other at the same time both keep the
link that the smaller peer id dialled, and nobody is told of the other one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence

import structlog
import trio
from msgspec import Struct

from p2p.errors import NetworkError, StreamBroken
from p2p.framing import FrameReader, framed
from p2p.handshake import Handshake
from p2p.hosting import StreamHost, dialable
from p2p.judge import Judge
from p2p.link import CarrySettings, Link
from p2p.link_intake import Intake
from p2p.link_metrics import LinkCounters
from p2p.link_table import LinkTable
from p2p.protocol_errors import LinkError, LinkLost, LinkNotAccepted, RefusedByPeer
from p2p.rate_limit import Rate, RateTable
from p2p.streams import Stream
from telemetry.metrics import Metrics
from wire.codec import FrameCodec
from wire.errors import FrameTooLarge, MalformedFrame
from wire.events import DialFailed, Event, LinkDown, LinkUp
from wire.ids import PeerId, peer_text
from wire.membership import Chain, Genesis
from wire.messages import Hello, LinkRefused, Message, RefusalReason
from wire.signed import Signed

LINK_PROTOCOL_ID = "/meshd/link/1"

log = structlog.get_logger()


class LinkSettings(Struct, frozen=True, kw_only=True):
    """The bounds of all links of a device. Counts and seconds.

    A dial takes some six round trips: `dial_timeout_s` up to the open stream, and
    `handshake_timeout_s` after it. Two links to one peer within the sum of both are a race of two
    dials; later, the peer has forgotten the older one. A handshake checks some ten signatures:
    `handshake_rate` is each peer's, of `peers_count_max` peers.
    """

    links_count_max: int = 40
    dials_count_max: int = 16
    handshakes_count_max: int = 16
    handshake_rate: Rate = Rate(per_s=1, burst=20)
    peers_count_max: int = 1_024
    dial_timeout_s: float = 10.0
    handshake_timeout_s: float = 10.0
    carry: CarrySettings = CarrySettings()


class Links:
    """The links of a device. Open while `run` runs.

    `emit` gets LinkUp, LinkDown, DialFailed, Received, Congested and Drained; while it waits, no
    more is read from that peer.
    """

    def __init__(
        self,
        host: StreamHost,
        *,
        codec: FrameCodec,
        hello: Callable[[], Hello],
        genesis: Signed[Genesis],
        objection: Callable[[PeerId, Chain], LinkRefused | None],
        emit: Callable[[Event], Awaitable[None]],
        settings: LinkSettings,
        judge: Judge,
        metrics: Metrics,
    ) -> None:
        self._host = host
        self._codec = codec
        self._handshake = Handshake(codec=codec, hello=hello, genesis=genesis, objection=objection)
        self._objection = objection
        self._emit = emit
        self._settings = settings
        self._counters = LinkCounters(metrics)
        self._judge = judge
        self._handshakes = RateTable[PeerId](
            settings.handshake_rate, count_max=settings.peers_count_max
        )
        self._table = LinkTable(
            own=host.peer, race_s=settings.dial_timeout_s + settings.handshake_timeout_s
        )
        self._intake = Intake(
            codec=codec,
            table=self._table,
            judge=judge,
            counters=self._counters,
            emit=emit,
        )
        self._dialling: set[PeerId] = set()
        self._answering: set[PeerId] = set()
        self._installed: trio.MemorySendChannel[Link] | None = None

    @property
    def peers(self) -> frozenset[PeerId]:
        """The devices that are linked now."""
        return frozenset(link.peer for link in self._table if not link.is_closing)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve links until cancelled; then send what is queued, within `close_timeout_s`."""
        self._installed, installed = trio.open_memory_channel[Link](self._settings.links_count_max)
        self._host.serve(LINK_PROTOCOL_ID, self._serve, members_only=False)
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                async for link in installed:
                    nursery.start_soon(self._run_link, link)
        finally:
            self._installed = None
            installed.close()
            await self._forget_all()

    def enqueue(self, peer: PeerId, message: Message) -> None:
        """Send `message` if there is a link to `peer` with room; else drop and count it."""
        link = self._table.get(peer)
        if link is None:
            self._counters.unlinked.increment()
            return
        try:
            frame = self._codec.encode(message)
        except FrameTooLarge as error:
            # Our own bug, and one message of many: the links go on.
            self._counters.too_large.increment()
            log.error("frame.dropped", peer_id=peer_text(peer), reason=str(error))
            return
        if not link.queue.push(frame, message.TRAFFIC, now_s=trio.current_time()):
            self._counters.dropped.increment()

    async def dial(
        self, peer: PeerId, addresses: Sequence[str], via: Sequence[PeerId] = ()
    ) -> None:
        """Link to `peer` unless it is linked or being dialled. Emits LinkUp or DialFailed.

        At `addresses`, also in place of a link that another device carries; or, if `via` names
        members, through the first of them that carries it.
        """
        current = self._table.get(peer)
        if peer in self._dialling or (current is not None and (via or current.via is None)):
            return
        self._dialling.add(peer)
        try:
            failure = await self._dial(peer, addresses, via)
        finally:
            self._dialling.discard(peer)
        if failure is not None and self._table.get(peer) is None:
            if peer not in self._answering:
                await self._disconnect(peer)
            self._counters.dials_failed.increment()
            log.info("dial.failed", peer_id=peer_text(peer), reason=failure.reason)
            await self._emit(failure)

    def hangup(self, peer: PeerId, reason: str) -> None:
        """End the link to `peer` after what is queued. Emits LinkDown if there was one."""
        link = self._table.get(peer)
        if link is None:
            return
        objection = self._objection(peer, link.hello.chain)
        farewell = b"" if objection is None else framed(self._codec.encode(objection))
        link.close(reason, farewell=farewell)

    def ban(self, peer: PeerId, *, for_s: float) -> None:
        """Neither dial nor answer `peer` for a while. A link that there is stays."""
        self._judge.ban(peer, for_s=for_s)

    # Setting up

    async def _dial(
        self, peer: PeerId, addresses: Sequence[str], via: Sequence[PeerId]
    ) -> DialFailed | None:
        """Return why no link came about; None if one did."""
        obstacle = self._obstacle(peer)
        if obstacle is not None:
            return DialFailed(peer, obstacle)
        try:
            with trio.fail_after(self._settings.dial_timeout_s):
                if via:
                    await self._host.connect_through(peer, via)
                else:
                    await self._host.connect_directly(peer, dialable(addresses))
                stream = await self._host.open_stream(peer, LINK_PROTOCOL_ID)
            link = await self._greet(stream)
        except trio.TooSlowError:
            return DialFailed(peer, "no answer in time")
        except RefusedByPeer as error:
            return DialFailed(peer, str(error), error.refusal)
        except NetworkError as error:
            return DialFailed(peer, str(error))
        await link.announced.wait()
        return None

    def _obstacle(self, peer: PeerId) -> str | None:
        """Return why a device is not dialled at all."""
        if len(self._dialling) > self._settings.dials_count_max:
            return f"{self._settings.dials_count_max} other devices are being dialled"
        if peer not in self._table and len(self._table) >= self._settings.links_count_max:
            return f"{self._settings.links_count_max} links are open"
        if peer == self._host.peer:
            return "that is this device itself"
        banned_s = self._judge.banned_for_s(peer)
        if banned_s:
            return f"banned for another {banned_s:.0f} s: it sent what no device should"
        return None

    async def _greet(self, stream: Stream) -> Link:
        reader = FrameReader(stream)
        link: Link | None = None
        is_told = False
        try:
            with trio.fail_after(self._settings.handshake_timeout_s):
                hello = await self._handshake.greet(stream, reader)
            link = self._install(stream, reader, hello, is_outbound=True)
        except LinkError as error:
            is_told = True
            self._blame(stream.peer, error)
            raise
        finally:
            if link is None:
                await self._discard(stream, is_told=is_told)
        return link

    async def _serve(self, stream: Stream) -> None:
        peer = stream.peer
        if not self._may_answer(peer):
            self._counters.refused.increment()
            await stream.reset()
            return
        self._answering.add(peer)
        try:
            link = await self._answer(stream)
        finally:
            self._answering.discard(peer)
        if link is not None:
            try:
                await link.finished.wait()
            finally:
                link.close("the host stopped")

    def _may_answer(self, peer: PeerId) -> bool:
        return (
            self._installed is not None
            and peer not in self._answering
            and len(self._answering) < self._settings.handshakes_count_max
            and not self._judge.is_banned(peer)
            and self._may_greet_again(peer)
        )

    def _may_greet_again(self, peer: PeerId) -> bool:
        if self._handshakes.take(peer, now_s=trio.current_time()):
            return True
        self._counters.answered_too_often.increment()
        return False

    async def _answer(self, stream: Stream) -> Link | None:
        reader = FrameReader(stream)
        link: Link | None = None
        is_told = False
        try:
            with trio.fail_after(self._settings.handshake_timeout_s):
                hello = await self._handshake.await_hello(stream, reader)
                await self._admit_another(stream)
                await self._handshake.welcome(stream)
            link = self._install(stream, reader, hello, is_outbound=False)
        except (NetworkError, trio.TooSlowError) as error:
            is_told = isinstance(error, LinkError)
            self._counters.refused.increment()
            self._blame(stream.peer, error)
            log.info("link.refused", peer_id=peer_text(stream.peer), reason=str(error))
        finally:
            if link is None:
                await self._discard(stream, is_told=is_told)
        return link

    async def _admit_another(self, stream: Stream) -> None:
        """Raise LinkError, and tell the device, unless there is room for a link to it."""
        now_s, is_direct = trio.current_time(), stream.via is None
        if self._table.refuses(stream.peer, is_outbound=False, is_direct=is_direct, now_s=now_s):
            raise LinkLost("the other of two links stays")
        if stream.peer not in self._table and len(self._table) >= self._settings.links_count_max:
            detail = f"{self._settings.links_count_max} links are open"
            error = LinkNotAccepted(RefusalReason.TOO_MANY_LINKS, detail)
            await self._handshake.refuse(stream, error.refusal)
            raise error

    async def _discard(self, stream: Stream, *, is_told: bool) -> None:
        """Give up a stream that became no link; a refusal on it still arrives."""
        with trio.move_on_after(self._settings.carry.close_timeout_s, shield=True):
            if not is_told:
                await stream.reset()
                return
            await stream.aclose()
            with contextlib.suppress(StreamBroken):
                while await stream.receive_some():
                    pass  # until the device has ended its side, and so has read ours

    def _blame(self, peer: PeerId, error: Exception) -> None:
        if isinstance(error, LinkNotAccepted) and isinstance(error.__cause__, MalformedFrame):
            self._intake.punish(peer, error.__cause__)

    def _install(
        self, stream: Stream, reader: FrameReader, hello: Hello, *, is_outbound: bool
    ) -> Link:
        """Begin a link whose handshake succeeded. Never waits. Raises LinkLost."""
        link = Link(
            stream=stream,
            reader=reader,
            hello=hello,
            address="" if stream.via else next(iter(self._host.seen_at(stream.peer)), ""),
            is_outbound=is_outbound,
            established_s=trio.current_time(),
            settings=self._settings.carry,
        )
        if self._installed is None or self._installed.statistics().current_buffer_used >= (
            self._settings.links_count_max
        ):
            raise LinkLost("this device is stopping, or too many links begin at once")
        if self._table.put(link):
            self._counters.races.increment()
        self._installed.send_nowait(link)
        return link

    # Standing

    async def _run_link(self, link: Link) -> None:
        try:
            await self._begin(link)
            link.announced.set()
            intake = self._intake
            await link.run(intake.on_frame, intake.on_malformed, intake.on_notice)
            if link.is_stalled:
                intake.on_stalled(link)
            await self._end(link)
        finally:
            await self._forget(link)

    async def _begin(self, link: Link) -> None:
        if link.waits_for is not None:
            await link.waits_for.wait()
        if link.continues:
            return
        is_reached = link.is_outbound and link.via is None
        await self._host.admit(link.peer, [link.address] if is_reached else ())
        if link.via is None:
            await self._host.leave_circuits(link.peer)
        self._counters.up.increment()
        log.debug("link.up", peer_id=peer_text(link.peer), address=link.address)
        await self._emit(
            LinkUp(
                peer=link.peer,
                hello=link.hello,
                address=link.address,
                is_outbound=link.is_outbound,
                via=link.via,
            )
        )

    async def _end(self, link: Link) -> None:
        if link.is_superseded:
            return
        if self._table.holds(link):
            is_out = self._objection(link.peer, link.hello.chain) is not None
            await self._host.expel(link.peer, for_good=is_out)
        self._counters.down.increment()
        log.debug("link.down", peer_id=peer_text(link.peer), reason=link.end_reason)
        await self._emit(LinkDown(link.peer, link.end_reason))

    async def _forget(self, link: Link) -> None:
        await link.shut()
        if self._table.remove(link) and link.is_ours_to_end:
            await self._disconnect(link.peer)
        link.announced.set()
        link.finished.set()

    async def _forget_all(self) -> None:
        """Give up the links whose task had not begun when `run` ended."""
        for link in self._table:
            await self._forget(link)

    async def _disconnect(self, peer: PeerId) -> None:
        with trio.move_on_after(self._settings.carry.close_timeout_s, shield=True):
            await self._host.disconnect(peer)
