"""The reference of the membership table: SWIM with Lifeguard does what memberlist does."""

from __future__ import annotations

from collections.abc import Collection
from random import Random

import pytest

from benchmarks.membership.mesh import US_PER_MS, US_PER_S, MeshSettings, View
from benchmarks.membership.swim import Swim
from benchmarks.membership.swim_broadcasts import Broadcasts, transmissions_max
from benchmarks.membership.swim_effects import ProbeEnd, ProbeTick, ProbeTimeout, SendPacket
from benchmarks.membership.swim_members import State, SwimConfig
from benchmarks.membership.swim_mesh import SwimMesh
from benchmarks.membership.swim_messages import (
    Ack,
    Address,
    Alive,
    Dead,
    IndirectPing,
    Nack,
    Node,
    Ping,
    PushPull,
    Suspect,
)
from benchmarks.membership.swim_suspicion import Suspicion, suspicion_us

NODE_COUNT = 12


def swim_mesh(*, seed: int = 1, loss_permille: int = 10) -> SwimMesh:
    """Return a mesh whose nodes have had time to find each other."""
    mesh = SwimMesh(MeshSettings(seed=seed, node_count=NODE_COUNT, loss_permille=loss_permille))
    mesh.start(range(NODE_COUNT))
    mesh.run_for(15 * US_PER_S)
    assert views(mesh, range(NODE_COUNT)) == {View.ALIVE}
    return mesh


def views(
    mesh: SwimMesh, observers: Collection[int], subjects: Collection[int] = range(NODE_COUNT)
) -> set[View]:
    """Return all that these observers believe of these subjects."""
    return {mesh.view(one, other) for one in observers for other in subjects if one != other}


def core_that_knows(*others: int) -> Swim:
    """Return a node 0 that has started and heard of others, each at the address of its number."""
    core = Swim(Node(0), Address(0), config=SwimConfig(), rng=Random(1))
    core.start((), 0)
    core.on_packet([Alive(Node(other), 1, Address(other)) for other in others], 0)
    return core


def sent(effects: Collection[object]) -> list[tuple[int, object]]:
    """Return the first message of each packet, and where it goes."""
    return [(one.address, one.parts[0]) for one in effects if isinstance(one, SendPacket)]


# The figures of `util_test.go` and `suspicion_test.go`.


@pytest.mark.parametrize(
    ("node_count", "timeout_ms"),
    [(5, 3_000), (10, 3_000), (50, 5_094), (100, 6_000), (500, 8_094), (1_000, 9_000)],
)
def test_the_time_of_a_suspect_grows_with_the_logarithm_of_the_nodes(
    node_count: int, timeout_ms: int
) -> None:
    assert suspicion_us(3, node_count, US_PER_S) == timeout_ms * US_PER_MS


@pytest.mark.parametrize(("node_count", "count"), [(0, 0), (1, 3), (99, 6)])
def test_an_update_is_sent_a_logarithmic_number_of_times(node_count: int, count: int) -> None:
    assert transmissions_max(3, node_count) == count


@pytest.mark.parametrize(
    ("confirmations_count", "wait_ms"), [(0, 30_000), (1, 16_000), (2, 7_810), (3, 2_000)]
)
def test_the_more_confirm_a_suspicion_the_less_time_it_leaves(
    confirmations_count: int, wait_ms: int
) -> None:
    suspicion = Suspicion(
        since_us=0,
        confirmations_max=3,
        min_us=2 * US_PER_S,
        max_us=30 * US_PER_S,
        origins={Node(0)},
    )
    assert not suspicion.confirm(Node(0)), "who began it confirms nothing"
    for origin in range(1, confirmations_count + 1):
        assert suspicion.confirm(Node(origin))
        assert not suspicion.confirm(Node(origin)), "each confirms once"
    assert suspicion.due_us() == wait_ms * US_PER_MS


def test_a_newer_update_takes_the_place_of_an_older_one_and_goes_first() -> None:
    broadcasts = Broadcasts(multiplier=1)
    broadcasts.queue(Suspect(Node(1), 1, Node(0)))
    broadcasts.queue(Alive(Node(2), 1, Address(2)))
    broadcasts.queue(Dead(Node(1), 1, Node(0)))
    taken = broadcasts.take(1_000, node_count=9)
    assert taken == [Dead(Node(1), 1, Node(0)), Alive(Node(2), 1, Address(2))]
    assert broadcasts.take(1_000, node_count=9) == []


# One node.


def test_a_silent_node_is_probed_through_three_others_and_suspected() -> None:
    core = core_that_knows(1, 2, 3, 4)
    (target, ping), *_ = sent(core.on_timer(ProbeTick(), US_PER_S))
    assert isinstance(ping, Ping)
    asked = sent(core.on_timer(ProbeTimeout(ping.sequence), 1_500 * US_PER_MS))
    assert len(asked) == 3
    assert all(isinstance(one, IndirectPing) and one.target == target for _, one in asked)
    core.on_timer(ProbeEnd(ping.sequence), 2 * US_PER_S)
    member = core.members.get(Node(target))
    assert member is not None
    assert member.state is State.SUSPECT


