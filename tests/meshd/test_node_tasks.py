"""Whole batches through real nodes: what people are told, whatever fails on the way."""

from __future__ import annotations

import pytest
from support.meshes import store_of
from support.task_mesh import SECOND_US, TaskMesh, executed

from scheduler.batch import DecisionRow
from scheduler.receipt import verify_receipt
from wire.answers import ReceiptView, Refused, TaskView
from wire.commands import CancelTask, GetReceipt, GetTask, WaitBatch
from wire.events import ExecutionFailed, Fetched, FetchFailed, Stopping
from wire.execution import ExecutionFailure
from wire.ids import peer_text
from wire.keys import Ed25519Verifier
from wire.messages import (
    LeaseEnded,
    LeaseGranted,
    LeaseProgress,
    OfferAccepted,
    OfferRejected,
    ResultsOffered,
)


@pytest.fixture
def mesh() -> TaskMesh:
    """Return three devices that know each other."""
    made = TaskMesh(3)
    made.start()
    return made


def states(views: list[TaskView]) -> set[str]:
    return {view.state for view in views}


def test_a_batch_runs_on_all_devices_and_every_receipt_verifies(mesh: TaskMesh) -> None:
    submitter = mesh.hosts[1]
    accepted = mesh.submit(submitter, 24)

    views = mesh.finish(submitter, accepted, 60 * SECOND_US)

    assert states(views) == {"settled"}
    assert len({view.executor for view in views}) == 3
    for task in accepted.tasks:
        answer = mesh.answer(submitter, GetReceipt(task, with_digest_key=True))
        assert isinstance(answer, ReceiptView)
        verdict = verify_receipt(answer.receipt, verifier=Ed25519Verifier(), mesh=mesh.mesh.id)
        assert verdict.is_good, verdict
        assert verdict.facts.task == task


def test_whoever_waits_for_a_batch_hears_the_end_of_every_task(mesh: TaskMesh) -> None:
    submitter = mesh.hosts[0]
    accepted = mesh.submit(submitter, 16)
    request = mesh.ask(submitter, WaitBatch(accepted.tasks[0]))

    mesh.pass_time(30 * SECOND_US)

    answers = submitter.answers[request]
    ends = [
        one.value.id for one in answers if isinstance(one.value, TaskView) and one.value.is_decided
    ]
    assert sorted(ends) == sorted(accepted.tasks)
    assert [answer.is_last for answer in answers].index(True) == len(answers) - 1


def test_nothing_is_left_when_all_is_settled(mesh: TaskMesh) -> None:
    accepted = mesh.submit(mesh.hosts[1], 12)
    mesh.finish(mesh.hosts[1], accepted, 30 * SECOND_US)

    mesh.pass_time(10 * SECOND_US)

    for host in mesh.hosts:
        assert not host.runs
        assert [row.kind for row in host.rows.values() if row.kind == "result"] == []
        answer = host.node._status()
        assert (answer.leases_held, answer.runs_active) == (0, 0)


def test_a_task_of_an_executor_that_dies_ends_elsewhere_once(mesh: TaskMesh) -> None:
    submitter, victim = mesh.hosts[0], mesh.hosts[1]
    mesh.run = lambda host, effect: None if host is victim else executed(effect.run)
    accepted = mesh.submit(submitter, 9)
    mesh.pass_time(SECOND_US)
    assert victim.runs

    mesh.crash(victim)
    views = mesh.finish(submitter, accepted, 60 * SECOND_US)

    assert states(views) == {"settled"}
    assert max(view.attempts for view in views) == 2
    assert peer_text(victim.peer) not in {view.executor for view in views}


def test_a_result_that_was_durable_survives_its_executor(mesh: TaskMesh) -> None:
    submitter, executor = mesh.hosts[0], mesh.hosts[1]
    mesh.loses = lambda host, _, message: host is executor and isinstance(message, ResultsOffered)
    accepted = mesh.submit(submitter, 1, requirements=("label:number=1",))
    mesh.pass_time(SECOND_US)
    assert any(row.kind == "result" for row in executor.rows.values())

    mesh.crash(executor)
    mesh.loses = lambda *_: False
    mesh.boot(executor)
    views = mesh.finish(submitter, accepted, 9 * SECOND_US)

    assert states(views) == {"settled"}
    assert views[0].attempts == 1
    mesh.pass_time(SECOND_US)
    assert not any(row.kind == "result" for row in executor.rows.values())


