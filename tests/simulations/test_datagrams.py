"""A network without streams loses, doubles, reorders and changes messages, until it is calm."""

from __future__ import annotations

from msgspec.structs import replace
from support.scripted_nodes import Stage

from simulations.conditions import Conditions, Datagrams
from simulations.datagrams import copies
from simulations.discovery import Discovery
from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.paths import NetworkSettings
from simulations.seeds import splitmix64
from simulations.world import WorldSettings
from wire.effects import Dial, Hangup, Send
from wire.events import LinkDown, LinkUp, Received
from wire.messages import Heartbeat

STEADY = NetworkSettings(latency_us=10_000, jitter_us=0)
SENT_COUNT = 300  # under the budget of a second


def stage(datagrams: Datagrams, *, exercises_wire: bool = False) -> Stage:
    set_up = Stage(
        WorldSettings(
            seed=1,
            network=replace(STEADY, datagrams=datagrams),
            discovery=Discovery.SEEDS,
            exercises_wire=exercises_wire,
        )
    )
    set_up.forget()
    return set_up


def send_many(here: Stage) -> list[int]:
    """Send many messages from device 0 to device 1; return the tokens that arrive, in order."""
    here.want(0, *(Send(here.peer(1), Heartbeat(token=token)) for token in range(SENT_COUNT)))
    here.world.run_for(5 * US_PER_S)
    return arrived(here)


def arrived(here: Stage) -> list[int]:
    return [
        event.message.token or 0
        for event in here.nodes[1].events()
        if isinstance(event, Received) and isinstance(event.message, Heartbeat)
    ]


def test_copies_come_as_often_as_the_settings_say() -> None:
    settings = Datagrams(
        loss_permille=100,
        duplicate_permille=200,
        reorder_permille=300,
        reorder_us_max=1_000,
        corrupt_permille=50,
    )
    packets = [copies(settings, splitmix64(number), loss_permille=50) for number in range(10_000)]
    every = [copy for packet in packets for copy in packet]
    assert {len(packet) for packet in packets} == {0, 1, 2}
    assert abs(len(every) / 10_000 - 1.2 * 0.85) < 0.02
    assert abs(sum(copy.late_us > 0 for copy in every) / len(every) - 0.3) < 0.02
    assert abs(sum(copy.is_corrupt for copy in every) / len(every) - 0.05) < 0.01
    twins = [packet for packet in packets if len(packet) > 1]
    assert sum(one.late_us != other.late_us for one, other in twins) > len(twins) / 3
    assert {0 <= copy.late_us <= 1_000 for copy in every} == {True}
    assert packets == [
        copies(settings, splitmix64(number), loss_permille=50) for number in range(10_000)
    ]


def test_without_faults_datagrams_all_arrive_once() -> None:
    here = stage(Datagrams())
    here.link(0, 1)
    assert send_many(here) == list(range(SENT_COUNT))


def test_a_lost_message_does_not_hold_up_the_next_one() -> None:
    here = stage(Datagrams(loss_permille=100))
    here.link(0, 1)
    tokens = send_many(here)
    assert tokens == sorted(tokens)
    assert SENT_COUNT * 0.85 < len(tokens) < SENT_COUNT * 0.95
    lost_count = here.world.network.counts["network.datagram_lost"]
    assert len(tokens) + lost_count == SENT_COUNT


def test_a_path_that_got_worse_loses_datagrams_instead_of_stalling_them() -> None:
    here = stage(Datagrams())
    here.link(0, 1)
    here.world.network.worsen([(here.peer(0), here.peer(1))], Conditions(loss_permille=300))
    assert SENT_COUNT * 0.6 < len(send_many(here)) < SENT_COUNT * 0.8


def test_messages_come_twice() -> None:
    here = stage(Datagrams(duplicate_permille=100))
    here.link(0, 1)
    tokens = send_many(here)
    assert set(tokens) == set(range(SENT_COUNT))
    assert SENT_COUNT * 1.05 < len(tokens) < SENT_COUNT * 1.15


def test_messages_overtake_each_other_and_none_is_later_than_it_may_be() -> None:
    here = stage(Datagrams(reorder_permille=100, reorder_us_max=2_000_000))
    here.link(0, 1)
    here.want(0, *(Send(here.peer(1), Heartbeat(token=token)) for token in range(SENT_COUNT)))
    here.world.run_for(2_000_000 + 20_000)
    tokens = arrived(here)
    assert sorted(tokens) == list(range(SENT_COUNT))
    assert tokens != sorted(tokens)


