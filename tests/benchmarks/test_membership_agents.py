"""Real agents beside each other: what the script starts works, is measured, and ends."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from benchmarks.membership.agents import Agents, NotInTime, wait_until
from benchmarks.membership.idle import bare_host, measure
from benchmarks.membership.meshd_agents import MeshdAgents
from benchmarks.membership.serf_agents import SerfAgents

SERF = shutil.which("serf") or ""
SLEEPER = "import time; sum(range(3_000_000)); print('ready', flush=True); time.sleep(600)"


class Sleepers(Agents):
    """Processes that do nothing, and say of each other what they are told to."""

    name = "sleepers"

    def __init__(self, count: int, directory: Path) -> None:
        super().__init__(count, directory)
        self.said: dict[int, str] = dict.fromkeys(range(count), "alive")

    def start(self) -> None:
        for index in range(self.count):
            process = self.launch(index, [sys.executable, "-c", SLEEPER])
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"

    def states(self, observer: int) -> Mapping[str, str]:
        return {self.agent(index): state for index, state in self.said.items()}

    def state(self, observer: int, subject: int) -> str:
        return self.said[subject]

    def is_well(self, state: str) -> bool:
        return state == "alive"

    def is_dead(self, state: str) -> bool:
        return state == "failed"

    def hang_up(self) -> None:
        pass


@contextmanager
def running(agents: Agents) -> Iterator[list[psutil.Process]]:
    """Start agents, and stop them whatever happens."""
    try:
        agents.start()
        yield [psutil.Process(process.pid) for process in agents.processes.values()]
    finally:
        agents.stop()


def test_every_process_that_was_started_is_ended(tmp_path: Path) -> None:
    agents = Sleepers(3, tmp_path)
    with running(agents) as processes:
        agents.kill(2)
        assert [one.is_running() for one in processes] == [True, True, False]
        assert agents.memory_mib() > 1
    assert not any(one.is_running() for one in processes)


def test_only_views_of_those_that_run_are_false_deaths(tmp_path: Path) -> None:
    agents = Sleepers(3, tmp_path)
    with running(agents):
        assert agents.is_full()
        agents.said[2] = "failed"
        assert not agents.is_full()
        assert agents.false_deaths_count() == 3
        agents.kill(2)
        assert agents.false_deaths_count() == 0


def test_lines_of_logs_that_take_somebody_for_dead_are_counted(tmp_path: Path) -> None:
    agents = Sleepers(2, tmp_path)
    agents.alarms = (b"member.dead", b"member.degraded")
    agents.log(0).write_text("mesh.joined\nmember.dead peer\nmember.alive peer\n")
    agents.log(1).write_text("member.degraded peer\n")
    assert agents.alarms_count() == 2


def test_idle_processes_are_measured_in_the_same_windows(tmp_path: Path) -> None:
    busy = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True); time.sleep(60)"
    agents = Sleepers(1, tmp_path)
    with running(agents) as (idle,):
        worker = agents.launch(1, [sys.executable, "-c", busy])
        costs = measure({"idle": [idle], "busy": [psutil.Process(worker.pid)]}, 1.0, 2)
    (idle_cost,), (busy_cost,) = costs["idle"], costs["busy"]
    assert idle_cost.cpu_percent < 5 < busy_cost.cpu_percent
    assert len(busy_cost.windows_cpu_percent) == 2
    assert 1 < idle_cost.uss_mib <= idle_cost.pss_mib <= idle_cost.rss_mib


def test_a_bare_host_is_there_while_it_is_asked_for_and_its_peers_end_with_it() -> None:
    with bare_host("bare", 2) as host:
        processes = [host, *host.children()]
        (cost,) = measure({"bare": [host]}, 0.5, 1)["bare"]
        assert cost.connections_count == 2
        assert len(processes) == 2
    psutil.wait_procs(processes, timeout=30)
    assert not any(one.is_running() for one in processes)


def test_waiting_has_an_end() -> None:
    with pytest.raises(NotInTime, match="pigs fly"):
        wait_until(lambda: False, "pigs fly", within_s=0.3)


def test_two_daemons_know_each_other_and_one_misses_the_other(tmp_path: Path) -> None:
    agents = MeshdAgents(2, tmp_path)
    with running(agents) as processes:
        assert set(agents.states(1)) == {"agent-0", "agent-1"}
        agents.kill(1)
        wait_until(lambda: not agents.is_well(agents.state(0, 1)), "it is missed", within_s=60)
    assert not any(one.is_running() for one in processes)


if SERF:  # no dependency of the tests: installed, it would listen on all addresses

    def test_serf_agents_know_each_other_and_one_that_was_killed_fails(tmp_path: Path) -> None:
        agents = SerfAgents(3, tmp_path, program=SERF)
        with running(agents):
            agents.kill(2)
            observers = (0, 1)
            wait_until(
                lambda: all(agents.is_dead(agents.state(one, 2)) for one in observers),
                "both hold it for dead",
                within_s=60,
            )
            assert agents.false_deaths_count() == 0


def test_a_run_that_is_told_to_end_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.membership.serf", "--only=meshd", "--agents=2"]
    with (tmp_path / "out").open("wb") as out:
        run = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        deadline_s = time.monotonic() + 60
        while not (children := psutil.Process(run.pid).children(recursive=True)):
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == 128 + signal.SIGTERM
        assert not any(child.is_running() for child in children)
    finally:
        run.kill()
        run.wait()
