"""What is read out of a trace: how devices fared, what faults meant, and what became of tasks."""

from __future__ import annotations

import pytest
from support.told import S, Telling, peer

from simulations.device_life import Condition
from simulations.fault_shape import devices_text, shape_of
from simulations.mesh_node import MESH_NODE
from simulations.runs import carry_out
from simulations.scenarios import scenario
from simulations.story import story_of
from simulations.svg import svg_of
from simulations.timeline import Title, timeline
from simulations.trace_lines import BadTrace, trace_lines


def test_a_device_counts_those_it_is_linked_to_and_none_once_it_is_down() -> None:
    told = Telling(node_count=3)
    told.link(1 * S, 0, 1)
    told.link(1 * S, 0, 2)
    told.link(2 * S, 0, 1)  # again: no second link
    told.link(3 * S, 0, 2, is_up=False)
    told.link(4 * S, 0, 2, is_up=False)  # again: nothing to lose
    told.crash(5 * S, 0)
    told.start(6 * S, 0, boot=2)
    told.link(7 * S, 0, 2)
    device = story_of(told.lines()).devices[0]
    assert device.link_counts == [(1 * S, 1), (1 * S, 2), (3 * S, 1), (5 * S, 0), (7 * S, 1)]
    changes = [(change.peer, change.is_up) for change in device.link_changes]
    assert changes == [(peer(1), True), (peer(2), True), (peer(2), False), (peer(2), True)]


def test_a_device_doubts_others_until_they_live_or_its_own_process_ends() -> None:
    told = Telling(node_count=4)
    told.judge(1 * S, 0, 1, "degraded", "not heard by 1 of its 3 observers")
    told.judge(2 * S, 0, 1, "dead", "not heard by 3 of its 3 observers")
    told.judge(3 * S, 0, 1, "dead", "said again")
    told.judge(3 * S, 0, 2, "degraded")
    told.judge(4 * S, 0, 1, "alive")
    told.judge(4 * S, 0, 3, "alive")  # nobody doubted it
    told.judge(5 * S, 1, 0, "dead")  # that of another device lasts
    told.crash(6 * S, 0)
    told.start(7 * S, 0, boot=2)
    told.judge(8 * S, 0, 2, "dead")
    told.start(9 * S, 0, boot=3)  # without a word of an end
    told.judge(10 * S, 0, 2, "degraded")
    story = story_of(told.lines())
    doubts = story.devices[0].doubts.all
    assert [(story.node(one.peer), one.is_dead, one.start_us, one.end_us) for one in doubts] == [
        (1, False, 1 * S, 2 * S),
        (1, True, 2 * S, 4 * S),
        (2, False, 3 * S, 6 * S),
        (2, True, 8 * S, 9 * S),
        (2, False, 10 * S, None),
    ]
    assert [one.reason for one in doubts[:2]] == [
        "not heard by 1 of its 3 observers",
        "not heard by 3 of its 3 observers",
    ]
    assert [one.end_us for one in story.devices[1].doubts.all] == [None]


def test_a_verdict_about_what_is_no_device_is_not_the_trace_of_a_run() -> None:
    told = Telling(node_count=1)
    told.line(2 * S, 0, "member.dead", peer_id="12D3KooW0", reason=None)
    with pytest.raises(BadTrace, match=r"member\.dead at 2000000 us, peer_id: "):
        story_of(told.lines())


def test_in_a_real_split_each_side_holds_the_other_for_dead_and_in_the_end_nobody() -> None:
    run = carry_out(scenario("split").plan(7), MESH_NODE, repeat_with="this test")
    story = story_of(trace_lines(run.lines))
    (split,) = story.faults
    died = {
        (node, story.node(doubt.peer))
        for node, device in story.devices.items()
        for doubt in device.doubts.all
        if doubt.is_dead and split.begun_us < doubt.start_us < split.end_us(story.end_us)
    }
    apart = {
        (node, other)
        for node in story.devices
        for other in story.devices
        if split.shape.side_of(node) != split.shape.side_of(other)
    }
    assert died == apart
    ends = [doubt.end_us for device in story.devices.values() for doubt in device.doubts.all]
    assert None not in ends


