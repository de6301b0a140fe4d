"""The claims of a receipt, each checked by itself, after its signatures were verified.

Every part of a good receipt has been checked: a vote too many or of another epoch refuses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from scheduler.agreement import quorum_fault
from scheduler.errors import MoveNotProven
from scheduler.moves import Stewards, majority_of, steward_sets
from scheduler.verdict import Check, CheckName, CheckResult, Facts, Fault
from wire.content import output_digest
from wire.errors import MalformedFrame, NotAMember
from wire.ids import MeshId, PeerId, digest_text, mesh_text, peer_text
from wire.membership import Role, check_chain, mesh_id_of
from wire.signed import Signed
from wire.tasks import (
    Contract,
    Epoch,
    Lease,
    Outcome,
    OutcomeKind,
    Receipt,
    Result,
    Steward,
    Vote,
    batch_id_of,
    open_result,
    open_task,
    result_digest,
    task_id_of,
)
from wire.text import visible


def vote_fault(
    vote: Signed[Vote], contract: Signed[Contract], stewards: Stewards, index: int
) -> Fault | None:
    """Return why `vote` says nothing about task `index` of a contract, None if it does."""
    if vote.body.batch != batch_id_of(contract) or index not in vote.body.outcomes:
        return Fault.VOTE_NOT_FOR_TASK
    if Steward(vote.signer, vote.body.store) not in stewards:
        return Fault.VOTE_NOT_BY_STEWARD
    return None


def bad_check(name: CheckName, fault: Fault, detail: str) -> Check:
    """Return a check that found `fault`. The detail may quote the receipt: it is made visible."""
    return Check(name=name, result=CheckResult.BAD, fault=fault, detail=visible(detail))


class _Refused(Exception):
    """A check is bad."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault
        self.detail = detail