def test_a_steward_that_restarts_waits_a_lease_and_takes_results_of_before(mesh: TaskMesh) -> None:
    submitter, executor = mesh.hosts[0], mesh.hosts[1]
    mesh.run_us = 4 * SECOND_US
    accepted = mesh.submit(submitter, 2, requirements=("label:number=1",))
    mesh.pass_time(SECOND_US)
    assert executor.runs

    mesh.crash(submitter)
    mesh.boot(submitter)
    sent_before = len(submitter.sent)
    views = mesh.finish(submitter, accepted, 9 * SECOND_US)

    assert states(views) == {"settled"}
    assert not any(isinstance(m, LeaseGranted) for _, m in submitter.sent[sent_before:])
    assert executor.killed == []


def test_a_steward_that_restarts_goes_on_after_a_lease(mesh: TaskMesh) -> None:
    submitter = mesh.hosts[0]
    mesh.run = lambda *_: None
    accepted = mesh.submit(submitter, 3)
    mesh.pass_time(SECOND_US)

    mesh.crash(submitter)
    for other in mesh.hosts[1:]:
        mesh.crash(other)
    mesh.run = lambda _, effect: executed(effect.run)
    for host in mesh.hosts:
        mesh.boot(host)
    restarted_us = mesh.now_us
    mesh.pass_time(10 * SECOND_US)
    assert states(mesh.views(submitter, accepted)) == {"pending"}
    assert all(not host.runs for host in mesh.hosts)

    views = mesh.finish(submitter, accepted, 10 * SECOND_US)

    assert states(views) == {"settled"}
    assert mesh.now_us - restarted_us < 13 * SECOND_US


def test_a_submitter_that_lost_its_disk_makes_executors_forget_and_decides_nothing(
    mesh: TaskMesh,
) -> None:
    submitter, executor = mesh.hosts[0], mesh.hosts[1]
    accepted = mesh.submit(submitter, 1, requirements=("label:number=1",))
    mesh.pass_time(100_000)
    assert executor.runs

    mesh.crash(submitter, new_store=store_of(99))
    mesh.boot(submitter)
    mesh.pass_time(60 * SECOND_US)

    assert not any(row.kind == "result" for row in executor.rows.values())
    assert not any(row.kind == "decision" for row in submitter.rows.values())
    answer = mesh.answer(submitter, GetTask(accepted.tasks[0]))
    assert isinstance(answer, Refused)
    assert "unknown task" in answer.message


def test_a_cancelled_task_stops_and_its_result_comes_too_late(mesh: TaskMesh) -> None:
    submitter, executor = mesh.hosts[0], mesh.hosts[1]
    accepted = mesh.submit(submitter, 1, requirements=("label:number=1",))
    mesh.pass_time(100_000)
    assert executor.runs

    answer = mesh.answer(submitter, CancelTask(accepted.tasks[0]))

    assert isinstance(answer, TaskView)
    assert (answer.state, answer.outcome) == ("cancelled", "cancelled")
    assert executor.runs == set()
    assert len(executor.killed) == 1
    receipt = mesh.answer(submitter, GetReceipt(accepted.tasks[0]))
    assert isinstance(receipt, ReceiptView)
    verdict = verify_receipt(receipt.receipt, verifier=Ed25519Verifier(), mesh=mesh.mesh.id)
    assert (verdict.is_good, verdict.facts.outcome) == (True, "cancelled")


def test_a_cancel_after_the_vote_for_a_result_changes_nothing(mesh: TaskMesh) -> None:
    submitter = mesh.hosts[0]
    accepted = mesh.submit(submitter, 1)
    batch = next(iter(submitter.node._work.steward.batches.values()))
    mesh.pass_time(10 * SECOND_US, until=lambda: batch.progress[0].is_deciding)
    assert batch.progress[0].is_deciding

    answer = mesh.answer(submitter, CancelTask(accepted.tasks[0]))

    assert isinstance(answer, TaskView)
    assert (answer.state, answer.outcome) == ("settled", "result")
    decisions = [row for row in submitter.rows.values() if row.kind == "decision"]
    assert len(decisions) == 1


