"""Views: how devices are named by people, shown to them, and ranked."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from support.meshes import Device, small_mesh
from support.records import (
    capabilities_of,
    directory_of,
    presence_of,
    record_of,
    telemetry_of,
)
from support.standing import standings_of

from meshd.views import CLOSEST_MAX, PeerViews, breaker_reason
from p2p.directory import Member
from p2p.observations import Observed
from p2p.overlay import Overlay
from p2p.removals import Removals
from p2p.verdicts import Verdicts
from telemetry.breaker import Breaker, BreakerConfig
from telemetry.measurement import Measured, Measurements
from telemetry.sample import Sample
from wire.answers import PeerView, RefusalCode, Refused
from wire.ids import PeerId, did_key, mesh_text, peer_text
from wire.records import Observation, Observations, RecordKind
from wire.signed import encode_body

MESH = small_mesh(8)
OWN, PEER, THIRD, *OTHERS = MESH.devices
US_PER_S = 1_000_000


@dataclass
class Bench:
    """Views over a directory that a test fills."""

    def __post_init__(self) -> None:
        self.links: dict[PeerId, object] = {}
        self.removals = Removals(genesis=MESH.genesis)
        self.directory = directory_of(MESH, OWN)
        self.measurements = Measurements()
        self.overlay = Overlay(
            own=OWN.peer, directory=self.directory, links=self.links, rng=random.Random(1)
        )
        self.standings = standings_of(
            self.measurements, sample_of=self.sample_of, observed_by=self.observed_by
        )
        self.own_breaker = Breaker(random=random.Random(1), config=BreakerConfig())
        self.views = PeerViews(
            own=OWN.peer,
            mesh=MESH.id,
            directory=self.directory,
            links=self.links,
            overlay=self.overlay,
            standings=self.standings,
            verdicts=Verdicts(
                own=OWN.peer, directory=self.directory, is_linked=self.links.__contains__
            ),
            own_breaker=self.own_breaker,
            removals=self.removals,
            name_of=lambda peer: "somebody" if peer != OWN.peer else "own",
        )

    def sample_of(self, peer: PeerId) -> Sample | None:
        member = self.directory.get(peer)
        return None if member is None else member.sample

    def observed_by(self, peer: PeerId) -> Observed | None:
        member = self.directory.get(peer)
        return None if member is None else member.observed

    def know(
        self, device: Device, *keys: str, name: str = "device", has_left: bool = False
    ) -> None:
        presence = presence_of(
            device, name=name, addresses=("/ip4/192.0.2.7/tcp/4001",), has_left=has_left
        )
        for signed in (presence, capabilities_of(device, *keys)):
            self.directory.merge(signed, device.chain, now_us=US_PER_S)

    def resolved(self, reference: str) -> Member | Refused:
        return self.views.resolve(reference)

    def view(self, device: Device, *, now_us: int = 5 * US_PER_S) -> PeerView:
        member = self.directory.get(device.peer)
        assert member is not None
        return self.views.peer(member, now_us=now_us)


def peer_of(found: Member | Refused) -> PeerId:
    assert isinstance(found, Member), found
    return found.peer


def code_of(found: Member | Refused) -> RefusalCode:
    assert isinstance(found, Refused), found
    assert found.hint
    return found.code


# --- naming ---------------------------------------------------------------------------------


def test_a_device_is_named_by_name_id_did_or_the_beginning_of_its_id() -> None:
    bench = Bench()
    bench.know(PEER, name="kitchen")
    bench.know(THIRD, name="garage")
    beginning = peer_text(PEER.peer)[:20]
    for reference in ("kitchen", peer_text(PEER.peer), did_key(PEER.peer), beginning):
        assert peer_of(bench.resolved(reference)) == PEER.peer


@pytest.mark.parametrize("reference", ["attic", "12D3", "kitch", ""])
def test_nobody_is_guessed(reference: str) -> None:
    bench = Bench()
    bench.know(PEER, name="kitchen")
    assert code_of(bench.resolved(reference)) is RefusalCode.NOT_FOUND


def test_an_id_of_a_device_that_is_not_known_is_not_found() -> None:
    assert code_of(Bench().resolved(peer_text(PEER.peer))) is RefusalCode.NOT_FOUND


def test_two_devices_of_one_name_are_told_apart_by_their_ids() -> None:
    bench = Bench()
    bench.know(PEER, name="kitchen")
    bench.know(THIRD, name="kitchen")
    found = bench.resolved("kitchen")
    assert code_of(found) is RefusalCode.AMBIGUOUS
    assert isinstance(found, Refused)
    assert found.hint is not None
    assert peer_text(PEER.peer) in found.hint
    assert peer_text(THIRD.peer) in found.hint


def test_what_all_ids_begin_with_is_ambiguous() -> None:
    bench = Bench()
    bench.know(PEER)
    assert code_of(bench.resolved("12D3KooW")) is RefusalCode.AMBIGUOUS


def test_a_device_cannot_take_the_id_of_another_as_its_name() -> None:
    bench = Bench()
    victim, thief = PEER, THIRD
    beginning = peer_text(victim.peer)[:20]
    bench.know(victim, name="kitchen")
    bench.know(thief, name=beginning)
    assert code_of(bench.resolved(beginning)) is RefusalCode.AMBIGUOUS
    bench = Bench()
    bench.know(victim, name="kitchen")
    bench.know(thief, name=peer_text(victim.peer))
    assert peer_of(bench.resolved(peer_text(victim.peer))) == victim.peer


# --- showing --------------------------------------------------------------------------------


def test_devices_are_listed_this_one_first_then_by_name() -> None:
    bench = Bench()
    bench.know(PEER, name="zebra")
    bench.know(THIRD, name="ape")
    bench.know(OWN, name="middle")
    peers = bench.views.peers(now_us=0)
    assert peers.mesh == mesh_text(MESH.id)
    assert [peer.name for peer in peers.peers] == ["middle", "ape", "zebra"]
    assert [peer.is_self for peer in peers.peers] == [True, False, False]


def test_the_state_of_a_device_says_why_it_is_not_linked() -> None:
    bench = Bench()
    bench.know(OWN)
    bench.know(PEER)
    assert (bench.view(OWN).state, bench.view(OWN).reason) == ("self", None)
    assert (bench.view(PEER).state, bench.view(PEER).reason) == ("known", "not dialled yet")
    bench.overlay.on_dial_failed(PEER.peer, "connection refused", now_us=0)
    assert bench.view(PEER).state == "unreachable"
    assert bench.view(PEER).reason == "connection refused"
    bench.links[PEER.peer] = object()
    assert (bench.view(PEER).state, bench.view(PEER).reason) == ("linked", None)
    del bench.links[PEER.peer]
    bench.know(THIRD, has_left=True)
    bench.links[OTHERS[0].peer] = object()
    assert bench.view(THIRD).state == "left"
    bench.know(OTHERS[1])
    assert bench.view(OTHERS[1]).reason == "no link to it is needed"


def test_a_device_that_has_said_nothing_is_shown_without_inventing_anything() -> None:
    bench = Bench()
    bench.directory.introduce(PEER.peer, PEER.chain)
    view = bench.view(PEER)
    assert view.name == peer_text(PEER.peer)[:12]
    assert view.operator == PEER.certificate.operator
    assert (view.telemetry, view.telemetry_age_us, view.round_trip_us) == (None, None, None)
    assert (view.addresses, view.capabilities, view.engine_profiles) == ([], [], [])
    assert view.incarnation == 0
    assert view.transfer_bits_per_s is None


def test_telemetry_is_shown_with_its_age_and_measurements_are_our_own() -> None:
    bench = Bench()
    bench.know(PEER)
    bench.directory.merge(
        telemetry_of(PEER, version=(3, 1), slots_free=2), None, now_us=2 * US_PER_S
    )
    bench.measurements.on_round_trip(PEER.peer, 40_000)
    bench.measurements.on_received(PEER.peer, 1_000_000, US_PER_S)
    bench.measurements.on_sent(PEER.peer, 500_000, US_PER_S)
    bench.measurements.on_success(PEER.peer)
    bench.measurements.on_device_failure(PEER.peer)
    view = bench.view(PEER, now_us=5 * US_PER_S)
    assert view.telemetry == {"task_slots_free": 2}
    assert view.telemetry_age_us == 3 * US_PER_S
    assert view.round_trip_us == 40_000
    assert view.transfer_bits_per_s == 4_000_000, "the slower direction"
    assert (view.successes, view.failures) == (1, 1)
    assert view.incarnation == 3


def test_looking_at_a_device_changes_nothing() -> None:
    bench = Bench()
    for device in (PEER, THIRD, *OTHERS):
        bench.know(device, "cpu:1")
    bench.views.peers(now_us=0)
    bench.views.found(("gpu:cuda",), "local", [], now_us=0)
    assert bench.standings._breakers == {}
    assert bench.measurements.peers() == ()


def test_an_open_breaker_is_shown_with_its_reason() -> None:
    bench = Bench()
    bench.know(PEER)
    assert (bench.view(PEER).breaker, bench.view(PEER).breaker_reason) == ("closed", None)
    breaker = bench.standings.breaker(PEER.peer)
    breaker.on_readings(
        Measured(round_trip_us=900_000, round_trips_count=20), None, now_us=US_PER_S
    )
    view = bench.view(PEER)
    assert view.breaker == "open"
    assert view.breaker_reason == breaker_reason(breaker)
    assert "900000" in (view.breaker_reason or "")


def test_scores_are_rounded_and_unknown_terms_stay_unknown() -> None:
    bench = Bench()
    bench.know(PEER)
    bench.measurements.on_round_trip(PEER.peer, 33_333)
    health = bench.view(PEER).health
    assert health.latency == 0.6667
    assert health.bandwidth is None
    assert health.compute is None
    assert 0 <= health.score <= 1


# --- finding --------------------------------------------------------------------------------


def test_found_devices_are_ranked_by_health() -> None:
    bench = Bench()
    for device, round_trip_us in ((PEER, 90_000), (THIRD, 1_000), (OTHERS[0], 50_000)):
        bench.know(device, "cpu:1", name=f"{round_trip_us}")
        bench.measurements.on_round_trip(device.peer, round_trip_us)
    members = bench.directory.providers(frozenset({"cpu:1"}))
    found = bench.views.found(("cpu:1",), "dht", members, now_us=0)
    assert [peer.name for peer in found.peers] == ["1000", "50000", "90000"]
    assert (found.source, found.closest) == ("dht", [])


def test_when_nobody_provides_everything_the_closest_say_what_they_lack() -> None:
    bench = Bench()
    bench.know(OWN, "a:1", name="own")
    bench.know(PEER, "a:1", "b:1", name="best")
    bench.know(THIRD, "a:1", "b:1", "c:1", name="gone", has_left=True)
    for number, device in enumerate(OTHERS):
        bench.know(device, name=f"other {number}")
    found = bench.views.found(("a:1", "b:1", "c:1"), "local", [], now_us=0)
    assert found.peers == []
    assert len(found.closest) == CLOSEST_MAX
    assert [(one.name, one.missing) for one in found.closest[:2]] == [
        ("best", ["c:1"]),
        ("own", ["b:1", "c:1"]),
    ]
    assert "gone" not in {one.name for one in found.closest}


def test_a_reputation_is_shown_with_all_that_it_is_made_of() -> None:
    bench = Bench()
    for device, name in ((PEER, "kitchen"), (THIRD, "garage"), (OTHERS[0], "stranger")):
        bench.know(device, name=name)
    bench.measurements.on_success(PEER.peer, count=3)
    bench.measurements.on_device_failure(PEER.peer, task_kind="gpu")
    bench.measurements.on_success(THIRD.peer, count=30)
    for observer, counts in ((THIRD, (9, 1, 0)), (OTHERS[0], (0, 99, 99))):
        told = Observations(slots=(Observation(PEER.peer, "any", *counts),))
        record = record_of(observer, RecordKind.OBSERVATIONS, encode_body(told))
        bench.directory.merge(record, None, now_us=US_PER_S)
        bench.standings.reputation.on_observed(observer.peer)
    member = bench.directory.get(PEER.peer)
    assert member is not None
    view = bench.views.peer_in_full(member, now_us=US_PER_S)
    found = view.reputation
    assert found is not None
    assert found.score == view.health.reputation
    assert [(one.kind, one.valid, one.failed) for one in found.own] == [
        ("any", 3, 0),
        ("gpu", 0, 1),
    ]
    assert (found.remembered.valid, found.remembered.failed) == (3, 1)
    assert [(one.name, one.outcomes[0].failed) for one in found.observers] == [
        ("garage", 1),
        ("stranger", 99),
    ]
    assert found.observers[0].weight == found.others_weight > found.observers[1].weight == 0
    assert found.others_rate == 0.9
    assert bench.view(PEER).reputation is None  # lists are long enough without
