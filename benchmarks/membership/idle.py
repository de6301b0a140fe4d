"""What an idle daemon costs, beside bare py-libp2p hosts with as many peers at the same time.

    python -m benchmarks.membership.idle [--peers 10] [--settle-seconds 60] [--seconds 60]

Starts a mesh of `--peers` + 1 daemons, each linked to all others, and two py-libp2p hosts
(`benchmarks/idle_host.py`) with GossipSub that beats every second, Kademlia and as many peers: one
with the defaults of Kademlia, and one whose Kademlia looks for random keys every two minutes. Once
all have settled they are measured in the same windows: what else the machine does slows all. Prints
one table. Ends every process that it started.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import psutil

from benchmarks.membership.agents import STOP_S_MAX, NotInTime, end_on_sigterm
from benchmarks.membership.meshd_agents import MeshdAgents

IDLE_HOST = Path(__file__).parents[1] / "idle_host.py"
BARE_KINDS = ("bare", "walking")
LINE = "{:18} {:>9} {:>11} {:>26} {:>7} {:>7} {:>5} {:>5}"
HEAD = ("what", "processes", "connections", "windows, CPU %", "CPU %", "RSS MiB", "PSS", "USS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one process cost: CPU in percent of a core, one a window; memory in MiB at the end.

    RSS counts all pages that are in memory, PSS those shared with other processes as divided among
    them, USS not at all. Python programs on one machine share their libraries.
    """

    windows_cpu_percent: tuple[float, ...]
    rss_mib: float
    pss_mib: float
    uss_mib: float
    connections_count: int

    @property
    def cpu_percent(self) -> float:
        """The mean of all windows."""
        return mean(self.windows_cpu_percent)


def main() -> None:
    """Measure all, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", type=int, default=10, dest="peers_count")
    parser.add_argument("--settle-seconds", type=float, default=60.0)
    parser.add_argument("--seconds", type=float, default=60.0, help="of a window")
    parser.add_argument("--windows", type=int, default=4, dest="windows_count")
    options = parser.parse_args()
    end_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="meshd-bench-") as name:
        agents = MeshdAgents(options.peers_count + 1, Path(name))
        bare, walking = (bare_host(kind, options.peers_count) for kind in BARE_KINDS)
        try:
            agents.start()
            with bare as bare_process, walking as walking_process:
                time.sleep(options.settle_seconds)
                daemons = agents.daemons()
                groups = {
                    "py-libp2p": [bare_process],
                    "py-libp2p, walking": [walking_process],
                    "meshd": daemons,
                    "its sandbox worker": [child for one in daemons for child in one.children()],
                }
                costs = measure(groups, options.seconds, options.windows_count)
                _print_table(costs)
        finally:
            agents.stop()
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(
        f"settled for {options.settle_seconds:.0f} s, windows of {options.seconds:.0f} s;"
        f" {os.cpu_count()} cores, load averages at the end {load}"
    )


@contextmanager
def bare_host(kind: str, peers_count: int) -> Iterator[psutil.Process]:
    """Run a py-libp2p host whose peers are connected. Raises NotInTime if that failed."""
    command = [sys.executable, str(IDLE_HOST), f"--kind={kind}", f"--peers={peers_count}", "--hold"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            if not process.stdout.readline().startswith(b"ready"):
                raise NotInTime(f"the host of kind {kind} is not ready")
            yield psutil.Process(process.pid)
        finally:
            process.stdin.close()
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()


def measure(
    groups: dict[str, list[psutil.Process]], window_s: float, windows_count: int
) -> dict[str, list[Cost]]:
    """Return what each process of each group cost, all in the same windows."""
    processes = [process for group in groups.values() for process in group]
    looks = [_look(processes)]
    for _ in range(windows_count):
        time.sleep(window_s)
        looks.append(_look(processes))
    costs = {process.pid: _cost(process, looks) for process in processes}
    return {name: [costs[process.pid] for process in group] for name, group in groups.items()}


def _look(processes: Sequence[psutil.Process]) -> tuple[float, dict[int, float]]:
    """Return when it is, and the seconds of CPU of each process without its children."""
    used_s = {process.pid: sum(process.cpu_times()[:2]) for process in processes}
    return time.monotonic(), used_s


def _cost(process: psutil.Process, looks: Sequence[tuple[float, dict[int, float]]]) -> Cost:
    pid, memory = process.pid, process.memory_full_info()
    return Cost(
        windows_cpu_percent=tuple(
            100 * (after_s[pid] - before_s[pid]) / (end_s - begin_s)
            for (begin_s, before_s), (end_s, after_s) in itertools.pairwise(looks)
        ),
        rss_mib=memory.rss / 2**20,
        pss_mib=memory.pss / 2**20,
        uss_mib=memory.uss / 2**20,
        connections_count=sum(
            one.status == psutil.CONN_ESTABLISHED for one in process.net_connections("tcp")
        ),
    )


def _print_table(costs: dict[str, list[Cost]]) -> None:
    print(LINE.format(*HEAD))
    for name, group in costs.items():
        if group:
            print(_line(name, group))
    daemon_cpu_percent = mean(one.cpu_percent for one in costs["meshd"])
    for name in ("py-libp2p", "py-libp2p, walking"):
        (bare,) = costs[name]
        if bare.cpu_percent:
            print(f"CPU of meshd / of {name}: {daemon_cpu_percent / bare.cpu_percent:.2f}")


def _line(name: str, group: Sequence[Cost]) -> str:
    windows = zip(*(one.windows_cpu_percent for one in group), strict=True)
    return LINE.format(
        name,
        len(group),
        f"{mean(one.connections_count for one in group):.0f}",
        " ".join(f"{mean(window):.2f}" for window in windows),
        f"{mean(one.cpu_percent for one in group):.2f}",
        f"{mean(one.rss_mib for one in group):.0f}",
        f"{mean(one.pss_mib for one in group):.0f}",
        f"{mean(one.uss_mib for one in group):.0f}",
    )


if __name__ == "__main__":
    main()
