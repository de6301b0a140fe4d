"""What is kept of leases: one row a device and batch, however often it gets a lease, for good."""

from __future__ import annotations

import pytest
from support.stewards import EXECUTORS, OWN, StewardBench

from scheduler.batch import BATCH_ROW, BatchRow
from scheduler.keeping import forgotten_batch
from scheduler.lease_history import (
    DONE,
    LEASE_ROW,
    RESTARTED,
    SPANS_MAX,
    LeaseHistory,
    LeaseRow,
)
from scheduler.leases import GrantedLeaseEnds
from scheduler.leasing import DECIDED, RUN_OUT
from scheduler.steward import RoundRow
from wire.effects import Persist
from wire.ids import BatchId, PeerId
from wire.messages import LeaseRef
from wire.tasks import Epoch

FIRST, *_ = EXECUTORS
BATCH, EPOCH = BatchId(bytes(20)), Epoch(0, 1, 0)


@pytest.fixture
def bench() -> StewardBench:
    """Return a steward that has started."""
    return StewardBench().start()


def row_in_store(bench: StewardBench, batch: BatchId, executor: PeerId) -> LeaseRow:
    value = bench.rows[LEASE_ROW, batch + executor].value
    assert isinstance(value, LeaseRow)
    return value


def test_a_device_that_gets_the_task_again_goes_on_in_the_row_it_has(bench: StewardBench) -> None:
    batch = bench.submit(1)
    for attempt in (1, 2):
        (lease,) = bench.lease(FIRST)
        assert row_in_store(bench, batch.batch, FIRST.peer).is_active
        ref = LeaseRef(batch.batch, lease.body.epoch, attempt)
        bench.now_us += bench.leases.lease_us
        bench.do(bench.steward.on_granted_lease_ends(GrantedLeaseEnds(ref), now_us=bench.now_us))

    row = row_in_store(bench, batch.batch, FIRST.peer)
    assert not row.is_active
    assert [(span.attempt, span.ended) for span in row.spans] == [(1, RUN_OUT), (2, RUN_OUT)]
    assert len([key for kind, key in bench.rows if kind == LEASE_ROW]) == 1


def test_no_more_devices_have_an_active_row_than_replicas(bench: StewardBench) -> None:
    batch = bench.submit(1, replicas=2, quorum=2)
    for executor in EXECUTORS:
        bench.lease(executor)
    rows = [batch.lease_history.row_of(executor.peer) for executor in EXECUTORS]
    assert [row is not None and row.is_active for row in rows] == [True, True, False]


def test_how_each_lease_ended_is_on_disk_when_the_batch_is_decided(bench: StewardBench) -> None:
    batch = bench.submit(2)
    for lease in bench.lease(FIRST):
        bench.make_durable(bench.fetch_all(bench.offer_results(lease, FIRST)))

    assert batch.is_decided
    for span in row_in_store(bench, batch.batch, FIRST.peer).spans:
        assert span.ended == DONE
        assert span.granted_wall_us == span.ended_wall_us == bench.wall_us
    assert batch.lease_history.row_of(FIRST.peer) is None  # it has left memory


def test_a_cancelled_task_ends_the_lease_as_decided(bench: StewardBench) -> None:
    batch = bench.submit(1)
    bench.lease(FIRST)
    bench.make_durable(bench.do(bench.steward.on_cancel(batch, 0)))
    (span,) = row_in_store(bench, batch.batch, FIRST.peer).spans
    assert span.ended == DECIDED


def test_a_restart_keeps_the_rows_and_only_forgetting_the_batch_erases_them(
    bench: StewardBench,
) -> None:
    batch = bench.submit(1)
    bench.lease(FIRST)
    again = StewardBench()
    again.do(
        again.steward.on_restarted(
            rounds=[RoundRow(round=7)],
            batches=[row.value for row in bench.rows.values() if isinstance(row.value, BatchRow)],
            promises=[],
            decisions=[],
            leases=[
                (row.key, row.value)
                for row in bench.rows.values()
                if isinstance(row.value, LeaseRow)
            ],
        )
    )
    kept = again.steward.batches[batch.batch]
    row = kept.lease_history.row_of(FIRST.peer)
    assert row is not None
    assert [span.ended for span in row.spans] == [RESTARTED]

    (persist, _) = forgotten_batch(kept)
    assert isinstance(persist, Persist)
    assert {(one.kind, one.key) for one in persist.rows if one.value is None} == {
        (BATCH_ROW, batch.batch),
        (LEASE_ROW, batch.batch + FIRST.peer),
    }


def test_a_row_is_bounded_and_counts_what_it_leaves_out() -> None:
    history = LeaseHistory()
    for attempt in range(1, SPANS_MAX + 3):
        ref = LeaseRef(BATCH, EPOCH, attempt)
        history.on_granted(ref, OWN.peer, (0,), wall_us=attempt)
        history.on_over(ref, OWN.peer, "x" * 1_000, wall_us=attempt)
    row = history.row_of(OWN.peer)
    assert row is not None
    assert (len(row.spans), row.earlier_count) == (SPANS_MAX, 2)
    assert len(row.spans[-1].ended) < 1_000
