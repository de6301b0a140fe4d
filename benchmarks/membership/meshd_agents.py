"""Real daemons on loopback, asked over their control sockets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.membership.agents import Agents, NotInTime
from meshd.client import ControlClient

BINARIES = Path(sys.executable).parent
LOG_SHOWN = 2_000  # characters
STARTING_COUNT = 4  # at once: each start takes seconds of CPU


class MeshdAgents(Agents):
    """Daemons with profile `local`, joined by one invitation of the first."""

    name = "meshd"
    alarms = (b"member.degraded", b"member.dead")

    def __init__(self, count: int, directory: Path) -> None:
        super().__init__(count, directory)
        self._clients: dict[int, ControlClient] = {}

    def start(self) -> None:
        """Start the first, then the others a few at a time. Raises NotInTime."""
        self._await_ready(0, self._launch(0, None))
        token = str(self._clients[0].ask({"command": "invite", "uses": self.count})["token"])
        for begin in range(1, self.count, STARTING_COUNT):
            indices = range(begin, min(begin + STARTING_COUNT, self.count))
            started = [(index, self._launch(index, token)) for index in indices]
            for index, process in started:
                self._await_ready(index, process)
        self.wait_until_full()

    def _launch(self, index: int, token: str | None) -> subprocess.Popen[bytes]:
        command = [str(BINARIES / "meshd"), "start", "--home", str(self._home(index))]
        command += ["--name", self.agent(index), "--profile", "local"]
        command += ["--listen", "/ip4/127.0.0.1/tcp/0", *(["--join", "-"] if token else [])]
        process = self.launch(index, command)
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        process.stdin.write(f"{token or ''}\n".encode())
        process.stdin.close()
        return process

    def _await_ready(self, index: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        line = process.stdout.readline()  # ends too when the process does
        if not line.startswith(b"ready"):
            log = self.log(index).read_text(errors="replace")
            raise NotInTime(f"{self.agent(index)} is not ready; its log ends\n{log[-LOG_SHOWN:]}")
        self._clients[index] = ControlClient(self._home(index))

    def _home(self, index: int) -> Path:
        return self.directory / self.agent(index)

    def states(self, observer: int) -> Mapping[str, str]:
        """Return what a daemon says of all."""
        peers = self._clients[observer].ask({"command": "peers"})["peers"]
        return {peer["name"]: peer["state"] for peer in peers}

    def state(self, observer: int, subject: int) -> str:
        """Return what a daemon says of another."""
        answer = self._clients[observer].ask({"command": "peer", "peer": self.agent(subject)})
        return str(answer["state"])

    def is_well(self, state: str) -> bool:
        """Those with a link are, those that need none, and itself."""
        return state in {"self", "linked", "known"}

    def is_dead(self, state: str) -> bool:
        """`dead` is."""
        return state == "dead"

    def hang_up(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
