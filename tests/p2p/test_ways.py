"""Through whom a device is dialled, and when: the choice of the overlay."""

from __future__ import annotations

import random

from support.meshes import Device, small_mesh
from support.records import directory_of, presence_of

from p2p.overlay import Overlay
from p2p.redials import BACKOFF_MAX_US, LASTING_LINK_US
from p2p.ways import DIRECT_EVERY_US, RELAYED_LINKS_MAX, RELAYS_TRIED_MAX
from wire.effects import Dial, Effect
from wire.ids import PeerId
from wire.records import Record, RecordKind, Watch
from wire.signed import encode_body, sign

MESH = small_mesh(20)
OWN, PEER, *OTHERS = MESH.devices
RELAYS = OTHERS[:5]
STRANGER = OTHERS[5]
ADDRESSES = ("/ip4/10.0.0.1/tcp/4001",)


class Bench:
    """One overlay, linked with some who observe the peer, which has an address."""

    def __init__(self, linked: tuple[Device, ...] = (RELAYS[0], STRANGER)) -> None:
        self.now_us = 0
        self.dead: set[PeerId] = set()
        self.directory = directory_of(MESH, OWN)
        self.overlay = Overlay(
            own=OWN.peer,
            directory=self.directory,
            links={},
            rng=random.Random(1),
            dead=lambda: self.dead,
        )
        self._counter = 0
        for device in linked:
            self.link(device.peer)
        self.watches(PEER, observers=tuple(relay.peer for relay in RELAYS))

    def has_address(self, *devices: Device) -> None:
        for device in devices:
            presence = presence_of(device, addresses=ADDRESSES)
            self.directory.merge(presence, device.chain, now_us=self.now_us)

    def watches(
        self,
        device: Device,
        *,
        observers: tuple[PeerId, ...] = (),
        silent: tuple[PeerId, ...] = (),
    ) -> None:
        self._counter += 1
        record = Record(
            owner=device.peer,
            kind=str(RecordKind.WATCH),
            incarnation=1,
            counter=self._counter,
            body=encode_body(Watch(observers=observers, silent=silent)),
        )
        self.directory.merge(sign(record, device.keys), device.chain, now_us=self.now_us)

    def link(self, peer: PeerId, *, via: PeerId | None = None) -> None:
        self.overlay.links[peer] = object()
        self.overlay.on_link_up(peer, "", is_outbound=True, via=via, now_us=self.now_us)

    def unlink(self, peer: PeerId) -> None:
        del self.overlay.links[peer]
        self.overlay.on_link_down(peer, "gone", now_us=self.now_us)

    def fail(self, peer: PeerId = PEER.peer) -> None:
        self.overlay.on_dial_failed(peer, "no answer", now_us=self.now_us)

    def try_for_work(self, peer: PeerId) -> list[Effect]:
        self.fail(peer)
        return self.overlay.reach(peer, (), now_us=self.now_us)

    def dials(self, *, after_us: int = BACKOFF_MAX_US) -> list[Dial]:
        self.now_us += after_us
        effects = self.overlay.on_review_due(now_us=self.now_us)
        return [effect for effect in effects if isinstance(effect, Dial)]


def test_a_dial_that_failed_is_followed_by_one_through_an_observer_and_that_by_a_direct_one() -> (
    None
):
    bench = Bench()
    bench.has_address(PEER)
    direct = Dial(PEER.peer, ADDRESSES)
    through = Dial(PEER.peer, (), (RELAYS[0].peer,))
    for expected in (direct, through, direct, through):
        assert bench.dials() == [expected]
        bench.fail()


def test_without_an_address_it_goes_through_others_at_once_and_without_both_nobody_dials() -> None:
    bench = Bench()
    assert bench.dials() == [Dial(PEER.peer, (), (RELAYS[0].peer,))]
    alone = Bench(linked=(STRANGER,))
    assert alone.dials() == []
    assert alone.overlay.reach(PEER.peer, (), now_us=alone.now_us) == []
    assert not alone.overlay.is_dialling(PEER.peer)


def test_work_reaches_a_device_through_others() -> None:
    bench = Bench()
    reached = bench.overlay.reach(PEER.peer, (), now_us=bench.now_us)
    assert reached == [Dial(PEER.peer, (), (RELAYS[0].peer,))]
    assert bench.overlay.is_dialling(PEER.peer)


