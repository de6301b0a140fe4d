"""The messages of `/meshd/link/1`, the one long-lived stream between two devices.

All small messages share the link, in order. `MESSAGES` gives each its tag; tags are append-only.
"""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from wire.convictions import CONVICTIONS_MAX, Conviction, ConvictionRef, Pardon
from wire.ids import (
    BATCH_ID_BYTES,
    BATCH_TASKS_MAX,
    STEWARDS_MAX,
    BatchId,
    Digest,
    MeshId,
    PeerId,
    StoreId,
    TaskId,
)
from wire.membership import (
    PAPER_ID_BYTES,
    Chain,
    Genesis,
    NetworkKey,
    NetworkKeyRoll,
    PaperId,
    Removal,
)
from wire.records import Counter, ProtocolRange, Record
from wire.signed import SIGNATURE_BYTES, Signed
from wire.tasks import (
    CHAINS_MAX,
    LEASE_TASKS_MAX,
    MOVES_MAX,
    REPLICAS_MAX,
    Contract,
    Epoch,
    Index,
    Lease,
    LeasedResult,
    Moves,
    Outcome,
    ProvenResult,
    ProvenTask,
    Receipt,
    SealedKey,
    Steward,
    Task,
    Vote,
)

BUCKET_COUNT = 64
HASH_BYTES = 8
VERSIONS_MAX = 512
RECORDS_MAX = 64
RESULTS_MAX = LEASE_TASKS_MAX
AGREEING_MAX = LEASE_TASKS_MAX * (REPLICAS_MAX - 1)
PROOF_REMOVALS_MAX = 1
REMOVAL_IDS_MAX = 2_048
REMOVALS_GIVEN_MAX = 256
LEADING_MAX = 1_024
ANSWER_PART_BYTES_MAX = 256 * 1024
LINK_PROTOCOL = ProtocolRange(1, 1)

StateHashBytes = Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
Token = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Reason = Annotated[str, Meta(max_length=256)]
Signature = Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


class Traffic(enum.IntEnum):
    """The class of a message: what is sent first, and what is dropped first."""

    CONTROL = 0
    TASK = 1
    BULK = 2


class Hello(Struct, frozen=True, kw_only=True):
    """The first frame each way: papers and protocol range. Nothing else is answered before it."""

    TRAFFIC: ClassVar[Traffic] = Traffic.CONTROL

    mesh: MeshId
    genesis: Signed[Genesis]
    chain: Chain
    protocol: ProtocolRange
    incarnation: Counter


class RefusalReason(enum.StrEnum):
    """Why a link was refused at the handshake."""

    OTHER_MESH = "other_mesh"
    NOT_A_MEMBER = "not_a_member"
    REMOVED = "removed"
    NO_COMMON_VERSION = "no_common_version"
    TOO_MANY_LINKS = "too_many_links"
    MALFORMED = "malformed"


class LinkRefused(Struct, frozen=True, kw_only=True):
    """The link ends here, and why. `removals` prove it, where it is for one and they are short."""

    TRAFFIC: ClassVar[Traffic] = Traffic.CONTROL

    reason: RefusalReason
    detail: Reason = ""
    removals: Annotated[tuple[Signed[Removal], ...], Meta(max_length=PROOF_REMOVALS_MAX)] = ()


