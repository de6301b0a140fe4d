"""What the local daemon answers: shapes that are also the JSON of `meshctl --output json`.

Ids are text, times are integers with their unit in the name, a value that is not known is null.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

from msgspec import Struct

from wire.content import Content
from wire.membership import JoinGranted, JoinRefused


class HealthView(Struct, frozen=True, kw_only=True):
    """A health score in [0, 1] and its terms; a term that is not known is null."""

    score: float
    bandwidth: float | None
    latency: float | None
    compute: float | None
    reputation: float | None


class OutcomesView(Struct, frozen=True, kw_only=True):
    """How a device did at tasks of one kind: all that was ever counted."""

    kind: str
    valid: int
    failed: int
    disputed: int


class RememberedView(Struct, frozen=True, kw_only=True):
    """How many outcomes of all kinds still count, each the less the older it is."""

    valid: float
    failed: float
    disputed: float


class ObserverView(Struct, frozen=True, kw_only=True):
    """What one device says of another. Its weight, in [0, 1], is that of its word here."""

    id: str
    name: str
    weight: float
    outcomes: list[OutcomesView]


class ReputationView(Struct, frozen=True, kw_only=True):
    """What a reputation is made of.

    `own` are this device's outcomes with the other, `remembered` what of them still counts.
    `others_rate` is what others say together, as much as `others_weight` own outcomes; the
    observers with most weight come first, those without any last.
    """

    score: float
    own: list[OutcomesView]
    remembered: RememberedView
    others_rate: float | None
    others_weight: float
    observers: list[ObserverView]
    observers_count: int


class PeerView(Struct, frozen=True, kw_only=True, tag_field="answer", tag="peer"):
    """A device as this one sees it."""

    id: str
    did: str
    name: str
    is_self: bool
    state: str  # self, linked, known, unreachable, degraded, dead, left, removed
    reason: str | None  # why it is not self or linked
    node_type: str
    region: str
    roles: list[str]
    operator: str
    addresses: list[str]
    capabilities: list[str]
    engine_profiles: list[str]
    incarnation: int
    health: HealthView
    breaker: str  # closed, open, half_open
    breaker_reason: str | None
    round_trip_us: int | None
    transfer_bits_per_s: int | None
    telemetry: dict[str, object] | None
    telemetry_age_us: int | None
    successes: int
    failures: int
    leases_held: int | None
    via: str | None = None  # whom the link goes through
    reputation: ReputationView | None = None  # where one device is asked for


class PeerList(Struct, frozen=True, kw_only=True, tag_field="answer", tag="peers"):
    """All devices, this one first."""

    mesh: str
    peers: list[PeerView]


class StatusView(Struct, frozen=True, kw_only=True, tag_field="answer", tag="status"):
    """This device, its mesh, its work, and what its owner should know."""

    id: str
    did: str
    name: str
    mesh: str
    operator: str
    roles: list[str]
    version: str
    home: str | None
    pid: int | None
    uptime_us: int
    addresses: list[str]
    incarnation: int
    store: str
    links: int
    members: int
    removals: int
    is_removed: bool  # or its certificate is void
    health: HealthView
    breaker: str
    breaker_reason: str | None
    tasks: dict[str, int]  # by state, those this device is steward of
    leases_held: int
    runs_active: int
    engine_profile: str
    sandbox: dict[str, object]
    storage: dict[str, object]
    counters: dict[str, int]
    warnings: list[str]


class Candidate(Struct, frozen=True, kw_only=True):
    """A device that does not provide everything asked for, and what it lacks."""

    id: str
    name: str
    missing: list[str]


class Found(Struct, frozen=True, kw_only=True, tag_field="answer", tag="found"):
    """Devices that provide all capabilities, and who said so: local or dht."""

    capabilities: list[str]
    source: str
    peers: list[PeerView]
    closest: list[Candidate]


class Invited(Struct, frozen=True, kw_only=True, tag_field="answer", tag="invited"):
    """The token of an invitation, and what to type on the new device."""

    token: str
    command: str
    roles: list[str]
    uses: int
    ttl_us: int
    addresses: list[str]


class PardonView(Struct, frozen=True, kw_only=True, tag_field="answer", tag="pardoned"):
    """A convicted device that may work again."""

    id: str
    name: str
    convictions_count: int


class RemovalView(Struct, frozen=True, kw_only=True, tag_field="answer", tag="removal"):
    """A device that is out of the mesh, or would be: what follows, and for how long."""

    id: str
    name: str
    is_done: bool  # false: it was a plan
    is_admin: bool
    is_final: bool  # false: only the recovery key puts it out for good
    is_by_recovery_key: bool
    certificates_kept: list[str]  # names of the devices that keep what it issued
    certificates_void: list[str]  # names of those that need a new invitation
    removals_kept: int
    removals_void: int
    removals: int  # that this device holds now, of any device


class RekeyView(Struct, frozen=True, kw_only=True, tag_field="answer", tag="rekey"):
    """The network key was rolled: which it is now, and how long the one before is accepted."""

    generation: int
    accepted_for_us: int


class Accepted(Struct, frozen=True, kw_only=True, tag_field="answer", tag="accepted"):
    """The batch is durable at its stewards: the ids of its tasks, in order."""

    batch: str
    tasks: list[str]
    durability: str
    durability_reason: str | None
    stewards: list[str]


class TaskView(Struct, frozen=True, kw_only=True, tag_field="answer", tag="task"):
    """A task as this device knows it. `reason` says why it is not running or how it ended."""

    id: str
    batch: str
    index: int
    state: str
    reason: str | None
    hint: str | None
    is_decided: bool
    outcome: str | None  # result, cancelled, failed
    status: str | None  # of the program: exited, trapped, out_of_fuel, ...
    exit_code: int | None
    detail: str | None
    executor: str | None
    executor_name: str | None
    attempts: int
    module: str
    durability: str
    output_digest: str | None
    fuel_used: int | None
    run_us: int | None
    submitted_wall_us: int | None
    decided_wall_us: int | None


class TaskList(Struct, frozen=True, kw_only=True, tag_field="answer", tag="tasks"):
    """Tasks, newest batch first, in order within a batch."""

    tasks: list[TaskView]
    is_truncated: bool


class DeviceReason(Struct, frozen=True, kw_only=True):
    """Where a device stands with a task: the rule, what it says of the device, what changes it."""

    id: str
    name: str
    is_self: bool
    place: str  # has_it, asked, first, outranked, excluded
    rule: str | None  # null for who has it, is asked, or would be first
    detail: str | None
    change: str | None
    share: float | None  # of tasks like this one that it would get, where one is waiting


class StewardReason(Struct, frozen=True, kw_only=True):
    """A device that keeps a task, and whether it can be reached."""

    id: str
    name: str
    state: str  # self, linked, not_linked, dead, left, unknown
    is_leading: bool


class PlanView(Struct, frozen=True, kw_only=True, tag_field="answer", tag="plan"):
    """Where tasks would go, and why each other device would not get them."""

    tasks_count: int
    strategy: str
    device: str | None  # null: no device is eligible now
    device_name: str | None
    reason: str
    stewards: list[str]  # names of those that would be asked to keep the tasks, too
    devices: list[DeviceReason]


class WhyView(Struct, frozen=True, kw_only=True, tag_field="answer", tag="why"):
    """Why a task is where it is, as the device `told_by` knows it."""

    task: TaskView
    told_by: str
    told_by_name: str
    is_current: bool  # whether that device gives its leases, or knows its outcome
    reason: str
    hint: str | None
    stewards: list[StewardReason]
    devices: list[DeviceReason]


class TaskEventView(Struct, frozen=True, kw_only=True):
    """Something that happened to a task, as the device it happened on tells."""

    wall_us: int | None  # of that device's clock
    device: str
    device_name: str
    kind: str  # a state of the task at its steward; or kept, lease_held, ran, ... (docs/cli.md)
    peer: str | None  # who else had to do with it
    peer_name: str | None
    detail: str | None


class SilentDevice(Struct, frozen=True, kw_only=True):
    """A device that may know more of a task and was not heard."""

    id: str
    name: str
    state: str  # linked, not_linked, dead, left, unknown


class HistoryView(Struct, frozen=True, kw_only=True, tag_field="answer", tag="history"):
    """A task's life from all devices that told, by their clocks; `silent` did not."""

    task: str
    events: list[TaskEventView]
    silent: list[SilentDevice]


