"""A device that has more to do than it can is slow, and what it does not get to is seen."""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct
from support.scripted_nodes import Stage

from simulations.backlog import MAILBOX_EVENTS_MAX
from simulations.cpu import Cpu, CpuCosts, KeyUse
from simulations.crypto import StandInMaker
from simulations.device import HostSettings
from simulations.discovery import Discovery
from simulations.disk import DiskFate
from simulations.engine import US_PER_S, Engine
from simulations.mesh_node import MESH_NODE
from simulations.sandbox import Program
from simulations.submission import work_of
from simulations.world import World, WorldSettings
from wire.answers import TaskList
from wire.commands import ListTasks
from wire.effects import Persist, Row, Send, SetTimer
from wire.events import Listening, PeerSeen, Received, TimerDue, TransferMeasured
from wire.ids import PeerId
from wire.messages import Heartbeat, RecordsGiven
from wire.records import Record
from wire.signed import sign

ONLY_EVENTS = CpuCosts(
    handle_us=1_000,
    write_us=0,
    read_us=0,
    frame_us=0,
    dial_us=0,
    gossip_us=0,
    sign_us=0,
    verify_us=0,
    seal_us=0,
    unseal_us=0,
    sync_us=0,
    row_us=0,
    mebibyte_us=0,
)
COSTS = CpuCosts()
ONE, OTHER = PeerId(b"1" * 32), PeerId(b"2" * 32)
BEAT = Heartbeat(token=1)


class Note(Struct, frozen=True):
    DOMAIN: ClassVar[bytes] = b"meshd/note/1"
    text: str


def stage_of(costs: CpuCosts = ONLY_EVENTS, *, speed_permille: int = 1_000) -> Stage:
    host = HostSettings(cpu=costs, speed_permille=speed_permille, samples=False)
    stage = Stage(WorldSettings(seed=5, discovery=Discovery.SEEDS, host=host))
    stage.world.run_for(US_PER_S)
    stage.forget()
    return stage


def seen(number: int) -> PeerSeen:
    return PeerSeen(PeerId(number.to_bytes(32, "big")), (), "test")


def deliver(stage: Stage, count: int) -> None:
    for number in range(count):
        stage.world.hosts[0].deliver(seen(number))


def handled_at(stage: Stage, node: int = 0) -> list[int]:
    """Return when a node handled what it heard, from the first event on."""
    first_us, _ = stage.nodes[node].heard[0]
    return [at_us - first_us for at_us, _ in stage.nodes[node].heard]


# Being busy.


def test_an_idle_device_handles_at_once_and_a_busy_one_in_order_afterwards() -> None:
    stage = stage_of()
    deliver(stage, 3)
    assert [event for _, event in stage.nodes[0].heard] == [seen(0)]
    assert stage.world.hosts[0].backlog_count == 2
    stage.world.run_for(500)
    deliver(stage, 1)
    stage.world.run_for(10_000)
    assert handled_at(stage) == [0, 1_000, 2_000, 3_000]
    assert [event for _, event in stage.nodes[0].heard[1:]] == [seen(1), seen(2), seen(0)]
    assert stage.world.hosts[0].backlog_count == 0


def test_an_event_of_an_idle_device_needs_no_other_event() -> None:
    stage = stage_of()
    before_count = stage.world.engine.events_count
    for _ in range(10):
        deliver(stage, 1)
        stage.world.run_for(1_000)
    assert stage.world.engine.events_count == before_count
    assert len(stage.nodes[0].heard) == 10


def test_what_comes_when_the_backlog_is_done_does_not_overtake_it() -> None:
    stage = stage_of()
    deliver(stage, 2)
    stage.world.engine.at(  # behind the device's own event in the heap, at the same time
        stage.world.engine.now_us + 1_000, lambda: stage.world.hosts[0].deliver(seen(7))
    )
    stage.world.run_for(5_000)
    assert [event for _, event in stage.nodes[0].heard] == [seen(0), seen(1), seen(7)]
    assert handled_at(stage) == [0, 1_000, 2_000]


def test_a_slow_device_is_busy_for_longer() -> None:
    stage = stage_of(speed_permille=250)
    deliver(stage, 3)
    stage.world.run_for(20_000)
    assert handled_at(stage) == [0, 4_000, 8_000]


