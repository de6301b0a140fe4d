"""The mutants, each the breach of one rule, with the smallest composition that shows it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from unittest import mock

import msgspec
from msgspec.structs import replace
from support.planted import (
    Mutation,
    executes_twice,
    forgets,
    keeps_its_store_id,
    never_writes,
    planted,
)

from mutants.hunt import Mutant
from p2p import directory
from p2p.liveness import Liveness
from p2p.observations import Observed
from p2p.redials import Redials
from scheduler import agreement, batch, results, verification
from scheduler.agreement import Ruling, Tally
from scheduler.batch import (
    BATCH_ROW,
    DECISION_ROW,
    PROMISE_ROW,
    Batch,
    BatchRow,
    DecisionRow,
    PromiseRow,
    TaskProgress,
)
from scheduler.held_leases import HeldLeases
from scheduler.leadership import Leadership
from scheduler.lease_history import LeaseRow
from scheduler.leases import LeaseBook
from scheduler.paxos import Acceptor, Proposer
from scheduler.proposals import Proposals, Then
from scheduler.register import DecisionDurable, Register
from scheduler.reputation import MEASUREMENT_ROW
from scheduler.steward import RoundRow, Steward
from scheduler.submission import BatchDurable, Submissions
from scheduler.succession import Succession
from simulations import contents
from simulations.budget import Budget
from simulations.device import HostSettings
from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.plan import SUBMITTER_ROLES, Expectations, Plan
from simulations.steps import (
    AnyStep,
    Cancel,
    Crash,
    Falsehood,
    Freeze,
    Heat,
    Lie,
    Split,
    Submit,
)
from telemetry import Breaker, Measured, Sample
from wire.effects import Effect, Persist, Row, Send, SetTimer
from wire.ids import PeerId
from wire.messages import Heartbeat, HeartbeatAcknowledged, Proposed
from wire.tasks import Durability, ProvenResult, Result

SUBMITTER = 1
MESH = Durability.MESH
WORK_US = 1_500_000
SUBMIT_US = 3 * US_PER_S


def _plan(seed: int, *faults: AnyStep, **others: object) -> Plan:
    """Return three devices, one task and a batch of eight, and what goes wrong."""
    plan = Plan(
        name="mutants",
        seed=seed,
        roles={SUBMITTER: SUBMITTER_ROLES},
        steps=(
            Submit(at_us=SUBMIT_US, node=SUBMITTER, work_us=WORK_US),
            Submit(at_us=SUBMIT_US + seed * 7_919, node=SUBMITTER, count=8, work_us=WORK_US),
            *faults,
        ),
        expect=Expectations(decided_within_us=60 * US_PER_S, whole_within_us=90 * US_PER_S),
    )
    return replace(plan, **others)


# Changes of what a node wants.


def _has(effect: Persist, kind: str) -> bool:
    return any(row.kind == kind for row in effect.rows)


def _does_not_wait_for(kind: str) -> Mutation:
    def change(effect: Effect) -> Sequence[Effect]:
        if isinstance(effect, Persist) and _has(effect, kind):
            return [Persist(effect.rows), *effect.then]
        return [effect]

    return change


def _answers_answers(effect: Effect) -> Sequence[Effect]:
    """Answer each answer to a heartbeat with ten heartbeats: a storm."""
    if isinstance(effect, Send) and isinstance(effect.message, HeartbeatAcknowledged):
        token = effect.message.token
        return [effect, *(Send(effect.peer, Heartbeat(token=token)) for _ in range(10))]
    return [effect]


# Changes of the node itself.


def _instead(
    owner: object, name: str, value: object
) -> Callable[[], AbstractContextManager[object]]:
    return lambda: mock.patch.object(owner, name, value)


def _never_again(redials: Redials, peer: PeerId, *, now_us: int) -> bool:
    return peer not in redials.last_failure


def _always(value: object) -> Callable[..., object]:
    return lambda *_, **__: value


def _unproven_result(proven: ProvenResult) -> Result:
    return msgspec.msgpack.decode(proven.received, type=Result)


def _accepts_alone() -> AbstractContextManager[object]:
    """Take the word of this disk for that of a majority."""

    def on_batch_durable(
        submissions: Submissions, durable: BatchDurable, *, now_us: int
    ) -> list[Effect]:
        kept = submissions.office.ledger.batches[durable.batch]
        kept.is_durable = True
        return [
            *submissions.replication.give(kept),
            *submissions._accept(kept, durable.request, now_us=now_us),
        ]

    return mock.patch.object(Submissions, "on_batch_durable", on_batch_durable)


def _fetches_no_output() -> AbstractContextManager[object]:
    """Vote for a result on another steward's word alone."""

    def fetch(
        _: Proposals, __: object, kept: Batch, row: DecisionRow, *, taken: Then, lost: object = None
    ) -> list[Effect]:
        return taken(kept, row)

    return mock.patch.object(Proposals, "fetch", fetch)


