"""Gossip: exchanges and rumours make directories equal, over links that lose messages."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.meshes import Device, SmallMesh, small_mesh
from support.records import (
    Version,
    capabilities_of,
    directory_of,
    presence_of,
    record_of,
    telemetry_of,
)

from p2p.gossip import (
    ANSWER_US_MAX,
    EXCHANGE_EVERY_US,
    EXCHANGE_FULL_US,
    EXCHANGE_SOON_US,
    OWNER_RUMORS_MAX,
    OWNER_WINDOW_US,
    RUMOR_FANOUT,
    RUMOR_PAUSE_US,
    STORM_FANOUT,
    STORM_NEWS_COUNT,
    TELEMETRY_FANOUT,
    AnswerDue,
    ExchangeDue,
    Gossip,
    RumorsDue,
)
from wire.codec import FRAME_BYTES_MAX, FrameCodec
from wire.effects import Effect, Send, SetTimer, Trace
from wire.errors import NotAMember
from wire.ids import PeerId, peer_text
from wire.keys import Ed25519Verifier
from wire.membership import Chain
from wire.messages import (
    MESSAGES,
    RECORDS_MAX,
    VERSIONS_MAX,
    BucketSummary,
    BucketVersions,
    Message,
    RecordsGiven,
    RecordsWanted,
    RecordVersion,
    StateSummary,
)
from wire.records import RECORD_BYTES_MAX, Record, RecordKind
from wire.signed import Signed

MESH = small_mesh(6)
OWN, PEER, THIRD = MESH.devices[:3]


def gossip_of(own: Device, *, mesh: SmallMesh = MESH, seed: int = 1) -> Gossip:
    return Gossip(directory=directory_of(mesh, own), links={}, rng=random.Random(seed))


def hold(gossip: Gossip, *records: Signed[Record], mesh: SmallMesh = MESH) -> None:
    chains = {device.peer: device.chain for device in mesh.devices}
    for signed in records:
        gossip.directory.merge(signed, chains[signed.body.owner], now_us=1)


def linked_with(gossip: Gossip, *devices: Device) -> Gossip:
    gossip.links.update({device.peer: object() for device in devices})
    return gossip


def sent(effects: list[Effect]) -> list[tuple[PeerId, Message]]:
    return [(effect.peer, effect.message) for effect in effects if isinstance(effect, Send)]


@dataclass
class Network:
    """Several devices' gossip over links that lose messages at random. There is no clock."""

    gossips: dict[PeerId, Gossip]
    rng: random.Random
    loss: float = 0.0
    waiting: deque[tuple[PeerId, PeerId, Message | AnswerDue | RumorsDue]] = field(
        default_factory=deque
    )
    delivered_count: int = 0

    def link(self, one: PeerId, other: PeerId) -> None:
        for own, peer in ((one, other), (other, one)):
            gossip, chain = self.gossips[own], self.chain_of(peer)
            gossip.links[peer] = object()
            self.carry_out(own, gossip.on_link_up(peer, chain, is_outbound=own == one))

    def chain_of(self, peer: PeerId) -> Chain:
        member = self.gossips[peer].directory.get(peer)
        assert member is not None
        return member.chain

    def carry_out(self, own: PeerId, effects: list[Effect]) -> None:
        for peer, message in sent(effects):
            assert peer in self.gossips[own].links
            if self.rng.random() >= self.loss:
                self.waiting.append((own, peer, message))
        for effect in effects:
            if isinstance(effect, SetTimer) and isinstance(effect.key, AnswerDue | RumorsDue):
                self.waiting.append((own, own, effect.key))

    def settle(self) -> None:
        while self.waiting:
            origin, target, message = self.waiting.popleft()
            self.delivered_count += not isinstance(message, AnswerDue | RumorsDue)
            self.carry_out(target, dispatched(self.gossips[target], origin, message))

    def exchange(self) -> None:
        """Let every device's timer run out once."""
        for own, gossip in self.gossips.items():
            self.carry_out(own, gossip.on_exchange_due())
        self.settle()

    def say(self, signed: Signed[Record]) -> None:
        """Let a device sign something new about itself."""
        gossip = self.gossips[signed.body.owner]
        gossip.directory.merge(signed, None, now_us=1)
        self.carry_out(signed.body.owner, gossip.spread((signed,)))

    def is_converged(self) -> bool:
        hashes = {gossip.directory.state_hash() for gossip in self.gossips.values()}
        return len(hashes) == 1