def test_missing_nacks_make_a_node_doubt_itself_and_acks_restore_its_trust() -> None:
    core = core_that_knows(1, 2, 3, 4)
    ping = sent(core.on_timer(ProbeTick(), US_PER_S))[0][1]
    assert isinstance(ping, Ping)
    core.on_timer(ProbeTimeout(ping.sequence), 1_500 * US_PER_MS)
    core.on_packet([Nack(ping.sequence)], 1_900 * US_PER_MS)
    core.on_timer(ProbeEnd(ping.sequence), 2 * US_PER_S)
    assert core.awareness.score == 2, "three were asked, one said that it is well"
    ping = sent(core.on_timer(ProbeTick(), 3 * US_PER_S))[0][1]
    assert isinstance(ping, Ping)
    core.on_packet([Ack(ping.sequence)], 3 * US_PER_S)
    assert core.awareness.score == 1


def test_a_suspect_hears_of_it_with_the_next_ping_and_refutes() -> None:
    core = core_that_knows(1)
    core.on_packet([Suspect(Node(1), 1, Node(7))], US_PER_S)
    packets = [one for one in core.on_timer(ProbeTick(), US_PER_S) if isinstance(one, SendPacket)]
    assert packets[0].parts[1] == Suspect(Node(1), 1, Node(0))
    suspect = core_that_knows(2)
    suspect.on_packet([Suspect(Node(0), 1, Node(2))], US_PER_S)
    own = suspect.members.get(Node(0))
    assert own is not None
    assert (own.incarnation, own.state) == (2, State.ALIVE)


def test_an_old_incarnation_refutes_nothing_and_the_dead_of_another_are_only_suspects() -> None:
    core = core_that_knows(1, 2)
    core.on_packet([Suspect(Node(1), 1, Node(2))], US_PER_S)
    core.on_packet([Alive(Node(1), 1, Address(1))], US_PER_S)
    core.on_stream(PushPull((Dead(Node(2), 1, Node(1)),)), US_PER_S)
    states = [one.state for node in (1, 2) if (one := core.members.get(Node(node)))]
    assert states == [State.SUSPECT, State.SUSPECT]
    core.on_packet([Alive(Node(1), 2, Address(1))], US_PER_S)
    member = core.members.get(Node(1))
    assert member is not None
    assert member.state is State.ALIVE


def test_the_address_of_the_living_is_taken_and_that_of_the_dead_can_be_reclaimed() -> None:
    config = SwimConfig(dead_node_reclaim_us=5 * US_PER_S)
    core = Swim(Node(0), Address(0), config=config, rng=Random(1))
    core.start((), 0)
    moved = Alive(Node(1), 2, Address(100))
    core.on_packet([Alive(Node(1), 1, Address(1)), moved], 0)
    member = core.members.get(Node(1))
    assert member is not None
    assert member.address == 1
    core.on_packet([Dead(Node(1), 1, Node(2)), moved], US_PER_S)
    assert member.address == 1, "it died just now"
    core.on_packet([moved], 7 * US_PER_S)
    assert (member.address, member.state) == (100, State.ALIVE)


# A mesh.


def test_a_crash_is_seen_by_all_within_the_time_of_a_suspicion() -> None:
    mesh = swim_mesh()
    changes = mesh.watch(every_us=0)
    mesh.crash([3])
    mesh.run_for(15 * US_PER_S)
    others = set(range(NODE_COUNT)) - {3}
    assert views(mesh, others, [3]) == {View.DEAD}
    assert {(one.subject, one.after) for one in changes} == {(3, View.DEGRADED), (3, View.DEAD)}


def test_the_same_seed_gives_the_same_run_and_another_one_does_not() -> None:
    runs = []
    for seed in (1, 1, 2):
        mesh = swim_mesh(seed=seed)
        changes = mesh.watch(every_us=0)
        mesh.crash([3])
        mesh.run_for(15 * US_PER_S)
        runs.append((changes, mesh.traffic()))
    assert runs[0] == runs[1] != runs[2]


def test_a_frozen_node_is_declared_dead_and_refutes_when_it_goes_on() -> None:
    mesh = swim_mesh()
    mesh.freeze([5])
    mesh.run_for(30 * US_PER_S)
    others = set(range(NODE_COUNT)) - {5}
    assert views(mesh, others, [5]) == {View.DEAD}
    mesh.thaw([5])
    mesh.run_for(40 * US_PER_S)
    assert views(mesh, range(NODE_COUNT)) == {View.ALIVE}


def test_half_cut_links_are_probed_around() -> None:
    mesh = swim_mesh()
    changes = mesh.watch(every_us=0)
    mesh.cut([(1, 2), (2, 1)])
    mesh.run_for(60 * US_PER_S)
    assert not [one for one in changes if one.after is View.DEAD]


def test_halves_that_took_each_other_for_dead_become_one_again() -> None:
    mesh = swim_mesh()
    left, right = range(6), range(6, NODE_COUNT)
    mesh.cut([(one, other) for one in left for other in right])
    mesh.cut([(other, one) for one in left for other in right])
    mesh.run_for(90 * US_PER_S)
    assert views(mesh, left, right) == {View.DEAD}
    assert views(mesh, left, left) == {View.ALIVE}
    mesh.heal()
    mesh.run_for(120 * US_PER_S)
    assert views(mesh, range(NODE_COUNT)) == {View.ALIVE}


def test_a_node_that_moved_while_all_were_down_is_found_by_the_one_address_that_is_left() -> None:
    mesh = swim_mesh()
    mesh.crash(range(NODE_COUNT))
    for node in range(1, NODE_COUNT):
        mesh.move(node)
    mesh.start(range(NODE_COUNT))
    mesh.run_for(5 * US_PER_S)
    assert View.UNKNOWN in views(mesh, range(NODE_COUNT))
    mesh.run_for(200 * US_PER_S)
    assert views(mesh, range(NODE_COUNT)) == {View.ALIVE}
