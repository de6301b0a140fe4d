"""A device that hands out tasks: the dispatch, the selection and the leases that ship."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from benchmarks.herd.executor import ENGINE_PROFILE
from scheduler.batch import Batch
from scheduler.dispatch import Dispatch, OfferUnanswered
from scheduler.leases import GrantedLeaseEnds, LeaseBook
from scheduler.leasing import Leasing
from scheduler.paxos import Proposer
from scheduler.placement import Placements
from scheduler.register import Register
from scheduler.reputation import Reputation
from scheduler.selection import Candidate, Sampler
from scheduler.spot_checks import LOTS_SECRET_BYTES, Lots
from scheduler.standing import Standings
from scheduler.stewardship import Stewardship
from scheduler.waiting import PlacementReview, WaitingBatches
from telemetry.measurement import Measurements
from wire.blobs import blob_ref
from wire.content import Content
from wire.effects import Effect
from wire.ids import BatchId, MeshId, PeerId, StoreId
from wire.limits import Limits
from wire.messages import LeaseProgress, OfferAccepted, OfferRejected
from wire.signed import Signer, sign
from wire.tasks import (
    Contract,
    Durability,
    KeyFor,
    Strategy,
    Task,
    tasks_root_of,
)

BATCH_KEY = bytes(32)
_MODULE = blob_ref(b"\0asm\1\0\0\0")
_STORE = StoreId(bytes(16))
_TASKS = (Task(index=0, input=Content(inline=bytes(64))),)
_ROOT = tasks_root_of(_TASKS)
_DEADLINE_US = 3_600_000_000


@dataclass(slots=True, kw_only=True)
class SubmitterSide:
    """What one device does about its own tasks, each a batch of its own."""

    signer: Signer
    mesh: MeshId
    rng: Random
    candidates: Callable[[], list[Candidate]]
    office: Stewardship = field(init=False)
    waiting: WaitingBatches = field(default_factory=WaitingBatches)
    placements: Placements = field(init=False)
    leasing: Leasing = field(init=False)
    dispatch: Dispatch = field(init=False)

    def __post_init__(self) -> None:
        """Make the cores."""
        self.office = Stewardship(
            signer=self.signer,
            mesh=self.mesh,
            store=_STORE,
            engine_profile=ENGINE_PROFILE,
            may=lambda *_: True,
            chain_of=lambda _: None,
            wall_us=lambda: 0,
            on_changed=lambda *_: [],
            round=1,
        )
        self.placements = Placements(sampler=Sampler(rng=self.rng))
        measurements = Measurements()
        standings = Standings(
            sample_of=lambda _: None,
            rng=self.rng,
            measurements=measurements,
            reputation=Reputation(
                own=self.signer.peer,
                measurements=measurements,
                observed_by=lambda _: None,
                members_count=lambda: 0,
            ),
        )
        self.leasing = Leasing(
            office=self.office,
            register=Register(office=self.office),
            waiting=self.waiting,
            standings=standings,
            leases=LeaseBook(),
        )
        self.dispatch = Dispatch(
            office=self.office,
            waiting=self.waiting,
            placements=self.placements,
            leasing=self.leasing,
            standings=standings,
            candidates=self.candidates,
            lots=lambda: Lots(bytes(LOTS_SECRET_BYTES)),  # nothing is compared here
            is_ready=True,
        )

    def submit(self, strategy: Strategy, *, now_us: int) -> tuple[BatchId, list[Effect]]:
        """Take in a batch of one task."""
        own = self.signer.peer
        contract = Contract(
            mesh=self.mesh,
            nonce=self.rng.randbytes(16),
            module=_MODULE,
            limits=Limits(),
            strategy=strategy,
            engine_profiles=(ENGINE_PROFILE,),
            deadline_us=_DEADLINE_US,
            durability=Durability.LOCAL,
            stewards=(self.office.named,),
            keys=(KeyFor(own, self.signer.seal(BATCH_KEY, own)),),
            tasks_count=1,
            tasks_root=_ROOT,
        )
        batch = Batch(
            contract=sign(contract, self.signer), submitted_wall_us=0, tasks=_TASKS, is_durable=True
        )
        batch.acceptor.promised = self.office.first_epoch
        batch.proposer = Proposer(epoch=self.office.first_epoch, majority_count=1, is_first=True)
        self.office.ledger.add(batch)
        self.waiting.put(batch)
        return batch.batch, self.waiting.review_in(0, now_us=now_us)

    def on_message(
        self,
        executor: PeerId,
        message: OfferAccepted | OfferRejected | LeaseProgress,
        *,
        now_us: int,
    ) -> list[Effect]:
        """An executor answers, or works on."""
        match message:
            case OfferAccepted():
                return self.dispatch.on_offer_accepted(executor, message, now_us=now_us)
            case OfferRejected():
                return self.dispatch.on_offer_rejected(executor, message, now_us=now_us)
            case LeaseProgress():
                return self.leasing.on_progress(executor, message, now_us=now_us)

    def on_timer(self, key: object, *, now_us: int) -> list[Effect] | None:
        """Return what to do about a timer of these cores; None if it is of none."""
        match key:
            case PlacementReview():
                return self.dispatch.on_review(now_us=now_us)
            case OfferUnanswered():
                return self.dispatch.on_offer_unanswered(key, now_us=now_us)
            case GrantedLeaseEnds():
                return self.leasing.on_run_out(key, now_us=now_us)
            case _:
                return None

    def on_result(self, executor: PeerId, batch_id: BatchId, *, now_us: int) -> list[Effect]:
        """Take a task for done: what is voted on and kept is none of this benchmark's."""
        batch = self.office.ledger.batches[batch_id]
        self.leasing.call_off(batch, (0,), now_us=now_us)  # nobody has to be told
        self.office.ledger.give_up(batch)
        self.placements.on_room(executor)
        self.placements.forget(batch_id)
        return self.waiting.review_in(0, now_us=now_us) if len(self.waiting) else []
