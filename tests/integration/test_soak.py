"""Real daemons, killed, frozen and split while they work; and what judges the outcome.

`make soak` does the same for ten minutes.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import msgpack
import pytest
from soak.ledger import BadReceipt, Ledger, outcome_of
from soak.plan import RECOVERY_S, Fault, Kind, SoakPlan, Submission, plan_of
from soak.run import soak
from support.netns import why_no_fabric

VECTORS = Path(__file__).parent.parent / "wire" / "vectors" / "tasks.json"
NODES_COUNT = 4


def test_nothing_is_lost_or_decided_twice_while_devices_are_killed_frozen_and_split(
    tmp_path: Path,
) -> None:
    can_split = why_no_fabric() is None
    faults = [
        Fault(1.0, Kind.KILL_SUBMITTER, (1,), 2.0),
        Fault(4.0, Kind.FREEZE, (2,), 2.0),
        Fault(5.0, Kind.KILL, (3,), 1.0),
    ]
    if can_split:
        faults.insert(1, Fault(2.0, Kind.SPLIT, (0,), 2.5))
    submissions = [
        Submission(
            0.25 + 0.5 * number, tuple((number + step) % NODES_COUNT for step in range(4)), 2
        )
        for number in range(14)
    ]
    plan = SoakPlan(
        seed=0,
        nodes_count=NODES_COUNT,
        duration_s=7.5,
        faults=tuple(faults),
        submissions=tuple(submissions),
    )
    report = soak(plan, tmp_path, is_split=can_split)
    told = "\n".join(report.lines())
    assert report.is_good, told
    assert report.submits_count == len(submissions), told
    assert len(report.batches) >= 3, told  # those before the first fault at least
    assert sum(report.faults.values()) == len(faults), told


@pytest.fixture(scope="module")
def vector() -> dict[str, object]:
    """Return the test vectors of a task whose receipt is good."""
    found: dict[str, object] = json.loads(VECTORS.read_text("ascii"))
    return found


def receipt(vector: dict[str, object]) -> bytes:
    return bytes.fromhex(str(vector["receipt"]))


def task(vector: dict[str, object], index: int = 0) -> str:
    ids = vector["task_ids"]
    assert isinstance(ids, list)
    return str(ids[index])


def test_the_ledger_reads_what_the_stewards_signed(vector: dict[str, object]) -> None:
    kind, digest = outcome_of(task(vector), receipt(vector))
    assert kind == "result"
    assert digest is not None
    assert len(digest) == 32


def test_the_ledger_takes_no_receipt_for_another_task(vector: dict[str, object]) -> None:
    with pytest.raises(BadReceipt, match="another task"):
        outcome_of(task(vector, 1), receipt(vector))


def test_the_ledger_wants_a_majority(vector: dict[str, object]) -> None:
    parts = msgpack.unpackb(receipt(vector), strict_map_key=False)
    parts["votes"] = [parts["votes"][0]] * 2
    with pytest.raises(BadReceipt, match="no majority"):
        outcome_of(task(vector), msgpack.packb(parts))


def test_the_ledger_verifies_signatures_and_results(vector: dict[str, object]) -> None:
    parts = msgpack.unpackb(receipt(vector), strict_map_key=False)
    body, signer, signature = parts["votes"][0]
    forged = {**parts, "votes": [[body, signer, bytes(64)], parts["votes"][1]]}
    swapped = {**parts, "result": {**parts["result"], "received": b"\x80"}}
    for changed in (forged, swapped, {"votes": 3}):
        with pytest.raises(BadReceipt):
            outcome_of(task(vector), msgpack.packb(changed))
    assert signature


def test_losses_and_doubles_are_seen(vector: dict[str, object]) -> None:
    ledger = Ledger()
    ledger.add(task(vector), receipt(vector), told_by="attic")
    ledger.add(task(vector), receipt(vector), told_by="garage")
    assert ledger.lost([task(vector), "another"]) == ["another"]
    assert ledger.doubles() == []
    assert ledger.kind_of(task(vector)) == "result"
    ledger.outcomes[task(vector)]["cancelled", None] = {"kitchen"}
    assert len(ledger.doubles()) == 1
    ledger.add(task(vector), b"\xc1", told_by="porch")
    assert len(ledger.bad) == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_always_plans_the_same_and_every_fault_ends_in_time(seed: int) -> None:
    plan = plan_of(seed, nodes_count=5, duration_s=600)
    assert plan == plan_of(seed, nodes_count=5, duration_s=600)
    assert {fault.kind for fault in plan.faults} == set(Kind)
    assert 400 < len(plan.submissions) < 800
    assert all(fault.at_s + fault.for_s <= plan.duration_s for fault in plan.faults)
    processes = [fault for fault in plan.faults if fault.kind is not Kind.SPLIT]
    for one, following in itertools.pairwise(processes):
        assert following.at_s >= one.at_s + one.for_s + RECOVERY_S
    for fault in plan.faults:
        assert 1 <= len(fault.nodes) <= 2


def test_seeds_differ() -> None:
    plans = [plan_of(seed, nodes_count=5, duration_s=60) for seed in range(10)]
    assert len({plan.faults for plan in plans}) == 10
