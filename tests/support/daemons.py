"""Real daemons as child processes on loopback, for tests of what only whole processes can show.

Each is the script that a person would type, with a home of its own and port 0. Whatever a test does
to them, `Daemons` ends every one by its process id; their logs go into the report of a failure.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from meshd.client import ControlClient, TaskInput
from meshd.control_errors import ControlError
from meshd.control_frames import Frame

BINARIES = Path(sys.executable).parent
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
# The machine may be busy with anything else: these only bound how long a broken test takes.
READY_S_MAX = 90.0
PATIENCE_S = 90.0
STOP_S_MAX = 30.0
POLL_S = 0.1
LOG_LINES_SHOWN = 60
# Round trips between processes that fight for two cores say nothing about a network.
TEST_SETTINGS = {"MESHD_BREAKER__LATENCY_MS_MAX": "60000"}

Answer = TypeVar("Answer")


@dataclass(slots=True, kw_only=True)
class Device:
    """One daemon. `process` is the current one; a restart on the same home replaces it."""

    name: str
    home: Path
    flags: tuple[str, ...]
    environ: Mapping[str, str]
    prefix: tuple[str, ...] = ()
    process: subprocess.Popen[bytes]
    starts_count: int = 1
    _client: ControlClient | None = None

    @property
    def client(self) -> ControlClient:
        """A connection to the daemon that runs now."""
        if self._client is None:
            self._client = ControlClient(self.home)
        return self._client

    def ask(self, command: str, **fields: object) -> Frame:
        """Return the answer to one command."""
        try:
            return self.client.ask({"command": command, **fields})
        except ControlError:
            self.hang_up()  # a connection that failed is of no further use
            raise

    def hang_up(self) -> None:
        """Close the connection to the daemon."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @property
    def out(self) -> Path:
        """What the current process printed: the ready line."""
        return self.home.parent / f"{self.name}.{self.starts_count}.out"

    @property
    def log(self) -> Path:
        """What the current process told on standard error."""
        return self.home.parent / f"{self.name}.{self.starts_count}.log"

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    @property
    def id(self) -> str:
        """The peer id, of the ready line."""
        return self.out.read_text().split()[2]

    @property
    def address(self) -> str:
        """The first address it listens at, of the ready line."""
        return self.out.read_text().partition("listening on ")[2].split(",")[0].split()[0]

    @property
    def port(self) -> int:
        """The TCP port it listens at."""
        return int(self.address.rpartition("/")[2])

    def invite(self, uses: int = 1) -> str:
        """Return an invitation to its mesh."""
        return str(self.ask("invite", uses=uses)["token"])

    def peers(self) -> dict[str, Frame]:
        """Return the mesh as it sees it, by name, itself included."""
        return {peer["name"]: peer for peer in self.ask("peers")["peers"]}

    def workers(self) -> list[psutil.Process]:
        """Return the processes that it started, and theirs."""
        return psutil.Process(self.process.pid).children(recursive=True)

    # --- work -----------------------------------------------------------------------------------

    def submit(self, module: bytes, *tasks: TaskInput, **options: object) -> list[str]:
        """Return the ids of the tasks of one batch."""
        try:
            accepted = self.client.submit(module, tasks or (TaskInput(),), **options)
        except ControlError:
            self.hang_up()
            raise
        return [str(task) for task in accepted["tasks"]]

    def task(self, task: str) -> Frame:
        """Return how a task stands."""
        return self.ask("task", task=task)

    def wait(self, task: str) -> Frame:
        """Return a task when it is decided."""
        return until(
            lambda: view if (view := self.task(task))["is_decided"] else None,
            f"task {task} was not decided",
            self,
        )

    def result(self, task: str) -> bytes:
        """Return what a task wrote to standard output."""
        return self._download("stdout", command="result", task=task)

    def receipt(self, task: str) -> bytes:
        """Return a task's receipt with the key that its output can be checked with."""
        return self._download("receipt", command="receipt", task=task, with_digest_key=True)

    def _download(self, stream: str, **request: object) -> bytes:
        received = bytearray()

        def take(name: str, chunk: bytes) -> None:
            if name == stream:
                received.extend(chunk)

        try:
            self.client.download(request, take)
        except ControlError:
            self.hang_up()
            raise
        return bytes(received)

    # --- ends -----------------------------------------------------------------------------------

    def kill(self) -> None:
        """End it with `kill -9`, as a power cut would."""
        self.hang_up()
        self.process.kill()
        self.process.wait(STOP_S_MAX)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop by a signal; return its exit code."""
        self.hang_up()
        self.process.send_signal(number)
        return self.process.wait(STOP_S_MAX)


@dataclass(slots=True)
class Daemons:
    """The daemons of one test module, in one directory. A context manager."""

    directory: Path
    devices: list[Device] = field(default_factory=list)

    def __enter__(self) -> Daemons:
        """Return itself."""
        _open.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        """End all that still run: first politely, then by force."""
        _open.remove(self)
        running = [device for device in self.devices if device.is_running]
        for device in self.devices:
            device.hang_up()
        for device in running:
            device.process.terminate()
        for device in running:
            try:
                device.process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                device.process.kill()
                device.process.wait()

    def start(
        self,
        name: str,
        *flags: str,
        join: str | None = None,
        listen: str = LOOPBACK,
        environ: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> Device:
        """Start a daemon and return at once; see `await_ready`.

        `prefix` is put before the command, such as `ip netns exec NAME`.
        """
        home = self.directory / name
        settings = ("--name", name, "--profile", "local", "--listen", listen, *flags)
        device = Device(
            name=name,
            home=home,
            flags=settings,
            environ=environ or {},
            prefix=tuple(prefix),
            process=_launch(self.directory, home, settings, environ or {}, prefix, join, 1),
        )
        self.devices.append(device)
        return device

    def restart(self, device: Device, *, listen: str | None = None) -> None:
        """Start a daemon that ended again on the same home, and return at once. Never `--join`."""
        assert not device.is_running, f"{device.name} still runs"
        device.hang_up()
        if listen is not None:
            flags = list(device.flags)
            flags[flags.index("--listen") + 1] = listen
            device.flags = tuple(flags)
        device.starts_count += 1
        device.process = _launch(
            self.directory,
            device.home,
            device.flags,
            device.environ,
            device.prefix,
            None,
            device.starts_count,
        )

    def start_joined(self, first: Device, names: Sequence[str], *flags: str) -> list[Device]:
        """Start devices that join the mesh of `first` all at once; return when all are ready."""
        token = first.invite(uses=len(names))
        devices = [self.start(name, *flags, join=token) for name in names]
        await_ready(*devices)
        return devices


def await_ready(*devices: Device) -> None:
    """Return when each said that it is ready."""
    for device in devices:
        until(
            functools.partial(_is_ready, device),
            f"{device.name} was not ready",
            device,
            within_s=READY_S_MAX,
        )


def await_linked(*devices: Device) -> None:
    """Return when each sees each as linked and knows what it can do."""
    wanted = {device.id for device in devices}
    for device in devices:
        until(
            functools.partial(_sees_linked, device, wanted - {device.id}),
            f"{device.name} did not link to all others",
            *devices,
        )


def until(
    condition: Callable[[], Answer | None],
    complaint: str,
    *devices: Device,
    within_s: float = PATIENCE_S,
) -> Answer:
    """Return what `condition` returns once that is true; `devices` must stay alive meanwhile."""
    deadline_s = time.monotonic() + within_s
    while not (answer := condition()):
        for device in devices:
            if not device.is_running:
                pytest.fail(f"{complaint}: {device.name} ended ({device.process.returncode})")
        if time.monotonic() > deadline_s:
            pytest.fail(f"{complaint} within {within_s:.0f} s")
        time.sleep(POLL_S)
    return answer


def free_address() -> str:
    """Return an address that a daemon can listen at now, and again after a restart."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"


