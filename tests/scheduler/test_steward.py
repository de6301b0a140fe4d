"""The steward by itself: one outcome a task, one lease a task, and nobody blamed for nothing."""

from __future__ import annotations

import pytest
from support.candidates import candidate
from support.meshes import store_of
from support.stewards import EXECUTORS, MESH, OWN, StewardBench, leases_in, messages_in
from support.tasks import (
    lease_of,
    outcome_of,
    proven_results,
    result_of,
    tasks_of,
    vote_of,
)

from scheduler.batch import BATCH_ROW, Batch, BatchRow, DecisionRow
from scheduler.dispatch import OfferUnanswered
from scheduler.leases import LEASE_US, GrantedLeaseEnds
from scheduler.ledger import FINISHED_BATCHES_MAX, UNDECIDED_TASKS_MAX
from scheduler.outcomes import DeadlineDue
from scheduler.register import VOTE_OUTCOMES_MAX
from scheduler.states import TaskState
from scheduler.submission import BATCH_INLINE_BYTES_MAX, BatchDurable
from scheduler.waiting import PlacementReview
from telemetry.breaker import BreakerState, ProbeEnd
from wire.blobs import blob_ref
from wire.codec import FRAME_BYTES_MAX
from wire.commands import Submit
from wire.content import Content
from wire.effects import Effect, Fetch, Persist, Release, SetTimer
from wire.events import Fetched, FetchFailed
from wire.ids import PeerId
from wire.limits import INLINE_BYTES_MAX, Limits
from wire.messages import (
    LeaseEnded,
    LeaseGranted,
    LeaseProgress,
    LeaseRef,
    OfferRefusal,
    OfferRejected,
    OfferReleased,
    Settled,
)
from wire.signed import encode_body
from wire.tasks import Epoch, Lease, Task

FIRST, SECOND, THIRD = EXECUTORS


@pytest.fixture
def bench() -> StewardBench:
    """Return a steward that has started."""
    return StewardBench().start()


def ref_of(lease: Lease) -> LeaseRef:
    return LeaseRef(lease.batch, lease.epoch, lease.attempt)


def ended(
    bench: StewardBench, executor: PeerId, lease: Lease, *indices: int, reason: str
) -> list[Effect]:
    message = LeaseEnded(lease=ref_of(lease), indices=indices, reason=reason)
    return bench.do(bench.steward.on_lease_ended(executor, message, now_us=bench.now_us))


def run_out(bench: StewardBench, lease: Lease) -> list[Effect]:
    bench.now_us += LEASE_US
    ends = GrantedLeaseEnds(ref_of(lease))
    return bench.do(bench.steward.on_granted_lease_ends(ends, now_us=bench.now_us))


def decisions_in(effects: list[Effect]) -> list[DecisionRow]:
    return [
        row.value
        for effect in effects
        if isinstance(effect, Persist)
        for row in effect.rows
        if isinstance(row.value, DecisionRow)
    ]


def outcomes_in(effects: list[Effect]) -> dict[int, str]:
    return {
        index: str(outcome.kind)
        for row in decisions_in(effects)
        for index, outcome in row.outcomes.items()
    }


def fail_often(bench: StewardBench, peer: PeerId) -> None:
    for _ in range(26):
        bench.standings.on_lease_ended(peer, "earlier", ProbeEnd.DEVICE_FAILED, now_us=bench.now_us)


# --- what waits for the disk ------------------------------------------------------------------


def test_no_lease_is_offered_before_the_round_of_this_start_is_durable() -> None:
    bench = StewardBench()
    bench.do(bench.steward.on_restarted(rounds=[], batches=[], promises=[], decisions=[]))
    bench.submit(1)
    assert bench.review() == []
    bench.steward.on_round_durable(now_us=bench.now_us)
    assert len(bench.review()) == 2


def test_an_outcome_is_told_to_nobody_before_it_is_durable(bench: StewardBench) -> None:
    batch = bench.submit(200)
    lease, *_ = bench.lease(FIRST)
    assert lease.body.indices == (0, 1)
    bench.changed.clear()
    voted = bench.fetch_all(bench.offer_results(lease, FIRST))

    assert outcomes_in(voted) == {0: "result", 1: "result"}
    assert messages_in(voted) == []
    assert [task.decided for task in batch.progress[:2]] == [None, None]

    told = bench.make_durable(voted)

    (settled,) = (message for message in messages_in(told) if isinstance(message, Settled))
    assert sorted(settled.outcomes) == [0, 1]
    assert [task.state for task in batch.progress[:2]] == [TaskState.SETTLED] * 2
    assert bench.changed == [(batch.batch, 0), (batch.batch, 1)] * 2  # checking, then settled


