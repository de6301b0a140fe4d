"""Results that nobody asked to compare: which are run twice, and that nobody waits for nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.candidates import candidate
from support.meshes import Device
from support.stewards import EXECUTORS, OWN, WRONG, StewardBench, leases_in, rows_in, runs

from scheduler.batch import Batch
from scheduler.comparing import (
    CHECK_PATIENCE_US,
    HELD_PATIENCE_US,
    NOT_COMPARED,
    UNCHECKED,
    PatienceOver,
)
from scheduler.outcomes import DeadlineDue
from scheduler.spot_checks import TRUSTED_AFTER, Draw, Lots, SpotChecks, counted
from scheduler.states import TaskState
from wire.effects import SetTimer
from wire.execution import ExecutionStatus
from wire.ids import BatchId, PeerId
from wire.tasks import OutcomeKind, open_result

FIRST, SECOND, THIRD = EXECUTORS
BATCH = BatchId(b"b" * 20)
HELD = "spot checks of its device are under way"


def checks(valid_count: int, floor_permille: int = 20) -> SpotChecks[int]:
    return SpotChecks(valid_in_a_row=lambda _: valid_count, floor_permille=floor_permille)


@pytest.mark.parametrize(
    ("valid_count", "chance", "expected"),
    [
        (0, 0.999, Draw.CHECK),
        (9, 0.999, Draw.CHECK),
        (10, 0.0999, Draw.CHECK),
        (10, 0.1, Draw.TAKE),
        (40, 0.0249, Draw.CHECK),
        (40, 0.025, Draw.TAKE),
        (1_000_000, 0.0199, Draw.CHECK),  # the floor
        (1_000_000, 0.02, Draw.TAKE),
    ],
)
def test_a_device_is_checked_less_the_longer_it_was_right(
    valid_count: int, chance: float, expected: Draw
) -> None:
    assert checks(valid_count).draw(1, chance) is expected


def test_a_stranger_costs_as_many_checks_as_it_lacks_and_the_rest_waits() -> None:
    drawn = checks(7)
    for _ in range(3):
        assert drawn.draw(1, 0.5) is Draw.CHECK
        drawn.on_begun(1)
    assert drawn.draw(1, 0.5) is Draw.HOLD
    assert drawn.draw(2, 0.5) is Draw.CHECK  # another device
    drawn.on_ended(1)
    assert drawn.draw(1, 0.5) is Draw.CHECK


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_unchecked_results_make_nobody_trusted(
    before: int, checked_count: int, unchecked_count: int
) -> None:
    after = counted(before, checked_count=checked_count, unchecked_count=unchecked_count)
    assert after >= before
    if after >= TRUSTED_AFTER:
        assert before + checked_count >= TRUSTED_AFTER


@given(st.binary(min_size=32, max_size=32), st.integers(0, 1_023))
def test_lots_rank_the_same_devices_in_the_same_order_and_depend_on_the_task(
    secret: bytes, index: int
) -> None:
    lots = Lots(secret)
    peers = [PeerId(bytes([number]) * 32) for number in range(20)]
    ranked = lots.ranked(BATCH, index, peers)
    assert sorted(ranked) == peers
    assert lots.ranked(BATCH, index, reversed(peers)) == ranked
    assert lots.ranked(BATCH, (index + 1) % 1_024, peers) != ranked
    assert 0 <= lots.chance(BATCH, index) < 1


@pytest.fixture
def bench() -> StewardBench:
    return StewardBench(spot_checks=True).start()


def everybody(bench: StewardBench) -> None:
    bench.candidates = [
        candidate(number, peer=device.peer, slots_free=64, slots_total=64)
        for number, device in enumerate((OWN, *EXECUTORS))
    ]


def brought(bench: StewardBench, device: Device, **changes: object) -> None:
    """Let a device have what waits and bring it, while others are there."""
    leases = bench.lease(device)
    everybody(bench)
    for lease in leases:
        offered = bench.offer_results(lease, device, changes=changes)
        durable = bench.fetch_all(offered)
        while durable:  # what was held may be decided then
            durable = bench.make_durable(durable)


def trusted(bench: StewardBench, device: Device) -> None:
    bench.measurements.on_valid_in_a_row(device.peer, 1_000_000)


def decided(batch: Batch) -> int:
    return len(batch.decided_indices())


def test_a_stranger_s_result_is_run_by_another_device_first(bench: StewardBench) -> None:
    batch = bench.submit(1)
    brought(bench, FIRST)
    assert batch.progress[0].state is TaskState.VERIFYING
    assert batch.progress[0].reason.startswith("a spot check: 1 of 2 equal results are here")
    brought(bench, SECOND)
    assert decided(batch) == 1
    assert bench.standings.valid_in_a_row(FIRST.peer) == 1
    assert bench.standings.valid_in_a_row(SECOND.peer) == 1


def test_a_lease_of_a_stranger_has_ten_checks_and_then_it_is_trusted(bench: StewardBench) -> None:
    batch = bench.submit(40)
    while any(bench.progress_of(batch)):
        brought(bench, FIRST)
    held = [task for task in batch.progress if task.reason.startswith("spot checks of its")]
    assert (len(held), decided(batch)) == (30, 0)
    for _ in range(40):
        brought(bench, SECOND)
    assert decided(batch) == 40
    assert bench.standings.valid_in_a_row(FIRST.peer) >= 30
    seconds = sum(task.attempts for task in batch.progress) - 40
    assert 10 <= seconds <= 16  # a tenth of the others, too, and less and less


def test_the_submitter_s_own_device_is_believed(bench: StewardBench) -> None:
    batch = bench.submit(1)
    brought(bench, OWN)
    assert decided(batch) == 1
    assert batch.progress[0].reason == ""


def test_where_nobody_else_can_run_it_a_result_is_taken_and_says_so(bench: StewardBench) -> None:
    batch = bench.submit(1)
    (lease,) = bench.lease(FIRST)  # and nobody else is there
    bench.make_durable(bench.fetch_all(bench.offer_results(lease, FIRST)))
    assert decided(batch) == 1
    assert batch.progress[0].reason == UNCHECKED
    assert bench.standings.valid_in_a_row(FIRST.peer) == 0  # nobody has seen that it is valid


def test_a_check_that_nobody_takes_up_in_time_keeps_nobody_waiting(bench: StewardBench) -> None:
    batch = bench.submit(1)
    brought(bench, FIRST)
    over = PatienceOver(batch.batch, 0)
    effects = bench.steward.on_patience_over(over, now_us=CHECK_PATIENCE_US)
    bench.make_durable(effects)
    assert batch.progress[0].reason == UNCHECKED
    assert decided(batch) == 1


def held_by_a_check(bench: StewardBench) -> tuple[Batch, Batch]:
    """Return a batch whose result is checked, and one whose result waits for that check."""
    bench.measurements.on_valid_in_a_row(FIRST.peer, TRUSTED_AFTER - 1)
    checked, held = bench.submit(1), bench.submit(1)
    brought(bench, FIRST)
    assert checked.progress[0].reason.startswith("a spot check: ")
    assert held.progress[0].reason == HELD
    return checked, held


def test_a_check_whose_task_cannot_be_decided_keeps_no_other_result_waiting(
    bench: StewardBench,
) -> None:
    checked, held = held_by_a_check(bench)
    over = PatienceOver(checked.batch, 0)
    bench.do(bench.steward.on_patience_over(over, now_us=CHECK_PATIENCE_US))
    assert not decided(checked)  # as where a majority of its stewards is gone
    assert held.progress[0].reason.startswith("a spot check: 1 of 2 equal results are here")


def test_a_result_waits_for_checks_of_its_device_for_a_minute_and_then_is_checked(
    bench: StewardBench,
) -> None:
    checked, held = held_by_a_check(bench)
    over = PatienceOver(held.batch, 0)
    assert SetTimer(over, HELD_PATIENCE_US) in bench.effects
    effects = bench.do(bench.steward.on_patience_over(over, now_us=HELD_PATIENCE_US))
    assert SetTimer(over, CHECK_PATIENCE_US) in effects
    assert held.progress[0].reason.startswith("a spot check: 1 of 2 equal results are here")
    bench.make_durable(bench.steward.on_patience_over(over, now_us=2 * HELD_PATIENCE_US))
    assert held.progress[0].reason == UNCHECKED
    assert not decided(checked)


def test_a_result_that_comes_again_after_another_steward_led_does_not_wait_for_itself(
    bench: StewardBench,
) -> None:
    checked, held = held_by_a_check(bench)
    (lease,) = (one for one in leases_in(bench.effects) if one.body.batch == checked.batch)
    leasing = bench.steward._leasing
    bench.do(leasing.stand_down(checked, "another steward leads it", now_us=bench.now_us))
    bench.fetch_all(bench.offer_results(lease, FIRST))
    reasons = sorted(batch.progress[0].reason[:14] for batch in (checked, held))
    assert reasons == ["a spot check: ", HELD[:14]]  # one is checked, and the other waits for it


def test_a_deadline_takes_what_was_only_to_be_checked(bench: StewardBench) -> None:
    batch = bench.submit(1)
    brought(bench, FIRST)
    bench.make_durable(bench.steward.on_deadline_due(DeadlineDue(batch.batch)))
    (one,) = batch.progress
    assert one.decided is not None
    assert one.decided.kind is OutcomeKind.RESULT


def test_partners_that_fail_do_not_fail_a_task_that_has_a_result(bench: StewardBench) -> None:
    batch = bench.submit(1, retries_max=0)
    brought(bench, FIRST)
    (lease,) = bench.lease(SECOND)
    refs = [ref for ref, _ in bench.leases.of_task(batch.batch, 0)]
    assert lease.body.executor == SECOND.peer
    for ref in refs:
        granted = bench.leases.of(ref, SECOND.peer)
        assert granted is not None
        granted.expires_us = 0
        due = bench.run_out_of(ref)
        assert not rows_in(due)
    assert batch.progress[0].is_open
    assert not batch.progress[0].is_waiting


def test_a_liar_is_found_by_a_check_and_a_stranger_again(bench: StewardBench) -> None:
    trusted(bench, SECOND)
    batch = bench.submit(1)
    brought(bench, FIRST, **WRONG)
    brought(bench, SECOND)
    assert batch.progress[0].state is TaskState.DISPUTED
    brought(bench, THIRD)
    (row,) = rows_in(runs(bench, OWN))
    assert open_result(row.results[0]).exit_code == 0
    assert bench.measurements.of(FIRST.peer).disputes_count == 1
    assert bench.standings.valid_in_a_row(FIRST.peer) == 0


def test_who_says_what_cannot_be_compared_where_others_agree_is_a_stranger_again(
    bench: StewardBench,
) -> None:
    bench.measurements.on_valid_in_a_row(FIRST.peer, TRUSTED_AFTER - 1)
    batch = bench.submit(1)
    brought(bench, FIRST, status=ExecutionStatus.OUT_OF_TIME)
    brought(bench, SECOND)
    brought(bench, THIRD)
    assert decided(batch) == 1
    assert bench.standings.valid_in_a_row(FIRST.peer) == 0
    assert bench.measurements.of(FIRST.peer).disputes_count == 0


def test_where_nobody_s_result_can_be_compared_the_first_stands(bench: StewardBench) -> None:
    batch = bench.submit(1)
    brought(bench, FIRST, status=ExecutionStatus.OUT_OF_TIME)
    brought(bench, SECOND, status=ExecutionStatus.OUT_OF_TIME)
    assert batch.progress[0].reason == NOT_COMPARED
    assert decided(batch) == 1
