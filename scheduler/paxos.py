"""The outcome register of a batch: single-decree Paxos for each task, one ballot for them all.

Lamport 2001, *Paxos Made Simple*, section 2. A ballot number is an `Epoch`; its rank names the one
steward that may propose in it. A promise covers the whole batch and brings the highest vote of
every task; values are per task. These two hold the rules and nothing else: what `Acceptor` returns
must be durable before anybody hears of it, and nothing here knows of time or messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from scheduler.errors import NotEstablished, StaleEpoch, TwoValues
from wire.tasks import Epoch, Outcome

LOWEST = Epoch(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Ballot:
    """A vote for one task: its value, and the epoch in which it was given."""

    epoch: Epoch
    outcome: Outcome


@dataclass(slots=True)
class Acceptor:
    """What one steward promised and voted, of one batch."""

    promised: Epoch = LOWEST
    votes: dict[int, Ballot] = field(default_factory=dict)  # the highest of each task

    def promise(self, epoch: Epoch) -> dict[int, Ballot]:
        """Promise to vote in nothing lower; return the highest votes. Raises StaleEpoch."""
        self._rise_to(epoch)
        return dict(self.votes)

    def vote(self, epoch: Epoch, outcomes: Mapping[int, Outcome]) -> None:
        """Vote for values. Raises StaleEpoch, or TwoValues; then nothing has changed.

        A vote for what was voted for in this epoch already is the same vote.
        """
        for index, outcome in outcomes.items():
            before = self.votes.get(index)
            if before is not None and before.epoch == epoch and before.outcome != outcome:
                raise TwoValues(f"task {index} in {epoch}: {before.outcome} and {outcome}")
        self._rise_to(epoch)
        self.votes |= {index: Ballot(epoch, outcome) for index, outcome in outcomes.items()}

    def _rise_to(self, epoch: Epoch) -> None:
        if epoch < self.promised:
            raise StaleEpoch(self.promised)
        self.promised = epoch


@dataclass(slots=True, kw_only=True)
class Proposer:
    """One steward's attempt to have values chosen, in an epoch that nobody else proposes in.

    In the epoch in which a batch is made no vote can be older, so that one needs no promises.
    """

    epoch: Epoch
    majority_count: int
    is_first: bool = False
    _promised_by: set[int] = field(default_factory=set)  # ranks
    _highest: dict[int, Ballot] = field(default_factory=dict)
    _proposed: dict[int, Outcome] = field(default_factory=dict)
    _voted_by: dict[int, set[int]] = field(default_factory=dict)  # ranks, by task

    @property
    def is_established(self) -> bool:
        """Whether values may be proposed."""
        return self.is_first or len(self._promised_by) >= self.majority_count

    @property
    def bound(self) -> dict[int, Outcome]:
        """Return what has to be proposed again, as it may have been chosen. Raises NotEstablished.

        All other tasks are free.
        """
        self._check_established()
        return {index: ballot.outcome for index, ballot in self._highest.items()}

    def on_promise(self, rank: int, votes: Mapping[int, Ballot]) -> None:
        """Take up a promise for this epoch. What comes after a majority changes nothing any more.

        Once values are proposed their freedom rests on the promises that were there.
        """
        if self.is_established:
            return
        self._promised_by.add(rank)
        for index, ballot in votes.items():
            highest = self._highest.get(index)
            if highest is None or highest.epoch < ballot.epoch:
                self._highest[index] = ballot

    def propose(self, wanted: Mapping[int, Outcome]) -> dict[int, Outcome]:
        """Return what to propose where `wanted` is wished. Raises NotEstablished.

        What may have been chosen, and what was proposed in this epoch, stands.
        """
        bound = self.bound
        values = {
            index: self._proposed.get(index, bound.get(index, outcome))
            for index, outcome in wanted.items()
        }
        self._proposed |= values
        return values

    def on_vote(self, rank: int, outcomes: Mapping[int, Outcome]) -> dict[int, Outcome]:
        """Take up a steward's votes in this epoch; return what is chosen by them, once."""
        chosen: dict[int, Outcome] = {}
        for index, outcome in outcomes.items():
            if self._proposed.get(index) != outcome:
                continue  # never proposed here, so the voter lies
            voters = self._voted_by.setdefault(index, set())
            was_chosen = len(voters) >= self.majority_count
            voters.add(rank)
            if not was_chosen and len(voters) >= self.majority_count:
                chosen[index] = outcome
        return chosen

    def _check_established(self) -> None:
        if not self.is_established:
            count = len(self._promised_by)
            raise NotEstablished(f"{self.epoch}: {count} of {self.majority_count} promises")
