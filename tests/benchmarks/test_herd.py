"""The table of herds measures what it says: it sees a herd where there is one."""

from __future__ import annotations

from unittest import mock

import pytest

from benchmarks.herd.__main__ import line_of, misses_of
from benchmarks.herd.mesh import Figures, HerdSettings, figures_of
from scheduler.selection import Candidate, Sampler
from wire.tasks import Contract, Strategy

STALE_S = (1.0, 10.0)


def settings(
    strategy: Strategy = Strategy.WEIGHTED, stale_s: tuple[float, float] | None = STALE_S
) -> HerdSettings:
    return HerdSettings(
        strategy=strategy, stale_s=stale_s, nodes_count=40, links_count=12, seconds=6, warm_s=1
    )


@pytest.mark.parametrize("strategy", Strategy)
def test_no_task_is_lost_to_refusals_by_any_strategy(strategy: Strategy) -> None:
    figures = figures_of(settings(strategy))
    assert figures.submitted_count > 300
    assert figures.lost_count == 0
    assert 0 < figures.busiest_count <= 50


def test_fresh_and_stale_state_are_asked_to_do_the_same() -> None:
    fresh, stale = figures_of(settings(stale_s=None)), figures_of(settings())
    assert fresh.submitted_count == stale.submitted_count
    assert figures_of(settings()).latencies_us == stale.latencies_us


def healthiest(_: Sampler, __: Contract, eligible: list[Candidate]) -> list[Candidate]:
    return sorted(eligible, key=lambda one: -one.health)[:2]


def test_devices_that_all_ask_the_healthiest_are_seen_to_be_a_herd() -> None:
    good = figures_of(settings())
    with mock.patch.object(Sampler, "sample", healthiest):
        bad = figures_of(settings())
    assert bad.refusals_count > 10 * good.refusals_count
    assert bad.latency_us(0.99) > 1.5 * good.latency_us(0.99)


def test_bars_that_are_missed_are_told() -> None:
    figures = Figures(submitted_count=5, done_count=4, latencies_us=[1_000_000])
    one = settings(Strategy.LEAST_LOADED)
    assert misses_of(one, figures, 1.11) == [
        "least-loaded: 1 tasks are lost",
        "least-loaded: p99 is 1.110 of fresh, 1.1 is the most",
    ]
    assert misses_of(settings(Strategy.ROUND_ROBIN), Figures(), 1.24) == []
    assert line_of(one, figures, 1.11).split()[:5] == ["least-loaded", "1-10", "s", "5", "1"]