@contextmanager
def _stays_in_its_epoch() -> Iterator[None]:
    """Restart in the epoch of before."""
    original = Steward.on_restarted

    def on_restarted(
        self: Steward,
        *,
        rounds: list[RoundRow],
        batches: list[BatchRow],
        promises: list[tuple[bytes, PromiseRow]],
        decisions: list[DecisionRow],
        leases: Sequence[tuple[bytes, LeaseRow]] = (),
    ) -> list[Effect]:
        before = [RoundRow(round=row.round - 1) for row in rounds]
        return original(
            self,
            rounds=before,
            batches=batches,
            promises=promises,
            decisions=decisions,
            leases=leases,
        )

    with mock.patch.object(Steward, "on_restarted", on_restarted):
        yield


@contextmanager
def _forgets_its_promise() -> Iterator[None]:
    """Vote for whatever is proposed, also in an epoch below the one that was promised."""
    original = Proposals.on_proposed

    def on_proposed(proposals: Proposals, peer: PeerId, message: Proposed) -> list[Effect]:
        vote = message.votes[0].body
        kept = proposals.office.batch(vote.batch)
        if kept is not None:
            kept.acceptor.promised = min(kept.acceptor.promised, vote.epoch)
        return original(proposals, peer, message)

    with mock.patch.object(Proposals, "on_proposed", on_proposed):
        yield


@contextmanager
def _moves_alone() -> Iterator[None]:
    """Act on a move that this device has voted for, and nobody else."""
    original = Succession._propose

    def propose(succession: Succession, kept: Batch) -> list[Effect]:
        effects = original(succession, kept)
        rows = [row.value for one in effects if isinstance(one, Persist) for row in one.rows]
        for row in rows:
            if isinstance(row, DecisionRow) and row.is_move:
                effects += succession.on_moved(row, now_us=succession._now_us)
        return effects

    with mock.patch.object(Succession, "_propose", propose):
        yield


def _feels_no_heat() -> AbstractContextManager[object]:
    """Work however hot a device is, one's own or another."""
    original = Breaker.on_readings

    def on_readings(
        breaker: Breaker, measured: Measured, claimed: Sample | None, *, now_us: int
    ) -> None:
        cool = None if claimed is None else replace(claimed, temperature_millicelsius=None)
        original(breaker, measured, cool, now_us=now_us)

    return mock.patch.object(Breaker, "on_readings", on_readings)


@contextmanager
def _believes_any_signature() -> Iterator[None]:
    """Take a result for its executor's, whoever signed it; those who check receipts do not."""
    with contextlib.ExitStack() as stack:
        for module in (batch, results, verification):
            stack.enter_context(mock.patch.object(module, "open_result", _unproven_result))
        yield


@contextmanager
def _votes_again() -> Iterator[None]:
    """Propose a second outcome while the first is on its way to the disk."""
    is_open = property(lambda task: task.decided is None)

    def write(register: Register, row: DecisionRow) -> list[Effect]:
        register._writing[row.key] = row
        durable = SetTimer(DecisionDurable(row.key), 0)
        return [Persist((Row(DECISION_ROW, row.key, row),), (durable,))]

    with (
        mock.patch.object(TaskProgress, "is_open", is_open),
        mock.patch.object(Register, "_write", write),
        mock.patch.object(Proposer, "propose", lambda _, wanted: wanted),
        mock.patch.object(Acceptor, "vote", _always(None)),
    ):
        yield