@dataclass(slots=True, kw_only=True)
class Examination:
    """Checks a receipt whose signatures are good, one claim after another."""

    receipt: Receipt
    mesh: MeshId | None
    checks: list[Check] = field(default_factory=list)
    facts: Facts = field(default_factory=Facts)
    _index: int = 0
    _epoch: Epoch = field(default_factory=lambda: Epoch(0, 0, 0))
    _outcome: Outcome | None = None
    _result: Result | None = None
    _sets: list[Stewards] = field(init=False)  # by move, those who voted last

    def __post_init__(self) -> None:
        """Begin with the stewards that the contract names."""
        self._sets = [self.receipt.contract.body.stewards]

    def run(self) -> None:
        """Make all checks that need nothing but the receipt."""
        self._check(CheckName.MESH, self._check_mesh)
        self._check(CheckName.SUBMITTER, self._check_submitter)
        self._check(CheckName.TASK, self._check_task)
        if self.receipt.moves:
            self._check(CheckName.MOVES, self._check_moves, needs=CheckName.TASK)
        needed = CheckName.MOVES if self.receipt.moves else CheckName.TASK
        self._check(CheckName.VOTES, self._check_votes, needs=needed)
        self._check(CheckName.STEWARDS, self._check_stewards)
        if self._outcome is not None and self._outcome.kind is not OutcomeKind.RESULT:
            self._check(CheckName.RESULT, self._check_no_result)
            return
        self._check(CheckName.RESULT, self._check_result, needs=CheckName.VOTES)
        self._check(CheckName.LEASE, self._check_lease, needs=CheckName.RESULT)
        self._check(CheckName.EXECUTOR, self._check_executor, needs=CheckName.RESULT)
        self._check(CheckName.QUORUM, self._check_quorum, needs=CheckName.RESULT)

    def run_output(self, output: bytes) -> None:
        """Check that `output` is what the task put out."""
        is_result = self._outcome is None or self._outcome.kind is OutcomeKind.RESULT
        needs = CheckName.RESULT if is_result else None
        self._check(CheckName.OUTPUT, lambda: self._check_output(output), needs=needs)

    def _check(
        self, name: CheckName, examine: Callable[[], str], *, needs: CheckName | None = None
    ) -> None:
        good = {check.name for check in self.checks if check.result is CheckResult.GOOD}
        if needs is not None and needs not in good:
            skipped = CheckResult.NOT_CHECKED
            self.checks.append(Check(name=name, result=skipped, detail=f"needs a good {needs}"))
            return
        try:
            detail = examine()
        except _Refused as refusal:
            self.checks.append(bad_check(name, refusal.fault, refusal.detail))
        else:
            self.checks.append(Check(name=name, result=CheckResult.GOOD, detail=detail))

    def _check_mesh(self) -> str:
        genesis, contract = self.receipt.genesis, self.receipt.contract.body
        mesh = mesh_id_of(genesis)
        if self.mesh is not None and mesh != self.mesh:
            raise _Refused(Fault.OTHER_MESH, f"it is of mesh {mesh_text(mesh)}")
        if contract.mesh != mesh:
            raise _Refused(Fault.OTHER_MESH, f"its contract is of {mesh_text(contract.mesh)}")
        if genesis.signer != genesis.body.founder:
            raise _Refused(Fault.OTHER_MESH, "its genesis is not signed by the founder it names")
        self.facts = replace(self.facts, mesh=mesh_text(mesh))
        return f"mesh {mesh_text(mesh)}"

    def _check_submitter(self) -> str:
        submitter = self.receipt.contract.signer
        self._check_member(submitter, Role.SUBMITTER)
        self.facts = replace(self.facts, submitter=peer_text(submitter))
        return peer_text(submitter)

    def _check_task(self) -> str:
        contract = self.receipt.contract
        try:
            task = open_task(self.receipt.task, contract.body)
        except MalformedFrame as error:
            raise _Refused(Fault.TASK_NOT_IN_CONTRACT, str(error)) from error
        self._index = task.index
        self.facts = replace(
            self.facts,
            task=str(task_id_of(contract, task.index)),
            durability=contract.body.durability.value,
            stewards_count=len(contract.body.stewards),
        )
        return f"task {task.index} of {contract.body.tasks_count} in the contract"

    def _check_moves(self) -> str:
        """Check that those before decided who decides, task by task, from the contract on."""
        moves = self.receipt.moves
        try:
            self._sets = steward_sets(self.receipt.contract, moves)
        except MoveNotProven as error:
            raise _Refused(Fault.MOVE_NOT_PROVEN, str(error)) from error
        for vote in (vote for move in moves for vote in move.votes):
            if self._index not in vote.body.outcomes:
                detail = f"the vote of {peer_text(vote.signer)} is not for task {self._index}"
                raise _Refused(Fault.MOVE_NOT_PROVEN, detail)
            self._check_member(vote.signer, Role.STEWARD)
        return f"{len(moves)}: from the stewards of the contract to those that voted"

    def _check_votes(self) -> str:
        contract, votes = self.receipt.contract, self.receipt.votes
        stewards = self._sets[-1]
        for vote in votes:
            fault = vote_fault(vote, contract, stewards, self._index)
            if fault is not None:
                raise _Refused(fault, f"the vote of {peer_text(vote.signer)}")
        if len({vote.signer for vote in votes}) != len(votes):
            raise _Refused(Fault.VOTE_TWICE, "one steward's vote is counted twice")
        outcome, epoch = votes[0].body.outcomes[self._index], votes[0].body.epoch
        if any(vote.body.outcomes[self._index] != outcome for vote in votes):
            raise _Refused(Fault.VOTES_DISAGREE, "the votes are for different outcomes")
        # In Paxos votes of several ballots prove nothing: another value may have been chosen.
        if any(vote.body.epoch != epoch for vote in votes):
            raise _Refused(Fault.VOTES_OF_SEVERAL_EPOCHS, "the votes are of different epochs")
        if epoch.move != len(self.receipt.moves):
            detail = f"their epoch is after {epoch.move} moves, not {len(self.receipt.moves)}"
            raise _Refused(Fault.VOTE_NOT_BY_STEWARD, detail)
        if outcome.kind is OutcomeKind.MOVED:
            raise _Refused(Fault.VOTES_DISAGREE, "the votes decide who decides, and no outcome")
        counted = f"{len(votes)} of {len(stewards)} stewards"
        if len(votes) < majority_of(stewards):
            raise _Refused(Fault.VOTES_TOO_FEW, f"{counted} voted, that is no majority")
        self._outcome, self._epoch = outcome, epoch
        self.facts = replace(
            self.facts,
            outcome=outcome.kind.value,
            reason=visible(outcome.reason) or None,
            stewards=tuple(peer_text(vote.signer) for vote in votes),
        )
        return f"{counted} voted for it"

    def _check_stewards(self) -> str:
        voters = [vote.signer for vote in self.receipt.votes]
        for voter in voters:
            self._check_member(voter, Role.STEWARD)
        return ", ".join(peer_text(voter) for voter in voters)

    def _check_no_result(self) -> str:
        receipt = self.receipt
        if receipt.result is not None or receipt.lease is not None or receipt.agreeing:
            detail = "a result or a lease, though the task has none"
            raise _Refused(Fault.PART_UNEXPECTED, detail)
        return "none, as the task ended without one"

    def _check_result(self) -> str:
        proven, contract = self.receipt.result, self.receipt.contract
        if proven is None:
            raise _Refused(Fault.PART_MISSING, "the result is not in it")
        try:
            result = open_result(proven)
        except MalformedFrame as error:
            raise _Refused(Fault.RESULT_NOT_SIGNED, str(error)) from error
        if result.batch != batch_id_of(contract) or result.index != self._index:
            raise _Refused(Fault.RESULT_NOT_FOR_TASK, "it is the result of another task")
        if self._outcome is None or self._outcome.result != result_digest(proven.received):
            raise _Refused(Fault.RESULT_NOT_VOTED, "the votes are for another result")
        if result.engine_profile not in contract.body.engine_profiles:
            detail = f"the contract does not accept engine profile {result.engine_profile!r}"
            raise _Refused(Fault.RESULT_NOT_ACCEPTABLE, detail)
        self._result = result
        self.facts = replace(
            self.facts,
            executor=peer_text(result.executor),
            engine_profile=result.engine_profile,
            status=result.status.value,
            exit_code=result.exit_code,
            output_digest=digest_text(result.output_digest),
        )
        return f"{result.status}, exit code {result.exit_code}"

    def _check_lease(self) -> str:
        if self.receipt.lease is None or self._result is None:
            raise _Refused(Fault.PART_MISSING, "the lease of the result is not in it")
        return self._check_lease_of(self.receipt.lease, self._result)

    def _check_lease_of(self, lease: Signed[Lease], result: Result) -> str:
        body, sets = lease.body, self._sets
        # The rank of an epoch names its one proposer, who alone leases in it.
        stewards = sets[body.epoch.move] if body.epoch.move < len(sets) else ()
        steward = stewards[body.epoch.rank] if body.epoch.rank < len(stewards) else None
        if steward != Steward(lease.signer, body.store):
            detail = f"{peer_text(lease.signer)} is not the steward of its epoch"
            raise _Refused(Fault.LEASE_NOT_BY_STEWARD, detail)
        self._check_member(lease.signer, Role.STEWARD)
        run = (result.batch, result.executor, result.epoch, result.attempt)
        if (body.batch, body.executor, body.epoch, body.attempt) != run:
            raise _Refused(Fault.LEASE_NOT_FOR_RESULT, "it is the lease of another run")
        if result.index not in body.indices:
            raise _Refused(Fault.LEASE_NOT_FOR_RESULT, f"it does not cover task {result.index}")
        if body.epoch > self._epoch:
            raise _Refused(Fault.LEASE_AFTER_VOTES, "it was given after the epoch of the votes")
        return f"attempt {body.attempt}, given by {peer_text(lease.signer)}"

    def _check_executor(self) -> str:
        if self._result is None:
            raise _Refused(Fault.PART_MISSING, "the result is not in it")
        self._check_member(self._result.executor, Role.EXECUTOR)
        return peer_text(self._result.executor)

    def _check_quorum(self) -> str:
        if self._result is None:
            raise _Refused(Fault.PART_MISSING, "the result is not in it")
        others: list[Result] = []
        for one in self.receipt.agreeing:
            try:
                result = open_result(one.result)
            except MalformedFrame as error:
                raise _Refused(Fault.RESULT_NOT_SIGNED, str(error)) from error
            self._check_lease_of(one.lease, result)
            self._check_member(result.executor, Role.EXECUTOR)
            others.append(result)
        quorum = self.receipt.contract.body.quorum
        fault = quorum_fault(self._result, others, quorum=quorum)
        if fault is not None:
            raise _Refused(Fault.QUORUM_NOT_MET, fault)
        if not others:
            return "one device ran it: no other one was asked to compare"
        executors = (self._result.executor, *(one.executor for one in others))
        self.facts = replace(self.facts, agreeing=tuple(peer_text(one.executor) for one in others))
        operators = {self._operator_of(peer) for peer in executors}
        return f"equal results of {len(executors)} devices, by {len(operators)} operators"

    def _check_output(self, output: bytes) -> str:
        if self._result is None:
            raise _Refused(Fault.NO_OUTPUT, "the task ended without a result")
        if self.receipt.digest_key is None:
            raise _Refused(Fault.DIGEST_KEY_MISSING, "digest key missing")
        if output_digest(output, key=self.receipt.digest_key) != self._result.output_digest:
            raise _Refused(Fault.OUTPUT_DIFFERS, "the bytes are not what the task put out")
        return f"{len(output)} bytes are what the task put out"

    def _check_member(self, peer: PeerId, role: Role) -> None:
        chains = [chain for chain in self.receipt.chains if chain[0].body.subject == peer]
        if not chains:
            raise _Refused(Fault.CHAIN_MISSING, f"no certificate chain of {peer_text(peer)}")
        try:
            certificate = check_chain(chains[0], genesis=self.receipt.genesis, subject=peer)
        except NotAMember as error:
            raise _Refused(Fault.CHAIN_BROKEN, f"{peer_text(peer)}: {error}") from error
        if role not in certificate.roles:
            raise _Refused(Fault.ROLE_MISSING, f"{peer_text(peer)} is no {role}")

    def _operator_of(self, peer: PeerId) -> str:
        chains = (chain[0].body for chain in self.receipt.chains)
        return next((one.operator for one in chains if one.subject == peer), "")
