"""How removals travel: floods of what is new, pages of what was missed, and no endless talk."""

from __future__ import annotations

import random
from collections import deque

from support.meshes import keys_of
from support.removing import (
    ADMIN,
    FOUNDER,
    GENESIS,
    HALL,
    KITCHEN,
    LAPTOP,
    MESH,
    OTHER_ADMIN,
    removal,
)

from p2p.removal_exchange import FLOODED_MAX, GIVEN_BYTES_MAX, RemovalExchange
from p2p.removals import Removals
from wire.codec import FRAME_BYTES_MAX, FrameCodec
from wire.effects import Effect, Persist, Send, Trace
from wire.ids import PeerId
from wire.keys import Ed25519Verifier
from wire.membership import KEPT_MAX, PaperId, Removal
from wire.messages import (
    MESSAGES,
    Message,
    RemovalsGiven,
    RemovalsHeld,
    RemovalsSummary,
    RemovalsWanted,
)
from wire.signed import Signed

CODEC = FrameCodec(MESSAGES, Ed25519Verifier())


def subject_of(number: int) -> PeerId:
    return PeerId(b"removed device" + number.to_bytes(18, "big"))


class Devices:
    """Devices with links between them; what they send arrives in order."""

    def __init__(self, count: int) -> None:
        self.peers = [keys_of(100 + number).peer for number in range(count)]
        self.exchanges = {
            peer: RemovalExchange(
                removals=Removals(genesis=GENESIS), links={}, rng=random.Random(number)
            )
            for number, peer in enumerate(self.peers)
        }
        self.sent: list[Message] = []
        self.traces: list[Trace] = []
        self._under_way: deque[tuple[PeerId, PeerId, Message]] = deque()

    def of(self, number: int) -> RemovalExchange:
        return self.exchanges[self.peers[number]]

    def link(self, one: int, other: int) -> None:
        a, b = self.peers[one], self.peers[other]
        self.exchanges[a].links[b] = self.exchanges[b].links[a] = object()
        self.carry_out(a, self.exchanges[a].on_link_up(b))
        self.carry_out(b, self.exchanges[b].on_link_up(a))

    def hold(self, number: int, *signed: Signed[Removal]) -> None:
        self.of(number).removals.add(signed)

    def remove(self, number: int, *signed: Signed[Removal]) -> None:
        exchange = self.of(number)
        added = exchange.removals.add(signed)
        self.carry_out(self.peers[number], exchange.spread(added.news))

    def carry_out(self, own: PeerId, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(peer, message):
                    self.sent.append(message)
                    self._under_way.append((own, peer, message))
                case Trace():
                    self.traces.append(effect)
                case _:
                    assert isinstance(effect, Persist)

    def deliver_all(self) -> None:
        while self._under_way:
            sender, receiver, message = self._under_way.popleft()
            exchange = self.exchanges[receiver]
            match message:
                case RemovalsSummary():
                    effects = exchange.on_summary(sender, message)
                case RemovalsHeld():
                    effects = exchange.on_held(sender, message)
                case RemovalsWanted():
                    effects = exchange.on_wanted(sender, message)
                case _:
                    assert isinstance(message, RemovalsGiven)
                    effects = exchange.on_given(sender, message)
            self.carry_out(receiver, effects)

    def agree(self) -> bool:
        return len({exchange.removals.state_hash for exchange in self.exchanges.values()}) == 1


def test_a_new_removal_reaches_all_over_links_and_its_subject_too() -> None:
    devices = Devices(6)
    for number in range(5):
        devices.link(number, number + 1)
    devices.link(5, 0)
    assert devices.sent == [], "without removals there is nothing to compare"
    devices.remove(2, removal(HALL, FOUNDER))
    devices.deliver_all()
    assert all(one.removals.is_removed(HALL.peer) for one in devices.exchanges.values())
    assert len(devices.sent) <= 2 * 6, "each link carries it once each way at most"


def test_two_sides_that_were_apart_have_the_same_when_one_link_comes_up() -> None:
    devices = Devices(2)
    devices.hold(0, removal(HALL, FOUNDER), removal(LAPTOP, ADMIN))
    devices.hold(1, removal(KITCHEN, ADMIN), removal(LAPTOP, ADMIN))
    devices.link(0, 1)
    devices.deliver_all()
    assert devices.agree()
    assert len(devices.of(0).removals) == 3
    devices.sent.clear()
    devices.carry_out(devices.peers[0], devices.of(0).on_exchange_due())
    devices.deliver_all()
    assert [type(message) for message in devices.sent] == [RemovalsSummary], "equal: one hash"


def test_a_device_that_missed_ten_thousand_learns_them_in_pages_that_fit_frames() -> None:
    devices = Devices(2)
    devices.hold(0, *(removal(subject_of(number), FOUNDER) for number in range(9_990)))
    devices.hold(1, *(removal(subject_of(number), ADMIN) for number in range(9_990, 10_000)))
    devices.link(0, 1)
    devices.deliver_all()
    assert devices.agree()
    assert len(devices.of(1).removals) == 10_000
    frames = [len(CODEC.encode(message)) for message in devices.sent]
    assert max(frames) <= FRAME_BYTES_MAX // 2
    assert len(devices.sent) < 300


def test_a_device_without_any_is_told_and_asks_on_until_it_has_all() -> None:
    devices = Devices(2)
    devices.hold(0, *(removal(subject_of(number), FOUNDER) for number in range(3_000)))
    devices.link(0, 1)
    devices.deliver_all()
    assert devices.agree()


def test_the_longest_removals_fit_frames_and_are_asked_for_a_few_at_a_time() -> None:
    kept = tuple(PaperId(number.to_bytes(16, "big")) for number in range(KEPT_MAX))
    devices = Devices(2)
    devices.hold(0, *(removal(subject_of(n), ADMIN, kept=kept) for n in range(60)))
    devices.hold(1, *(removal(subject_of(n), FOUNDER, kept=kept) for n in range(60, 100)))
    devices.link(0, 1)
    devices.deliver_all()
    frames = [len(CODEC.encode(m)) for m in devices.sent if isinstance(m, RemovalsGiven)]
    assert max(frames) < GIVEN_BYTES_MAX + 80 * 1024
    assert devices.agree()


def test_many_new_ones_are_not_flooded_but_asked_for() -> None:
    devices = Devices(3)
    devices.link(0, 1)
    devices.link(1, 2)
    news = [removal(subject_of(number), FOUNDER) for number in range(FLOODED_MAX + 1)]
    devices.remove(0, *news)
    assert [type(message) for message in devices.sent] == [RemovalsSummary]
    devices.deliver_all()
    assert devices.agree()
    assert len(devices.of(2).removals) == len(news)


def test_what_nobody_may_sign_is_refused_told_and_not_passed_on() -> None:
    devices = Devices(3)
    devices.link(0, 1)
    devices.link(1, 2)
    forged = RemovalsGiven(removals=(removal(HALL, KITCHEN), removal(ADMIN, OTHER_ADMIN)))
    devices.carry_out(devices.peers[1], devices.of(1).on_given(devices.peers[0], forged))
    devices.deliver_all()
    assert [trace.event for trace in devices.traces] == ["removal.refused"]
    assert len(devices.of(2).removals) == 1


def test_a_page_out_of_order_is_refused_and_a_device_that_asks_on_gets_an_end() -> None:
    devices = Devices(2)
    devices.hold(0, removal(HALL, FOUNDER))
    exchange, peer = devices.of(0), devices.peers[1]
    ids = tuple(PaperId(bytes([number]) * 16) for number in (3, 2))
    for page in (
        RemovalsHeld(after=b"", ids=ids, is_last=False),
        RemovalsHeld(after=b"\xff" * 16, ids=ids[:1], is_last=False),
        RemovalsHeld(after=b"", ids=(ids[0], ids[0]), is_last=True),
    ):
        [refused] = exchange.on_held(peer, page)
        assert isinstance(refused, Trace)
    [answer] = exchange.on_wanted(peer, RemovalsWanted(ids=ids, after=PaperId(b"\xff" * 16)))
    assert answer == Send(peer, RemovalsHeld(after=b"\xff" * 16, ids=(), is_last=True))


def test_an_empty_page_that_says_it_is_not_the_last_ends_the_exchange() -> None:
    devices = Devices(2)
    page = RemovalsHeld(after=b"", ids=(), is_last=False)
    assert devices.of(0).on_held(devices.peers[1], page) == []


def test_a_mesh_of_another_name_brings_nothing() -> None:
    devices = Devices(2)
    foreign = removal(HALL, FOUNDER, mesh=type(MESH)(b"x" * 32))
    devices.carry_out(
        devices.peers[0],
        devices.of(0).on_given(devices.peers[1], RemovalsGiven(removals=(foreign,))),
    )
    assert len(devices.of(0).removals) == 0
