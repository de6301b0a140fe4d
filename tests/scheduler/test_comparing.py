"""Tasks that several devices run: who gets them, when they are decided, and who is blamed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from support.candidates import candidate
from support.stewards import EXECUTORS, MESH, WRONG, StewardBench, rows_in, runs
from support.tasks import ENGINE_PROFILE

from scheduler.agreement import quorum_fault
from scheduler.batch import Batch
from scheduler.comparing import PATIENCE_US, PatienceOver
from scheduler.receipt import build_receipt, receipt_to_file, verify_receipt
from scheduler.states import TaskState
from scheduler.verdict import CheckName, Fault
from wire.effects import Fetch, Send
from wire.execution import ExecutionStatus
from wire.keys import Ed25519Verifier
from wire.messages import LeaseEnded, Offer, Settled
from wire.tasks import OutcomeKind, open_result, prove_task

FIRST, SECOND, THIRD = EXECUTORS


def submitted(bench: StewardBench, replicas: int, quorum: int | None = None) -> Batch:
    return bench.submit(1, replicas=replicas, quorum=quorum)


@pytest.fixture
def bench() -> StewardBench:
    return StewardBench().start()


def test_a_task_is_decided_when_a_quorum_of_distinct_devices_agrees(bench: StewardBench) -> None:
    batch = submitted(bench, 3)
    assert rows_in(runs(bench, FIRST)) == []
    assert batch.progress[0].state is TaskState.VERIFYING
    assert batch.progress[0].reason.startswith("1 of 2 equal results are here")
    assert bench.lease(FIRST) == []  # it has run it

    (row,) = rows_in(decided := runs(bench, SECOND))
    assert {open_result(row.results[0]).executor} == {FIRST.peer}
    assert [one.lease.body.executor for one in row.agreeing[0]] == [SECOND.peer]
    told = bench.make_durable(decided)
    settled = {e.peer for e in told if isinstance(e, Send) and isinstance(e.message, Settled)}
    assert settled == {FIRST.peer, SECOND.peer}
    assert [bench.measurements.of(one.peer).successes_count for one in (FIRST, SECOND)] == [1, 1]


def test_all_replicas_are_out_at_once_and_the_last_is_called_off(bench: StewardBench) -> None:
    submitted(bench, 3)
    (first,), (second,), (_,) = (bench.lease(one) for one in EXECUTORS)
    bench.fetch_all(bench.offer_results(first, FIRST))
    told = bench.make_durable(bench.fetch_all(bench.offer_results(second, SECOND)))
    off = [e.peer for e in told if isinstance(e, Send) and isinstance(e.message, LeaseEnded)]
    assert off == [THIRD.peer]
    assert len(bench.leases) == 0


def test_no_more_devices_than_replicas_have_a_task(bench: StewardBench) -> None:
    submitted(bench, 2)
    assert len(bench.lease(FIRST)) == len(bench.lease(SECOND)) == 1
    assert bench.lease(THIRD) == []


def test_an_equal_result_is_not_fetched_again(bench: StewardBench) -> None:
    submitted(bench, 2)
    runs(bench, FIRST)
    (lease,) = bench.lease(SECOND)
    offered = bench.offer_results(lease, SECOND)
    assert not [effect for effect in offered if isinstance(effect, Fetch)]


def test_when_two_differ_two_more_run_it_and_the_minority_is_blamed(bench: StewardBench) -> None:
    batch = submitted(bench, 2)
    task = batch.progress[0]
    runs(bench, FIRST, changes=WRONG)
    assert rows_in(runs(bench, SECOND)) == []
    assert task.state is TaskState.DISPUTED
    assert (task.runs_wanted, task.is_waiting) == (4, True)
    assert task.reason.startswith("results of 2 devices differ")
    assert rows_in(runs(bench, THIRD)) == []

    (fourth,) = (device for device in MESH.devices if device not in EXECUTORS)
    (row,) = rows_in(runs(bench, fourth))
    assert open_result(row.results[0]).exit_code == 0
    assert bench.measurements.of(FIRST.peer).disputes_count == 1
    assert bench.measurements.of(SECOND.peer).disputes_count == 0


def test_a_dispute_that_nobody_else_can_help_with_is_settled_by_what_is_here(
    bench: StewardBench,
) -> None:
    batch = submitted(bench, 2)
    runs(bench, FIRST, changes=WRONG)
    runs(bench, SECOND)
    over = PatienceOver(batch.batch, 0)
    (lease,) = bench.lease(THIRD)
    assert not rows_in(bench.steward.on_patience_over(over, now_us=PATIENCE_US))  # it is at work
    bench.fetch_all(bench.offer_results(lease, THIRD))
    (row,) = rows_in(bench.steward.on_patience_over(over, now_us=2 * PATIENCE_US))
    assert open_result(row.results[0]).exit_code == 0


def test_a_tie_that_nobody_else_can_break_fails_and_says_so(bench: StewardBench) -> None:
    batch = submitted(bench, 2)
    runs(bench, FIRST, changes=WRONG)
    runs(bench, SECOND)
    over = PatienceOver(batch.batch, 0)
    (row,) = rows_in(bench.steward.on_patience_over(over, now_us=PATIENCE_US))
    assert row.outcomes[0].kind is OutcomeKind.FAILED
    assert row.outcomes[0].reason == "no majority: results of 2 devices differ, 1 are equal"


def test_a_quorum_that_was_asked_for_is_waited_for(bench: StewardBench) -> None:
    batch = submitted(bench, 2)
    runs(bench, FIRST)
    over = PatienceOver(batch.batch, 0)
    assert not rows_in(bench.steward.on_patience_over(over, now_us=PATIENCE_US))
    bench.lease(FIRST)
    assert batch.progress[0].reason == (
        "1 of 2 equal results are here; no device is eligible now: 1 engaged"
    )


def test_results_that_depend_on_the_device_are_not_compared(bench: StewardBench) -> None:
    batch = submitted(bench, 2)
    late = {"status": ExecutionStatus.OUT_OF_TIME}
    assert rows_in(runs(bench, FIRST, changes=late)) == []
    assert batch.progress[0].state is TaskState.VERIFYING
    (row,) = rows_in(runs(bench, SECOND, changes=late))
    assert row.outcomes[0].reason == (
        "no quorum: 2 devices say out_of_time, which is never compared"
    )
    assert bench.measurements.of(FIRST.peer).disputes_count == 0


def test_a_replica_that_is_lost_is_run_elsewhere(bench: StewardBench) -> None:
    batch = submitted(bench, 2)
    runs(bench, FIRST)
    (lease,) = bench.lease(SECOND)
    ref = next(ref for ref, _ in bench.leases.of_task(batch.batch, 0))
    ended = LeaseEnded(lease=ref, indices=(0,), reason="worker_died: signal 9")
    bench.do(bench.steward.on_lease_ended(SECOND.peer, ended, now_us=bench.now_us))
    assert batch.progress[0].state is TaskState.VERIFYING
    assert lease.body.indices == (0,)
    (row,) = rows_in(runs(bench, THIRD))
    assert [one.lease.body.executor for one in row.agreeing[0]] == [THIRD.peer]


def test_what_a_removed_device_brought_is_not_counted(bench: StewardBench) -> None:
    batch = submitted(bench, 2)
    runs(bench, FIRST)
    removed = frozenset({FIRST.peer})
    bench.do(bench.steward.on_devices_removed(removed, now_us=bench.now_us))
    assert batch.progress[0].state is TaskState.PENDING
    assert rows_in(runs(bench, SECOND)) == []
    (row,) = rows_in(runs(bench, THIRD))
    assert FIRST.peer not in {one.lease.body.executor for one in row.agreeing[0]}


def test_devices_of_other_operators_come_first(bench: StewardBench) -> None:
    submitted(bench, 2)
    runs(bench, FIRST)
    bench.candidates = [
        candidate(number, peer=device.peer, slots_free=64, slots_total=64, operator=operator)
        for number, device, operator in ((1, FIRST, "a"), (2, SECOND, "a"), (3, THIRD, "b"))
    ]
    effects = bench.do(bench.steward.on_placement_review(now_us=bench.now_us))
    asked = [e.peer for e in effects if isinstance(e, Send) and isinstance(e.message, Offer)]
    assert asked == [THIRD.peer]


def test_a_receipt_proves_its_quorum_and_without_the_others_it_is_not_good(
    bench: StewardBench,
) -> None:
    batch = submitted(bench, 2)
    tasks = batch.tasks or ()
    runs(bench, FIRST)
    (row,) = rows_in(runs(bench, SECOND))
    parts = (batch.contract, prove_task(tasks, 0), row.lease, row.results[0], row.votes, row.chains)
    receipt = build_receipt(MESH.genesis, *parts, row.agreeing[0])
    verifier = Ed25519Verifier()
    good = verify_receipt(receipt_to_file(receipt), verifier=verifier, mesh=MESH.id)
    assert good.is_good
    assert len(good.facts.agreeing) == 1

    lone = verify_receipt(
        receipt_to_file(replace(receipt, agreeing=())), verifier=verifier, mesh=MESH.id
    )
    assert lone.faults == (Fault.QUORUM_NOT_MET,)
    bad = next(check for check in lone.checks if check.fault is not None)
    assert (bad.name, bad.detail) == (CheckName.QUORUM, "1 results, and the quorum is 2")


def test_a_result_is_counted_once_in_a_quorum(bench: StewardBench) -> None:
    submitted(bench, 2)
    runs(bench, FIRST)
    (row,) = rows_in(runs(bench, SECOND))
    result, other = (open_result(row.results[0]), open_result(row.agreeing[0][0].result))
    assert result.engine_profile == ENGINE_PROFILE
    assert quorum_fault(result, [other], quorum=2) is None
    assert quorum_fault(result, [result], quorum=2) == "a device is counted twice"
    assert quorum_fault(result, [], quorum=2) == "1 results, and the quorum is 2"
