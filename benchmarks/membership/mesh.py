"""What the scenarios ask of a mesh, whatever its protocol: faults, views and bytes.

Nodes are numbered from 0; times are microseconds of virtual time. The network is the simulator's,
with latencies of 5 to 25 ms one way unless the settings say otherwise.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

from simulations.paths import NetworkSettings

US_PER_S = 1_000_000
US_PER_MS = 1_000

NodePair: TypeAlias = tuple[int, int]  # origin, target


class View(enum.Enum):
    """What one node believes of another."""

    ALIVE = "alive"
    DEGRADED = "degraded"  # slow, silent or suspected, and still a member
    DEAD = "dead"
    UNKNOWN = "unknown"


class Change(Struct, frozen=True):
    """An observer believes something else of a subject than before."""

    at_us: int
    observer: int
    subject: int
    before: View
    after: View


class MeshSettings(Struct, frozen=True, kw_only=True):
    """What a mesh is made of."""

    seed: int
    node_count: int
    loss_permille: int = 10
    has_telemetry: bool = True
    latency_us: int = 5 * US_PER_MS
    jitter_us: int = 20 * US_PER_MS
    members_max: int | None = None  # that a node knows at a time; None: as many as usual

    def network(self) -> NetworkSettings:
        """Return the paths between its nodes."""
        return NetworkSettings(
            latency_us=self.latency_us,
            jitter_us=self.jitter_us,
            loss_permille=self.loss_permille,
        )


class Traffic(Struct, frozen=True, kw_only=True):
    """What all nodes together have received so far.

    Wire bytes count the headers below as well. A record that a node had already is a copy.
    """

    frame_bytes: int
    wire_bytes: int
    records_count: int = 0
    new_records_count: int = 0


class Mesh(Protocol):
    """The nodes of one run."""

    @property
    def now_us(self) -> int:
        """The time since the run began."""
        ...

    @property
    def node_count(self) -> int:
        """How many nodes there are, running or not."""
        ...

    def start(self, nodes: Iterable[int]) -> None:
        """Start nodes at once: the first time as from an invitation, later from what they kept."""
        ...

    def crash(self, nodes: Iterable[int]) -> None:
        """End nodes as a power cut does: nobody is told."""
        ...

    def freeze(self, nodes: Iterable[int]) -> None:
        """Let the processes of nodes stall; their kernels go on."""
        ...

    def thaw(self, nodes: Iterable[int]) -> None:
        """Let them go on."""
        ...

    def move(self, node: int) -> None:
        """Give a node that does not run another address."""
        ...

    def cut(self, pairs: Sequence[NodePair]) -> None:
        """Lose what is sent from the first to the second of each pair."""
        ...

    def heal(self) -> None:
        """End all cuts."""
        ...

    def run_for(self, duration_us: int) -> None:
        """Let time pass."""
        ...

    def view(self, observer: int, subject: int) -> View:
        """Return what a running node believes of another."""
        ...

    def watch(self, *, every_us: int) -> list[Change]:
        """Return the list to which changes of views are added from now on.

        A protocol that does not tell of changes is looked at that often.
        """
        ...

    def traffic(self) -> Traffic:
        """Return what was received since the run began."""
        ...


MeshFactory: TypeAlias = Callable[[MeshSettings], Mesh]
