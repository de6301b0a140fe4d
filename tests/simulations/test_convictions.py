"""A device that is caught lying gets no work from anybody, until an admin lets it work again."""

from __future__ import annotations

from simulations.engine import US_PER_S
from simulations.mesh_node import MESH_NODE
from simulations.plan import SUBMITTER_ROLES, Plan
from simulations.runner import Runner
from simulations.steps import Falsehood, Lie, Submit
from wire.answers import PardonView, PlanView, Refused
from wire.commands import PardonDevice
from wire.commands import Plan as PlanTasks
from wire.ids import peer_text
from wire.membership import Role

LIAR = 2


def test_who_was_caught_gets_no_work_from_anybody_until_an_admin_pardons_it() -> None:
    plan = Plan(
        seed=5,
        node_count=6,
        roles={1: SUBMITTER_ROLES, LIAR: (Role.EXECUTOR,)},
        steps=(
            Lie(at_us=0, node=LIAR, how=Falsehood.WRONG_RESULT, for_us=60 * US_PER_S),
            Submit(at_us=6 * US_PER_S, node=1, count=24, work_us=US_PER_S),
        ),
    )
    runner = Runner(plan, MESH_NODE, repeat_with="this test")
    report = runner.run()
    assert report.complete_count == 24
    assert "lie.accepted" not in report.seen
    world = runner.world
    liar = peer_text(world.hosts[LIAR].peer)

    def rules() -> list[str | None]:
        """Return why each other device would give the liar no work."""
        found: list[str | None] = []
        for node in (0, 1, 3, 4, 5):
            request = world.ask(node, PlanTasks())
            world.run_for(US_PER_S)
            assert isinstance(request.last, PlanView)
            found += [one.rule for one in request.last.devices if one.id == liar]
        return found

    assert rules() == ["convicted"] * 5

    asked = world.ask(1, PardonDevice(peer=liar))
    world.run_for(US_PER_S)
    assert isinstance(asked.last, Refused)  # it is no admin
    asked = world.ask(0, PardonDevice(peer=liar))
    world.run_for(5 * US_PER_S)
    assert isinstance(asked.last, PardonView)
    assert "convicted" not in rules()
