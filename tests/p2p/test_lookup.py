"""Lookups: who is found, by which source, and that nobody can make one wait or lie."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from support.meshes import Device, small_mesh
from support.records import capabilities_of, directory_of, presence_of, record_of, telemetry_of

from p2p.directory import Chain, Member, Merge
from p2p.lookup import (
    COMMON_SHARE,
    DOUBTED_AFTER_US,
    FIRST_REVIEW_US,
    LOOKUP_US_MAX,
    LOOKUPS_MAX,
    PROVIDERS_ASKED_MAX,
    PROVIDERS_NAMED_MAX,
    LookupDoubted,
    LookupEnds,
    Lookups,
    LookupToken,
    ProvideReviewDue,
    Providing,
)
from p2p.overlay import Overlay
from wire.effects import Dial, Effect, FindProviders, Provide, Send, SetTimer, Withdraw
from wire.events import Provider, ProvidersFound
from wire.ids import PeerId
from wire.messages import RecordsGiven, RecordsWanted
from wire.records import Record, RecordKind
from wire.signed import Signed

MESH = small_mesh(40)
OWN, PEER, THIRD, *OTHERS = MESH.devices
ADDRESS = "/ip4/192.0.2.7/tcp/4001"
KEY, OTHER_KEY = "label:camera=front", "gpu:cuda"


@dataclass
class Bench:
    """Lookups of one device, and the answers they gave."""

    members_max: int = 2_000
    dials_max: int = 16
    now_us: int = 0
    answers: list[tuple[str, list[PeerId]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.links: dict[PeerId, object] = {}
        self.directory = directory_of(MESH, OWN, members_max=self.members_max)
        self.overlay = Overlay(
            own=OWN.peer,
            directory=self.directory,
            links=self.links,
            rng=random.Random(1),
            dials_max=self.dials_max,
        )
        self.directory.is_linked = self.links.__contains__
        self.directory.is_needed = self.overlay.is_needed
        self.lookups = Lookups(directory=self.directory, overlay=self.overlay, links=self.links)

    def find(self, *capabilities: str, via: str = "dht") -> list[Effect]:
        def answer(source: str, members: list[Member]) -> list[Effect]:
            self.answers.append((source, [member.peer for member in members]))
            return []

        return self.lookups.find(capabilities, via=via, then=answer)

    def named(self, *devices: Device, number: int = 1, address: str = ADDRESS) -> list[Effect]:
        """Let the DHT answer."""
        providers = tuple(Provider(device.peer, (address,)) for device in devices)
        found = ProvidersFound(LookupToken(number), providers)
        return self.lookups.on_providers_found(found, now_us=self.now_us)

    def doubted(self, *devices: Device, number: int = 1) -> list[Effect]:
        """Let the DHT answer that was asked to be thorough."""
        providers = tuple(Provider(device.peer, (ADDRESS,)) for device in devices)
        found = ProvidersFound(LookupToken(number, is_thorough=True), providers)
        return self.lookups.on_providers_found(found, now_us=self.now_us)

    def know(self, device: Device, *keys: str, counter: int = 1) -> None:
        """Hold a device's records, by whatever way."""
        for signed in self.records(device, *keys, counter=counter):
            self.directory.merge(signed, device.chain, now_us=self.now_us)

    def records(self, device: Device, *keys: str, counter: int = 1) -> list[Signed[Record]]:
        version = (1, counter)
        return [
            presence_of(device, version=version, addresses=(ADDRESS,)),
            capabilities_of(device, *keys, version=version),
        ]

    def link(self, device: Device) -> list[Effect]:
        self.links[device.peer] = object()
        self.overlay.on_link_up(device.peer, ADDRESS, is_outbound=True, now_us=self.now_us)
        self.directory.introduce(device.peer, device.chain)
        return self.lookups.on_link_up(device.peer)

    def give(self, device: Device, records: Sequence[Signed[Record]]) -> list[Effect]:
        """Let records come from a linked device."""
        given = RecordsGiven(records=tuple(records), chains=(device.chain,))
        for signed in records:
            chain = device.chain if signed.body.owner == device.peer else None
            self.directory.merge(signed, chain, now_us=self.now_us)
        effects = self.lookups.on_members_changed(now_us=self.now_us)
        return effects + self.lookups.on_records_given(device.peer, given, now_us=self.now_us)

    def answer(self, device: Device, *keys: str, counter: int = 1) -> list[Effect]:
        """Let a device answer what it was asked."""
        return self.give(device, self.records(device, *keys, counter=counter))

    def end(self, number: int = 1) -> list[Effect]:
        return self.lookups.on_lookup_ends(LookupEnds(number))


