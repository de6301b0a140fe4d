"""What the check of a receipt found: each check by name, with its result and a sentence.

Ids are text here: a verdict is what `meshctl verify` prints, also as JSON.
"""

from __future__ import annotations

import enum

from msgspec import Struct


class CheckName(enum.StrEnum):
    """The checks, in the order in which they are made."""

    FORMAT = "format"
    SIGNATURES = "signatures"
    MESH = "mesh"
    SUBMITTER = "submitter"
    TASK = "task"
    MOVES = "moves"
    VOTES = "votes"
    STEWARDS = "stewards"
    RESULT = "result"
    LEASE = "lease"
    EXECUTOR = "executor"
    QUORUM = "quorum"
    OUTPUT = "output"


class CheckResult(enum.StrEnum):
    """How a check went."""

    GOOD = "good"
    BAD = "bad"
    NOT_CHECKED = "not_checked"  # an earlier check that it needs is bad


class Fault(enum.StrEnum):
    """What is wrong with a receipt. Stable: programs compare these, people read the details."""

    MALFORMED = "malformed"
    BAD_SIGNATURE = "bad_signature"
    OTHER_MESH = "other_mesh"
    CHAIN_MISSING = "chain_missing"
    CHAIN_BROKEN = "chain_broken"
    ROLE_MISSING = "role_missing"
    TASK_NOT_IN_CONTRACT = "task_not_in_contract"
    MOVE_NOT_PROVEN = "move_not_proven"
    VOTE_NOT_FOR_TASK = "vote_not_for_task"
    VOTE_NOT_BY_STEWARD = "vote_not_by_steward"
    VOTE_TWICE = "vote_twice"
    VOTES_DISAGREE = "votes_disagree"
    VOTES_OF_SEVERAL_EPOCHS = "votes_of_several_epochs"
    VOTES_TOO_FEW = "votes_too_few"
    PART_MISSING = "part_missing"
    PART_UNEXPECTED = "part_unexpected"
    RESULT_NOT_SIGNED = "result_not_signed"
    RESULT_NOT_VOTED = "result_not_voted"
    RESULT_NOT_FOR_TASK = "result_not_for_task"
    RESULT_NOT_ACCEPTABLE = "result_not_acceptable"
    LEASE_NOT_BY_STEWARD = "lease_not_by_steward"
    LEASE_NOT_FOR_RESULT = "lease_not_for_result"
    LEASE_AFTER_VOTES = "lease_after_votes"
    QUORUM_NOT_MET = "quorum_not_met"
    NO_OUTPUT = "no_output"
    DIGEST_KEY_MISSING = "digest_key_missing"
    OUTPUT_DIFFERS = "output_differs"


class Check(Struct, frozen=True, kw_only=True):
    """One check: `fault` is given when it is bad, `detail` is for people."""

    name: CheckName
    result: CheckResult
    fault: Fault | None = None
    detail: str = ""


class Facts(Struct, frozen=True, kw_only=True):
    """What the checks that were good say. A fact that was not verified is None."""

    mesh: str | None = None
    task: str | None = None
    submitter: str | None = None
    durability: str | None = None
    stewards_count: int | None = None  # named by the contract
    stewards: tuple[str, ...] = ()  # those who voted
    outcome: str | None = None  # result, cancelled, failed
    reason: str | None = None  # of an outcome that is no result
    executor: str | None = None
    agreeing: tuple[str, ...] = ()  # other executors whose results are equal
    engine_profile: str | None = None
    status: str | None = None
    exit_code: int | None = None
    output_digest: str | None = None


class Verdict(Struct, frozen=True, kw_only=True):
    """Whether a receipt is good, what it was checked against, and why."""

    is_good: bool
    checked_against: str
    facts: Facts
    checks: tuple[Check, ...]

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What is wrong, in the order of the checks; empty for a good receipt."""
        return tuple(check.fault for check in self.checks if check.fault is not None)