# --- one outcome ------------------------------------------------------------------------------


def test_a_cancel_while_a_result_is_checked_wins_and_the_result_is_dropped(
    bench: StewardBench,
) -> None:
    batch = bench.submit(1)
    (lease,) = bench.lease(FIRST)
    checking = bench.offer_results(lease, FIRST)
    cancelled = bench.do(bench.steward.on_cancel(batch, 0))

    voted = bench.fetch_all(checking)
    bench.make_durable(cancelled)

    assert outcomes_in(cancelled) == {0: "cancelled"}
    assert decisions_in(voted) == []
    assert batch.progress[0].state is TaskState.CANCELLED


def test_a_deadline_is_whole_when_the_clock_was_not_known_at_submission(
    bench: StewardBench,
) -> None:
    known_us, bench.wall_us = bench.wall_us, 0
    batch = bench.submit(1)
    bench.wall_us = known_us
    durable = BatchDurable(batch.batch, 1)

    effects = bench.steward.on_batch_durable(durable, now_us=bench.now_us)

    assert SetTimer(DeadlineDue(batch.batch), batch.contract.body.deadline_us) in effects


def test_a_cancel_while_the_vote_for_a_result_is_written_loses(bench: StewardBench) -> None:
    batch = bench.submit(1)
    (lease,) = bench.lease(FIRST)
    voted = bench.fetch_all(bench.offer_results(lease, FIRST))

    assert bench.steward.on_cancel(batch, 0) == []
    assert bench.steward.on_deadline_due(DeadlineDue(batch.batch)) == []
    bench.make_durable(voted)
    assert batch.progress[0].state is TaskState.SETTLED
    assert bench.steward.on_cancel(batch, 0) == []


@pytest.mark.parametrize("how", ["run out", "given back", "fetch failed", "deadline", "cancel"])
def test_a_task_whose_outcome_is_on_its_way_is_never_voted_on_again(
    bench: StewardBench, how: str
) -> None:
    """Two votes of one epoch for different values would convict the steward that signed them."""
    batch = bench.submit(1, retries_max=0)
    (lease,) = bench.lease(FIRST)
    checking = bench.offer_results(lease, FIRST) if how == "fetch failed" else []
    bench.do(bench.steward.on_cancel(batch, 0))

    match how:
        case "run out":
            later = run_out(bench, lease.body)
        case "given back":
            later = ended(bench, FIRST.peer, lease.body, 0, reason="worker_died: signal 9")
        case "fetch failed":
            (fetch,) = (effect for effect in checking if isinstance(effect, Fetch))
            failed = FetchFailed(fetch.token, "gone")
            later = bench.do(bench.steward.on_fetch_failed(failed, now_us=bench.now_us))
        case "deadline":
            later = bench.do(bench.steward.on_deadline_due(DeadlineDue(batch.batch)))
        case _:
            later = bench.do(bench.steward.on_cancel(batch, 0))

    assert decisions_in(later) == []
    assert batch.progress[0].state is not TaskState.PENDING


def test_the_register_is_written_once(bench: StewardBench) -> None:
    batch = bench.submit(2)
    lease, *_ = bench.lease(FIRST)
    proven = proven_results([result_of(lease.body, 0, b"late")], FIRST.keys)[0]
    register = bench.steward._verification.register
    cancelled = bench.do(bench.steward.on_cancel(batch, 0))

    assert register.choose(batch, lease, {0: proven}) == []
    bench.make_durable(cancelled)
    assert register.choose(batch, lease, {0: proven}) == []

    vote = vote_of(batch.contract, {0: outcome_of(proven)}, steward=OWN)
    row = DecisionRow(votes=(vote,), lease=lease, results={0: proven}, chains=(), decided_wall_us=0)
    assert batch.decide(row) == []
    assert batch.progress[0].state is TaskState.CANCELLED


def test_late_reasons_of_a_thousand_tasks_fit_into_signed_votes(bench: StewardBench) -> None:
    batch = bench.submit(1_024)
    for task in batch.progress:
        task.reason = "\U0001f4a5" * 256  # what a device gave as its reason: four bytes a letter

    late = bench.do(bench.steward.on_deadline_due(DeadlineDue(batch.batch)))

    assert len(outcomes_in(late)) == 1_024
    assert {len(row.outcomes) for row in decisions_in(late)} == {VOTE_OUTCOMES_MAX}
    bench.make_durable(late)
    assert batch.is_decided


