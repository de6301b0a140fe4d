"""What a person may ask of the local daemon; `wire.answers` has what comes back.

The control socket carries these as MessagePack maps with a `command` field, and their answers with
an `answer` field; both are stable. Where a device or a task is named, `meshctl` passes the text it
was given: a name, an id, `did:key`, or the beginning of an id.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from wire.blobs import BlobRef
from wire.ids import BATCH_TASKS_MAX, BatchId
from wire.limits import Limits
from wire.membership import ALL_ROLES, Name, Role
from wire.records import CapabilityKey
from wire.tasks import (
    READERS_MAX,
    REPLICAS_MAX,
    REQUIREMENTS_MAX,
    Durability,
    Duration,
    SealedKey,
    Strategy,
    Task,
)

Reference = Annotated[str, Meta(min_length=1, max_length=256)]


class GetStatus(Struct, frozen=True, tag_field="command", tag="status"):
    """How is this device? Answered by `StatusView`."""


class ListPeers(Struct, frozen=True, tag_field="command", tag="peers"):
    """The mesh as this device sees it. Answered by `PeerList`."""


class GetPeer(Struct, frozen=True, tag_field="command", tag="peer"):
    """One device. Answered by `PeerView`."""

    peer: Reference


class Find(Struct, frozen=True, tag_field="command", tag="find"):
    """Devices that provide all capabilities. Answered by `Found`."""

    capabilities: Annotated[
        tuple[CapabilityKey, ...], Meta(min_length=1, max_length=REQUIREMENTS_MAX)
    ]
    via: Annotated[str, Meta(pattern="^(any|local|dht)$")] = "any"


class Invite(Struct, frozen=True, tag_field="command", tag="invite"):
    """Let new devices in. Answered by `Invited`."""

    roles: Annotated[tuple[Role, ...], Meta(min_length=1, max_length=len(Role))] = ALL_ROLES
    ttl_us: Annotated[int, Meta(ge=1_000_000, le=365 * 86_400_000_000)] = 86_400_000_000
    uses: Annotated[int, Meta(ge=1, le=10_000)] = 1
    operator: Name | None = None


class PardonDevice(Struct, frozen=True, kw_only=True, tag_field="command", tag="pardon"):
    """Let a device work again that was convicted of a wrong result. Answered by `PardonView`.

    Any admin may.
    """

    peer: Reference


class Remove(Struct, frozen=True, kw_only=True, tag_field="command", tag="remove"):
    """Put a device out of the mesh for good. Answered by `RemovalView`.

    Any admin may; with the recovery key's seed any device. Of an admin, the certificates it issued
    to devices that are known here stay, and so do its removals, unless `keeps_papers` is false. A
    plan only tells what would happen.
    """

    peer: Reference
    is_plan: bool = False
    keeps_papers: bool = True
    recovery_seed: Annotated[bytes, Meta(min_length=32, max_length=32)] | None = None

    def __repr__(self) -> str:
        """Name the device only: the seed is secret."""
        return f"Remove({self.peer!r})"


class Rekey(Struct, frozen=True, tag_field="command", tag="rekey"):
    """Roll the network key: all members get a new one. Answered by `RekeyView`."""


class Terms(Struct, frozen=True, kw_only=True):
    """On which terms tasks are run: what their contract says beside what they are."""

    limits: Limits = Limits()
    requirements: Annotated[tuple[CapabilityKey, ...], Meta(max_length=REQUIREMENTS_MAX)] = ()
    preferences: Annotated[tuple[CapabilityKey, ...], Meta(max_length=REQUIREMENTS_MAX)] = ()
    node_type: Name | None = None
    strategy: Strategy = Strategy.WEIGHTED
    priority: Annotated[int, Meta(ge=0, le=2)] = 1
    retries_max: Annotated[int, Meta(ge=0, le=100)] = 8
    deadline_us: Duration = 3_600_000_000
    durability: Durability | None = None
    replicas: Annotated[int, Meta(ge=1, le=REPLICAS_MAX)] = 1
    quorum: Annotated[int, Meta(ge=1, le=REPLICAS_MAX)] | None = None  # None: their majority

    def __post_init__(self) -> None:
        """Refuse a quorum that cannot be met. Raises ValueError."""
        if self.quorum_wanted > self.replicas:
            raise ValueError(f"a quorum of {self.quorum} among {self.replicas} replicas")

    @property
    def quorum_wanted(self) -> int:
        """How many results have to be equal."""
        return self.replicas // 2 + 1 if self.quorum is None else self.quorum


class Submit(Terms, frozen=True, kw_only=True, tag_field="command", tag="submit"):
    """Run a batch. Answered by `Accepted` or `Refused`.

    The shell has stored the module, sealed the inputs under a new batch key, and sealed that key to
    this device (`key`): no content passes through here. `readers` are devices that may have the
    results, too.
    """

    module: BlobRef
    tasks: Annotated[tuple[Task, ...], Meta(min_length=1, max_length=BATCH_TASKS_MAX)]
    key: SealedKey
    readers: Annotated[tuple[Reference, ...], Meta(max_length=READERS_MAX)] = ()
    resubmits: BatchId | None = None  # whose stewards are gone


class Resubmit(Struct, frozen=True, tag_field="command", tag="resubmit"):
    """Make a new batch of the one of a task whose stewards are gone. Answered as `Submit` is."""

    task: Reference


class Plan(Terms, frozen=True, kw_only=True, tag_field="command", tag="plan"):
    """Where would tasks on these terms go? Nothing is run. Answered by `PlanView`."""

    tasks_count: Annotated[int, Meta(ge=1, le=BATCH_TASKS_MAX)] = 1


class ListTasks(Struct, frozen=True, tag_field="command", tag="tasks"):
    """The latest tasks, newest first. Answered by `TaskList`."""

    limit: Annotated[int, Meta(ge=1, le=1_000)] = 50


class GetTask(Struct, frozen=True, tag_field="command", tag="task"):
    """One task. Answered by `TaskView`."""

    task: Reference


class WhyTask(Struct, frozen=True, tag_field="command", tag="why"):
    """Why is a task where it is? Answered by `WhyView`."""

    task: Reference


class GetHistory(Struct, frozen=True, tag_field="command", tag="history"):
    """What happened to a task, on all devices that touched it. Answered by `HistoryView`."""

    task: Reference


class WaitTask(Struct, frozen=True, tag_field="command", tag="wait"):
    """Follow a task: a `TaskView` at every change, the last when it is decided."""

    task: Reference


class WaitBatch(Struct, frozen=True, tag_field="command", tag="wait_batch"):
    """Follow all tasks of the batch that a task belongs to: a `TaskView` at every change."""

    task: Reference


class GetResult(Struct, frozen=True, tag_field="command", tag="result"):
    """What a task put out. Answered by `ResultView`, which the shell turns into bytes."""

    task: Reference


class CancelTask(Struct, frozen=True, tag_field="command", tag="cancel"):
    """Stop a task. Answered by `TaskView` of how it was decided, cancelled or not."""

    task: Reference


class GetReceipt(Struct, frozen=True, tag_field="command", tag="receipt"):
    """A task's receipt. Answered by `ReceiptView`."""

    task: Reference
    with_digest_key: bool = False


Command: TypeAlias = (
    GetStatus
    | ListPeers
    | GetPeer
    | Find
    | Invite
    | PardonDevice
    | Remove
    | Rekey
    | Submit
    | Resubmit
    | Plan
    | ListTasks
    | GetTask
    | WhyTask
    | GetHistory
    | WaitTask
    | WaitBatch
    | GetResult
    | CancelTask
    | GetReceipt
)
