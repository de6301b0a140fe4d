"""Taking in batches: what is refused, the contract, and the oldest that make room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scheduler.batch import BATCH_ROW, DECISION_ROW, Batch, BatchRow, inline_bytes_of
from scheduler.ledger import UNDECIDED_INLINE_BYTES_MAX, UNDECIDED_TASKS_MAX
from scheduler.outcomes import Outcomes
from scheduler.placement import Placements, is_permanent
from scheduler.selection import Candidate
from scheduler.stewardship import Stewardship
from scheduler.waiting import WaitingBatches
from wire.answers import Accepted, RefusalCode, Refused
from wire.answers import Candidate as CandidateView
from wire.commands import Submit
from wire.effects import Answer, Effect, Offer, Persist, Release, Row, SetTimer
from wire.errors import CannotUnseal
from wire.ids import BatchId, peer_text
from wire.membership import Role
from wire.signed import sign
from wire.tasks import Contract, Durability, KeyFor, task_id_of, tasks_root_of
from wire.tasks import Steward as NamedSteward

CLOSEST_MAX = 5
# The row of a batch holds all its inputs that are not blobs; the store takes 16 MiB.
BATCH_INLINE_BYTES_MAX = 8 << 20


@dataclass(frozen=True, slots=True)
class BatchDurable:
    """Timer of no delay: the batch is durable, so it is accepted."""

    batch: BatchId
    request: int


@dataclass(slots=True, kw_only=True)
class Submissions:
    """Makes batches of what is submitted here."""

    office: Stewardship
    waiting: WaitingBatches
    placements: Placements
    outcomes: Outcomes
    candidates: Callable[[], list[Candidate]]

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
                message="this device may not keep tasks, and this version keeps a task on the "
                "device that submits it",
                hint="an admin can invite it again with --role submitter --role steward",
            )
        if submit.durability is Durability.MESH:
            return Refused(
                code=RefusalCode.REFUSED,
                message="durability mesh needs three devices that keep tasks for each other; "
                "this version keeps a task on the submitting device alone",
                hint="submit with --durability local, or leave it out",
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
        contract, candidates = self._contract(submit, nonce=bytes(16)), self.candidates()
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

    def on_submit(self, request: int, submit: Submit) -> list[Effect]:
        """Sign the contract; the batch is accepted when it is durable."""
        nonce = self.placements.sampler.rng.randbytes(16)
        contract = sign(self._contract(submit, nonce=nonce), self.office.signer)
        batch = Batch(
            contract=contract, submitted_wall_us=self.office.wall_us(), tasks=submit.tasks
        )
        self.office.ledger.add(batch)
        row = BatchRow(
            contract=contract, tasks=submit.tasks, submitted_wall_us=batch.submitted_wall_us
        )
        durable = SetTimer(BatchDurable(batch.batch, request), 0)
        return [
            *self._retire(),
            *offered_blobs(batch),
            Persist((Row(BATCH_ROW, batch.batch, row),), (durable,)),
        ]

    def on_batch_durable(self, durable: BatchDurable, *, now_us: int) -> list[Effect]:
        """Accepted: from here the tasks survive a restart."""
        batch = self.office.ledger.batches[durable.batch]
        batch.is_durable = True
        self.waiting.put(batch)
        contract = batch.contract.body
        accepted = Accepted(
            batch=batch.text,
            tasks=[str(task_id_of(batch.contract, index)) for index in range(contract.tasks_count)],
            durability=str(contract.durability),
            durability_reason="this device alone keeps the task",
            stewards=[peer_text(steward.peer) for steward in contract.stewards],
        )
        return [
            Answer(durable.request, accepted),
            self.outcomes.deadline(batch),
            *self.waiting.review_in(0, now_us=now_us),
        ]

    def _retire(self) -> list[Effect]:
        return [
            effect for batch in self.office.ledger.retire() for effect in forgotten_batch(batch)
        ]

    def _contract(self, submit: Submit, *, nonce: bytes) -> Contract:
        office = self.office
        return Contract(
            mesh=office.mesh,
            nonce=nonce,
            module=submit.module,
            limits=submit.limits,
            requirements=submit.requirements,
            node_type=submit.node_type,
            strategy=submit.strategy,
            priority=submit.priority,
            retries_max=submit.retries_max,
            engine_profiles=(office.engine_profile,),
            deadline_us=submit.deadline_us,
            durability=Durability.LOCAL,
            stewards=(NamedSteward(office.own, office.store),),
            keys=(KeyFor(office.own, submit.key),),
            tasks_count=len(submit.tasks),
            tasks_root=tasks_root_of(submit.tasks),
        )


def offered_blobs(batch: Batch) -> list[Effect]:
    """Return the effects that keep a batch's module and inputs here for its executors."""
    blobs = [batch.contract.body.module]
    blobs += [task.input.blob for task in batch.tasks or () if task.input.blob is not None]
    return [Offer(blob, batch.batch) for blob in blobs]


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


def forgotten_batch(batch: Batch) -> list[Effect]:
    """Forget what the disk keeps of a batch."""
    keys = {task.decided.row for task in batch.progress if task.decided is not None}
    rows = [Row(DECISION_ROW, key, None) for key in sorted(keys)]
    return [Persist((Row(BATCH_ROW, batch.batch, None), *rows)), Release(batch.batch)]
