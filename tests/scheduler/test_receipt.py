"""A receipt proves one outcome, offline; whatever is missing, forged or swapped has a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest
from msgspec.structs import replace
from support.meshes import Device, keys_of, small_mesh
from support.tasks import (
    BATCH_KEY,
    FinishedTask,
    contract_of,
    finished_task,
    lease_of,
    outcome_of,
    proven_results,
    result_of,
    tasks_of,
    vote_of,
)

from scheduler.errors import ReceiptIncomplete
from scheduler.moves import moved_to
from scheduler.receipt import (
    MESH_UNKNOWN,
    RECEIPT_FILE_BYTES_MAX,
    build_receipt,
    receipt_from_file,
    receipt_to_file,
    verify_receipt,
    with_digest_key,
)
from scheduler.verdict import CheckName, CheckResult, Fault, Verdict
from wire.content import digest_key
from wire.errors import BadSignature, MalformedFrame
from wire.ids import MeshId, mesh_text, peer_text
from wire.keys import Ed25519Verifier
from wire.membership import Chain, Role, mesh_id_of
from wire.signed import Signed, sign
from wire.tasks import (
    Epoch,
    Move,
    Outcome,
    OutcomeKind,
    ProvenResult,
    Receipt,
    Steward,
    Vote,
    prove_tasks,
)

FINISHED = finished_task(submitter=2)
OUTPUT = FINISHED.output
LATER = Epoch(0, 2, 0)
VERIFIER = Ed25519Verifier()


def examined(
    receipt: Receipt, *, mesh: MeshId | None = FINISHED.mesh.id, output: bytes | None = OUTPUT
) -> Verdict:
    return verify_receipt(receipt_to_file(receipt), verifier=VERIFIER, mesh=mesh, result=output)


def built(finished: FinishedTask) -> Receipt:
    return build_receipt(
        finished.mesh.genesis,
        finished.contract,
        finished.task,
        finished.lease,
        finished.result,
        finished.votes,
        finished.chains,
    )


def own_result(**changes: object) -> ProvenResult:
    """Return another result of task 1 that its executor really signed."""
    result = result_of(FINISHED.lease.body, 1, OUTPUT, changes=changes)
    return proven_results([result], FINISHED.mesh.devices[3].keys)[0]


def votes_for(
    outcome: Outcome, *, voters: tuple[int, ...] = (0, 1), **changes: object
) -> tuple[Signed[Vote], ...]:
    devices = FINISHED.mesh.devices
    return tuple(
        vote_of(FINISHED.contract, {1: outcome}, steward=devices[voter], changes=changes)
        for voter in voters
    )


def voted(result: ProvenResult) -> Receipt:
    """Return a receipt in which the stewards chose `result`."""
    return FINISHED.receipt(result=result, votes=votes_for(outcome_of(result)))


def with_chain(number: int, chain: Chain) -> Receipt:
    chains = list(FINISHED.chains)
    chains[number] = chain
    return FINISHED.receipt(chains=tuple(chains))


def without_chain(number: int) -> Receipt:
    peer = keys_of(number).peer
    kept = tuple(chain for chain in FINISHED.chains if chain[0].body.subject != peer)
    return FINISHED.receipt(chains=kept)


def without_role(number: int, role: Role) -> Receipt:
    roles = tuple(other for other in Role if other is not role)
    return with_chain(number, small_mesh(4, roles={number: roles}).chains[number])


def released(**changes: object) -> Receipt:
    """Return a receipt with a lease of the same run that says something else."""
    devices = FINISHED.mesh.devices
    lease = lease_of(
        FINISHED.contract, range(3), steward=devices[0], executor=devices[3], changes=changes
    )
    return FINISHED.receipt(lease=lease)


def leased_by(number: int, *, rank: int) -> Receipt:
    devices, epoch = FINISHED.mesh.devices, Epoch(0, 1, rank)
    lease = lease_of(
        FINISHED.contract, range(3), steward=devices[number], executor=devices[3], epoch=epoch
    )
    result = own_result(epoch=epoch)
    votes = votes_for(outcome_of(result), epoch=LATER)
    return FINISHED.receipt(lease=lease, result=result, votes=votes)


def test_a_good_receipt_names_the_task_its_outcome_and_who_vouches_for_it() -> None:
    verdict = examined(FINISHED.receipt())
    assert verdict.is_good
    assert verdict.faults == ()
    assert verdict.checked_against == f"mesh {mesh_text(FINISHED.mesh.id)}"
    facts = verdict.facts
    assert facts.task == str(FINISHED.task_id)
    assert (facts.outcome, facts.status, facts.exit_code) == ("result", "exited", 0)
    assert facts.submitter == peer_text(keys_of(2).peer)
    assert facts.executor == peer_text(keys_of(3).peer)
    assert facts.stewards == (peer_text(keys_of(0).peer), peer_text(keys_of(1).peer))
    assert (facts.stewards_count, facts.durability) == (3, "mesh")
    named = [name for name in CheckName if name is not CheckName.MOVES]  # it has none
    assert [check.name for check in verdict.checks] == named
    assert {check.result for check in verdict.checks} == {CheckResult.GOOD}


def test_without_a_mesh_id_a_receipt_is_only_consistent_and_says_so() -> None:
    verdict = examined(FINISHED.receipt(), mesh=None)
    assert verdict.is_good
    assert verdict.checked_against == MESH_UNKNOWN == "consistent, mesh unknown"


@pytest.mark.parametrize("stewards_count", [1, 3])
@pytest.mark.parametrize("tasks_count", [2, 3, 64])
def test_a_receipt_built_from_its_parts_verifies(stewards_count: int, tasks_count: int) -> None:
    finished = finished_task(stewards_count=stewards_count, tasks_count=tasks_count)
    receipt = built(finished)
    verdict = examined(with_digest_key(receipt, digest_key(BATCH_KEY)), output=finished.output)
    assert verdict.is_good, verdict.faults
    assert receipt_from_file(receipt_to_file(receipt), VERIFIER) == receipt


def test_one_device_alone_can_be_submitter_steward_and_executor() -> None:
    mesh, tasks = small_mesh(1), tasks_of(1)
    (device,) = mesh.devices
    contract = contract_of(mesh, tasks)
    lease = lease_of(contract, [0], steward=device, executor=device)
    (result,) = proven_results([result_of(lease.body, 0, b"alone")], device.keys)
    vote = vote_of(contract, {0: outcome_of(result)}, steward=device)
    receipt = build_receipt(
        mesh.genesis, contract, prove_tasks(tasks)[0], lease, result, [vote], mesh.chains
    )
    verdict = examined(receipt, mesh=mesh.id, output=None)
    assert verdict.is_good
    assert verdict.facts.durability == "local"


@pytest.mark.parametrize("kind", [OutcomeKind.CANCELLED, OutcomeKind.FAILED])
def test_an_outcome_without_a_result_has_a_receipt_without_one(kind: OutcomeKind) -> None:
    outcome = Outcome(kind=kind, reason="deadline passed")
    receipt = build_receipt(
        FINISHED.mesh.genesis,
        FINISHED.contract,
        FINISHED.task,
        FINISHED.lease,
        FINISHED.result,
        votes_for(outcome),
        FINISHED.chains,
    )
    assert receipt.lease is None
    assert receipt.result is None
    verdict = examined(receipt, output=None)
    assert verdict.is_good
    assert (verdict.facts.outcome, verdict.facts.reason) == (kind.value, "deadline passed")
    assert verdict.facts.executor is None
    assert examined(receipt).faults == (Fault.NO_OUTPUT,)


def test_what_others_wrote_into_a_receipt_is_made_visible() -> None:
    outcome = Outcome(kind=OutcomeKind.FAILED, reason="late\x1b[2J")
    receipt = FINISHED.receipt(lease=None, result=None, votes=votes_for(outcome))
    assert examined(receipt).facts.reason == "late\\x1b[2J"
    hostile = msgspec.msgpack.decode(receipt_to_file(FINISHED.receipt()))
    hostile["version"] = "\x1b[2J"
    hostile["genesis"] = ["\x1b[2J"]
    verdict = verify_receipt(
        msgspec.msgpack.encode(hostile), verifier=VERIFIER, mesh=None, result=None
    )
    assert "\x1b" not in "".join(check.detail for check in verdict.checks)


def test_a_late_result_is_good_under_an_epoch_after_its_lease() -> None:
    receipt = FINISHED.receipt(votes=votes_for(outcome_of(FINISHED.result), epoch=LATER))
    assert examined(receipt).is_good


def test_the_lease_of_a_steward_that_lost_the_lead_still_counts() -> None:
    assert examined(leased_by(2, rank=2)).is_good


MESHES = small_mesh(4, nonce=8)
FOREIGN = finished_task(MESHES)
OTHER_TASK = finished_task(index=2)
CANCELLED = Outcome(kind=OutcomeKind.CANCELLED)

LIES: dict[str, tuple[Callable[[], Receipt], Fault]] = {
    "a receipt of another mesh": (FOREIGN.receipt, Fault.OTHER_MESH),
    "the genesis of another mesh": (
        lambda: FINISHED.receipt(genesis=MESHES.genesis),
        Fault.OTHER_MESH,
    ),
    "the contract of another mesh": (
        lambda: FINISHED.receipt(contract=FOREIGN.contract),
        Fault.OTHER_MESH,
    ),
    "no chain of the submitter": (lambda: without_chain(2), Fault.CHAIN_MISSING),
    "no chain of a steward": (lambda: without_chain(1), Fault.CHAIN_MISSING),
    "no chain of the executor": (lambda: without_chain(3), Fault.CHAIN_MISSING),
    "a chain of another mesh": (lambda: with_chain(3, MESHES.chains[3]), Fault.CHAIN_BROKEN),
    "a chain that is cut": (lambda: with_chain(3, FINISHED.chains[3][:1]), Fault.CHAIN_BROKEN),
    "a submitter who may not": (lambda: without_role(2, Role.SUBMITTER), Fault.ROLE_MISSING),
    "a steward who may not": (lambda: without_role(1, Role.STEWARD), Fault.ROLE_MISSING),
    "an executor who may not": (lambda: without_role(3, Role.EXECUTOR), Fault.ROLE_MISSING),
    "a task of another batch": (
        lambda: FINISHED.receipt(task=prove_tasks(tasks_of(9))[1]),
        Fault.TASK_NOT_IN_CONTRACT,
    ),
    "another task of the batch": (
        lambda: FINISHED.receipt(task=OTHER_TASK.task),
        Fault.TASK_NOT_IN_CONTRACT,  # the inputs were sealed anew, so it is not of this contract
    ),
    "a vote of another batch": (
        lambda: FINISHED.receipt(votes=votes_for(outcome_of(FINISHED.result), batch=b"b" * 20)),
        Fault.VOTE_NOT_FOR_TASK,
    ),
    "a vote for another task": (
        lambda: FINISHED.receipt(
            votes=votes_for(outcome_of(FINISHED.result), outcomes={2: outcome_of(FINISHED.result)})
        ),
        Fault.VOTE_NOT_FOR_TASK,
    ),
    "a vote of a device that is no steward": (
        lambda: FINISHED.receipt(votes=votes_for(outcome_of(FINISHED.result), voters=(0, 3))),
        Fault.VOTE_NOT_BY_STEWARD,
    ),
    "a steward that lost its store": (
        lambda: FINISHED.receipt(votes=votes_for(outcome_of(FINISHED.result), store=b"s" * 16)),
        Fault.VOTE_NOT_BY_STEWARD,
    ),
    "one steward's vote twice": (
        lambda: FINISHED.receipt(votes=(FINISHED.votes[0], FINISHED.votes[0])),
        Fault.VOTE_TWICE,
    ),
    "votes that disagree": (
        lambda: FINISHED.receipt(votes=(FINISHED.votes[0], votes_for(CANCELLED, voters=(1,))[0])),
        Fault.VOTES_DISAGREE,
    ),
    "votes of two epochs": (
        lambda: FINISHED.receipt(
            votes=(
                FINISHED.votes[0],
                *votes_for(outcome_of(FINISHED.result), voters=(1,), epoch=LATER),
            )
        ),
        Fault.VOTES_OF_SEVERAL_EPOCHS,
    ),
    "one vote of three": (
        lambda: FINISHED.receipt(votes=FINISHED.votes[:1]),
        Fault.VOTES_TOO_FEW,
    ),
    "no result": (lambda: FINISHED.receipt(result=None), Fault.PART_MISSING),
    "no lease": (lambda: FINISHED.receipt(lease=None), Fault.PART_MISSING),
    "a result of a task that was cancelled": (
        lambda: FINISHED.receipt(votes=votes_for(CANCELLED)),
        Fault.PART_UNEXPECTED,
    ),
    "a result that nobody signed": (
        lambda: FINISHED.receipt(
            result=replace(FINISHED.result, received=own_result(exit_code=1).received)
        ),
        Fault.RESULT_NOT_SIGNED,
    ),
    "a result that another device signed": (
        lambda: voted(
            proven_results(
                [result_of(FINISHED.lease.body, 1, OUTPUT)], FINISHED.mesh.devices[2].keys
            )[0]
        ),
        Fault.RESULT_NOT_SIGNED,
    ),
    "the result of another task": (lambda: voted(own_result(index=2)), Fault.RESULT_NOT_FOR_TASK),
    "the result of another batch": (
        lambda: voted(own_result(batch=b"b" * 20)),
        Fault.RESULT_NOT_FOR_TASK,
    ),
    "a result that was not chosen": (
        lambda: FINISHED.receipt(result=own_result(exit_code=1)),
        Fault.RESULT_NOT_VOTED,
    ),
    "an engine the contract does not accept": (
        lambda: voted(own_result(engine_profile="other/1")),
        Fault.RESULT_NOT_ACCEPTABLE,
    ),
    "a lease by a device that is no steward": (
        lambda: leased_by(3, rank=0),
        Fault.LEASE_NOT_BY_STEWARD,
    ),
    "a lease by a steward in another's epoch": (
        lambda: leased_by(1, rank=2),
        Fault.LEASE_NOT_BY_STEWARD,
    ),
    "a lease in the epoch of no steward": (
        lambda: leased_by(1, rank=4),
        Fault.LEASE_NOT_BY_STEWARD,
    ),
    "a lease from a store that is gone": (
        lambda: released(store=b"s" * 16),
        Fault.LEASE_NOT_BY_STEWARD,
    ),
    "a lease for another executor": (
        lambda: released(executor=keys_of(2).peer),
        Fault.LEASE_NOT_FOR_RESULT,
    ),
    "a lease of another batch": (lambda: released(batch=b"b" * 20), Fault.LEASE_NOT_FOR_RESULT),
    "a lease of another attempt": (lambda: released(attempt=2), Fault.LEASE_NOT_FOR_RESULT),
    "a lease for other tasks": (lambda: released(indices=(0, 2)), Fault.LEASE_NOT_FOR_RESULT),
    "a lease of another epoch": (lambda: released(epoch=LATER), Fault.LEASE_NOT_FOR_RESULT),
    "no digest key": (lambda: FINISHED.receipt(digest_key=None), Fault.DIGEST_KEY_MISSING),
    "another digest key": (lambda: FINISHED.receipt(digest_key=b"d" * 32), Fault.OUTPUT_DIFFERS),
}


@pytest.mark.parametrize(("make", "fault"), LIES.values(), ids=LIES)
def test_every_missing_or_swapped_part_is_refused_by_name(
    make: Callable[[], Receipt], fault: Fault
) -> None:
    verdict = examined(make())
    assert not verdict.is_good
    assert verdict.faults[0] is fault, verdict.checks


def test_a_lease_counts_only_from_a_member_that_may_be_steward() -> None:
    receipt = replace(leased_by(2, rank=2), chains=without_role(2, Role.STEWARD).chains)
    verdict = examined(receipt)
    assert verdict.faults == (Fault.ROLE_MISSING,)
    assert [check.name for check in verdict.checks if check.fault] == [CheckName.LEASE]


def test_a_genesis_that_its_founder_did_not_sign_founds_no_mesh() -> None:
    genesis = sign(FINISHED.mesh.genesis.body, keys_of(2))
    contract = sign(replace(FINISHED.contract.body, mesh=mesh_id_of(genesis)), keys_of(2))
    verdict = examined(FINISHED.receipt(genesis=genesis, contract=contract), mesh=None)
    assert verdict.faults[0] is Fault.OTHER_MESH
    assert verdict.checks[2].detail == "its genesis is not signed by the founder it names"


def test_a_lease_given_after_the_epoch_of_the_votes_does_not_count() -> None:
    result = own_result(epoch=LATER)
    receipt = FINISHED.receipt(
        lease=released(epoch=LATER).lease, result=result, votes=votes_for(outcome_of(result))
    )
    assert examined(receipt).faults == (Fault.LEASE_AFTER_VOTES,)


def test_other_output_is_not_what_the_task_put_out() -> None:
    verdict = examined(FINISHED.receipt(), output=OUTPUT + b"!")
    assert verdict.faults == (Fault.OUTPUT_DIFFERS,)


def test_output_without_a_digest_key_is_not_verified_and_the_reason_says_what_to_ask_for() -> None:
    verdict = examined(FINISHED.receipt(digest_key=None))
    assert not verdict.is_good
    assert verdict.checks[-1].detail == "digest key missing"
    assert examined(FINISHED.receipt(digest_key=None), output=None).is_good


def test_a_check_whose_ground_is_bad_is_not_made_and_states_no_fact() -> None:
    verdict = examined(FINISHED.receipt(votes=FINISHED.votes[:1]))
    skipped = [c.name for c in verdict.checks if c.result is CheckResult.NOT_CHECKED]
    assert skipped == [
        CheckName.RESULT,
        CheckName.LEASE,
        CheckName.EXECUTOR,
        CheckName.QUORUM,
        CheckName.OUTPUT,
    ]
    assert verdict.facts.outcome is None
    assert verdict.facts.executor is None
    assert verdict.facts.task is not None


@pytest.mark.parametrize("received", [b"", b"\x80", b"\xc1", b"not a receipt", b"\x90" * 100])
def test_a_file_that_is_no_receipt_is_malformed(received: bytes) -> None:
    verdict = verify_receipt(received, verifier=VERIFIER, mesh=None, result=None)
    assert verdict.faults == (Fault.MALFORMED,)
    with pytest.raises(MalformedFrame):
        receipt_from_file(received, VERIFIER)


def test_a_file_longer_than_four_mebibytes_is_refused_unread() -> None:
    with pytest.raises(MalformedFrame, match="4 MiB"):
        receipt_from_file(bytes(RECEIPT_FILE_BYTES_MAX + 1), VERIFIER)


def test_a_receipt_cut_anywhere_is_malformed() -> None:
    whole = receipt_to_file(FINISHED.receipt())
    for length in range(0, len(whole), 7):
        verdict = verify_receipt(whole[:length], verifier=VERIFIER, mesh=None, result=None)
        assert verdict.faults == (Fault.MALFORMED,), length


def test_a_receipt_of_a_newer_version_is_malformed_and_says_so() -> None:
    newer = msgspec.msgpack.decode(receipt_to_file(FINISHED.receipt()))
    newer["version"] = 2
    verdict = verify_receipt(
        msgspec.msgpack.encode(newer), verifier=VERIFIER, mesh=None, result=None
    )
    assert verdict.faults == (Fault.MALFORMED,)
    assert "version" in verdict.checks[0].detail


def test_no_flipped_bit_changes_what_a_receipt_is_verified_to_say() -> None:
    whole = receipt_to_file(FINISHED.receipt())
    good = examined(FINISHED.receipt())
    accepted = []
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        verdict = verify_receipt(
            bytes(flipped), verifier=VERIFIER, mesh=FINISHED.mesh.id, result=OUTPUT
        )
        if verdict.is_good:
            accepted.append(position)
            assert verdict.facts == good.facts
    # The name of an optional, unsigned field is all that may change: then its default holds.
    names = (b"version", b"agreeing", b"moves")
    starts = {whole.rindex(name): len(name) for name in names}
    places = {start + place for start, length in starts.items() for place in range(length)}
    assert set(accepted) <= places


def test_a_flipped_bit_in_a_signed_part_is_a_bad_signature() -> None:
    whole = receipt_to_file(FINISHED.receipt())
    position = whole.index(FINISHED.contract.received) + len(FINISHED.contract.received) // 2
    flipped = whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]
    verdict = verify_receipt(flipped, verifier=VERIFIER, mesh=None, result=None)
    assert verdict.faults == (Fault.BAD_SIGNATURE,)
    with pytest.raises(BadSignature):
        receipt_from_file(flipped, VERIFIER)


def test_building_takes_the_votes_of_the_epoch_that_decided_and_the_chains_it_needs() -> None:
    outcome = outcome_of(FINISHED.result)
    stray = votes_for(CANCELLED, voters=(2,))
    later = votes_for(outcome, voters=(2,), epoch=LATER)
    foreign = votes_for(outcome, voters=(3,))
    elsewhere = votes_for(outcome, voters=(2,), outcomes={2: outcome})
    receipt = build_receipt(
        FINISHED.mesh.genesis,
        FINISHED.contract,
        FINISHED.task,
        FINISHED.lease,
        FINISHED.result,
        [*later, *foreign, *elsewhere, *stray, *reversed(FINISHED.votes)],
        FINISHED.chains,
    )
    assert receipt.votes == FINISHED.votes
    subjects = {chain[0].body.subject for chain in receipt.chains}
    assert subjects == {keys_of(number).peer for number in (0, 1, 2, 3)}
    assert len(receipt.chains) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"votes": FINISHED.votes[:1]}, "no majority"),
        ({"result": None}, "result"),
        ({"lease": None}, "lease"),
        ({"chains": FINISHED.chains[:3]}, "executor: no certificate chain"),
        ({"task": OTHER_TASK.task}, "not of this contract"),
        ({"result": own_result(exit_code=1)}, "another result"),
    ],
)
def test_parts_that_make_no_receipt_are_named(changes: dict[str, object], message: str) -> None:
    parts = {
        "genesis": FINISHED.mesh.genesis,
        "contract": FINISHED.contract,
        "task": FINISHED.task,
        "lease": FINISHED.lease,
        "result": FINISHED.result,
        "votes": FINISHED.votes,
        "chains": FINISHED.chains,
    }
    with pytest.raises(ReceiptIncomplete, match=message):
        build_receipt(**{**parts, **changes})  # type: ignore[arg-type]  # parts by name


# Receipts of a task that moved from stewards 0, 1, 2 to stewards 0, 1, 4.

BIG = small_mesh(5)
MOVED = finished_task(BIG, submitter=2)
BEFORE, AFTER = Epoch(0, 1, 0), Epoch(1, 0, 0)
HERE, THERE = BIG.devices[:3], (BIG.devices[0], BIG.devices[1], BIG.devices[4])


def named(devices: Sequence[Device]) -> tuple[Steward, ...]:
    return tuple(Steward(one.peer, one.store) for one in devices)


def move_of(
    *voters: Device,
    to: Sequence[Device] = THERE,
    value: Outcome | None = None,
    epoch: Epoch = BEFORE,
    index: int = 1,
) -> Move:
    outcome = value or moved_to(named(to))
    votes = [vote_of(MOVED.contract, {index: outcome}, steward=one, epoch=epoch) for one in voters]
    return Move(stewards=named(to), votes=tuple(votes))


def moved_receipt(move: Move, *voters: Device, epoch: Epoch = AFTER) -> Receipt:
    outcome = outcome_of(MOVED.result)
    votes = [vote_of(MOVED.contract, {1: outcome}, steward=one, epoch=epoch) for one in voters]
    return build_receipt(
        BIG.genesis,
        MOVED.contract,
        MOVED.task,
        MOVED.lease,
        MOVED.result,
        votes,
        [device.chain for device in BIG.devices],
        moves=(move,),
    )


def test_a_task_that_moved_is_proven_by_both_sets_of_votes() -> None:
    receipt = moved_receipt(move_of(*HERE[:2]), THERE[1], THERE[2])
    verdict = examined(receipt, mesh=BIG.id, output=None)
    assert verdict.is_good, verdict.checks
    assert CheckName.MOVES in [check.name for check in verdict.checks]


@pytest.mark.parametrize(
    "move",
    [
        move_of(HERE[0], HERE[1], epoch=Epoch(1, 1, 0)),
        move_of(HERE[0], THERE[2]),
        move_of(HERE[0], HERE[0]),
        move_of(HERE[0], HERE[1], value=Outcome(kind=OutcomeKind.CANCELLED)),
        move_of(HERE[0], HERE[1], value=moved_to(named(HERE))),
        move_of(HERE[0], HERE[1], to=(HERE[0], BIG.devices[3], BIG.devices[4])),
        move_of(HERE[0], HERE[1], index=0),
    ],
    ids=["later", "newcomer", "twice", "no move", "to others", "all at once", "other task"],
)
def test_a_move_that_is_not_decided_by_those_before_proves_nothing(move: Move) -> None:
    with pytest.raises(ReceiptIncomplete):
        moved_receipt(move, THERE[1], THERE[2])
    good = moved_receipt(move_of(*HERE[:2]), THERE[1], THERE[2])
    verdict = examined(replace(good, moves=(move,)), mesh=BIG.id, output=None)
    assert verdict.faults[0] is Fault.MOVE_NOT_PROVEN


def test_votes_of_the_stewards_of_before_do_not_count_after_the_move() -> None:
    with pytest.raises(ReceiptIncomplete):
        moved_receipt(move_of(*HERE[:2]), HERE[1], HERE[2])
    good = moved_receipt(move_of(*HERE[:2]), THERE[1], THERE[2])
    without = examined(replace(good, moves=()), mesh=BIG.id, output=None)
    assert Fault.VOTE_NOT_BY_STEWARD in without.faults
    with pytest.raises(ReceiptIncomplete):
        moved_receipt(move_of(*HERE[:2]), THERE[0], THERE[1], epoch=Epoch(0, 2, 0))