class Heartbeat(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """I am here. With a token: answer it, so that the sender learns the round trip."""

    TRAFFIC: ClassVar[Traffic] = Traffic.CONTROL

    token: Token | None = None


class HeartbeatAcknowledged(Struct, frozen=True, kw_only=True):
    """The answer to a heartbeat with this token."""

    TRAFFIC: ClassVar[Traffic] = Traffic.CONTROL

    token: Token


class StateSummary(Struct, frozen=True, kw_only=True):
    """One hash over all records a device holds: equal means nothing to exchange."""

    TRAFFIC: ClassVar[Traffic] = Traffic.CONTROL

    state: StateHashBytes


class BucketSummary(Struct, frozen=True, kw_only=True):
    """The hash of each bucket of records, 64 of them."""

    TRAFFIC: ClassVar[Traffic] = Traffic.CONTROL

    buckets: Annotated[
        bytes,
        Meta(min_length=BUCKET_COUNT * HASH_BYTES, max_length=BUCKET_COUNT * HASH_BYTES),
    ]


class RecordVersion(Struct, frozen=True, array_like=True):
    """The version of one record, without its body."""

    owner: PeerId
    kind: Annotated[str, Meta(min_length=1, max_length=32)]
    incarnation: Counter
    counter: Counter


class BucketVersions(Struct, frozen=True, kw_only=True):
    """The versions in the buckets that differ."""

    TRAFFIC: ClassVar[Traffic] = Traffic.CONTROL

    buckets: Annotated[
        tuple[Annotated[int, Meta(ge=0, lt=BUCKET_COUNT)], ...], Meta(max_length=BUCKET_COUNT)
    ]
    versions: Annotated[tuple[RecordVersion, ...], Meta(max_length=VERSIONS_MAX)]


class RecordsWanted(Struct, frozen=True, kw_only=True):
    """Please send these records, at these versions or later."""

    TRAFFIC: ClassVar[Traffic] = Traffic.CONTROL

    versions: Annotated[tuple[RecordVersion, ...], Meta(max_length=RECORDS_MAX)]


class RecordsGiven(Struct, frozen=True, kw_only=True):
    """Records with their owners' signatures, and the owners' chains where presence is among them.

    Also what is published on GossipSub topics.
    """

    TRAFFIC: ClassVar[Traffic] = Traffic.BULK

    records: Annotated[tuple[Signed[Record], ...], Meta(max_length=RECORDS_MAX)]
    chains: Annotated[tuple[Chain, ...], Meta(max_length=RECORDS_MAX)] = ()


class RemovalsSummary(Struct, frozen=True, kw_only=True):
    """One hash over all removals a device holds: equal means nothing to exchange."""

    TRAFFIC: ClassVar[Traffic] = Traffic.CONTROL

    removals: StateHashBytes


class RemovalsHeld(Struct, frozen=True, kw_only=True):
    """A page of the ids of the removals held, ascending: all that are greater than `after`.

    `after` is empty on the first page; the last page says so.
    """

    TRAFFIC: ClassVar[Traffic] = Traffic.CONTROL

    after: Annotated[bytes, Meta(max_length=PAPER_ID_BYTES)]
    ids: Annotated[tuple[PaperId, ...], Meta(max_length=REMOVAL_IDS_MAX)]
    is_last: bool


class RemovalsWanted(Struct, frozen=True, kw_only=True):
    """Please give these removals, and then list what you hold `after` this id, if there is one."""

    TRAFFIC: ClassVar[Traffic] = Traffic.CONTROL

    ids: Annotated[tuple[PaperId, ...], Meta(max_length=REMOVALS_GIVEN_MAX)]
    after: PaperId | None = None


class RemovalsGiven(Struct, frozen=True, kw_only=True):
    """Removals with their signers' chains: news, or what was missing."""

    TRAFFIC: ClassVar[Traffic] = Traffic.CONTROL

    removals: Annotated[
        tuple[Signed[Removal], ...], Meta(min_length=1, max_length=REMOVALS_GIVEN_MAX)
    ]


class ConvictionsHeld(Struct, frozen=True, kw_only=True):
    """Which convictions and pardons a device holds: please give what is missing.

    Whoever lacks some of them answers with its own, so that it is given those.
    """

    TRAFFIC: ClassVar[Traffic] = Traffic.CONTROL

    convictions: Annotated[tuple[ConvictionRef, ...], Meta(max_length=CONVICTIONS_MAX)] = ()
    pardons: Annotated[tuple[Signature, ...], Meta(max_length=CONVICTIONS_MAX)] = ()
    is_answer: bool = False


class ConvictionGiven(Struct, frozen=True, kw_only=True):
    """A device signed a wrong result: here is the proof."""

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    conviction: Conviction


class PardonGiven(Struct, frozen=True, kw_only=True):
    """An admin lets a convicted device work again."""

    TRAFFIC: ClassVar[Traffic] = Traffic.CONTROL

    pardon: Signed[Pardon]


class NetworkKeyHeld(Struct, frozen=True, kw_only=True):
    """Which network key a device has, and a hash over the removals it holds.

    Whoever has a later one and the same removals gives it; generation 0 is the mesh's first.
    """

    TRAFFIC: ClassVar[Traffic] = Traffic.CONTROL

    generation: Counter
    digest: Digest
    removals: StateHashBytes


class NetworkKeyGiven(Struct, frozen=True, kw_only=True):
    """The network key, to a member that holds all removals that its giver holds."""

    TRAFFIC: ClassVar[Traffic] = Traffic.CONTROL

    roll: Signed[NetworkKeyRoll]
    key: NetworkKey

    def __repr__(self) -> str:
        """Name the generation only: the key is secret."""
        return f"NetworkKeyGiven({self.roll.body.generation})"


class Offer(Struct, frozen=True, kw_only=True):
    """A steward asks whether a device would take `tasks_count` tasks of a batch now.

    `chain` is the submitter's, where that is another device: nobody may remember it any more.
    `moves` say who its stewards are, if they are not those that the contract names.
    """

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    offer: Token
    contract: Signed[Contract]
    tasks_count: Annotated[int, Meta(ge=1, le=LEASE_TASKS_MAX)]
    chain: Chain | None = None
    moves: Moves = ()


class OfferAccepted(Struct, frozen=True, kw_only=True):
    """The device reserves room for two seconds; its telemetry says how well it would do."""

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    offer: Token
    tasks_count: Annotated[int, Meta(ge=1, le=LEASE_TASKS_MAX)]
    wait_us: Annotated[int, Meta(ge=0, le=1 << 40)]
    telemetry: Signed[Record]


class OfferRefusal(enum.StrEnum):
    """Why a device does not take tasks."""

    NOT_EXECUTOR = "not_executor"
    BREAKER_OPEN = "breaker_open"
    LEASES_FULL = "leases_full"
    SLOTS_FULL = "slots_full"
    OVER_DEVICE_LIMIT = "over_device_limit"
    ENGINE_PROFILE = "engine_profile"
    CAPABILITY_MISSING = "capability_missing"
    NOT_A_SUBMITTER = "not_a_submitter"
    STOPPING = "stopping"
    UNKNOWN_OFFER = "unknown_offer"
    BAD_CONTRACT = "bad_contract"


class OfferRejected(Struct, frozen=True, kw_only=True):
    """Not now, or never: the reason, and fresh telemetry so that the steward need not guess."""

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    offer: Token
    reason: OfferRefusal
    detail: Reason = ""
    telemetry: Signed[Record] | None = None


class OfferReleased(Struct, frozen=True, kw_only=True):
    """The steward took another device: the reservation ends."""

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    offer: Token


class LeaseGranted(Struct, frozen=True, kw_only=True):
    """The lease, and the tasks it covers with their proofs."""

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    offer: Token
    lease: Signed[Lease]
    contract: Signed[Contract]
    tasks: Annotated[tuple[ProvenTask, ...], Meta(min_length=1, max_length=LEASE_TASKS_MAX)]
    moves: Moves = ()


class LeaseRef(Struct, frozen=True, array_like=True):
    """Names one lease of a batch; within an epoch no attempt number is given twice."""

    batch: BatchId
    epoch: Epoch
    attempt: Annotated[int, Meta(ge=1, le=1 << 31)]


class LeaseProgress(Struct, frozen=True, kw_only=True):
    """The executor works on: renews its leases. The first one acknowledges the lease."""

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    leases: Annotated[tuple[LeaseRef, ...], Meta(min_length=1, max_length=64)]


class LeaseEnded(Struct, frozen=True, kw_only=True):
    """The lease is over, said by either side: run out, cancelled, given back."""

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    lease: LeaseRef
    indices: Annotated[tuple[Index, ...], Meta(max_length=LEASE_TASKS_MAX)]
    reason: Reason = ""


class ResultsOffered(Struct, frozen=True, kw_only=True):
    """Results with their proofs, sent again until they are settled.

    `lease` is the lease they were made under, so that a steward that forgot it can check it.
    """

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    results: Annotated[tuple[ProvenResult, ...], Meta(min_length=1, max_length=RESULTS_MAX)]
    lease: Signed[Lease]


class Settled(Struct, frozen=True, kw_only=True):
    """How tasks ended: the executor may forget them. Unknown tasks are settled as such."""

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    batch: BatchId
    outcomes: Annotated[dict[Index, Outcome | None], Meta(max_length=BATCH_TASKS_MAX)]


class StewardAsked(Struct, frozen=True, kw_only=True):
    """A submitting device asks whether another one would keep a batch with it."""

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    token: Token
    tasks_count: Annotated[int, Meta(ge=1, le=BATCH_TASKS_MAX)]
    input_bytes: Annotated[int, Meta(ge=0, le=1 << 50)]


class StewardAgreed(Struct, frozen=True, kw_only=True):
    """It would, in the store it has now."""

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    token: Token
    store: StoreId


class StewardDeclined(Struct, frozen=True, kw_only=True):
    """It would not, and why."""

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    token: Token
    reason: Reason


class BatchGiven(Struct, frozen=True, kw_only=True):
    """A part of a batch for a steward that its contract names; answered when all is on disk.

    The parts come in order; `first` is the index of the first task of this one. `chains` are those
    of the submitter and the stewards, who may be forgotten when a receipt is wanted. Who is to
    become a steward gets the batch key in `joining`, sealed to it by one that is.
    """

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    contract: Signed[Contract]
    epoch: Epoch  # in which it was made
    submitted_wall_us: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    first: Index
    tasks: Annotated[tuple[Task, ...], Meta(min_length=1, max_length=BATCH_TASKS_MAX)]
    chains: Annotated[tuple[Chain, ...], Meta(max_length=CHAINS_MAX)] = ()
    joining: SealedKey | None = None
    moves: Moves = ()


class BatchKept(Struct, frozen=True, kw_only=True):
    """Contract, tasks, module and inputs are on this steward's disk, and these outcomes."""

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    batch: BatchId
    decided: Annotated[tuple[Index, ...], Meta(max_length=BATCH_TASKS_MAX)] = ()


class BatchUnknown(Struct, frozen=True, kw_only=True):
    """This steward does not have the batch: please give it."""

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    batch: BatchId


class BatchDeclined(Struct, frozen=True, kw_only=True):
    """The device is not, or cannot be, a steward of the batch."""

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    batch: BatchId
    is_final: bool  # it has another store than the contract names
    reason: Reason


class Prepare(Struct, frozen=True, kw_only=True):
    """A steward asks for the promise to vote in no epoch before this (Paxos, phase 1a).

    `decided` are the tasks whose outcomes it knows.
    """

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    batch: BatchId
    epoch: Epoch
    decided: Annotated[tuple[Index, ...], Meta(max_length=BATCH_TASKS_MAX)] = ()


class Promised(Struct, frozen=True, kw_only=True):
    """The promise, durable (phase 1b), and how many `proposed` messages with it tell the votes."""

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    batch: BatchId
    epoch: Epoch
    proposals_count: Annotated[int, Meta(ge=0, le=BATCH_TASKS_MAX)]


class NotPromised(Struct, frozen=True, kw_only=True):
    """A higher epoch was promised to somebody else."""

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    batch: BatchId
    promised: Epoch


class Proposed(Struct, frozen=True, kw_only=True):
    """Outcomes of a batch with what they are about, and the votes for them so far.

    With the vote of its epoch's steward alone it asks for another vote (phase 2a); with those of a
    majority it is what was decided. `promise` is set where a vote is told with a promise, and
    `stewards` where it is that these decide from now on.
    """

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    votes: Annotated[tuple[Signed[Vote], ...], Meta(min_length=1, max_length=STEWARDS_MAX)]
    lease: Signed[Lease] | None = None
    results: Annotated[tuple[ProvenResult, ...], Meta(max_length=RESULTS_MAX)] = ()
    chains: Annotated[tuple[Chain, ...], Meta(max_length=CHAINS_MAX)] = ()
    promise: Epoch | None = None
    agreeing: Annotated[tuple[LeasedResult, ...], Meta(max_length=AGREEING_MAX)] = ()
    stewards: Annotated[tuple[Steward, ...], Meta(max_length=STEWARDS_MAX)] = ()


class Voted(Struct, frozen=True, kw_only=True):
    """A steward's own vote, durable (phase 2b)."""

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    vote: Signed[Vote]


class Leading(Struct, frozen=True, kw_only=True):
    """A page of the undecided batches that this steward leads with the receiver, by id, ascending.

    All that are greater than `after`, up to the last one named; the last page says so.
    """

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    after: Annotated[bytes, Meta(max_length=BATCH_ID_BYTES)]
    batches: Annotated[tuple[BatchId, ...], Meta(max_length=LEADING_MAX)]
    is_last: bool


class OutcomesWanted(Struct, frozen=True, kw_only=True):
    """Please tell how tasks of a batch were decided: all but these are open here.

    And to whom it moved, after as many moves as are known here.
    """

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    batch: BatchId
    decided: Annotated[tuple[Index, ...], Meta(max_length=BATCH_TASKS_MAX)]
    moves_count: Annotated[int, Meta(ge=0, le=MOVES_MAX)] = 0


class ReceiptGiven(Struct, frozen=True, kw_only=True):
    """The receipt of a task, to the executor that earned it."""

    TRAFFIC: ClassVar[Traffic] = Traffic.BULK

    receipt: Receipt


class Question(enum.StrEnum):
    """What a device asks another one about a task."""

    TASK = "task"
    WHY = "why"
    RESULT = "result"
    RECEIPT = "receipt"
    HISTORY = "history"


class TaskEnquiry(Struct, frozen=True, kw_only=True):
    """Please tell about a task that you may keep: somebody asks here. Any member may."""

    TRAFFIC: ClassVar[Traffic] = Traffic.TASK

    token: Token
    task: TaskId
    question: Question
    with_digest_key: bool = False


class TaskAnswer(Struct, frozen=True, kw_only=True):
    """A part of the answer, which is encoded as the control socket has it, in order."""

    TRAFFIC: ClassVar[Traffic] = Traffic.BULK

    token: Token
    offset: Annotated[int, Meta(ge=0, le=1 << 24)]
    is_last: bool
    body: Annotated[bytes, Meta(max_length=ANSWER_PART_BYTES_MAX)]


StewardMessage = (  # what stewards of one batch say to each other
    StewardAsked
    | StewardAgreed
    | StewardDeclined
    | BatchGiven
    | BatchKept
    | BatchUnknown
    | BatchDeclined
    | Prepare
    | Promised
    | NotPromised
    | Proposed
    | Voted
    | Leading
    | OutcomesWanted
)

Message = (
    Hello
    | LinkRefused
    | Heartbeat
    | HeartbeatAcknowledged
    | StateSummary
    | BucketSummary
    | BucketVersions
    | RecordsWanted
    | RecordsGiven
    | RemovalsSummary
    | RemovalsHeld
    | RemovalsWanted
    | RemovalsGiven
    | NetworkKeyHeld
    | NetworkKeyGiven
    | ConvictionsHeld
    | ConvictionGiven
    | PardonGiven
    | Offer
    | OfferAccepted
    | OfferRejected
    | OfferReleased
    | LeaseGranted
    | LeaseProgress
    | LeaseEnded
    | ResultsOffered
    | Settled
    | ReceiptGiven
    | TaskEnquiry
    | TaskAnswer
    | StewardMessage
)

MESSAGES: dict[str, type[Message]] = {
    "hello": Hello,
    "link_refused": LinkRefused,
    "heartbeat": Heartbeat,
    "heartbeat_acknowledged": HeartbeatAcknowledged,
    "state_summary": StateSummary,
    "bucket_summary": BucketSummary,
    "bucket_versions": BucketVersions,
    "records_wanted": RecordsWanted,
    "records_given": RecordsGiven,
    "removals_summary": RemovalsSummary,
    "removals_held": RemovalsHeld,
    "removals_wanted": RemovalsWanted,
    "removals_given": RemovalsGiven,
    "network_key_held": NetworkKeyHeld,
    "network_key_given": NetworkKeyGiven,
    "offer": Offer,
    "offer_accepted": OfferAccepted,
    "offer_rejected": OfferRejected,
    "offer_released": OfferReleased,
    "lease_granted": LeaseGranted,
    "lease_progress": LeaseProgress,
    "lease_ended": LeaseEnded,
    "results_offered": ResultsOffered,
    "settled": Settled,
    "receipt_given": ReceiptGiven,
    "steward_asked": StewardAsked,
    "steward_agreed": StewardAgreed,
    "steward_declined": StewardDeclined,
    "batch_given": BatchGiven,
    "batch_kept": BatchKept,
    "batch_unknown": BatchUnknown,
    "batch_declined": BatchDeclined,
    "prepare": Prepare,
    "promised": Promised,
    "not_promised": NotPromised,
    "proposed": Proposed,
    "voted": Voted,
    "leading": Leading,
    "outcomes_wanted": OutcomesWanted,
    "task_enquiry": TaskEnquiry,
    "task_answer": TaskAnswer,
    "convictions_held": ConvictionsHeld,
    "conviction_given": ConvictionGiven,
    "pardon_given": PardonGiven,
}
