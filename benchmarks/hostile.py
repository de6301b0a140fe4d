"""What hostile peers cost a real daemon: its memory, and the patience of an honest member.

    make bench-hostile                          # each kind for a minute: a quarter of an hour
    PYTHONPATH=tests python -m benchmarks.hostile --seconds 10 --together garbage big_frames

One daemon, one honest member with twenty heartbeats a second, and one kind of attacker after the
other, or several at once (`tests/support/attackers.py`), each in a process of its own. A row tells
the round trips of the honest member before and during the attack, by how much the daemon's memory
grew at most, and its share of a core; a line for each attacker, how many messages it sent, how
often it was refused, and after how many seconds it was refused for good.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import psutil
import structlog
import trio
from support.attackers import KINDS, attacking
from support.daemons import Daemons, Device, await_ready
from support.hard_daemons import invitation_of
from support.honest import Probe, probing, quantile

QUIET_S = 5.0
LOOK_EVERY_S = 0.1


async def measure(device: Device, probe: Probe, kinds: list[str], seconds: float) -> list[str]:
    """Return the row of some kinds of attackers at once, and what each of them says."""
    process = psutil.Process(device.process.pid)
    await trio.sleep(QUIET_S)
    quiet = probe.round_trips_s[:]
    rss_before = rss_max = process.memory_info().rss
    cpu_before = sum(process.cpu_times()[:2])
    token = await trio.to_thread.run_sync(lambda: device.invite(uses=len(kinds)))
    begun_s = trio.current_time()
    with ExitStack() as stack:
        attackers = [stack.enter_context(attacking(kind, token, seconds)) for kind in kinds]
        probe.round_trips_s.clear()
        while any(attacker.poll() is None for attacker in attackers):
            await trio.sleep(LOOK_EVERY_S)
            rss_max = max(rss_max, process.memory_info().rss)
        said = [attacker.communicate()[0].strip() for attacker in attackers]
    took_s = trio.current_time() - begun_s
    cpu = (sum(process.cpu_times()[:2]) - cpu_before) / took_s
    figures = [
        f"{1000 * quantile(times, share):7.1f}"
        for share in (0.5, 0.95, 1.0)
        for times in (quiet, probe.round_trips_s)
    ]
    grown_mib = (rss_max - rss_before) / (1 << 20)
    title = kinds[0] if len(kinds) == 1 else "together"
    row = f"{title:16}{''.join(figures)}  {grown_mib:6.1f} MiB  {cpu:5.0%}"
    return [row, *(f"    {kind}: {report}" for kind, report in zip(kinds, said, strict=True))]


async def run(rounds: list[list[str]], seconds: float) -> None:
    """Measure each round of attackers against a daemon of its own."""
    print(f"{'':16}   p50 ms        p95 ms        max ms      grown     CPU")
    print(f"{'':16}" + "  quiet   loud" * 3)
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
    """Print one row for each kind that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each attack lasts")
    parser.add_argument("--together", action="store_true", help="all of them at once")
    parser.add_argument("kinds", nargs="*", help=f"some of: {', '.join(KINDS)}")
    arguments = parser.parse_args()
    unknown = set(arguments.kinds) - set(KINDS)
    if unknown:
        sys.exit(f"no such kind: {', '.join(sorted(unknown))}")
    kinds = arguments.kinds or list(KINDS)
    rounds = [kinds] if arguments.together else [[kind] for kind in kinds]
    trio.run(run, rounds, arguments.seconds)


if __name__ == "__main__":
    main()
