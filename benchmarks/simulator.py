"""How fast the simulator runs idle meshes on one core, and how the cost grows with their size.

python benchmarks/simulator.py            # make bench-sim: up to 300 devices, some minutes
python benchmarks/simulator.py --large    # 1,000 whole devices, and 10,000 that know 64 each
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import resource
import time
from dataclasses import dataclass

from simulations.budget import Budget
from simulations.device import HostSettings
from simulations.discovery import Discovery
from simulations.engine import US_PER_S
from simulations.garbage import collect_seldom
from simulations.mesh_node import MESH_NODE
from simulations.trace import TraceLevel
from simulations.world import World, WorldSettings

MEMBERS_MAX = 2_000
START_S = 75  # brief links are hung up after half a minute, and watches change with them
BUDGET = Budget(sends_per_second_max=100_000, bytes_per_second_max=1 << 40)


SIZES = ((10, MEMBERS_MAX), (30, MEMBERS_MAX), (100, MEMBERS_MAX), (300, MEMBERS_MAX))
LARGE_SIZES = ((1_000, MEMBERS_MAX), (10_000, 64))


def main() -> None:
    """Run each size in a process of its own, and print a line for it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, nargs="+", help="these sizes instead")
    parser.add_argument("--members-max", type=int, default=MEMBERS_MAX, help="in their directories")
    parser.add_argument("--seconds", type=int, default=60, help="of virtual time, after the start")
    parser.add_argument(
        "--start-seconds", type=int, default=START_S, help="of virtual time, before that"
    )
    parser.add_argument("--large", action="store_true", help="the large sizes instead")
    options = parser.parse_args()
    sizes = list(LARGE_SIZES if options.large else SIZES)
    if options.nodes:
        sizes = [(nodes_count, options.members_max) for nodes_count in options.nodes]
    print(
        " nodes  known  start CPU s  CPU s  x real time  node-s/CPU s  growth"
        "  events/node-s  us/event  peak MiB"
    )
    # Taken by the process of each size: a gigabyte of small objects is found faster in huge pages,
    # which glibc asks for and Python's own allocator does not.
    os.environ |= {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    before: Cost | None = None
    context = multiprocessing.get_context("spawn")
    for nodes_count, members_max in sizes:
        with context.Pool(1) as pool:  # so that each has its own peak of memory
            cost = pool.apply(
                measured, (nodes_count, members_max, options.start_seconds, options.seconds)
            )
        print(cost.line(before), flush=True)
        before = cost


@dataclass(frozen=True, slots=True)
class Cost:
    """What one size took."""

    nodes_count: int
    members_max: int
    seconds: int
    start_cpu_s: float
    cpu_s: float
    events_count: int
    peak_mib: int

    def line(self, before: Cost | None) -> str:
        """Return the row; `growth` is the power of the size by which the cost grew since `before`.

        Work that is done once a device and second grows by the power 1; gossip of N devices to N
        others by up to 2.
        """
        node_seconds = self.nodes_count * self.seconds
        growth = ""
        if before is not None and before.nodes_count != self.nodes_count:
            times = (self.cpu_s / self.seconds) / (before.cpu_s / before.seconds)
            growth = f"{math.log(times) / math.log(self.nodes_count / before.nodes_count):.2f}"
        return (
            f"{self.nodes_count:6}  {min(self.members_max, self.nodes_count):5}"
            f"  {self.start_cpu_s:11.2f}  {self.cpu_s:5.1f}  {self.seconds / self.cpu_s:11.1f}"
            f"  {node_seconds / self.cpu_s:12.0f}  {growth:>6}"
            f"  {self.events_count / node_seconds:13.1f}"
            f"  {self.cpu_s * 1e6 / self.events_count:8.1f}  {self.peak_mib:8}"
        )


def measured(nodes_count: int, members_max: int, start_seconds: int, seconds: int) -> Cost:
    """Start a mesh, let its start and the first telemetry pass, and measure what follows."""
    collect_seldom()
    settings = WorldSettings(
        seed=1,
        node_count=nodes_count,
        host=HostSettings(members_max=members_max),
        budget=BUDGET,
        discovery=Discovery.SEEDS,
        trace=TraceLevel.DIGEST,
    )
    begun_s = time.process_time()
    world = World(settings, MESH_NODE)
    world.start_all()
    world.run_for(start_seconds * US_PER_S)
    started_s = time.process_time()
    events_before = world.engine.events_count
    world.run_for(seconds * US_PER_S)
    return Cost(
        nodes_count=nodes_count,
        members_max=members_max,
        seconds=seconds,
        start_cpu_s=started_s - begun_s,
        cpu_s=time.process_time() - started_s,
        events_count=world.engine.events_count - events_before,
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    )


if __name__ == "__main__":
    main()
