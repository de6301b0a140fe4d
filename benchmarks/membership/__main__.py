"""The table of simulated membership: meshd beside plain SWIM with Lifeguard.

    python -m benchmarks.membership [--quick] [--rows crash heal] [--protocols swim meshd]
    python -m benchmarks.membership --rows crash --nodes-min 1000 --first-seed 7 --seeds 1

Two processes share the seeds. A row is printed when all its seeds are done: the figure is the p99
over all (crash, observer) or the worst seed, the values beside it are those of the worst seed each.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

from benchmarks.membership.jobs import PROTOCOLS, Done, Job, grouped, run
from benchmarks.membership.rows import ROWS, Row, beside, figure, shown, worst

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
    rows = {
        place: _with_seeds(row, options.seeds, is_quick=options.quick)
        for place, row in enumerate(ROWS)
        if any(part in row.name for part in options.rows)
        and options.nodes_min <= row.node_count <= options.nodes_max
    }
    head = ("row", "nodes", "protocol", "figure", "bar", "seeds", "worst", "wall s", "beside")
    print(LINE.format(*head), flush=True)
    jobs = [
        job
        for protocol in options.protocols
        for group in grouped([place for place in rows if _is_for(protocol, rows[place])])
        for job in _jobs({place: rows[place] for place in group}, protocol, options.first_seed)
    ]
    # Taken by the processes: a gigabyte of small objects is found faster in huge pages.
    os.environ |= {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    with ProcessPoolExecutor(PROCESSES_COUNT, multiprocessing.get_context("spawn")) as pool:
        of_line: defaultdict[tuple[int, str], list[Done]] = defaultdict(list)
        for done in itertools.chain.from_iterable(pool.map(run, jobs)):
            seeds = of_line[done.row, done.protocol]
            seeds.append(done)
            if len(seeds) == rows[done.row].seeds_count:
                _print_line(seeds)


def _with_seeds(row: Row, seeds_count: int | None, *, is_quick: bool) -> Row:
    usual_count = row.quick_seeds_count if is_quick else row.seeds_count
    return replace(row, seeds_count=seeds_count or usual_count)


def _is_for(protocol: str, row: Row) -> bool:
    return row.is_for_swim or protocol != "swim"


def _jobs(rows: dict[int, Row], protocol: str, first_seed: int) -> list[Job]:
    """Return a job for each seed, of all rows that want as many seeds."""
    seeds_count = max(row.seeds_count for row in rows.values())
    return [
        Job(
            rows=tuple(place for place, row in rows.items() if offset < row.seeds_count),
            protocol=protocol,
            seed=first_seed + offset,
        )
        for offset in range(seeds_count)
    ]


def _print_line(seeds: list[Done]) -> None:
    row = ROWS[seeds[0].row]
    outcomes = [done.outcome for done in seeds]
    columns = (
        row.name,
        row.node_count,
        seeds[0].protocol,
        shown(row, figure(row, outcomes)),
        row.bar,
        len(outcomes),
        seeds[worst(outcomes)].seed,
        f"{sum(done.seconds for done in seeds):.0f}",
        beside(outcomes),
    )
    print(LINE.format(*columns), flush=True)


if __name__ == "__main__":
    main()
