"""What can happen in a run: every step of a plan, in the words that plan files use.

A step happens at `at_us` of virtual time. One that says `when_working` waits from then on until a
device other than a submitter works on a task, and whoever that is is then "the executor". A fault
lasts `for_us`, without it until the plan has ended. Faults overlap: each ends by itself.

Times are microseconds, devices are numbers from 0, and the first of them founded the mesh.
"""

from __future__ import annotations

import enum
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from wire.tasks import Durability

TIME_US_MAX = 400 * 86_400 * US_PER_S

TimeUs: TypeAlias = Annotated[int, Meta(ge=0, le=TIME_US_MAX)]
NodeNumber: TypeAlias = Annotated[int, Meta(ge=0, le=99_999)]
Permille: TypeAlias = Annotated[int, Meta(ge=0, le=1_000)]
Who: TypeAlias = NodeNumber | Literal["executor"]
Nodes: TypeAlias = tuple[NodeNumber, ...]


class Step(Struct, frozen=True, kw_only=True, tag_field="do", forbid_unknown_fields=True):
    """Something that happens at a time."""

    at_us: TimeUs
    when_working: bool = False


# Work.


class Submit(Step, frozen=True, kw_only=True, tag="submit"):
    """A batch is submitted at a device, if its process runs. `work_us` is one task's duration."""

    node: NodeNumber
    count: Annotated[int, Meta(ge=1, le=1_024)] = 1
    work_us: TimeUs = 1_000_000
    output_bytes: Annotated[int, Meta(ge=0, le=64 << 20)] = 64
    deadline_us: TimeUs = 3_600 * US_PER_S
    durability: Durability | None = None
    replicas: Annotated[int, Meta(ge=1, le=7)] = 1
    quorum: Annotated[int, Meta(ge=1, le=7)] = 1


class Cancel(Step, frozen=True, kw_only=True, tag="cancel"):
    """Whoever submitted the batch number `submission` (from 0) cancels one task of it."""

    submission: Annotated[int, Meta(ge=0)]
    index: Annotated[int, Meta(ge=0)]


class Via(enum.StrEnum):
    """Who is asked for providers; `any`: the directory, and the DHT if that knows none."""

    ANY = "any"
    LOCAL = "local"
    DHT = "dht"


class Find(Step, frozen=True, kw_only=True, tag="find"):
    """Somebody asks a device who provides a capability: nobody but `providers` may be named."""

    node: NodeNumber
    key: Annotated[str, Meta(min_length=1, max_length=128)]
    providers: Nodes = ()
    via: Via = Via.ANY


# The network.


class Split(Step, frozen=True, kw_only=True, tag="split"):
    """Devices reach those of their own group only; who is in none is a group with them."""

    groups: tuple[Nodes, ...]
    for_us: TimeUs | None = None


class Cut(Step, frozen=True, kw_only=True, tag="cut"):
    """Nothing passes in one direction."""

    origins: Nodes
    targets: Nodes
    for_us: TimeUs | None = None


class Bridge(Step, frozen=True, kw_only=True, tag="bridge"):
    """Two groups reach each other through a third only, which reaches both."""

    left: Nodes
    middle: Nodes
    right: Nodes
    for_us: TimeUs | None = None


class Ring(Step, frozen=True, kw_only=True, tag="ring"):
    """Every device reaches a majority, and no two the same one (Jepsen's majorities ring)."""

    for_us: TimeUs | None = None


class Jam(Step, frozen=True, kw_only=True, tag="jam"):
    """What is sent in one direction waits, and arrives in order once the jam is over."""

    origins: Nodes
    targets: Nodes
    for_us: TimeUs | None = None


class Worsen(Step, frozen=True, kw_only=True, tag="worsen"):
    """The paths between two groups get worse, both ways. No targets: all other devices."""

    origins: Nodes
    targets: Nodes = ()
    latency_us: TimeUs = 0  # on top of what a packet takes anyway, as all of these
    jitter_us: TimeUs = 0
    loss_permille: Permille = 0
    bytes_per_second: Annotated[int, Meta(ge=1)] | None = None  # at most
    for_us: TimeUs | None = None


# Processes.


class Start(Step, frozen=True, kw_only=True, tag="start"):
    """A device that does not run is started."""

    node: NodeNumber


class Stop(Step, frozen=True, kw_only=True, tag="stop"):
    """A device is stopped as its owner does it: it says goodbye."""

    node: NodeNumber
    restart_after_us: TimeUs | None = None


class Crash(Step, frozen=True, kw_only=True, tag="crash"):
    """A process is killed or, unless its disk keeps everything, its device loses power."""

    who: Who
    disk: DiskFate = DiskFate.KEEP
    restart_after_us: TimeUs | None = None


class CrashWriting(Step, frozen=True, kw_only=True, tag="crash_writing"):
    """A device's process ends between its next write and the sync of it, some part of the way."""

    node: NodeNumber
    disk: DiskFate
    way_permille: Permille
    restart_after_us: TimeUs