def _crash(disk: DiskFate) -> Crash:
    return Crash(
        at_us=0,
        who=SUBMITTER,
        disk=disk,
        when_working=True,
        restart_after_us=2 * US_PER_S,
    )


def _submitter_restarts(seed: int) -> Plan:
    return _plan(seed, _crash(DiskFate.KEEP))


def _submitter_loses_its_disk(seed: int) -> Plan:
    again = Submit(at_us=SUBMIT_US + 40 * US_PER_S, node=SUBMITTER, work_us=WORK_US)
    return _plan(seed, _crash(DiskFate.LOSE_ALL), again)


def _executor_gone(seed: int) -> Plan:
    """The executor is away for longer than anybody waits for a decision."""
    crash = Crash(at_us=0, who="executor", when_working=True, restart_after_us=None)
    return _plan(seed, crash)


def _split(seed: int) -> Plan:
    split = Split(at_us=SUBMIT_US, groups=((SUBMITTER,), (0, 2)), for_us=40 * US_PER_S)
    return _plan(seed, split)


def _submitter_burns(seed: int) -> Plan:
    """Three of five devices keep a batch, and one is gone for good soon after it was accepted."""
    burns = Crash(at_us=SUBMIT_US + US_PER_S, who=SUBMITTER, disk=DiskFate.LOSE_ALL)
    kept = Submit(at_us=SUBMIT_US, node=SUBMITTER, count=8, work_us=WORK_US, durability=MESH)
    return _plan(seed, node_count=5, roles={}, steps=(kept, burns))


def _steward_burns(seed: int) -> Plan:
    """A steward is gone for so long that it is replaced, while there is more than enough to do."""
    kept = Submit(at_us=SUBMIT_US, node=SUBMITTER, count=24, work_us=4 * WORK_US, durability=MESH)
    burns = Crash(at_us=SUBMIT_US + 7 * US_PER_S, who=SUBMITTER, disk=DiskFate.LOSE_ALL)
    host = HostSettings(steward_gone_us=6 * US_PER_S, workers_count=1)
    late = Expectations(decided_within_us=120 * US_PER_S, whole_within_us=90 * US_PER_S)
    return _plan(seed, node_count=6, roles={}, steps=(kept, burns), host=host, expect=late)


def _cut_off_and_back(seed: int) -> Plan:
    """A leader that was followed while it was cut off is back, with results of its own."""
    kept = Submit(at_us=SUBMIT_US, node=SUBMITTER, count=8, work_us=5 * WORK_US, durability=MESH)
    split = Split(at_us=SUBMIT_US + US_PER_S, groups=((SUBMITTER,),), for_us=25 * US_PER_S)
    return _plan(seed, node_count=5, roles={}, steps=(kept, split))


def _executor_burns(seed: int) -> Plan:
    """Outputs that are blobs, which the submitting device and then nobody else would have."""
    kept = Submit(
        at_us=SUBMIT_US,
        node=SUBMITTER,
        count=8,
        work_us=WORK_US,
        output_bytes=100_000,
        durability=MESH,
    )
    burns = (
        Crash(at_us=SUBMIT_US + 6 * US_PER_S, who=node, disk=DiskFate.LOSE_ALL)
        for node in (SUBMITTER, 0)
    )
    return _plan(seed, node_count=5, roles={}, steps=(kept, *burns))


def _kept_and_cut_off(seed: int) -> Plan:
    """The submitting device hears nobody while its batch is on the way to the others, and burns."""
    kept = Submit(at_us=SUBMIT_US, node=SUBMITTER, count=8, work_us=WORK_US, durability=MESH)
    split = Split(at_us=SUBMIT_US + 11_000, groups=((SUBMITTER,),), for_us=US_PER_S)
    burns = Crash(at_us=SUBMIT_US + 500_000, who=SUBMITTER, disk=DiskFate.LOSE_ALL)
    return _plan(seed, node_count=5, roles={}, steps=(kept, split, burns))


def _stalled(seed: int) -> Plan:
    return _plan(seed, Freeze(at_us=SUBMIT_US, who=2, for_us=5 * US_PER_S))


