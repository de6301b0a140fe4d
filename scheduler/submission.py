"""Taking in batches: what is refused, the contract, and the oldest that make room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec import convert

from scheduler.batch import BATCH_ROW, Batch, BatchRow, inline_bytes_of
from scheduler.keeping import kept_batch, offered_blobs, retired
from scheduler.ledger import UNDECIDED_INLINE_BYTES_MAX, UNDECIDED_TASKS_MAX
from scheduler.outcomes import Outcomes
from scheduler.paxos import Proposer
from scheduler.placement import Placements, is_permanent
from scheduler.replication import Replication
from scheduler.selection import Candidate
from scheduler.stewardship import Stewardship
from scheduler.waiting import WaitingBatches
from wire.answers import Accepted, RefusalCode, Refused
from wire.answers import Candidate as CandidateView
from wire.blobs import blob_ref
from wire.commands import Plan, Submit, Terms
from wire.content import Content
from wire.effects import Answer, Effect, Persist, Row, SetTimer
from wire.errors import CannotUnseal
from wire.ids import BatchId, PeerId, peer_from_text, peer_text
from wire.membership import Role
from wire.messages import BatchKept
from wire.signed import sign
from wire.tasks import Contract, Durability, KeyFor, Task, task_id_of, tasks_root_of
from wire.tasks import Steward as NamedSteward

CLOSEST_MAX = 5
# The row of a batch holds all its inputs that are not blobs; the store takes 16 MiB.
BATCH_INLINE_BYTES_MAX = 8 << 20
UNCONFIRMED_US = 10_000_000


@dataclass(frozen=True, slots=True)
class BatchDurable:
    """Timer of no delay: the batch is durable, so it is accepted."""

    batch: BatchId
    request: int


@dataclass(frozen=True, slots=True)
class UnconfirmedDue:
    """Timer: tell whoever waits that no majority keeps the batch yet."""

    batch: BatchId


@dataclass(slots=True, kw_only=True)
class Submissions:
    """Makes batches of what is submitted here."""

    office: Stewardship
    waiting: WaitingBatches
    placements: Placements
    outcomes: Outcomes
    replication: Replication
    candidates: Callable[[], list[Candidate]]
    _unconfirmed: dict[BatchId, int] = field(default_factory=dict)  # who waits for a majority

    def refusal(self, submit: Submit) -> Refused | None:
        """Return why a submission is not taken at all."""
        office, ledger = self.office, self.office.ledger
        inline_bytes = sum(map(inline_bytes_of, submit.tasks))
        undecided_count = ledger.undecided_tasks_count
        if office.is_stopping:
            return Refused(code=RefusalCode.STOPPING, message="the daemon is stopping")
        if not office.may(office.own, Role.SUBMITTER):
            return Refused(
                code=RefusalCode.REFUSED,
                message="this device may not submit tasks",
                hint="an admin can invite it again with --role submitter",
            )
        if not office.may(office.own, Role.STEWARD):
            # It would name itself, and every executor would refuse its offers for ever.
            return Refused(
                code=RefusalCode.REFUSED,
                message="this device may not keep tasks, and the device that submits a task is "
                "one of those that keep it",
                hint="an admin can invite it again with --role submitter --role steward",
            )
        if inline_bytes > BATCH_INLINE_BYTES_MAX:
            return Refused(
                code=RefusalCode.REFUSED,
                message=f"the inputs of the batch are {inline_bytes} bytes in messages; "
                f"{BATCH_INLINE_BYTES_MAX} is the most",
                hint="submit fewer tasks at once, or larger inputs as blobs",
            )
        try:
            office.signer.unseal(submit.key)
        except CannotUnseal:
            return Refused(
                code=RefusalCode.BAD_REQUEST,
                message="the batch key is not sealed to this device",
                hint="seal it to the id that `meshctl status` shows",
            )
        if undecided_count + len(submit.tasks) > UNDECIDED_TASKS_MAX:
            return Refused(
                code=RefusalCode.REFUSED,
                message=f"{undecided_count} tasks are not finished; "
                f"{UNDECIDED_TASKS_MAX} is the most",
                hint="wait for some to finish, or cancel some",
            )
        if ledger.inline_bytes + inline_bytes > UNDECIDED_INLINE_BYTES_MAX:
            return Refused(
                code=RefusalCode.REFUSED,
                message=f"tasks that are not finished keep {ledger.inline_bytes} bytes of input "
                f"in memory; {UNDECIDED_INLINE_BYTES_MAX} is the most",
                hint="wait for some to finish, or cancel some",
            )
        return None

    def nobody_eligible(self, submit: Submit) -> Refused | None:
        """Return who came closest, if no known device could ever run this."""
        contract, candidates = self._contract(submit, (), nonce=bytes(16)), self.candidates()
        eligible, excluded = self.placements.exclusions(
            BatchId(bytes(20)), contract, candidates, now_us=0
        )
        if eligible or not is_permanent(reason for reason, _ in excluded.values()):
            return None
        closest = sorted(
            (one for one in candidates if one.is_executor),
            key=lambda one: (len(_lacking(contract, one)), one.name),
        )[:CLOSEST_MAX]
        views = [
            CandidateView(id=peer_text(one.peer), name=one.name, missing=_lacking(contract, one))
            for one in closest
        ]
        return Refused(
            code=RefusalCode.NOBODY_ELIGIBLE,
            message=f"no device provides {_wanted(contract)}",
            hint=_closest_hint(views),
            closest=views,
        )

    def contract_of_plan(self, plan: Plan) -> Contract:
        """Return what the contract of tasks on these terms would say, but for the tasks."""
        return self._contract(sketch(plan), (), nonce=bytes(16))

    def found(
        self, request: int, submit: Submit, co_stewards: tuple[NamedSteward, ...]
    ) -> list[Effect]:
        """Sign the contract; a batch that is kept here alone is accepted when it is durable."""
        office = self.office
        nonce = self.placements.sampler.rng.randbytes(16)
        contract = sign(self._contract(submit, co_stewards, nonce=nonce), office.signer)
        row = BatchRow(
            contract=contract,
            tasks=submit.tasks,
            submitted_wall_us=office.wall_us(),
            epoch=office.first_epoch,
            chains=office.chains_of((office.own, *(one.peer for one in co_stewards))),
        )
        batch = kept_batch(row, office)
        batch.proposer = Proposer(
            epoch=row.epoch, majority_count=batch.majority_count, is_first=True
        )
        for task in batch.progress:
            task.reason = "waiting for a device"
        office.ledger.add(batch)
        durable = SetTimer(BatchDurable(batch.batch, request), 0)
        return [
            *retired(office),
            *offered_blobs(batch),
            Persist((Row(BATCH_ROW, batch.batch, row),), (durable,)),
        ]

    def on_batch_durable(self, durable: BatchDurable, *, now_us: int) -> list[Effect]:
        """It is on this disk: others may have to keep it too before it is accepted."""
        batch = self.office.ledger.batches[durable.batch]
        batch.is_durable = True
        if batch.majority_count == 1:
            return self._accept(batch, durable.request, now_us=now_us)
        self._unconfirmed[batch.batch] = durable.request
        late = SetTimer(UnconfirmedDue(batch.batch), UNCONFIRMED_US)
        return [*self.replication.give(batch), late]

    def on_kept(self, peer: PeerId, kept: BatchKept, *, now_us: int) -> list[Effect]:
        """Another steward has it on disk."""
        batch = self.replication.on_kept(peer, kept)
        if batch is None:
            return []
        return self._accept(batch, self._unconfirmed.pop(batch.batch, None), now_us=now_us)

    def on_unconfirmed(self, due: UnconfirmedDue) -> list[Effect]:
        """No majority so far: the contract is final, so say so, and go on giving it."""
        batch, request = self.office.batch(due.batch), self._unconfirmed.pop(due.batch, None)
        if batch is None or request is None:
            return []
        first = task_id_of(batch.contract, 0)
        refused = Refused(
            code=RefusalCode.NOT_YET,
            message=f"unconfirmed {first}: no majority of its stewards has it on disk yet",
            hint="it will be done when one has; `meshctl wait` with this id waits for it, and "
            "submitting again makes another task",
        )
        return [Answer(request, refused)]

    def _accept(self, batch: Batch, request: int | None, *, now_us: int) -> list[Effect]:
        """Accepted: from here the tasks survive a restart, and as many losses as can be."""
        self.waiting.put(batch)
        contract = batch.contract.body
        alone = "this device alone keeps the task"
        several = f"{len(contract.stewards)} devices keep the task, {batch.majority_count} decide"
        accepted = Accepted(
            batch=batch.text,
            tasks=[str(task_id_of(batch.contract, index)) for index in range(contract.tasks_count)],
            durability=str(contract.durability),
            durability_reason=alone if batch.majority_count == 1 else several,
            stewards=[peer_text(steward.peer) for steward in contract.stewards],
        )
        return [
            *([] if request is None else [Answer(request, accepted)]),
            self.outcomes.deadline(batch),
            *self.waiting.review_in(0, now_us=now_us),
        ]

    def _contract(
        self, submit: Submit, co_stewards: tuple[NamedSteward, ...], *, nonce: bytes
    ) -> Contract:
        office = self.office
        keys = [KeyFor(office.own, submit.key)]
        if co_stewards:
            key = office.signer.unseal(submit.key)
            keys += [KeyFor(one.peer, office.signer.seal(key, one.peer)) for one in co_stewards]
        readers = {peer_from_text(reader) for reader in submit.readers}
        readers -= {known.recipient for known in keys}
        if readers:
            key = office.signer.unseal(submit.key)
            keys += [KeyFor(reader, office.signer.seal(key, reader)) for reader in sorted(readers)]
        return Contract(
            mesh=office.mesh,
            nonce=nonce,
            module=submit.module,
            limits=submit.limits,
            requirements=submit.requirements,
            preferences=submit.preferences,
            node_type=submit.node_type,
            strategy=submit.strategy,
            priority=submit.priority,
            retries_max=submit.retries_max,
            replicas=submit.replicas,
            quorum=submit.quorum_wanted,
            engine_profiles=(office.engine_profile,),
            deadline_us=submit.deadline_us,
            durability=Durability.MESH if co_stewards else Durability.LOCAL,
            stewards=(office.named, *co_stewards),
            keys=tuple(keys),
            tasks_count=len(submit.tasks),
            tasks_root=tasks_root_of(submit.tasks),
            resubmits=submit.resubmits,
        )


def sketch(plan: Plan) -> Submit:
    """Return a submission on the terms of a plan: of one task, and of a module of no content."""
    nothing = Content(inline=b"")
    terms = {name: getattr(plan, name) for name in Terms.__struct_fields__}
    made = {"module": blob_ref(b""), "tasks": (Task(index=0, input=nothing),), "key": bytes(80)}
    return convert({**terms, **made}, Submit)


def _wanted(contract: Contract) -> str:
    node_type = () if contract.node_type is None else (f"type:{contract.node_type}",)
    wanted = (*contract.requirements, *node_type)
    return " ".join(wanted or (f"profile:{profile}" for profile in contract.engine_profiles))


def _lacking(contract: Contract, candidate: Candidate) -> list[str]:
    lacking = [key for key in contract.requirements if key not in candidate.capabilities]
    if contract.node_type not in (None, candidate.node_type):
        lacking.append(f"type:{contract.node_type}")
    if set(contract.engine_profiles).isdisjoint(candidate.engine_profiles):
        lacking += [f"profile:{profile}" for profile in contract.engine_profiles]
    return lacking


def _closest_hint(closest: list[CandidateView]) -> str:
    if not closest:
        return "no device of the mesh may execute tasks"
    best = closest[0]
    return f"closest is {best.name}, which lacks {' '.join(best.missing) or 'nothing but time'}"
