"""Executors that take leases to do harm: what one of them can do to a task is bounded."""

from __future__ import annotations

import pytest
from support.stewards import EXECUTORS, StewardBench

from scheduler.states import TaskState
from scheduler.verification import UNUSABLE_MAX
from wire.blobs import BlobRef
from wire.content import Content
from wire.effects import Fetch
from wire.events import FetchFailed
from wire.ids import Digest

FIRST, SECOND, _ = EXECUTORS


@pytest.mark.parametrize("is_wrong", [False, True])
def test_one_lease_is_one_failure_however_many_results_are_made_up_under_it(
    is_wrong: bool,
) -> None:
    """Else one device could spend all retries of a task, or keep others' results waiting."""
    bench = StewardBench().start()
    batch = bench.submit(1)
    (lease,) = bench.lease(FIRST)
    fetches = 0
    for number in range(30):
        output = Content(blob=BlobRef(Digest(bytes([number]) * 32), 100))
        for effect in bench.offer_results(lease, FIRST, changes={"output": output}):
            if isinstance(effect, Fetch):
                fetches += 1
                failed = FetchFailed(effect.token, "it has gone", is_wrong=is_wrong)
                bench.do(bench.steward.on_fetch_failed(failed, now_us=bench.now_us))
    assert fetches == (1 if is_wrong else UNUSABLE_MAX)
    assert batch.progress[0].failures == 1
    assert batch.progress[0].state is TaskState.PENDING

    (other,) = bench.lease(SECOND)
    bench.fetch_all(bench.offer_results(other, SECOND))
    assert batch.progress[0].is_deciding


def test_a_device_whose_output_could_not_be_had_may_bring_it_once_more() -> None:
    bench = StewardBench().start()
    batch = bench.submit(1)
    (lease,) = bench.lease(FIRST)
    (fetch,) = (one for one in bench.offer_results(lease, FIRST) if isinstance(one, Fetch))
    failed = FetchFailed(fetch.token, "no answer in time")
    bench.do(bench.steward.on_fetch_failed(failed, now_us=bench.now_us))

    bench.fetch_all(bench.offer_results(lease, FIRST))
    assert batch.progress[0].is_deciding