def _cancelled(seed: int) -> Plan:
    """Cancel while results are on their way to a slow disk."""
    cancels = (
        Cancel(at_us=SUBMIT_US + WORK_US + 60_000 * step, submission=1, index=step % 8)
        for step in range(24)
    )
    return _plan(seed, *cancels, host=HostSettings(sync_us=400_000, spot_checks=False))


def _observer_restarts(seed: int) -> Plan:
    """Give work to devices, tell of it, restart, and give work to them again."""
    crash = Crash(
        at_us=20 * US_PER_S + seed * 7_919,
        who=SUBMITTER,
        disk=DiskFate.KEEP,
        restart_after_us=2 * US_PER_S,
    )
    again = (
        Submit(at_us=at_s * US_PER_S, node=SUBMITTER, work_us=WORK_US) for at_s in (30, 45, 60)
    )
    return _plan(seed, crash, *again)


def _told_twice(seed: int) -> Plan:
    """Work before a device tells of it and after that, and somebody who hears it all at once."""
    later = 70 * US_PER_S
    again = (Submit(at_us=later + n * US_PER_S, node=SUBMITTER, count=8) for n in (0, 40))
    crash = Crash(at_us=later + 30 * US_PER_S, who=2, restart_after_us=2 * US_PER_S)
    return _plan(seed, *again, crash)


def _lied_to(how: Falsehood) -> Callable[[int], Plan]:
    """Let a device lie, with nobody to compare its results with."""
    alone = HostSettings(spot_checks=False)

    def plan(seed: int) -> Plan:
        return _plan(seed, Lie(at_us=0, node=0, how=how, for_us=30 * US_PER_S), host=alone)

    return plan


def _compared(how: Falsehood) -> Callable[[int], Plan]:
    """Let two devices do each task, one of which lies."""

    def plan(seed: int) -> Plan:
        submit = Submit(
            at_us=8 * US_PER_S, node=SUBMITTER, count=4, work_us=WORK_US, replicas=2, quorum=2
        )
        return _plan(seed, Lie(at_us=0, node=0, how=how, for_us=30 * US_PER_S), submit)

    return plan


def _hot(seed: int) -> Plan:
    """Submit again when both executors have read their thermometers."""
    heats = [
        Heat(at_us=0, node=node, celsius=95, over_us=0, for_us=40 * US_PER_S) for node in (0, 2)
    ]
    return _plan(seed, *heats, Submit(at_us=15 * US_PER_S, node=SUBMITTER, work_us=WORK_US))


def _narrow(seed: int) -> Plan:
    """Devices that may hold two leases, and many small batches."""
    many = (Submit(at_us=SUBMIT_US, node=SUBMITTER, work_us=WORK_US) for _ in range(12))
    return _plan(
        seed,
        *many,
        host=HostSettings(workers_count=8, leases_max=2),
        budget=Budget(leases_max=2),
    )


