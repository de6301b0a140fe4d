"""Contracts, leases, results and votes from real keys, whole or with one part changed.

`finished_task` makes all of them at once; each has a maker of its own. A `changes` argument
replaces fields of the struct before it is signed: what a liar with a good key would sign.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace
from support.meshes import Device, SmallMesh, small_mesh

from wire.blobs import blob_ref
from wire.content import (
    Content,
    Invocation,
    digest_key,
    input_purpose,
    output_digest,
    output_purpose,
    seal_content,
)
from wire.execution import ExecutionStatus
from wire.ids import TaskId
from wire.limits import Limits
from wire.membership import Chain
from wire.merkle import inclusion_proofs, merkle_root
from wire.signed import Signed, Signer, encode_body, sign
from wire.tasks import (
    Contract,
    Durability,
    Epoch,
    KeyFor,
    Lease,
    Outcome,
    OutcomeKind,
    ProvenResult,
    ProvenTask,
    Receipt,
    Result,
    ResultRoot,
    Steward,
    Task,
    Vote,
    batch_id_of,
    prove_tasks,
    result_digest,
    task_id_of,
    tasks_root_of,
)

BATCH_KEY = b"k" * 32
ENGINE_PROFILE = "wasmtime-50.0.1/1"
FIRST_EPOCH = Epoch(0, 1, 0)
NO_CHANGES: Mapping[str, object] = {}


def tasks_of(count: int, *, batch_key: bytes = BATCH_KEY) -> tuple[Task, ...]:
    """Return `count` tasks, each with its number as only argument."""
    return tuple(
        Task(index=index, input=Content(inline=_sealed_input(index, batch_key)))
        for index in range(count)
    )


def contract_of(
    mesh: SmallMesh,
    tasks: tuple[Task, ...],
    *,
    submitter: Device | None = None,
    stewards: Sequence[Device] | None = None,
    batch_key: bytes = BATCH_KEY,
    changes: Mapping[str, object] = NO_CHANGES,
) -> Signed[Contract]:
    """Return the signed contract of a batch; by default the founder's, who is its one steward."""
    submitter = submitter or mesh.devices[0]
    stewards = stewards or (submitter,)
    contract = Contract(
        mesh=mesh.id,
        nonce=b"n" * 16,
        module=blob_ref(b"\0asm\1\0\0\0"),
        limits=Limits(),
        engine_profiles=(ENGINE_PROFILE,),
        deadline_us=60_000_000,
        durability=Durability.LOCAL if len(stewards) == 1 else Durability.MESH,
        stewards=tuple(Steward(steward.peer, steward.store) for steward in stewards),
        keys=tuple(
            KeyFor(peer, submitter.keys.seal(batch_key, peer))
            for peer in dict.fromkeys([submitter.peer, *(steward.peer for steward in stewards)])
        ),
        tasks_count=len(tasks),
        tasks_root=tasks_root_of(tasks),
    )
    return sign(replace(contract, **changes), submitter.keys)


def lease_of(
    contract: Signed[Contract],
    indices: Iterable[int],
    *,
    steward: Device,
    executor: Device,
    epoch: Epoch = FIRST_EPOCH,
    attempt: int = 1,
    batch_key: bytes = BATCH_KEY,
    changes: Mapping[str, object] = NO_CHANGES,
) -> Signed[Lease]:
    """Return a lease of ten seconds."""
    lease = Lease(
        batch=batch_id_of(contract),
        indices=tuple(indices),
        executor=executor.peer,
        store=steward.store,
        epoch=epoch,
        attempt=attempt,
        duration_us=10_000_000,
        key=steward.keys.seal(batch_key, executor.peer),
    )
    return sign(replace(lease, **changes), steward.keys)


