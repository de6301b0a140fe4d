"""Two small nodes for tests of the simulator: one does as it is told, one beats like a heart."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from simulations.device import Boot, Device, Node
from simulations.world import Blueprint, World, WorldSettings
from wire.effects import Dial, Effect, Persist, Row, Send, SetTimer, Trace
from wire.events import (
    Event,
    LinkDown,
    LinkUp,
    PeerSeen,
    Received,
    Restarted,
    TimerDue,
    WallClockRead,
)
from wire.ids import PeerId
from wire.messages import LINK_PROTOCOL, Heartbeat, HeartbeatAcknowledged, Hello

BEAT_EVERY_US = 1_000_000
QUIET_KINDS = ("WallClockRead", "Listening", "Sampled", "PeerSeen")


def hello_of(device: Device, incarnation: int) -> Hello:
    """Return the first frame of a device."""
    return Hello(
        mesh=device.mesh,
        genesis=device.genesis,
        chain=device.chain,
        protocol=LINK_PROTOCOL,
        incarnation=incarnation,
    )


class ScriptedNode:
    """Remembers what it hears, and wants what a test told it to want."""

    def __init__(self, boot: Boot) -> None:
        self.boot = boot
        self.heard: list[tuple[int, Event]] = []
        self.wanted: list[Effect] = []

    def hello(self) -> Hello:
        """Return a handshake whose incarnation is the boot's number."""
        return hello_of(self.boot.device, self.boot.number)

    def handle(self, event: Event, now_us: int) -> Sequence[Effect]:
        """Note `event`, and return what was told."""
        self.heard.append((now_us, event))
        wanted, self.wanted = self.wanted, []
        return wanted

    def events(self, *quiet: str) -> list[Event]:
        """Return what was heard, except what every node hears when it starts."""
        names = (*QUIET_KINDS, *quiet)
        return [event for _, event in self.heard if type(event).__name__ not in names]


class Stage:
    """A world of scripted nodes."""

    def __init__(self, settings: WorldSettings) -> None:
        self.nodes: dict[int, ScriptedNode] = {}
        self.world = World(settings, Blueprint(factory=self._make, row_kinds={}))
        self.world.start_all()

    def _make(self, boot: Boot) -> Node:
        node = ScriptedNode(boot)
        self.nodes[boot.device.index] = node
        return node

    def peer(self, node: int) -> PeerId:
        """Return a device's id."""
        return self.world.hosts[node].peer

    def want(self, node: int, *effects: Effect) -> None:
        """Let a node want `effects` now."""
        self.nodes[node].wanted = list(effects)
        self.world.hosts[node].deliver(WallClockRead(0, None))

    def link(self, origin: int, target: int) -> None:
        """Link two devices, and forget what was heard before."""
        host = self.world.hosts[target]
        self.want(origin, Dial(host.peer, host.addresses))
        self.world.run_for(1_000_000)
        self.forget()

    def forget(self) -> None:
        """Forget what was heard."""
        for node in self.nodes.values():
            node.heard.clear()


class BeatRow(Struct, frozen=True):
    """How many heartbeats a device has counted."""

    count: int


class BeatingNode:
    """Dials whom it sees, beats once a second on each link, and counts durably what it hears."""

    def __init__(self, boot: Boot) -> None:
        self._boot = boot
        self._links: set[PeerId] = set()
        self._count = 0

    def hello(self) -> Hello:
        """Return a handshake whose incarnation is the boot's number."""
        return hello_of(self._boot.device, self._boot.number)

    def handle(self, event: Event, now_us: int) -> Sequence[Effect]:
        """Return what to do about `event`."""
        match event:
            case Restarted(rows=rows):
                counts = [row.value.count for row in rows if isinstance(row.value, BeatRow)]
                self._count = max(counts, default=0)
                return [Trace("beat.begun", {"count": self._count}), SetTimer("beat", 0)]
            case PeerSeen(peer, addresses) if peer not in self._links:
                return [Dial(peer, addresses)]
            case LinkUp(peer=peer):
                self._links.add(peer)
            case LinkDown(peer):
                self._links.discard(peer)
            case TimerDue():
                beats = [Send(peer, Heartbeat(token=1)) for peer in sorted(self._links)]
                return [*beats, SetTimer("beat", BEAT_EVERY_US)]
            case Received(peer, Heartbeat(token=int(token))):
                self._count += 1
                row = Row("beats", b"own", BeatRow(self._count))
                return [Persist((row,), (Send(peer, HeartbeatAcknowledged(token=token)),))]
        return []


BEATING = Blueprint(factory=BeatingNode, row_kinds={"beats": BeatRow})