def test_a_task_that_is_decided_elsewhere_is_called_off_and_blamed_on_nobody(
    bench: StewardBench,
) -> None:
    bench.submit(1)
    (first,) = bench.lease(FIRST)
    run_out(bench, first.body)
    (second,) = bench.lease(SECOND)

    told = bench.make_durable(bench.fetch_all(bench.offer_results(first, FIRST)))

    off = [effect for effect in told if getattr(effect, "peer", None) == SECOND.peer]
    (called_off,) = messages_in(off)
    assert isinstance(called_off, LeaseEnded)
    assert (called_off.lease, called_off.indices) == (ref_of(second.body), (0,))
    assert len(bench.leases) == 0
    assert run_out(bench, second.body) == []
    assert bench.measurements.of(SECOND.peer).failures_count == 0


# --- results ----------------------------------------------------------------------------------


def test_a_lease_does_not_run_out_while_its_result_is_checked(bench: StewardBench) -> None:
    batch = bench.submit(1)
    (lease,) = bench.lease(FIRST)
    checking = bench.offer_results(lease, FIRST)

    assert run_out(bench, lease.body) == []
    assert batch.progress[0].state is TaskState.VERIFYING
    bench.make_durable(bench.fetch_all(checking))
    measured = bench.measurements.of(FIRST.peer)
    assert (measured.successes_count, measured.failures_count) == (1, 0)


def test_a_result_that_comes_twice_is_checked_once_and_then_settled(bench: StewardBench) -> None:
    bench.submit(1)
    (lease,) = bench.lease(FIRST)
    checking = bench.offer_results(lease, FIRST)

    assert bench.offer_results(lease, FIRST) == []
    bench.make_durable(bench.fetch_all(checking))
    (settled,) = messages_in(bench.offer_results(lease, FIRST))
    assert isinstance(settled, Settled)


def test_anybody_may_bring_a_result_and_is_asked_for_its_output_first(
    bench: StewardBench,
) -> None:
    bench.submit(1)
    (lease,) = bench.lease(FIRST)

    checking = bench.offer_results(lease, FIRST, sender=THIRD.peer)

    (fetch,) = (effect for effect in checking if isinstance(effect, Fetch))
    assert fetch.sources == (THIRD.peer, FIRST.peer)


def test_a_result_under_a_lease_of_an_earlier_start_counts(bench: StewardBench) -> None:
    batch = bench.submit(1)
    early = lease_of(batch.contract, [0], steward=OWN, executor=FIRST, epoch=Epoch(0, 2, 0))

    assert outcomes_in(bench.fetch_all(bench.offer_results(early, FIRST))) == {0: "result"}


@pytest.mark.parametrize(
    "forgery",
    [
        "lease of another store",
        "lease of another steward",
        "forged lease",
        "another executor",
        "task not leased",
    ],
)
def test_a_result_without_a_lease_of_this_store_counts_for_nothing(
    bench: StewardBench, forgery: str
) -> None:
    batch = bench.submit(2)
    lease = lease_of(batch.contract, [0], steward=OWN, executor=FIRST)
    match forgery:
        case "lease of another store":
            other = {"store": store_of(77)}
            lease = lease_of(batch.contract, [0], steward=OWN, executor=FIRST, changes=other)
            effects = bench.offer_results(lease, FIRST)
        case "lease of another steward":
            lease = lease_of(batch.contract, [0], steward=THIRD, executor=FIRST)
            effects = bench.offer_results(lease, FIRST)
        case "forged lease":
            own = {"store": OWN.store}
            lease = lease_of(batch.contract, [0], steward=THIRD, executor=FIRST, changes=own)
            effects = bench.offer_results(lease, FIRST)
        case "another executor":
            effects = bench.offer_results(lease, SECOND)
        case _:
            effects = bench.offer_results(lease, FIRST, [1])

    assert not any(isinstance(effect, Fetch) for effect in effects)
    assert messages_in(effects) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"engine_profile": "other/1"},
        {"fuel_used": 10_000_000_001},
        {"output": Content(blob=blob_ref(bytes(100)))},
        {"log": Content(blob=blob_ref(b"log"))},
    ],
)
def test_a_result_outside_the_terms_gives_the_task_back_and_counts_once(
    bench: StewardBench, changes: dict[str, object]
) -> None:
    batch = bench.submit(1, limits=Limits(output_bytes=10))
    (lease,) = bench.lease(FIRST)

    for _ in range(3):
        refused = bench.offer_results(lease, FIRST, changes=changes)
        assert not any(isinstance(effect, Fetch) for effect in refused)

    assert batch.progress[0].state is TaskState.PENDING
    assert bench.measurements.of(FIRST.peer).failures_count == 1


