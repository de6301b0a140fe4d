"""Scenarios in Python compile to the plans of the same scenarios in files."""

from __future__ import annotations

import pytest

from simulations.dsl import Simulation
from simulations.errors import BadScenario
from simulations.scenario_file import scenario_from_toml
from simulations.steps import Split, Submit
from simulations.vocabulary import FAULTS

FILE = """
[scenario]
name = "both"
nodes = 6
seed = 7
submitters = [4]
[network]
latency = "5ms..25ms"
loss = "2%"
[network.regions]
here = [0, 1]
there = "rest"
[[network.link]]
one = "here"
other = "there"
latency = "50ms"
[host]
sync = "5ms"
[[device]]
nodes = [2]
workers_count = 1
[[work]]
at = "1s"
node = 4
count = 200
work = "10ms..2s"
[[work]]
rate = "1/s"
nodes = "all"
until = "20s"
[[work]]
kind = "cancel"
at = "3s"
submission = 0
index = 0
[[fault]]
at = "3s"
kind = "split"
groups = [[0, 2], "rest"]
until = "12s"
[[fault]]
at = "5s..8s"
kind = "crash"
node = 2
disk = ["keep", "lose_unsynced"]
restart_after = "3s"
[[fault]]
at = "0"
kind = "freeze"
node = "executor"
when_working = true
for = "1s..5s"
[[fault]]
at = "2s"
kind = "cut"
from = [1]
to = "any 2"
[[fault]]
at = "20s"
kind = "churn"
nodes = "1..3"
for = "1m"
[expect]
decided_within = "60s"
"""


def in_python() -> Simulation:
    s = Simulation(nodes=6, seed=7, name="both", submitters=[4])
    s.network(latency=("5ms", "25ms"), loss="2%")
    s.regions(here=[0, 1], there="rest")
    s.link("here", "there", latency="50ms")
    s.host(sync="5ms")
    s.device([2], workers_count=1)
    s.at("1s").submit(4, count=200, work=("10ms", "2s"))
    s.work(rate="1/s", nodes="all", until="20s")
    s.at("3s").cancel(0, 0)
    s.at("3s").split([0, 2], "rest").until("12s")
    s.at(("5s", "8s")).crash(2, disk=["keep", "lose_unsynced"]).restart_after("3s")
    s.at("0").freeze("executor", for_=("1s", "5s")).when_working()
    s.at("2s").cut([1], "any 2")
    s.at("20s").churn(range(1, 4)).lasting("1m")
    s.expect.decided(within="60s")
    return s


@pytest.mark.parametrize("seed", [7, 0, 1])
def test_a_file_and_python_give_the_same_plan(seed: int) -> None:
    from_file = scenario_from_toml(FILE, file="both.toml")
    assert in_python().scenario().plan(seed) == from_file.plan(seed)
    assert in_python().scenario().with_nodes(9).plan(seed) == from_file.with_nodes(9).plan(seed)


def test_the_plan_without_a_seed_is_that_of_its_own() -> None:
    assert in_python().plan() == in_python().plan(7) != in_python().plan(8)


def test_every_kind_of_fault_is_a_method_of_a_moment() -> None:
    moment = Simulation().at("1s")
    assert all(callable(getattr(moment, kind)) for kind in FAULTS)
    with pytest.raises(AttributeError, match="no fault 'quake': there are split"):
        _ = moment.quake


def test_what_is_wrong_is_named_by_its_entry_and_key() -> None:
    s = Simulation(nodes=3)
    s.at("1s").split([0], [1])
    s.at("2s").crash(3)
    with pytest.raises(BadScenario, match=r"^fault 2: node: there is no device 3: they are 0..2$"):
        s.plan()


def test_too_many_values_are_refused_where_they_are_written() -> None:
    with pytest.raises(TypeError, match="ring takes 1 values: for"):
        Simulation().at("1s").ring("2s", "3s")


def test_simulations_share_nothing() -> None:
    one, other = Simulation(nodes=4), Simulation(nodes=4)
    one.at("1s").split([0], [1, 2, 3])
    other.at("2s").submit(1)
    assert one.plan().steps == (Split(at_us=1_000_000, groups=((0,), (1, 2, 3))),)
    assert other.plan().steps == (Submit(at_us=2_000_000, node=1),)