def test_three_are_asked_of_those_that_are_linked_directly_and_hear_it() -> None:
    bench = Bench(linked=tuple(RELAYS))
    [dial] = bench.dials()
    assert len(dial.via) == RELAYS_TRIED_MAX == len(set(dial.via))
    assert set(dial.via) <= {relay.peer for relay in RELAYS}
    bench.fail()
    bench.watches(RELAYS[0], silent=(PEER.peer,))
    bench.unlink(RELAYS[1].peer)
    bench.unlink(RELAYS[2].peer)
    bench.link(RELAYS[2].peer, via=RELAYS[4].peer)  # carried itself: no chains
    [dial] = [one for one in bench.dials() if one.peer == PEER.peer]
    assert set(dial.via) == {RELAYS[3].peer, RELAYS[4].peer}


def test_nobody_is_asked_for_a_device_that_is_dead() -> None:
    bench = Bench()
    bench.has_address(PEER)
    bench.dials()
    bench.fail()
    bench.dead.add(PEER.peer)
    assert bench.dials() == [Dial(PEER.peer, ADDRESSES)]


def test_a_device_that_was_linked_through_another_is_dialled_so_at_once() -> None:
    bench = Bench(linked=(RELAYS[0], RELAYS[1]))
    bench.has_address(PEER)
    bench.link(PEER.peer, via=RELAYS[0].peer)
    bench.now_us += LASTING_LINK_US
    bench.unlink(PEER.peer)
    bench.unlink(RELAYS[0].peer)
    [dial] = [one for one in bench.dials(after_us=500_000) if one.peer == PEER.peer]
    assert dial.via == (RELAYS[1].peer,)
    bench.fail()
    [dial] = [one for one in bench.dials() if one.peer == PEER.peer]
    assert dial == Dial(PEER.peer, ADDRESSES)
    bench.link(PEER.peer)  # a direct link ends the detour
    bench.now_us += LASTING_LINK_US
    bench.unlink(PEER.peer)
    [dial] = [one for one in bench.dials() if one.peer == PEER.peer]
    assert dial == Dial(PEER.peer, ADDRESSES)


def test_a_direct_link_is_tried_now_and_then_while_another_carries_it() -> None:
    bench = Bench()
    bench.has_address(PEER)
    bench.link(PEER.peer, via=RELAYS[0].peer)
    tried = [
        dial
        for _ in range(10 * DIRECT_EVERY_US // 1_000_000)
        for dial in bench.dials(after_us=1_000_000)
    ]
    assert set(tried) == {Dial(PEER.peer, ADDRESSES)}
    assert 10 <= len(tried) <= 20
    assert not bench.overlay.is_dialling(PEER.peer)  # how it ends is told if it succeeds
    bench.unlink(PEER.peer)
    bench.link(PEER.peer)
    assert bench.dials(after_us=10 * DIRECT_EVERY_US) == []


def test_links_through_others_for_no_work_in_particular_are_few() -> None:
    bench = Bench()
    for device in OTHERS[6:]:
        bench.has_address(device)
        bench.watches(device, observers=(RELAYS[0].peer,))
    bench.has_address(PEER)
    for dial in bench.dials():
        bench.fail(dial.peer)
    dials = bench.dials()
    assert sum(bool(dial.via) for dial in dials) == RELAYED_LINKS_MAX < len(dials)
    for dial in dials:
        if dial.via:
            bench.link(dial.peer, via=dial.via[0])
        else:
            bench.fail(dial.peer)
    assert not any(dial.via for dial in bench.dials())
    far = next(device.peer for device in OTHERS[6:] if device.peer not in bench.overlay.links)
    reached = [*bench.try_for_work(far), *bench.try_for_work(far)]
    assert Dial(far, (), (RELAYS[0].peer,)) in reached


def test_work_links_with_one_who_can_carry_if_none_is_linked() -> None:
    bench = Bench(linked=(STRANGER,))
    bench.has_address(PEER, RELAYS[0], RELAYS[1])
    bench.watches(RELAYS[1], silent=(PEER.peer,))
    assert bench.overlay.reach(PEER.peer, (), now_us=bench.now_us) == [Dial(PEER.peer, ADDRESSES)]
    bench.fail()
    dials = bench.dials(after_us=1_000_000)
    assert dials.count(Dial(RELAYS[0].peer, ADDRESSES)) == 1
    assert PEER.peer not in [dial.peer for dial in dials]
    assert bench.overlay.is_needed(RELAYS[0].peer)
    assert not bench.overlay.is_needed(RELAYS[1].peer)
    bench.link(RELAYS[0].peer)
    assert Dial(PEER.peer, (), (RELAYS[0].peer,)) in bench.dials(after_us=1_000_000)
