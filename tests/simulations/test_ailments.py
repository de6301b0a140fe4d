"""Devices that are hot, gray, backed up or of another make: the nodes that ship see it."""

from __future__ import annotations

from functools import partial

import pytest
from msgspec import Struct
from support.scripted_nodes import Stage

from simulations.cpu import CpuCosts
from simulations.device import HostSettings
from simulations.discovery import Discovery
from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.gray import Gray
from simulations.mesh_node import MESH_NODE
from simulations.sandbox import Program
from simulations.sensors import temperatures
from simulations.submission import work_of
from simulations.world import Request, World, WorldSettings
from telemetry import SAMPLE_EVERY_US, decode_sample
from wire.answers import PeerView, StatusView, TaskList
from wire.commands import Command, GetPeer, GetStatus, ListTasks
from wire.effects import Persist, Row, Send
from wire.events import Received, Restarted, Sampled
from wire.ids import peer_text
from wire.membership import Role
from wire.messages import Heartbeat, HeartbeatAcknowledged

HOT_MILLICELSIUS = 90_000
COOL_MILLICELSIUS = 45_000
ONLY_SUBMITTER: dict[int, tuple[Role, ...]] = {1: (Role.SUBMITTER, Role.STEWARD)}


def world_of(host: HostSettings | None = None, *, seed: int = 4) -> World:
    """Return a mesh of a device that works and one that only submits."""
    settings = WorldSettings(
        seed=seed, node_count=2, roles=ONLY_SUBMITTER, host=host or HostSettings()
    )
    world = World(settings, MESH_NODE)
    world.start_all()
    world.run_for(3 * US_PER_S)
    return world