def test_a_timer_that_is_replaced_while_it_waits_does_not_ring() -> None:
    stage = stage_of()
    stage.want(0, SetTimer("a", 2_500), SetTimer("b", 2_500))
    stage.forget()
    stage.world.run_for(2_000)
    deliver(stage, 1)
    stage.nodes[0].wanted = [SetTimer("b", 10_000)]
    stage.world.run_for(400)
    deliver(stage, 1)  # is handled when both timers wait, but behind them
    stage.world.run_for(5_000)
    assert [event for _, event in stage.nodes[0].heard if not isinstance(event, PeerSeen)] == [
        TimerDue("a")
    ]
    stage.world.run_for(10_000)
    assert stage.nodes[0].events()[-1] == TimerDue("b")


def test_a_busy_device_does_first_what_is_durable_then_timers_then_the_rest() -> None:
    stage = stage_of()
    row = Row("note", b"a", Note("a"))
    stage.want(0, Persist((row,), (SetTimer("durable", 0),)), SetTimer("a", 2_000))
    stage.world.run_for(1_000)
    stage.forget()
    deliver(stage, 8)  # the disk and the timer are ready while the node is at these
    stage.world.run_for(20_000)
    heard = [event for _, event in stage.nodes[0].heard]
    assert len(heard) == 10
    positions = [heard.index(TimerDue(key)) for key in ("a", "durable")]
    assert max(positions) < 7
    assert [event for event in heard if isinstance(event, PeerSeen)] == [
        seen(number) for number in range(8)
    ]


def test_an_overloaded_device_is_noted_once_in_a_boot() -> None:
    stage = stage_of()
    deliver(stage, 2 * MAILBOX_EVENTS_MAX)
    stage.world.run_for(10 * US_PER_S)
    deliver(stage, 2 * MAILBOX_EVENTS_MAX)
    assert stage.world.trace.counts["process.behind"] == 1
    stage.world.crash(0, DiskFate.KEEP)
    stage.world.start(0)
    assert stage.world.hosts[0].backlog_count < 5
    deliver(stage, 2 * MAILBOX_EVENTS_MAX)
    assert stage.world.trace.counts["process.behind"] == 2


def test_what_waits_dies_with_the_process_and_the_next_one_is_idle() -> None:
    stage = stage_of()
    deliver(stage, 100)
    stage.world.crash(0, DiskFate.KEEP)
    assert stage.world.hosts[0].backlog_count == 0
    stage.world.start(0)
    stage.world.run_for(US_PER_S)
    assert not any(event == seen(50) for _, event in stage.nodes[0].heard)


def test_an_answer_to_a_message_is_late_by_what_waits_before_it() -> None:
    stage = stage_of()
    stage.link(1, 0)
    deliver(stage, 500)
    stage.want(1, Send(stage.peer(0), BEAT))
    stage.world.run_for(300_000)
    assert not any(isinstance(event, Received) for _, event in stage.nodes[0].heard)
    stage.world.run_for(300_000)
    assert any(isinstance(event, Received) for _, event in stage.nodes[0].heard)


# What things cost.


def cpu() -> tuple[Cpu, Engine]:
    engine = Engine()
    return Cpu(COSTS, engine, speed_permille=1_000), engine


def test_messages_of_one_moment_share_a_write_and_a_read() -> None:
    core, engine = cpu()
    one = core.effects_us([Send(ONE, BEAT)])
    assert one == COSTS.write_us + COSTS.frame_us
    assert core.effects_us([Send(ONE, BEAT)] * 15) == 15 * COSTS.frame_us
    assert core.effects_us([Send(OTHER, BEAT)]) == one
    first = core.handling_us(Received(ONE, BEAT))
    assert first == COSTS.handle_us + COSTS.frame_us + COSTS.read_us
    assert core.handling_us(Received(ONE, BEAT)) == first - COSTS.read_us
    engine.run(until_us=COSTS.flush_us, events_max=1)
    assert core.effects_us([Send(ONE, BEAT)]) == one
    assert core.handling_us(Received(ONE, BEAT)) == first


def test_sixteen_frames_a_write_are_as_many_a_second_as_was_measured() -> None:
    core, _ = cpu()
    cost_us = core.effects_us([Send(ONE, BEAT)] * 16)
    assert 14_000 < 16 * US_PER_S // cost_us < 20_000


def test_what_others_signed_costs_a_verification_each() -> None:
    core, _ = cpu()
    signer = StandInMaker().make(b"a" * 32)
    record = Record(owner=signer.peer, kind="presence", incarnation=1, counter=1, body=b"")
    records = RecordsGiven(records=(sign(record, signer),) * 3)
    plain = core.handling_us(Received(ONE, RecordsGiven(records=())))
    core.start()
    assert core.handling_us(Received(ONE, records)) == plain + 3 * COSTS.verify_us


