"""The network key: rolled by admins, given to who heard the same removals; the old for a week."""

from __future__ import annotations

import random
from collections import deque
from itertools import pairwise

import pytest
from msgspec.structs import replace
from support.removing import (
    ADMIN,
    FOUNDER,
    GENESIS,
    HALL,
    KITCHEN,
    LAPTOP,
    MESH,
    OTHER_ADMIN,
    Member,
    removal,
)

from p2p.network_keys import (
    ACCEPTED_US,
    AGES_EVERY_US,
    GENERATIONS_SKIPPED_MAX,
    NETWORK_KEY_ROW,
    PAST_KEYS_MAX,
    NetworkKeyRow,
    NetworkKeys,
    PreviousKeyAges,
)
from p2p.removals import Removals
from wire.answers import Refused, RekeyView
from wire.codec import Decoder
from wire.effects import Answer, Effect, Persist, Send, SetTimer, Trace, UseNetworkKeys
from wire.ids import Digest, MeshId, PeerId
from wire.keys import Ed25519Verifier
from wire.membership import NetworkKeyRoll, network_key_digest
from wire.messages import Message, NetworkKeyGiven, NetworkKeyHeld
from wire.signed import encode_body, sign

FIRST = b"1" * 32


class Devices:
    """Devices with links; messages arrive in order, time stands unless a test moves it."""

    def __init__(self, *members: Member) -> None:
        self.now_us = 1_000_000
        self.members = members
        self.of = {
            member.peer: NetworkKeys(
                signer=member.keys,
                genesis=GENESIS,
                chain=member.chain,
                removals=Removals(genesis=GENESIS),
                links={},
                rng=random.Random(number),
                row=NetworkKeyRow(key=FIRST),
            )
            for number, member in enumerate(members)
        }
        self.effects: list[Effect] = []
        self.sent: list[Message] = []
        self._under_way: deque[tuple[PeerId, PeerId, Message]] = deque()

    def at(self, member: Member) -> NetworkKeys:
        return self.of[member.peer]

    def link(self, one: Member, other: Member) -> None:
        self.at(one).links[other.peer] = self.at(other).links[one.peer] = object()
        self.do(one.peer, self.at(one).on_link_up(other.peer))
        self.do(other.peer, self.at(other).on_link_up(one.peer))

    def rekey(self, member: Member) -> Answer | None:
        effects = self.at(member).on_rekey(1, now_us=self.now_us)
        self.do(member.peer, effects)
        answers = [
            then
            for effect in effects
            for then in ((effect,) if not isinstance(effect, Persist) else effect.then)
            if isinstance(then, Answer)
        ]
        return answers[0] if answers else None

    def exchange(self) -> None:
        for peer, keys in self.of.items():
            self.do(peer, keys.on_exchange_due())
        self.deliver()

    def do(self, own: PeerId, effects: list[Effect]) -> None:
        self.effects += effects
        for effect in effects:
            if isinstance(effect, Send):
                self.sent.append(effect.message)
                self._under_way.append((own, effect.peer, effect.message))

    def deliver(self) -> None:
        for _ in range(1_000):
            if not self._under_way:
                return
            sender, receiver, message = self._under_way.popleft()
            keys = self.of[receiver]
            if isinstance(message, NetworkKeyHeld):
                self.do(receiver, keys.on_held(sender, message))
            elif isinstance(message, NetworkKeyGiven):
                self.do(receiver, keys.on_given(sender, message, now_us=self.now_us))
        pytest.fail("an endless talk")


def test_a_rolled_key_reaches_all_over_links_and_the_old_one_is_accepted_too() -> None:
    members = (FOUNDER, ADMIN, KITCHEN, HALL)
    devices = Devices(*members)
    for one, other in pairwise(members):
        devices.link(one, other)
    devices.deliver()
    assert devices.sent == [], "while the key is the first there is nothing to compare"
    answer = devices.rekey(ADMIN)
    assert answer is not None
    assert answer.value == RekeyView(generation=1, accepted_for_us=ACCEPTED_US)
    devices.deliver()
    keys = {devices.at(member).row.keys for member in members}
    assert keys == {(devices.at(ADMIN).key, FIRST)}
    assert UseNetworkKeys((devices.at(ADMIN).key, FIRST)) in devices.effects


def test_a_device_that_has_not_heard_the_removals_gets_the_key_when_it_has() -> None:
    devices = Devices(FOUNDER, ADMIN, HALL)
    heard = removal(LAPTOP, FOUNDER)
    for member in (FOUNDER, ADMIN):
        devices.at(member).removals.add([heard])
    devices.link(FOUNDER, ADMIN)
    devices.link(FOUNDER, HALL)
    devices.rekey(FOUNDER)
    devices.deliver()
    assert devices.at(ADMIN).key == devices.at(FOUNDER).key
    assert devices.at(HALL).key == FIRST, "it might give it to whom it does not know to be out"
    devices.at(HALL).removals.add([heard])
    for _ in range(10):  # each with one random link
        devices.exchange()
    assert devices.at(HALL).key == devices.at(FOUNDER).key


