"""The figures of the first path: start, idle cost, submit, join. Real daemons on loopback.

    python benchmarks/first_path.py [--submits 50] [--idle-seconds 30]

Prints one table. `idle` compares a daemon that has two peers with a bare py-libp2p host that has
two (GossipSub with a heartbeat of 1 s, Kademlia), measured one after the other in one run.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from meshd.client import ControlClient

REPOSITORY = Path(__file__).resolve().parents[1]
BINARIES = Path(sys.executable).parent
MODULE = REPOSITORY / "examples" / "faults" / "echo.wasm"
READY_S_MAX = 60.0


class Daemon:
    """One daemon with a home of its own."""

    def __init__(self, directory: Path, name: str, join: str | None = None) -> None:
        self.home = directory / name
        command = [str(BINARIES / "meshd"), "start", "--home", str(self.home), "--name", name]
        command += ["--profile", "local", "--listen", "/ip4/127.0.0.1/tcp/0"]
        command += ["--join", "-"] if join is not None else []
        self.started_s = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(directory / f"{name}.log").open("wb"),
            text=True,
        )
        assert self.process.stdin is not None  # noqa: S101 - it is a pipe
        assert self.process.stdout is not None  # noqa: S101 - it is a pipe
        self.process.stdin.write(f"{join or ''}\n")
        self.process.stdin.close()
        line = self.process.stdout.readline()
        self.ready_s = time.monotonic() - self.started_s
        if not line.startswith("ready"):
            raise SystemExit((directory / f"{name}.log").read_text())

    def client(self) -> ControlClient:
        """Return a connection to its control socket."""
        return ControlClient(self.home)

    def stop(self) -> None:
        """Stop it and wait."""
        self.process.terminate()
        self.process.wait(10)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--submits", type=int, default=50)
    parser.add_argument("--idle-seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meshd-bench-") as name:
        directory = Path(name)
        daemons = [Daemon(directory, "first")]
        try:
            print(f"start to ready, new home              {daemons[0].ready_s:8.2f} s")
            daemons += [
                _join(daemons[0], directory, "second"),
                _join(daemons[0], directory, "third"),
            ]
            _measure_restart(daemons, directory)
            _measure_idle(daemons, arguments.idle_seconds)
            _measure_submit(daemons[0], arguments.submits)
        finally:
            for daemon in daemons:
                daemon.stop()


def _join(first: Daemon, directory: Path, name: str) -> Daemon:
    """Start another device and time it to the first result of a task that only it may run."""
    with first.client() as client:
        token = client.ask({"command": "invite"})["token"]
    daemon = Daemon(directory, name, join=token)
    _await_linked(daemon, first)
    code, _ = _timed_submit(daemon)
    if code != 0:
        raise SystemExit(f"a submit at {name} ended with {code}")
    seconds = time.monotonic() - daemon.started_s
    print(f"{name}: join command to first result  {seconds:8.2f} s")
    return daemon


def _await_linked(daemon: Daemon, other: Daemon) -> None:
    deadline_s = time.monotonic() + READY_S_MAX
    name = other.home.name
    with daemon.client() as client:
        while time.monotonic() < deadline_s:
            peers = client.ask({"command": "peers"})["peers"]
            if any(peer["name"] == name and peer["state"] == "linked" for peer in peers):
                return
            time.sleep(0.05)
    raise SystemExit(f"{daemon.home.name} did not link to {name}")


def _measure_restart(daemons: list[Daemon], directory: Path) -> None:
    daemons[2].stop()
    daemons[2] = Daemon(directory, "third")
    _await_linked(daemons[2], daemons[0])
    print(f"start to ready, known home            {daemons[2].ready_s:8.2f} s")


def _measure_idle(daemons: Sequence[Daemon], seconds: float) -> None:
    process = psutil.Process(daemons[0].process.pid)
    time.sleep(5)
    before_s = _cpu_s(process)
    time.sleep(seconds)
    share = 100 * (_cpu_s(process) - before_s) / seconds
    memory_mib = process.memory_info().rss / 2**20
    workers_mib = sum(child.memory_info().rss for child in process.children()) / 2**20
    bare = subprocess.run(
        [
            sys.executable,
            str(REPOSITORY / "benchmarks" / "idle_host.py"),
            "--kind=bare",
            "--peers=2",
            f"--seconds={seconds:.0f}",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    print(
        f"idle, two peers: daemon               {share:8.2f} % of a core, {memory_mib:.0f} MiB"
        f" and {workers_mib:.0f} MiB in its worker"
    )
    print(f"idle, two peers: bare py-libp2p       {re.sub(r'[ ]+', ' ', bare.strip())}")


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _measure_submit(daemon: Daemon, count: int) -> None:
    times_s = []
    for _ in range(count + 1):
        code, seconds = _timed_submit(daemon)
        if code != 0:
            raise SystemExit(f"a submit ended with {code}")
        times_s.append(seconds)
    measured = sorted(times_s[1:])  # the first may compile
    p95 = measured[min(len(measured) - 1, int(0.95 * len(measured)))]
    print(
        f"meshctl submit, process start to exit {statistics.median(measured):8.3f} s p50,"
        f" {p95:.3f} s p95 of {count}"
    )


def _timed_submit(daemon: Daemon) -> tuple[int, float]:
    started_s = time.monotonic()
    command = [str(BINARIES / "meshctl"), "--home", str(daemon.home), "submit", str(MODULE)]
    code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
    return code, time.monotonic() - started_s


if __name__ == "__main__":
    main()
