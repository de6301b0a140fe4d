"""The table of liars: what a fifth of conspiring devices gets past the checks, and what they cost.

make bench-liars              # a million tasks a run, and the curve of the floor as a picture
make bench-liars QUICK=1      # a hundred thousand, without the picture
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.liars.mesh import LiarFigures, LiarSettings, figures_of
from benchmarks.liars.plot import curve_of
from simulations.svg import svg_of

HONEST_COUNTS = (0, 10, 100, 1_000)
FLOORS_PERMILLE = (0, 5, 10, 20, 35, 50)
FLOOR_PERMILLE = 20
WRONG_MAX, UNMARKED_MAX, EXTRA_MAX, HONEST_EXTRA_MAX = 0.003, 0.0001, 0.10, 0.03


def main() -> None:
    """Run all, print a line for each run, draw the curve, and end with 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--picture", type=Path, help="where the curve of the floor goes, as SVG")
    options = parser.parse_args()

    def settings(
        honest_count: int | None, *, floor_permille: int = FLOOR_PERMILLE, stewards_count: int = 1
    ) -> LiarSettings:
        return LiarSettings(
            honest_count=honest_count,
            floor_permille=floor_permille,
            stewards_count=stewards_count,
            devices_count=options.devices,
            tasks_count=options.tasks,
            seed=options.seed,
        )

    table = [
        settings(honest_count, stewards_count=stewards_count)
        for stewards_count in (1, options.devices)
        for honest_count in (None, *HONEST_COUNTS)
    ]
    curve = [
        settings(honest_count, floor_permille=floor_permille)
        for honest_count in HONEST_COUNTS
        for floor_permille in (FLOORS_PERMILLE if options.picture else ())
    ]
    missed: list[str] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=context) as pool:
        print("stewards  liars lie       wrong  unmarked   extra  later  failed  convicted, honest")
        for one, figures in zip(table, pool.map(figures_of, table), strict=True):
            print(line_of(one, figures), flush=True)
            missed += misses_of(one, figures)
        if options.picture:
            runs = dict(zip(map(_place, curve), pool.map(figures_of, curve), strict=True))
            lines = {
                honest_count: [runs[honest_count, floor] for floor in FLOORS_PERMILLE]
                for honest_count in HONEST_COUNTS
            }
            options.picture.write_text(svg_of(curve_of(FLOORS_PERMILLE, lines)), "utf-8")
    for miss in missed:
        print(f"missed: {miss}")
    sys.exit(bool(missed))


def line_of(settings: LiarSettings, figures: LiarFigures) -> str:
    """Return a line of the table."""
    count = figures.tasks_count
    return (
        f"{settings.stewards_count:8}  {_how(settings):14}"
        f"{figures.wrong_count / count:7.3%}  {figures.unmarked_count / count:8.4%}"
        f"  {figures.extra:6.2%} {figures.warm_extra:6.2%}  {figures.failed_count:6}"
        f"  {figures.liars_convicted_count:9}  {figures.honest_convicted_count:6}"
    )


def misses_of(settings: LiarSettings, figures: LiarFigures) -> list[str]:
    """Return the bars that a run misses, in words."""
    count = figures.tasks_count
    extra = ("extra work", figures.extra, EXTRA_MAX)
    if settings.honest_count is None:
        extra = ("extra work after the first tenth", figures.warm_extra, HONEST_EXTRA_MAX)
    bars = (
        ("wrong when accepted", figures.wrong_count / count, WRONG_MAX),
        ("wrong and unmarked at the end", figures.unmarked_count / count, UNMARKED_MAX),
        extra,
    )
    run = f"{settings.stewards_count} stewards, {_how(settings)}"
    return [
        f"{run}: {name} {value:.3%}, the bar is {bar:.2%}"
        for name, value, bar in bars
        if value > bar
    ]


def _how(settings: LiarSettings) -> str:
    if settings.honest_count is None:
        return "never"
    return "always" if settings.honest_count == 0 else f"after {settings.honest_count:,}"


def _place(settings: LiarSettings) -> tuple[int, int]:
    return settings.honest_count or 0, settings.floor_permille


if __name__ == "__main__":
    main()
