"""The table of simulated membership: meshd beside plain SWIM with Lifeguard.

    python -m benchmarks.membership [--quick] [--rows crash heal] [--protocols swim meshd]
    python -m benchmarks.membership --rows crash --nodes-min 1000 --first-seed 7 --seeds 1

Two processes share the seeds. A row is printed when all its seeds are done: the figure is the p99
over all (crash, observer) or the worst seed, the values beside it are those of the worst seed each.
"""

from __future__ import annotations

import argparse
import itertools
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

from benchmarks.membership.jobs import PROTOCOLS, Job, run
from benchmarks.membership.rows import ROWS, Row, beside, figure, shown, worst
from benchmarks.membership.scenarios import Outcome

PROCESSES_COUNT = 2
LINE = "{:36} {:>5} {:8} {:>14} {:>12} {:>6} {:>6} {:>8}  {}"


def main() -> None:
    """Run what was asked for, and print a line for each row and protocol."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few seeds")
    parser.add_argument("--seeds", type=int, help="of every row, instead of its own number")
    parser.add_argument("--rows", nargs="+", default=[""], help="those whose names contain these")
    parser.add_argument("--first-seed", type=int, default=1, help="of every row")
    parser.add_argument("--nodes-min", type=int, default=0, help="no row with fewer nodes")
    parser.add_argument("--nodes-max", type=int, default=1_000, help="no row with more nodes")
    parser.add_argument("--protocols", nargs="+", choices=sorted(PROTOCOLS), default=[*PROTOCOLS])
    options = parser.parse_args()
    rows = [
        (number, _with_seeds(row, options.seeds, is_quick=options.quick))
        for number, row in enumerate(ROWS)
        if any(part in row.name for part in options.rows)
        and options.nodes_min <= row.node_count <= options.nodes_max
    ]
    head = ("row", "nodes", "protocol", "figure", "bar", "seeds", "worst", "wall s", "beside")
    print(LINE.format(*head))
    with ProcessPoolExecutor(PROCESSES_COUNT) as pool:
        jobs = [
            _jobs(number, row, protocol, options.first_seed)
            for number, row in rows
            for protocol in options.protocols
            if row.is_for_swim or protocol != "swim"
        ]
        done = pool.map(run, itertools.chain(*jobs))
        for of_one_line in jobs:
            _print_line(of_one_line, [next(done) for _ in of_one_line])


def _with_seeds(row: Row, seeds_count: int | None, *, is_quick: bool) -> Row:
    usual_count = row.quick_seeds_count if is_quick else row.seeds_count
    return replace(row, seeds_count=seeds_count or usual_count)


def _jobs(number: int, row: Row, protocol: str, first_seed: int) -> list[Job]:
    return [Job(number, protocol, first_seed + offset) for offset in range(row.seeds_count)]


def _print_line(jobs: list[Job], done: list[tuple[Outcome, float]]) -> None:
    row = ROWS[jobs[0].row]
    outcomes = [outcome for outcome, _ in done]
    columns = (
        row.name,
        row.node_count,
        jobs[0].protocol,
        shown(row, figure(row, outcomes)),
        row.bar,
        len(outcomes),
        jobs[worst(outcomes)].seed,
        f"{sum(seconds for _, seconds in done):.0f}",
        beside(outcomes),
    )
    print(LINE.format(*columns), flush=True)


if __name__ == "__main__":
    main()
