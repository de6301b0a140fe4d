"""The failure detector of one device: whom it names, whom it accuses, and when it says nothing."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from support.meshes import Device, small_mesh

from p2p.directory import Directory, Merge
from p2p.failure_detector import (
    DISTRUST_US,
    FIRST_SETTLE_US,
    FIRST_SETTLE_US_MAX,
    LATENESS_LASTS_US,
    LENIENCE,
    OBSERVERS_COUNT,
    PUBLISH_EVERY_US,
    RECOVERY_US,
    SETTLE_US,
    STEADY_US_MIN,
    STOOD_STILL_US,
    SUSPECT_US,
    FailureDetector,
    WatchDue,
)
from p2p.liveness import (
    SILENCE_US_MAX,
    UNWATCHED_SILENCE_US_MAX,
    WATCHED_EVERY_US,
    Liveness,
)
from telemetry.measurement import Measurements
from wire.effects import Effect, Hangup, Send, SetTimer
from wire.ids import PeerId
from wire.records import Record, RecordKind, Watch
from wire.signed import encode_body, sign

US_PER_S = 1_000_000


@dataclass
class Bench:
    """One device of a mesh of ten, its detector, and a clock that runs from timer to timer."""

    now_us: int = 5_000 * US_PER_S
    said: list[Watch] = field(default_factory=list)
    mute: set[PeerId] = field(default_factory=set)

    def __post_init__(self) -> None:
        mesh = small_mesh(10)
        self.own = mesh.devices[0].peer
        self.devices: list[Device] = list(mesh.devices[1:])
        self.peers = [device.peer for device in self.devices]
        self.links: dict[PeerId, object] = {}
        self.directory = Directory(
            own=self.own,
            genesis=mesh.genesis,
            is_linked=self.links.__contains__,
            is_removed=lambda _: False,
        )
        self.liveness = Liveness(measurements=Measurements(), rng=random.Random(1))
        self.detector = FailureDetector(
            own=self.own, directory=self.directory, liveness=self.liveness, links=self.links
        )
        self._counter = 0
        self._due_us: int | None = None
        for device in self.devices:
            self.names(device)

    def names(
        self,
        device: Device,
        *observers: PeerId,
        silent: tuple[PeerId, ...] = (),
        incarnation: int = 1,
    ) -> None:
        """Let a device say who observes it, and whom it does not hear."""
        self._counter += 1
        record = Record(
            owner=device.peer,
            kind=str(RecordKind.WATCH),
            incarnation=incarnation,
            counter=self._counter,
            body=encode_body(Watch(observers=observers, silent=silent)),
        )
        signed = sign(record, device.keys)
        assert self.directory.merge(signed, device.chain, now_us=self.now_us) is Merge.NEWER
        self.take(self.detector.on_members_changed(now_us=self.now_us))

    def link(self, *peers: PeerId, is_relayed: bool = False) -> None:
        for peer in peers:
            self.links[peer] = None
            self.liveness.on_link_up(peer, now_us=self.now_us)
            up = self.detector.on_link_up(peer, is_relayed=is_relayed, now_us=self.now_us)
            self.take(up)

    def unlink(self, peer: PeerId) -> None:
        del self.links[peer]
        self.take(self.detector.on_link_down(peer, now_us=self.now_us))
        self.liveness.on_link_down(peer)

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SetTimer) and effect.key == WatchDue():
                self._due_us = self.now_us + effect.after_us

    def run(self, duration_us: int) -> list[Watch]:
        """Hear those who are not mute ten times a second; return what was said meanwhile."""
        before = len(self.said)
        until_us = self.now_us + duration_us
        while self.now_us < until_us:
            self.now_us += 100_000
            for peer in self.links:
                if peer not in self.mute:
                    self.liveness.on_heard(peer, now_us=self.now_us)
            if self._due_us is not None and self._due_us <= self.now_us:
                self.fire()
        return self.said[before:]

    def fire(self) -> None:
        """Let the timer run out now."""
        self._due_us = None
        watch, effects = self.detector.on_watch_due(now_us=self.now_us)
        self.take(effects)
        if watch is not None:
            self.said.append(watch)

    def beat(self, duration_us: int) -> list[Effect]:
        """Run with the heartbeats that are due; return them, and on whom this device hung up."""
        effects: list[Effect] = []
        for _ in range(0, duration_us, 500_000):
            self.run(500_000)
            effects += self.liveness.on_heartbeat_due(now_us=self.now_us)
        return effects

    def hung_up(self, duration_us: int) -> set[PeerId]:
        return {effect.peer for effect in self.beat(duration_us) if isinstance(effect, Hangup)}

    def stand_still_from_due(self, late_us: int) -> None:
        """Handle the timer that is due next so much too late; others are heard meanwhile."""
        assert self._due_us is not None
        self.now_us = self._due_us + late_us
        for peer in self.links:
            self.liveness.on_heard(peer, now_us=self.now_us)
        self.fire()

    def stand_still(self, duration_us: int) -> None:
        """Let time pass in which nothing is handled, then the timer that was due meanwhile."""
        assert self._due_us is not None
        self.now_us += duration_us
        self.fire()


def test_a_device_names_as_many_of_its_links_as_it_needs() -> None:
    bench = Bench()
    bench.link(*bench.peers[:2])
    assert bench.run(FIRST_SETTLE_US) == [Watch(observers=tuple(sorted(bench.peers[:2])))]
    bench.link(*bench.peers[2:])
    [watch] = bench.run(2 * PUBLISH_EVERY_US)
    assert len(watch.observers) == OBSERVERS_COUNT
    assert set(watch.observers) <= set(bench.peers)
    assert list(watch.observers) == sorted(watch.observers)


def test_what_changes_often_is_said_once_a_second() -> None:
    bench = Bench()
    bench.link(bench.peers[0])
    said = bench.run(FIRST_SETTLE_US)
    for peer in bench.peers[1:6]:
        bench.link(peer)
        said += bench.run(PUBLISH_EVERY_US // 4)
    said += bench.run(5 * PUBLISH_EVERY_US)
    assert [len(watch.observers) for watch in said] == [1, 5, 6]


def test_the_first_word_waits_until_the_first_links_have_come_but_not_for_ever() -> None:
    bench = Bench()
    for peer in bench.peers[: FIRST_SETTLE_US_MAX // 500_000]:
        assert bench.said == []
        bench.link(peer)
        bench.run(500_000)
    bench.run(SETTLE_US)
    assert [len(watch.observers) for watch in bench.said] == [OBSERVERS_COUNT]


def test_a_link_is_listened_to_closely_until_the_other_end_has_named_observers() -> None:
    bench = Bench()
    bench.link(*bench.peers)
    bench.run(2 * US_PER_S)
    strangers = set(bench.peers) - set(bench.said[-1].observers)
    observed, unobserved, *_ = (one for one in bench.devices if one.peer in strangers)
    for device in bench.devices:
        if device is not unobserved:
            bench.names(device, *bench.peers[:OBSERVERS_COUNT])
    bench.mute |= {observed.peer, unobserved.peer}
    assert bench.hung_up(SILENCE_US_MAX + 2 * US_PER_S) == {unobserved.peer}
    assert bench.hung_up(UNWATCHED_SILENCE_US_MAX - SILENCE_US_MAX) == {observed.peer}


def test_a_device_that_has_named_nobody_yet_beats_often_for_those_that_listen_closely() -> None:
    bench = Bench()
    observed = bench.devices[0]
    bench.names(observed, *bench.peers[2:5])
    bench.link(observed.peer)
    bench.stand_still(RECOVERY_US)
    beats = [
        effect for effect in bench.beat(RECOVERY_US - WATCHED_EVERY_US) if isinstance(effect, Send)
    ]
    assert not bench.said
    assert len(beats) >= RECOVERY_US // WATCHED_EVERY_US - 1


def test_two_devices_with_the_same_links_mostly_choose_each_other() -> None:
    bench = Bench()
    bench.link(*bench.peers)
    bench.run(PUBLISH_EVERY_US)
    ranks = bench.detector._ranks
    other = FailureDetector(
        own=bench.peers[0], directory=bench.directory, liveness=bench.liveness, links=bench.links
    )
    other.on_link_up(bench.own, now_us=bench.now_us)
    assert other._ranks[bench.own] == ranks[bench.peers[0]], "one rank for a pair"


def test_a_subject_that_falls_silent_is_accused_at_once_and_its_link_is_no_observer() -> None:
    bench = Bench()
    subject = bench.devices[0]
    bench.link(*bench.peers[:3])
    bench.names(subject, bench.own)
    bench.run(2 * US_PER_S)
    bench.mute.add(subject.peer)
    assert bench.run(SUSPECT_US - 200_000) == []
    [watch] = bench.run(400_000)
    assert watch.silent == (subject.peer,)
    assert subject.peer not in watch.observers


def test_only_those_that_named_this_device_are_accused() -> None:
    bench = Bench()
    bench.link(*bench.peers[:3])
    bench.names(bench.devices[1], bench.peers[2])
    bench.run(US_PER_S)
    bench.mute.update(bench.peers[:2])
    [watch] = bench.run(4 * SUSPECT_US)
    assert watch == Watch(observers=(bench.peers[2],))


def test_a_subject_without_a_link_is_accused_too() -> None:
    bench = Bench()
    bench.names(bench.devices[0], bench.own)
    [watch] = bench.run(SUSPECT_US + 2 * SETTLE_US)
    assert watch.silent == (bench.peers[0],)


def test_an_accusation_is_taken_back_when_the_subject_was_heard_steadily_not_once() -> None:
    bench = Bench()
    subject = bench.devices[0]
    bench.link(*bench.peers[:3])
    bench.names(subject, bench.own)
    bench.run(US_PER_S)
    bench.mute.add(subject.peer)
    bench.run(8 * US_PER_S)
    for _ in range(5):  # awake a tenth of a second of each eight
        bench.liveness.on_heard(subject.peer, now_us=bench.now_us)
        assert bench.run(8 * US_PER_S) == []
        assert bench.detector.watch.silent == (subject.peer,)
    bench.mute.clear()
    [watch] = bench.run(STEADY_US_MIN + 2 * WATCHED_EVERY_US)
    assert watch.silent == ()
    bench.run(DISTRUST_US)
    assert subject.peer in bench.detector.watch.observers


def test_an_accusation_ends_when_the_subject_names_others_or_says_goodbye() -> None:
    bench = Bench()
    bench.names(bench.devices[0], bench.own)
    bench.run(4 * US_PER_S)
    assert bench.detector.watch.silent == (bench.peers[0],)
    bench.names(bench.devices[0], bench.peers[1])
    [watch] = bench.run(2 * US_PER_S)
    assert watch.silent == ()


def test_who_says_that_he_does_not_hear_this_device_is_replaced() -> None:
    bench = Bench()
    bench.link(*bench.peers[:7])
    [first] = bench.run(US_PER_S)
    accuser = first.observers[0]
    device = next(one for one in bench.devices if one.peer == accuser)
    bench.names(device, silent=(bench.own,))
    [then] = bench.run(2 * US_PER_S)
    assert accuser not in then.observers
    assert len(then.observers) == OBSERVERS_COUNT


def test_a_device_that_all_accuse_cannot_choose_its_judges() -> None:
    bench = Bench()
    bench.link(*bench.peers[:3])
    [first] = bench.run(US_PER_S)
    for device in bench.devices[:3]:
        bench.names(device, silent=(bench.own,))
    assert bench.run(10 * US_PER_S) == []
    assert bench.detector.watch == first


def test_a_device_that_stood_still_accuses_nobody_and_names_nobody_until_it_has_run() -> None:
    bench = Bench()
    bench.link(*bench.peers[:3])
    for device in bench.devices[:3]:
        bench.names(device, bench.own)
    [before] = bench.run(US_PER_S)
    for _ in range(4):
        bench.stand_still(8 * US_PER_S)
        assert bench.run(100_000) == []
    assert bench.detector.watch == before
    assert bench.run(RECOVERY_US + US_PER_S) == []
    bench.mute.add(bench.peers[0])
    lenient_us = SUSPECT_US + LENIENCE * STOOD_STILL_US
    assert bench.run(lenient_us + US_PER_S)[0].silent == (bench.peers[0],)


def test_a_device_that_is_behind_gives_others_more_time_for_a_while() -> None:
    late_us = STOOD_STILL_US - 200_000  # not long enough to be excused for
    for is_behind, silence_us in ((False, SUSPECT_US), (True, SUSPECT_US + LENIENCE * late_us)):
        bench = Bench()
        bench.link(*bench.peers[:3])
        bench.names(bench.devices[0], bench.own)
        bench.run(2 * US_PER_S)
        if is_behind:
            bench.stand_still_from_due(late_us)
        bench.mute.add(bench.peers[0])
        began_us = bench.now_us
        while not bench.detector.watch.silent:
            bench.run(100_000)
        assert abs(bench.now_us - began_us - silence_us) <= 300_000
    bench.mute.clear()
    bench.run(LATENESS_LASTS_US + 3 * US_PER_S)
    assert not bench.detector.watch.silent
    bench.mute.add(bench.peers[0])
    bench.run(SUSPECT_US + 300_000)
    assert bench.detector.watch.silent


def test_a_device_that_all_accuse_when_it_starts_names_them_all_the_same() -> None:
    bench = Bench()
    for device in bench.devices[:3]:
        bench.names(device, silent=(bench.own,))
    bench.link(*bench.peers[:3])
    [watch] = bench.run(US_PER_S)
    assert watch == Watch(observers=tuple(sorted(bench.peers[:3])))


def test_an_accusation_ends_when_the_subject_was_started_anew() -> None:
    bench = Bench()
    bench.names(bench.devices[0], bench.own)
    bench.run(4 * US_PER_S)
    assert bench.detector.watch.silent == (bench.peers[0],)
    bench.names(bench.devices[0], bench.own, incarnation=2)
    [watch] = bench.run(US_PER_S)
    assert watch.silent == ()


def test_only_those_that_are_linked_directly_are_named_as_observers() -> None:
    bench = Bench()
    bench.link(bench.peers[0])
    bench.link(*bench.peers[1:4], is_relayed=True)
    bench.run(10 * US_PER_S)
    assert bench.said[-1].observers == (bench.peers[0],)
    bench.unlink(bench.peers[1])
    bench.link(bench.peers[1])
    bench.run(5 * US_PER_S)
    assert bench.said[-1].observers == tuple(sorted(bench.peers[:2]))
