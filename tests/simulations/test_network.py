"""Links between simulated devices behave as the daemon's do."""

from __future__ import annotations

from msgspec.structs import replace
from support.scripted_nodes import Stage

from simulations.discovery import Discovery
from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.paths import NetworkSettings
from simulations.world import WorldSettings
from wire.effects import Dial, Hangup, Send
from wire.events import Congested, DialFailed, Drained, LinkDown, LinkUp, Received
from wire.messages import Heartbeat, Traffic

STEADY = NetworkSettings(latency_us=10_000, jitter_us=0)


def stage(network: NetworkSettings = STEADY, *, exercises_wire: bool = False) -> Stage:
    settings = WorldSettings(
        seed=1, network=network, discovery=Discovery.SEEDS, exercises_wire=exercises_wire
    )
    set_up = Stage(settings)
    set_up.forget()
    return set_up


def tokens(of: Stage, node: int) -> list[int]:
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
    here.world.cut([0], [1])
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


def test_who_comes_back_replaces_the_link_that_the_other_end_still_holds() -> None:
    here = stage()
    here.link(0, 1)
    here.world.crash(1, DiskFate.LOSE_UNSYNCED)
    here.world.start(1)
    here.forget()
    host = here.world.hosts[0]
    here.want(1, Dial(host.peer, host.addresses))
    here.world.run_for(US_PER_S)
    assert [type(event) for event in here.nodes[0].events()] == [LinkDown, LinkUp]
    assert [type(event) for event in here.nodes[1].events("Restarted")] == [LinkUp]


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


def test_slow_paths_are_slow_until_they_heal() -> None:
    here = stage()
    here.link(0, 1)
    here.world.slow(1, 300_000)
    here.want(0, Send(here.peer(1), Heartbeat(token=1)))
    here.world.run_for(300_000)
    assert tokens(here, 1) == []
    here.world.run_for(20_000)
    assert tokens(here, 1) == [1]


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