def test_a_result_of_a_removed_device_is_not_voted_for(bench: StewardBench) -> None:
    batch = bench.submit(1)
    (lease,) = bench.lease(FIRST)
    bench.barred.add(FIRST.peer)

    bench.offer_results(lease, FIRST)

    assert batch.progress[0].state is TaskState.PENDING


def test_the_leases_of_a_removed_device_end_and_its_tasks_wait_without_a_failure(
    bench: StewardBench,
) -> None:
    batch = bench.submit(3)
    checked, fetched, running = sorted(
        (lease for _ in range(3) for lease in bench.lease(FIRST, tasks_count=1)),
        key=lambda lease: lease.body.indices,
    )
    effects = bench.offer_results(checked, FIRST)
    (fetch,) = (one for one in bench.offer_results(fetched, FIRST) if isinstance(one, Fetch))
    bench.steward.on_fetched(Fetched(fetch.token))
    assert running.body.indices == (2,)
    bench.barred.add(FIRST.peer)

    bench.do(bench.steward.on_devices_removed(frozenset({FIRST.peer}), now_us=bench.now_us))

    assert [task.state for task in batch.progress] == [TaskState.PENDING] * 3
    assert [task.failures for task in batch.progress] == [0] * 3
    assert all("may not run tasks" in task.reason for task in batch.progress)
    assert len(bench.leases) == 0
    assert bench.fetch_all(effects) == [], "what was on its way is voted for no more"
    again = [lease for _ in range(3) for lease in bench.lease(SECOND, tasks_count=1)]
    assert sorted(lease.body.indices for lease in again) == [(0,), (1,), (2,)]


def test_a_device_that_was_removed_after_it_accepted_gets_no_lease(bench: StewardBench) -> None:
    bench.submit(1)
    bench.candidates = [candidate(0, peer=FIRST.peer)]
    ((_, offer),) = bench.review()
    bench.barred.add(FIRST.peer)

    assert leases_in(bench.accept(FIRST.peer, offer)) == []


def test_a_wrong_output_is_not_fetched_again_and_the_device_is_not_asked_again(
    bench: StewardBench,
) -> None:
    batch = bench.submit(1)
    (lease,) = bench.lease(FIRST)
    same = {"output": Content(inline=b"what the liar sealed")}
    offered = bench.offer_results(lease, FIRST, changes=same)
    (fetch,) = (effect for effect in offered if isinstance(effect, Fetch))
    wrong = FetchFailed(fetch.token, "the digest differs", is_wrong=True)
    bench.do(bench.steward.on_fetch_failed(wrong, now_us=bench.now_us))

    assert bench.offer_results(lease, FIRST, changes=same) == []
    assert batch.progress[0].state is TaskState.PENDING
    assert bench.measurements.of(FIRST.peer).disputes_count == 1
    bench.candidates = [candidate(0, peer=FIRST.peer), candidate(0, peer=SECOND.peer)]
    assert {peer for peer, _ in bench.review()} == {SECOND.peer}


def test_a_refused_late_result_leaves_the_task_to_whom_it_is_leased_now(
    bench: StewardBench,
) -> None:
    batch = bench.submit(1)
    (first,) = bench.lease(FIRST)
    run_out(bench, first.body)
    (second,) = bench.lease(SECOND)
    (fetch,) = (e for e in bench.offer_results(first, FIRST) if isinstance(e, Fetch))
    failed = FetchFailed(fetch.token, "it has gone")
    bench.do(bench.steward.on_fetch_failed(failed, now_us=bench.now_us))

    assert batch.progress[0].state is TaskState.ASSIGNED
    assert batch.progress[0].executor == SECOND.peer
    assert bench.review() == []
    assert outcomes_in(bench.fetch_all(bench.offer_results(second, SECOND))) == {0: "result"}


