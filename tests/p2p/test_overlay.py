"""The overlay: redials for ever, few links, one mesh, and nothing that grows."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.meshes import Device, small_mesh
from support.records import directory_of, presence_of
from support.ring import US_PER_S, Ring

from p2p.address_book import (
    ADDRESS_ROW,
    PEERS_REMEMBERED_MAX,
    SIGHTINGS_MAX,
    AddressBook,
    AddressRow,
)
from p2p.directory import Directory
from p2p.overlay import (
    BRIEF_LINK_US,
    CROWDED_LINK_US,
    CROWDED_REVIEW_US,
    DIAL_US_MAX,
    DIALS_FOR_WORK_SHARE,
    HEAL_EVERY_US,
    NEAR_EACH_SIDE,
    REVIEW_SOON_US,
    SWEEP_EVERY_US,
    WRITE_ADDRESSES_EVERY_US,
    Overlay,
    ReviewDue,
)
from p2p.redials import (
    BACKOFF_FIRST_US,
    BACKOFF_MAX_US,
    LASTING_LINK_US,
    SIGHTING_RETRY_US,
    Redials,
)
from wire.effects import Dial, Effect, Hangup, Persist, Row, SetTimer
from wire.ids import PeerId
from wire.membership import ADDRESSES_MAX

MESH = small_mesh(40)
OWN, PEER, *OTHERS = MESH.devices
ADDRESS = "/ip4/192.0.2.7/tcp/4001"
OTHER_ADDRESS = "/ip4/192.0.2.8/tcp/4001"
US_OF_AN_HOUR = 3_600 * US_PER_S


def peer_numbered(number: int) -> PeerId:
    """Return the id of a device that nobody holds papers of."""
    return PeerId(number.to_bytes(32, "big"))


@dataclass
class Bench:
    """One overlay, whose effects are looked at one review at a time."""

    links_max: int = 24
    dials_max: int = 16
    removed: set[PeerId] = field(default_factory=set)
    dead: set[PeerId] = field(default_factory=set)
    now_us: int = 0

    def __post_init__(self) -> None:
        self.directory: Directory = directory_of(MESH, OWN)
        self.directory.is_removed = self.removed.__contains__
        self.overlay = Overlay(
            own=OWN.peer,
            directory=self.directory,
            links={},
            rng=random.Random(1),
            dead=lambda: self.dead,
            links_max=self.links_max,
            dials_max=self.dials_max,
        )

    def know(self, *devices: Device, has_left: bool = False, incarnation: int = 1) -> None:
        for number, device in enumerate(devices):
            presence = presence_of(
                device,
                version=(incarnation, 1),
                addresses=(f"/ip4/10.0.0.{number}/tcp/4001",),
                has_left=has_left,
            )
            self.directory.merge(presence, device.chain, now_us=self.now_us)

    def review(self, *, after_us: int = US_PER_S) -> list[Effect]:
        self.now_us += after_us
        effects = self.overlay.on_review_due(now_us=self.now_us)
        assert SetTimer(ReviewDue(), 1_000_000) in effects
        return effects

    def dialled(self, *, after_us: int = US_PER_S) -> list[PeerId]:
        return dials(self.review(after_us=after_us))

    def link(
        self, peer: PeerId, *, address: str = ADDRESS, is_outbound: bool = True
    ) -> list[Effect]:
        self.overlay.links[peer] = object()
        return self.overlay.on_link_up(peer, address, is_outbound=is_outbound, now_us=self.now_us)

    def unlink(self, peer: PeerId, reason: str = "gone") -> None:
        self.overlay.links.pop(peer)
        assert self.overlay.on_link_down(peer, reason, now_us=self.now_us) == []

    def fail(
        self, peer: PeerId, reason: str = "no answer", *, is_full: bool = False
    ) -> list[Effect]:
        return self.overlay.on_dial_failed(peer, reason, is_full=is_full, now_us=self.now_us)

    def see(self, peer: PeerId, address: str = ADDRESS, source: str = "mdns") -> list[Effect]:
        return self.overlay.on_peer_seen(peer, (address,), source)


def dials(effects: list[Effect]) -> list[PeerId]:
    return [effect.peer for effect in effects if isinstance(effect, Dial)]


def hangups(effects: list[Effect]) -> list[PeerId]:
    return [effect.peer for effect in effects if isinstance(effect, Hangup)]


def rows(effects: list[Effect]) -> list[Row]:
    return [row for effect in effects if isinstance(effect, Persist) for row in effect.rows]


# --- redials --------------------------------------------------------------------------------


def test_a_device_is_dialled_for_ever_with_growing_capped_and_jittered_pauses() -> None:
    bench = Bench()
    bench.know(PEER)
    tries_us = []
    while bench.now_us < US_OF_AN_HOUR:
        if bench.dialled(after_us=100_000):
            tries_us.append(bench.now_us)
            bench.fail(PEER.peer)
    pauses_us = [later - earlier for earlier, later in itertools.pairwise(tries_us)]
    assert pauses_us[0] <= 2 * BACKOFF_FIRST_US + 100_000
    assert max(pauses_us) <= BACKOFF_MAX_US + 100_000
    late_us = pauses_us[10:]
    assert min(late_us) >= BACKOFF_MAX_US // 2
    assert len(set(late_us)) > len(late_us) // 2, "without jitter all devices dial in step"
    assert len(tries_us) >= US_OF_AN_HOUR // BACKOFF_MAX_US


@given(st.lists(st.sampled_from(["dial failed", "brief link", "lasting link", "seen"])))
def test_whatever_happens_the_next_try_is_at_most_a_minute_away(happenings: list[str]) -> None:
    redials = Redials(rng=random.Random(1))
    peer = PEER.peer
    now_us = 0
    for happening in happenings:
        now_us += 3_000_000
        match happening:
            case "dial failed":
                redials.on_failed(peer, "no answer", now_us=now_us)
            case "brief link":
                redials.on_link_lost(peer, "gone", lasted_us=1, now_us=now_us)
            case "lasting link":
                redials.on_link_lost(peer, "gone", lasted_us=LASTING_LINK_US, now_us=now_us)
                assert redials.is_due(peer, now_us=now_us + BACKOFF_FIRST_US)
            case "seen":
                redials.on_sighted(peer)
        assert redials.is_due(peer, now_us=now_us + BACKOFF_MAX_US)


def test_a_dial_that_is_never_answered_is_given_up_and_tried_again() -> None:
    bench = Bench()
    bench.know(PEER)
    assert bench.dialled() == [PEER.peer]
    assert bench.dialled(after_us=DIAL_US_MAX - US_PER_S) == [], "it is still under way"
    bench.review()
    assert bench.dialled(after_us=BACKOFF_MAX_US) == [PEER.peer]


def test_a_lasting_link_that_fell_is_dialled_at_once() -> None:
    bench = Bench()
    bench.know(PEER)
    bench.link(PEER.peer)
    bench.now_us += LASTING_LINK_US
    bench.unlink(PEER.peer)
    assert bench.dialled(after_us=BACKOFF_FIRST_US) == [PEER.peer]


def test_a_link_that_falls_again_and_again_is_not_dialled_every_second() -> None:
    bench = Bench()
    bench.know(PEER)
    tries_us = []
    for _ in range(1_200):
        if PEER.peer in bench.dialled():
            tries_us.append(bench.now_us)
            bench.link(PEER.peer)
            bench.unlink(PEER.peer, "refused")
    late = [tried_us for tried_us in tries_us if tried_us > 600 * US_PER_S]
    assert 10 <= len(late) <= 20, "ten minutes, 30 to 60 s apart"


def test_a_device_that_dialled_us_meanwhile_has_not_failed() -> None:
    bench = Bench()
    bench.know(PEER)
    assert bench.dialled() == [PEER.peer]
    bench.link(PEER.peer, is_outbound=False)
    bench.fail(PEER.peer, "the other link stays")
    assert PEER.peer not in bench.overlay.last_failure
    assert bench.dialled() == [], "it is linked"


def test_the_last_failure_is_there_to_be_shown_until_there_is_a_link() -> None:
    bench = Bench()
    bench.know(PEER)
    bench.review()
    bench.fail(PEER.peer, "connection refused")
    assert bench.overlay.last_failure == {PEER.peer: "connection refused"}
    bench.link(PEER.peer)
    assert bench.overlay.last_failure == {}


# --- how many -------------------------------------------------------------------------------


def test_at_most_dials_max_are_under_way_and_a_quarter_of_them_is_kept_for_work() -> None:
    bench = Bench(dials_max=8)
    bench.know(*OTHERS[:20])
    reserved = 8 // DIALS_FOR_WORK_SHARE
    assert len(bench.dialled()) == 8 - reserved
    assert bench.dialled() == []
    reached = [
        device.peer
        for device in MESH.devices[1:]
        if dials(bench.overlay.reach(device.peer, (ADDRESS,), now_us=bench.now_us))
    ]
    assert len(reached) == reserved


def test_devices_without_an_address_take_no_dial_from_others() -> None:
    bench = Bench(dials_max=4)
    for device in OTHERS[:20]:
        bench.directory.merge(presence_of(device), device.chain, now_us=0)
    bench.know(PEER)
    assert bench.dialled() == [PEER.peer]


def test_in_a_small_mesh_everybody_is_dialled_even_those_that_fail() -> None:
    bench = Bench(links_max=4)
    bench.know(*OTHERS[:4])
    for _ in range(5):
        for peer in bench.dialled(after_us=BACKOFF_MAX_US):
            bench.fail(peer)
    assert sorted(bench.dialled(after_us=BACKOFF_MAX_US)) == sorted(
        device.peer for device in OTHERS[:4]
    )


def test_links_over_the_maximum_are_hung_up_once_but_never_near_ones() -> None:
    bench = Bench(links_max=2 * NEAR_EACH_SIDE, dials_max=32)
    bench.know(*OTHERS)
    for device in OTHERS[:10]:
        bench.link(device.peer)
    ring = sorted(device.peer for device in OTHERS)
    above = [peer for peer in ring if peer > OWN.peer]
    ring = above + ring[: len(ring) - len(above)]
    near = {*ring[:NEAR_EACH_SIDE], *ring[-NEAR_EACH_SIDE:]}
    for peer in near - bench.overlay.links.keys():
        bench.link(peer)
    gone = hangups(bench.review())
    assert sorted(gone) == sorted(bench.overlay.links.keys() - near)
    assert hangups(bench.review()) == [], "the first ones have not ended yet"


def test_brief_links_are_not_hung_up_early_and_take_no_place_of_others() -> None:
    bench = Bench(links_max=6)
    bench.know(*OTHERS)
    needed = PeerId(max(device.peer for device in OTHERS))
    for device in OTHERS[:6]:
        bench.link(device.peer)
    bench.overlay.reach(PEER.peer, (ADDRESS,), now_us=bench.now_us)
    bench.link(PEER.peer)
    bench.link(OTHERS[20].peer, is_outbound=False)  # somebody with work for us
    began_us = bench.now_us
    while bench.now_us + US_PER_S < began_us + BRIEF_LINK_US:
        assert hangups(bench.review()) == [], needed
    assert len(hangups(bench.review())) == 2


def test_a_link_that_the_host_asked_for_is_not_hung_up_while_it_asks() -> None:
    bench = Bench(links_max=1)
    bench.link(OTHERS[0].peer)
    bench.overlay.on_peer_needed(PEER.peer, now_us=bench.now_us)
    bench.link(PEER.peer)
    assert hangups(bench.review()) == []
    assert hangups(bench.review(after_us=BRIEF_LINK_US)) != []


# --- many devices ---------------------------------------------------------------------------


def test_two_hundred_devices_with_six_links_each_are_one_mesh_and_come_to_rest() -> None:
    ring = Ring(small_mesh(200), links_max=6)
    ring.run_for(5 * US_PER_S)
    assert ring.components() == 1
    ring.run_for(35 * US_PER_S)
    dials_count = ring.dials_count
    ring.run_for(10 * US_PER_S)
    assert ring.components() == 1
    assert sum(ring.degrees()) / 200 <= 6
    assert min(ring.degrees()) >= 2 * NEAR_EACH_SIDE
    assert ring.dials_count - dials_count <= 20, "full devices hang up on each other for ever"


def test_the_ring_closes_over_devices_that_died() -> None:
    mesh = small_mesh(60)
    ring = Ring(mesh, links_max=4)  # near neighbours only
    ring.run_for(5 * US_PER_S)
    by_id = sorted(mesh.devices, key=lambda device: device.peer)
    ring.crash(*by_id[10:20], *by_id[40:50])
    ring.run_for(120 * US_PER_S)
    assert ring.components() == 1
    assert min(ring.degrees()) >= 4
    ring.start(*by_id[10:20])
    ring.run_for(60 * US_PER_S)
    assert ring.components() == 1
    assert min(ring.degrees()) >= 4


def test_two_halves_find_each_other_again_though_each_has_all_its_links() -> None:
    mesh = small_mesh(40)
    ring = Ring(mesh, links_max=6)
    ring.run_for(40 * US_PER_S)
    by_id = sorted(mesh.devices, key=lambda device: device.peer)
    ring.cut_off(by_id[::2])
    ring.run_for(180 * US_PER_S)
    assert ring.components() == 2
    ring.heal()
    ring.run_for(30 * US_PER_S)
    assert ring.components() == 1
    ring.run_for(120 * US_PER_S)
    assert sum(ring.degrees()) / 40 <= 6


def test_a_mesh_that_lost_all_its_devices_comes_back_alone() -> None:
    mesh = small_mesh(12)
    ring = Ring(mesh, links_max=24)
    ring.run_for(5 * US_PER_S)
    ring.crash(*mesh.devices[1:])
    ring.run_for(3_600 * US_PER_S)
    ring.start(*mesh.devices[1:])
    ring.run_for(5 * US_PER_S)
    assert ring.degrees() == [11] * 12


def test_the_first_device_that_answers_again_has_all_others_tried_at_once() -> None:
    bench = Bench()
    bench.know(*OTHERS[:8])
    everybody = sorted(device.peer for device in OTHERS[:8])
    for _ in range(10):
        for peer in bench.dialled(after_us=BACKOFF_MAX_US):
            bench.fail(peer)
    assert bench.dialled() == []
    bench.link(everybody[0], is_outbound=False)
    assert sorted(bench.dialled()) == everybody[1:]
    for _ in range(8):
        for peer in everybody[1:]:
            bench.fail(peer)
    bench.link(everybody[1], is_outbound=False)
    assert bench.dialled() == [], "but not at every return"


def test_the_dead_lose_their_place_to_the_next_and_one_of_them_is_tried_each_second() -> None:
    bench = Bench(links_max=6)
    bench.know(*OTHERS)
    above = sorted(device.peer for device in OTHERS if device.peer > OWN.peer)
    ring = above + sorted(device.peer for device in OTHERS if device.peer < OWN.peer)
    bench.dead |= {ring[0], ring[1], ring[-1]}
    bench.link(ring[0])  # dead to the mesh, and still linked
    bench.link(ring[10])
    dialled = bench.dialled()
    assert {ring[2], ring[3], ring[-2], ring[-3]} <= set(dialled)
    assert len(bench.dead & set(dialled)) == 1, "one is tried"
    for peer in dialled:
        if peer in bench.dead:
            bench.fail(peer)
        else:
            bench.link(peer)
    [tried] = bench.dialled()
    assert tried in bench.dead - {ring[0]}


def test_the_first_of_the_dead_that_answers_has_all_others_tried_at_once() -> None:
    bench = Bench(links_max=30)
    bench.know(*OTHERS[:8])
    bench.link(PEER.peer)
    bench.now_us += HEAL_EVERY_US
    bench.overlay.on_review_due(now_us=bench.now_us)
    everybody = sorted(device.peer for device in OTHERS[:8])
    for peer in everybody:
        bench.fail(peer)
    bench.dead |= set(everybody)
    bench.link(everybody[0], is_outbound=False)
    assert sorted(bench.dialled(after_us=1)) == everybody[1:], "without waiting out a backoff"


# --- leaving, removal, coming back ----------------------------------------------------------


def test_a_device_that_said_goodbye_gives_up_its_place_but_is_still_tried() -> None:
    bench = Bench(links_max=2)
    bench.know(*OTHERS[:5])
    bench.know(PEER, has_left=True)
    counts = {PEER.peer: 0}
    for _ in range(300):
        for peer in bench.dialled():
            counts[peer] = counts.get(peer, 0) + 1
            if peer == PEER.peer:
                bench.fail(peer)
            else:
                bench.link(peer)
    assert len(bench.overlay.links) == 2
    assert 4 <= counts[PEER.peer] <= 16, "five minutes, up to a minute apart"
    bench.know(PEER, incarnation=2)
    bench.unlink(next(iter(bench.overlay.links)))
    tried: list[PeerId] = []
    for _ in range(90):
        for peer in bench.dialled():
            bench.fail(peer)
            tried.append(peer)
    assert PEER.peer in tried


def test_a_device_that_leaves_is_not_dialled_while_it_closes() -> None:
    bench = Bench()
    bench.know(PEER)
    bench.link(PEER.peer)
    bench.now_us += US_OF_AN_HOUR
    bench.know(PEER, has_left=True, incarnation=2)
    bench.unlink(PEER.peer)
    assert bench.dialled(after_us=BACKOFF_FIRST_US - 1) == []


def test_a_removed_device_is_neither_dialled_nor_reached_nor_remembered() -> None:
    bench = Bench()
    bench.overlay.on_restarted([AddressRow(peer=PEER.peer, addresses=(ADDRESS,))])
    bench.removed.add(PEER.peer)
    assert bench.dialled() == []
    assert bench.overlay.reach(PEER.peer, (ADDRESS,), now_us=bench.now_us) == []
    bench.overlay.forget(PEER.peer)
    assert bench.see(PEER.peer, source="invitation") == []
    bench.removed.clear()
    assert bench.dialled() == []


def test_a_forgotten_device_is_never_dialled_again_nor_after_a_restart() -> None:
    bench = Bench()
    bench.see(PEER.peer, source="invitation")
    assert rows(bench.overlay.forget(PEER.peer)) == [Row(ADDRESS_ROW, PEER.peer, None)]
    assert bench.dialled() == []
    assert bench.overlay.forget(PEER.peer) == [], "nothing is stored: nothing to delete"


# --- addresses ------------------------------------------------------------------------------


def test_a_device_known_from_an_invitation_alone_is_dialled_and_survives_a_restart() -> None:
    bench = Bench()
    effects = bench.see(PEER.peer, source="invitation")
    row = AddressRow(peer=PEER.peer, addresses=(ADDRESS,))
    assert rows(effects) == [Row(ADDRESS_ROW, PEER.peer, row)]
    assert SetTimer(ReviewDue(), 1) in effects
    assert bench.review() == [SetTimer(ReviewDue(), US_PER_S), Dial(PEER.peer, (ADDRESS,))]
    restarted = Bench()
    restarted.overlay.on_restarted([row])
    assert restarted.dialled() == [PEER.peer]


def test_an_address_that_worked_is_tried_first_and_stored_once() -> None:
    bench = Bench()
    bench.see(PEER.peer, ADDRESS)
    bench.see(PEER.peer, OTHER_ADDRESS)
    row = AddressRow(peer=PEER.peer, addresses=(ADDRESS,))
    assert rows(bench.link(PEER.peer, address=ADDRESS)) == [Row(ADDRESS_ROW, PEER.peer, row)]
    assert bench.link(PEER.peer, address=ADDRESS) == []
    bench.see(PEER.peer, OTHER_ADDRESS)
    assert bench.overlay.addresses_of(PEER.peer) == (ADDRESS, OTHER_ADDRESS)


def test_the_port_of_an_inbound_connection_is_not_remembered() -> None:
    bench = Bench()
    assert bench.link(PEER.peer, is_outbound=False) == []
    assert bench.overlay.addresses_of(PEER.peer) == ()


def test_a_device_that_always_dialled_us_is_found_after_a_restart() -> None:
    bench = Bench()
    bench.know(PEER)
    bench.link(PEER.peer, is_outbound=False)
    stored = rows(bench.review())
    told = ("/ip4/10.0.0.0/tcp/4001",)
    assert [row.value for row in stored] == [AddressRow(peer=PEER.peer, addresses=told)]
    assert rows(bench.review()) == [], "it is stored once"
    again = Bench()
    again.overlay.on_restarted([AddressRow(peer=PEER.peer, addresses=told)])
    assert again.dialled() == [PEER.peer]


def test_where_a_linked_device_says_it_is_is_stored_as_soon_as_it_says_so() -> None:
    bench = Bench()
    bench.link(PEER.peer, is_outbound=False)
    assert bench.overlay.on_word_of(PEER.peer) == []
    bench.know(PEER)
    stored = rows(bench.overlay.on_word_of(PEER.peer))
    told = ("/ip4/10.0.0.0/tcp/4001",)
    assert [row.value for row in stored] == [AddressRow(peer=PEER.peer, addresses=told)]
    assert rows(bench.review()) == [], "it is stored once"


def test_where_members_say_they_are_is_stored_for_many_at_once_and_not_often() -> None:
    bench = Bench()
    bench.know(PEER)
    assert rows(bench.overlay.on_word_of(PEER.peer)) == [], "it is not linked"
    assert [row.key for row in rows(bench.review())] == [PEER.peer]
    bench.know(PEER, *OTHERS[:9])
    for _ in range(WRITE_ADDRESSES_EVERY_US // US_PER_S - 1):
        assert rows(bench.review()) == [], "a storm of joins would be a storm of writes"
    writes = [effect for effect in bench.review() if isinstance(effect, Persist)]
    assert len(writes) == 1
    assert {row.key for row in writes[0].rows} == {device.peer for device in OTHERS[:9]}
    assert rows(bench.review(after_us=WRITE_ADDRESSES_EVERY_US)) == [], "it is stored once"


def test_members_of_today_push_out_those_of_yesterday_and_never_each_other() -> None:
    book = AddressBook()
    for number in range(PEERS_REMEMBERED_MAX):
        book.on_reached(peer_numbered(number), ADDRESS)
    members = {peer_numbered(number): (ADDRESS,) for number in range(1_000, 2_500)}
    stored = {row.key: row.value for row in rows(book.on_word_of_members(members))}
    assert members.keys() <= book.peers()
    assert len(book.peers()) == PEERS_REMEMBERED_MAX
    assert {key for key, value in stored.items() if value is None} == {
        peer_numbered(number) for number in range(500)
    }
    assert rows(book.on_word_of_members(members)) == []


def test_who_hears_of_more_devices_and_has_few_links_dials_them_soon_not_at_the_next_second() -> (
    None
):
    bench = Bench(links_max=8)
    bench.review()
    bench.know(*OTHERS[:20])
    soon = SetTimer(ReviewDue(), REVIEW_SOON_US)
    assert bench.overlay.on_members_changed(now_us=bench.now_us) == [soon]
    assert bench.overlay.on_members_changed(now_us=bench.now_us) == [], "its timer is set"
    for peer in bench.dialled(after_us=REVIEW_SOON_US):
        bench.link(peer)
    assert bench.overlay.on_members_changed(now_us=bench.now_us) == [], "nobody new"
    bench.know(*OTHERS[20:30])
    assert bench.overlay.on_members_changed(now_us=bench.now_us) == [], "it dialled for enough"


# --- nobody left ----------------------------------------------------------------------------


def test_a_device_that_hears_nobody_tries_all_it_remembers_one_after_another() -> None:
    bench = Bench(links_max=6)
    bench.overlay.on_restarted(
        [AddressRow(peer=device.peer, addresses=(ADDRESS,)) for device in OTHERS]
    )
    tried: list[PeerId] = []
    while len(tried) < len(OTHERS):
        dialled = bench.dialled(after_us=SWEEP_EVERY_US)
        tried += dialled
        effects = [bench.fail(peer) for peer in dialled][-1]
        is_over = len(tried) == len(OTHERS)
        assert effects == ([] if is_over else [SetTimer(ReviewDue(), SWEEP_EVERY_US)])
    assert len(set(tried)) == len(OTHERS), "nobody twice before everybody once"
    assert bench.now_us < US_PER_S


def test_who_found_only_one_that_is_full_asks_it_again_within_half_a_second() -> None:
    bench = Bench()
    bench.know(PEER)
    assert bench.dialled() == [PEER.peer]
    [timer] = bench.fail(PEER.peer, "refused: too many links", is_full=True)
    assert isinstance(timer, SetTimer)
    assert timer.after_us <= BACKOFF_FIRST_US
    assert bench.dialled(after_us=timer.after_us) == [PEER.peer]
    bench.link(OTHERS[0].peer)
    bench.fail(PEER.peer, "refused: too many links", is_full=True)
    assert bench.dialled(after_us=BACKOFF_FIRST_US) == [], "others will do"


def test_whoever_says_anew_where_it_is_is_dialled_without_waiting_but_not_at_its_own_pace() -> None:
    bench = Bench()
    bench.know(PEER, OTHERS[0])
    bench.link(OTHERS[0].peer)
    for _ in range(8):
        bench.review(after_us=BACKOFF_MAX_US)
        bench.fail(PEER.peer)
    bench.know(PEER, incarnation=2)
    assert bench.dialled() == [PEER.peer]
    bench.fail(PEER.peer)
    assert bench.dialled(after_us=BACKOFF_FIRST_US - 1) == []
    bench.know(PEER, incarnation=3)
    assert bench.dialled(after_us=1) == [], "it failed less than a second ago"
    assert bench.dialled(after_us=SIGHTING_RETRY_US) == [PEER.peer]


def test_to_a_crowd_a_device_keeps_links_just_long_enough_to_tell_who_is_where() -> None:
    bench = Bench(links_max=8, dials_max=8)
    bench.know(*OTHERS)
    outbound = [device.peer for device in OTHERS[:2]]
    for peer in outbound:
        bench.link(peer)
    bench.review()
    crowd = [device.peer for device in OTHERS[2:12]]
    for peer in crowd:
        bench.link(peer, is_outbound=False)
    bench.now_us += CROWDED_LINK_US
    assert hangups(bench.overlay.on_review_due(now_us=bench.now_us)) == []
    last = OTHERS[12].peer
    assert bench.link(last, is_outbound=False) == [SetTimer(ReviewDue(), CROWDED_REVIEW_US)]
    effects = bench.overlay.on_review_due(now_us=bench.now_us + CROWDED_REVIEW_US)
    gone = hangups(effects)
    assert SetTimer(ReviewDue(), CROWDED_REVIEW_US) in effects
    assert len(gone) >= len(crowd) // 2
    assert last not in gone, "it has had no time"


def test_what_a_device_says_of_itself_comes_before_what_others_say() -> None:
    bench = Bench()
    bench.see(PEER.peer, ADDRESS)
    bench.know(PEER)
    assert bench.overlay.addresses_of(PEER.peer) == ("/ip4/10.0.0.0/tcp/4001", ADDRESS)


def test_addresses_of_one_device_are_bounded() -> None:
    bench = Bench()
    for number in range(40):
        effects = bench.see(PEER.peer, f"/ip4/192.0.2.{number}/tcp/1", source="invitation")
        for row in rows(effects):
            assert isinstance(row.value, AddressRow)
            assert len(row.value.addresses) <= ADDRESSES_MAX, "nobody could read the row"
    addresses = bench.overlay.addresses_of(PEER.peer)
    assert len(addresses) == ADDRESSES_MAX
    assert addresses[0] == "/ip4/192.0.2.39/tcp/1"


def test_a_sighting_ends_the_wait_but_does_not_set_the_pace() -> None:
    bench = Bench()
    bench.see(PEER.peer)
    for _ in range(12):
        for peer in bench.dialled(after_us=BACKOFF_MAX_US):
            bench.fail(peer)
    bench.see(PEER.peer)
    assert bench.dialled(after_us=SIGHTING_RETRY_US // 2) == []
    assert bench.dialled(after_us=SIGHTING_RETRY_US // 2) == [PEER.peer]
    bench.fail(PEER.peer)
    bench.see(PEER.peer, OTHER_ADDRESS)
    assert bench.dialled(after_us=1) == [PEER.peer], "it moved: the failures were at its old place"


def test_a_sighting_never_makes_the_wait_longer() -> None:
    redials = Redials(rng=random.Random(1))
    redials.on_link_lost(PEER.peer, "gone", lasted_us=LASTING_LINK_US, now_us=0)
    redials.on_sighted(PEER.peer)
    assert redials.is_due(PEER.peer, now_us=BACKOFF_FIRST_US)


def test_this_device_and_empty_sightings_are_ignored() -> None:
    bench = Bench()
    assert bench.see(OWN.peer) == []
    assert bench.overlay.on_peer_seen(PEER.peer, (), "mdns") == []
    assert bench.dialled() == []


# --- bounds ---------------------------------------------------------------------------------


def test_sightings_are_few_and_never_push_out_what_was_reached() -> None:
    book = AddressBook()
    book.on_told(PEER.peer, (ADDRESS,), source="invitation")
    for number in range(1, 500):
        assert book.on_told(peer_numbered(number), (ADDRESS,), source="mdns") == []
    assert len(book.peers()) == SIGHTINGS_MAX + 1
    assert book.of(PEER.peer) == (ADDRESS,)
    assert book.of(peer_numbered(499)) == (ADDRESS,)
    assert book.of(peer_numbered(1)) == ()


def test_the_device_reached_longest_ago_makes_room_on_disk_too() -> None:
    book = AddressBook()
    for number in range(PEERS_REMEMBERED_MAX):
        book.on_reached(peer_numbered(number), ADDRESS)
    book.on_reached(peer_numbered(0), ADDRESS)  # again: now 1 is the oldest
    effects = book.on_reached(PEER.peer, ADDRESS)
    assert Row(ADDRESS_ROW, peer_numbered(1), None) in rows(effects)
    assert len(book.peers()) == PEERS_REMEMBERED_MAX
    assert peer_numbered(0) in book
    assert peer_numbered(1) not in book


def test_too_many_stored_rows_are_deleted_at_a_restart() -> None:
    stored = [
        AddressRow(peer=peer_numbered(number), addresses=(ADDRESS,))
        for number in range(PEERS_REMEMBERED_MAX + 3)
    ]
    book = AddressBook()
    deleted = rows(book.on_restarted(stored))
    assert deleted == [Row(ADDRESS_ROW, peer_numbered(number), None) for number in range(3)]
    assert len(book.peers()) == PEERS_REMEMBERED_MAX


@pytest.mark.parametrize("happening", ["dial failed", "link fell"])
def test_failures_of_devices_that_nobody_would_dial_are_forgotten(happening: str) -> None:
    bench = Bench()
    for number in range(1, 50):
        peer = peer_numbered(number)
        bench.overlay.reach(peer, (ADDRESS,), now_us=bench.now_us)
        if happening == "dial failed":
            bench.fail(peer)
        else:
            bench.link(peer, is_outbound=False)
            bench.unlink(peer)
    bench.review(after_us=BRIEF_LINK_US)
    assert bench.overlay.last_failure == {}
    assert bench.overlay.redials == Redials(rng=bench.overlay.rng)
    assert not any(bench.overlay.is_needed(peer_numbered(number)) for number in range(1, 50))


# --- work -----------------------------------------------------------------------------------


def test_reaching_a_linked_device_keeps_its_link_and_dials_nobody() -> None:
    bench = Bench()
    bench.link(PEER.peer)
    assert bench.overlay.reach(PEER.peer, (), now_us=bench.now_us) == []
    assert bench.overlay.is_needed(PEER.peer)
    bench.review(after_us=BRIEF_LINK_US)
    assert not bench.overlay.is_needed(PEER.peer)


def test_reaching_a_device_uses_all_addresses_and_waits_out_no_backoff() -> None:
    bench = Bench()
    bench.know(PEER)
    bench.review()
    bench.fail(PEER.peer)
    [dial] = bench.overlay.reach(PEER.peer, (ADDRESS,), now_us=bench.now_us)
    assert dial == Dial(PEER.peer, (ADDRESS, "/ip4/10.0.0.0/tcp/4001"))
    assert bench.overlay.reach(PEER.peer, (ADDRESS,), now_us=bench.now_us) == []
    assert bench.overlay.is_dialling(PEER.peer)


def test_a_device_without_an_address_cannot_be_reached() -> None:
    bench = Bench()
    assert bench.overlay.reach(PEER.peer, (), now_us=bench.now_us) == []
    assert not bench.overlay.is_dialling(PEER.peer)
    assert not bench.overlay.is_needed(PEER.peer)
    assert bench.overlay.reach(OWN.peer, (ADDRESS,), now_us=bench.now_us) == []