def test_how_a_process_fares_is_told_with_what_it_lost() -> None:
    told = Telling(node_count=1)
    told.line(1 * S, 0, "process.frozen")
    told.line(2 * S, 0, "device.suspended")
    told.line(3 * S, 0, "device.resumed")
    told.line(4 * S, 0, "process.thawed")
    told.crash(5 * S, 0, disk="lose_all", power=False)
    told.start(6 * S, 0, boot=2)
    told.crash(7 * S, 0, disk="lose_unsynced", power=False)
    told.line(8 * S, 0, "process.thawed")  # of a process that is no more
    told.start(9 * S, 0, boot=3)
    told.crash(10 * S, 0)
    stretches = story_of(told.lines()).devices[0].stretches
    assert [(one.start_us // S, one.condition.name, one.words) for one in stretches] == [
        (0, "RUNNING", "runs"),
        (1, "FROZEN", "frozen"),
        (2, "SUSPENDED", "suspended"),
        (3, "FROZEN", "frozen"),
        (4, "RUNNING", "runs on"),
        (5, "DISK_LOST", "down, disk lost"),
        (6, "RUNNING", "boot 2, with an empty disk"),
        (7, "DOWN", "down, no power"),
        (9, "RUNNING", "boot 3"),
        (10, "DOWN", "down"),
    ]
    assert Condition.DOWN in {one.condition for one in stretches}


def test_a_process_that_died_frozen_is_not_frozen_when_it_starts_again() -> None:
    told = Telling(node_count=1)
    told.line(1 * S, 0, "process.frozen")
    told.crash(2 * S, 0)
    told.start(3 * S, 0, boot=2)
    told.line(4 * S, 0, "device.suspended")
    told.line(5 * S, 0, "device.resumed")
    stretches = story_of(told.lines()).devices[0].stretches
    assert [one.words for one in stretches] == [
        "runs",
        "frozen",
        "down",
        "boot 2",
        "suspended",
        "runs on",
    ]


def test_a_task_is_followed_from_accepted_to_told() -> None:
    told = Telling(node_count=3)
    told.accept(1 * S, 0, "b", count=2)
    told.lease(2 * S, "b", "0 1", to=1)
    told.begin(3 * S, 1, "b", 0)
    told.begin(3 * S, 1, "b", 1)
    told.end(4 * S, 1, "b", 0, "exited")
    told.crash(5 * S, 1)
    told.lease(6 * S, "b", "1", to=2, attempt=2)
    told.begin(6 * S, 2, "b", 1, attempt=2)
    told.decide(7 * S, "b", 0)
    told.tell(8 * S, 2, "b", 0, decided=True)  # not where it was submitted
    told.tell(8 * S, 0, "b", 0, decided=False)
    told.tell(9 * S, 0, "b", 0, decided=True)
    told.tell(10 * S, 0, "b", 0, decided=True)
    story = story_of(told.lines())
    (batch,) = story.batches
    first, second = batch.tasks
    assert (first.decided_us, first.outcome, first.told_us) == (7 * S, "result", 9 * S)
    runs = [(run.node, run.end_us, run.how, run.is_good) for run in second.runs]
    assert runs == [(1, 5 * S, "its process ended", False), (2, None, "", True)]
    assert [lease.executor for lease in second.leases] == [peer(1), peer(2)]
    assert (second.decided_us, second.told_us) == (None, None)
    assert (batch.undecided_count, batch.failed_count, batch.again_count) == (1, 0, 1)
    assert (story.executors, story.submitters, story.node(peer(2))) == ([1, 2], [0], 2)
    assert story.device_name("abcdef") == "abcdef"


def test_a_batch_is_lost_with_the_disk_of_its_submitter_alone() -> None:
    told = Telling(node_count=2)
    told.accept(1 * S, 0, "mine")
    told.accept(1 * S, 1, "other")
    told.crash(2 * S, 0, disk="lose_unsynced")
    told.crash(3 * S, 0, disk="lose_all")
    told.crash(4 * S, 0, disk="lose_all")
    mine, other = story_of(told.lines()).batches
    assert (mine.lost_us, other.lost_us) == (3 * S, None)


def test_lines_about_what_a_trace_never_told_of_change_nothing() -> None:
    told = Telling(node_count=1)
    told.accept(1 * S, 0, "b")
    told.lease(2 * S, "unknown", "0", to=1)
    told.lease(2 * S, "b", "7 x", to=1)
    told.end(2 * S, 0, "b", 0, "exited")
    told.decide(2 * S, "b", -1)
    told.tell(2 * S, 0, "unknown", 0, decided=True)
    told.line(2 * S, -1, "fault.ended", number=9)
    told.line(2 * S, -1, "fault.begun", fault="split")
    story = story_of(told.lines())
    assert story.batches[0].tasks[0].leases == []
    assert story.batches[0].undecided_count == 1
    assert story.faults == []


def test_a_fault_lasts_until_its_own_end_and_a_moment_does_not_last() -> None:
    told = Telling(node_count=2)
    told.fault("gray", "0", at=1 * S, until=4 * S)
    told.fault("gray", "0", at=2 * S, until=3 * S)
    told.fault("backup", "1", at=2 * S)
    told.fault("lie", "1", "flood", at=3 * S)
    told.line(5 * S, -1, "mended")
    story = story_of(told.lines())
    ends_us = [fault.end_us(story.end_us) for fault in story.faults]
    assert ends_us == [4 * S, 3 * S, 2 * S, 5 * S]
    assert story.faults[0].shape is story.faults[1].shape
    assert story.mended_us == 5 * S


@pytest.mark.parametrize(
    ("kind", "nodes", "detail", "node", "meaning"),
    [
        ("split", "0 1 2 3", "0 1 | 2 3", 0, "cannot reach 2, 3"),
        ("split", "0 1 2 3", "2", 2, "cannot reach 0, 1, 3"),
        ("split", "0 1 2 3", "2", 3, "cannot reach 2"),
        ("split", "0 1 2 3", "0 | 1", 3, "cannot reach 0, 1"),
        ("bridge", "0 2", "0 | 1 | 2", 0, "cannot reach 2"),
        ("bridge", "0 2", "0 | 1 | 2", 1, "bridge: reaches all"),
        ("cut", "0 1 2", "0 -> 1 2", 0, "does not get through to 1, 2"),
        ("cut", "0 1 2", "0 -> 1 2", 2, "does not hear 0"),
        ("jam", "0", "0 -> 1", 1, "does not hear 0 in time"),
        ("ring", "0 1 2", "", 1, "ring of majorities"),
        ("lie", "1", "double_vote", 1, "lies: double vote"),
        ("cosmic_rays", "1", "", 1, "cosmic rays"),
        ("freeze", "1", "", 1, None),  # its process shows it
        ("gray", "1", "", 0, None),  # another device
    ],
)
def test_a_fault_means_something_to_each_device_that_it_concerns(
    kind: str, nodes: str, detail: str, node: int, meaning: str | None
) -> None:
    assert shape_of(kind, nodes, detail).meaning(node) == meaning


@pytest.mark.parametrize(
    ("kind", "nodes", "detail", "name"),
    [
        ("split", "0 1 2 3 4", "0 1 2", "split: 0-2 | 3, 4"),
        ("cut", "0 1", "0 -> 1", "one-way cut: 0 -> 1"),
        ("ring", "0 1 2", "", "ring of majorities"),
        ("drift", "3", "500 ppm", "clock drifts (device 3): 500 ppm"),
        ("freeze", "3 5", "", "freeze (devices 3, 5)"),
        ("cosmic_rays", "", "", "cosmic rays"),
    ],
)
def test_a_fault_is_named_with_its_devices(kind: str, nodes: str, detail: str, name: str) -> None:
    assert shape_of(kind, nodes, detail).name == name


def test_many_devices_are_told_as_ranges_or_counted() -> None:
    assert devices_text([3, 1, 2, 7, 8]) == "1-3, 7, 8"
    assert devices_text(range(0, 40, 2)) == "20 devices"
    assert devices_text([]) == ""


def test_a_real_suspend_is_in_the_story_and_in_the_picture() -> None:
    run = carry_out(scenario("suspended-laptop").plan(0), MESH_NODE, repeat_with="this test")
    lines = list(trace_lines(run.lines))
    conditions = [
        [stretch.condition for stretch in device.stretches]
        for device in story_of(lines).devices.values()
    ]
    assert [Condition.RUNNING, Condition.SUSPENDED, Condition.RUNNING] in conditions
    title = Title(scenario="suspended-laptop", seed=0, digest=run.report.digest)
    assert "device suspended" in svg_of(timeline(lines, title))
