"""What the start of an idle mesh costs its devices: the most that any sends in any second.

python benchmarks/starts.py --nodes 30 60 120 --cpu

The budget of S11 (`simulations.budget`) is made from these figures.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

from simulations.budget import Budget
from simulations.cpu import CpuCosts
from simulations.device import HostSettings
from simulations.discovery import Discovery
from simulations.engine import US_PER_S
from simulations.mesh_node import MESH_NODE
from simulations.world import World, WorldSettings
from wire.ids import PeerId

NO_BUDGET = Budget(sends_per_second_max=1 << 40, bytes_per_second_max=1 << 60)
EVENTS_MAX = 1_000_000
STARTED_S = 15


def main() -> None:
    """Run each size, and print a line for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[30, 60, 120])
    parser.add_argument("--seconds", type=int, default=25, help="of virtual time, in all")
    parser.add_argument("--members-max", type=int, default=2_000, help="in a directory")
    parser.add_argument("--cpu", action="store_true", help="count the CPU time of the daemons")
    parser.add_argument("--discovery", choices=[one.value for one in Discovery], default="lan")
    options = parser.parse_args()
    print(f"nodes  messages      bytes  after {STARTED_S} s, msgs  then, bytes  CPU s")
    for node_count in options.nodes:
        host = HostSettings(
            members_max=options.members_max, cpu=CpuCosts() if options.cpu else None
        )
        measure(node_count, options.seconds, host, Discovery(options.discovery))


def measure(node_count: int, seconds: int, host: HostSettings, discovery: Discovery) -> None:
    """Start a mesh all at once, and count what each device sends in each second."""
    settings = WorldSettings(
        seed=1,
        node_count=node_count,
        host=host,
        discovery=discovery,
        budget=NO_BUDGET,
        events_per_node_second_max=EVENTS_MAX,
    )
    world = World(settings, MESH_NODE)
    messages: Counter[tuple[PeerId, int]] = Counter()
    sizes: Counter[tuple[PeerId, int]] = Counter()

    def on_sent(peer: PeerId, _: PeerId, size_bytes: int) -> None:
        place = peer, world.engine.now_us // US_PER_S
        messages[place] += 1
        sizes[place] += size_bytes

    world.network.on_sent = on_sent
    begun_s = time.process_time()
    world.start_all()
    world.run_for(seconds * US_PER_S)
    columns = [
        max((count for (_, second), count in counted.items() if second >= since), default=0)
        for since in (0, STARTED_S)
        for counted in (messages, sizes)
    ]
    at_start, bytes_at_start, later, bytes_later = columns
    print(
        f"{node_count:5}  {at_start:8}  {bytes_at_start:9,}  {later:14}  {bytes_later:11,}"
        f"  {time.process_time() - begun_s:5.1f}"
    )


if __name__ == "__main__":
    main()