def asked(effects: list[Effect]) -> list[PeerId]:
    """Return who is asked for its own records."""
    peers = []
    for effect in effects:
        if isinstance(effect, Send):
            assert isinstance(effect.message, RecordsWanted)
            kinds = {(version.owner, version.kind) for version in effect.message.versions}
            assert (effect.peer, RecordKind.CAPABILITIES) in kinds
            assert (effect.peer, RecordKind.PRESENCE) in kinds, "it brings the chain"
            peers.append(effect.peer)
    return peers


def dialled(effects: list[Effect]) -> list[PeerId]:
    return [effect.peer for effect in effects if isinstance(effect, Dial)]


# --- where it looks -------------------------------------------------------------------------


def test_local_asks_nobody() -> None:
    bench = Bench()
    bench.know(PEER, KEY)
    assert bench.find(KEY, via="local") == []
    assert bench.find(OTHER_KEY, via="local") == []
    assert bench.answers == [("local", [PEER.peer]), ("local", [])]


def test_any_asks_the_dht_only_if_nobody_is_known() -> None:
    bench = Bench()
    assert FindProviders(KEY, LookupToken(1)) in bench.find(KEY, via="any")
    assert bench.answers == []
    bench.know(PEER, KEY)
    assert bench.find(KEY, via="any") == []
    assert bench.answers == [("local", [PEER.peer])]


def test_dht_asks_the_dht_even_if_somebody_is_known() -> None:
    bench = Bench()
    bench.know(PEER, KEY)
    bench.know(THIRD, KEY)
    assert bench.find(KEY) == [
        FindProviders(KEY, LookupToken(1)),
        SetTimer(LookupEnds(1), LOOKUP_US_MAX),
    ]
    bench.named(PEER)
    assert bench.answers == [("dht", [PEER.peer])], "and says only what the DHT said"


def test_the_rarest_capability_is_looked_up() -> None:
    bench = Bench()
    bench.know(PEER, "cpu:1", "cpu:2")
    bench.know(THIRD, "cpu:1")
    effects = bench.find("cpu:1", "cpu:2", OTHER_KEY)
    assert FindProviders(OTHER_KEY, LookupToken(1)) in effects
    assert FindProviders("cpu:2", LookupToken(2)) in bench.find("cpu:1", "cpu:2")


def test_when_the_dht_knows_nobody_the_answer_is_there_at_once() -> None:
    bench = Bench()
    bench.find(KEY)
    bench.named()
    assert bench.answers == [("dht", [])]


def test_somebody_gossip_brought_meanwhile_is_found_for_any() -> None:
    bench = Bench()
    bench.find(KEY, via="any")
    bench.know(THIRD, KEY)
    bench.named()
    assert bench.answers == [("local", [THIRD.peer])]


def test_this_device_is_found_without_being_asked() -> None:
    bench = Bench()
    bench.know(OWN, KEY)
    bench.find(KEY)
    assert bench.named(OWN) == []
    assert bench.answers == [("dht", [OWN.peer])]


# --- checked at the source ------------------------------------------------------------------


def test_a_provider_that_is_not_linked_is_dialled_asked_and_found() -> None:
    bench = Bench()
    bench.find(KEY)
    doubt = SetTimer(LookupDoubted(1), DOUBTED_AFTER_US)
    assert bench.named(PEER) == [Dial(PEER.peer, (ADDRESS,)), doubt]
    assert asked(bench.link(PEER)) == [PEER.peer]
    assert bench.answers == []
    bench.answer(PEER, KEY)
    assert bench.answers == [("dht", [PEER.peer])]


def test_a_provider_that_is_linked_is_asked_at_once() -> None:
    bench = Bench()
    bench.link(PEER)
    bench.find(KEY)
    assert asked(bench.named(PEER)) == [PEER.peer]
    bench.answer(PEER, KEY)
    assert bench.answers == [("dht", [PEER.peer])]


def test_links_that_no_lookup_waits_for_are_asked_nothing() -> None:
    bench = Bench()
    bench.find(KEY)
    assert bench.link(PEER) == []


def test_a_poisoned_record_finds_nobody() -> None:
    bench = Bench()
    bench.find(KEY)
    bench.named(PEER)
    bench.link(PEER)
    bench.answer(PEER, OTHER_KEY)
    bench.doubted()
    assert bench.answers == [("dht", [])]