def test_two_rolls_at_once_end_in_one_key() -> None:
    devices = Devices(FOUNDER, ADMIN, OTHER_ADMIN, HALL)
    devices.rekey(ADMIN)
    devices.rekey(OTHER_ADMIN)
    for one, other in ((FOUNDER, ADMIN), (FOUNDER, OTHER_ADMIN), (ADMIN, HALL)):
        devices.link(one, other)
    devices.deliver()
    devices.exchange()
    assert len({keys.key for keys in devices.of.values()}) == 1


def test_the_key_of_before_is_accepted_for_a_week_of_running_time() -> None:
    devices = Devices(FOUNDER)
    keys = devices.at(FOUNDER)
    devices.rekey(FOUNDER)
    elapsed_us = 0
    while keys.row.previous is not None:
        timers = [one for one in devices.effects if isinstance(one, SetTimer)]
        assert timers[-1].key == PreviousKeyAges()
        assert timers[-1].after_us <= AGES_EVERY_US
        devices.now_us += timers[-1].after_us
        elapsed_us += timers[-1].after_us
        if elapsed_us > 2 * ACCEPTED_US:
            pytest.fail("it never ends")
        devices.do(FOUNDER.peer, keys.on_previous_key_ages(now_us=devices.now_us))
        if elapsed_us == AGES_EVERY_US:  # a restart: its clock begins anywhere
            devices.now_us = 7
            devices.do(FOUNDER.peer, keys.on_restarted([keys.row], now_us=devices.now_us))
    assert elapsed_us == ACCEPTED_US
    assert keys.row.keys == (keys.key,)
    assert devices.effects[-2:-1] == [UseNetworkKeys((keys.key,))]


def test_what_is_kept_is_read_again_and_shows_no_key() -> None:
    devices = Devices(FOUNDER)
    devices.rekey(FOUNDER)
    [persist] = [one for one in devices.effects if isinstance(one, Persist)]
    [row] = persist.rows
    assert row.kind == NETWORK_KEY_ROW
    assert isinstance(row.value, NetworkKeyRow)
    again = Decoder(NetworkKeyRow, Ed25519Verifier()).decode(encode_body(row.value))
    assert again == row.value
    for secret in (again.key, FIRST):
        for shown in (repr(again), repr(UseNetworkKeys(again.keys)), repr(devices.effects)):
            assert repr(secret)[2:-1] not in shown


# --- who may roll it, and what is refused ---------------------------------------------------


def given_by(
    member: Member, *, generation: int = 1, key: bytes = b"2" * 32, mesh: MeshId = MESH
) -> NetworkKeyGiven:
    body = NetworkKeyRoll(
        mesh=mesh, generation=generation, digest=network_key_digest(key), chain=member.chain
    )
    return NetworkKeyGiven(roll=sign(body, member.keys), key=key)


def test_an_admins_key_is_taken_and_a_later_one_only() -> None:
    devices = Devices(HALL)
    keys = devices.at(HALL)
    for generation, key in ((3, b"3" * 32), (2, b"2" * 32), (3, b"3" * 32)):
        given = given_by(ADMIN, generation=generation, key=key)
        devices.do(HALL.peer, keys.on_given(ADMIN.peer, given, now_us=1))
    assert (keys.generation, keys.key) == (3, b"3" * 32)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (given_by(KITCHEN), "no admin"),
        (replace(given_by(ADMIN), key=b"3" * 32), "not the key"),
        (given_by(ADMIN, mesh=MeshId(b"o" * 32)), "another mesh"),
        (given_by(ADMIN, generation=GENERATIONS_SKIPPED_MAX + 1), "generation"),
        (given_by(Member(KITCHEN.keys, ADMIN.chain)), "certificate 0 is for"),
    ],
    ids=["no admin", "another key", "another mesh", "far ahead", "papers of another"],
)
def test_what_no_admin_rolled_is_refused(given: NetworkKeyGiven, why: str) -> None:
    devices = Devices(HALL)
    [trace] = devices.at(HALL).on_given(ADMIN.peer, given, now_us=1)
    assert isinstance(trace, Trace)
    assert why in str(trace.fields["reason"])
    assert devices.at(HALL).key == FIRST


def test_who_may_not_rekey_is_told_why() -> None:
    devices = Devices(KITCHEN, ADMIN)
    devices.at(ADMIN).removals.add([removal(ADMIN, FOUNDER)])
    for member in (KITCHEN, ADMIN):
        answer = devices.rekey(member)
        assert answer is not None
        assert isinstance(answer.value, Refused)
    assert not any(isinstance(one, Persist) for one in devices.effects)


def test_a_device_that_claims_generation_nought_for_ever_is_not_answered_for_ever() -> None:
    devices = Devices(HALL)
    held = NetworkKeyHeld(generation=0, digest=Digest(b"\xff" * 32), removals=bytes(8))
    assert devices.at(HALL).on_held(ADMIN.peer, held) == []


def test_keys_of_before_are_known_again_within_a_bound() -> None:
    row = NetworkKeyRow(key=FIRST)
    for number in range(PAST_KEYS_MAX + 2):
        row = row.followed_by(number.to_bytes(32, "big"), None)
    assert row.was_held((3).to_bytes(32, "big"))
    assert row.was_held(row.key)
    assert not row.was_held(FIRST), "it fell out"
    assert len(row.past) == PAST_KEYS_MAX
    assert row.followed_by(row.key, None) == row, "the same key is no other key"
