"""Membership of real processes on loopback: meshd beside Serf, in one run.

    python -m benchmarks.membership.serf [--agents 20] [--idle-seconds 60] [--serf PROGRAM]

Each mesh runs alone, one after the other: it starts, idles, then one agent is killed with SIGKILL
until all others hold it for dead. Prints one table. Ends every process that it started.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.membership.agents import POLL_S, Agents, NotInTime, end_on_sigterm, wait_until
from benchmarks.membership.meshd_agents import MeshdAgents
from benchmarks.membership.serf_agents import SerfAgents

SETTLE_S = 15.0
SEEN_S_MAX = 60.0
LOOK_EVERY_S = 5.0
LINE = "{:8} {:>6} {:>8} {:>7} {:>10} {:>7} {:>5} {:>12} {:>6} {:>18} {:>16}"

HEAD = (
    "mesh",
    "agents",
    "start s",
    "idle s",
    "idle CPU %",
    "waits %",
    "MiB",
    "false deaths",
    "alarms",
    "kill -9: first s",
    "seen by all s",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The figures of one mesh; times in seconds, CPU in percent of one core for each agent.

    `waits_percent` is the share of time in which an agent could run and did not get a core: on a
    machine that is busy with anything else a silence of seconds is real, and no false alarm.
    """

    start_s: float
    idle_s: float
    cpu_percent: float
    waits_percent: float
    memory_mib: float
    false_deaths_count: int
    alarms_count: int
    first_seen_s: float | None
    all_seen_s: float | None


def main() -> None:
    """Measure both, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--agents", type=int, default=20)
    parser.add_argument("--idle-seconds", type=float, default=60.0)
    parser.add_argument("--serf", default="serf", help="Serf's program, of the Debian package")
    parser.add_argument("--only", choices=("meshd", "serf"))
    options = parser.parse_args()
    program = shutil.which(options.serf)
    if program is None and options.only != "meshd":
        raise SystemExit(f"{options.serf}: no such program; docs/benchmarks.md says how to get it")
    end_on_sigterm()
    print(LINE.format(*HEAD), flush=True)
    with tempfile.TemporaryDirectory(prefix="meshd-bench-") as name:
        directory = Path(name)
        meshes: list[Agents] = []
        if options.only != "serf":
            meshes.append(MeshdAgents(options.agents, directory))
        if options.only != "meshd" and program is not None:
            meshes.append(SerfAgents(options.agents, directory, program=program))
        for agents in meshes:
            try:
                print(_line(agents, measure(agents, options.idle_seconds)), flush=True)
            finally:
                agents.stop()
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{os.cpu_count()} cores, load averages at the end {load}; looked every {POLL_S} s")


def measure(agents: Agents, idle_s: float) -> Measured:
    """Start a mesh, let it idle, and kill its last agent. Raises NotInTime if it does not start."""
    begun_s = time.monotonic()
    agents.start()
    start_s = time.monotonic() - begun_s
    time.sleep(SETTLE_S)
    alarms_before_count = agents.alarms_count()
    waited_before_s = agents.waited_s()
    cpu_percent, false_deaths_count = _idle(agents, idle_s)
    waited_s = agents.waited_s() - waited_before_s
    alarms_count = agents.alarms_count() - alarms_before_count
    memory_mib = agents.memory_mib()
    seen_s = _kill_one(agents)
    return Measured(
        start_s=start_s,
        idle_s=idle_s,
        cpu_percent=cpu_percent,
        waits_percent=100 * waited_s / idle_s / agents.count,
        memory_mib=memory_mib,
        false_deaths_count=false_deaths_count,
        alarms_count=alarms_count,
        first_seen_s=min(seen_s, default=None),
        all_seen_s=max(seen_s) if len(seen_s) == agents.count - 1 else None,
    )


def _idle(agents: Agents, idle_s: float) -> tuple[float, int]:
    """Return the percent of a core that each agent used, and the most false deaths of any look."""
    begun_s, before_s, worst_count = time.monotonic(), agents.cpu_s(), 0
    while (left_s := begun_s + idle_s - time.monotonic()) > 0:
        time.sleep(min(LOOK_EVERY_S, left_s))
        worst_count = max(worst_count, agents.false_deaths_count())
    used_s = agents.cpu_s() - before_s
    passed_s = time.monotonic() - begun_s
    return 100 * used_s / passed_s / agents.count, worst_count


def _kill_one(agents: Agents) -> list[float]:
    """Return the seconds after which each of the others held the last agent for dead, if it did."""
    victim = agents.count - 1
    begun_s = time.monotonic()
    agents.kill(victim)
    seen_s: dict[int, float] = {}

    def is_seen_by_all() -> bool:
        for observer in range(victim):
            if observer not in seen_s and agents.is_dead(agents.state(observer, victim)):
                seen_s[observer] = time.monotonic() - begun_s
        return len(seen_s) == victim

    try:
        wait_until(is_seen_by_all, "all hold the killed one for dead", within_s=SEEN_S_MAX)
    except NotInTime as late:
        print(f"{agents.name}: {late}; {len(seen_s)} of {victim} do")
    return list(seen_s.values())


def _line(agents: Agents, measured: Measured) -> str:
    return LINE.format(
        agents.name,
        agents.count,
        f"{measured.start_s:.1f}",
        f"{measured.idle_s:.0f}",
        f"{measured.cpu_percent:.2f}",
        f"{measured.waits_percent:.2f}",
        f"{measured.memory_mib:.0f}",
        measured.false_deaths_count,
        measured.alarms_count,
        _seconds(measured.first_seen_s),
        _seconds(measured.all_seen_s),
    )


def _seconds(value: float | None) -> str:
    return "not in time" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    main()