def result_of(
    lease: Lease,
    index: int,
    output: bytes,
    *,
    batch_key: bytes = BATCH_KEY,
    changes: Mapping[str, object] = NO_CHANGES,
) -> Result:
    """Return what the holder of `lease` says that task `index` put out; it exited with 0."""
    result = Result(
        batch=lease.batch,
        index=index,
        executor=lease.executor,
        epoch=lease.epoch,
        attempt=lease.attempt,
        engine_profile=ENGINE_PROFILE,
        status=ExecutionStatus.EXITED,
        output_digest=output_digest(output, key=digest_key(batch_key)),
        output=Content(
            inline=seal_content(output, batch_key=batch_key, purpose=output_purpose(index))
        ),
        fuel_used=1_000,
        wall_us=2_000,
    )
    return replace(result, **changes)


def proven_results(results: Sequence[Result], signer: Signer) -> tuple[ProvenResult, ...]:
    """Return results under one signed root, as an executor sends those of a tick."""
    leaves = [encode_body(result) for result in results]
    root = sign(ResultRoot(count=len(leaves), root=merkle_root(leaves)), signer)
    return tuple(
        ProvenResult(received=leaf, position=position, proof=proof, root=root)
        for position, (leaf, proof) in enumerate(zip(leaves, inclusion_proofs(leaves), strict=True))
    )


def outcome_of(result: ProvenResult) -> Outcome:
    """Return the outcome that chooses `result`."""
    return Outcome(kind=OutcomeKind.RESULT, result=result_digest(result.received))


def vote_of(
    contract: Signed[Contract],
    outcomes: dict[int, Outcome],
    *,
    steward: Device,
    epoch: Epoch = FIRST_EPOCH,
    changes: Mapping[str, object] = NO_CHANGES,
) -> Signed[Vote]:
    """Return a steward's vote."""
    vote = Vote(batch=batch_id_of(contract), store=steward.store, epoch=epoch, outcomes=outcomes)
    return sign(replace(vote, **changes), steward.keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedTask:
    """All that a receipt is made of, for task `index` of a batch."""

    mesh: SmallMesh
    contract: Signed[Contract]
    task: ProvenTask
    index: int
    lease: Signed[Lease]
    result: ProvenResult
    votes: tuple[Signed[Vote], ...]
    output: bytes
    chains: tuple[Chain, ...]

    @property
    def task_id(self) -> TaskId:
        """The task's id."""
        return task_id_of(self.contract, self.index)

    def receipt(self, **changes: object) -> Receipt:
        """Return the receipt, unchecked, with the fields in `changes` replaced."""
        receipt = Receipt(
            genesis=self.mesh.genesis,
            contract=self.contract,
            task=self.task,
            lease=self.lease,
            result=self.result,
            votes=self.votes,
            chains=self.chains,
            digest_key=digest_key(BATCH_KEY),
        )
        return replace(receipt, **changes)


def finished_task(
    mesh: SmallMesh | None = None,
    *,
    submitter: int = 0,
    stewards_count: int = 3,
    tasks_count: int = 3,
    index: int = 1,
) -> FinishedTask:
    """Return a task that device 3 ran and a majority of devices 0, 1, 2 (or device 0) decided.

    `submitter` is the number of the device that asked for it.
    """
    mesh = mesh or small_mesh(4)
    stewards, executor = mesh.devices[:stewards_count], mesh.devices[3]
    tasks = tasks_of(tasks_count)
    contract = contract_of(mesh, tasks, submitter=mesh.devices[submitter], stewards=stewards)
    lease = lease_of(contract, range(tasks_count), steward=stewards[0], executor=executor)
    outputs = [f"output of task {number}\n".encode() for number in range(tasks_count)]
    results = proven_results(
        [result_of(lease.body, number, output) for number, output in enumerate(outputs)],
        executor.keys,
    )
    outcomes = {number: outcome_of(result) for number, result in enumerate(results)}
    voters = stewards[: len(stewards) // 2 + 1]
    return FinishedTask(
        mesh=mesh,
        contract=contract,
        task=prove_tasks(tasks)[index],
        index=index,
        lease=lease,
        result=results[index],
        votes=tuple(vote_of(contract, outcomes, steward=voter) for voter in voters),
        output=outputs[index],
        chains=mesh.chains,
    )


def _sealed_input(index: int, batch_key: bytes) -> bytes:
    plaintext = encode_body(Invocation(args=(str(index),)))
    return seal_content(plaintext, batch_key=batch_key, purpose=input_purpose(index))