def test_the_use_of_the_own_key_is_counted_once() -> None:
    core, _ = cpu()
    key = KeyUse(StandInMaker().make(b"a" * 32))
    sign(Note("hello"), key)
    box = key.seal(b"secret", key.peer)
    assert key.unseal(box) == b"secret"
    assert core.keys_us(key) == COSTS.sign_us + COSTS.seal_us + COSTS.unseal_us
    assert core.keys_us(key) == 0


def test_what_a_node_signs_is_charged_with_the_event_that_made_it_sign() -> None:
    stage = stage_of(CpuCosts())
    host, node = stage.world.hosts[0], stage.nodes[0]
    before_us = host.cpu_spent_us
    sign(Note("hello"), node.boot.device.signer)
    host.deliver(seen(0))
    assert host.cpu_spent_us - before_us == COSTS.handle_us + COSTS.sign_us


def test_a_new_process_has_nothing_to_do_yet() -> None:
    core, engine = cpu()
    core.charge(5_000)
    core.effects_us([Send(ONE, BEAT)])
    assert core.busy_until_us == engine.now_us + 5_000
    core.start()
    assert core.busy_until_us <= engine.now_us
    assert core.effects_us([Send(ONE, BEAT)]) > COSTS.write_us  # what the old one wrote is gone
    assert core.spent_us == 5_000


def test_rows_and_bulk_cost_by_their_amount() -> None:
    core, _ = cpu()
    rows = tuple(Row("note", bytes([number]), Note("")) for number in range(5))
    assert core.effects_us([Persist(rows)]) == COSTS.sync_us + 5 * COSTS.row_us
    measured = TransferMeasured(ONE, sent_bytes=0, received_bytes=2 << 20, duration_us=1)
    assert core.handling_us(measured) == COSTS.handle_us + 2 * COSTS.mebibyte_us
    assert core.handling_us(Listening(())) == COSTS.handle_us


def test_a_dial_costs_both_ends_a_handshake() -> None:
    stage = stage_of(CpuCosts())
    spent_us = [host.cpu_spent_us for host in stage.world.hosts]
    stage.link(0, 1)
    gained_us = [
        host.cpu_spent_us - before_us
        for host, before_us in zip(stage.world.hosts, spent_us, strict=True)
    ]
    assert gained_us[0] > COSTS.dial_us
    assert gained_us[1] > COSTS.dial_us
    assert gained_us[2] == 0


def test_nobody_counts_what_is_not_asked_for() -> None:
    stage = Stage(WorldSettings(seed=5))
    assert {host.cpu_spent_us for host in stage.world.hosts} == {0}


# The node that ships.


def idle_world(speed_permille: int) -> World:
    host = HostSettings(cpu=CpuCosts(), speed_permille=speed_permille)
    world = World(WorldSettings(seed=3, node_count=5, host=host), MESH_NODE)
    world.start_all()
    world.run_for(30 * US_PER_S)
    return world


def decided_us(speed_permille: int) -> int:
    """Return how long 64 short tasks take in a mesh of five such devices."""
    world = idle_world(speed_permille)
    began_us = world.engine.now_us
    world.submit(0, work_of(64, Program(work_us=1_000), deadline_us=3_600 * US_PER_S))

    def is_decided() -> bool:
        request = world.ask(0, ListTasks(limit=100))
        world.run_for(US_PER_S // 20)
        answer = request.last
        return (
            isinstance(answer, TaskList)
            and [view.is_decided for view in answer.tasks].count(True) == 64
        )

    while not is_decided():
        assert world.engine.now_us - began_us < 300 * US_PER_S
    return world.engine.now_us - began_us


def busy_permille(world: World) -> list[int]:
    """Let half a minute pass; return how busy each device was."""
    spent_us = [host.cpu_spent_us for host in world.hosts]
    world.run_for(30 * US_PER_S)
    return [
        (host.cpu_spent_us - before_us) // 30_000
        for host, before_us in zip(world.hosts, spent_us, strict=True)
    ]


def test_an_idle_mesh_takes_a_little_of_a_core_and_catches_up_at_once() -> None:
    world = idle_world(1_000)
    assert all(1 <= permille <= 50 for permille in busy_permille(world))
    assert all(host.backlog_count <= 2 for host in world.hosts)


def test_devices_too_slow_for_their_own_heartbeats_fall_behind() -> None:
    world = idle_world(5)
    assert all(permille > 900 for permille in busy_permille(world))
    assert max(host.backlog_count for host in world.hosts) > 20


def test_the_same_work_takes_slow_devices_longer() -> None:
    assert decided_us(20) > decided_us(1_000)
