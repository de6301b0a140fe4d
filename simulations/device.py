"""A simulated device: what it has for life, and what runs on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from wire.effects import Effect
from wire.events import Event
from wire.ids import MeshId, PeerId
from wire.membership import Certificate, Genesis, mesh_id_of
from wire.messages import Hello
from wire.signed import Signed, Signer


class Node(Protocol):
    """What a host runs: `meshd.node.MeshNode`, or something with the same two sides."""

    def hello(self) -> Hello:
        """Return what the device says first on a link; asked for after the first event only."""
        ...

    def handle(self, event: Event, now_us: int) -> Sequence[Effect]:
        """Return what the node wants done."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What a device has for life, whatever happens to its disk: key, papers, address."""

    index: int
    name: str
    signer: Signer
    genesis: Signed[Genesis]
    chain: tuple[Signed[Certificate], ...]
    network_key: bytes
    addresses: tuple[str, ...]

    @property
    def peer(self) -> PeerId:
        """The device's id."""
        return self.signer.peer

    @property
    def mesh(self) -> MeshId:
        """The mesh it belongs to."""
        return mesh_id_of(self.genesis)


class HostSettings(Struct, frozen=True, kw_only=True):
    """How fast the parts of a device are, and which profile it is configured with."""

    lease_us: int = 10_000_000
    is_wide_area: bool = True  # profile `wan`: a second of round trip is still fast enough
    sync_us: int = 2_000
    sync_jitter_us: int = 2_000
    workers_count: int = 2
    load_us: int = 500
    samples: bool = True


@dataclass(frozen=True, slots=True)
class Boot:
    """One start of a device's process: what its node is made from."""

    device: Device
    number: int
    seed: int
    settings: HostSettings


NodeFactory = Callable[[Boot], Node]
