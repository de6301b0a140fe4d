"""Scenario files become plans, drawn per seed, or are refused with line and reason."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from msgspec import Struct

from simulations.budget import Budget
from simulations.conditions import Datagrams
from simulations.cpu import CpuCosts
from simulations.device import HostSettings
from simulations.disk import DiskFate
from simulations.engine import US_PER_S
from simulations.errors import BadScenario
from simulations.paths import NetworkSettings
from simulations.plan import Expectations, Plan
from simulations.scenario_document import Header
from simulations.scenario_file import scenario_from_toml
from simulations.scenario_text import line_of, lines_of
from simulations.steps import (
    AnyStep,
    Cancel,
    Crash,
    CrashWriting,
    Cut,
    Heat,
    Jam,
    Split,
    Stop,
    Submit,
    WallClock,
)
from simulations.vocabulary import words_of
from wire.membership import Role

HEAD = "[scenario]\nnodes = 5\n"


def plan_of(text: str, *, seed: int = 0) -> Plan:
    return scenario_from_toml(text, file="x.toml").plan(seed)


def steps_of(fault: str, *, seed: int = 0) -> tuple[AnyStep, ...]:
    return plan_of(f"{HEAD}[[fault]]\n{fault}\n", seed=seed).steps


def refused(text: str) -> str:
    with pytest.raises(BadScenario) as caught:
        plan_of(text)
    return str(caught.value)


# What is written.


def test_every_table_of_a_file_gets_into_its_plan() -> None:
    plan = plan_of(
        """
        [scenario]
        name = "everything"
        nodes = 6
        duration = "1m"
        submitters = [1]
        absent = [5]
        discovery = "seeds"
        wire = true
        [network]
        latency = "5ms..25ms"
        loss = "2.5%"
        bandwidth = "1MiB/s"
        queue_bytes_max = ["64kB", 1024, "2MiB"]
        [network.regions]
        here = "0..2"
        there = "rest"
        [[network.link]]
        one = "here"
        other = "there"
        latency = "80ms..120ms"
        [network.datagrams]
        duplicate = "1%"
        reorder_max = "2s"
        [host]
        sync = "10ms"
        workers_count = 3
        cpu = true
        [[device]]
        nodes = [2]
        cpu = {handle = "1ms", verify = "75us..80us"}
        sync = "400ms"
        roles = ["executor"]
        [budget]
        leases_max = 20
        [[fault]]
        at = "9s"
        kind = "split"
        groups = [[0, 2], [1, "3..4"]]
        until = "17s"
        [[fault]]
        at = "10s"
        kind = "crash_writing"
        node = 3
        disk = "lose_unsynced"
        way = "40%"
        restart_after = "3s"
        [[fault]]
        at = "11s"
        kind = "wall_clock"
        node = 3
        offset = "-3h"
        [[work]]
        at = "3s"
        node = 1
        count = 12
        work = "500ms"
        output = "64kB"
        [[work]]
        kind = "cancel"
        at = "4s"
        submission = 0
        index = 11
        [expect]
        decided_within = "45s"
        breaks = "S2"
        sometimes = ["task.tried_again"]
        """
    )
    assert plan.steps == (
        Submit(at_us=3 * US_PER_S, node=1, count=12, work_us=500_000, output_bytes=64_000),
        Cancel(at_us=4 * US_PER_S, submission=0, index=11),
        Split(at_us=9 * US_PER_S, groups=((0, 2), (1, 3, 4)), for_us=8 * US_PER_S),
        CrashWriting(
            at_us=10 * US_PER_S,
            node=3,
            disk=DiskFate.LOSE_UNSYNCED,
            way_permille=400,
            restart_after_us=3 * US_PER_S,
        ),
        WallClock(at_us=11 * US_PER_S, node=3, offset_us=-3 * 3_600 * US_PER_S),
    )
    network = plan.network
    assert (network.latency_us, network.jitter_us, network.loss_permille) == (5_000, 20_000, 25)
    assert network.bytes_per_second == 1 << 20
    assert network.queue_bytes_max == (64_000, 1_024, 2 << 20)
    assert network.regions == {
        **dict.fromkeys((0, 1, 2), "here"),
        **dict.fromkeys((3, 4, 5), "there"),
    }
    assert (network.region_links[0].latency_us, network.region_links[0].jitter_us) == (
        80_000,
        40_000,
    )
    assert network.datagrams is not None
    assert network.datagrams.duplicate_permille == 10
    assert (plan.host.sync_us, plan.host.workers_count) == (10_000, 3)
    # A device is as [host] says, but for what is said of it.
    assert (plan.hosts[2].sync_us, plan.hosts[2].workers_count) == (400_000, 3)
    assert plan.host.cpu == CpuCosts()
    own = plan.hosts[2].cpu
    assert own is not None
    assert 75 <= own.verify_us <= 80
    assert own == CpuCosts(handle_us=1_000, verify_us=own.verify_us)
    assert plan.roles == {1: (Role.SUBMITTER, Role.STEWARD), 2: (Role.EXECUTOR,)}
    assert (plan.name, plan.node_count, plan.absent, plan.lasts_us) == (
        "everything",
        6,
        (5,),
        60 * US_PER_S,
    )
    assert (plan.discovery.value, plan.exercises_wire, plan.budget.leases_max) == (
        "seeds",
        True,
        20,
    )
    assert plan.expect.decided_within_us == 45 * US_PER_S
    assert (plan.expect.breaks, plan.expect.sometimes) == ("S2", ("task.tried_again",))


def test_two_bounds_are_drawn_between_and_a_list_of_words_is_drawn_from() -> None:
    fault = """
        at = "2s..4s"
        kind = "crash"
        node = "any of 1..3"
        disk = ["keep", "lose_all"]
    """
    crashes = [steps_of(fault, seed=seed)[0] for seed in range(40)]
    assert all(isinstance(crash, Crash) for crash in crashes)
    assert all(2 * US_PER_S <= crash.at_us <= 4 * US_PER_S for crash in crashes)
    assert {crash.who for crash in crashes if isinstance(crash, Crash)} == {1, 2, 3}
    fates = {crash.disk for crash in crashes if isinstance(crash, Crash)}
    assert fates == {DiskFate.KEEP, DiskFate.LOSE_ALL}


def test_a_draw_changes_nothing_elsewhere() -> None:
    first = '[[fault]]\nat = "1s..9s"\nkind = "freeze"\nnode = "any"\nfor = "1s..9s"\n'
    second = '[[work]]\nat = "1s..9s"\nnode = "any"\nrepeat = 3\n'
    alone, both = plan_of(HEAD + first, seed=7), plan_of(HEAD + first + second, seed=7)
    assert set(alone.steps) <= set(both.steps)
    assert len(both.steps) == 4


def test_sets_of_devices_share_nobody_unless_they_say_so() -> None:
    for seed in range(20):
        (split,) = steps_of(
            'at = "1s"\nkind = "split"\ngroups = ["any 2", "some", "rest"]', seed=seed
        )
        assert isinstance(split, Split)
        assert sorted(node for group in split.groups for node in group) == [0, 1, 2, 3, 4]
        assert len(split.groups[0]) == 2
        assert 1 <= len(split.groups[1]) <= 2
        (cut,) = steps_of('at = "1s"\nkind = "cut"\nto = "rest"\nfrom = [4, "1..2"]', seed=seed)
        assert cut == Cut(at_us=US_PER_S, origins=(4, 1, 2), targets=(0, 3))


def test_an_entry_is_there_as_often_and_as_likely_as_it_says() -> None:
    fault = (
        'at = "1s..60s"\nkind = "freeze"\nnode = "any"\nfor = "1s"\nrepeat = 400\nchance = "25%"'
    )
    times = [step.at_us for step in steps_of(fault)]
    assert 60 < len(times) < 140
    assert times == sorted(times)
    assert len(set(times)) > 50


def test_batches_arrive_at_a_rate_at_drawn_devices_each_drawn_anew() -> None:
    work = """
        [[work]]
        rate = "5/s"
        from = "10s"
        until = "30s"
        nodes = [1, 3]
        work = "100ms..2s"
    """
    submits = [step for step in plan_of(HEAD + work).steps if isinstance(step, Submit)]
    assert len(submits) == 100
    assert {submit.node for submit in submits} == {1, 3}
    assert all(10 * US_PER_S <= submit.at_us < 30 * US_PER_S for submit in submits)
    assert len({submit.work_us for submit in submits}) > 90


def test_another_number_of_devices_is_compiled_anew() -> None:
    text = '[scenario]\nnodes = 3\n[[fault]]\nat = "1s"\nkind = "split"\ngroups = [[0], "rest"]\n'
    plan = scenario_from_toml(text, file="x.toml").with_nodes(6).plan(0)
    assert plan.node_count == 6
    assert plan.steps == (Split(at_us=US_PER_S, groups=((0,), (1, 2, 3, 4, 5))),)


def test_a_file_names_its_own_seed_and_its_size_may_be_drawn() -> None:
    scenario = scenario_from_toml('[scenario]\nseed = 9\nnodes = "3..7"\n', file="x.toml")
    assert scenario.seed == 9
    assert {scenario.plan(seed).node_count for seed in range(60)} == {3, 4, 5, 6, 7}


# Faults that are many steps.


def test_a_flapping_link_is_cut_both_ways_for_its_duty_of_each_period() -> None:
    fault = """
        at = "10s"
        kind = "flap"
        from = [0]
        to = [1]
        period = "4s"
        duty = "25%"
        until = "20s"
    """
    cuts = steps_of(fault)
    assert [cut.at_us // US_PER_S for cut in cuts] == [10, 10, 14, 14, 18, 18]
    assert {(cut.origins, cut.targets) for cut in cuts if isinstance(cut, Cut)} == {
        ((0,), (1,)),
        ((1,), (0,)),
    }
    assert {cut.for_us for cut in cuts if isinstance(cut, Cut)} == {US_PER_S}


def test_swizzled_devices_are_jammed_one_by_one_and_all_before_the_first_is_released() -> None:
    jams = [
        jam
        for jam in steps_of('at = "10s"\nkind = "swizzle"\nnodes = "any 3"\nfor = "12s"')
        if isinstance(jam, Jam)
    ]
    assert len(jams) == 6  # in and out
    ends_us = [jam.at_us + (jam.for_us or 0) for jam in jams]
    assert sorted({jam.at_us // US_PER_S for jam in jams}) == [10, 12, 14]
    assert sorted({end_us // US_PER_S for end_us in ends_us}) == [18, 20, 22]


def test_rolling_restarts_come_one_after_the_other() -> None:
    fault = 'at = "10s"\nkind = "rolling_restarts"\nnodes = "1..3"\nevery = "5s"\ndown = "2s"'
    assert steps_of(fault) == tuple(
        Stop(at_us=at * US_PER_S, node=node, restart_after_us=2 * US_PER_S)
        for at, node in ((10, 1), (15, 2), (20, 3))
    )


def test_churn_hits_its_share_a_minute_and_nobody_who_is_down() -> None:
    fault = """
        at = "10s"
        kind = "churn"
        nodes = "1..4"
        per_minute = "75%"
        down = "10s"
        disk = "lose_unsynced"
        for = "2m"
    """
    counts = []
    for seed in range(20):
        crashes = [crash for crash in steps_of(fault, seed=seed) if isinstance(crash, Crash)]
        counts.append(len(crashes))
        for node in range(1, 5):
            times_us = [crash.at_us for crash in crashes if crash.who == node]
            gaps_us = [later - earlier for earlier, later in pairwise(times_us)]
            assert all(gap_us > 10 * US_PER_S for gap_us in gaps_us)
    # 75 % of four devices, twice; one less when all are down.
    assert 5 <= min(counts) <= max(counts) == 6


def test_in_an_outage_all_go_within_a_moment_and_come_back_one_by_one() -> None:
    fault = """
        at = "10s"
        kind = "outage"
        nodes = "all"
        within = "1s"
        down = "4s"
        every = "3s"
    """
    crashes = [crash for crash in steps_of(fault) if isinstance(crash, Crash)]
    assert {crash.who for crash in crashes} == {0, 1, 2, 3, 4}
    assert all(10 <= crash.at_us / US_PER_S < 11 for crash in crashes)
    backs = sorted(crash.at_us + (crash.restart_after_us or 0) for crash in crashes)
    assert [back_us // US_PER_S for back_us in backs] == [15, 18, 21, 24, 27]


def test_a_thermal_ramp_heats_one_device_after_the_other() -> None:
    fault = """
        at = "10s"
        kind = "thermal_ramp"
        nodes = [1, 2]
        celsius = 97
        over = "20s"
        every = "5s"
        for = "40s"
    """
    heats = steps_of(fault)
    assert [(heat.at_us // US_PER_S, heat.node) for heat in heats if isinstance(heat, Heat)] == [
        (10, 1),
        (15, 2),
    ]


# What is refused.


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("[scenario]\nnodes == 3\n", 2, "not TOML"),
        ("[scenario]\nnodes = 3\n[weather]\n", 3, "there is no such table"),
        ("[scenario]\ncolour = 3\n", 2, "no such key here: there are name, summary"),
        ("[scenario]\nnodes = 0\n", 2, "must be >= 1"),
        ('[scenario]\nnodes = "9..3"\n', 2, "from more to less"),
        ("[scenario]\nname = 3\n", 2, "'3' is not text"),
        ("[scenario]\nwire = 1\n", 2, "is not true or false"),
        ('[network]\nlatency = "25ms..5ms"\n', 2, "lowest..highest"),
        ("[network]\nloss = 0.02\n", 2, "is not a share such as 2%"),
        ("[network]\n[network.regions]\na = [7]\n", 3, "there is no device 7: they are 0..2"),
        (
            '[network.regions]\na = [1]\n[[network.link]]\none = "a"\n'
            'other = "b"\nlatency = "1s"\n',
            5,
            "there is no region 'b': there are a",
        ),
        ("[network]\nqueue_bytes_max = 3\n", 2, "is not a list of sizes"),
        ('[network]\nqueue_bytes_max = ["1MiB"]\n', 2, "length 3"),
        ('[network]\nqueue_bytes_max = [0, 1, "1s"]\n', 2, "is no size"),
        ("[network]\nqueue_bytes_max = [0, 1, 1]\n", 2, ">= 1"),
        ("[host]\ncpu = 3\n", 2, "is true, false, or a table of costs"),
        ("[host.cpu]\nthink = 3\n", 2, "no such key here: there are handle, write"),
        ('[[device]]\nnodes = [1]\ncpu = {seal = "-1ms"}\n', 3, "must be >= 0"),
        ("fault = 3\n", 1, "write [[fault]]"),
        ('[[fault]]\nat = "1s"\n', 1, "kind is missing"),
        ('[[fault]]\nat = "1s"\nkind = "quake"\n', 3, "there is no fault 'quake': there are split"),
        ('[[fault]]\nkind = "ring"\n', 1, "at is missing"),
        ('[[fault]]\nat = "1s"\nkind = "ring"\n', 1, "a ring takes 4 devices"),
        ('[[fault]]\nkind = "stop"\nat = "-1s"\nnode = 1\n', 3, "must be >= 0"),
        ('[[fault]]\nkind = "stop"\nat = "1 parsec"\nnode = 1\n', 3, "is no duration"),
        ('[[fault]]\nkind = "stop"\nat = 9\nnode = 1\n', 3, "has no unit"),
        ('[[fault]]\nkind = "stop"\nat = "600d"\nnode = 1\n', 3, "must be <="),
        (
            '[[fault]]\nkind = "stop"\nat = "1s"\nnode = 3\n',
            4,
            "there is no device 3: they are 0..2",
        ),
        ('[[fault]]\nkind = "stop"\nat = "1s"\nnode = "bob"\n', 4, "is not a device's number"),
        (
            '[[fault]]\nkind = "crash"\nat = "1s"\nnode = 1\ndisk = "soaked"\n',
            5,
            "'soaked' is none of keep",
        ),
        (
            '[[fault]]\nkind = "freeze"\nat = "5s"\nnode = 1\nuntil = "5s"\n',
            5,
            "is not after `at`",
        ),
        (
            '[[fault]]\nkind = "freeze"\nat = "5s"\nnode = 1\nfor = "2s"\nuntil = "6s"\n',
            6,
            "without `for`",
        ),
        (
            '[[fault]]\nkind = "split"\nat = "5s"\ngroups = [[0, 1], [1, 2]]\n',
            4,
            "device 1 is named twice",
        ),
        (
            '[[fault]]\nkind = "swizzle"\nat = "5s"\nnodes = "any 4"\nfor = "9s"\n',
            4,
            "there are only 3 to draw from",
        ),
        (
            '[[fault]]\nkind = "flap"\nat = "5s"\nfor = "9s"\n',
            1,
            "a flap is of `groups`",
        ),
        ('[[work]]\nkind = "play"\nat = "1s"\n', 2, "none of submit, cancel, find"),
        ('[[work]]\nat = "1s"\nnode = 1\ncount = 5000\n', 4, "must be <= 1024"),
        ('[[work]]\nrate = "5"\nnodes = "all"\nuntil = "5s"\n', 2, "is not a rate"),
        ('[[work]]\nrate = "5/s"\nnodes = "all"\nfrom = "6s"\nuntil = "5s"\n', 5, "ends before"),
        ('[[work]]\nrate = "900000/s"\nnodes = "all"\nuntil = "1h"\n', 2, "more than 100000"),
        (
            '[[work]]\nat = "3s"\nnode = 1\n[[work]]\nkind = "cancel"\nat = "2s"\nsubmission = 0\n'
            "index = 0\n",
            7,
            "submitted later",
        ),
        ('[scenario]\nduration = "9s"\n[[fault]]\nkind = "stop"\nat = "10s"\nnode = 1\n', 5, "end"),
        ('[expect]\nbreaks = "S99"\n', 2, "no invariant 'S99': S1"),
        ('[[device]]\nnodes = [1]\nroles = ["king"]\n', 3, "'king' is none of admin"),
        ("[[device]]\nnodes = [7]\nsamples = false\n", 1, "there is no device 7"),
    ],
)
def test_what_cannot_be_is_refused_with_its_line_and_the_reason(
    text: str, line: int, reason: str
) -> None:
    said = refused(text)
    assert said.startswith(f"x.toml:{line}: "), said
    assert reason in said


def test_a_seed_that_draws_what_cannot_be_is_refused_when_it_is_drawn() -> None:
    text = '[[fault]]\nkind = "ring"\nat = "1s"\nchance = "30%"\n'
    scenario = scenario_from_toml(text, file="x.toml")  # seed 0 draws no ring for three devices
    said = []
    for seed in range(20):
        try:
            scenario.plan(seed)
        except BadScenario as error:
            said.append(str(error))
    assert 1 <= len(said) < 20
    assert all(one.startswith("x.toml:1: fault: a ring takes 4 devices") for one in said)


# Lines.


def test_the_lines_of_keys_are_found_among_comments_and_strings_that_look_like_headers() -> None:
    text = '''
# [[fault]]
title = "[[fault]]"  # kind = "no"
long = """
[[fault]]
kind = "no"
"""
[[fault]]
kind = 'a # b'
"quoted key" = [
  1, # one ]
  2,
]
inline = { at = "1s", list = [ { x = 1 },
  { y = 2 } ] }
a.b = 1
[ spaced . table ] # yes
k = \'\'\'
[[fault]]\'\'\'

[[fault]]
kind = 1979-05-27T07:32:00Z
[[fault.sub]]
z = -inf
[[fault.sub]]
z = "\\"]"
'''
    lines = lines_of(text)
    assert {path: lines[path] for path in lines if "fault" in path or "k" in path} == {
        ("fault", 0): 8,
        ("fault", 0, "kind"): 9,
        ("fault", 0, "quoted key"): 10,
        ("fault", 0, "quoted key", 0): 11,
        ("fault", 0, "quoted key", 1): 12,
        ("fault", 0, "inline"): 14,
        ("fault", 0, "inline", "at"): 14,
        ("fault", 0, "inline", "list"): 14,
        ("fault", 0, "inline", "list", 0): 14,
        ("fault", 0, "inline", "list", 0, "x"): 14,
        ("fault", 0, "inline", "list", 1): 15,
        ("fault", 0, "inline", "list", 1, "y"): 15,
        ("fault", 0, "a", "b"): 16,
        ("spaced", "table", "k"): 18,
        ("fault", 1): 21,
        ("fault", 1, "kind"): 22,
        ("fault", 1, "sub", 0): 23,
        ("fault", 1, "sub", 0, "z"): 24,
        ("fault", 1, "sub", 1): 25,
        ("fault", 1, "sub", 1, "z"): 26,
    }


def test_faults_in_one_inline_list_have_their_lines_too() -> None:
    first, second = '{ at = "1s", kind = "stop", node = 0 }', '{ at = "1s",\r\n kind = "x" }'
    text = f"fault = [\r\n  {first},\r\n  {second},\r\n]\r\n"
    assert line_of(lines_of(text), ("fault", 1, "kind")) == 4
    assert line_of(lines_of(text), ("fault", 1, "node")) == 3
    assert line_of(lines_of(text), ("weather",)) == 1


@pytest.mark.parametrize(
    "kind",
    [Budget, CpuCosts, Datagrams, Expectations, Header, HostSettings, NetworkSettings],
)
def test_the_pages_name_every_key_of_a_table(kind: type[Struct]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text()
    assert [key for key in words_of(kind) if f"`{key}`" not in page] == []