class ResultView(Struct, frozen=True, kw_only=True, tag_field="answer", tag="result"):
    """Where a task's output is; the shell opens it with the key in `box` and sends the bytes."""

    task: TaskView
    index: int
    output: Content
    log: Content | None
    box: bytes


class ReceiptView(Struct, frozen=True, kw_only=True, tag_field="answer", tag="receipt"):
    """A receipt, as the bytes of the file that `meshctl verify` reads."""

    task: str
    receipt: bytes
    box: bytes | None = None  # the shell adds the digest key from it


class RefusalCode(enum.StrEnum):
    """Why a command was not carried out, by what the person can do."""

    BAD_REQUEST = "bad_request"  # mend the command
    NOT_FOUND = "not_found"
    AMBIGUOUS = "ambiguous"
    NOBODY_ELIGIBLE = "nobody_eligible"
    REFUSED = "refused"  # limits, roles, policy
    NOT_YET = "not_yet"  # wait for it
    STORAGE_FULL = "storage_full"
    STOPPING = "stopping"
    INTERNAL = "internal"


class Refused(Struct, frozen=True, kw_only=True, tag_field="answer", tag="refused"):
    """A command was not carried out: what is wrong, and what to do."""

    code: RefusalCode
    message: str
    hint: str | None = None
    closest: list[Candidate] = []


Answer: TypeAlias = (
    PeerView
    | PeerList
    | StatusView
    | Found
    | Invited
    | PardonView
    | RemovalView
    | RekeyView
    | Accepted
    | TaskView
    | TaskList
    | PlanView
    | WhyView
    | HistoryView
    | ResultView
    | ReceiptView
    | Refused
)

JoinAnswer: TypeAlias = JoinGranted | JoinRefused