def test_a_refused_late_result_of_a_device_does_not_lease_it_again_what_it_holds(
    bench: StewardBench,
) -> None:
    """The book refuses a second lease of a task to one device: granting it ended the steward."""
    batch = bench.submit(1)
    (first,) = bench.lease(FIRST)
    ended(bench, FIRST.peer, first.body, reason="the device is stopping")
    bench.now_us += 60_000_000
    (second,) = bench.lease(FIRST)
    (fetch,) = (e for e in bench.offer_results(first, FIRST) if isinstance(e, Fetch))
    failed = FetchFailed(fetch.token, "it has gone")
    bench.do(bench.steward.on_fetch_failed(failed, now_us=bench.now_us))
    bench.now_us += 60_000_000

    assert batch.progress[0].engaged == {FIRST.peer}
    assert bench.lease(FIRST) == []
    assert outcomes_in(bench.fetch_all(bench.offer_results(second, FIRST))) == {0: "result"}


def test_results_for_a_batch_that_this_store_never_knew_are_settled_as_unknown(
    bench: StewardBench,
) -> None:
    lost = StewardBench().start().submit(1)
    lease = lease_of(
        lost.contract, [0], steward=OWN, executor=FIRST, changes={"store": store_of(77)}
    )

    (settled,) = messages_in(bench.offer_results(lease, FIRST))

    assert settled == Settled(batch=lost.batch, outcomes={0: None})


# --- leases and blame -------------------------------------------------------------------------


def test_a_device_that_takes_part_of_an_offer_leaves_the_rest_to_others(
    bench: StewardBench,
) -> None:
    batch = bench.submit(8)
    bench.candidates = [candidate(0, peer=FIRST.peer, slots_free=1, slots_total=1)]
    ((peer, offer),) = bench.review()
    assert offer.tasks_count == 4

    (lease,) = leases_in(bench.accept(peer, offer, tasks_count=1))

    assert lease.body.indices == (0,)
    assert batch.waiting_count == 7


def test_what_a_device_did_not_want_is_no_failure_of_anybody(bench: StewardBench) -> None:
    batch = bench.submit(1, retries_max=0)
    for _ in range(3):
        (lease,) = bench.lease(FIRST)
        ended(bench, FIRST.peer, lease.body, reason="no room was reserved for it")
        bench.now_us += 1_000_000

    assert batch.progress[0].state is TaskState.PENDING
    assert bench.measurements.of(FIRST.peer).failures_count == 0


def test_what_a_device_did_not_want_spends_no_retry(bench: StewardBench) -> None:
    batch = bench.submit(1, retries_max=1)
    for reason in ("the device is stopping", "the device is stopping", "worker_died: signal 9"):
        (lease,) = bench.lease(FIRST)
        ended(bench, FIRST.peer, lease.body, 0, reason=reason)

    assert batch.waiting_count == 1
    assert (batch.progress[0].attempts, batch.progress[0].failures) == (3, 1)


@pytest.mark.parametrize(
    ("reason", "failures"),
    [
        ("worker_died: signal 9", 1),
        ("killed: no memory", 1),
        ("input_missing: nobody has it", 0),
        ("input_unreadable: wrong key", 0),
        ("not_wasm: no magic number", 0),
    ],
)
def test_a_device_is_blamed_for_its_own_faults_only(
    bench: StewardBench, reason: str, failures: int
) -> None:
    batch = bench.submit(1, retries_max=5)
    (lease,) = bench.lease(FIRST)
    ended(bench, FIRST.peer, lease.body, 0, reason=reason)

    assert bench.measurements.of(FIRST.peer).failures_count == failures
    assert batch.progress[0].failures == 1


def test_two_devices_have_to_say_that_a_module_is_bad_or_this_one(bench: StewardBench) -> None:
    reason = "not_wasm: no magic number"
    batch = bench.submit(1, retries_max=9)
    for _ in range(2):
        (lease,) = bench.lease(FIRST)
        assert decisions_in(ended(bench, FIRST.peer, lease.body, 0, reason=reason)) == []
    (lease,) = bench.lease(SECOND)
    assert outcomes_in(ended(bench, SECOND.peer, lease.body, 0, reason=reason)) == {0: "failed"}
    assert batch.progress[0].failures == 3

    bench.submit(1, retries_max=9)
    (lease,) = bench.lease(OWN)
    assert outcomes_in(ended(bench, OWN.peer, lease.body, 0, reason=reason)) == {0: "failed"}


def test_retries_are_spent_by_failures(bench: StewardBench) -> None:
    bench.submit(1, retries_max=1)
    (lease,) = bench.lease(FIRST)
    assert decisions_in(run_out(bench, lease.body)) == []
    (lease,) = bench.lease(SECOND)
    assert outcomes_in(run_out(bench, lease.body)) == {0: "failed"}


