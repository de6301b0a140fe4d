"""A second attempt for stragglers: when there is one, and what it may cost."""

from __future__ import annotations

import pytest
from support.stewards import EXECUTORS, StewardBench, messages_in

from scheduler.batch import Batch
from scheduler.hedging import EXPECTED_FROM, EXTRA_PERMILLE, Hedging
from scheduler.states import TaskState
from wire.messages import LeaseEnded, LeaseRef
from wire.signed import Signed
from wire.tasks import Lease

FIRST, SECOND, _ = EXECUTORS
RUN_US = 1_000_000
DONE_COUNT = 60


@pytest.fixture
def bench() -> StewardBench:
    """Return a steward that knows how long tasks take, and can afford to wait less."""
    return StewardBench().start()


def hedging_of(bench: StewardBench) -> Hedging:
    return bench.steward._leasing.hedging


def with_straggler(
    bench: StewardBench, done_count: int = DONE_COUNT
) -> tuple[Batch, Signed[Lease]]:
    """Have tasks done in a second each, and one that is leased and silent about its end."""
    for _ in range(done_count):
        batch = bench.submit(1)
        (lease,) = bench.lease(FIRST)
        bench.now_us += RUN_US
        effects = bench.offer_results(lease, FIRST, changes={"wall_us": RUN_US})
        bench.make_durable(bench.fetch_all(effects))
        assert batch.is_decided
    batch = bench.submit(1)
    (lease,) = bench.lease(FIRST)
    return batch, lease


def look(bench: StewardBench) -> None:
    bench.do(hedging_of(bench).on_due(now_us=bench.now_us))


def test_a_straggler_gets_a_second_device_and_the_first_result_calls_the_other_off(
    bench: StewardBench,
) -> None:
    batch, lease = with_straggler(bench)
    bench.now_us += RUN_US + 1
    look(bench)

    (second,) = bench.lease(SECOND)
    assert batch.progress[0].engaged == {FIRST.peer, SECOND.peer}
    bench.now_us += RUN_US
    effects = bench.fetch_all(bench.offer_results(second, SECOND, changes={"wall_us": RUN_US}))
    told = bench.make_durable(effects)

    assert batch.progress[0].executor == SECOND.peer
    ref = LeaseRef(batch.batch, lease.body.epoch, lease.body.attempt)
    assert [one.lease for one in messages_in(told) if isinstance(one, LeaseEnded)] == [ref]
    hedging = hedging_of(bench)
    assert (hedging.hedges_count, hedging.extra_us) == (1, RUN_US)
    assert hedging.extra_us * 1_000 <= EXTRA_PERMILLE * hedging.run_us


def test_a_task_that_takes_as_long_as_others_is_let_alone(bench: StewardBench) -> None:
    batch, _ = with_straggler(bench)
    bench.now_us += RUN_US
    look(bench)
    assert batch.progress[0].runs_wanted == 1


@pytest.mark.parametrize("done_count", [EXPECTED_FROM - 1, 15])
def test_nothing_is_hedged_before_it_can_be_expected_and_afforded(
    bench: StewardBench, done_count: int
) -> None:
    batch, _ = with_straggler(bench, done_count)
    bench.now_us += 5 * RUN_US
    look(bench)
    assert batch.progress[0].runs_wanted == 1


def test_what_is_out_counts_as_spent(bench: StewardBench) -> None:
    batch, _ = with_straggler(bench, 2 * DONE_COUNT // 3 - 1)
    other = bench.submit(1)
    bench.lease(SECOND)
    bench.now_us += 2 * RUN_US
    look(bench)
    assert batch.progress[0].runs_wanted + other.progress[0].runs_wanted == 3


def test_when_one_of_the_two_gives_up_the_other_goes_on_alone(bench: StewardBench) -> None:
    batch, lease = with_straggler(bench)
    bench.now_us += RUN_US + 1
    look(bench)
    bench.lease(SECOND)

    ref = LeaseRef(batch.batch, lease.body.epoch, lease.body.attempt)
    ended = LeaseEnded(lease=ref, indices=(0,), reason="worker_died: it crashed")
    bench.do(bench.steward.on_lease_ended(FIRST.peer, ended, now_us=bench.now_us))

    task = batch.progress[0]
    assert task.engaged == {SECOND.peer}
    assert (task.runs_wanted, batch.waiting_count) == (1, 0)
    assert task.state is not TaskState.PENDING
    assert task.executor == SECOND.peer
