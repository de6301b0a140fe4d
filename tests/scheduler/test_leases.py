"""The book of leases: nobody holds what somebody else holds, and renewal counts anew."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scheduler.errors import TaskLeased
from scheduler.leases import LEASE_US, GrantedLeaseEnds, LeaseBook
from wire.effects import SetTimer
from wire.ids import BatchId, PeerId
from wire.messages import LeaseRef
from wire.tasks import Epoch

BATCHES = [BatchId(bytes([number]) * 20) for number in range(2)]
PEERS = [PeerId(bytes([number]) * 32) for number in range(3)]
EPOCH = Epoch(0, 1, 0)


def ref_of(attempt: int, batch: BatchId = BATCHES[0]) -> LeaseRef:
    return LeaseRef(batch, EPOCH, attempt)


def test_a_task_is_leased_to_a_device_once_and_to_others_too() -> None:
    book = LeaseBook()
    book.grant(ref_of(1), PEERS[0], (1, 2), now_us=0)

    with pytest.raises(TaskLeased):
        book.grant(ref_of(2), PEERS[0], (2, 3), now_us=0)
    with pytest.raises(TaskLeased):
        book.grant(ref_of(1), PEERS[1], (7,), now_us=0)

    assert book.of_task(BATCHES[0], 3) == []
    book.grant(ref_of(2), PEERS[1], (2,), now_us=0)
    assert [ref for ref, _ in book.of_task(BATCHES[0], 2)] == [ref_of(1), ref_of(2)]
    book.grant(ref_of(2, BATCHES[1]), PEERS[1], (2,), now_us=0)  # another batch, another task


def test_a_lease_ends_with_its_last_task_and_each_ends_once() -> None:
    book = LeaseBook()
    book.grant(ref_of(1), PEERS[0], (1, 2), now_us=0)

    assert book.end_task(ref_of(1), 1)
    assert not book.end_task(ref_of(1), 1)
    assert ref_of(1) in book
    assert book.end_task(ref_of(1), 2)
    assert ref_of(1) not in book
    assert not book.end_task(ref_of(1), 2)


def test_a_renewed_lease_does_not_run_out_and_a_silent_one_does() -> None:
    book = LeaseBook()
    (timer,) = book.grant(ref_of(1), PEERS[0], (1,), now_us=0)
    assert timer == SetTimer(GrantedLeaseEnds(ref_of(1)), LEASE_US)

    assert book.renew(ref_of(1), PEERS[0], now_us=4_000_000) is not None
    assert book.on_timer_due(GrantedLeaseEnds(ref_of(1)), now_us=LEASE_US) == (
        None,
        [SetTimer(GrantedLeaseEnds(ref_of(1)), 4_000_000)],
    )

    granted, effects = book.on_timer_due(GrantedLeaseEnds(ref_of(1)), now_us=LEASE_US + 4_000_000)
    assert granted is not None
    assert effects == []


def test_only_its_holder_renews_a_lease() -> None:
    book = LeaseBook()
    book.grant(ref_of(1), PEERS[0], (1,), now_us=0)

    assert book.renew(ref_of(1), PEERS[1], now_us=1) is None
    granted, _ = book.on_timer_due(GrantedLeaseEnds(ref_of(1)), now_us=LEASE_US)
    assert granted is not None


class LeaseBookMachine(RuleBasedStateMachine):
    """Grants, ends and renewals in any order, beside a model that is only a set."""

    def __init__(self) -> None:
        super().__init__()
        self.book = LeaseBook()
        self.now_us = 0
        self.attempts = 0
        self.model: dict[tuple[BatchId, int, PeerId], LeaseRef] = {}
        self.expires_us: dict[LeaseRef, int] = {}
        self.holders: dict[LeaseRef, PeerId] = {}

    @rule(
        batch=st.sampled_from(BATCHES),
        peer=st.sampled_from(PEERS),
        indices=st.sets(st.integers(0, 5), min_size=1, max_size=4),
        is_new=st.booleans(),
    )
    def grant(self, batch: BatchId, peer: PeerId, indices: set[int], is_new: bool) -> None:
        self.attempts += is_new or not self.attempts
        ref = ref_of(self.attempts, batch)
        places = [(batch, index, peer) for index in sorted(indices)]
        is_free = not self.model.keys() & set(places) and ref not in self.expires_us
        try:
            self.book.grant(ref, peer, tuple(sorted(indices)), now_us=self.now_us)
        except TaskLeased:
            assert not is_free
            return
        assert is_free
        assert self.holders.setdefault(ref, peer) == peer or ref not in self.expires_us
        self.holders[ref] = peer
        self.expires_us[ref] = self.now_us + LEASE_US
        self.model |= dict.fromkeys(places, ref)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self.model)))
        ref = self.model.pop(place)
        assert self.book.end_task(ref, place[1])
        self.forget_if_over(ref)

    @precondition(lambda self: self.expires_us)
    @rule(data=st.data(), peer=st.sampled_from(PEERS))
    def renew(self, data: st.DataObject, peer: PeerId) -> None:
        ref = data.draw(st.sampled_from(sorted(self.expires_us, key=repr)))
        granted = self.book.renew(ref, peer, now_us=self.now_us)
        assert (granted is not None) == (self.holders[ref] == peer)
        if granted is not None:
            self.expires_us[ref] = self.now_us + LEASE_US

    @rule(after_us=st.integers(1, LEASE_US))
    def pass_time(self, after_us: int) -> None:
        self.now_us += after_us
        for ref in sorted(self.expires_us, key=repr):
            granted, effects = self.book.on_timer_due(GrantedLeaseEnds(ref), now_us=self.now_us)
            assert (granted is not None) == (self.now_us >= self.expires_us[ref])
            assert bool(effects) == (granted is None)
            for index in sorted(granted.indices) if granted is not None else ():
                assert self.book.end_task(ref, index)
                del self.model[ref.batch, index, self.holders[ref]]
            self.forget_if_over(ref)

    def forget_if_over(self, ref: LeaseRef) -> None:
        if ref not in self.model.values():
            self.expires_us.pop(ref, None)

    @invariant()
    def the_book_knows_all_holders_of_each_task(self) -> None:
        for batch in BATCHES:
            for index in range(6):
                under = {one.executor: ref for ref, one in self.book.of_task(batch, index)}
                assert under == {
                    place[2]: ref
                    for place, ref in self.model.items()
                    if place[:2] == (batch, index)
                }
        assert len(self.book) == len(self.expires_us)


TestLeaseBookMachine = LeaseBookMachine.TestCase