def test_a_message_arrives_on_the_next_link_although_its_own_has_ended() -> None:
    here = stage(Datagrams(reorder_permille=1_000, reorder_us_max=30 * US_PER_S))
    here.link(0, 1)
    here.want(0, *(Send(here.peer(1), Heartbeat(token=token)) for token in range(20)))
    here.world.crash(0, DiskFate.KEEP)
    here.world.start(0)
    here.want(0, Dial(here.peer(1), here.world.hosts[1].addresses))
    here.world.run_for(40 * US_PER_S)
    kinds = [type(event) for event in here.nodes[1].events()]
    assert kinds.index(LinkDown) < kinds.index(LinkUp)
    assert Received in kinds[kinds.index(LinkUp) :]
    assert Received not in kinds[kinds.index(LinkDown) : kinds.index(LinkUp)]


def test_by_reference_a_corrupt_message_ends_the_link_and_bans_nobody() -> None:
    here = stage(Datagrams(corrupt_permille=1_000))
    for _ in range(4):
        here.link(0, 1)
        here.want(0, Send(here.peer(1), Heartbeat(token=1)))
        here.world.run_for(US_PER_S)
        [down] = here.nodes[1].events()
        assert down == LinkDown(here.peer(0), "the device sent garbage: corrupt on the way")
        assert here.nodes[0].events() == [LinkDown(here.peer(1), "closed by the peer")]


def test_over_the_wire_a_corrupt_message_ends_the_link_or_arrives_as_what_it_is_now() -> None:
    here = stage(Datagrams(corrupt_permille=1_000), exercises_wire=True)
    tokens, reasons = list[int](), list[str]()
    for _ in range(40):
        here.link(0, 1)
        here.want(0, Send(here.peer(1), Heartbeat(token=1 << 40)))
        here.world.run_for(US_PER_S)
        tokens += arrived(here)
        reasons += [event.reason for event in here.nodes[1].events() if isinstance(event, LinkDown)]
    assert all(reason.startswith("the device sent garbage: ") for reason in reasons)
    assert reasons
    assert tokens
    assert 1 << 40 not in tokens


def test_a_cut_loses_datagrams_and_the_link_goes_on_after_it() -> None:
    here = stage(Datagrams())
    here.link(0, 1)
    path = [(here.peer(0), here.peer(1))]
    here.want(0, Send(here.peer(1), Heartbeat(token=1)))
    here.world.network.cut(path)
    here.want(0, Send(here.peer(1), Heartbeat(token=2)))
    here.world.run_for(US_PER_S)
    here.world.network.mend(path)
    here.want(0, Send(here.peer(1), Heartbeat(token=3)))
    here.world.run_for(60 * US_PER_S)
    assert arrived(here) == [3]
    assert [event for event in here.nodes[0].events() if isinstance(event, LinkDown)] == []


def test_a_goodbye_that_a_cut_loses_leaves_the_other_end_to_its_keepalive() -> None:
    here = stage(Datagrams())
    here.link(0, 1)
    here.want(0, Hangup(here.peer(1), "enough"))
    here.world.network.cut([(here.peer(0), here.peer(1))])
    here.world.run_for(STEADY.keepalive_us + US_PER_S)
    assert here.nodes[1].events() == [LinkDown(here.peer(0), "keepalive timed out")]


def test_calm_brings_streams_back_and_what_was_jammed_too() -> None:
    here = stage(Datagrams(loss_permille=900))
    here.link(0, 1)
    network = here.world.network
    network.jam([(here.peer(0), here.peer(1))])
    here.want(0, Send(here.peer(1), Heartbeat(token=1_000)))
    network.calm()
    network.heal_all()
    assert send_many(here) == [1_000, *range(SENT_COUNT)]


def test_calm_while_a_path_is_cut_tears_its_streams() -> None:
    here = stage(Datagrams())
    here.link(0, 1)
    network = here.world.network
    network.cut([(here.peer(0), here.peer(1))])
    network.calm()
    network.heal_all()
    here.want(0, Send(here.peer(1), Heartbeat(token=1)))
    here.world.run_for(US_PER_S)
    assert arrived(here) == []
    assert here.nodes[0].events() == [LinkDown(here.peer(1), "reset")]


def test_one_more_message_elsewhere_changes_no_fate_here() -> None:
    settings = Datagrams(loss_permille=200, duplicate_permille=200, reorder_permille=200)
    runs = []
    for is_busy in (False, True):
        here = stage(settings)
        here.link(0, 1)
        here.link(0, 2)
        if is_busy:
            here.want(0, *(Send(here.peer(2), Heartbeat(token=token)) for token in range(50)))
        runs.append(send_many(here))
    assert runs[0] == runs[1]