def test_only_the_holder_gives_a_lease_back(bench: StewardBench) -> None:
    batch = bench.submit(1)
    (lease,) = bench.lease(FIRST)
    ended(bench, SECOND.peer, lease.body, 0, reason="worker_died: no")
    assert batch.progress[0].state is TaskState.ASSIGNED


def test_a_lease_partly_done_goes_on_with_the_rest(bench: StewardBench) -> None:
    batch = bench.submit(200)
    lease, *_ = bench.lease(FIRST)
    done = bench.make_durable(bench.fetch_all(bench.offer_results(lease, FIRST, [0])))

    assert [batch.progress[index].state for index in (0, 1)] == [
        TaskState.SETTLED,
        TaskState.ASSIGNED,
    ]
    assert not any(isinstance(message, LeaseEnded) for message in messages_in(done))
    run_out(bench, lease.body)
    assert [batch.progress[index].state for index in (0, 1)] == [
        TaskState.SETTLED,
        TaskState.PENDING,
    ]


def test_progress_of_a_lease_that_is_over_is_answered_and_of_an_earlier_start_is_not(
    bench: StewardBench,
) -> None:
    batch = bench.submit(1)
    now = LeaseRef(batch.batch, bench.office.first_epoch, 9)
    early = LeaseRef(batch.batch, Epoch(0, 3, 0), 9)

    def answered(ref: LeaseRef) -> list[object]:
        progress = LeaseProgress(leases=(ref,))
        return [
            *messages_in(bench.steward.on_lease_progress(FIRST.peer, progress, now_us=bench.now_us))
        ]

    assert answered(now) == [LeaseEnded(lease=now, indices=(), reason="the lease is over")]
    assert answered(early) == []  # its result would still be taken
    bench.make_durable(bench.do(bench.steward.on_cancel(batch, 0)))
    assert len(answered(early)) == 1


def test_a_half_open_device_gets_one_lease_and_its_end_closes_or_opens(
    bench: StewardBench,
) -> None:
    breaker = bench.standings.breaker(FIRST.peer)
    fail_often(bench, FIRST.peer)
    assert breaker.due_us is not None
    breaker.on_timer_due(now_us=breaker.due_us)
    assert bench.standings.state(FIRST.peer) is BreakerState.HALF_OPEN
    bench.submit(3)
    bench.submit(3)

    probed = candidate(0, peer=FIRST.peer, breaker=BreakerState.HALF_OPEN)
    bench.candidates = [probed]
    offers = bench.review()
    assert len(offers) == 1
    (lease,) = leases_in(bench.accept(*offers[0]))
    assert not breaker.allows_work
    bench.candidates = [candidate(0, peer=FIRST.peer, allows_work=False)]
    assert bench.review() == []

    bench.make_durable(bench.fetch_all(bench.offer_results(lease, FIRST)))
    assert bench.standings.state(FIRST.peer) is BreakerState.CLOSED


def test_a_probe_goes_on_while_a_task_of_it_is_cancelled(bench: StewardBench) -> None:
    batch = bench.submit(8)
    fail_often(bench, FIRST.peer)
    breaker = bench.standings.breaker(FIRST.peer)
    assert breaker.due_us is not None
    breaker.on_timer_due(now_us=breaker.due_us)
    probed = candidate(0, peer=FIRST.peer, breaker=BreakerState.HALF_OPEN, slots_total=1)
    bench.candidates = [probed]
    ((peer, offer),) = bench.review()
    (lease,) = leases_in(bench.accept(peer, offer))
    assert len(lease.body.indices) == 4

    for index in (0, 1, 2):
        bench.make_durable(bench.do(bench.steward.on_cancel(batch, index)))
    assert not breaker.allows_work
    bench.make_durable(bench.do(bench.steward.on_cancel(batch, 3)))
    assert breaker.allows_work


def test_a_breaker_that_opened_meanwhile_releases_the_offer_and_raises_nothing(
    bench: StewardBench,
) -> None:
    batch = bench.submit(1)
    bench.candidates = [candidate(0, peer=FIRST.peer)]
    ((peer, offer),) = bench.review()
    for _ in range(26):
        bench.standings.on_lease_ended(
            FIRST.peer, "earlier", ProbeEnd.DEVICE_FAILED, now_us=bench.now_us
        )

    effects = bench.accept(peer, offer)

    assert messages_in(effects) == [OfferReleased(offer=offer.offer)]
    assert batch.waiting_count == 1


