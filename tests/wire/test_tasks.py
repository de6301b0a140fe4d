"""Batches: a task or result is one of its batch, and terms that contradict each other are none."""

from __future__ import annotations

import time

import msgspec
import pytest
from msgspec.structs import replace
from support.meshes import keys_of, small_mesh, store_of
from support.tasks import contract_of, finished_task, proven_results, result_of, tasks_of

from wire.errors import MalformedFrame
from wire.ids import BATCH_TASKS_MAX
from wire.merkle import merkle_root
from wire.signed import encode_body
from wire.tasks import (
    Contract,
    Epoch,
    KeyFor,
    Lease,
    Outcome,
    Steward,
    batch_id_of,
    open_result,
    open_task,
    prove_task,
    prove_tasks,
    result_digest,
    task_id_of,
    tasks_root_of,
)

MESH = small_mesh(5)
TASKS = tasks_of(5)
CONTRACT = contract_of(MESH, TASKS, stewards=MESH.devices[:3])
FINISHED = finished_task()


def test_every_task_of_a_batch_is_proven_under_its_contract() -> None:
    proven = prove_tasks(TASKS)
    assert [open_task(task, CONTRACT.body) for task in proven] == list(TASKS)
    assert proven == tuple(prove_task(TASKS, index) for index in range(len(TASKS)))


def test_a_task_of_another_batch_place_or_proof_is_not_of_the_contract() -> None:
    first, second = prove_tasks(TASKS)[:2]
    foreign = prove_tasks(tasks_of(5))[0]  # the same arguments, sealed anew
    moved = replace(first, received=encode_body(replace(TASKS[0], index=1)))
    for wrong in (foreign, moved, replace(first, proof=second.proof), replace(first, proof=())):
        with pytest.raises(MalformedFrame, match="not of this contract"):
            open_task(wrong, CONTRACT.body)
    with pytest.raises(MalformedFrame, match=r"^task: "):
        open_task(replace(first, received=b"\x80"), CONTRACT.body)


def test_proofs_for_the_largest_batch_take_a_blink() -> None:
    tasks = tasks_of(BATCH_TASKS_MAX)
    began = time.perf_counter()
    proven = prove_tasks(tasks)
    # 2,047 hashes take some 3 ms; one batch hashed anew for each task took 2 s.
    assert time.perf_counter() - began < 0.5
    assert len(proven[700].proof) == 10


def test_a_batch_id_covers_every_byte_of_the_contract_and_names_its_tasks() -> None:
    other = contract_of(MESH, TASKS, stewards=MESH.devices[:3], changes={"nonce": b"m" * 16})
    assert batch_id_of(CONTRACT) != batch_id_of(other)
    task = task_id_of(CONTRACT, 3)
    assert (task.batch, task.index) == (batch_id_of(CONTRACT), 3)
    assert task.stewards == tuple(keys_of(number).peer[:4] for number in range(3))


def test_a_result_is_opened_under_its_executors_root_alone() -> None:
    results = [result_of(FINISHED.lease.body, index, b"out") for index in range(3)]
    executor = FINISHED.mesh.devices[3].keys
    proven = proven_results(results, executor)
    assert [open_result(result) for result in proven] == results
    wrong = [
        replace(proven[0], position=1),
        replace(proven[0], proof=proven[1].proof),
        replace(proven[0], root=proven_results(results[:1], executor)[0].root),
        replace(proven[0], received=encode_body(replace(results[0], exit_code=1))),
        proven_results(results, keys_of(2))[0],
    ]
    for result in wrong:
        with pytest.raises(MalformedFrame, match="not under its executor's signature"):
            open_result(result)
    with pytest.raises(MalformedFrame, match=r"^result: "):
        open_result(replace(proven[0], received=b"\x80"))


def test_votes_name_a_result_by_a_digest_that_is_not_its_leaf() -> None:
    received = FINISHED.result.received
    assert result_digest(received) != result_digest(received + b"\0")
    assert result_digest(received) != merkle_root([received])


STEWARDS = CONTRACT.body.stewards
FOURTH = Steward(keys_of(3).peer, store_of(3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stewards": STEWARDS[:2]}, "2 stewards"),
        ({"stewards": (*STEWARDS, FOURTH)}, "4 stewards"),
        ({"stewards": STEWARDS[:1]}, "1 stewards and durability mesh"),
        ({"durability": "local"}, "3 stewards and durability local"),
        ({"stewards": (*STEWARDS[:2], STEWARDS[0])}, "steward twice"),
        ({"stewards": (*STEWARDS[:2], Steward(STEWARDS[0].peer, store_of(9)))}, "steward twice"),
        ({"keys": (KeyFor(keys_of(0).peer, bytes(80)),) * 2}, "sealed to a device twice"),
        ({"quorum": 2}, "a quorum of 2 among 1 replicas"),
        ({"replicas": 8}, "<= 7"),
        ({"stewards": ()}, "length >= 1"),
        ({"tasks_count": 0}, ">= 1"),
        ({"tasks_count": BATCH_TASKS_MAX + 1}, "<= 1024"),
        ({"engine_profiles": ()}, "length >= 1"),
        ({"requirements": ["cpu"]}, "regex"),
        ({"deadline_us": 1 << 60}, "<="),
    ],
)
def test_a_contract_whose_terms_contradict_each_other_does_not_decode(
    changes: dict[str, object], message: str
) -> None:
    body = msgspec.msgpack.decode(CONTRACT.received)
    body.update(msgspec.to_builtins(changes, builtin_types=(bytes,)))
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.msgpack.decode(msgspec.msgpack.encode(body), type=Contract)


def test_a_lease_does_not_name_a_task_twice() -> None:
    body = msgspec.msgpack.decode(FINISHED.lease.received)
    body["indices"] = [1, 2, 1]
    with pytest.raises(msgspec.ValidationError, match="twice"):
        msgspec.msgpack.decode(msgspec.msgpack.encode(body), type=Lease)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "result"},
        {"kind": "cancelled", "result": bytes(32)},
        {"kind": "failed", "result": bytes(32)},
        {"kind": "won"},
    ],
)
def test_an_outcome_has_a_digest_exactly_if_it_is_a_result(fields: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=Outcome)


def test_epochs_are_ordered_by_move_then_round_then_rank() -> None:
    epochs = [Epoch(0, 0, 1), Epoch(0, 1, 0), Epoch(0, 1, 2), Epoch(1, 0, 0)]
    assert epochs == sorted(epochs)


def test_the_root_of_a_batch_depends_on_every_task_and_their_order() -> None:
    root = tasks_root_of(TASKS)
    assert root == CONTRACT.body.tasks_root
    assert tasks_root_of(TASKS[:-1]) != root
    assert tasks_root_of((TASKS[1], TASKS[0], *TASKS[2:])) != root
