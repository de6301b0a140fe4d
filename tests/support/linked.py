"""Devices with links over hosts in memory, and everything their links emitted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio
from support.meshes import Device, SmallMesh

from p2p.framing import framed
from p2p.hosting import StreamHost
from p2p.judge import Judge
from p2p.links import Links, LinkSettings
from telemetry.metrics import Metrics
from wire.codec import FrameCodec
from wire.events import Event
from wire.ids import PeerId
from wire.keys import Ed25519Verifier
from wire.membership import Chain
from wire.messages import (
    LINK_PROTOCOL,
    MESSAGES,
    Heartbeat,
    Hello,
    LinkRefused,
    Message,
    RefusalReason,
)
from wire.records import ProtocolRange

Kind = TypeVar("Kind")

CODEC = FrameCodec(MESSAGES, Ed25519Verifier())
ADDRESS = "/ip4/192.0.2.7/tcp/4001"


def hello_of(mesh: SmallMesh, device: Device, *, protocol: ProtocolRange = LINK_PROTOCOL) -> Hello:
    """Return the first frame of `device`."""
    return Hello(
        mesh=mesh.id, genesis=mesh.genesis, chain=device.chain, protocol=protocol, incarnation=1
    )


def wire_frame(message: Message) -> bytes:
    """Return `message` as it travels on a link."""
    return framed(CODEC.encode(message))


class Linked:
    """One device: its links on `host`, and the events they emitted, oldest first."""

    def __init__(
        self,
        host: StreamHost,
        mesh: SmallMesh,
        device: Device,
        *,
        settings: LinkSettings | None = None,
        hello: Hello | None = None,
    ) -> None:
        assert host.peer == device.peer
        self.host = host
        self.peer = device.peer
        self.events: list[Event] = []
        self.removed: set[PeerId] = set()
        self.metrics = Metrics()
        self.may_emit = trio.Event()
        self.may_emit.set()
        self._changed = trio.Event()
        self.links = Links(
            host,
            codec=FrameCodec(MESSAGES, Ed25519Verifier()),
            hello=lambda: hello or hello_of(mesh, device),
            genesis=mesh.genesis,
            objection=self._objection,
            emit=self._emit,
            settings=settings or LinkSettings(),
            judge=Judge(metrics=self.metrics),
            metrics=self.metrics,
        )

    def _objection(self, peer: PeerId, chain: Chain) -> LinkRefused | None:
        assert chain
        if peer not in self.removed:
            return None
        return LinkRefused(reason=RefusalReason.REMOVED, detail="this device was removed")

    async def _emit(self, event: Event) -> None:
        await self.may_emit.wait()
        await trio.lowlevel.checkpoint()
        self.events.append(event)
        self._changed.set()
        self._changed = trio.Event()

    def count(self, name: str) -> int:
        """Return the value of a metric."""
        return self.metrics.snapshot()[name]

    def seen(self, kind: type[Kind]) -> list[Kind]:
        """Return the events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    async def wait_for(self, kind: type[Kind], count: int = 1) -> list[Kind]:
        """Return the events of one kind as soon as there are `count`; at most a minute."""
        await self.until(lambda: len(self.seen(kind)) >= count)
        return self.seen(kind)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds after an event; at most a minute."""
        with trio.fail_after(60):
            while not condition():
                await self._changed.wait()

    async def dial(self, other: Linked, *addresses: str) -> None:
        """Dial another device at `addresses`, or at some address."""
        await self.links.dial(other.peer, addresses or (ADDRESS,))


@asynccontextmanager
async def linking(*devices: Linked) -> AsyncIterator[trio.Nursery]:
    """Run the links of `devices` inside the block."""
    async with trio.open_nursery() as nursery:
        for device in devices:
            await nursery.start(device.links.run)
        yield nursery
        nursery.cancel_scope.cancel()


def beats(*tokens: int) -> list[Heartbeat]:
    """Return messages that are easy to tell apart."""
    return [Heartbeat(token=token) for token in tokens]
