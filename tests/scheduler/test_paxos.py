"""The outcome register under every order, loss and repetition of messages."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.errors import NotEstablished, StaleEpoch, TwoValues
from scheduler.paxos import Acceptor, Ballot, Proposer
from wire.ids import Digest
from wire.tasks import Epoch, Outcome, OutcomeKind

TASKS_COUNT = 2
STEPS_COUNT = 60
SEEDS_COUNT = 1_500
CANCELLED = Outcome(kind=OutcomeKind.CANCELLED)


def result(number: int) -> Outcome:
    return Outcome(kind=OutcomeKind.RESULT, result=Digest(bytes([number]) * 32))


class ForgetfulOfPromises(Acceptor):
    """It votes in any epoch."""

    def vote(self, epoch: Epoch, outcomes: dict[int, Outcome]) -> None:  # type: ignore[override]
        self.votes |= {index: Ballot(epoch, outcome) for index, outcome in outcomes.items()}


class ForgetfulOfVotes(Acceptor):
    """It promises without telling its votes."""

    def promise(self, epoch: Epoch) -> dict[int, Ballot]:
        super().promise(epoch)
        return {}


class Headstrong(Proposer):
    """It proposes what it likes."""

    @property
    def bound(self) -> dict[int, Outcome]:
        self._check_established()
        return {}


class Hasty(Proposer):
    """It counts one promise fewer."""

    @property
    def is_established(self) -> bool:
        return self.is_first or len(self._promised_by) >= self.majority_count - 1


@dataclass
class Council:
    """Stewards whose messages are delivered at random, again and again, or never.

    What an acceptor says is durable first, so a crash takes only the proposers.
    """

    seed: int
    stewards_count: int = 3
    acceptor: Callable[[], Acceptor] = Acceptor
    proposer: Callable[..., Proposer] = Proposer
    chosen: dict[int, set[Outcome]] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.majority_count = self.stewards_count // 2 + 1
        self.acceptors = [self.acceptor() for _ in range(self.stewards_count)]
        self.proposers: list[Proposer] = []
        self.rounds = 0
        self.flying: list[Callable[[], None]] = []
        self.votes: dict[tuple[Epoch, int], dict[int, Outcome]] = {}
        self.lead(0, is_first=True)

    def run(self) -> Council:
        for _ in range(STEPS_COUNT):
            chance = self.rng.random()
            if chance < 0.06:
                self.rounds += 1
                self.lead(self.rng.randrange(self.stewards_count))
            elif chance < 0.25:
                self.propose(self.rng.choice(self.proposers))
            elif self.flying:
                place = self.rng.randrange(len(self.flying))
                self.flying[place]()
                if self.rng.random() < 0.7:  # else it comes again
                    self.flying[place] = self.flying[-1]
                    self.flying.pop()
        return self

    def lead(self, rank: int, *, is_first: bool = False) -> None:
        proposer = self.proposer(
            epoch=Epoch(0, self.rounds, rank),
            majority_count=self.majority_count,
            is_first=is_first,
        )
        self.proposers.append(proposer)
        if not is_first:
            for acceptor in range(self.stewards_count):
                self.flying.append(lambda to=acceptor: self.prepare(proposer, to))  # type: ignore[misc]

    def prepare(self, proposer: Proposer, rank: int) -> None:
        try:
            votes = self.acceptors[rank].promise(proposer.epoch)
        except StaleEpoch:
            self.seen["a promise refused"] += 1
            return
        self.flying.append(lambda: proposer.on_promise(rank, votes))

    def propose(self, proposer: Proposer) -> None:
        wanted = {
            index: result(self.rng.randrange(3)) if self.rng.random() < 0.8 else CANCELLED
            for index in range(TASKS_COUNT)
            if self.rng.random() < 0.7
        }
        try:
            values = proposer.propose(wanted)
        except NotEstablished:
            return
        self.seen["a value kept"] += values != wanted
        for acceptor in range(self.stewards_count):
            self.flying.append(lambda to=acceptor: self.vote(proposer, to, values))  # type: ignore[misc]

    def vote(self, proposer: Proposer, rank: int, values: dict[int, Outcome]) -> None:
        try:
            self.acceptors[rank].vote(proposer.epoch, values)
        except StaleEpoch:
            self.seen["a vote refused"] += 1
            return
        for index, outcome in values.items():
            by_rank = self.votes.setdefault((proposer.epoch, index), {})
            assert by_rank.setdefault(rank, outcome) == outcome, "two values in one epoch"
            for value in set(by_rank.values()):
                if list(by_rank.values()).count(value) >= self.majority_count:
                    self.chosen.setdefault(index, set()).add(value)
        self.flying.append(lambda: self.count(proposer, rank, values))

    def count(self, proposer: Proposer, rank: int, values: dict[int, Outcome]) -> None:
        for index, outcome in proposer.on_vote(rank, values).items():
            self.seen["a value chosen"] += 1
            assert self.chosen[index] == {outcome}

    @property
    def is_split(self) -> bool:
        return any(len(values) > 1 for values in self.chosen.values())


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 1 << 32), stewards_count=st.sampled_from([1, 3, 5]))
def test_at_most_one_value_is_ever_chosen(seed: int, stewards_count: int) -> None:
    assert not Council(seed, stewards_count).run().is_split


def test_in_these_runs_everything_happens_that_can() -> None:
    seen: Counter[str] = Counter()
    for seed in range(200):
        seen += Council(seed).run().seen
    assert min(seen.values()) > 100, seen
    assert seen.keys() == {
        "a promise refused",
        "a value kept",
        "a vote refused",
        "a value chosen",
    }


@pytest.mark.parametrize("acceptor", [ForgetfulOfPromises, ForgetfulOfVotes])
def test_an_acceptor_that_forgets_lets_two_values_be_chosen(acceptor: type[Acceptor]) -> None:
    assert any(split(seed, acceptor=acceptor) for seed in range(SEEDS_COUNT))


@pytest.mark.parametrize("proposer", [Headstrong, Hasty])
def test_a_proposer_that_does_not_listen_lets_two_values_be_chosen(
    proposer: type[Proposer],
) -> None:
    assert any(split(seed, proposer=proposer) for seed in range(SEEDS_COUNT))


def split(seed: int, **parts: Callable[..., object]) -> bool:
    try:
        return Council(seed, **parts).run().is_split  # type: ignore[arg-type]
    except AssertionError:
        return True


def test_a_second_value_in_one_epoch_is_refused_and_changes_nothing() -> None:
    acceptor = Acceptor()
    epoch = Epoch(0, 1, 0)
    acceptor.vote(epoch, {0: result(1)})
    acceptor.vote(epoch, {0: result(1)})
    with pytest.raises(TwoValues):
        acceptor.vote(epoch, {0: result(2), 1: result(1)})
    assert acceptor.votes == {0: Ballot(epoch, result(1))}


def test_a_promise_covers_all_tasks_and_a_higher_vote_is_one_too() -> None:
    acceptor = Acceptor()
    acceptor.vote(Epoch(0, 2, 1), {0: result(1)})
    with pytest.raises(StaleEpoch) as refusal:
        acceptor.promise(Epoch(0, 2, 0))
    assert refusal.value.promised == Epoch(0, 2, 1)
    with pytest.raises(StaleEpoch):
        acceptor.vote(Epoch(0, 1, 2), {1: result(1)})
    assert acceptor.promise(Epoch(0, 2, 1)) == {0: Ballot(Epoch(0, 2, 1), result(1))}


def test_what_may_have_been_chosen_is_proposed_again_and_the_rest_is_free() -> None:
    proposer = Proposer(epoch=Epoch(0, 9, 1), majority_count=2)
    with pytest.raises(NotEstablished):
        proposer.propose({0: CANCELLED})
    proposer.on_promise(1, {0: Ballot(Epoch(0, 3, 2), result(3))})
    proposer.on_promise(1, {1: Ballot(Epoch(0, 8, 2), result(4))})  # the same one again
    assert not proposer.is_established
    proposer.on_promise(0, {0: Ballot(Epoch(0, 2, 0), result(2))})
    proposer.on_promise(2, {2: Ballot(Epoch(0, 8, 0), result(8))})  # too late to bind
    assert proposer.bound == {0: result(3), 1: result(4)}
    wanted = {0: CANCELLED, 2: CANCELLED}
    assert proposer.propose(wanted) == {0: result(3), 2: CANCELLED}
    assert proposer.propose({2: result(5)}) == {2: CANCELLED}


def test_a_value_is_chosen_once_and_only_one_that_was_proposed() -> None:
    proposer = Proposer(epoch=Epoch(0, 0, 0), majority_count=2, is_first=True)
    proposer.propose({0: result(1)})
    assert proposer.on_vote(0, {0: result(1)}) == {}
    assert proposer.on_vote(0, {0: result(1)}) == {}
    assert proposer.on_vote(1, {0: result(2), 1: result(1)}) == {}
    assert proposer.on_vote(2, {0: result(1)}) == {0: result(1)}
    assert proposer.on_vote(1, {0: result(1)}) == {}
