"""Links that a third device carries: what they cost, what ends them, and what takes their place."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from support.scripted_nodes import Stage

from p2p.circuit_book import CircuitLimits
from simulations.dials import RELAY_ANSWER_US_MAX
from simulations.discovery import Discovery
from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.paths import NetworkSettings
from simulations.world import WorldSettings
from wire.effects import Dial, Hangup, Send
from wire.events import DialFailed, LinkDown, LinkUp, Received
from wire.messages import Heartbeat

# Devices 0 and 1 are behind NAT, 2 and 3 are not.
NATTED = NetworkSettings(latency_us=10_000, jitter_us=0, bytes_per_second=None, behind_nat=(0, 1))
ONE_WAY_US = 10_001
THIRD, FOURTH = 2, 3


def stage(network: NetworkSettings = NATTED, *linked: tuple[int, int]) -> Stage:
    """Return four devices, of which 0 and 1 are linked with 2, and whoever else is asked for."""
    settings = WorldSettings(seed=1, node_count=4, network=network, discovery=Discovery.SEEDS)
    set_up = Stage(settings)
    set_up.forget()
    for pair in ((0, THIRD), (1, THIRD), *linked):
        set_up.link(*pair)
    return set_up


def dial_through(of: Stage, origin: int, target: int, *relays: int) -> None:
    of.want(origin, Dial(of.peer(target), (), tuple(of.peer(relay) for relay in relays)))


def with_circuit(*linked: tuple[int, int], network: NetworkSettings = NATTED) -> Stage:
    here = stage(network, *linked)
    dial_through(here, 0, 1, THIRD)
    here.world.run_for(US_PER_S)
    assert are_linked(here, 0, 1)
    here.forget()
    return here


def are_linked(of: Stage, one: int, other: int) -> bool:
    return of.world.network.is_linked(of.peer(one), of.peer(other))


def ends(of: Stage, node: int) -> list[str]:
    return [event.reason for event in of.nodes[node].events() if isinstance(event, LinkDown)]


def failures(of: Stage, node: int) -> list[str]:
    return [event.reason for event in of.nodes[node].events() if isinstance(event, DialFailed)]


def test_nobody_can_dial_a_device_behind_nat_and_it_can_dial_others() -> None:
    here = stage()
    target = here.world.hosts[1]
    here.want(0, Dial(target.peer, target.addresses))
    here.world.run_for(NATTED.dial_timeout_us)
    assert failures(here, 0) == ["timed out"]
    assert are_linked(here, 1, THIRD)
    network = here.world.network
    assert not network.can_reach(here.peer(0), here.peer(1))
    assert network.can_reach(here.peer(0), here.peer(FOURTH))
    assert not network.can_reach(here.peer(FOURTH), here.peer(0))


def test_a_link_through_a_third_costs_both_paths_and_both_ends_hear_through_whom() -> None:
    here = stage()
    dial_through(here, 0, 1, THIRD)
    here.world.run_for((2 + 2 + 6 * 4) * ONE_WAY_US)
    [inbound] = here.nodes[1].events()
    here.world.run_for(2 * ONE_WAY_US)
    [outbound] = here.nodes[0].events()
    assert isinstance(inbound, LinkUp)
    assert isinstance(outbound, LinkUp)
    assert inbound.via == outbound.via == here.peer(THIRD)
    assert (inbound.address, outbound.address) == ("", "")
    assert here.world.network.can_reach(here.peer(0), here.peer(1))
    here.want(0, Send(here.peer(1), Heartbeat(token=1)))
    here.world.run_for(2 * ONE_WAY_US + 100)  # a megabyte a second, which the relay lets pass
    assert here.nodes[1].events()[1:] == [Received(here.peer(0), Heartbeat(token=1))]
    assert here.nodes[THIRD].events() == []


def test_it_carries_no_more_than_its_relay_lets_pass() -> None:
    slow = replace(NATTED, circuits=CircuitLimits(bytes_per_s_max=100))
    here = with_circuit(network=slow)
    here.want(0, *(Send(here.peer(1), Heartbeat(token=number)) for number in range(40)))
    here.world.run_for(US_PER_S)
    came_count = len(here.nodes[1].events())
    assert 0 < came_count < 20
    here.world.run_for(20 * US_PER_S)
    assert len(here.nodes[1].events()) == 40


@pytest.mark.parametrize("loses_power", [False, True])
def test_it_ends_with_its_relay_and_another_takes_over(loses_power: bool) -> None:
    here = with_circuit((0, FOURTH), (1, FOURTH))
    here.world.crash(THIRD, DiskFate.KEEP, loses_power=loses_power)
    here.world.run_for(2 * ONE_WAY_US)
    if loses_power:  # nobody says so: each end finds out by itself, and hangs up
        assert are_linked(here, 0, FOURTH)
        for node in (0, 1):
            here.want(node, Hangup(here.peer(THIRD), "silent"))
        here.world.run_for(0)
    assert "the device that carried it is gone" in ends(here, 0)
    assert "the device that carried it is gone" in ends(here, 1)
    dial_through(here, 1, 0, THIRD, FOURTH)
    here.world.run_for(US_PER_S)
    assert are_linked(here, 0, 1)


def test_it_ends_at_both_ends_when_one_of_them_loses_the_relay() -> None:
    here = with_circuit()
    here.want(0, Hangup(here.peer(THIRD), "too many links"))
    here.world.run_for(US_PER_S)
    assert not are_linked(here, 0, 1)
    assert ends(here, 0) == ["too many links", "the device that carried it is gone"]
    assert len(ends(here, 1)) == 1


def test_a_cut_of_either_path_loses_what_is_on_the_way() -> None:
    for cut_off in (0, 1):
        here = with_circuit()
        here.world.network.cut([(here.peer(cut_off), here.peer(THIRD))])
        here.want(0, Send(here.peer(1), Heartbeat(token=1)))
        here.want(1, Send(here.peer(0), Heartbeat(token=1)))
        here.world.run_for(US_PER_S)
        assert len(here.nodes[0].events() + here.nodes[1].events()) == 1  # the other way passes
        assert not are_linked(here, 0, 1)


def test_a_jam_of_a_path_holds_it_up_and_keeps_the_order() -> None:
    here = with_circuit()
    world, network = here.world, here.world.network
    pair = (here.peer(THIRD), here.peer(1))
    network.jam([pair])
    here.want(0, *(Send(here.peer(1), Heartbeat(token=number)) for number in range(3)))
    world.run_for(US_PER_S)
    assert here.nodes[1].events() == []
    network.release([pair])
    world.run_for(US_PER_S)
    tokens = [event.message for event in here.nodes[1].events() if isinstance(event, Received)]
    assert tokens == [Heartbeat(token=number) for number in range(3)]


def test_what_comes_to_a_relay_that_stalls_waits_there_in_order() -> None:
    here = with_circuit()
    here.world.freeze(THIRD)
    for number in range(3):
        here.want(0, Send(here.peer(1), Heartbeat(token=number)))
        here.world.run_for(30_000)
    assert here.nodes[1].events() == []
    here.world.thaw(THIRD)
    here.world.run_for(US_PER_S)
    tokens = [event.message for event in here.nodes[1].events() if isinstance(event, Received)]
    assert tokens == [Heartbeat(token=number) for number in range(3)]


def test_there_are_no_chains_and_no_circuits_without_a_link_to_both() -> None:
    here = with_circuit((0, FOURTH))
    dial_through(here, FOURTH, 1, 0)  # device 0 has a link to 1, but through 2
    dial_through(here, 1, FOURTH, 0)
    here.world.run_for(US_PER_S)
    assert failures(here, FOURTH) == failures(here, 1) == ["nobody carries a link to it"]
    assert here.world.network.counts["network.circuit_refused"] == 1


def test_a_relay_carries_no_more_circuits_than_it_may() -> None:
    none = replace(NATTED, circuits=CircuitLimits(circuits_max=0))
    here = stage(none)
    dial_through(here, 0, 1, THIRD)
    here.world.run_for(US_PER_S)
    assert failures(here, 0) == ["nobody carries a link to it"]
    one = replace(NATTED, circuits=CircuitLimits(circuits_max=1))
    here = with_circuit(network=one)
    for _ in range(3):  # one that ends makes room
        here.want(1, Hangup(here.peer(0), "done"))
        here.world.run_for(US_PER_S)
        dial_through(here, 0, 1, THIRD)
        here.world.run_for(US_PER_S)
        assert are_linked(here, 0, 1)


def test_a_direct_link_takes_the_place_of_one_through_a_third_and_not_the_other_way() -> None:
    here = stage(replace(NATTED, behind_nat=(0,)))
    dial_through(here, 0, 1, THIRD)
    here.world.run_for(US_PER_S)
    here.forget()
    target = here.world.hosts[1]
    here.want(0, Dial(target.peer, target.addresses))
    here.world.run_for(US_PER_S)
    for node in (0, 1):
        down, up = here.nodes[node].events()
        assert isinstance(down, LinkDown)
        assert isinstance(up, LinkUp)
        assert up.via is None
    dial_through(here, 1, 0, THIRD)
    here.world.run_for(US_PER_S)
    here.world.crash(THIRD, DiskFate.KEEP)
    here.world.run_for(US_PER_S)
    assert are_linked(here, 0, 1)


def test_two_who_dial_each_other_through_a_third_hear_of_one_link() -> None:
    here = stage(replace(NATTED, jitter_us=5_000), (0, FOURTH), (1, FOURTH))
    dial_through(here, 0, 1, THIRD)
    dial_through(here, 1, 0, FOURTH)
    here.world.run_for(US_PER_S)
    for node in (0, 1):
        assert [type(event) for event in here.nodes[node].events()] == [LinkUp]


def test_a_relay_that_stalls_is_passed_over() -> None:
    here = stage(NATTED, (0, FOURTH), (1, FOURTH))
    here.world.freeze(THIRD)
    dial_through(here, 0, 1, THIRD, FOURTH)
    here.world.run_for(RELAY_ANSWER_US_MAX)
    assert not are_linked(here, 0, 1)
    here.world.run_for(US_PER_S)
    assert are_linked(here, 0, 1)
