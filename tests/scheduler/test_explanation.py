"""Where a task would go and why not elsewhere: what is told is what is done."""

from __future__ import annotations

from random import Random

import pytest
from support.candidates import candidate
from support.meshes import small_mesh
from support.stewards import StewardBench
from support.task_mesh import SECOND_US, MeshHost, TaskMesh
from support.tasks import contract_of, tasks_of

from scheduler.explanation import CHANGES, Place, Rule, placing
from scheduler.selection import Candidate, Exclusion, Sampler, exclusion
from wire.answers import DeviceReason, PlanView, WhyView
from wire.commands import CancelTask, Plan, WhyTask
from wire.ids import PeerId, peer_text
from wire.messages import Offer, OfferRefusal, OfferRejected
from wire.tasks import Contract, Durability, Strategy


def contract(**changes: object) -> Contract:
    return contract_of(small_mesh(1), tasks_of(1), changes=changes).body


def placed(wanted: Contract, *devices: Candidate) -> dict[str, tuple[Place, str | None]]:
    """Return where each device stands, and the rule."""
    excluded = {one.peer: why for one in devices if (why := exclusion(wanted, one)) is not None}
    eligible = [one for one in devices if one.peer not in excluded]
    _, stands = placing(wanted, eligible, excluded, Sampler(rng=Random(1)))
    found = {one.name: stands[one.peer] for one in devices}
    return {
        name: (place, because.rule if because else None)
        for name, (place, because, _) in found.items()
    }


def test_every_rule_that_excludes_says_what_would_change_it() -> None:
    assert CHANGES.keys() == set(Exclusion)
    assert all(CHANGES.values())


def test_the_healthier_of_two_is_first_and_the_other_is_outranked_by_the_strategy() -> None:
    good, poor = candidate(1, health=0.9), candidate(2, health=0.3)
    assert placed(contract(), good, poor) == {
        "device-1": (Place.FIRST, None),
        "device-2": (Place.OUTRANKED, Rule.STRATEGY),
    }


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"is_dead": True}, Exclusion.DEAD),
        ({"is_linked": False}, Exclusion.NOT_LINKED),
        ({"capabilities": frozenset()}, Exclusion.CAPABILITY_MISSING),
        ({"allows_work": False}, Exclusion.BREAKER_OPEN),
    ],
)
def test_a_device_that_may_not_have_it_is_excluded_by_its_rule(
    changes: dict[str, object], rule: Exclusion
) -> None:
    wanted = contract(requirements=("runtime:wasi-p1",))
    assert placed(wanted, candidate(1), candidate(2, **changes))["device-2"] == (
        Place.EXCLUDED,
        rule,
    )


def test_a_free_device_keeps_its_own_task() -> None:
    own, better = candidate(1, is_self=True, health=0.1), candidate(2, health=0.9)
    assert placed(contract(), own, better) == {
        "device-1": (Place.FIRST, None),
        "device-2": (Place.OUTRANKED, Rule.LOCAL_FIRST),
    }


def test_what_is_preferred_outranks_health() -> None:
    fast = candidate(1, health=0.1, capabilities=frozenset({"cpu:8"}))
    assert placed(contract(preferences=("cpu:8",)), fast, candidate(2, health=0.9)) == {
        "device-1": (Place.FIRST, None),
        "device-2": (Place.OUTRANKED, Rule.PREFERENCE),
    }


def test_a_full_device_is_outranked_for_its_room() -> None:
    full, free = candidate(1, slots_free=0, health=0.9), [candidate(n) for n in range(2, 5)]
    assert placed(contract(), full, *free)["device-1"] == (Place.OUTRANKED, Rule.CAPACITY)


@pytest.mark.parametrize("strategy", Strategy)
def test_the_shares_are_those_of_the_real_draw(strategy: Strategy) -> None:
    devices = [candidate(number, health=number / 10) for number in range(1, 6)]
    wanted = contract(strategy=strategy)
    first, stands = placing(wanted, devices, {}, Sampler(rng=Random(1)))
    shares = {peer: share for peer, (_, _, share) in stands.items()}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert first is not None
    assert shares[first.peer] == max(shares.values())
    if strategy is Strategy.WEIGHTED:  # the healthiest wins whenever it is drawn: 2 of 5 times
        assert first.name == "device-5"
        assert shares[first.peer] == pytest.approx(0.4, abs=0.1)
        assert shares[devices[0].peer] == 0.0


def test_telling_does_not_move_the_ring_or_the_generator() -> None:
    devices = [candidate(number) for number in range(1, 6)]
    wanted = contract(strategy=Strategy.ROUND_ROBIN)
    told, untold = Sampler(rng=Random(1)), Sampler(rng=Random(1))
    for sampler in (told, untold):
        sampler.sample(wanted, devices)
    placing(wanted, devices, {}, told)
    assert [told.sample(wanted, devices) for _ in range(9)] == [
        untold.sample(wanted, devices) for _ in range(9)
    ]


def test_a_plan_among_thousands_draws_less_often() -> None:
    devices = [candidate(0, peer=number.to_bytes(32, "big")) for number in range(2_000)]
    first, stands = placing(contract(), devices, {}, Sampler(rng=Random(1)))
    assert first is not None
    assert len(stands) == 2_000


# --- real nodes -------------------------------------------------------------------------------


@pytest.fixture
def mesh() -> TaskMesh:
    made = TaskMesh(3)
    made.run = lambda *_: None  # what begins runs for ever
    made.start()
    return made


def why(mesh: TaskMesh, host: MeshHost, task: str) -> WhyView:
    view = mesh.answer(host, WhyTask(task))
    assert isinstance(view, WhyView), view
    return view


def by_name(devices: list[DeviceReason]) -> dict[str, DeviceReason]:
    return {one.name: one for one in devices}