def answer(world: World, node: int, command: Command) -> object:
    request = world.ask(node, command)
    world.run_for(US_PER_S // 10)
    return request.last


def breaker(world: World) -> str:
    view = answer(world, 0, GetStatus())
    assert isinstance(view, StatusView)
    return view.breaker


def submit(world: World, *, count: int = 1, work_us: int = US_PER_S) -> Request:
    program = Program(work_us=work_us)
    return world.submit(1, work_of(count, program, deadline_us=3_600 * US_PER_S))


def decided(world: World) -> list[str | None]:
    """Return how the tasks that are decided have ended, as statuses."""
    tasks = answer(world, 1, ListTasks(limit=100))
    assert isinstance(tasks, TaskList)
    return [view.status for view in tasks.tasks if view.is_decided]


# Heat.


def test_temperatures_go_evenly_from_one_to_the_other() -> None:
    assert list(temperatures(40_000, 90_000, over_us=2 * SAMPLE_EVERY_US)) == [
        (0, 40_000),
        (SAMPLE_EVERY_US, 65_000),
        (2 * SAMPLE_EVERY_US, 90_000),
    ]
    assert list(temperatures(40_000, 90_000, over_us=0)) == [(0, 90_000)]


def test_a_breaker_opens_in_the_heat_and_closes_by_a_probe_once_it_is_cool() -> None:
    world = world_of()
    for after_us, value in temperatures(COOL_MILLICELSIUS, HOT_MILLICELSIUS, over_us=30 * US_PER_S):
        world.engine.after(after_us, partial(world.hosts[0].set_temperature, value))
    world.run_for(25 * US_PER_S)
    assert breaker(world) == "closed"
    world.run_for(15 * US_PER_S)
    assert world.hosts[0].temperature_millicelsius == HOT_MILLICELSIUS
    assert breaker(world) == "open"
    submit(world)
    world.run_for(60 * US_PER_S)
    assert decided(world) == []
    world.hosts[0].set_temperature(COOL_MILLICELSIUS)
    seen = set[str]()
    for _ in range(240):
        seen.add(breaker(world))
        world.run_for(US_PER_S)
        if "closed" in seen:
            break
    assert seen == {"open", "half_open", "closed"}
    assert decided(world) == ["exited"]


def test_a_battery_is_sampled_like_everything_else() -> None:
    stage = Stage(WorldSettings(seed=5, discovery=Discovery.SEEDS))
    stage.world.hosts[0].set_battery(375)
    stage.world.run_for(SAMPLE_EVERY_US)
    samples = [event for _, event in stage.nodes[0].heard if isinstance(event, Sampled)]
    before, after = (decode_sample(event.sample) for event in samples)
    assert (before.battery_permille, before.on_battery) == (None, None)
    assert (after.battery_permille, after.on_battery) == (375, True)


# Gray failures.


def test_a_stuck_device_looks_well_and_does_its_work_when_it_is_cured() -> None:
    world = world_of()
    submit(world)
    world.run_for(US_PER_S // 4)
    assert world.hosts[0].runs_count == 1
    world.hosts[0].set_gray(Gray(is_stuck=True))
    world.run_for(60 * US_PER_S)
    assert decided(world) == []
    assert world.network.is_linked(world.hosts[0].peer, world.hosts[1].peer)
    world.hosts[0].set_gray(None)
    world.run_for(30 * US_PER_S)
    assert decided(world) == ["exited"]


def test_a_slow_device_takes_its_time_until_its_runs_run_out_of_theirs() -> None:
    world = world_of()
    world.hosts[0].set_gray(Gray(slowdown=8))
    submit(world)
    world.run_for(3 * US_PER_S)
    assert decided(world) == []
    world.run_for(20 * US_PER_S)
    assert decided(world) == ["exited"]
    world.hosts[0].set_gray(Gray(slowdown=1_000))
    submit(world)
    world.run_for(60 * US_PER_S)
    assert sorted(map(str, decided(world))) == ["exited", "out_of_time"]


def test_a_slow_make_of_device_takes_as_much_longer() -> None:
    worlds = [world_of(HostSettings(speed_permille=permille)) for permille in (1_000, 100)]
    for world in worlds:
        submit(world)
        world.run_for(4 * US_PER_S)
    assert [decided(world) for world in worlds] == [["exited"], []]


def test_messages_of_a_type_are_dropped_and_all_others_sent() -> None:
    stage = Stage(WorldSettings(seed=5, discovery=Discovery.SEEDS))
    stage.link(0, 1)
    beat, reply = Heartbeat(token=1), HeartbeatAcknowledged(token=2)
    stage.world.hosts[0].set_gray(Gray(drops="Heartbeat"))
    stage.want(0, Send(stage.peer(1), beat), Send(stage.peer(1), reply))
    stage.world.run_for(US_PER_S)
    stage.world.hosts[0].set_gray(None)
    stage.want(0, Send(stage.peer(1), beat))
    stage.world.run_for(US_PER_S)
    received = [event for event in stage.nodes[1].events() if isinstance(event, Received)]
    assert [event.message for event in received] == [reply, beat]


def test_a_sleeping_device_s_runs_stand_still() -> None:
    world = world_of()
    submit(world, work_us=10 * US_PER_S)
    world.run_for(US_PER_S)
    assert world.hosts[0].runs_count == 1
    world.hosts[0].suspend()
    world.run_for(15 * US_PER_S)
    world.hosts[0].resume()
    world.run_for(2 * US_PER_S)
    assert world.trace.counts["event.Executed"] == 0


# Disks.


class Note(Struct, frozen=True):
    text: str


def row(number: int) -> Row:
    return Row("note", bytes([number]), Note(""))


def scripted(seed: int) -> Stage:
    return Stage(WorldSettings(seed=seed, discovery=Discovery.SEEDS))


def restarted(stage: Stage) -> Restarted:
    [event] = [event for event in stage.nodes[0].events() if isinstance(event, Restarted)]
    return event


def test_how_much_of_a_torn_tail_is_left_is_drawn_and_what_was_synced_is_kept() -> None:
    counts = set()
    for seed in range(20):
        stage = scripted(seed)
        stage.want(0, Persist((row(0), row(1))))
        stage.world.run_for(US_PER_S)
        stage.want(0, *(Persist((row(number), row(number + 1))) for number in (2, 4, 6)))
        stage.world.crash(0, DiskFate.TORN_TAIL)
        left = [one.key[0] for one in stage.world.hosts[0].disk.rows()]
        assert left == list(range(len(left)))
        counts.add(len(left))
    assert counts == {2, 4, 6, 8}


@pytest.mark.parametrize("is_block_level", [True, False])
def test_a_device_comes_back_from_its_backup(is_block_level: bool) -> None:
    stage = scripted(5)
    host = stage.world.hosts[0]
    kept = host.blobs.put(b"then")
    host.blobs.keep(kept, b"owner")
    stage.want(0, Persist((row(0),)))
    stage.world.run_for(US_PER_S)
    backup, store = host.backup(), host.disk.store
    later = host.blobs.put(b"later")
    host.blobs.keep(later, b"owner")
    host.blobs.release(b"owner")
    stage.want(0, Persist((row(1),)))
    stage.world.run_for(US_PER_S)
    with pytest.raises(LookupError, match="runs"):
        host.restore(backup, is_block_level=is_block_level)
    stage.world.crash(0, DiskFate.KEEP)
    host.restore(backup, is_block_level=is_block_level)
    stage.world.start(0)
    event = restarted(stage)
    assert event.rows == (row(0),)
    assert (event.store == store) is is_block_level
    assert (host.blobs.get(kept), host.blobs.get(later)) == (b"then", None)
    host.blobs.release(b"owner")  # whoever kept it then keeps it now
    assert host.blobs.get(kept) is None


def test_a_restored_steward_has_another_store_and_no_vote_of_the_old_one() -> None:
    world = world_of()
    backup = world.hosts[1].backup()
    submit(world)
    world.run_for(US_PER_S)
    store = world.hosts[1].disk.store
    world.crash(1, DiskFate.KEEP)
    world.hosts[1].restore(backup, is_block_level=False)
    world.start(1)
    world.run_for(10 * US_PER_S)
    view = answer(world, 1, GetStatus())
    assert isinstance(view, StatusView)
    assert view.store != store.hex()
    assert decided(world) == []


# Makes.


def test_devices_tell_their_type_region_and_what_they_provide() -> None:
    host = HostSettings(node_type="gpu", region="eu", capabilities=("gpu:simulated",))
    world = world_of(host)
    view = answer(world, 1, GetPeer(peer_text(world.hosts[0].peer)))
    assert isinstance(view, PeerView)
    assert (view.node_type, view.region) == ("gpu", "eu")
    wanted = {"gpu:simulated", "type:gpu", "region:eu", "label:device=0", "runtime:wasi-p1"}
    assert wanted <= set(view.capabilities)


def test_a_bounded_device_knows_and_links_to_so_many_at_most() -> None:
    def members(world: World) -> int:
        view = answer(world, 0, GetStatus())
        assert isinstance(view, StatusView)
        return view.members

    worlds = []
    for host in (HostSettings(), HostSettings(members_max=5, links_max=3)):
        world = World(WorldSettings(seed=2, node_count=10, host=host), MESH_NODE)
        world.start_all()
        world.run_for(20 * US_PER_S)
        worlds.append(world)
    assert [members(world) for world in worlds] == [10, 5]
    links = [[len(world.network.neighbours(host.peer)) for host in world.hosts] for world in worlds]
    assert set(links[0]) == {9}
    assert max(links[1]) < 9


# Determinism.


def test_a_run_in_which_everything_ails_depends_on_its_seed_only() -> None:
    digests = [_everything(seed).trace.digest() for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def _everything(seed: int) -> World:
    host = HostSettings(cpu=CpuCosts(), drift_ppm=200, speed_permille=500)
    world = World(WorldSettings(seed=seed, node_count=4, host=host), MESH_NODE)
    world.start_all()
    world.run_for(3 * US_PER_S)
    world.submit(1, work_of(20, Program(), deadline_us=3_600 * US_PER_S))
    backup = world.hosts[2].backup()
    world.hosts[0].set_gray(Gray(slowdown=3))
    world.hosts[3].suspend()
    world.run_for(2 * US_PER_S)
    world.crash(2, DiskFate.TORN_TAIL)
    world.hosts[2].restore(backup, is_block_level=False)
    world.hosts[1].set_drift(-5_000)
    world.hosts[1].set_wall(None)
    world.run_for(5 * US_PER_S)
    world.hosts[3].resume()
    world.start(2)
    world.run_for(20 * US_PER_S)
    return world
