"""The walk to the devices nearest to a key, among devices of which some lie."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.provider_lookup import (
    CONCURRENCY,
    DEBT_MAX,
    HOLDERS_COUNT,
    QUESTIONS_MAX,
    THOROUGH_COUNT,
    ProviderLookup,
    place_of,
)
from wire.events import Provider
from wire.ids import PeerId

KEY = b"\x12\x20" + hashlib.sha256(b"gpu:cuda").digest()
PLACE = int.from_bytes(hashlib.sha256(KEY).digest(), "big")
ADDRESS = "/ip4/192.0.2.7/tcp/4001"
OWN = PeerId(bytes(32))

Answer = tuple[list[Provider], list[PeerId]]  # who provides, who is nearer


def peer(number: int) -> PeerId:
    return PeerId(number.to_bytes(32, "big"))


def nearest_first(peers: Iterable[PeerId]) -> list[PeerId]:
    return sorted(peers, key=lambda one: place_of(one) ^ PLACE)


PEERS = nearest_first(map(peer, range(1, 201)))
PROVIDER, FALSE = Provider(peer(1_001), (ADDRESS,)), Provider(peer(1_000), (ADDRESS,))


def halfway(one: PeerId, peers: list[PeerId]) -> list[PeerId]:
    """Return whom an honest device names: some that are much nearer than itself."""
    return peers[: max(HOLDERS_COUNT, peers.index(one) // 2)][-HOLDERS_COUNT:]


def lookup_of(*linked: PeerId, is_thorough: bool = False) -> ProviderLookup:
    lookup = ProviderLookup(own=OWN, target=KEY, is_thorough=is_thorough)
    lookup.add_linked(linked)
    return lookup


def run(lookup: ProviderLookup, answer_of: Callable[[PeerId], Answer | None]) -> list[PeerId]:
    """Answer all questions in order, None for none; return who was asked."""
    asked: list[PeerId] = []
    while not lookup.is_over:
        batch = lookup.next_to_ask()
        assert batch, "neither over nor anybody to ask"
        asked += batch
        for one in batch:
            answer = answer_of(one)
            if answer is None:
                lookup.on_failed(one)
            else:
                lookup.on_answer(one, *answer)
    return asked


def made_up(liar: PeerId) -> list[PeerId]:
    """Return ids that lie nearer to the key than any device, other ones for each liar."""
    numbers = range(
        int.from_bytes(liar, "big") * 10_000, (int.from_bytes(liar, "big") + 1) * 10_000
    )
    return nearest_first(map(peer, numbers))[:HOLDERS_COUNT]


def test_the_nearest_are_asked_by_the_words_of_others_and_nobody_twice() -> None:
    asked = run(lookup_of(PEERS[-1]), lambda one: ([], halfway(one, PEERS)))
    assert set(PEERS[:HOLDERS_COUNT]) <= set(asked)
    assert len(asked) == len(set(asked))


def test_it_ends_when_two_answers_in_a_row_name_nobody_new() -> None:
    lookup = lookup_of(*PEERS[:CONCURRENCY])
    first, second, third, fourth, *_ = lookup.next_to_ask()
    lookup.on_answer(first, [PROVIDER], [])
    lookup.on_answer(second, [PROVIDER], [])
    lookup.on_answer(third, [], [])
    assert not lookup.is_over
    lookup.on_answer(fourth, [PROVIDER], [])
    assert lookup.is_over
    assert lookup.providers() == (PROVIDER,)


def test_a_thorough_one_asks_more_of_the_nearest_whatever_they_agree_on() -> None:
    asked = run(lookup_of(*PEERS[:60], is_thorough=True), lambda _: ([FALSE], []))
    assert asked == PEERS[:THOROUGH_COUNT]


def test_whom_most_name_comes_first_and_so_do_addresses() -> None:
    lookup = lookup_of(*PEERS[:CONCURRENCY], is_thorough=True)
    true = Provider(PROVIDER.peer, (ADDRESS,))
    wrong = [f"/ip4/198.51.100.{number}/tcp/1" for number in range(8)]
    answers = [[FALSE, Provider(true.peer, tuple(wrong))], [true], [true]]
    for one, claims in zip(lookup.next_to_ask(), answers, strict=False):
        lookup.on_answer(one, claims, [])
    first, second = lookup.providers()
    assert (first.peer, second.peer) == (true.peer, FALSE.peer)
    assert first.addresses[0] == ADDRESS


def test_made_up_ids_displace_nobody_and_cost_three_questions_a_liar() -> None:
    liars = set(PEERS[5:60:11])
    others = [one for one in PEERS if one not in liars]

    def answer(one: PeerId) -> Answer | None:
        if one in liars:
            return [], made_up(one)
        if one not in PEERS:
            return None
        return ([PROVIDER] if one in PEERS[:3] else []), halfway(one, others)

    lookup = lookup_of(PEERS[-1], *liars)
    asked = run(lookup, answer)
    assert lookup.providers() == (PROVIDER,)
    assert len([one for one in asked if one not in PEERS]) <= DEBT_MAX * len(liars)


def test_a_device_that_somebody_else_names_too_is_tried_on_that_word() -> None:
    liar, honest, wanted = PEERS[50], PEERS[60], PEERS[0]
    lookup = lookup_of(liar, honest)
    lookup.next_to_ask()
    lookup.on_answer(liar, [], [*made_up(liar)[:DEBT_MAX], wanted])
    for one in lookup.next_to_ask():
        lookup.on_failed(one)
    assert lookup.next_to_ask() == []
    lookup.on_answer(honest, [], [wanted])
    assert lookup.next_to_ask() == [wanted]


def test_a_slow_answer_lets_another_one_be_asked_and_still_counts() -> None:
    lookup = lookup_of(*PEERS[:60])
    slow, *_ = lookup.next_to_ask()
    assert lookup.next_to_ask() == []
    lookup.on_slow(slow)
    assert len(lookup.next_to_ask()) == 1
    lookup.on_answer(slow, [PROVIDER], [])
    assert lookup.providers() == (PROVIDER,)


def test_answers_of_whoever_was_not_asked_or_has_answered_change_nothing() -> None:
    lookup = lookup_of(*PEERS[:60])
    stranger, asked = PEERS[59], lookup.next_to_ask()[0]
    lookup.on_answer(stranger, [FALSE], [])
    lookup.on_failed(asked)
    lookup.on_answer(asked, [FALSE], [])
    assert lookup.providers() == ()


def test_the_holders_are_the_nearest_that_answered() -> None:
    lookup = lookup_of(*PEERS[:60])
    run(lookup, lambda one: None if one in PEERS[:5] else ([], []))
    assert lookup.nearest() == PEERS[5 : 5 + HOLDERS_COUNT]


def test_this_device_is_never_asked() -> None:
    asked = run(lookup_of(PEERS[0], OWN), lambda _: ([], [OWN]))
    assert asked == [PEERS[0]]


@given(seed=st.integers(0, 1 << 32), lying_permille=st.integers(0, 1_000))
def test_every_lookup_ends_within_its_questions(seed: int, lying_permille: int) -> None:
    rng = random.Random(seed)

    def answer(one: PeerId) -> Answer | None:
        kind = rng.randrange(1_000)
        if kind < lying_permille:
            return [FALSE] * rng.randrange(3), [peer(rng.randrange(1 << 64)) for _ in range(20)]
        return None if kind % 3 == 0 else ([PROVIDER], rng.sample(PEERS, 20))

    lookup = lookup_of(*rng.sample(PEERS, 24), is_thorough=rng.random() < 0.5)
    assert len(run(lookup, answer)) <= QUESTIONS_MAX
    assert len(lookup.nearest()) <= HOLDERS_COUNT


@pytest.mark.parametrize("is_thorough", [False, True])
def test_a_fifth_of_colluding_devices_does_not_hide_a_provider(is_thorough: bool) -> None:
    rng = random.Random(7)
    liars = set(rng.sample(PEERS, 40))
    links = {one: rng.sample(PEERS, 24) for one in PEERS}
    holders = [one for one in PEERS[:HOLDERS_COUNT] if one not in liars]

    def answer(one: PeerId) -> Answer:
        if one in liars:
            return [FALSE], nearest_first(liars)[:20]
        return ([PROVIDER] if one in holders else []), nearest_first(links[one])[:20]

    lookup = lookup_of(*rng.sample(PEERS, 24), is_thorough=is_thorough)
    run(lookup, answer)
    found = [one.peer for one in lookup.providers()]
    if is_thorough:
        assert found[0] == PROVIDER.peer
    assert PROVIDER.peer in found