def test_a_plan_names_the_device_and_runs_nothing(mesh: TaskMesh) -> None:
    host = mesh.hosts[0]
    view = mesh.answer(host, Plan(requirements=("label:number=2",), tasks_count=7))
    assert isinstance(view, PlanView)
    assert (view.device_name, view.reason) == ("device-2", "device-2 alone could take it")
    assert view.tasks_count == 7
    others = by_name(view.devices)
    assert others["device-1"].rule == "capability_missing"
    assert others["device-1"].detail == "label:number=2"
    assert not any(one.runs_begun for one in mesh.hosts)


def test_a_plan_that_nobody_fits_says_so_of_each(mesh: TaskMesh) -> None:
    request = mesh.ask(mesh.hosts[0], Plan(requirements=("label:number=9",)))
    mesh.pass_time(60 * SECOND_US)
    view = mesh.hosts[0].answers[request][-1].value
    assert isinstance(view, PlanView)
    assert (view.device, {one.place for one in view.devices}) == (None, {"excluded"})
    assert all(one.change for one in view.devices)


def test_a_plan_names_those_that_would_keep_the_task(mesh: TaskMesh) -> None:
    view = mesh.answer(mesh.hosts[0], Plan(durability=Durability.MESH))
    assert isinstance(view, PlanView)
    assert sorted(view.stewards) == ["device-1", "device-2"]


def test_why_names_who_has_the_task_and_the_rule_for_everybody_else(mesh: TaskMesh) -> None:
    host = mesh.hosts[0]
    accepted = mesh.submit(host, 1, requirements=("label:number=2",))
    mesh.pass_time(SECOND_US)
    view = why(mesh, host, accepted.tasks[0])
    places = {name: (one.place, one.rule) for name, one in by_name(view.devices).items()}
    assert places == {
        "device-2": ("has_it", None),
        "device-1": ("excluded", "capability_missing"),
        "device-0": ("excluded", "capability_missing"),
    }
    assert view.is_current
    assert [(one.name, one.state, one.is_leading) for one in view.stewards] == [
        ("device-0", "self", True)
    ]


def refuse(bench: StewardBench, peer: PeerId, offer: Offer, reason: OfferRefusal) -> None:
    rejected = OfferRejected(offer=offer.offer, reason=reason, detail="said so")
    bench.do(bench.steward.on_offer_rejected(peer, rejected, now_us=bench.now_us))


def test_why_remembers_who_refused_the_offer_and_who_was_not_asked() -> None:
    bench = StewardBench().start()
    batch = bench.submit(1)
    (refuser, offer), (taker, _) = bench.review()
    refuse(bench, refuser, offer, OfferRefusal.SLOTS_FULL)
    bench.accept(taker, offer)
    rules = {one.id: (one.place, one.rule) for one in bench.why(batch, 0).devices}
    assert rules.pop(peer_text(refuser)) == ("excluded", "refused")
    assert rules.pop(peer_text(taker)) == ("has_it", None)
    assert list(rules.values()) == [("outranked", "not_asked")]


def test_why_tells_of_an_offer_that_is_out_and_of_who_lost_it() -> None:
    bench = StewardBench().start()
    batch = bench.submit(1)
    (first, offer), (second, _) = bench.review()
    places = {one.id: one.place for one in bench.why(batch, 0).devices}
    assert {places[peer_text(first)], places[peer_text(second)]} == {"asked"}
    bench.accept(first, offer)
    bench.accept(second, offer)
    ((winner, _),) = [(one.id, one.rule) for one in bench.why(batch, 0).devices[:1]]
    loser = next(
        one
        for one in bench.why(batch, 0).devices
        if one.id in {peer_text(first), peer_text(second)} - {winner}
    )
    assert (loser.place, loser.rule) == ("outranked", "strategy")
    assert str(loser.detail).startswith("it would have waited 0 ms, 0 ms there; health")


@pytest.mark.parametrize(
    ("reason", "exclusion"),
    [
        (OfferRefusal.OVER_DEVICE_LIMIT, Exclusion.REFUSED),
        (OfferRefusal.SLOTS_FULL, Exclusion.REFUSED_RECENTLY),
    ],
)
def test_a_refusal_says_whether_waiting_helps(reason: OfferRefusal, exclusion: Exclusion) -> None:
    bench = StewardBench().start()
    batch = bench.submit(1)
    (refuser, offer), _ = bench.review()
    refuse(bench, refuser, offer, reason)
    told = next(one for one in bench.why(batch, 0).devices if one.id == peer_text(refuser))
    assert told.change == CHANGES[exclusion]


def test_a_decided_task_says_that_nothing_changes_it(mesh: TaskMesh) -> None:
    host = mesh.hosts[0]
    accepted = mesh.submit(host, 1, requirements=("label:number=2",))
    mesh.pass_time(SECOND_US)
    mesh.answer(host, CancelTask(accepted.tasks[0]))
    view = why(mesh, host, accepted.tasks[0])
    assert view.task.outcome == "cancelled"
    assert {one.rule for one in view.devices if one.place == "outranked"} == {"decided"}


def test_a_task_that_waits_says_of_each_device_what_would_change_it(mesh: TaskMesh) -> None:
    host, second = mesh.hosts[0], mesh.hosts[1]
    accepted = mesh.submit(host, 1, requirements=("label:number=1",))
    mesh.crash(second)
    mesh.pass_time(60 * SECOND_US)
    view = why(mesh, host, accepted.tasks[0])
    gone = by_name(view.devices)["device-1"]
    assert (gone.place, gone.rule) in {("excluded", "dead"), ("excluded", "not_linked")}
    assert "dial" in str(gone.change)
    assert view.task.id == accepted.tasks[0]
    assert gone.id == peer_text(second.peer)
