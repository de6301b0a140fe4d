"""The table: each strategy with fresh state and with stale state, and what staleness costs.

make bench-herd               # a thousand devices, all strategies
make bench-herd QUICK=1       # two hundred
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

from benchmarks.herd.mesh import Figures, HerdSettings, figures_of
from simulations.garbage import collect_seldom
from wire.tasks import Strategy

STALE_S = (1.0, 10.0)
SLOWER_MAX = {Strategy.ROUND_ROBIN: 0.25}
SLOWER_MAX_ELSE = 0.10


def main() -> None:
    """Run every strategy twice, print a line for each run, and end with 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--links", type=int, default=24, help="of each device")
    parser.add_argument("--load", type=float, default=0.7, help="share of what all can do")
    parser.add_argument("--seconds", type=int, default=40, help="of submitting")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--strategies", nargs="+", type=Strategy, choices=tuple(Strategy), default=tuple(Strategy)
    )
    options = parser.parse_args()
    runs = [
        HerdSettings(
            strategy=strategy,
            stale_s=stale_s,
            nodes_count=options.nodes,
            links_count=options.links,
            load=options.load,
            seconds=options.seconds,
            warm_s=min(10, options.seconds // 4),
            seed=options.seed,
        )
        for strategy in options.strategies
        for stale_s in (None, STALE_S)
    ]
    print(
        "strategy       state    tasks  lost   p50 ms   p95 ms   p99 ms  refusals/task"
        "  leases max  p99 to fresh"
    )
    fresh: dict[Strategy, int] = {}
    missed: list[str] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        options.processes, mp_context=context, initializer=collect_seldom
    ) as pool:
        for settings, figures in zip(runs, pool.map(figures_of, runs), strict=True):
            ratio = None
            if settings.stale_s is None:
                fresh[settings.strategy] = figures.latency_us(0.99)
            else:
                ratio = figures.latency_us(0.99) / fresh[settings.strategy]
            print(line_of(settings, figures, ratio), flush=True)
            missed += misses_of(settings, figures, ratio)
    for miss in missed:
        print(miss, file=sys.stderr)
    sys.exit(bool(missed))


def line_of(settings: HerdSettings, figures: Figures, ratio: float | None) -> str:
    """Return a row of the table."""
    state = "fresh" if settings.stale_s is None else "{:g}-{:g} s".format(*settings.stale_s)
    percentiles = "".join(f"{figures.latency_us(share) / 1e3:9.0f}" for share in (0.5, 0.95, 0.99))
    return (
        f"{settings.strategy:13}{state:>8}{figures.submitted_count:8}{figures.lost_count:6}"
        f"{percentiles}{figures.refusals_count / figures.submitted_count:15.3f}"
        f"{figures.busiest_count:12}{'' if ratio is None else format(ratio, '14.3f')}"
    )


def misses_of(settings: HerdSettings, figures: Figures, ratio: float | None) -> list[str]:
    """Return which bars a run misses."""
    ratio_max = 1 + SLOWER_MAX.get(settings.strategy, SLOWER_MAX_ELSE)
    misses = []
    if figures.lost_count:
        misses.append(f"{settings.strategy}: {figures.lost_count} tasks are lost")
    if ratio is not None and ratio > ratio_max:
        misses.append(f"{settings.strategy}: p99 is {ratio:.3f} of fresh, {ratio_max} is the most")
    return misses


if __name__ == "__main__":
    main()
