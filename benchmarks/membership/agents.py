"""Real processes on loopback that form one mesh, whatever program they are."""

from __future__ import annotations

import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

import psutil

START_S_MAX = 300.0  # bounds a run on a machine that is busy with anything else
STOP_S_MAX = 20.0
POLL_S = 0.2
FULL_POLL_S = 1.0  # to ask everybody about all costs more than to ask about one


class NotInTime(Exception):
    """Agents did not get to where they had to be; their logs are in the directory of the run."""


class Agents(ABC):
    """Agents 0 to `count` - 1, each a process of its own that writes its log into `directory`.

    Whoever makes them calls `stop`, which ends every process that was started here, by its id.
    """

    name: str
    alarms: tuple[bytes, ...] = ()  # what a line of a log holds that takes somebody for ill or dead

    def __init__(self, count: int, directory: Path) -> None:
        self.count = count
        self.directory = directory
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    @abstractmethod
    def start(self) -> None:
        """Start all, joined to the first. Raises NotInTime."""

    @abstractmethod
    def states(self, observer: int) -> Mapping[str, str]:
        """Return what an agent says of all, itself included, by name."""

    @abstractmethod
    def state(self, observer: int, subject: int) -> str:
        """Return what an agent says of another, in its own words."""

    @abstractmethod
    def is_well(self, state: str) -> bool:
        """Say whether a state is that of a living member."""

    @abstractmethod
    def is_dead(self, state: str) -> bool:
        """Say whether a state is that of a member which is held for dead."""

    @abstractmethod
    def hang_up(self) -> None:
        """Close the connections to all agents."""

    def agent(self, index: int) -> str:
        """Return the name of an agent."""
        return f"agent-{index}"

    def log(self, index: int) -> Path:
        """Return where an agent's standard error goes."""
        return self.directory / f"{self.name}-{index}.log"

    def launch(self, index: int, command: list[str]) -> subprocess.Popen[bytes]:
        """Start an agent's process; its standard input and output are pipes."""
        with self.log(index).open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        self.processes[index] = process
        return process

    def kill(self, index: int) -> None:
        """End an agent as `kill -9` does."""
        process = self.processes.pop(index)
        process.send_signal(signal.SIGKILL)
        process.wait(STOP_S_MAX)
        _close_pipes(process)

    def stop(self) -> None:
        """End all agents, at last by force."""
        self.hang_up()
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_S_MAX)
            _close_pipes(process)
        self.processes.clear()

    def wait_until_full(self) -> None:
        """Wait until each agent takes all for living members. Raises NotInTime."""
        what = f"all of {self.name} know each other"
        wait_until(self.is_full, what, within_s=START_S_MAX, look_every_s=FULL_POLL_S)

    # What is measured.

    def is_full(self) -> bool:
        """Say whether each agent takes all for living members."""
        return all(
            len(states) == self.count and all(map(self.is_well, states.values()))
            for states in map(self.states, sorted(self.processes))
        )

    def false_deaths_count(self) -> int:
        """Return how many views of a running agent are dead."""
        running = {self.agent(index) for index in self.processes}
        return sum(
            self.is_dead(state)
            for observer in sorted(self.processes)
            for name, state in self.states(observer).items()
            if name in running
        )

    def alarms_count(self) -> int:
        """Return how many lines of all logs take somebody for ill or dead, so far."""
        return sum(
            any(alarm in line for alarm in self.alarms)
            for index in range(self.count)
            for line in self.log(index).read_bytes().splitlines()
        )

    def cpu_s(self) -> float:
        """Return the seconds of CPU that all agents have used, with the processes they started."""
        return sum(_cpu_s(one) for one in self._all_processes())

    def waited_s(self) -> float:
        """Return the seconds that all agents could have run and did not get a core."""
        return sum(_waited_s(process.pid) for process in self.processes.values())

    def memory_mib(self) -> float:
        """Return the resident memory of an agent alone, mean over all."""
        own = self.daemons()
        return sum(one.memory_info().rss for one in own) / len(own) / 2**20

    def daemons(self) -> list[psutil.Process]:
        """Return the processes of the agents alone."""
        return [psutil.Process(process.pid) for process in self.processes.values()]

    def _all_processes(self) -> list[psutil.Process]:
        own = self.daemons()
        return own + [child for one in own for child in one.children(recursive=True)]


def wait_until(
    is_reached: Callable[[], bool], what: str, *, within_s: float, look_every_s: float = POLL_S
) -> float:
    """Return the seconds until something is so. Raises NotInTime."""
    begun_s = time.monotonic()
    while not is_reached():
        if time.monotonic() - begun_s > within_s:
            raise NotInTime(f"not within {within_s:.0f} s: {what}")
        time.sleep(look_every_s)
    return time.monotonic() - begun_s


def end_on_sigterm() -> None:
    """Leave the program as by an exception when told to end, so that agents are ended, too."""
    signal.signal(signal.SIGTERM, _end)


def _end(signal_number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signal_number)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _waited_s(pid: int) -> float:
    """Read what the scheduler knows of a process's main thread (Linux, sched-stats.rst)."""
    path = Path(f"/proc/{pid}/schedstat")
    return int(path.read_text().split()[1]) / 1e9 if path.exists() else 0.0


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
