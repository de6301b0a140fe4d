"""A task on the wire: its contract, lease, result, votes and receipt (docs/protocol/tasks.md).

What is signed is the batch: one contract, one root over its tasks, one set of stewards. An executor
signs one root over the results of a tick. A steward's vote names outcomes by index.
"""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar

import msgspec
from blake3 import blake3
from msgspec import Meta, Struct

from wire.blobs import BlobRef
from wire.content import Content
from wire.errors import MalformedFrame
from wire.execution import ExecutionStatus
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
    steward_short,
)
from wire.limits import Limits
from wire.membership import Chain, Genesis, Secret
from wire.merkle import (
    PROOF_LENGTH_MAX,
    inclusion_proof,
    inclusion_proofs,
    merkle_root,
    proves_inclusion,
)
from wire.records import PROFILES_MAX
from wire.signed import Signed, encode_body
from wire.strict import decode_strictly
from wire.text import CapabilityKey, Name

LEASE_TASKS_MAX = 64
REQUIREMENTS_MAX = 16
READERS_MAX = 16
REPLICAS_MAX = 7
MOVES_MAX = 3
# The submitter, the executors, the first stewards, and those who came with moves.
CHAINS_MAX = 1 + REPLICAS_MAX + STEWARDS_MAX + MOVES_MAX * (STEWARDS_MAX // 2)
TASK_BYTES_MAX = 64 * 1024
RESULT_BYTES_MAX = 128 * 1024
US_PER_DAY = 86_400_000_000

_CONTRACT_CONTEXT = "meshd 2026 contract"
_RESULT_CONTEXT = "meshd 2026 result"
_STEWARDS_CONTEXT = "meshd 2026 stewards"

Duration = Annotated[int, Meta(ge=0, le=31 * US_PER_DAY)]  # microseconds
Index = Annotated[int, Meta(ge=0, lt=BATCH_TASKS_MAX)]
Proof = Annotated[tuple[Digest, ...], Meta(max_length=PROOF_LENGTH_MAX)]
SealedKey = Annotated[bytes, Meta(min_length=80, max_length=80)]  # 32 bytes in a sealed box


class Strategy(enum.StrEnum):
    """How to choose among the devices that accepted an offer."""

    WEIGHTED = "weighted"
    ROUND_ROBIN = "round-robin"
    LEAST_LOADED = "least-loaded"
    LATENCY_AWARE = "latency-aware"


class Durability(enum.StrEnum):
    """Who keeps a task: several stewards, or the submitting device alone."""

    MESH = "mesh"
    LOCAL = "local"


class Steward(Struct, frozen=True, array_like=True):
    """A device that keeps a batch's outcomes, in the store it had when it was named.

    The same device with another store has forgotten its votes, so it is not this steward.
    """

    peer: PeerId
    store: StoreId


class KeyFor(Struct, frozen=True, array_like=True):
    """The batch key, sealed to one recipient."""

    recipient: PeerId
    box: SealedKey


class Epoch(Struct, frozen=True, array_like=True, order=True):
    """A ballot of the outcome register: (move, round, rank of the proposing steward)."""

    move: Annotated[int, Meta(ge=0, le=1 << 31)]
    round: Annotated[int, Meta(ge=0, le=1 << 31)]
    rank: Annotated[int, Meta(ge=0, lt=STEWARDS_MAX)]


class Contract(Struct, frozen=True, kw_only=True):
    """What a submitter wants run, and on which terms. Signed by the submitter."""

    DOMAIN: ClassVar[bytes] = b"meshd/contract/1"

    mesh: MeshId
    nonce: Secret
    module: BlobRef
    limits: Limits
    requirements: Annotated[tuple[CapabilityKey, ...], Meta(max_length=REQUIREMENTS_MAX)] = ()
    node_type: Name | None = None
    strategy: Strategy = Strategy.WEIGHTED
    priority: Annotated[int, Meta(ge=0, le=2)] = 1
    replicas: Annotated[int, Meta(ge=1, le=REPLICAS_MAX)] = 1
    quorum: Annotated[int, Meta(ge=1, le=REPLICAS_MAX)] = 1
    retries_max: Annotated[int, Meta(ge=0, le=100)] = 8
    engine_profiles: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=PROFILES_MAX)]
    deadline_us: Duration
    durability: Durability
    stewards: Annotated[tuple[Steward, ...], Meta(min_length=1, max_length=STEWARDS_MAX)]
    keys: Annotated[tuple[KeyFor, ...], Meta(min_length=1, max_length=STEWARDS_MAX + READERS_MAX)]
    tasks_count: Annotated[int, Meta(ge=1, le=BATCH_TASKS_MAX)]
    tasks_root: Digest
    preferences: Annotated[tuple[CapabilityKey, ...], Meta(max_length=REQUIREMENTS_MAX)] = ()
    resubmits: BatchId | None = None  # whose stewards are gone: it may have other outcomes

    def __post_init__(self) -> None:
        """Refuse terms that contradict each other: msgspec makes it a decoding error."""
        if self.quorum > self.replicas:
            raise ValueError(f"a quorum of {self.quorum} among {self.replicas} replicas")
        count = len(self.stewards)
        if len({steward.peer for steward in self.stewards}) != count:
            raise ValueError("a device is named as steward twice")
        # An even number tolerates no more losses than the odd one below it: never two.
        if count % 2 == 0 or (count == 1) != (self.durability is Durability.LOCAL):
            raise ValueError(f"{count} stewards and durability {self.durability}")
        if len({key.recipient for key in self.keys}) != len(self.keys):
            raise ValueError("the batch key is sealed to a device twice")


