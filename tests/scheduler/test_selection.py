"""Who is asked, and who of those that accept is taken."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from support.candidates import candidate
from support.meshes import small_mesh
from support.tasks import contract_of, tasks_of

from scheduler.selection import Acceptance, Candidate, Exclusion, Sampler, choose, exclusion
from telemetry.breaker import BreakerState
from wire.tasks import Contract, Strategy


def contract(**changes: object) -> Contract:
    return contract_of(small_mesh(1), tasks_of(1), changes=changes).body


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"is_executor": False}, Exclusion.NOT_EXECUTOR, "its certificate lacks executor"),
        ({"capabilities": frozenset()}, Exclusion.CAPABILITY_MISSING, "runtime:wasi-p1"),
        ({"node_type": "phone"}, Exclusion.NODE_TYPE, "it is of type phone"),
        ({"engine_profiles": ("old/1",)}, Exclusion.ENGINE_PROFILE, "it runs old/1"),
        ({"engine_profiles": ()}, Exclusion.ENGINE_PROFILE, "it runs no engine"),
        ({"has_left": True}, Exclusion.HAS_LEFT, "it said goodbye"),
        ({"is_dead": True}, Exclusion.DEAD, "its observers do not hear it"),
        ({"is_linked": False}, Exclusion.NOT_LINKED, "no link to it now"),
        (
            {"allows_work": False, "breaker": BreakerState.OPEN},
            Exclusion.BREAKER_OPEN,
            "breaker open",
        ),
    ],
)
def test_each_exclusion_says_what_is_missing(
    changes: dict[str, object], reason: Exclusion, detail: str
) -> None:
    wanted = contract(requirements=("runtime:wasi-p1",), node_type="any")
    assert exclusion(wanted, candidate(1)) is None
    assert exclusion(wanted, candidate(1, **changes)) == (reason, detail)


def test_this_device_needs_no_link_to_itself() -> None:
    assert exclusion(contract(), candidate(1, is_linked=False, is_self=True)) is None


def test_a_free_device_runs_its_own_tasks_and_a_full_one_asks_others() -> None:
    sampler = Sampler(rng=Random(1))
    others = [candidate(number) for number in range(1, 6)]
    free, full = candidate(9, is_self=True), candidate(9, is_self=True, slots_free=0)

    assert sampler.sample(contract(), [*others, free]) == [free]
    assert len(sampler.sample(contract(), [*others, full])) == 2


def test_a_device_whose_workers_are_busy_asks_others_though_it_has_room_to_queue() -> None:
    sampler = Sampler(rng=Random(1))
    others = [candidate(number) for number in range(1, 6)]

    busy = candidate(9, is_self=True, slots_free=3, workers_free=0)
    assert len(sampler.sample(contract(), [*others, busy])) == 2
    idle = candidate(9, is_self=True, slots_free=3, workers_free=1)
    assert sampler.sample(contract(), [*others, idle]) == [idle]


@pytest.mark.parametrize(("priority", "count"), [(0, 2), (1, 2), (2, 3)])
@pytest.mark.parametrize("strategy", Strategy)
def test_two_different_devices_are_asked_and_three_when_it_is_urgent(
    strategy: Strategy, priority: int, count: int
) -> None:
    sampler = Sampler(rng=Random(1))
    for _ in range(50):
        asked = sampler.sample(
            contract(strategy=strategy, priority=priority),
            [candidate(number) for number in range(6)],
        )
        assert len({one.peer for one in asked}) == len(asked) == count


@pytest.mark.parametrize("strategy", Strategy)
def test_one_eligible_device_is_asked_alone(strategy: Strategy) -> None:
    sampler = Sampler(rng=Random(1))
    assert sampler.sample(contract(strategy=strategy), [candidate(1)]) == [candidate(1)]


def test_what_is_preferred_ranks_and_is_no_must() -> None:
    sampler = Sampler(rng=Random(1))
    plain = [candidate(number) for number in range(1, 6)]
    fast = candidate(7, capabilities=frozenset({"label:disk=fast"}))
    fastest = candidate(8, capabilities=frozenset({"label:disk=fast", "cpu:8"}))
    wanted = contract(preferences=("label:disk=fast", "cpu:8"))

    assert sampler.sample(wanted, [*plain, fast, fastest]) == [fastest]
    assert sampler.sample(wanted, [*plain, fast]) == [fast]
    assert len(sampler.sample(wanted, plain)) == 2


def test_a_preferred_device_that_is_full_is_not_waited_for() -> None:
    sampler = Sampler(rng=Random(1))
    fast = candidate(7, capabilities=frozenset({"label:disk=fast"}), slots_free=0)
    asked = sampler.sample(contract(preferences=("label:disk=fast",)), [fast, candidate(1)])
    assert asked == [candidate(1)]


def test_a_free_device_gives_its_own_task_to_one_that_is_preferred() -> None:
    own = candidate(9, is_self=True)
    fast = candidate(7, capabilities=frozenset({"label:disk=fast"}))
    wanted = contract(preferences=("label:disk=fast",))
    assert Sampler(rng=Random(1)).sample(wanted, [own, fast]) == [fast]


@pytest.mark.parametrize("strategy", Strategy)
def test_preferences_hold_for_every_strategy(strategy: Strategy) -> None:
    sampler = Sampler(rng=Random(1))
    fast = candidate(7, capabilities=frozenset({"label:disk=fast"}))
    wanted = contract(strategy=strategy, preferences=("label:disk=fast",))
    devices = [candidate(number) for number in range(1, 4)]
    assert all(sampler.sample(wanted, [*devices, fast]) == [fast] for _ in range(20))


def first_counts(candidates: list[Candidate], draws: int = 4_000) -> Counter[str]:
    sampler = Sampler(rng=Random(7))
    return Counter(sampler.sample(contract(), candidates)[0].name for _ in range(draws))


def test_devices_are_drawn_in_proportion_to_their_free_capacity() -> None:
    counts = first_counts(
        [
            candidate(1, slots_free=1),
            candidate(2, slots_free=4),
            candidate(3, slots_free=1, speed=5),
        ]
    )
    assert counts["device-1"] / 4_000 == pytest.approx(0.1, abs=0.03)
    assert counts["device-2"] / 4_000 == pytest.approx(0.4, abs=0.03)
    assert counts["device-3"] / 4_000 == pytest.approx(0.5, abs=0.03)


def test_a_device_that_said_it_is_full_is_hardly_ever_asked_first_but_sometimes() -> None:
    counts = first_counts([candidate(1, slots_free=0), candidate(2, slots_free=4)])
    assert 0 < counts["device-1"] < 200


def test_many_steward_do_not_all_run_to_the_healthiest_device() -> None:
    """Picking the best score of what gossip says sent 97 % of the tasks to 3 % of the devices."""
    devices = [candidate(number, health=number / 100) for number in range(100)]
    taken: Counter[str] = Counter()
    for seed in range(1_000):
        asked = Sampler(rng=Random(seed)).sample(contract(), devices)
        best = choose(
            Strategy.WEIGHTED,
            [Acceptance(candidate=one, tasks_count=1, wait_us=0) for one in asked],
        )
        taken[best.candidate.name] += 1
    assert max(taken.values()) < 50
    assert len(taken) > 80
    mean_health = sum(int(name.split("-")[1]) * count for name, count in taken.items()) / 100_000
    assert mean_health > 0.6  # and yet the healthier are preferred: two draws give two thirds


def test_round_robin_goes_round_in_proportion_to_slots() -> None:
    sampler = Sampler(rng=Random(3))
    devices = [
        candidate(1, slots_total=1),
        candidate(2, slots_total=3),
        candidate(3, slots_total=2),
    ]
    counts = Counter(
        one.name
        for _ in range(300)
        for one in sampler.sample(contract(strategy=Strategy.ROUND_ROBIN), devices)
    )
    # Two of three devices are different each time, so the largest share is at most a half.
    assert counts["device-1"] < counts["device-3"] < counts["device-2"]


def accepted(number: int, *, wait_us: int = 0, **changes: object) -> Acceptance:
    return Acceptance(candidate=candidate(number, **changes), tasks_count=1, wait_us=wait_us)


@pytest.mark.parametrize(
    ("strategy", "best"),
    [
        (Strategy.WEIGHTED, 3),  # no wait worth telling, then health
        (Strategy.LEAST_LOADED, 1),
        (Strategy.LATENCY_AWARE, 2),
        (Strategy.ROUND_ROBIN, 1),
    ],
)
def test_each_strategy_takes_its_own_best(strategy: Strategy, best: int) -> None:
    choices = [
        accepted(1, wait_us=0, health=0.1, round_trip_us=90_000),
        accepted(2, wait_us=20_000, health=0.2, round_trip_us=1_000),
        accepted(3, wait_us=99_999, health=0.9, round_trip_us=50_000),
        accepted(4, wait_us=100_000, health=1.0, round_trip_us=50_000),
    ]
    assert choose(strategy, choices).candidate.name == f"device-{best}"