MUTANTS = (
    Mutant(
        name="accepts before it is durable",
        plan=_plan,
        blueprint=partial(planted, _does_not_wait_for(BATCH_ROW)),
        found_by=("S1",),
    ),
    Mutant(
        name="never writes what it accepts",
        plan=_plan,
        blueprint=partial(planted, never_writes(BATCH_ROW)),
        found_by=("S1",),
    ),
    Mutant(
        name="tells an outcome before its vote is durable",
        plan=_plan,
        blueprint=partial(planted, _does_not_wait_for(DECISION_ROW)),
        found_by=("S8",),
    ),
    Mutant(
        name="never writes its votes",
        plan=_plan,
        blueprint=partial(planted, never_writes(DECISION_ROW)),
        found_by=("S8",),
    ),
    Mutant(
        name="votes as a store whose disk it lost",
        plan=_submitter_loses_its_disk,
        blueprint=keeps_its_store_id,
        found_by=("S8",),
    ),
    Mutant(
        name="forgets accepted batches in a restart",
        plan=_submitter_restarts,
        blueprint=partial(forgets, BATCH_ROW),
        found_by=("S1", "L2", "not within 60 s: L2"),
    ),
    Mutant(
        name="leases in the epoch of before a restart",
        plan=_submitter_restarts,
        plant=_stays_in_its_epoch,
        found_by=("S8",),
    ),
    Mutant(
        name="votes twice on a task",
        plan=_cancelled,
        plant=_votes_again,
        found_by=("S8", "S2"),
    ),
    Mutant(
        name="takes results that another key signed",
        plan=_lied_to(Falsehood.FOREIGN_SIGNATURE),
        plant=_believes_any_signature,
        found_by=("S3",),
    ),
    Mutant(
        name="does not compare outputs with their signed digest",
        plan=_lied_to(Falsehood.WRONG_RESULT),
        plant=_instead(contents.Contents, "_wrong", _always(None)),
        found_by=("S3",),
    ),
    Mutant(
        name="starts a run twice",
        plan=_plan,
        blueprint=partial(planted, executes_twice),
        found_by=("S5",),
    ),
    Mutant(
        name="takes more leases than its cap",
        plan=_narrow,
        plant=_instead(HeldLeases, "__len__", _always(0)),
        found_by=("S5",),
    ),
    Mutant(
        name="works when it is too hot",
        plan=_hot,
        plant=_feels_no_heat,
        found_by=("S7",),
    ),
    Mutant(
        name="never lets a lease run out",
        plan=_executor_gone,
        plant=_instead(LeaseBook, "on_timer_due", _always((None, []))),
        found_by=("not within 60 s: L2",),
    ),
    Mutant(
        name="never dials again",
        plan=_split,
        plant=_instead(Redials, "is_due", _never_again),
        found_by=("not within 90 s: L1", "not within 60 s: L2"),
    ),
    Mutant(
        name="never takes an accusation back",
        plan=_stalled,
        plant=_instead(Liveness, "steady_us", _always(0)),
        found_by=("not within 90 s: L1",),
    ),
    Mutant(
        name="never takes over from a steward that is gone",
        plan=_submitter_burns,
        plant=_instead(Leadership, "prepare", _always([])),
        found_by=("not within 60 s: L2",),
    ),
    Mutant(
        name="promises what it does not write",
        plan=_submitter_burns,
        blueprint=partial(planted, never_writes(PROMISE_ROW)),
        found_by=("S8",),
    ),
    Mutant(
        name="votes in an epoch below its promise",
        plan=_cut_off_and_back,
        plant=_forgets_its_promise,
        found_by=("S8", "S2"),
    ),
    Mutant(
        name="moves to other stewards by its own vote alone",
        plan=_steward_burns,
        plant=_moves_alone,
        found_by=("S8", "S2", "S3", "S11"),
    ),
    Mutant(
        name="accepts for three stewards what it alone keeps",
        plan=_kept_and_cut_off,
        plant=_accepts_alone,
        found_by=("not within 60 s: L2", "S1"),
    ),
    Mutant(
        name="votes for outputs that it does not hold",
        plan=_executor_burns,
        plant=_fetches_no_output,
        found_by=("S1", "S3"),
    ),
    Mutant(
        name="decides on the first result of a quorum",
        plan=_compared(Falsehood.NO_RESULT),
        plant=_instead(Tally, "_ruling", _always(Ruling.AGREED)),
        found_by=("S4",),
    ),
    Mutant(
        name="holds different results for equal ones",
        plan=_compared(Falsehood.WRONG_RESULT),
        plant=_instead(agreement, "likeness", _always("alike")),
        found_by=("S4",),
    ),
    Mutant(
        name="forgets in a restart what it observed",
        plan=_observer_restarts,
        blueprint=partial(forgets, MEASUREMENT_ROW),
        found_by=("S10",),
    ),
    Mutant(
        name="believes observations that another key signed",
        plan=_lied_to(Falsehood.SLANDER),
        plant=_instead(directory, "is_own_word", _always(True)),
        found_by=("S10",),
    ),
    Mutant(
        name="keeps the first word of an observer",
        plan=_told_twice,
        plant=_instead(Observed, "joined", lambda first, _: first),
        found_by=("L3",),
    ),
    Mutant(
        name="answers answers",
        plan=_plan,
        blueprint=partial(planted, _answers_answers),
        found_by=("S11",),
    ),
)