class Task(Struct, frozen=True, kw_only=True):
    """One task of a batch: what differs from its siblings. `input` is a sealed Invocation."""

    index: Index
    input: Content


class ProvenTask(Struct, frozen=True, kw_only=True):
    """A task as it was received, and its proof under the contract's `tasks_root`."""

    received: Annotated[bytes, Meta(max_length=TASK_BYTES_MAX)]
    proof: Proof


class Lease(Struct, frozen=True, kw_only=True):
    """A steward lets an executor work on tasks of a batch for a while. It only saves work."""

    DOMAIN: ClassVar[bytes] = b"meshd/lease/1"

    batch: BatchId
    indices: Annotated[tuple[Index, ...], Meta(min_length=1, max_length=LEASE_TASKS_MAX)]
    executor: PeerId
    store: StoreId  # of the steward who signs
    epoch: Epoch
    attempt: Annotated[int, Meta(ge=1, le=1 << 31)]
    duration_us: Duration  # not a deadline: peers share no clock
    key: SealedKey

    def __post_init__(self) -> None:
        """Refuse a task named twice. Raises ValueError."""
        if len(set(self.indices)) != len(self.indices):
            raise ValueError("a lease names a task twice")


class Result(Struct, frozen=True, kw_only=True):
    """What came out of one task. Signed with its siblings of a tick, by a ResultRoot."""

    batch: BatchId
    index: Index
    executor: PeerId
    epoch: Epoch
    attempt: Annotated[int, Meta(ge=1, le=1 << 31)]
    engine_profile: Name
    status: ExecutionStatus
    exit_code: Annotated[int, Meta(ge=0, le=(1 << 32) - 1)] = 0
    output_digest: Digest  # of the standard output, keyed (wire.content.output_digest)
    output: Content
    log: Content | None = None  # the end of the standard error
    detail: Annotated[str, Meta(max_length=512)] = ""
    fuel_used: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0
    wall_us: Duration = 0


class ResultRoot(Struct, frozen=True, kw_only=True):
    """An executor's signature over all results of one tick."""

    DOMAIN: ClassVar[bytes] = b"meshd/results/1"

    count: Annotated[int, Meta(ge=1, le=1 << 16)]
    root: Digest


class ProvenResult(Struct, frozen=True, kw_only=True):
    """A result as it was received, and its proof under the executor's signed root."""

    received: Annotated[bytes, Meta(max_length=RESULT_BYTES_MAX)]
    position: Annotated[int, Meta(ge=0, lt=1 << 16)]
    proof: Proof
    root: Signed[ResultRoot]


class LeasedResult(Struct, frozen=True, kw_only=True):
    """A result with the lease that it was made under."""

    lease: Signed[Lease]
    result: ProvenResult


class OutcomeKind(enum.StrEnum):
    """How a task ended; or that other stewards decide it (`moved`), which ends nothing."""

    RESULT = "result"
    CANCELLED = "cancelled"
    FAILED = "failed"
    MOVED = "moved"


class Outcome(Struct, frozen=True, kw_only=True):
    """The value of a task's register: written once."""

    kind: OutcomeKind
    # Of the bytes of the chosen Result, or of the stewards that decide from now on.
    result: Digest | None = None
    reason: Annotated[str, Meta(max_length=256)] = ""

    def __post_init__(self) -> None:
        """Refuse a result without a digest, and a digest without a result. Raises ValueError."""
        names_something = self.kind in (OutcomeKind.RESULT, OutcomeKind.MOVED)
        if names_something == (self.result is None):
            raise ValueError(f"outcome {self.kind} with result {self.result!r}")


