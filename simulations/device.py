"""A simulated device: what it has for life, and what runs on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from msgspec import Meta, Struct

from p2p.directory import MEMBERS_MAX
from p2p.overlay import DIALS_MAX, LINKS_MAX
from scheduler.admission import LEASES_MAX
from scheduler.succession import GONE_US
from simulations.clock import DRIFT_PPM_MAX, WALL_UNCERTAINTY_US
from simulations.cpu import CpuCosts
from wire.effects import Effect
from wire.events import Event
from wire.ids import MeshId, PeerId
from wire.membership import Certificate, Genesis, mesh_id_of
from wire.messages import Hello
from wire.signed import Signed, Signer

ANY_TYPE = "any"


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


class HostSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast the parts of a device are, and how its daemon is configured.

    `speed_permille` concerns programs, and the daemon too if its CPU is counted (`cpu`). Drift and
    wall clock are those of `simulations.clock`. `capabilities` come on top of what every device
    provides, and of its type and region if they are given.
    """

    lease_us: Annotated[int, Meta(ge=1)] = 10_000_000
    steward_gone_us: Annotated[int, Meta(ge=1_000_000)] = GONE_US
    spot_checks: bool = True
    is_wide_area: bool = True  # profile `wan`: a second of round trip is still fast enough
    sync_us: Annotated[int, Meta(ge=0)] = 2_000
    sync_jitter_us: Annotated[int, Meta(ge=0)] = 2_000
    workers_count: Annotated[int, Meta(ge=1)] = 2
    load_us: Annotated[int, Meta(ge=0)] = 500
    samples: bool = True
    cpu: CpuCosts | None = None  # None: the daemon's own work takes no time
    speed_permille: Annotated[int, Meta(ge=1, le=1_000_000)] = 1_000
    drift_ppm: Annotated[int, Meta(ge=-DRIFT_PPM_MAX, le=DRIFT_PPM_MAX)] = 0
    wall_offset_us: int | None = 0
    wall_uncertainty_us: Annotated[int, Meta(ge=0)] = WALL_UNCERTAINTY_US
    node_type: str = ANY_TYPE
    region: str = ""
    capabilities: tuple[str, ...] = ()
    members_max: Annotated[int, Meta(ge=1)] = MEMBERS_MAX
    links_max: Annotated[int, Meta(ge=1)] = LINKS_MAX
    leases_max: Annotated[int, Meta(ge=1)] = LEASES_MAX
    dials_max: Annotated[int, Meta(ge=1)] = DIALS_MAX


@dataclass(frozen=True, slots=True)
class Boot:
    """One start of a device's process: what its node is made from."""

    device: Device
    number: int
    seed: int
    settings: HostSettings


NodeFactory = Callable[[Boot], Node]
