"""What a liar says is judged by bytes, also where honest devices pass each other objects."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from simulations.budget import Budget
from simulations.engine import US_PER_S
from simulations.errors import InvariantBroken
from simulations.mesh_node import MESH_NODE
from simulations.plan import SUBMITTER_ROLES, Plan
from simulations.runner import Report, Runner
from simulations.steps import Falsehood, Find, Lie, PoisonDht, Submit, Via
from wire.membership import Role
from wire.tasks import Durability


def lied_to_plan(how: Falsehood) -> Plan:
    """Return a batch of which a liar does a part."""
    return Plan(
        seed=5,
        node_count=3,
        roles={1: SUBMITTER_ROLES},
        steps=(
            Lie(at_us=0, node=0, how=how, for_us=30 * US_PER_S),
            Submit(at_us=3 * US_PER_S, node=1, count=12, work_us=US_PER_S),
        ),
    )


def lied_to(how: Falsehood, *, exercises_wire: bool = False) -> Report:
    """Return what came of it."""
    plan = replace(lied_to_plan(how), exercises_wire=exercises_wire)
    return Runner(plan, MESH_NODE, repeat_with="this test").run()


@pytest.mark.parametrize("exercises_wire", [False, True])
def test_a_forged_signature_is_refused_by_the_link_and_the_forger_banned(
    exercises_wire: bool,
) -> None:
    report = lied_to(Falsehood.FORGED_SIGNATURE, exercises_wire=exercises_wire)
    assert report.seen["network.frame_refused"] > 0
    assert report.seen["network.peer_banned"] > 0
    assert report.complete_count == report.accepted_count == 12


@pytest.mark.parametrize("exercises_wire", [False, True])
def test_a_strangers_signature_is_refused_by_the_node(exercises_wire: bool) -> None:
    report = lied_to(Falsehood.FOREIGN_SIGNATURE, exercises_wire=exercises_wire)
    assert report.seen["lie.foreign_signature"] > 0
    assert "lie.accepted" not in report.seen
    assert report.complete_count == report.accepted_count == 12


@pytest.mark.parametrize("durability", [Durability.LOCAL, Durability.MESH])
def test_a_wrong_result_is_outvoted_where_results_are_compared(durability: Durability) -> None:
    plan = Plan(
        seed=5,
        node_count=5,
        roles={1: SUBMITTER_ROLES, 2: (Role.EXECUTOR,)},  # no steward: its votes are not counted
        steps=(
            Lie(at_us=0, node=2, how=Falsehood.WRONG_RESULT, for_us=60 * US_PER_S),
            Submit(
                at_us=6 * US_PER_S,
                node=1,
                count=12,
                work_us=US_PER_S,
                durability=durability,
                replicas=3,
                quorum=2,
            ),
        ),
    )
    runner = Runner(plan, MESH_NODE, repeat_with="this test")
    report = runner.run()
    assert report.seen["lie.wrong_result"] > 0
    assert "lie.accepted" not in report.seen
    assert report.complete_count == report.accepted_count == 12
    assert runner.world.checks.looked["S4"] >= 12


@pytest.mark.parametrize("durability", [Durability.LOCAL, Durability.MESH])
def test_the_first_results_of_a_liar_are_checked_though_nobody_asked(
    durability: Durability,
) -> None:
    plan = Plan(
        seed=5,
        node_count=5,
        roles={1: SUBMITTER_ROLES, 2: (Role.EXECUTOR,)},
        steps=(
            Lie(at_us=0, node=2, how=Falsehood.WRONG_RESULT, for_us=60 * US_PER_S),
            Submit(at_us=6 * US_PER_S, node=1, count=12, work_us=US_PER_S, durability=durability),
        ),
    )
    report = Runner(plan, MESH_NODE, repeat_with="this test").run()
    assert report.seen["lie.wrong_result"] > 0
    assert "lie.accepted" not in report.seen
    assert report.complete_count == report.accepted_count == 12


def test_what_honest_devices_answer_a_flood_is_not_their_own_storm() -> None:
    budget = Budget(sends_per_second_max=60)
    plan = lied_to_plan(Falsehood.FLOOD)
    report = Runner(replace(plan, budget=budget), MESH_NODE, repeat_with="this test").run()
    assert report.seen["lie.flood"] > 0
    assert report.complete_count == 12


def poisoned(*providers: int) -> Report:
    """Return what came of looking for what device 2 provides, while the DHT names device 0 too."""
    key = "label:device=2"
    plan = Plan(
        seed=5,
        node_count=4,
        steps=(
            PoisonDht(at_us=0, key=key, claimed=(0,), for_us=60 * US_PER_S),
            Find(at_us=20 * US_PER_S, node=3, key=key, providers=providers, via=Via.DHT),
        ),
    )
    return Runner(plan, MESH_NODE, repeat_with="this test").run()


def test_whom_the_dht_names_is_not_believed_unless_it_says_so_itself() -> None:
    seen = poisoned(2).seen
    assert seen["dht.poisoned"] == seen["provider.found"] == 1


def test_whoever_is_named_for_what_it_does_not_provide_breaks_an_invariant() -> None:
    with pytest.raises(InvariantBroken, match="S12: device-3 names device-2 for label:device=2"):
        poisoned(0)


def test_nobody_is_promised_to_be_told_by_a_liar() -> None:
    plan = Plan(
        seed=5,
        node_count=3,
        steps=(
            Submit(at_us=3 * US_PER_S, node=1, count=24, work_us=3 * US_PER_S),
            Lie(at_us=5 * US_PER_S, node=1, how=Falsehood.NO_RESULT, for_us=US_PER_S),
        ),
    )
    runner = Runner(plan, MESH_NODE, repeat_with="this test")
    report = runner.run()
    assert report.accepted_count == 0  # as the checks count
    assert [follower.is_done for follower in runner.errands.followers.values()] == [False]
