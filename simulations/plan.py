"""A run as a list of what happens in it: what is replayed, whatever made it.

Steps happen at `at_us` of virtual time. Some wait from then on until a device other than a
submitter works on a task; whoever it is then is "the executor".
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from simulations.device import HostSettings
from simulations.discovery import Discovery
from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.paths import NetworkSettings
from wire.membership import Role

Who: TypeAlias = int | Literal["executor"]

WORKER_ROLES = (Role.SUBMITTER, Role.EXECUTOR, Role.STEWARD)
SUBMITTER_ROLES = (Role.SUBMITTER, Role.STEWARD)


class Submit(Struct, frozen=True, kw_only=True, tag_field="do", tag="submit"):
    """A batch is submitted at a device, if its process runs."""

    at_us: int
    node: int
    count: int = 1
    work_us: int = 1_000_000
    output_bytes: int = 64
    deadline_us: int = 3_600 * US_PER_S


class Cancel(Struct, frozen=True, kw_only=True, tag_field="do", tag="cancel"):
    """Whoever submitted the batch number `submission` (from 0) cancels one task of it."""

    at_us: int
    submission: int
    index: int
    when_working: bool = False


class Split(Struct, frozen=True, kw_only=True, tag_field="do", tag="split"):
    """Devices reach those of their own group only; who is in none is a group with them."""

    at_us: int
    groups: tuple[tuple[int, ...], ...]
    when_working: bool = False
    heal_after_us: int | None = None


class Cut(Struct, frozen=True, kw_only=True, tag_field="do", tag="cut"):
    """Nothing passes in one direction."""

    at_us: int
    origins: tuple[int, ...]
    targets: tuple[int, ...]
    when_working: bool = False
    heal_after_us: int | None = None


class Slow(Struct, frozen=True, kw_only=True, tag_field="do", tag="slow"):
    """A device's packets take longer."""

    at_us: int
    node: int
    extra_us: int


class Heal(Struct, frozen=True, kw_only=True, tag_field="do", tag="heal"):
    """All paths are mended."""

    at_us: int


class Crash(Struct, frozen=True, kw_only=True, tag_field="do", tag="crash"):
    """A device's process ends, and starts again after a while if `restart_after_us` is given."""

    at_us: int
    who: Who
    disk: DiskFate = DiskFate.KEEP
    when_working: bool = False
    restart_after_us: int | None = None


class CrashWriting(Struct, frozen=True, kw_only=True, tag_field="do", tag="crash_writing"):
    """A device's process ends between its next write and the sync of it, some time of the way."""

    at_us: int
    node: int
    disk: DiskFate
    way_permille: int
    restart_after_us: int


class Freeze(Struct, frozen=True, kw_only=True, tag_field="do", tag="freeze"):
    """A device's process stalls for a while."""

    at_us: int
    who: Who
    when_working: bool = False
    thaw_after_us: int


class FillDisk(Struct, frozen=True, kw_only=True, tag_field="do", tag="fill_disk"):
    """A device's disk takes nothing for a while; then the device is started again."""

    at_us: int
    node: int
    free_after_us: int


Step: TypeAlias = (
    Submit | Cancel | Split | Cut | Slow | Heal | Crash | CrashWriting | Freeze | FillDisk
)


class Plan(Struct, frozen=True, kw_only=True):
    """Everything a run depends on. Once all steps are done everything is mended, and whatever was
    accepted and not lost with its store must be decided within `settle_us`.
    """

    version: int = 1
    seed: int
    node_count: int = 3
    network: NetworkSettings = NetworkSettings()
    host: HostSettings = HostSettings()
    roles: dict[int, tuple[Role, ...]] = {}
    discovery: Discovery = Discovery.LAN
    exercises_wire: bool = False
    steps: tuple[Step, ...]
    settle_us: int = 120 * US_PER_S