def test_a_provider_of_one_of_two_capabilities_is_not_found() -> None:
    bench = Bench()
    bench.find(KEY, OTHER_KEY)
    bench.named(PEER)
    bench.link(PEER)
    bench.answer(PEER, KEY)
    bench.doubted()
    assert bench.answers == [("dht", [])]


def test_a_known_device_whose_record_does_not_change_ends_the_wait_with_its_answer() -> None:
    bench = Bench()
    bench.know(PEER, OTHER_KEY)
    bench.link(PEER)
    bench.find(KEY)
    bench.named(PEER)
    assert bench.answers == []
    bench.answer(PEER, OTHER_KEY)
    bench.doubted()
    assert bench.answers == [("dht", [])]


def test_news_of_others_do_not_end_the_wait_for_a_device_whose_record_is_stale() -> None:
    bench = Bench()
    bench.know(PEER, OTHER_KEY)  # before it got its camera
    bench.link(PEER)
    bench.find(KEY)
    bench.named(PEER)
    bench.give(THIRD, bench.records(THIRD, "cpu:1"))
    assert bench.answers == []
    bench.answer(PEER, KEY, OTHER_KEY, counter=2)
    assert bench.answers == [("dht", [PEER.peer])]


def test_other_records_from_the_provider_do_not_end_the_wait() -> None:
    bench = Bench()
    bench.find(KEY)
    bench.named(PEER)
    bench.link(PEER)
    bench.give(PEER, [*bench.records(THIRD, "cpu:1"), telemetry_of(PEER)])
    assert bench.answers == []
    bench.answer(PEER, KEY)
    assert bench.answers == [("dht", [PEER.peer])]


def test_a_device_known_to_provide_a_part_is_asked_for_its_newest_word() -> None:
    bench = Bench()
    bench.know(PEER, KEY)
    bench.link(PEER)
    bench.find(KEY, OTHER_KEY)
    assert asked(bench.named(PEER)) == [PEER.peer]
    bench.answer(PEER, KEY, OTHER_KEY, counter=2)
    assert bench.answers == [("dht", [PEER.peer])]


def test_a_device_cannot_answer_for_another() -> None:
    bench = Bench()
    bench.link(THIRD)
    bench.find(KEY)
    bench.named(PEER)
    body = capabilities_of(PEER, KEY).body.body
    forged = record_of(THIRD, RecordKind.CAPABILITIES, body, owner=PEER.peer)
    bench.give(THIRD, [*bench.records(THIRD, "cpu:1"), forged])
    assert bench.answers == []
    assert bench.directory.get(PEER.peer) is None


def test_what_a_third_device_brings_of_the_provider_counts_too() -> None:
    bench = Bench()
    bench.link(THIRD)
    bench.find(KEY)
    bench.named(PEER)
    bench.know(PEER, KEY)  # signed by the provider, whoever passed it on
    bench.lookups.on_members_changed(now_us=bench.now_us)
    assert bench.answers == [("dht", [PEER.peer])]


def test_a_capability_withdrawn_meanwhile_is_not_found() -> None:
    bench = Bench()
    bench.find(KEY)
    bench.named(PEER, THIRD)
    bench.link(PEER)
    bench.link(THIRD)
    bench.answer(PEER, KEY)
    bench.answer(PEER, OTHER_KEY, counter=2)
    bench.answer(THIRD, KEY)
    assert bench.answers == [("dht", [THIRD.peer])]


def test_a_provider_that_left_is_not_found() -> None:
    bench = Bench()
    bench.find(KEY)
    bench.named(PEER)
    bench.link(PEER)
    gone = [presence_of(PEER, has_left=True), capabilities_of(PEER, KEY)]
    bench.give(PEER, gone)
    bench.doubted()
    assert bench.answers == [("dht", [])]


# --- nobody makes it wait -------------------------------------------------------------------


def test_an_unreachable_provider_ends_the_wait() -> None:
    bench = Bench()
    bench.find(KEY)
    bench.named(PEER, THIRD)
    bench.lookups.on_unreachable(PEER.peer, now_us=0)
    assert bench.answers == []
    bench.lookups.on_unreachable(THIRD.peer, now_us=0)
    bench.doubted()
    assert bench.answers == [("dht", [])]


def test_a_provider_that_hangs_up_before_it_answers_ends_the_wait() -> None:
    bench = Bench()
    bench.find(KEY)
    bench.named(PEER)
    bench.link(PEER)
    del bench.links[PEER.peer]
    bench.lookups.on_unreachable(PEER.peer, now_us=0)
    bench.doubted()
    assert bench.answers == [("dht", [])]