class CrashAtEffect(Step, frozen=True, kw_only=True, tag="crash_at_effect"):
    """A process ends just before or just after it carries out an effect for the n-th time.

    `effect` is the effect's name (`Send`, `Persist`, `Execute` ...); `what` narrows it down to one
    kind of message or row.
    """

    node: NodeNumber
    effect: str
    what: str | None = None
    number: Annotated[int, Meta(ge=1)] = 1
    is_after: bool = False
    disk: DiskFate = DiskFate.KEEP
    restart_after_us: TimeUs


class Freeze(Step, frozen=True, kw_only=True, tag="freeze"):
    """A process stalls; its kernel still answers."""

    who: Who
    for_us: TimeUs


class Suspend(Step, frozen=True, kw_only=True, tag="suspend"):
    """A device sleeps, as a laptop with its lid closed: nothing passes, its clock goes on."""

    who: Who
    for_us: TimeUs


class Gray(Step, frozen=True, kw_only=True, tag="gray"):
    """A device answers, and does not work: slowly, never, or without one kind of message."""

    who: Who
    slowdown: Annotated[int, Meta(ge=1, le=1_000_000)] = 1  # its runs take so many times as long
    is_stuck: bool = False  # its runs stand still
    drops: str | None = None  # a type of message that never leaves it
    for_us: TimeUs | None = None


# Disks and clocks.


class FillDisk(Step, frozen=True, kw_only=True, tag="fill_disk"):
    """A device's disk takes nothing for a while; then the device is started again."""

    node: NodeNumber
    for_us: TimeUs


class Backup(Step, frozen=True, kw_only=True, tag="backup"):
    """What is durable on a device is copied away, instead of its last copy."""

    node: NodeNumber


class Restore(Step, frozen=True, kw_only=True, tag="restore"):
    """A device is stopped, its disk becomes the last backup of it, and it is started.

    A copy of files, or `meshctl`, makes the store another one. A block-level rollback does not:
    it cannot be seen, and is outside of what is guaranteed.
    """

    node: NodeNumber
    is_block_level: bool = False
    down_us: TimeUs = 1_000_000


class Drift(Step, frozen=True, kw_only=True, tag="drift"):
    """A device's clock runs too fast by so many millionths, too slow if it is negative."""

    node: NodeNumber
    ppm: Annotated[int, Meta(ge=-500_000, le=500_000)]
    for_us: TimeUs | None = None


class WallClock(Step, frozen=True, kw_only=True, tag="wall_clock"):
    """A device's wall clock jumps to so much beside the truth; None: nobody knows the time."""

    node: NodeNumber
    offset_us: Annotated[int, Meta(ge=-100 * TIME_US_MAX, le=100 * TIME_US_MAX)] | None


class Heat(Step, frozen=True, kw_only=True, tag="heat"):
    """A device warms up, and cools down again as quickly."""

    node: NodeNumber
    celsius: Annotated[int, Meta(ge=-50, le=150)]
    over_us: TimeUs = 30 * US_PER_S
    for_us: TimeUs | None = None


# Lies.


class Falsehood(enum.StrEnum):
    """What a device does that no honest one does."""

    WRONG_RESULT = "wrong_result"
    NO_RESULT = "no_result"
    REPLAYED_RESULT = "replayed_result"
    FOREIGN_SIGNATURE = "foreign_signature"  # good, of somebody who is no member
    FORGED_SIGNATURE = "forged_signature"  # under a name that never gave it
    TWO_OUTCOMES = "two_outcomes"  # executors hear another one than was decided
    FORKED_RECORDS = "forked_records"  # two contents of one (incarnation, counter)
    FALSE_CAPABILITIES = "false_capabilities"
    SLANDER = "slander"  # of all others, under its own name and under theirs
    FLOOD = "flood"


class Lie(Step, frozen=True, kw_only=True, tag="lie"):
    """A device lies."""

    node: NodeNumber
    how: Falsehood
    for_us: TimeUs | None = None


class PoisonDht(Step, frozen=True, kw_only=True, tag="poison_dht"):
    """The DHT answers for a capability with devices that do not have it."""

    key: str
    claimed: Nodes
    for_us: TimeUs | None = None


class EclipseDht(Step, frozen=True, kw_only=True, tag="eclipse_dht"):
    """All that hold a capability's records are liars, who hand out theirs alone."""

    key: str
    liars: Nodes
    for_us: TimeUs | None = None


AnyStep: TypeAlias = (
    Submit
    | Cancel
    | Find
    | Split
    | Cut
    | Bridge
    | Ring
    | Jam
    | Worsen
    | Start
    | Stop
    | Crash
    | CrashWriting
    | CrashAtEffect
    | Freeze
    | Suspend
    | Gray
    | FillDisk
    | Backup
    | Restore
    | Drift
    | WallClock
    | Heat
    | Lie
    | PoisonDht
    | EclipseDht
)