def dispatched(
    gossip: Gossip, origin: PeerId, message: Message | AnswerDue | RumorsDue
) -> list[Effect]:
    match message:
        case AnswerDue():
            return gossip.on_answer_due()
        case RumorsDue():
            return gossip.on_rumors_due(now_us=1)
        case StateSummary():
            return gossip.on_state_summary(origin, message)
        case BucketSummary():
            return gossip.on_bucket_summary(origin, message)
        case BucketVersions():
            return gossip.on_bucket_versions(origin, message)
        case RecordsWanted():
            return gossip.on_records_wanted(origin, message)
        case RecordsGiven():
            return gossip.on_records_given(origin, message, now_us=1)
        case _:
            raise AssertionError(f"gossip does not send {message!r}")


def network_of(mesh: SmallMesh, *, seed: int, loss: float) -> Network:
    """A ring of devices, each of which knows itself only."""
    gossips = {
        device.peer: gossip_of(device, mesh=mesh, seed=seed + number)
        for number, device in enumerate(mesh.devices)
    }
    network = Network(gossips=gossips, rng=random.Random(seed), loss=loss)
    peers = list(gossips)
    for device in mesh.devices:
        network.say(presence_of(device))
    for one, other in zip(peers, peers[1:] + peers[:1], strict=True):
        network.link(one, other)
    return network


# --- convergence ----------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_directories_become_equal_over_links_that_lose_messages(seed: int, loss: float) -> None:
    mesh = small_mesh(20)
    network = network_of(mesh, seed=seed, loss=loss)
    for device in mesh.devices:
        network.say(capabilities_of(device, "cpu:1"))
    # A ring passes news on by a hop a round; an exchange is four messages, one after another.
    for _ in range(int(20 / (1 - loss) ** 4)):
        network.exchange()
    assert network.is_converged()
    members = [len(gossip.directory) for gossip in network.gossips.values()]
    assert members == [20] * 20


def test_without_loss_rumours_alone_reach_everybody() -> None:
    mesh = small_mesh(20)
    network = network_of(mesh, seed=3, loss=0.0)
    network.settle()
    assert network.is_converged()
    network.delivered_count = 0
    network.say(presence_of(mesh.devices[4], version=(2, 1)))
    network.settle()
    assert network.is_converged()
    assert network.delivered_count <= RUMOR_FANOUT * 20, "each device passes news on once"


def test_equal_directories_cost_one_hash_an_exchange() -> None:
    network = network_of(small_mesh(6), seed=3, loss=0.0)
    network.settle()
    network.delivered_count = 0
    network.exchange()
    assert network.delivered_count == 6


