"""What hostile peers cost a real daemon: its memory, and the patience of an honest member.

    make bench-hostile                          # each kind for a minute, then all at once
    PYTHONPATH=tests python -m benchmarks.hostile --seconds 10 --together garbage big_frames

One daemon, one honest member with twenty heartbeats a second, and one kind of attacker after the
other, or several at once (`tests/support/attackers.py`), each in a process of its own that starts
and joins before anything is measured. A row tells the round trips of the honest member before and
during the attack, by how much the daemon's memory grew at most, and its CPU time; a line for each
attacker, how many messages it sent, how often it was refused, and after how many seconds it was
refused for good.

On one machine attackers take CPU time as well, which elsewhere they do not take from the daemon.
They run under SCHED_IDLE, so that they get what the daemon and the member leave, and the row says
how long these two were ready to run and had to wait for a core: that part of a round trip is
the machine's. Still, a daemon that shares two cores with fifteen attackers has cold caches.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog
import trio
from support.attackers import KINDS, attacking, await_readiness, begin, report_of
from support.daemons import Daemons, Device, await_ready
from support.hard_daemons import invitation_of
from support.honest import Probe, probing, quantile

QUIET_S = 10.0
LOOK_EVERY_S = 0.1
_NS_PER_S = 1e9


@dataclass(frozen=True, slots=True)
class Usage:
    """What the threads of a process had so far, in seconds: on a core, and waiting for one."""

    user_s: float
    system_s: float
    waited_s: float

    @classmethod
    def of(cls, process: psutil.Process) -> Usage:
        """Return the usage of a process."""
        times = process.cpu_times()
        return cls(times.user, times.system, sum(_waits_s(process.pid)))

    def per_s(self, before: Usage, seconds: float) -> str:
        """Return the usage since `before` in milliseconds a second."""
        shares = (
            self.user_s - before.user_s,
            self.system_s - before.system_s,
            self.waited_s - before.waited_s,
        )
        return "".join(f"{1_000 * share / seconds:6.0f}" for share in shares)


def _waits_s(pid: int) -> Iterator[float]:
    """Yield how long each thread of a process was ready to run and did not (`schedstat`)."""
    for schedstat in Path("/proc", str(pid), "task").glob("*/schedstat"):
        yield int(schedstat.read_text().split()[1]) / _NS_PER_S


async def measure(device: Device, probe: Probe, kinds: list[str], seconds: float) -> list[str]:
    """Return the row of some kinds of attackers at once, and what each of them says."""
    process = psutil.Process(device.process.pid)
    token = await trio.to_thread.run_sync(lambda: device.invite(uses=len(kinds)))
    with ExitStack() as stack:
        attackers = []
        for kind in kinds:
            attackers.append(stack.enter_context(attacking(kind, token, seconds)))
            await await_readiness(attackers[-1])
        probe.round_trips_s.clear()
        await trio.sleep(QUIET_S)
        quiet = probe.round_trips_s[:]
        rss_before = rss_max = process.memory_info().rss
        before, probe_before = Usage.of(process), Usage.of(psutil.Process())
        begun_s = trio.current_time()
        probe.round_trips_s.clear()
        for attacker in attackers:
            begin(attacker)
        while any(attacker.poll() is None for attacker in attackers):
            await trio.sleep(LOOK_EVERY_S)
            rss_max = max(rss_max, process.memory_info().rss)
        took_s = trio.current_time() - begun_s
        usage = Usage.of(process).per_s(before, took_s)
        probe_waited = Usage.of(psutil.Process()).per_s(probe_before, took_s)[-6:]
        reports = [report_of(attacker) for attacker in attackers]
    figures = [
        f"{1000 * quantile(times, share):7.1f}"
        for share in (0.5, 0.95, 1.0)
        for times in (quiet, probe.round_trips_s)
    ]
    grown_mib = (rss_max - rss_before) / (1 << 20)
    title = kinds[0] if len(kinds) == 1 else "together"
    row = f"{title:16}{''.join(figures)}{grown_mib:7.1f}{usage}{probe_waited}"
    return [row, *(f"    {kind}: {report}" for kind, report in zip(kinds, reports, strict=True))]


async def run(rounds: list[list[str]], seconds: float) -> None:
    """Measure each round of attackers against a daemon of its own."""
    print(f"{'':16}{'p50 ms':>14}{'p95 ms':>14}{'max ms':>14}  grown  daemon, ms a second member")
    print(f"{'':16}" + "  quiet   loud" * 3 + "    MiB  user   sys waited waited")
    for kinds in rounds:
        with tempfile.TemporaryDirectory() as directory, Daemons(Path(directory)) as daemons:
            device = daemons.start("attacked")
            await trio.to_thread.run_sync(await_ready, device)
            structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
            async with probing(await invitation_of(device)) as probe:
                print(*await measure(device, probe, kinds, seconds), sep="\n", flush=True)
            counters = device.ask("status")["counters"]
            print("   ", {name: count for name, count in counters.items() if count}, flush=True)


def main() -> None:
    """Print one row for each kind that was asked for, and one for all at once."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each attack lasts")
    parser.add_argument("--together", action="store_true", help="only all of them at once")
    parser.add_argument("kinds", nargs="*", help=f"some of: {', '.join(KINDS)}")
    arguments = parser.parse_args()
    unknown = set(arguments.kinds) - set(KINDS)
    if unknown:
        sys.exit(f"no such kind: {', '.join(sorted(unknown))}")
    kinds = arguments.kinds or list(KINDS)
    rounds = [] if arguments.together else [[kind] for kind in kinds]
    trio.run(run, [*rounds, *([kinds] if len(kinds) > 1 else [])], arguments.seconds)


if __name__ == "__main__":
    main()
