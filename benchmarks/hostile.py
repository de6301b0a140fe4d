"""What hostile peers cost a real daemon: its memory, and the patience of an honest member.

    make bench-hostile [SECONDS=60] [KINDS="forged_records subscriptions"]

One daemon, one honest member with twenty heartbeats a second, and one kind of attacker after the
other (`tests/support/attackers.py`), each in a process of its own. A row tells the round trips of
the honest member before and during the attack, how much the daemon's memory grew at most, when the
attacker was shut out for good, and what it did.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
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


async def measure(device: Device, probe: Probe, kind: str, seconds: float) -> str:
    """Return the row of one kind of attacker."""
    process = psutil.Process(device.process.pid)
    await trio.sleep(QUIET_S)
    quiet = probe.round_trips_s[:]
    rss_before = rss_max = process.memory_info().rss
    cpu_before = sum(process.cpu_times()[:2])
    probe.round_trips_s.clear()
    token = await trio.to_thread.run_sync(device.invite)
    begun_s = trio.current_time()
    with attacking(kind, token, seconds) as attacker:
        while attacker.poll() is None:
            await trio.sleep(LOOK_EVERY_S)
            rss_max = max(rss_max, process.memory_info().rss)
        said = attacker.communicate()[0].strip().splitlines()
    took_s = trio.current_time() - begun_s
    cpu = (sum(process.cpu_times()[:2]) - cpu_before) / took_s
    loud = probe.round_trips_s[:]
    probe.round_trips_s.clear()
    report = json.loads(said[-1]) if said else {"failed": attacker.returncode}
    figures = [
        f"{1000 * quantile(times, share):7.1f}"
        for share in (0.5, 0.95, 1.0)
        for times in (quiet, loud)
    ]
    grown_mib = (rss_max - rss_before) / (1 << 20)
    return f"{kind:16}{''.join(figures)}  {grown_mib:6.1f} MiB  {cpu:5.0%}  {report}"


async def run(kinds: list[str], seconds: float) -> None:
    """Measure each kind against a daemon of its own."""
    print(f"{'':16}   p50 ms        p95 ms        max ms      grown     CPU   the attacker")
    print(f"{'':16}" + "  quiet   loud" * 3)
    for kind in kinds:
        with tempfile.TemporaryDirectory() as directory, Daemons(Path(directory)) as daemons:
            device = daemons.start("attacked")
            await trio.to_thread.run_sync(await_ready, device)
            structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
            async with probing(await invitation_of(device)) as probe:
                print(await measure(device, probe, kind, seconds), flush=True)
            counters = device.ask("status")["counters"]
            print("   ", {name: count for name, count in counters.items() if count}, flush=True)


def main() -> None:
    """Print one row for each kind that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each attack lasts")
    parser.add_argument("kinds", nargs="*", help=f"some of: {', '.join(KINDS)}")
    arguments = parser.parse_args()
    unknown = set(arguments.kinds) - set(KINDS)
    if unknown:
        sys.exit(f"no such kind: {', '.join(sorted(unknown))}")
    trio.run(run, arguments.kinds or list(KINDS), arguments.seconds)


if __name__ == "__main__":
    main()