class ConvergingGossip(RuleBasedStateMachine):
    """Devices speak, exchange and lose messages in any order; a quiet mesh agrees."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network_of(MESH, seed=1, loss=0.4)
        self.versions: dict[tuple[PeerId, str], Version] = {}

    def next_version(self, device: Device, kind: str, *, restarts: bool) -> Version:
        incarnation, counter = self.versions.get((device.peer, kind), (1, 1))
        version = (incarnation + 1, 1) if restarts else (incarnation, counter + 1)
        self.versions[device.peer, kind] = version
        return version

    @rule(device=st.sampled_from(MESH.devices), restarts=st.booleans(), has_left=st.booleans())
    def speaks(self, device: Device, restarts: bool, has_left: bool) -> None:
        version = self.next_version(device, RecordKind.PRESENCE, restarts=restarts)
        self.network.say(presence_of(device, version=version, has_left=has_left))

    @rule(device=st.sampled_from(MESH.devices), slots_free=st.integers(0, 9))
    def samples(self, device: Device, slots_free: int) -> None:
        version = self.next_version(device, RecordKind.TELEMETRY, restarts=False)
        self.network.say(telemetry_of(device, version=version, slots_free=slots_free))

    @rule()
    def exchanges(self) -> None:
        self.network.exchange()

    @precondition(lambda self: self.network.waiting)
    @rule()
    def loses_everything_under_way(self) -> None:
        self.network.waiting.clear()

    @rule(forgetful=st.sampled_from(MESH.devices), forgotten=st.sampled_from(MESH.devices))
    def forgets(self, forgetful: Device, forgotten: Device) -> None:
        if forgetful is not forgotten:
            self.network.gossips[forgetful.peer].directory.forget(forgotten.peer)

    @invariant()
    def nobody_holds_what_was_never_said(self) -> None:
        for gossip in self.network.gossips.values():
            for version in gossip.directory.versions(range(64)):
                newest = self.versions.get((version.owner, version.kind), (1, 1))
                assert (version.incarnation, version.counter) <= newest

    def teardown(self) -> None:
        self.network.loss = 0.0
        for _ in range(8):
            self.network.exchange()
        assert self.network.is_converged()
        for (owner, kind), version in self.versions.items():
            for gossip in self.network.gossips.values():
                held = gossip.directory.record(owner, kind)
                if kind == RecordKind.TELEMETRY:  # a device may have missed it until the next
                    assert held is None or held.body.version <= version
                else:
                    assert held is not None
                    assert held.body.version == version


TestConvergingGossip = ConvergingGossip.TestCase
TestConvergingGossip.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


# --- single steps ---------------------------------------------------------------------------


def test_the_timer_is_set_again_even_when_there_is_no_link() -> None:
    gossip = gossip_of(OWN)
    assert [type(effect) for effect in gossip.start()] == [SetTimer]
    gossip.on_exchange_due()
    assert gossip.on_exchange_due() == [SetTimer(ExchangeDue(), EXCHANGE_EVERY_US)]


def test_while_members_come_exchanges_follow_each_other_sooner() -> None:
    gossip = linked_with(gossip_of(OWN), PEER)
    gossip.on_exchange_due()
    hold(gossip, presence_of(THIRD))
    pauses_us = [
        effect.after_us
        for _ in range(3)
        for effect in gossip.on_exchange_due()
        if isinstance(effect, SetTimer)
    ]
    assert pauses_us == [EXCHANGE_SOON_US, EXCHANGE_EVERY_US, EXCHANGE_EVERY_US]
    hold(gossip, telemetry_of(THIRD))
    assert SetTimer(ExchangeDue(), EXCHANGE_EVERY_US) in gossip.on_exchange_due()


def link_up(gossip: Gossip, device: Device, *, is_outbound: bool = True) -> list[PeerId]:
    """Return with whom a device compares when another link is up."""
    linked_with(gossip, device)
    effects = gossip.on_link_up(device.peer, device.chain, is_outbound=is_outbound)
    return compared(effects)


def compared(effects: list[Effect]) -> list[PeerId]:
    return [peer for peer, message in sent(effects) if isinstance(message, StateSummary)]


def test_new_links_are_compared_with_one_after_another_the_newest_first() -> None:
    gossip = gossip_of(OWN)
    first, second, third, fourth, fifth = MESH.devices[1:]
    assert link_up(gossip, first) == [first.peer]
    assert [link_up(gossip, device) for device in (second, third, fourth)] == [[], [], []]
    given = RecordsGiven(records=(presence_of(fifth),), chains=(fifth.chain,))
    assert compared(gossip.on_records_given(second.peer, given, now_us=1)) == []
    answered = gossip.on_records_given(first.peer, given, now_us=1)
    assert compared(answered) == [fourth.peer]
    assert SetTimer(AnswerDue(), ANSWER_US_MAX) in answered
    gossip.on_link_down(third.peer)
    assert compared(gossip.on_answer_due()) == [second.peer], "the fourth had nothing new"
    assert gossip.on_answer_due() == []
    assert link_up(gossip, fifth) == [fifth.peer]


def test_who_was_dialled_leaves_the_comparing_to_whoever_dialled() -> None:
    assert link_up(gossip_of(OWN), PEER, is_outbound=False) == []


def test_of_many_news_at_a_time_each_goes_to_fewer_links() -> None:
    mesh = small_mesh(STORM_NEWS_COUNT + 10)
    gossip = linked_with(gossip_of(mesh.devices[0], mesh=mesh), *mesh.devices[1:9])
    for news_count, fanout in (
        (STORM_NEWS_COUNT - 1, RUMOR_FANOUT),
        (STORM_NEWS_COUNT, STORM_FANOUT),
    ):
        records = tuple(
            presence_of(device, version=(news_count, 1))
            for device in mesh.devices[9 : 9 + news_count]
        )
        chains = tuple(device.chain for device in mesh.devices[9:])
        given = RecordsGiven(records=records, chains=chains)
        effects = gossip.on_records_given(None, given, now_us=news_count * 1_000_000)
        assert len(sent(effects)) == fanout


def test_news_about_oneself_are_left_to_the_node() -> None:
    gossip = gossip_of(OWN)
    own = presence_of(OWN, version=(9, 9))
    assert gossip.on_records_given(PEER.peer, RecordsGiven(records=(own,)), now_us=1) == []
    assert gossip.directory.record(OWN.peer, RecordKind.PRESENCE) is None


def test_a_higher_version_of_oneself_is_asked_for() -> None:
    gossip = gossip_of(OWN)
    hold(gossip, presence_of(OWN, version=(1, 1)))
    theirs = RecordVersion(OWN.peer, RecordKind.PRESENCE, 7, 1)
    [(_, message)] = sent(
        gossip.on_bucket_versions(
            PEER.peer, BucketVersions(buckets=tuple(range(64)), versions=(theirs,))
        )
    )
    assert message == RecordsWanted(versions=(theirs,))


def test_what_is_newer_here_is_given_without_being_asked_for() -> None:
    gossip = gossip_of(OWN)
    newer = presence_of(PEER, version=(2, 1))
    hold(gossip, newer, presence_of(THIRD))
    versions = tuple(
        RecordVersion(device.peer, RecordKind.PRESENCE, 1, 1) for device in (PEER, THIRD)
    )
    theirs = BucketVersions(buckets=tuple(range(64)), versions=versions)
    assert sent(gossip.on_bucket_versions(PEER.peer, theirs)) == [
        (PEER.peer, RecordsGiven(records=(newer,), chains=(PEER.chain,)))
    ]


def test_a_stranger_is_introduced_whatever_the_order_its_records_come_in() -> None:
    gossip = linked_with(gossip_of(OWN), THIRD)
    records = (telemetry_of(PEER), capabilities_of(PEER, "cpu:1"), presence_of(PEER))
    given = RecordsGiven(records=records, chains=(PEER.chain,))
    [(target, message)] = sent(gossip.on_records_given(PEER.peer, given, now_us=1))
    member = gossip.directory.get(PEER.peer)
    assert member is not None
    assert set(member.records) == {signed.body.kind for signed in records}
    assert target == THIRD.peer
    assert isinstance(message, RecordsGiven)
    assert message.chains == (PEER.chain,), "the next one needs the chain too"


def test_news_are_not_sent_back_to_where_they_came_from() -> None:
    gossip = linked_with(gossip_of(OWN), PEER)
    given = RecordsGiven(records=(presence_of(THIRD),), chains=(THIRD.chain,))
    assert sent(gossip.on_records_given(PEER.peer, given, now_us=1)) == []
    gossip = linked_with(gossip_of(OWN), PEER)
    assert len(sent(gossip.on_records_given(None, given, now_us=1))) == 1


def test_a_word_after_a_quiet_while_goes_on_at_once_and_what_follows_it_goes_together() -> None:
    mesh = small_mesh(9 + STORM_NEWS_COUNT)
    gossip = linked_with(gossip_of(mesh.devices[0], mesh=mesh), *mesh.devices[1:9])
    first, *others = mesh.devices[9:]

    def hear(device: Device, *, now_us: int) -> list[Effect]:
        given = RecordsGiven(records=(presence_of(device),), chains=(device.chain,))
        return gossip.on_records_given(mesh.devices[1].peer, given, now_us=now_us)

    assert len(sent(hear(first, now_us=5))) == RUMOR_FANOUT
    assert hear(others[0], now_us=6) == [SetTimer(RumorsDue(), RUMOR_PAUSE_US - 1)]
    assert [hear(device, now_us=7) for device in others[1:]] == [[]] * (len(others) - 1)
    passed_on = sent(gossip.on_rumors_due(now_us=5 + RUMOR_PAUSE_US))
    assert len({peer for peer, _ in passed_on} - {mesh.devices[1].peer}) == RUMOR_FANOUT
    for _, message in passed_on:
        assert isinstance(message, RecordsGiven)
        assert {signed.body.owner for signed in message.records} == {one.peer for one in others}
        assert len(message.chains) == len(others)
    assert gossip.on_rumors_due(now_us=5 + 2 * RUMOR_PAUSE_US) == [], "once"


def test_of_two_words_of_one_device_the_newer_goes_on_and_of_a_dropped_device_none() -> None:
    gossip = linked_with(gossip_of(OWN), THIRD)
    dropped = MESH.devices[3]
    chains = (PEER.chain, dropped.chain)
    newer, kept = presence_of(PEER, version=(2, 1)), capabilities_of(PEER, "cpu:1")
    for signed in (kept, presence_of(PEER), presence_of(dropped), newer):
        given = RecordsGiven(records=(signed,), chains=chains)
        gossip.on_records_given(PEER.peer, given, now_us=1)
    gossip.directory.forget(dropped.peer)
    [(_, message)] = sent(gossip.on_rumors_due(now_us=2))
    assert message == RecordsGiven(records=(newer,), chains=(PEER.chain,))


def test_news_do_not_pile_up_until_the_pause_ends() -> None:
    mesh = small_mesh(RECORDS_MAX)
    gossip = linked_with(gossip_of(mesh.devices[0], mesh=mesh), mesh.devices[1])
    effects: list[Effect] = []
    for device in mesh.devices[2:]:
        records = (presence_of(device), telemetry_of(device))
        given = RecordsGiven(records=records, chains=(device.chain,))
        effects += gossip.on_records_given(None, given, now_us=1)
    effects += gossip.on_rumors_due(now_us=2)
    messages = [message for _, message in sent(effects) if isinstance(message, RecordsGiven)]
    assert [len(message.records) for message in messages] == [2, RECORDS_MAX, 58]


def test_news_come_from_many_links_and_each_goes_back_to_none_of_its_own() -> None:
    mesh = small_mesh(13)
    gossip = linked_with(gossip_of(mesh.devices[0], mesh=mesh), *mesh.devices[1:6])
    origins: dict[PeerId, PeerId] = {}
    for number, device in enumerate(mesh.devices[6:]):
        origins[device.peer] = mesh.devices[1 + number % 5].peer
        given = RecordsGiven(records=(presence_of(device),), chains=(device.chain,))
        gossip.on_records_given(origins[device.peer], given, now_us=1)
    copies: dict[PeerId, int] = {}
    for peer, message in sent(gossip.on_rumors_due(now_us=2)):
        assert isinstance(message, RecordsGiven)
        for signed in message.records:
            assert origins[signed.body.owner] != peer
            copies[signed.body.owner] = copies.get(signed.body.owner, 0) + 1
    assert list(copies.values()) == [RUMOR_FANOUT] * 6


def test_what_is_known_already_is_not_passed_on() -> None:
    gossip = linked_with(gossip_of(OWN), PEER, THIRD)
    hold(gossip, presence_of(PEER))
    given = RecordsGiven(records=(presence_of(PEER),), chains=(PEER.chain,))
    assert gossip.on_records_given(PEER.peer, given, now_us=1) == []


def test_forgeries_are_dropped_and_traced_and_go_no_further() -> None:
    gossip = linked_with(gossip_of(OWN), THIRD)
    stranger = small_mesh(2, nonce=99).devices[1]
    body = presence_of(THIRD).body.body
    forged = record_of(PEER, RecordKind.PRESENCE, body, version=(9, 9), owner=THIRD.peer)
    given = RecordsGiven(
        records=(forged, presence_of(stranger)), chains=(THIRD.chain, stranger.chain)
    )
    effects = gossip.on_records_given(PEER.peer, given, now_us=1)
    assert [effect.fields for effect in effects if isinstance(effect, Trace)] == [
        {"peer_id": peer_text(PEER.peer), "reason": reason, "count": 1}
        for reason in ("malformed", "not_a_member")
    ]
    assert sent(effects) == []
    assert [member.peer for member in gossip.directory] == [OWN.peer]


def test_a_link_to_a_removed_device_is_not_gossiped_on() -> None:
    gossip = linked_with(gossip_of(OWN), PEER)
    gossip.directory.is_removed = {PEER.peer}.__contains__
    [effect] = gossip.on_link_up(PEER.peer, PEER.chain, is_outbound=True)
    assert isinstance(effect, Trace)


def test_records_of_removed_devices_and_of_unknown_kinds_are_not_asked_for() -> None:
    gossip = gossip_of(OWN)
    gossip.directory.is_removed = {PEER.peer}.__contains__
    versions = (
        RecordVersion(PEER.peer, RecordKind.PRESENCE, 1, 1),
        RecordVersion(THIRD.peer, "horoscope", 1, 1),
    )
    theirs = BucketVersions(buckets=tuple(range(64)), versions=versions)
    assert gossip.on_bucket_versions(PEER.peer, theirs) == []


# --- bounds ---------------------------------------------------------------------------------


def test_an_exchange_of_many_records_stays_within_its_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("p2p.gossip.GIVEN_MESSAGES_MAX", 5)
    mesh = small_mesh(250)
    full = gossip_of(mesh.devices[0], mesh=mesh)
    for device in mesh.devices:
        hold(full, presence_of(device), capabilities_of(device), telemetry_of(device), mesh=mesh)
    empty = gossip_of(mesh.devices[1], mesh=mesh)
    own, peer = mesh.devices[0].peer, mesh.devices[1].peer
    [(_, versions)] = sent(
        full.on_bucket_summary(peer, BucketSummary(buckets=empty.directory.bucket_hashes()))
    )
    assert isinstance(versions, BucketVersions)
    assert VERSIONS_MAX - 30 < len(versions.versions) <= VERSIONS_MAX
    [(_, wanted)] = sent(empty.on_bucket_versions(own, versions))
    assert isinstance(wanted, RecordsWanted)
    assert len(wanted.versions) == RECORDS_MAX
    assert {version.kind for version in wanted.versions} == {RecordKind.PRESENCE}
    theirs = BucketVersions(buckets=tuple(range(64)), versions=())
    given = sent(full.on_bucket_versions(peer, theirs))
    assert len(given) == 5 < 750 // RECORDS_MAX


def test_a_bucket_of_more_records_than_a_frame_holds_is_still_exchanged() -> None:
    gossip = gossip_of(OWN)
    hold(gossip, presence_of(PEER))
    many = [RecordVersion(PEER.peer, f"kind {number}", 1, 1) for number in range(600)]
    gossip.directory = _Crowded(many, gossip)  # type: ignore[assignment]  # one bucket, overfull
    [(_, message)] = sent(gossip.on_bucket_summary(PEER.peer, BucketSummary(buckets=bytes(512))))
    assert isinstance(message, BucketVersions)
    assert len(message.versions) == VERSIONS_MAX


class _Crowded:
    """A directory whose ids were ground into one bucket."""

    def __init__(self, versions: list[RecordVersion], gossip: Gossip) -> None:
        self.versions = lambda _: versions
        self.bucket_hashes = gossip.directory.bucket_hashes


def test_the_largest_message_of_records_fits_a_frame() -> None:
    codec = FrameCodec(MESSAGES, Ed25519Verifier())
    mesh = small_mesh(RECORDS_MAX + 1)
    body = bytes(RECORD_BYTES_MAX)
    records = tuple(record_of(device, "k" * 32, body) for device in mesh.devices[1:])
    given = RecordsGiven(records=records, chains=mesh.chains[1:])
    frame = codec.encode(given)
    assert len(frame) < FRAME_BYTES_MAX
    assert codec.decode(frame) == given


def test_telemetry_goes_to_fewer_links_and_no_further_once_others_tell_it() -> None:
    mesh = small_mesh(12)
    gossip = linked_with(gossip_of(mesh.devices[0], mesh=mesh), *mesh.devices[1:9])
    first, second = telemetry_of(mesh.devices[9]), telemetry_of(mesh.devices[10])
    others = mesh.devices[9:11]
    for device in others:
        gossip.directory.introduce(device.peer, device.chain)

    def hear(*records: Signed[Record], origin: Device) -> list[Effect]:
        given = RecordsGiven(records=records, chains=())
        return gossip.on_records_given(origin.peer, given, now_us=1)

    assert len(sent(hear(first, origin=mesh.devices[1]))) == TELEMETRY_FANOUT < RUMOR_FANOUT
    hear(second, origin=mesh.devices[1])
    hear(second, origin=mesh.devices[2])
    assert sent(gossip.on_rumors_due(now_us=2)) == []


def test_telemetry_is_not_compared_but_comes_with_what_is() -> None:
    full, empty = gossip_of(OWN), gossip_of(PEER)
    for signed in (presence_of(THIRD), telemetry_of(THIRD)):
        full.directory.merge(signed, THIRD.chain, now_us=1)
    versions = BucketVersions(buckets=tuple(range(64)), versions=())
    [(_, given)] = sent(full.on_bucket_versions(PEER.peer, versions))
    assert isinstance(given, RecordsGiven)
    assert {signed.body.kind for signed in given.records} == {"presence", "telemetry"}
    empty.on_records_given(OWN.peer, given, now_us=1)
    before = full.directory.state_hash()
    full.directory.merge(telemetry_of(THIRD, version=(1, 2)), None, now_us=1)
    assert full.directory.state_hash() == before == empty.directory.state_hash()


def test_a_device_that_says_too_much_is_heard_and_not_passed_on_for_a_while() -> None:
    mesh = small_mesh(12)
    gossip = linked_with(gossip_of(mesh.devices[0], mesh=mesh), *mesh.devices[1:9])
    loud, quiet = mesh.devices[9:11]

    def say(device: Device, counter: int, *, now_us: int) -> list[Effect]:
        record = presence_of(device, version=(1, counter))
        given = RecordsGiven(records=(record,), chains=(device.chain,))
        effects = gossip.on_records_given(mesh.devices[1].peer, given, now_us=now_us)
        return effects + gossip.on_rumors_due(now_us=now_us)

    told_count = sum(bool(sent(say(loud, counter, now_us=counter))) for counter in range(1, 101))
    assert told_count == OWNER_RUMORS_MAX
    assert Trace("rumor.held_back", {"peer_id": peer_text(loud.peer), "count": 1}) in say(
        loud, 101, now_us=101
    )
    held = gossip.directory.record(loud.peer, RecordKind.PRESENCE)
    assert held is not None
    assert held.body.counter == 101, "exchanges tell the newest"
    assert sent(say(quiet, 1, now_us=102))
    assert sent(say(loud, 102, now_us=OWNER_WINDOW_US + 1))


def test_a_full_directory_compares_seldom_and_gives_only_what_the_other_lists() -> None:
    mesh = small_mesh(12)
    gossip = linked_with(gossip_of(mesh.devices[0], mesh=mesh), mesh.devices[1])
    known, unlisted = mesh.devices[2:4]
    for device in (known, unlisted):
        gossip.directory.merge(presence_of(device, version=(1, 2)), device.chain, now_us=1)
    listed = RecordVersion(known.peer, RecordKind.PRESENCE, 1, 1)
    theirs = BucketVersions(buckets=tuple(range(64)), versions=(listed,))

    def given() -> set[PeerId]:
        messages = [message for _, message in sent(gossip.on_bucket_versions(OWN.peer, theirs))]
        return {
            signed.body.owner
            for message in messages
            if isinstance(message, RecordsGiven)
            for signed in message.records
        }

    assert given() == {known.peer, unlisted.peer}
    gossip.directory.members_max = len(gossip.directory)
    assert given() == {known.peer}
    assert SetTimer(ExchangeDue(), EXCHANGE_FULL_US) in gossip.on_exchange_due()


def test_a_chain_is_not_verified_for_whom_there_is_no_room() -> None:
    mesh, other = small_mesh(12), small_mesh(12, nonce=99)
    directory = gossip_of(mesh.devices[0], mesh=mesh).directory
    directory.members_max = len(directory)
    stranger = other.devices[5]
    assert directory.introduce(stranger.peer, stranger.chain) is None
    directory.members_max += 1
    with pytest.raises(NotAMember):
        directory.introduce(stranger.peer, stranger.chain)
