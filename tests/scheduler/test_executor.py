"""The executor by itself: what it admits, how long it works, and how it gets rid of results."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import pytest
from support.meshes import Device, small_mesh
from support.tasks import ENGINE_PROFILE, contract_of, lease_of, tasks_of

from scheduler.admission import RESERVATION_US, ExecutorSettings, ReservationEnds
from scheduler.executor import Executor
from scheduler.held_leases import HeldLeaseEnds, ProgressDue, lease_ref
from scheduler.own_breaker import OwnBreaker
from scheduler.results import (
    RESULT_ROW,
    RESULT_ROWS_MAX,
    ResultRetry,
    ResultRow,
    Results,
)
from telemetry.breaker import Breaker, BreakerState
from telemetry.sample import Sample
from wire.content import Content
from wire.effects import Effect, Execute, Kill, Persist, Release, Row, RunId, Send, SetTimer
from wire.events import Executed, ExecutionFailed
from wire.execution import ExecutionFailure, ExecutionStatus
from wire.ids import Digest, PeerId
from wire.limits import Limits
from wire.membership import Role
from wire.messages import (
    LeaseEnded,
    LeaseGranted,
    LeaseProgress,
    Offer,
    OfferAccepted,
    OfferRefusal,
    OfferRejected,
    OfferReleased,
    ResultsOffered,
    Settled,
)
from wire.signed import Signed
from wire.tasks import Contract, Lease, open_result, prove_tasks

MESH = small_mesh(3)
STEWARD, OWN, OTHER = MESH.devices
TASKS = tasks_of(8)
CONTRACT = contract_of(MESH, TASKS)
LEASE_US = 10_000_000
HELD_US = LEASE_US * 98 // 100


class ExecutorBench:
    """One executor with four slots, and everybody allowed everything until a test says else."""

    def __init__(self, *, leases_max: int = 50, task_slots: int = 4) -> None:
        self.now_us = 5_000_000
        self.linked = {STEWARD.peer}
        self.barred: set[tuple[PeerId, Role]] = set()
        self.capabilities = {"runtime:wasi-p1"}
        self.breaker = Breaker(random=Random(1))
        self.executor = Executor(
            signer=OWN.keys,
            mesh=MESH.id,
            settings=ExecutorSettings(
                engine_profile=ENGINE_PROFILE,
                workers_count=2,
                task_slots=task_slots,
                caps=Limits(),
                leases_max=leases_max,
            ),
            breaker=OwnBreaker(self.breaker),
            may=lambda peer, role: (peer, role) not in self.barred,
            lacks=lambda wanted: [key for key in wanted if key not in self.capabilities],
            telemetry=lambda _: None,  # type: ignore[arg-type, return-value]  # passed on unread
            is_linked=self.linked.__contains__,
        )

    def offer(
        self, number: int = 1, tasks_count: int = 1, *, contract: Signed[Contract] = CONTRACT
    ) -> OfferAccepted | OfferRejected:
        offer = Offer(offer=number, contract=contract, tasks_count=tasks_count)
        sent = self.executor.on_offer(STEWARD.peer, offer, now_us=self.now_us)[0]
        assert isinstance(sent, Send)
        assert isinstance(sent.message, OfferAccepted | OfferRejected)
        return sent.message

    def grant(
        self, number: int, indices: tuple[int, ...], *, attempt: int = 1, steward: Device = STEWARD
    ) -> tuple[Lease, list[Effect]]:
        lease = lease_of(CONTRACT, indices, steward=STEWARD, executor=OWN, attempt=attempt)
        granted = granted_of(number, lease)
        return lease.body, self.executor.on_lease_granted(steward.peer, granted, now_us=self.now_us)

    def begin(self, *indices: int, attempt: int = 1) -> Lease:
        assert isinstance(self.offer(attempt, len(indices)), OfferAccepted)
        lease, effects = self.grant(attempt, indices, attempt=attempt)
        assert len(runs_in(effects)) == len(indices)
        return lease

    def end(self, lease: Lease, index: int) -> list[Effect]:
        return self.executor.on_executed(executed(lease, index), now_us=self.now_us)

    def results(self, lease: Lease, *indices: int) -> tuple[bytes, ResultRow, list[Effect]]:
        """Let tasks end and the tick come; return the row that is written."""
        for index in indices:
            self.end(lease, index)
        (persist,) = self.executor.on_results_tick()
        assert isinstance(persist, Persist)
        ((row),) = persist.rows
        assert isinstance(row.value, ResultRow)
        return row.key, row.value, list(persist.then)


def granted_of(number: int, lease: Signed[Lease]) -> LeaseGranted:
    proven = prove_tasks(TASKS)
    return LeaseGranted(
        offer=number,
        lease=lease,
        contract=CONTRACT,
        tasks=tuple(proven[index] for index in lease.body.indices),
    )


def executed(lease: Lease, index: int) -> Executed:
    return Executed(
        run=RunId(lease.batch, index, lease.epoch, lease.attempt),
        status=ExecutionStatus.EXITED,
        exit_code=0,
        output=Content(inline=b"sealed"),
        output_digest=Digest(bytes(32)),
        log=None,
        detail="",
        fuel_used=1,
        wall_us=1_000,
    )


def runs_in(effects: list[Effect]) -> list[int]:
    return [effect.run.index for effect in effects if isinstance(effect, Execute)]


def killed_in(effects: list[Effect]) -> list[int]:
    return [effect.run.index for effect in effects if isinstance(effect, Kill)]


def messages_in(effects: list[Effect]) -> list[object]:
    return [effect.message for effect in effects if isinstance(effect, Send)]


@pytest.fixture
def bench() -> ExecutorBench:
    return ExecutorBench()


# --- admission --------------------------------------------------------------------------------


def test_an_offer_is_taken_as_far_as_there_is_room(bench: ExecutorBench) -> None:
    first = bench.offer(1, 3)
    second = bench.offer(2, 3)
    third = bench.offer(3, 1)

    assert isinstance(first, OfferAccepted)
    assert isinstance(second, OfferAccepted)
    assert (first.tasks_count, second.tasks_count) == (3, 1)
    assert isinstance(third, OfferRejected)
    assert (third.reason, third.detail) == (OfferRefusal.SLOTS_FULL, "4 task slots")


def test_room_that_is_released_or_not_taken_up_is_free_again(bench: ExecutorBench) -> None:
    bench.offer(1, 2)
    bench.offer(2, 2)
    assert bench.executor.slots_free == 0

    bench.executor.on_offer_released(STEWARD.peer, OfferReleased(offer=1))
    assert bench.executor.slots_free == 2
    bench.now_us += RESERVATION_US
    bench.executor.on_reservation_ends(ReservationEnds(STEWARD.peer, 2), now_us=bench.now_us)
    assert bench.executor.slots_free == 4


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"requirements": ("gpu:cuda",)}, OfferRefusal.CAPABILITY_MISSING),
        ({"engine_profiles": ("other/1",)}, OfferRefusal.ENGINE_PROFILE),
        ({"limits": Limits(memory_bytes=1 << 31)}, OfferRefusal.OVER_DEVICE_LIMIT),
        ({"limits": Limits(fuel=10**12)}, OfferRefusal.OVER_DEVICE_LIMIT),
        ({"limits": Limits(wall_us=10**9)}, OfferRefusal.OVER_DEVICE_LIMIT),
        ({"mesh": small_mesh(1, nonce=8).id}, OfferRefusal.BAD_CONTRACT),
    ],
)
def test_a_contract_that_does_not_suit_the_device_is_refused_with_the_reason(
    bench: ExecutorBench, changes: Mapping[str, object], reason: OfferRefusal
) -> None:
    answer = bench.offer(contract=contract_of(MESH, TASKS, changes=changes))
    assert isinstance(answer, OfferRejected)
    assert answer.reason is reason


def test_a_limit_over_the_device_s_is_refused_with_both_numbers(bench: ExecutorBench) -> None:
    wanted = Limits(memory_bytes=1 << 32, fuel=10**12)
    answer = bench.offer(contract=contract_of(MESH, TASKS, changes={"limits": wanted}))
    assert isinstance(answer, OfferRejected)
    caps = Limits()
    assert answer.detail == (
        f"memory_bytes {1 << 32} > {caps.memory_bytes}, fuel {10**12} > {caps.fuel}"
    )


def test_an_offer_by_somebody_who_is_not_its_steward_is_refused(bench: ExecutorBench) -> None:
    answer = bench.offer(contract=contract_of(MESH, TASKS, stewards=[OTHER]))
    assert isinstance(answer, OfferRejected)
    assert answer.reason is OfferRefusal.BAD_CONTRACT


@pytest.mark.parametrize(
    ("peer", "role", "reason"),
    [
        (OWN.peer, Role.EXECUTOR, OfferRefusal.NOT_EXECUTOR),
        (STEWARD.peer, Role.SUBMITTER, OfferRefusal.NOT_A_SUBMITTER),
        (STEWARD.peer, Role.STEWARD, OfferRefusal.BAD_CONTRACT),
    ],
)
def test_who_lacks_a_role_gets_no_work_done(
    bench: ExecutorBench, peer: PeerId, role: Role, reason: OfferRefusal
) -> None:
    bench.barred.add((peer, role))
    answer = bench.offer()
    assert isinstance(answer, OfferRejected)
    assert answer.reason is reason


def test_leases_and_reservations_together_are_capped() -> None:
    bench = ExecutorBench(leases_max=2, task_slots=10)
    bench.begin(0)
    bench.offer(7)
    answer = bench.offer(8)
    assert isinstance(answer, OfferRejected)
    assert answer.reason is OfferRefusal.LEASES_FULL


def test_a_device_that_stops_takes_nothing_and_gives_everything_back(
    bench: ExecutorBench,
) -> None:
    bench.offer(9)
    lease = bench.begin(0, 1)
    bench.end(lease, 1)

    effects = bench.executor.on_stopping(now_us=bench.now_us)

    assert killed_in(effects) == [0]
    (ended,) = messages_in(effects)
    assert isinstance(ended, LeaseEnded)
    assert (ended.indices, ended.reason) == ((0,), "the device is stopping")
    assert any(isinstance(effect, Persist) for effect in effects)  # the result that is there
    refused = bench.offer()
    assert isinstance(refused, OfferRejected)
    assert refused.reason is OfferRefusal.STOPPING
    _, late = bench.grant(9, (2,), attempt=2)
    assert runs_in(late) == []


# --- leases -----------------------------------------------------------------------------------


def test_a_lease_nobody_reserved_for_is_given_back(bench: ExecutorBench) -> None:
    bench.offer(1, 1)
    for number, indices in ((2, (0,)), (1, (0, 1))):
        _, effects = bench.grant(number, indices)
        (ended,) = messages_in(effects)
        assert isinstance(ended, LeaseEnded)
        assert (ended.indices, ended.reason) == ((), "no room was reserved for it")
        assert runs_in(effects) == []


def test_a_lease_that_is_not_the_stewards_or_not_for_this_device_is_given_back(
    bench: ExecutorBench,
) -> None:
    good = lease_of(CONTRACT, [0], steward=STEWARD, executor=OWN)
    forged = (
        lease_of(CONTRACT, [0], steward=OTHER, executor=OWN),
        lease_of(CONTRACT, [0], steward=STEWARD, executor=OTHER),
        lease_of(CONTRACT, [0], steward=STEWARD, executor=OWN, changes={"store": OTHER.store}),
        lease_of(contract_of(MESH, TASKS[:3]), [0], steward=STEWARD, executor=OWN),
    )
    for lease in forged:
        bench.offer(1)
        granted = granted_of(1, lease)
        effects = bench.executor.on_lease_granted(STEWARD.peer, granted, now_us=bench.now_us)
        assert runs_in(effects) == []
        assert [type(message) for message in messages_in(effects)] == [LeaseEnded]

    bench.offer(1)
    other_tasks = LeaseGranted(
        offer=1, lease=good, contract=CONTRACT, tasks=(prove_tasks(TASKS)[1],)
    )
    effects = bench.executor.on_lease_granted(STEWARD.peer, other_tasks, now_us=bench.now_us)
    assert runs_in(effects) == []


def test_a_lease_that_comes_twice_runs_once(bench: ExecutorBench) -> None:
    lease = bench.begin(0, 1)
    _, effects = bench.grant(1, (0, 1))
    assert runs_in(effects) == []
    assert messages_in(effects) == [LeaseProgress(leases=(lease_ref(lease),))]


def test_a_lease_counts_from_its_acceptance_and_ends_before_the_stewards(
    bench: ExecutorBench,
) -> None:
    bench.offer(1)
    bench.now_us += 1_500_000
    lease, effects = bench.grant(1, (0,))
    ends = HeldLeaseEnds(STEWARD.peer, lease_ref(lease))
    assert SetTimer(ends, HELD_US - 1_500_000) in effects

    bench.now_us += HELD_US - 1_500_000
    assert killed_in(bench.executor.on_held_lease_ends(ends, now_us=bench.now_us)) == [0]
    assert bench.executor.leases_count == 0


def test_a_lease_is_renewed_while_its_steward_can_hear(bench: ExecutorBench) -> None:
    lease = bench.begin(0)
    ends = HeldLeaseEnds(STEWARD.peer, lease_ref(lease))
    bench.now_us += 3_000_000

    renewed = bench.executor.on_progress_due(ProgressDue(STEWARD.peer), now_us=bench.now_us)
    assert LeaseProgress(leases=(lease_ref(lease),)) in messages_in(renewed)
    bench.linked.clear()
    bench.now_us += 3_000_000
    silent = bench.executor.on_progress_due(ProgressDue(STEWARD.peer), now_us=bench.now_us)
    assert messages_in(silent) == []

    bench.now_us += HELD_US - 3_000_001
    assert killed_in(bench.executor.on_held_lease_ends(ends, now_us=bench.now_us)) == []
    bench.now_us += 1
    assert killed_in(bench.executor.on_held_lease_ends(ends, now_us=bench.now_us)) == [0]


def test_a_new_lease_does_not_put_off_the_renewal_of_others(bench: ExecutorBench) -> None:
    bench.offer(1)
    one, first = bench.grant(1, (0,))
    bench.offer(2)
    two, second = bench.grant(2, (1,), attempt=2)
    bench.end(one, 0)
    bench.end(two, 1)
    due = ProgressDue(STEWARD.peer)
    assert bench.executor.on_progress_due(due, now_us=bench.now_us) == []
    bench.offer(3)
    _, third = bench.grant(3, (2,), attempt=3)

    def sets_timer(effects: list[Effect]) -> bool:
        return any(
            isinstance(effect, SetTimer) and isinstance(effect.key, ProgressDue)
            for effect in effects
        )

    assert sets_timer(first)
    assert not sets_timer(second)
    assert sets_timer(third)


def test_only_its_steward_calls_a_task_off(bench: ExecutorBench) -> None:
    lease = bench.begin(0, 1)
    ended = LeaseEnded(lease=lease_ref(lease), indices=(1,))

    assert bench.executor.on_lease_ended(OTHER.peer, ended, now_us=bench.now_us) == []
    effects = bench.executor.on_lease_ended(STEWARD.peer, ended, now_us=bench.now_us)

    assert killed_in(effects) == [1]
    assert bench.executor.runs_count == 1
    assert bench.end(lease, 1) == []  # it was stopped: what it says now does not count
    assert bench.end(lease, 0) != []


def test_nothing_is_done_or_kept_for_a_steward_that_was_removed(bench: ExecutorBench) -> None:
    lease = bench.begin(0, 1, 2)
    key, _, _ = bench.results(lease, 0)
    bench.end(lease, 1)
    nobody = bench.executor.on_devices_removed(frozenset({OTHER.peer}), now_us=bench.now_us)
    assert nobody == []

    effects = bench.executor.on_devices_removed(frozenset({STEWARD.peer}), now_us=bench.now_us)

    assert killed_in(effects) == [2]
    assert Persist((Row(RESULT_ROW, key, None),)) in effects
    assert (bench.executor.leases_count, bench.executor.unsettled_count) == (0, 0)
    assert bench.executor.on_results_tick() == [], "results of this tick are not signed for it"


def test_what_could_not_run_is_given_back_with_the_reason(bench: ExecutorBench) -> None:
    lease = bench.begin(0, 1)
    run = RunId(lease.batch, 0, lease.epoch, lease.attempt)
    failed = ExecutionFailed(run, ExecutionFailure.WORKER_DIED, "signal 9")

    (ended,) = messages_in(bench.executor.on_execution_failed(failed, now_us=bench.now_us))

    assert isinstance(ended, LeaseEnded)
    assert (ended.indices, ended.reason) == ((0,), "worker_died: signal 9")
    assert bench.executor.on_execution_failed(failed, now_us=bench.now_us) == []


def test_a_device_that_was_too_hot_proves_itself_by_one_lease(bench: ExecutorBench) -> None:
    own = OwnBreaker(bench.breaker)
    own.on_sample(Sample(temperature_millicelsius=90_000), now_us=bench.now_us)
    answer = bench.offer()
    assert isinstance(answer, OfferRejected)
    assert answer.reason is OfferRefusal.BREAKER_OPEN
    own.on_sample(Sample(temperature_millicelsius=40_000), now_us=bench.now_us)
    assert bench.breaker.due_us is not None
    bench.now_us = bench.breaker.due_us
    own.on_due(now_us=bench.now_us)

    assert isinstance(bench.offer(1, 2), OfferAccepted)
    assert isinstance(bench.offer(2), OfferRejected)
    lease, _ = bench.grant(1, (0, 1))
    assert isinstance(bench.offer(2), OfferRejected)
    bench.end(lease, 0)

    assert bench.breaker.state is BreakerState.CLOSED
    assert isinstance(bench.offer(3), OfferAccepted)


# --- results ----------------------------------------------------------------------------------


def test_results_are_offered_when_they_are_durable_and_not_before(bench: ExecutorBench) -> None:
    lease = bench.begin(0, 1)
    for index in (0, 1):
        assert messages_in(bench.end(lease, index)) == []

    (persist,) = bench.executor.on_results_tick()

    assert isinstance(persist, Persist)
    (offered,) = messages_in(list(persist.then))
    assert isinstance(offered, ResultsOffered)
    assert [open_result(proven).index for proven in offered.results] == [0, 1]
    assert len({proven.root.signature for proven in offered.results}) == 1
    assert bench.executor.on_results_tick() == []


def test_results_are_offered_less_and_less_often_until_they_are_settled(
    bench: ExecutorBench,
) -> None:
    lease = bench.begin(0, 1)
    key, row, _ = bench.results(lease, 0, 1)
    waits = []
    for _ in range(8):
        *offered, again = bench.executor.on_result_retry(ResultRetry(key))
        assert messages_in(offered) == [ResultsOffered(results=row.results, lease=row.lease)]
        assert isinstance(again, SetTimer)
        waits.append(again.after_us // 1_000_000)
    assert waits == [4, 8, 16, 30, 30, 30, 30, 30]
    bench.linked.clear()
    assert messages_in(bench.executor.on_result_retry(ResultRetry(key))) == []

    settled = Settled(batch=lease.batch, outcomes={0: None})
    assert bench.executor.on_settled(OTHER.peer, settled) == []
    (partly,) = bench.executor.on_settled(STEWARD.peer, settled)
    assert isinstance(partly, Persist)
    (kept,) = partly.rows
    assert isinstance(kept.value, ResultRow)
    assert [open_result(proven).index for proven in kept.value.results] == [1]
    wholly = bench.executor.on_settled(
        STEWARD.peer, Settled(batch=lease.batch, outcomes={0: None, 1: None})
    )
    assert Release(key) in wholly
    assert bench.executor.unsettled_count == 0
    assert bench.executor.on_result_retry(ResultRetry(key)) == []


def test_unsettled_results_survive_a_restart_and_go_out_when_the_steward_is_back(
    bench: ExecutorBench,
) -> None:
    key, row, _ = bench.results(bench.begin(0), 0)
    again = ExecutorBench()

    effects = again.executor.on_restarted([(key, row)])

    assert messages_in(effects) == []
    assert messages_in(again.executor.on_link_up(OTHER.peer)) == []
    (offered,) = messages_in(again.executor.on_link_up(STEWARD.peer))
    assert offered == ResultsOffered(results=row.results, lease=row.lease)


def test_large_results_are_offered_in_parts_that_fit_into_a_frame() -> None:
    bench = ExecutorBench(task_slots=64)
    tasks = tasks_of(40)
    contract = contract_of(MESH, tasks)
    bench.offer(1, 40, contract=contract)
    lease = lease_of(contract, range(40), steward=STEWARD, executor=OWN)
    granted = LeaseGranted(offer=1, lease=lease, contract=contract, tasks=prove_tasks(tasks))
    bench.executor.on_lease_granted(STEWARD.peer, granted, now_us=bench.now_us)
    for index in range(40):
        ended = executed(lease.body, index)
        large = Content(inline=bytes(32 * 1024))
        bench.executor.on_executed(
            Executed(
                **{**{f: getattr(ended, f) for f in ended.__struct_fields__}, "output": large}
            ),
            now_us=bench.now_us,
        )

    rows = [
        effect.rows[0].value
        for effect in bench.executor.on_results_tick()
        if isinstance(effect, Persist)
    ]

    sizes = [
        sum(len(proven.received) for proven in row.results)
        for row in rows
        if isinstance(row, ResultRow)
    ]
    assert len(sizes) == 3
    assert max(sizes) <= 512 * 1024


def test_too_many_unsettled_results_push_out_the_oldest() -> None:
    lease = lease_of(CONTRACT, [0], steward=STEWARD, executor=OWN)
    bench = ExecutorBench()
    _, row, _ = bench.results(bench.begin(0), 0)
    results = Results(signer=OWN.keys, is_reachable=lambda _: True)
    results.on_restarted([(number.to_bytes(4, "big"), row) for number in range(RESULT_ROWS_MAX)])
    effects = results._keep(ResultRow(stewards=(STEWARD.peer,), lease=lease, results=row.results))

    assert len(results) == RESULT_ROWS_MAX
    assert Release((0).to_bytes(4, "big")) in effects
    assert len(results.on_link_up(STEWARD.peer)) == 64