# --- offers -----------------------------------------------------------------------------------


def test_whoever_accepted_gets_the_lease_when_the_other_is_silent(bench: StewardBench) -> None:
    bench.submit(1)
    (first, offer), (second, _) = bench.review()
    assert leases_in(bench.accept(first, offer)) == []

    effects = bench.do(
        bench.steward.on_offer_unanswered(OfferUnanswered(offer.offer), now_us=bench.now_us)
    )

    (lease,) = leases_in(effects)
    assert lease.body.executor == first
    assert OfferReleased(offer=offer.offer) in messages_in(effects)
    bench.submit(1)
    assert second not in {peer for peer, _ in bench.review()}
    assert [late.offer for late in messages_in(bench.accept(second, offer))] == [offer.offer]  # type: ignore[union-attr]


def test_tasks_that_everybody_refuses_wait_for_the_next_review(bench: StewardBench) -> None:
    batch = bench.submit(1)
    for peer, offer in bench.review():
        rejected = OfferRejected(offer=offer.offer, reason=OfferRefusal.SLOTS_FULL)
        bench.do(bench.steward.on_offer_rejected(peer, rejected, now_us=bench.now_us))

    assert batch.waiting_count == 1
    bench.candidates = bench.candidates[:2]
    bench.now_us += 10_000_000
    assert len(bench.review()) == 2


def test_a_later_review_never_puts_off_an_earlier_one(bench: StewardBench) -> None:
    bench.submit(1)
    dues = [e.after_us for e in bench.effects if isinstance(e, SetTimer) and _is_review(e)]
    assert dues == [0]
    assert bench.steward.on_devices_changed(now_us=bench.now_us) == []


def _is_review(timer: SetTimer) -> bool:
    return isinstance(timer.key, PlacementReview)


def test_urgent_batches_go_first_and_those_alike_take_turns(bench: StewardBench) -> None:
    batches = [bench.submit(40, priority=priority) for priority in (0, 1, 1, 2)]
    bench.candidates = [candidate(1, slots_free=1, slots_total=1)]
    served = []
    for _ in range(3):
        ((_, offer),) = bench.review()
        served.append(_batch_index(batches, offer.contract.body.nonce))
        rejected = OfferRejected(offer=offer.offer, reason=OfferRefusal.SLOTS_FULL)
        bench.steward.on_offer_rejected(bench.candidates[0].peer, rejected, now_us=bench.now_us)
        bench.now_us += 10_000_000
        for index in range(40):
            if served[-1] == 3:
                bench.make_durable(bench.do(bench.steward.on_cancel(batches[3], index)))
    assert served == [3, 1, 2]


def _batch_index(batches: list[Batch], nonce: bytes) -> int:
    return [batch.contract.body.nonce for batch in batches].index(nonce)


def test_a_lease_message_fits_into_a_frame(bench: StewardBench) -> None:
    inputs = tuple(
        Task(index=index, input=Content(inline=bytes(INLINE_BYTES_MAX))) for index in range(128)
    )
    bench.submit(128, tasks=inputs)
    bench.candidates = [candidate(0, peer=FIRST.peer, slots_free=64, slots_total=1)]
    ((peer, offer),) = bench.review()[:1]

    (granted,) = (m for m in messages_in(bench.accept(peer, offer)) if isinstance(m, LeaseGranted))

    assert 1 < len(granted.tasks) < 64
    assert len(encode_body(granted)) < FRAME_BYTES_MAX


# --- bounds -----------------------------------------------------------------------------------


def submit_of(count: int, **changes: object) -> Submit:
    fields: dict[str, object] = {
        "module": blob_ref(b"module"),
        "tasks": tasks_of(count),
        "key": OWN.keys.seal(bytes(32), OWN.peer),
    }
    return Submit(**{**fields, **changes})  # type: ignore[arg-type]  # msgspec's init