def test_a_failed_dial_to_a_provider_that_dialled_us_meanwhile_ends_nothing() -> None:
    bench = Bench()
    bench.find(KEY)
    bench.named(PEER)
    bench.link(PEER)
    assert bench.lookups.on_unreachable(PEER.peer, now_us=0) == []
    bench.answer(PEER, KEY)
    assert bench.answers == [("dht", [PEER.peer])]


def test_a_provider_without_an_address_and_one_too_many_to_dial_are_not_waited_for() -> None:
    bench = Bench(dials_max=1)
    bench.find(KEY)
    unknown = ProvidersFound(LookupToken(1), (Provider(PEER.peer, ()),))
    bench.lookups.on_providers_found(unknown, now_us=0)
    bench.doubted()
    assert bench.answers == [("dht", [])]
    bench.find(KEY)
    assert dialled(bench.named(PEER, THIRD, number=2)) == [PEER.peer]
    bench.lookups.on_unreachable(PEER.peer, now_us=0)
    bench.doubted(number=2)
    assert len(bench.answers) == 2


def test_a_silent_provider_is_waited_for_until_the_lookup_ends() -> None:
    bench = Bench()
    bench.find(KEY)
    bench.named(PEER, THIRD)
    bench.link(PEER)
    bench.answer(PEER, KEY)
    assert bench.answers == []
    bench.end()
    assert bench.answers == [("dht", [PEER.peer])], "with what is there"
    assert bench.end() == []
    bench.answer(THIRD, KEY)
    assert bench.named(THIRD) == []
    assert len(bench.answers) == 1, "answered once"


def test_a_dht_that_never_answers_is_not_waited_for() -> None:
    bench = Bench()
    bench.find(KEY, via="any")
    bench.lookups.on_unreachable(PEER.peer, now_us=0)
    bench.answer(PEER, OTHER_KEY)
    assert bench.answers == []
    bench.end()
    assert bench.answers == [("dht", [])]


def test_a_second_answer_of_the_dht_changes_nothing() -> None:
    bench = Bench()
    bench.find(KEY)
    bench.named(PEER)
    assert bench.named(THIRD) == []
    bench.lookups.on_unreachable(PEER.peer, now_us=0)
    bench.doubted()
    assert bench.answers == [("dht", [])]


def test_poisoned_providers_do_not_hide_the_true_one_behind_them() -> None:
    bench = Bench()
    liars, honest = OTHERS[:20], OTHERS[20]
    bench.find(KEY)
    waiting = dialled(bench.named(*liars, honest))
    assert len(waiting) == PROVIDERS_ASKED_MAX
    for device in liars:
        assert device.peer in waiting
        bench.link(device)
        waiting += dialled(bench.answer(device, OTHER_KEY))
    assert waiting == [device.peer for device in (*liars, honest)]
    bench.link(honest)
    bench.answer(honest, KEY)
    assert bench.answers == [("dht", [honest.peer])]


def test_if_nobody_named_proves_true_the_dht_is_asked_to_be_thorough() -> None:
    bench = Bench()
    bench.find(KEY)
    bench.named(PEER)
    bench.link(PEER)
    again = FindProviders(KEY, LookupToken(1, is_thorough=True), is_thorough=True)
    assert bench.answer(PEER, OTHER_KEY) == [again]
    assert bench.named(THIRD) == [], "a usual answer that comes again is not the thorough one"
    assert dialled(bench.doubted(PEER, THIRD)) == [THIRD.peer], "the first has been asked"
    bench.link(THIRD)
    bench.answer(THIRD, KEY)
    assert bench.answers == [("dht", [THIRD.peer])]


def test_made_up_providers_that_nobody_can_reach_hold_nobody_up() -> None:
    bench = Bench()
    bench.find(KEY)
    made_up, honest = OTHERS[:PROVIDERS_ASKED_MAX], OTHERS[-1]
    effects = bench.named(*made_up)
    assert SetTimer(LookupDoubted(1), DOUBTED_AFTER_US) in effects
    assert len(bench.lookups.on_doubted(LookupDoubted(1))) == 1, "all dials still hang"
    assert bench.lookups.on_doubted(LookupDoubted(1)) == []
    assert dialled(bench.doubted(*made_up, honest)) == [honest.peer]
    bench.link(honest)
    bench.answer(honest, KEY)
    assert bench.answers == [("dht", [honest.peer])]