class Vote(Struct, frozen=True, kw_only=True):
    """A steward's votes for outcomes of a batch in one epoch: at most one value an index."""

    DOMAIN: ClassVar[bytes] = b"meshd/vote/1"

    batch: BatchId
    store: StoreId  # of the steward who signs
    epoch: Epoch
    outcomes: Annotated[dict[Index, Outcome], Meta(min_length=1, max_length=BATCH_TASKS_MAX)]


class Move(Struct, frozen=True, kw_only=True):
    """Who keeps a batch from now on, and the votes of a majority of those who kept it before."""

    stewards: Annotated[tuple[Steward, ...], Meta(min_length=3, max_length=STEWARDS_MAX)]
    votes: Annotated[tuple[Signed[Vote], ...], Meta(min_length=2, max_length=STEWARDS_MAX)]


Moves = Annotated[tuple[Move, ...], Meta(max_length=MOVES_MAX)]


class Receipt(Struct, frozen=True, kw_only=True):
    """All that anyone needs to check one task's outcome without a network."""

    version: Annotated[int, Meta(ge=1, le=1)] = 1
    genesis: Signed[Genesis]
    contract: Signed[Contract]
    task: ProvenTask
    lease: Signed[Lease] | None = None  # None unless the outcome is a result
    result: ProvenResult | None = None
    votes: Annotated[tuple[Signed[Vote], ...], Meta(min_length=1, max_length=STEWARDS_MAX)]
    chains: Annotated[tuple[Chain, ...], Meta(min_length=1, max_length=CHAINS_MAX)]
    digest_key: Annotated[bytes, Meta(min_length=32, max_length=32)] | None = None
    # Equal results of other executors, which a quorum needs or a spot check brought.
    agreeing: Annotated[tuple[LeasedResult, ...], Meta(max_length=REPLICAS_MAX - 1)] = ()
    moves: Moves = ()  # before the votes, in order


def batch_id_of(contract: Signed[Contract]) -> BatchId:
    """Return the id of the batch that `contract` describes."""
    digest = blake3(contract.received, derive_key_context=_CONTRACT_CONTEXT).digest()
    return BatchId(digest[:BATCH_ID_BYTES])


def task_id_of(contract: Signed[Contract], index: int) -> TaskId:
    """Return the id of task `index` of a batch."""
    shorts = tuple(steward_short(steward.peer) for steward in contract.body.stewards)
    return TaskId(batch=batch_id_of(contract), index=index, stewards=shorts)


def result_digest(received: bytes) -> Digest:
    """Return the digest by which votes name a result."""
    return Digest(blake3(received, derive_key_context=_RESULT_CONTEXT).digest())


def stewards_digest(stewards: tuple[Steward, ...]) -> Digest:
    """Return the digest by which votes name the stewards that a batch moves to."""
    named = msgspec.msgpack.encode(stewards)
    return Digest(blake3(named, derive_key_context=_STEWARDS_CONTEXT).digest())


def tasks_root_of(tasks: tuple[Task, ...]) -> Digest:
    """Return the root over the tasks of a batch."""
    return merkle_root([encode_body(task) for task in tasks])


def prove_task(tasks: tuple[Task, ...], index: int) -> ProvenTask:
    """Return one task with its proof."""
    leaves = [encode_body(task) for task in tasks]
    return ProvenTask(received=leaves[index], proof=inclusion_proof(leaves, index))


def prove_tasks(tasks: tuple[Task, ...]) -> tuple[ProvenTask, ...]:
    """Return all tasks of a batch with their proofs."""
    leaves = [encode_body(task) for task in tasks]
    return tuple(
        ProvenTask(received=leaf, proof=proof)
        for leaf, proof in zip(leaves, inclusion_proofs(leaves), strict=True)
    )


def open_task(proven: ProvenTask, contract: Contract) -> Task:
    """Return the task if it is one of the contract's. Raises MalformedFrame."""
    task = decode_strictly(_task, proven.received, "task")
    is_proven = proves_inclusion(
        proven.received,
        index=task.index,
        count=contract.tasks_count,
        proof=proven.proof,
        root=contract.tasks_root,
    )
    if not is_proven:
        raise MalformedFrame(f"task {task.index} is not of this contract")
    return task


def open_result(proven: ProvenResult) -> Result:
    """Return the result if its executor signed it. Raises MalformedFrame."""
    result = decode_strictly(_result, proven.received, "result")
    root = proven.root
    is_proven = root.signer == result.executor and proves_inclusion(
        proven.received,
        index=proven.position,
        count=root.body.count,
        proof=proven.proof,
        root=root.body.root,
    )
    if not is_proven:
        raise MalformedFrame("the result is not under its executor's signature")
    return result


_task = msgspec.msgpack.Decoder(Task)
_result = msgspec.msgpack.Decoder(Result)
