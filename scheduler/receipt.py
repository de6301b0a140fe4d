"""A task's receipt: put together by a steward, checked by anyone, without a network.

A receipt file is the MessagePack of `wire.tasks.Receipt` and nothing else. A good receipt proves:
a member with the role submitter asked for the task, a majority of the stewards it named voted for
one outcome of it in one epoch, and, if that is a result, an executor signed it under a lease that
such a steward had given at that epoch or before, and as many others as the contract's quorum takes
signed an equal one. See docs/protocol/tasks.md.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from scheduler.errors import MoveNotProven, ReceiptIncomplete
from scheduler.examination import Examination, bad_check, vote_fault
from scheduler.moves import Stewards, majority_of, steward_sets
from scheduler.verdict import Check, CheckName, CheckResult, Facts, Fault, Verdict
from wire.codec import Decoder
from wire.errors import BadSignature, MalformedFrame
from wire.ids import MeshId, PeerId, mesh_text
from wire.membership import Chain, Genesis
from wire.signed import Signed, Verifier, encode_body
from wire.tasks import (
    Contract,
    Epoch,
    Lease,
    LeasedResult,
    Move,
    Outcome,
    OutcomeKind,
    ProvenResult,
    ProvenTask,
    Receipt,
    Vote,
    open_task,
)

RECEIPT_FILE_BYTES_MAX = 4 << 20
MESH_UNKNOWN = "consistent, mesh unknown"


def build_receipt(
    genesis: Signed[Genesis],
    contract: Signed[Contract],
    task: ProvenTask,
    lease: Signed[Lease] | None,
    result: ProvenResult | None,
    votes: Iterable[Signed[Vote]],
    chains: Iterable[Chain],
    agreeing: tuple[LeasedResult, ...] = (),
    moves: tuple[Move, ...] = (),
) -> Receipt:
    """Return the receipt of a decided task, with those of `votes` and `chains` that it needs.

    `moves` are those before the votes. Lease and result are left out unless the outcome is a
    result. Raises ReceiptIncomplete with what is missing or does not fit.
    """
    try:
        index = open_task(task, contract.body).index
    except MalformedFrame as error:
        raise ReceiptIncomplete(str(error)) from error
    try:
        stewards = steward_sets(contract, moves)[-1]
    except MoveNotProven as error:
        raise ReceiptIncomplete(str(error)) from error
    chosen = _deciding_votes(contract, stewards, index, votes)
    is_result = chosen[0].body.outcomes[index].kind is OutcomeKind.RESULT
    receipt = Receipt(
        genesis=genesis,
        contract=contract,
        task=task,
        lease=lease if is_result else None,
        result=result if is_result else None,
        votes=chosen,
        chains=(),
        agreeing=agreeing if is_result else (),
        moves=moves,
    )
    receipt = replace(receipt, chains=_needed_chains(receipt, chains))
    examination = Examination(receipt=receipt, mesh=None)
    examination.run()
    for check in examination.checks:
        if check.fault is not None:
            raise ReceiptIncomplete(f"{check.name}: {check.detail}")
    return receipt


def with_digest_key(receipt: Receipt, key: bytes) -> Receipt:
    """Return the receipt for someone who shall be able to check the output, or to test guesses."""
    return replace(receipt, digest_key=key)


def receipt_to_file(receipt: Receipt) -> bytes:
    """Return the bytes of a receipt file."""
    return encode_body(receipt)


def receipt_from_file(received: bytes, verifier: Verifier) -> Receipt:
    """Return the receipt in a file, its signatures verified but not what they say.

    Raises MalformedFrame or BadSignature.
    """
    if len(received) > RECEIPT_FILE_BYTES_MAX:
        raise MalformedFrame(f"{len(received)} bytes; no receipt is longer than 4 MiB")
    return Decoder(Receipt, verifier).decode(received)


def verify_receipt(
    received: bytes, *, verifier: Verifier, mesh: MeshId | None, result: bytes | None = None
) -> Verdict:
    """Return what the checks of a receipt file find. Raises nothing.

    `mesh` is the mesh it must be of; None checks only that it is consistent. `result` is the output
    (the bytes of the task's standard output) that it must be the receipt of.
    """
    format_check = Check(name=CheckName.FORMAT, result=CheckResult.GOOD)
    try:
        receipt = receipt_from_file(received, verifier)
    except BadSignature as error:
        refusal = bad_check(CheckName.SIGNATURES, Fault.BAD_SIGNATURE, str(error))
        return _verdict(mesh, Facts(), [format_check, refusal])
    except MalformedFrame as error:
        refusal = bad_check(CheckName.FORMAT, Fault.MALFORMED, str(error))
        return _verdict(mesh, Facts(), [refusal])
    examination = Examination(receipt=receipt, mesh=mesh)
    examination.run()
    if result is not None:
        examination.run_output(result)
    signatures = Check(name=CheckName.SIGNATURES, result=CheckResult.GOOD)
    return _verdict(mesh, examination.facts, [format_check, signatures, *examination.checks])


def _deciding_votes(
    contract: Signed[Contract], stewards: Stewards, index: int, votes: Iterable[Signed[Vote]]
) -> tuple[Signed[Vote], ...]:
    """Return a majority's votes for one outcome in one epoch, the lowest that has them."""
    ballots: dict[tuple[Epoch, Outcome], dict[PeerId, Signed[Vote]]] = {}
    for vote in votes:
        if vote_fault(vote, contract, stewards, index) is None:
            ballot = (vote.body.epoch, vote.body.outcomes[index])
            ballots.setdefault(ballot, {})[vote.signer] = vote
    decided = [ballot for ballot in ballots if len(ballots[ballot]) >= majority_of(stewards)]
    if not decided:
        raise ReceiptIncomplete(f"no majority of the stewards has voted for task {index}")
    by_steward = ballots[min(decided, key=lambda ballot: ballot[0])]
    order = [steward.peer for steward in stewards]
    return tuple(by_steward[peer] for peer in order if peer in by_steward)


def _needed_chains(receipt: Receipt, chains: Iterable[Chain]) -> tuple[Chain, ...]:
    by_subject = {chain[0].body.subject: chain for chain in chains}
    involved = [receipt.contract.signer, *(vote.signer for vote in receipt.votes)]
    leases = [] if receipt.lease is None else [receipt.lease]
    for lease in (*leases, *(one.lease for one in receipt.agreeing)):
        involved += [lease.body.executor, lease.signer]
    involved += [vote.signer for move in receipt.moves for vote in move.votes]
    return tuple(by_subject[peer] for peer in dict.fromkeys(involved) if peer in by_subject)


def _verdict(mesh: MeshId | None, facts: Facts, checks: list[Check]) -> Verdict:
    return Verdict(
        is_good=all(check.result is CheckResult.GOOD for check in checks),
        checked_against=MESH_UNKNOWN if mesh is None else f"mesh {mesh_text(mesh)}",
        facts=facts,
        checks=tuple(checks),
    )