def test_those_still_waiting_are_asked_in_the_order_of_the_thorough_answer() -> None:
    bench = Bench(dials_max=PROVIDERS_ASKED_MAX)
    bench.find(KEY)
    made_up, liars, honest = OTHERS[:PROVIDERS_ASKED_MAX], OTHERS[10:20], OTHERS[-1]
    bench.named(*made_up, *liars, honest)
    bench.lookups.on_doubted(LookupDoubted(1))
    assert dialled(bench.doubted(honest, *liars, *made_up)) == [], "all dials are taken"
    bench.overlay.on_dial_failed(made_up[0].peer, "timed out", now_us=0)
    assert dialled(bench.lookups.on_unreachable(made_up[0].peer, now_us=0)) == [honest.peer]


def test_the_link_to_a_false_provider_is_needed_no_longer_and_that_to_a_true_one_is() -> None:
    bench = Bench()
    bench.find(KEY)
    bench.named(PEER, THIRD)
    bench.link(PEER)
    bench.link(THIRD)
    bench.answer(PEER, OTHER_KEY)
    bench.answer(THIRD, KEY)
    assert not bench.overlay.is_needed(PEER.peer)
    assert bench.overlay.is_needed(THIRD.peer)


def test_the_room_of_the_thorough_answer_is_not_taken_by_those_named_before() -> None:
    bench = Bench()
    bench.find(KEY)
    made_up, honest = OTHERS[:20], OTHERS[-1]
    bench.named(*made_up)
    bench.lookups.on_doubted(LookupDoubted(1))
    bench.overlay.on_dial_failed(made_up[0].peer, "timed out", now_us=0)
    assert len(dialled(bench.lookups.on_unreachable(made_up[0].peer, now_us=0))) == 1
    waiting = dialled(bench.doubted(honest, *made_up))
    assert waiting[0] == honest.peer
    assert len(waiting) == PROVIDERS_ASKED_MAX


def test_who_proved_true_is_named_also_if_the_directory_had_to_drop_it() -> None:
    bench = Bench(members_max=3)
    bench.know(PEER, KEY)
    bench.find(KEY)
    bench.named(PEER, THIRD)
    bench.directory.forget(PEER.peer)
    bench.lookups.on_unreachable(THIRD.peer, now_us=0)
    assert bench.answers == [("dht", [PEER.peer])]


def test_who_proved_true_and_was_removed_meanwhile_is_not_named() -> None:
    bench = Bench()
    bench.know(PEER, KEY)
    bench.find(KEY)
    bench.named(PEER, THIRD)
    bench.directory.is_removed = {PEER.peer}.__contains__
    bench.directory.drop_removed()
    bench.lookups.on_unreachable(THIRD.peer, now_us=0)
    bench.doubted()
    assert bench.answers == [("dht", [])]


def test_once_somebody_proved_true_the_slow_are_not_waited_for() -> None:
    bench = Bench()
    bench.find(KEY)
    bench.named(PEER, THIRD)
    bench.link(PEER)
    bench.answer(PEER, KEY)
    assert bench.answers == []
    assert bench.lookups.on_doubted(LookupDoubted(1)) == []
    assert bench.answers == [("dht", [PEER.peer])]


# --- bounds ---------------------------------------------------------------------------------


def test_one_lookup_too_many_is_answered_from_the_directory_alone() -> None:
    bench = Bench()
    for _ in range(LOOKUPS_MAX):
        bench.find(KEY)
    assert bench.answers == []
    assert bench.find(KEY) == []
    assert bench.answers == [("local", [])]
    bench.end(number=3)
    assert bench.find(KEY) != [], "there is room again"


def test_of_the_providers_named_a_bounded_number_is_looked_at() -> None:
    bench = Bench()
    bench.find(KEY)
    providers = tuple(
        Provider(PeerId(number.to_bytes(32, "big")), (ADDRESS,)) for number in range(1, 500)
    )
    effects = bench.lookups.on_providers_found(ProvidersFound(LookupToken(1), providers), now_us=0)
    waiting = dialled(effects)
    for number, peer in enumerate(waiting):
        assert number < PROVIDERS_NAMED_MAX
        bench.overlay.on_dial_failed(peer, "no answer", now_us=0)
        waiting += dialled(bench.lookups.on_unreachable(peer, now_us=0))
    assert len(waiting) == PROVIDERS_NAMED_MAX
    bench.doubted()
    assert bench.answers == [("dht", [])]