def test_a_wrong_output_counts_against_its_executor_and_the_task_runs_elsewhere(
    mesh: TaskMesh,
) -> None:
    submitter, liar = mesh.hosts[0], mesh.hosts[1]
    mesh.fetch = lambda _, effect: (
        FetchFailed(effect.token, "the digest differs", is_wrong=True)
        if liar.peer in effect.sources
        else Fetched(effect.token)
    )
    accepted = mesh.submit(submitter, 12)

    views = mesh.finish(submitter, accepted, 60 * SECOND_US)

    assert states(views) == {"settled"}
    assert peer_text(liar.peer) not in {view.executor for view in views}
    peers = submitter.node._neighbours.measurements
    assert peers.of(liar.peer).disputes_count >= 1


def test_a_task_that_no_device_can_run_fails_with_the_last_reason(mesh: TaskMesh) -> None:
    submitter = mesh.hosts[0]
    mesh.run = lambda _, effect: ExecutionFailed(
        effect.run, ExecutionFailure.WORKER_DIED, "signal 9"
    )
    accepted = mesh.submit(submitter, 1, retries_max=3)

    views = mesh.finish(submitter, accepted, 60 * SECOND_US)

    assert states(views) == {"failed"}
    assert views[0].attempts == 4
    assert views[0].reason is not None
    assert "retries spent" in views[0].reason
    assert "worker_died" in views[0].reason


def test_a_module_that_two_devices_refuse_fails_for_good(mesh: TaskMesh) -> None:
    submitter = mesh.hosts[0]
    mesh.run = lambda _, effect: ExecutionFailed(
        effect.run, ExecutionFailure.NOT_WASM, "no magic number"
    )
    accepted = mesh.submit(submitter, 1, retries_max=50, requirements=("runtime:wasi-p1",))

    views = mesh.finish(submitter, accepted, 60 * SECOND_US)

    assert states(views) == {"failed"}
    assert views[0].reason == "not_wasm: no magic number"
    assert views[0].attempts <= 2


def test_a_device_that_never_answers_offers_holds_nobody_up(mesh: TaskMesh) -> None:
    submitter, silent = mesh.hosts[0], mesh.hosts[1]
    task_messages = (OfferAccepted, OfferRejected)
    mesh.loses = lambda host, _, message: host is silent and isinstance(message, task_messages)
    accepted = mesh.submit(submitter, 30)

    views = mesh.finish(submitter, accepted, 30 * SECOND_US)

    assert states(views) == {"settled"}
    assert peer_text(silent.peer) not in {view.executor for view in views}
    assert max(view.attempts for view in views) == 1


def test_a_long_task_keeps_its_lease_while_short_ones_come_and_go(mesh: TaskMesh) -> None:
    submitter, executor = mesh.hosts[0], mesh.hosts[1]
    only = ("label:number=1",)
    mesh.run = lambda *_: None
    mesh.submit(submitter, 1, requirements=only)
    mesh.pass_time(SECOND_US)
    (long_run,) = executor.runs
    mesh.run = lambda _, effect: executed(effect.run)

    for _ in range(15):
        mesh.submit(submitter, 1, requirements=only)
        mesh.pass_time(SECOND_US)

    assert long_run in executor.runs
    assert executor.killed == []


def test_tasks_that_no_lease_renewal_reaches_go_elsewhere_and_late_results_count(
    mesh: TaskMesh,
) -> None:
    submitter, cut_off = mesh.hosts[0], mesh.hosts[1]
    mesh.run_us = 12 * SECOND_US
    accepted = mesh.submit(submitter, 1, requirements=("label:number=1",))
    mesh.pass_time(SECOND_US)
    assert cut_off.runs

    lost = (LeaseProgress, LeaseEnded, ResultsOffered)
    mesh.loses = lambda host, peer, message: isinstance(message, lost)
    mesh.pass_time(12 * SECOND_US)
    assert mesh.views(submitter, accepted)[0].attempts == 2
    mesh.loses = lambda *_: False
    views = mesh.finish(submitter, accepted, 5 * SECOND_US)

    assert states(views) == {"settled"}
    (decision,) = (row.value for row in submitter.rows.values() if row.kind == "decision")
    assert isinstance(decision, DecisionRow)
    assert decision.lease is not None
    assert decision.lease.body.attempt == 1


