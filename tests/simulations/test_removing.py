"""Removal by unmodified nodes: how fast nobody works with a removed device any more."""

from __future__ import annotations

from typing import cast

from meshd.node import MeshNode
from simulations.engine import US_PER_S
from simulations.mesh_node import MESH_NODE
from simulations.sandbox import Program
from simulations.submission import work_of
from simulations.world import Request, World, WorldSettings
from wire.answers import (
    Accepted,
    PeerList,
    Refused,
    RekeyView,
    RemovalView,
    StatusView,
    TaskView,
)
from wire.commands import GetStatus, ListPeers, Rekey, Remove, WaitTask
from wire.ids import peer_text

BAR_US = 5 * US_PER_S


def grown(node_count: int, *, seed: int = 1, settle_s: int = 20) -> World:
    """A mesh in which every device knows every other."""
    world = World(WorldSettings(seed=seed, node_count=node_count), MESH_NODE)
    world.start_all()
    world.run_until(
        lambda: all(len(node_of(world, one).directory) == node_count for one in range(node_count)),
        within_us=settle_s * US_PER_S,
        what="everybody knows everybody",
    )
    return world


def node_of(world: World, node: int) -> MeshNode:
    return cast(MeshNode, world.hosts[node].node())


def answer_to(world: World, node: int, command: object) -> object:
    request = world.ask(node, command)  # type: ignore[arg-type]  # any command
    world.run_for(US_PER_S // 10)
    return request.last


def reference(world: World, node: int) -> str:
    return peer_text(world.hosts[node].peer)


def serving(world: World, removed: int) -> list[int]:
    """Return the devices that know or hold a link to one that was removed."""
    peer = world.hosts[removed].peer
    return [
        host.index
        for host in world.hosts
        if host.is_running
        and host.index != removed
        and (
            node_of(world, host.index).directory.get(peer) is not None
            or peer in node_of(world, host.index).linked
        )
    ]


def test_five_seconds_after_a_removal_nobody_of_a_hundred_serves_the_device() -> None:
    world = grown(100)
    removed = answer_to(world, 7, Remove(peer=reference(world, 42)))
    assert isinstance(removed, RemovalView)
    assert removed.is_done
    assert not removed.is_final, "both are admins of one rank: only the recovery key is for good"
    world.run_until(lambda: not serving(world, 42), within_us=BAR_US, what="nobody serves it")
    world.run_for(2 * BAR_US)
    assert serving(world, 42) == []
    status = answer_to(world, 42, GetStatus())
    assert isinstance(status, StatusView)
    assert status.is_removed
    assert "removed from the mesh by" in " ".join(status.warnings)
    peers = answer_to(world, 90, ListPeers())
    assert isinstance(peers, PeerList)
    assert [(one.name, one.state) for one in peers.peers if one.state == "removed"] == [
        ("device-42", "removed")
    ]


def test_a_device_that_was_cut_off_learns_of_a_removal_as_soon_as_it_has_a_link() -> None:
    world = grown(20)
    world.isolate(3)
    world.run_for(30 * US_PER_S)
    assert isinstance(answer_to(world, 0, Remove(peer=reference(world, 5))), RemovalView)
    world.run_for(BAR_US)
    assert serving(world, 5) == [3]
    world.heal()
    world.run_until(
        lambda: bool(node_of(world, 3).linked),
        within_us=90 * US_PER_S,
        what="the device that was cut off has a link",
    )
    world.run_until(lambda: not serving(world, 5), within_us=US_PER_S, what="it has heard")


def test_two_halves_that_removed_devices_apart_agree_after_the_heal() -> None:
    world = grown(12)
    world.split(range(6), range(6, 12))
    world.run_for(20 * US_PER_S)
    answer_to(world, 0, Remove(peer=reference(world, 2)))
    answer_to(world, 7, Remove(peer=reference(world, 0)))  # of a higher rank: it undoes that
    answer_to(world, 7, Remove(peer=reference(world, 9)))
    answer_to(world, 0, Remove(peer=reference(world, 7)))
    world.run_for(BAR_US)
    world.heal()
    world.run_for(90 * US_PER_S)
    for node in (0, 1, 3, 4, 5, 6, 8, 10, 11):
        status = answer_to(world, node, GetStatus())
        assert isinstance(status, StatusView)
        assert status.removals == 4
        assert not status.is_removed, f"device {node}"
    assert serving(world, 2) in ([], [7]), "who is out itself need not hear of it"
    assert serving(world, 7) in ([], [2])
    assert serving(world, 9), "who removed it was put out by a higher rank: it stands again"


def test_a_removal_is_known_after_a_restart_of_all() -> None:
    world = grown(4)
    answer_to(world, 0, Remove(peer=reference(world, 2)))
    world.run_for(BAR_US)
    for node in (0, 1, 3):
        world.stop(node)
    world.run_for(5 * US_PER_S)
    world.start_all()
    world.run_for(30 * US_PER_S)
    assert serving(world, 2) == []


def test_the_tasks_of_a_removed_executor_go_to_others_at_once() -> None:
    world = grown(4)
    program = Program(work_us=4 * US_PER_S)
    accepted = world.submit(0, work_of(16, program, deadline_us=300 * US_PER_S))
    world.run_for(US_PER_S)
    assert isinstance(accepted.last, Accepted)
    waits = [world.ask(0, WaitTask(task)) for task in accepted.last.tasks]
    world.run_for(US_PER_S)
    assert executors(waits) >= {"device-2"}
    answer_to(world, 0, Remove(peer=reference(world, 2)))
    assert "device-2" not in executors(waits)
    world.run_until(
        lambda: all(isinstance(wait.last, TaskView) and wait.last.is_decided for wait in waits),
        within_us=60 * US_PER_S,
        what="the others did it all",
    )
    assert "device-2" not in executors(waits)


def executors(waits: list[Request]) -> set[str | None]:
    return {wait.last.executor_name for wait in waits if isinstance(wait.last, TaskView)}


def test_who_may_not_remove_is_told_why() -> None:
    world = grown(3)
    own = answer_to(world, 0, Remove(peer="device-0"))
    unknown = answer_to(world, 0, Remove(peer="nobody"))
    assert isinstance(own, Refused)
    assert "itself" in own.message
    assert isinstance(unknown, Refused)
    plan = answer_to(world, 0, Remove(peer="device-1", is_plan=True))
    assert isinstance(plan, RemovalView)
    assert (plan.is_done, plan.is_final) == (False, True)
    assert node_of(world, 2).directory.get(world.hosts[1].peer) is not None
    answer_to(world, 0, Remove(peer="device-1"))
    again = answer_to(world, 0, Remove(peer=reference(world, 1)))
    assert isinstance(again, Refused)
    assert "already" in again.message


def test_a_removed_device_does_not_learn_a_key_that_was_rolled_after_its_removal() -> None:
    world = grown(20)
    world.isolate(3)
    answer_to(world, 0, Remove(peer=reference(world, 5)))
    world.run_for(US_PER_S)
    assert isinstance(answer_to(world, 0, Rekey()), RekeyView)
    world.run_for(30 * US_PER_S)
    world.heal()
    world.run_for(90 * US_PER_S)
    generations = [node_of(world, node).network_key_generation for node in range(20)]
    assert generations[5] == 0
    assert [*generations[:5], *generations[6:]] == [1] * 19, "also the one that was cut off"