def meshctl(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `meshctl` as a person would."""
    return _run("meshctl", home, *arguments)


def meshd(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `meshd` as a person would, for what ends by itself."""
    return _run("meshd", home, *arguments)


def logs_of_open_daemons() -> Iterator[tuple[str, str]]:
    """Yield the name and the last lines of every log of the daemons that a test may have used."""
    for daemons in _open:
        for device in daemons.devices:
            lines = device.log.read_text(errors="replace").splitlines()
            state = "running" if device.is_running else f"ended ({device.process.returncode})"
            yield f"{device.name}, {state}", "\n".join(lines[-LOG_LINES_SHOWN:])


_open: list[Daemons] = []


def _launch(
    directory: Path,
    home: Path,
    flags: Sequence[str],
    environ: Mapping[str, str],
    prefix: Sequence[str],
    join: str | None,
    number: int,
) -> subprocess.Popen[bytes]:
    command = [*prefix, str(BINARIES / "meshd"), "start", "--home", str(home), *flags]
    # By standard input: an argument would be there for all to read in the process list.
    command += ["--join", "-"] if join is not None else []
    inherited = {key: text for key, text in os.environ.items() if not key.startswith("MESHD_")}
    with (
        (directory / f"{home.name}.{number}.out").open("wb") as out,
        (directory / f"{home.name}.{number}.log").open("wb") as log,
    ):
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=log,
            env={**inherited, **TEST_SETTINGS, **environ},
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write((join or "").encode() + b"\n")
    return process


def _run(command: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BINARIES / command), "--home", str(home), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        stdin=subprocess.DEVNULL,
    )


def _is_ready(device: Device) -> bool:
    return device.out.read_bytes().startswith(b"ready")


def _sees_linked(device: Device, wanted: set[str]) -> bool:
    peers = device.ask("peers")["peers"]
    linked = {peer["id"] for peer in peers if peer["state"] == "linked" and peer["capabilities"]}
    return wanted <= linked