def test_a_deadline_fails_what_is_left_and_stops_it(mesh: TaskMesh) -> None:
    submitter = mesh.hosts[0]
    mesh.run = lambda _, effect: executed(effect.run) if effect.run.index == 0 else None
    accepted = mesh.submit(submitter, 3, deadline_us=5 * SECOND_US)

    views = mesh.finish(submitter, accepted, 6 * SECOND_US)

    assert [view.state for view in views] == ["settled", "failed", "failed"]
    assert views[1].reason is not None
    assert views[1].reason.startswith("deadline passed while executing")
    mesh.pass_time(SECOND_US)
    assert all(not host.runs for host in mesh.hosts)


@pytest.mark.parametrize(
    ("before", "after"), [(None, None), (None, 1_000), (1_000, None), (1_000, 1_000)]
)
def test_no_deadline_fires_because_the_time_is_not_known(
    before: int | None, after: int | None
) -> None:
    mesh = TaskMesh(1, wall_uncertainty_us=before)
    mesh.start()
    mesh.run = lambda *_: None
    accepted = mesh.submit(mesh.hosts[0], 1, deadline_us=3600 * SECOND_US)
    mesh.pass_time(SECOND_US)

    mesh.crash(mesh.hosts[0])
    mesh.wall_uncertainty_us = after
    mesh.boot(mesh.hosts[0])
    mesh.pass_time(20 * SECOND_US)

    assert not mesh.views(mesh.hosts[0], accepted)[0].is_decided


def test_a_deadline_that_passed_while_the_daemon_was_off_fails_the_task_after_the_restart() -> None:
    mesh = TaskMesh(1)
    mesh.start()
    mesh.run = lambda *_: None
    accepted = mesh.submit(mesh.hosts[0], 1, deadline_us=60 * SECOND_US)
    mesh.crash(mesh.hosts[0])
    mesh.pass_time(100 * SECOND_US)

    mesh.boot(mesh.hosts[0])
    mesh.pass_time(SECOND_US)

    assert mesh.views(mesh.hosts[0], accepted)[0].state == "failed"


def test_a_small_batch_does_not_wait_for_a_large_one(mesh: TaskMesh) -> None:
    submitter = mesh.hosts[0]
    large = mesh.submit(submitter, 600)
    small = mesh.submit(submitter, 1)

    mesh.finish(submitter, small, 60 * SECOND_US)

    open_count = sum(not view.is_decided for view in mesh.views(submitter, large))
    assert open_count > 400


def test_a_task_whose_device_is_missing_says_so(mesh: TaskMesh) -> None:
    submitter, wanted = mesh.hosts[0], mesh.hosts[1]
    mesh.crash(wanted)
    accepted = mesh.submit(submitter, 1, requirements=("label:number=1",))
    mesh.pass_time(3 * SECOND_US)

    (view,) = mesh.views(submitter, accepted)

    assert view.state == "pending"
    assert view.reason == "no device is eligible now: 2 capability_missing, 1 dead"


def test_a_capability_that_nobody_has_is_refused_with_who_came_closest(mesh: TaskMesh) -> None:
    submission = mesh.submission(mesh.hosts[0], 1, requirements=("gpu:cuda", "runtime:wasi-p1"))
    request = mesh.ask(mesh.hosts[0], submission)
    mesh.pass_time(10 * SECOND_US)

    answer = mesh.hosts[0].answers[request][-1].value

    assert isinstance(answer, Refused)
    assert answer.code == "nobody_eligible"
    assert [one.missing for one in answer.closest] == [["gpu:cuda"]] * 3


def test_a_device_that_stops_gives_its_tasks_back_at_once(mesh: TaskMesh) -> None:
    submitter, leaving = mesh.hosts[0], mesh.hosts[1]
    mesh.run = lambda host, effect: None if host is leaving else executed(effect.run)
    accepted = mesh.submit(submitter, 9, retries_max=0)
    mesh.pass_time(100_000)
    assert leaving.runs

    mesh.tell(leaving, Stopping())
    mesh.pass_time(10_000)
    mesh.crash(leaving)
    views = mesh.finish(submitter, accepted, 5 * SECOND_US)

    assert states(views) == {"settled"}  # and no retry was spent


def test_a_thousand_tasks_are_settled_in_one_batch(mesh: TaskMesh) -> None:
    mesh.run_us = 20_000
    accepted = mesh.submit(mesh.hosts[0], 1_024)

    views = mesh.finish(mesh.hosts[0], accepted, 120 * SECOND_US)

    assert states(views) == {"settled"}