def test_a_full_directory_makes_room_for_a_provider_linked_or_not() -> None:
    for is_linked in (False, True):
        bench = Bench(members_max=8)
        for device in OTHERS:
            bench.links[device.peer] = object()  # all linked, most of them not held
            bench.know(device, "cpu:1")
        provider = next(d for d in OTHERS if bench.directory.get(d.peer) is None)
        assert bench.directory.merge(*merge_of(bench, provider), now_us=0) is Merge.NO_ROOM
        if not is_linked:
            del bench.links[provider.peer]
        bench.find(KEY)
        effects = bench.named(provider)
        if not is_linked:
            assert dialled(effects) == [provider.peer]
            effects = bench.link(provider)
        assert asked(effects) == [provider.peer]
        bench.answer(provider, KEY)
        assert bench.answers == [("dht", [provider.peer])]
        assert len(bench.directory) == 8


def merge_of(bench: Bench, device: Device) -> tuple[Signed[Record], Chain]:
    return bench.records(device)[0], device.chain


# --- providing ------------------------------------------------------------------------------


def providing_of(bench: Bench, *keys: str) -> Providing:
    """Return the providing of a device that has a link."""
    bench.links[PEER.peer] = object()
    return Providing(
        directory=bench.directory, links=bench.links, own_keys=keys, rng=random.Random(1)
    )


def test_rare_capabilities_are_provided_and_common_ones_withdrawn() -> None:
    bench = Bench()
    providing = providing_of(bench, "cpu:1", KEY)
    bench.know(OWN, "cpu:1", KEY)
    review = providing.on_review_due()
    assert review[0] == SetTimer(ProvideReviewDue(), 60_000_000)
    assert review[1:] == [Provide(KEY), Provide("cpu:1")]
    for device in OTHERS[: 2 * COMMON_SHARE]:
        bench.know(device, "cpu:1")
    assert providing.on_review_due()[1:] == [Withdraw("cpu:1")]
    assert providing.on_review_due()[1:] == [], "nothing changed"


def test_a_capability_that_becomes_rare_is_provided_again() -> None:
    bench = Bench()
    providing = providing_of(bench, KEY)
    bench.know(OWN, KEY)
    bench.know(PEER, KEY)
    assert providing.on_review_due()[1:] == []
    bench.directory.forget(PEER.peer)
    assert providing.on_review_due()[1:] == [Provide(KEY)]


def test_what_a_tenth_of_the_directory_holds_is_rare_and_one_more_is_common() -> None:
    bench = Bench()
    providing = providing_of(bench, KEY)
    for number, device in enumerate(OTHERS[:19]):
        bench.know(device, *([KEY] if number < 2 else ["cpu:1"]))
    assert len(bench.directory) == 2 * COMMON_SHARE
    assert providing.on_review_due()[1:] == [Provide(KEY)]
    bench.know(OTHERS[10], KEY, counter=2)
    assert providing.on_review_due()[1:] == [Withdraw(KEY)]


def test_the_first_review_follows_the_first_link_and_without_links_there_is_none() -> None:
    bench = Bench()
    bench.know(OWN, KEY)
    providing = providing_of(bench, KEY)
    (timer,) = providing.on_link_up()
    assert isinstance(timer, SetTimer)
    assert timer.key == ProvideReviewDue()
    assert FIRST_REVIEW_US[0] <= timer.after_us < FIRST_REVIEW_US[1]
    bench.links[THIRD.peer] = object()
    assert providing.on_link_up() == [], "a second link must not put the review off"
    bench.links.clear()
    assert providing.on_review_due() == []
    bench.links[PEER.peer] = object()
    assert providing.on_link_up() != []
    assert providing.on_review_due()[1:] == [Provide(KEY)]


def test_the_rarest_is_announced_first_and_labels_before_what_devices_find_out() -> None:
    bench = Bench()
    keys = ("arch:x86_64", "cpu:1", "label:a=1", "label:z=1", "runtime:wasi-p1")
    for device in OTHERS[: 3 * COMMON_SHARE]:
        bench.know(device, "cpu:9")
    bench.know(OWN, *keys)
    bench.know(PEER, "label:a=1", "cpu:1")
    bench.know(THIRD, "cpu:1")
    announced = providing_of(bench, *keys).on_review_due()[1:]
    assert announced == [
        Provide("label:z=1"),
        Provide("arch:x86_64"),
        Provide("runtime:wasi-p1"),
        Provide("label:a=1"),
        Provide("cpu:1"),
    ]
