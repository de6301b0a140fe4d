"""Links between simulated devices behave as the daemon's do."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from support.scripted_nodes import Stage

from simulations.carriage import OverTheWire, stream_bytes
from simulations.conditions import Conditions
from simulations.crypto import StandInMaker
from simulations.dials import FULL
from simulations.discovery import Discovery
from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.founding import founded_devices
from simulations.links import RACE_US
from simulations.paths import NetworkSettings
from simulations.world import WorldSettings
from wire.effects import Dial, Hangup, Send
from wire.events import Congested, DialFailed, Drained, LinkDown, LinkUp, Received
from wire.ids import PeerId
from wire.messages import BucketSummary, Heartbeat, Traffic
from wire.signed import Signed

STEADY = NetworkSettings(latency_us=10_000, jitter_us=0, bytes_per_second=None)


def stage(network: NetworkSettings = STEADY, *, exercises_wire: bool = False) -> Stage:
    settings = WorldSettings(
        seed=1, network=network, discovery=Discovery.SEEDS, exercises_wire=exercises_wire
    )
    set_up = Stage(settings)
    set_up.forget()
    return set_up


def tokens(of: Stage, node: int) -> list[int | None]:
    return [
        event.message.token
        for event in of.nodes[node].events()
        if isinstance(event, Received) and isinstance(event.message, Heartbeat)
    ]


def downs(of: Stage, node: int) -> list[str]:
    return [event.reason for event in of.nodes[node].events() if isinstance(event, LinkDown)]


def test_a_dial_costs_six_round_trips_and_both_ends_get_the_papers_of_the_other() -> None:
    here = stage()
    began_us = here.world.engine.now_us
    host = here.world.hosts[1]
    here.want(0, Dial(host.peer, host.addresses))
    here.world.run_for(6 * 2 * 10_001 - 1)
    assert here.nodes[0].events() == here.nodes[1].events() == []
    here.world.run_for(1)
    [inbound] = here.nodes[1].events()
    here.world.run_for(10_001)
    [outbound] = here.nodes[0].events()
    assert here.world.engine.now_us - began_us == 13 * 10_001
    assert isinstance(inbound, LinkUp)
    assert isinstance(outbound, LinkUp)
    assert (inbound.peer, inbound.is_outbound) == (here.peer(0), False)
    assert (outbound.peer, outbound.is_outbound) == (here.peer(1), True)
    assert inbound.hello == here.nodes[0].hello()
    assert outbound.hello == here.nodes[1].hello()


def test_two_who_dial_each_other_hear_of_one_link() -> None:
    here = stage(replace(STEADY, jitter_us=5_000))
    for node, other in ((0, 1), (1, 0)):
        host = here.world.hosts[other]
        here.want(node, Dial(host.peer, host.addresses))
    here.world.run_for(US_PER_S)
    for node in (0, 1):
        assert [type(event) for event in here.nodes[node].events()] == [LinkUp]


def test_dials_fail_with_the_reason_and_as_late_as_they_would() -> None:
    here = stage()
    host = here.world.hosts[1]
    here.want(0, Dial(host.peer, ("/ip4/10.9.9.9/tcp/1",)))
    here.world.run_for(0)
    here.world.crash(1, DiskFate.KEEP)
    here.want(0, Dial(host.peer, host.addresses))
    here.world.run_for(20_002)
    here.world.start(1)
    here.world.isolate(1)
    here.want(0, Dial(host.peer, host.addresses))
    here.world.run_for(STEADY.dial_timeout_us)
    reasons = [event.reason for event in here.nodes[0].events() if isinstance(event, DialFailed)]
    expected = ["nobody with this id at these addresses", "connection refused", "timed out"]
    assert reasons == expected


def test_a_stalled_process_answers_no_dial() -> None:
    here = stage()
    host = here.world.hosts[1]
    here.world.freeze(1)
    here.want(0, Dial(host.peer, host.addresses))
    here.world.run_for(2 * STEADY.dial_timeout_us)
    assert here.nodes[0].events() == [DialFailed(host.peer, "no answer in time")]


def test_a_device_of_another_mesh_is_refused() -> None:
    here, other = stage(), stage()
    stranger = Stage(replace(other.world.settings, seed=2)).nodes[1].hello()
    here.nodes[1].hello = lambda: stranger  # type: ignore[method-assign]
    host = here.world.hosts[1]
    here.want(0, Dial(host.peer, host.addresses))
    here.world.run_for(US_PER_S)
    [failed] = here.nodes[0].events()
    assert isinstance(failed, DialFailed)
    assert failed.reason == "refused: another mesh"
    assert here.nodes[1].events() == []


def test_messages_arrive_in_order_whatever_their_delays() -> None:
    here = stage(NetworkSettings(latency_us=1_000, jitter_us=50_000, loss_permille=200))
    here.link(0, 1)
    here.want(0, *(Send(here.peer(1), Heartbeat(token=number)) for number in range(40)))
    here.world.run_for(60 * US_PER_S)
    assert tokens(here, 1) == list(range(40))
    assert here.world.network.paths.lost_count > 0


def test_without_a_link_a_message_is_dropped_and_counted() -> None:
    here = stage()
    here.want(0, Send(here.peer(1), Heartbeat(token=1)))
    here.world.run_for(US_PER_S)
    assert here.nodes[1].events() == []
    assert here.world.network.counts["network.message_without_link"] == 1


def test_a_cut_loses_what_is_in_flight_and_nobody_is_told_before_the_keepalive() -> None:
    here = stage()
    here.link(0, 1)
    here.want(0, Send(here.peer(1), Heartbeat(token=1)))
    here.world.isolate(1)
    here.want(0, Send(here.peer(1), Heartbeat(token=2)))
    here.world.run_for(STEADY.keepalive_us)
    assert here.nodes[0].events() == here.nodes[1].events() == []
    here.world.run_for(US_PER_S)
    assert downs(here, 0) == downs(here, 1) == ["keepalive timed out"]


def test_a_stream_that_lost_bytes_is_reset_by_the_first_send_after_the_heal() -> None:
    here = stage()
    here.link(0, 1)
    here.world.isolate(1)
    here.want(0, Send(here.peer(1), Heartbeat(token=1)))
    here.world.run_for(US_PER_S)
    here.world.heal()
    here.want(0, Send(here.peer(1), Heartbeat(token=2)))
    here.world.run_for(US_PER_S)
    assert downs(here, 0) == downs(here, 1) == ["reset"]
    assert tokens(here, 1) == []


def test_a_cut_in_one_direction_lets_the_other_pass() -> None:
    here = stage()
    here.link(0, 1)
    here.world.network.cut([(here.peer(0), here.peer(1))])
    here.want(0, Send(here.peer(1), Heartbeat(token=1)))
    here.want(1, Send(here.peer(0), Heartbeat(token=2)))
    here.world.run_for(US_PER_S)
    assert tokens(here, 1) == []
    assert tokens(here, 0) == [2]


def test_a_hangup_is_heard_by_the_other_end_behind_what_was_sent_before() -> None:
    here = stage()
    here.link(0, 1)
    here.want(0, Send(here.peer(1), Heartbeat(token=1)), Hangup(here.peer(1), "enough"))
    here.world.run_for(US_PER_S)
    assert downs(here, 0) == ["enough"]
    assert tokens(here, 1) == [1]
    assert downs(here, 1) == ["closed by the peer"]


def test_a_goodbye_that_is_lost_is_not_heard() -> None:
    here = stage()
    here.link(0, 1)
    here.want(0, Hangup(here.peer(1), "enough"))
    here.world.isolate(0)
    here.world.run_for(STEADY.keepalive_us)
    assert downs(here, 1) == []
    here.world.run_for(US_PER_S)
    assert downs(here, 1) == ["keepalive timed out"]


def test_a_stream_that_lost_bytes_is_no_link_any_more_for_either_end() -> None:
    here = stage()
    here.link(0, 1)
    network = here.world.network
    path = [(here.peer(0), here.peer(1))]
    network.cut(path)
    network.mend(path)
    assert network.neighbours(here.peer(0)) == network.neighbours(here.peer(1)) == []


def test_a_killed_process_is_noticed_and_a_lost_power_is_not() -> None:
    here = stage()
    here.link(0, 1)
    here.link(0, 2)
    here.world.crash(1, DiskFate.KEEP)
    here.world.crash(2, DiskFate.LOSE_UNSYNCED)
    here.world.run_for(US_PER_S)
    assert [event for event in here.nodes[0].events() if isinstance(event, LinkDown)] == [
        LinkDown(here.peer(1), "closed by the peer")
    ]
    here.world.run_for(STEADY.keepalive_us)
    assert downs(here, 0) == ["closed by the peer", "keepalive timed out"]


def a_device_forgets_a_link(
    here: Stage, *, forgets_smaller: bool, after_us: int
) -> tuple[int, int]:
    """Let one device dial the other, which loses its memory later and dials back; return both."""
    smaller, larger = sorted((0, 1), key=here.peer)
    forgetful, holder = (smaller, larger) if forgets_smaller else (larger, smaller)
    here.link(holder, forgetful)
    here.world.run_for(after_us)
    here.world.crash(forgetful, DiskFate.LOSE_UNSYNCED)
    here.world.start(forgetful)
    here.forget()
    here.want(forgetful, Dial(here.peer(holder), here.world.hosts[holder].addresses))
    here.world.run_for(US_PER_S)
    return forgetful, holder


@pytest.mark.parametrize("forgets_smaller", [True, False])
def test_who_comes_back_replaces_the_link_that_the_other_end_still_holds(
    *, forgets_smaller: bool
) -> None:
    here = stage()
    forgetful, holder = a_device_forgets_a_link(
        here, forgets_smaller=forgets_smaller, after_us=RACE_US
    )
    assert [type(event) for event in here.nodes[holder].events()] == [LinkDown, LinkUp]
    assert [type(event) for event in here.nodes[forgetful].events("Restarted")] == [LinkUp]


def test_a_device_that_dials_again_has_forgotten_the_link_however_young_that_is() -> None:
    here = stage()
    here.link(0, 1)
    here.world.crash(0, DiskFate.LOSE_UNSYNCED)
    here.world.start(0)
    here.link(0, 1)
    assert here.world.network.is_linked(here.peer(0), here.peer(1))
    assert here.world.trace.counts["event.LinkDown"] == 1
    assert here.world.trace.counts["event.LinkUp"] == 4


def test_within_a_dial_time_the_smaller_id_keeps_the_link_it_dialled_and_refuses_another() -> None:
    here = stage()
    forgetful, holder = a_device_forgets_a_link(here, forgets_smaller=False, after_us=0)
    assert here.nodes[holder].events() == []
    [failed] = here.nodes[forgetful].events("Restarted")
    assert failed == DialFailed(here.peer(holder), "the other of two links stays")


def test_within_a_dial_time_the_larger_id_takes_a_new_link_for_the_one_it_dialled() -> None:
    here = stage()
    forgetful, holder = a_device_forgets_a_link(here, forgets_smaller=True, after_us=0)
    assert here.nodes[holder].events() == []
    assert [type(event) for event in here.nodes[forgetful].events("Restarted")] == [LinkUp]
    here.want(holder, Send(here.peer(forgetful), Heartbeat(token=1)))
    here.want(forgetful, Send(here.peer(holder), Heartbeat(token=2)))
    here.world.run_for(US_PER_S)
    assert (tokens(here, forgetful), tokens(here, holder)) == ([1], [2])


def test_sending_to_a_device_that_has_forgotten_the_link_is_answered_with_a_reset() -> None:
    here = stage()
    here.link(0, 1)
    here.world.crash(1, DiskFate.LOSE_UNSYNCED)
    here.want(0, Send(here.peer(1), Heartbeat(token=1)))
    here.world.run_for(US_PER_S)
    assert downs(here, 0) == []  # without power nobody answers
    here.world.start(1)
    here.want(0, Send(here.peer(1), Heartbeat(token=2)))
    here.world.run_for(US_PER_S)
    assert downs(here, 0) == ["reset"]
    assert tokens(here, 1) == []


def test_a_full_queue_drops_and_says_so_once_and_says_when_there_is_room() -> None:
    here = stage(replace(STEADY, queue_max=4))
    here.link(0, 1)
    here.want(0, *(Send(here.peer(1), Heartbeat(token=number)) for number in range(7)))
    here.world.run_for(US_PER_S)
    assert tokens(here, 1) == [0, 1, 2, 3]
    assert here.nodes[0].events() == [
        Congested(here.peer(1), Traffic.CONTROL),
        Drained(here.peer(1), Traffic.CONTROL),
    ]
    assert here.world.network.counts["network.message_dropped"] == 3


def test_what_makes_a_path_worse_adds_up_and_ends_one_by_one() -> None:
    here = stage()
    here.link(0, 1)
    network, path = here.world.network, [(here.peer(0), here.peer(1))]
    slow = Conditions(latency_us=100_000)
    for _ in range(2):
        network.worsen(path, slow)
    took = []
    for ends in (False, True, True):
        if ends:
            network.better(path, slow)
        here.want(0, Send(here.peer(1), Heartbeat(token=1)))
        began_us = here.world.engine.now_us
        here.forget()
        here.world.run_until(lambda: bool(tokens(here, 1)), within_us=US_PER_S, what="arrival")
        took.append(here.world.engine.now_us - began_us)
    assert took == [210_001, 110_001, 10_001]


def test_of_two_cuts_that_overlap_both_must_be_mended() -> None:
    here = stage()
    network, path = here.world.network, [(here.peer(0), here.peer(1))]
    network.cut(path)
    network.cut(path)
    network.mend(path)
    assert not network.can_reach(here.peer(0), here.peer(1))
    network.mend(path)
    assert network.can_reach(here.peer(0), here.peer(1))
    network.mend(path)  # of a cut that was ended with all others
    network.cut(path)
    assert not network.can_reach(here.peer(0), here.peer(1))


def test_what_is_jammed_arrives_in_order_after_the_release_on_the_same_link() -> None:
    here = stage()
    here.link(0, 1)
    network, path = here.world.network, [(here.peer(0), here.peer(1))]
    here.want(0, Send(here.peer(1), Heartbeat(token=0)))  # on its way already
    for _ in range(2):
        network.jam(path)
    here.want(0, *(Send(here.peer(1), Heartbeat(token=number)) for number in range(1, 6)))
    here.want(1, Send(here.peer(0), Heartbeat(token=9)))
    here.world.run_for(60 * US_PER_S)
    assert (tokens(here, 1), tokens(here, 0)) == ([0], [9])
    network.release(path)
    here.world.run_for(US_PER_S)
    assert tokens(here, 1) == [0]  # it was jammed twice
    network.release(path)
    here.want(0, Send(here.peer(1), Heartbeat(token=6)))
    here.world.run_for(US_PER_S)
    assert tokens(here, 1) == [0, 1, 2, 3, 4, 5, 6]
    assert downs(here, 0) == downs(here, 1) == []


def test_a_jam_fills_the_queue_lets_no_dial_through_and_holds_a_goodbye_back() -> None:
    here = stage(replace(STEADY, queue_max=2))
    here.link(0, 1)
    network, path = here.world.network, [(here.peer(0), here.peer(1))]
    network.jam(path)
    sends = [Send(here.peer(1), Heartbeat(token=number)) for number in range(3)]
    here.want(0, *sends, Hangup(here.peer(1), "enough"))
    here.want(0, Dial(here.peer(1), here.world.hosts[1].addresses))
    here.world.run_for(STEADY.dial_timeout_us)
    assert network.counts["network.message_dropped"] == 1
    assert here.nodes[0].events() == [
        LinkDown(here.peer(1), "enough"),
        DialFailed(here.peer(1), "timed out"),
    ]
    assert here.nodes[1].events() == []
    network.heal_all()
    here.world.run_for(US_PER_S)
    assert tokens(here, 1) == [0, 1]
    assert downs(here, 1) == ["closed by the peer"]


def test_a_jam_that_outlives_its_sender_s_power_brings_nothing() -> None:
    here = stage()
    here.link(0, 1)
    network, path = here.world.network, [(here.peer(0), here.peer(1))]
    network.jam(path)
    here.want(0, Send(here.peer(1), Heartbeat(token=1)))
    here.world.crash(0, DiskFate.LOSE_UNSYNCED)
    network.release(path)
    here.world.run_for(2 * STEADY.keepalive_us)
    assert tokens(here, 1) == []
    assert downs(here, 1) == ["keepalive timed out"]


def test_messages_leave_one_after_another_as_fast_as_the_path_takes_them() -> None:
    here = stage(replace(STEADY, bytes_per_second=1_000))
    here.link(0, 1)
    sent = [Heartbeat(token=number) for number in range(3)]
    each_us = stream_bytes(sent[0]) * US_PER_S // 1_000
    here.want(0, *(Send(here.peer(1), message) for message in sent))
    began_us = here.world.engine.now_us
    due_us = []
    for number in range(3):
        here.world.run_until(
            lambda wanted=number: len(tokens(here, 1)) > wanted,  # type: ignore[misc]
            within_us=US_PER_S,
            what="arrival",
        )
        due_us.append(here.world.engine.now_us - began_us)
    assert due_us == [each_us + 10_001, 2 * each_us + 10_001, 3 * each_us + 10_001]


def test_a_queue_is_full_by_its_bytes_too_but_one_message_always_fits() -> None:
    size_bytes = stream_bytes(Heartbeat(token=1))
    settings = replace(STEADY, bytes_per_second=1_000, queue_bytes_max=(2 * size_bytes, 1, 1))
    here = stage(settings)
    here.link(0, 1)
    summary = BucketSummary(buckets=bytes(512))
    here.want(0, Send(here.peer(1), summary))
    here.want(0, *(Send(here.peer(1), Heartbeat(token=number)) for number in range(3)))
    here.world.run_for(US_PER_S)
    here.want(0, *(Send(here.peer(1), Heartbeat(token=number)) for number in range(3)))
    here.world.run_for(US_PER_S)
    assert tokens(here, 1) == [0, 1]
    control = here.peer(1), Traffic.CONTROL
    assert [
        event for event in here.nodes[0].events() if isinstance(event, Congested | Drained)
    ] == [
        Congested(*control),
        Drained(*control),
        Congested(*control),
        Drained(*control),
    ]


def test_who_counts_bytes_hears_of_each_message_that_goes_on_a_link() -> None:
    here = stage()
    here.link(0, 1)
    heard: list[tuple[PeerId, int]] = []
    here.world.network.on_sent = lambda peer, _, size_bytes: heard.append((peer, size_bytes))
    here.want(0, Send(here.peer(1), Heartbeat(token=1)), Send(here.peer(2), Heartbeat(token=1)))
    here.want(1, Send(here.peer(0), BucketSummary(buckets=bytes(512))))
    assert heard == [
        (here.peer(0), stream_bytes(Heartbeat(token=1))),
        (here.peer(1), stream_bytes(BucketSummary(buckets=bytes(512)))),
    ]


def test_a_device_dials_and_links_no_more_others_than_it_may() -> None:
    here = stage(replace(STEADY, dials_max=1))
    hosts = here.world.hosts
    here.want(0, *(Dial(host.peer, host.addresses) for host in hosts[1:]))
    here.world.run_for(US_PER_S)
    failed = [event for event in here.nodes[0].events() if isinstance(event, DialFailed)]
    assert failed == [DialFailed(here.peer(2), "1 other devices are being dialled")]
    here = stage(replace(STEADY, links_max=1))
    here.link(0, 1)
    here.want(0, Dial(here.peer(2), hosts[2].addresses))
    here.want(2, Dial(here.peer(0), hosts[0].addresses))
    here.world.run_for(US_PER_S)
    assert here.nodes[0].events() == [DialFailed(here.peer(2), "1 links are open")]
    assert here.nodes[2].events() == [DialFailed(here.peer(0), "refused: too many links", FULL)]


def test_a_dial_to_a_device_that_gets_its_power_back_succeeds_when_its_packet_is_sent_again() -> (
    None
):
    here = stage()
    host = here.world.hosts[1]
    here.world.crash(1, DiskFate.LOSE_UNSYNCED)
    here.want(0, Dial(host.peer, host.addresses))
    here.world.run_for(3 * US_PER_S - 1)  # packets went at 0 and 1 s
    host.start()
    assert here.nodes[0].events() == []
    here.world.run_for(US_PER_S)
    assert [type(event) for event in here.nodes[0].events()] == [LinkUp]


def test_a_dial_whose_last_answer_is_lost_fails_and_never_was_a_link() -> None:
    here = stage()
    host = here.world.hosts[1]
    here.want(0, Dial(host.peer, host.addresses))
    here.world.run_for(12 * 10_001)
    assert [type(event) for event in here.nodes[1].events()] == [LinkUp]
    here.world.isolate(0)
    here.world.run_for(STEADY.dial_timeout_us + 10_001)
    assert here.nodes[0].events() == [DialFailed(host.peer, "no answer in time")]
    here.world.run_for(STEADY.keepalive_us)
    assert downs(here, 1) == ["keepalive timed out"]


@pytest.mark.parametrize("exercises_wire", [False, True])
def test_who_forges_signatures_is_skipped_and_then_banned(*, exercises_wire: bool) -> None:
    here = stage(exercises_wire=exercises_wire)
    if not exercises_wire:
        ring = StandInMaker()
        founded_devices(here.world.settings.seed, len(here.nodes), {}, ring)
        here.world.network.distrust(here.peer(0), OverTheWire(ring.verifier))
    here.link(0, 1)
    good = here.nodes[1].hello()
    genesis = good.genesis
    forged = replace(
        good,
        genesis=Signed(
            body=genesis.body,
            received=genesis.received,
            signer=genesis.signer,
            signature=bytes(64),
        ),
    )
    here.want(0, Send(here.peer(1), forged), Send(here.peer(1), good))
    here.world.run_for(US_PER_S)
    assert [event.message for event in here.nodes[1].events() if isinstance(event, Received)] == [
        good
    ]
    here.want(0, Send(here.peer(1), forged))
    here.world.run_for(US_PER_S)
    [reason] = downs(here, 1)
    assert reason.startswith("banned: ")
    here.forget()
    here.want(0, Dial(here.peer(1), here.world.hosts[1].addresses))
    here.want(1, Dial(here.peer(0), here.world.hosts[0].addresses))
    here.world.run_for(US_PER_S)
    assert here.nodes[0].events() == [DialFailed(here.peer(1), "refused: banned")]
    assert here.nodes[1].events() == [
        DialFailed(here.peer(0), "banned: it sent what no device should")
    ]
    here.world.crash(1, DiskFate.KEEP)  # a new process bears no grudge
    here.world.start(1)
    here.link(0, 1)
    assert here.world.network.is_linked(here.peer(0), here.peer(1))


def test_over_the_wire_a_message_arrives_equal_but_as_another_object() -> None:
    here = stage(exercises_wire=True)
    here.link(0, 1)
    sent = here.nodes[0].hello()  # full of signatures that have to be good
    here.want(0, Send(here.peer(1), sent))
    here.world.run_for(US_PER_S)
    [received] = here.nodes[1].events()
    assert isinstance(received, Received)
    assert received.message == sent
    assert received.message is not sent
