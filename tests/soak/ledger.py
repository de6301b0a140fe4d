"""An independent reader of receipts: how did each task end, says who, and is it always the same?

It follows docs/protocol/tasks.md and imports nothing of ours, on purpose: a bug that lets meshd
lose a task, or decide it twice, must not be able to hide it here.
"""

from __future__ import annotations

import base64
import typing
from dataclasses import dataclass, field

import msgpack
import nacl.exceptions
import nacl.signing
from blake3 import blake3

Wire = tuple[bytes, bytes, bytes]  # body, signer, signature
Outcome = tuple[str, bytes | None]  # result, cancelled or failed; and the digest of the result


class BadReceipt(Exception):
    """A receipt that proves nothing; the message says why."""


@dataclass(slots=True)
class Ledger:
    """What receipts prove, gathered from anybody at any time."""

    outcomes: dict[str, dict[Outcome, set[str]]] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)

    def add(self, task: str, receipt: bytes, *, told_by: str) -> None:
        """Take in a receipt that a device gave for a task."""
        try:
            outcome = outcome_of(task, receipt)
        except BadReceipt as error:
            self.bad.append(f"{task} of {told_by}: {error}")
            return
        self.outcomes.setdefault(task, {}).setdefault(outcome, set()).add(told_by)

    def lost(self, accepted: typing.Iterable[str]) -> list[str]:
        """Return the accepted tasks of which nobody can prove an end."""
        return [task for task in accepted if task not in self.outcomes]

    def doubles(self) -> list[str]:
        """Return the tasks that ended in two ways, with who says what."""
        return [
            f"{task}: {outcomes}" for task, outcomes in self.outcomes.items() if len(outcomes) > 1
        ]

    def kind_of(self, task: str) -> str | None:
        """Return how a task ended, None if nobody told."""
        outcomes = self.outcomes.get(task)
        return None if not outcomes else next(iter(outcomes))[0]


def outcome_of(task: str, receipt: bytes) -> Outcome:
    """Return the outcome that a majority of the task's own stewards signed. Raises BadReceipt."""
    try:
        return _outcome_of(task, receipt)
    except (KeyError, TypeError, ValueError, AttributeError, nacl.exceptions.CryptoError) as error:
        raise BadReceipt(f"{type(error).__name__}: {error}") from error


def _outcome_of(task: str, receipt: bytes) -> Outcome:
    parts = msgpack.unpackb(receipt, strict_map_key=False)
    contract = _opened("meshd/contract/1", parts["contract"])
    batch = _derived("meshd 2026 contract", parts["contract"][0])[:20]
    index = msgpack.unpackb(parts["task"]["received"])["index"]
    stewards = dict(contract["stewards"])
    shorts = [_base32(peer[:4]) for peer, _ in contract["stewards"]]
    if ".".join([_base32(batch), str(index), *shorts]) != task:
        raise BadReceipt("it is of another task")
    voters: set[bytes] = set()
    ballots: set[tuple[tuple[int, ...], Outcome]] = set()
    for signed in parts["votes"]:
        vote, voter = _opened("meshd/vote/1", signed), signed[1]
        if vote["batch"] != batch or stewards.get(voter) != vote["store"]:
            raise BadReceipt("a vote of somebody who is no steward of it")
        told = vote["outcomes"][index]
        voters.add(voter)
        ballots.add((tuple(vote["epoch"]), (told["kind"], told.get("result"))))
    if len(ballots) != 1:
        raise BadReceipt(f"its votes differ: {ballots}")
    if len(voters) <= len(stewards) // 2:
        raise BadReceipt(f"{len(voters)} of {len(stewards)} stewards are no majority")
    outcome = next(iter(ballots))[1]
    if outcome[0] == "result" and outcome[1] != _derived(
        "meshd 2026 result", parts["result"]["received"]
    ):
        raise BadReceipt("its result is not the one that was chosen")
    return outcome


def _opened(domain: str, signed: Wire) -> dict[str, typing.Any]:
    body, signer, signature = signed
    nacl.signing.VerifyKey(signer).verify(domain.encode() + b"\0" + body, signature)
    return typing.cast(dict[str, typing.Any], msgpack.unpackb(body, strict_map_key=False))


def _derived(context: str, message: bytes) -> bytes:
    return blake3(message, derive_key_context=context).digest()


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=").lower()
