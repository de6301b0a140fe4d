"""Reputation in a whole mesh: who worked is known to all, and a flood of liars changes nothing."""

from __future__ import annotations

from msgspec.structs import replace

from simulations.engine import US_PER_S
from simulations.mesh_node import MESH_NODE
from simulations.plan import SUBMITTER_ROLES, Plan
from simulations.runner import Runner
from simulations.steps import Falsehood, Lie, Submit
from wire.answers import PeerView, ReputationView
from wire.commands import GetPeer
from wire.ids import peer_text

SUBMITTER, WORKERS, STRANGERS = 0, (1, 2), tuple(range(3, 15))


def plan(*, with_strangers: bool) -> Plan:
    """Return two batches, and between them twelve new identities that did nothing yet but talk."""
    lies = (
        Lie(at_us=US_PER_S, node=node, how=Falsehood.SLANDER)
        for node in STRANGERS
        if with_strangers
    )
    work = (
        Submit(at_us=at_s * US_PER_S, node=SUBMITTER, count=24, work_us=US_PER_S // 10)
        for at_s in (5, 80)
    )
    return Plan(
        seed=11,
        node_count=1 + len(WORKERS) + len(STRANGERS),
        roles=dict.fromkeys((SUBMITTER, *STRANGERS), SUBMITTER_ROLES),
        steps=(*lies, *work),
    )


class Outcome:
    """A run that is over, and what its devices think of each other."""

    def __init__(self, wanted: Plan) -> None:
        self.runner = Runner(wanted, MESH_NODE, repeat_with="this test")
        self.report = self.runner.run()

    def seen_by(self, node: int, subject: int) -> ReputationView:
        world = self.runner.world
        request = world.ask(node, GetPeer(peer_text(world.hosts[subject].peer)))
        world.run_until(lambda: bool(request.last), within_us=US_PER_S, what="an answer")
        assert isinstance(request.last, PeerView)
        assert request.last.reputation is not None
        return request.last.reputation


def test_a_flood_of_new_identities_gains_nothing_and_costs_nobody_anything() -> None:
    calm, flooded = Outcome(plan(with_strangers=False)), Outcome(plan(with_strangers=True))
    assert flooded.report.seen["lie.slander"] > 100
    assert flooded.report.complete_count == calm.report.complete_count == 48
    for worker in WORKERS:
        seen = flooded.seen_by(SUBMITTER, worker)
        assert seen.score == calm.seen_by(SUBMITTER, worker).score == 1.0
        slanderers = [one for one in seen.observers if one.outcomes[0].disputed]
        assert len(slanderers) > len(STRANGERS) // 2
        assert {one.weight for one in slanderers} == {0.0}
        assert seen.others_weight == 0.0
    for stranger in STRANGERS:
        assert flooded.seen_by(SUBMITTER, stranger).score == 0.5


def test_outcomes_of_one_device_are_known_to_all_and_count_for_those_who_know_it() -> None:
    steps = (
        Submit(at_us=5 * US_PER_S, node=0, count=12, work_us=US_PER_S // 10),
        Submit(at_us=20 * US_PER_S, node=1, count=48, work_us=US_PER_S // 10),
        Submit(at_us=40 * US_PER_S, node=1),  # by then it was told
    )
    workers = {0: SUBMITTER_ROLES}
    outcome = Outcome(replace(plan(with_strangers=False), node_count=4, roles=workers, steps=steps))
    assert outcome.runner.world.checks.looked["S10"] > 0
    assert outcome.runner.world.checks.looked["L3"] == 4
    told = {
        node: [one for one in outcome.seen_by(node, 2).observers if one.name == "device-1"]
        for node in (0, 3)
    }
    assert [one.outcomes for one in told[0]] == [one.outcomes for one in told[3]]
    assert told[0][0].outcomes[0].valid > 0
    assert told[0][0].weight > 0  # device 1 worked for device 0
    assert told[3][0].weight == 0  # and never for device 3
