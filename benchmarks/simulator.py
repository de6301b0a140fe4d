"""How fast the simulator runs idle meshes, and how the cost grows with their size.

python benchmarks/simulator.py --nodes 10 30 100
"""

from __future__ import annotations

import argparse
import resource
import time

from simulations.budget import Budget
from simulations.device import HostSettings
from simulations.discovery import Discovery
from simulations.engine import US_PER_S
from simulations.garbage import collect_seldom
from simulations.mesh_node import MESH_NODE
from simulations.trace import TraceLevel
from simulations.world import World, WorldSettings

BUDGET = Budget(sends_per_second_max=100_000, bytes_per_second_max=1 << 40)


def main() -> None:
    """Run each size, and print a line for it."""
    collect_seldom()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 30, 100])
    parser.add_argument("--seconds", type=int, default=30, help="of virtual time, after the start")
    parser.add_argument("--members-max", type=int, default=2_000, help="in a directory")
    options = parser.parse_args()
    print("nodes  start CPU s  CPU s  times real time  node-s per CPU s  events  peak MiB")
    for node_count in options.nodes:
        measure(node_count, options.seconds, options.members_max)


def measure(node_count: int, seconds: int, members_max: int) -> None:
    """Start a mesh, let five seconds pass, and measure what follows."""
    settings = WorldSettings(
        seed=1,
        node_count=node_count,
        host=HostSettings(members_max=members_max),
        budget=BUDGET,
        discovery=Discovery.SEEDS,
        trace=TraceLevel.DIGEST,
    )
    begun_s = time.process_time()
    world = World(settings, MESH_NODE)
    world.start_all()
    world.run_for(5 * US_PER_S)
    started_s = time.process_time()
    events_before = world.engine.events_count
    world.run_for(seconds * US_PER_S)
    cpu_s = time.process_time() - started_s
    events_count = world.engine.events_count - events_before
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{node_count:5}  {started_s - begun_s:11.2f}  {cpu_s:5.2f}  {seconds / cpu_s:15.1f}"
        f"  {node_count * seconds / cpu_s:16.0f}  {events_count:6}  {peak_mib:8}"
    )


if __name__ == "__main__":
    main()