def test_what_is_too_much_is_refused_with_what_to_do(bench: StewardBench) -> None:
    assert bench.steward.refusal(submit_of(1)) is None
    large = tuple(
        Task(index=index, input=Content(inline=bytes(INLINE_BYTES_MAX)))
        for index in range(BATCH_INLINE_BYTES_MAX // INLINE_BYTES_MAX + 1)
    )
    refused = bench.steward.refusal(submit_of(1, tasks=large))
    assert refused is not None
    assert "bytes" in refused.message

    while bench.office.ledger.undecided_tasks_count + 1_000 <= UNDECIDED_TASKS_MAX:
        bench.submit(1_000)
    refused = bench.steward.refusal(submit_of(1))
    assert refused is not None
    assert refused.hint == "wait for some to finish, or cancel some"
    batch = next(iter(bench.steward.batches.values()))
    bench.make_durable(bench.do(bench.steward.on_cancel(batch, 0)))
    assert bench.steward.refusal(submit_of(1)) is None


def test_a_batch_key_that_this_device_cannot_open_is_refused(bench: StewardBench) -> None:
    for key in (bytes(80), FIRST.keys.seal(bytes(32), SECOND.peer)):
        refused = bench.steward.refusal(submit_of(1, key=key))
        assert refused is not None
        assert refused.code == "bad_request"


def test_finished_batches_are_forgotten_with_rows_and_blobs_and_undecided_ones_never(
    bench: StewardBench,
) -> None:
    undecided = bench.submit(2)
    finished = [bench.submit(1) for _ in range(FINISHED_BATCHES_MAX + 1)]
    for batch in finished:
        bench.make_durable(bench.do(bench.steward.on_cancel(batch, 0)))

    effects_before = len(bench.effects)
    bench.submit(1)

    assert undecided.batch in bench.steward.batches
    assert finished[0].batch not in bench.steward.batches
    assert finished[1].batch in bench.steward.batches
    forgotten = bench.effects[effects_before:]
    assert Release(finished[0].batch) in forgotten
    deleted = {
        (row.kind, row.key[:20])
        for effect in forgotten
        if isinstance(effect, Persist)
        for row in effect.rows
        if row.value is None
    }
    assert deleted == {("batch", finished[0].batch), ("decision", finished[0].batch)}


def test_a_restart_takes_up_undecided_tasks_in_a_new_round(bench: StewardBench) -> None:
    batch = bench.submit(3)
    (lease, *_) = bench.lease(FIRST)
    bench.make_durable(bench.fetch_all(bench.offer_results(lease, FIRST, lease.body.indices[:1])))
    decided = lease.body.indices[0]

    again = StewardBench()
    rows = bench.rows
    again.do(
        again.steward.on_restarted(
            rounds=[row.value for (kind, _), row in rows.items() if kind == "round"],  # type: ignore[misc]
            batches=[row.value for (kind, _), row in rows.items() if kind == "batch"],  # type: ignore[misc]
            promises=[],
            decisions=[row.value for (kind, _), row in rows.items() if kind == "decision"],  # type: ignore[misc]
        )
    )
    again.steward.on_round_durable(now_us=again.now_us)

    taken = again.steward.batches[batch.batch]
    assert taken.progress[decided].state is TaskState.SETTLED
    assert [task.state for task in taken.progress].count(TaskState.PENDING) == 2
    assert taken.epoch > batch.epoch
    assert again.review() == []
    again.steward.on_earlier_leases_end(now_us=again.now_us)
    offers = again.review()
    assert {offer.tasks_count for _, offer in offers} == {1}
    assert batch.batch not in again.office.ledger._finished


def test_what_is_kept_of_decided_tasks_is_little(bench: StewardBench) -> None:
    batch = bench.submit(64)
    bench.make_durable(bench.do(bench.steward.on_deadline_due(DeadlineDue(batch.batch))))
    assert batch.tasks is None
    assert batch._proofs is None
    assert batch.waiting_count == 0
    assert {task.failed_on for task in batch.progress} == {None}
    assert MESH.id == bench.office.mesh


@pytest.mark.parametrize("is_copy", [True, False])
def test_a_store_that_was_put_back_from_a_copy_forgets_what_names_another_store(
    *, is_copy: bool
) -> None:
    first = StewardBench().start()
    batch = first.submit(3)
    rows = [row.value for row in first.rows.values() if isinstance(row.value, BatchRow)]
    again = StewardBench()
    if is_copy:
        again.office.store = store_of(9)
    again.do(again.steward.on_restarted(rounds=[], batches=rows, promises=[], decisions=[]))
    assert list(again.steward.batches) == ([] if is_copy else [batch.batch])
    forgotten = [key for (kind, key), row in again.rows.items() if kind == BATCH_ROW]
    assert forgotten == ([batch.batch] if is_copy else [])
    assert (again.office.ledger.undecided_tasks_count, len(again.office.ledger.undecided)) == (
        (0, 0) if is_copy else (3, 1)
    )
