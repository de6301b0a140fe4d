"""meshd start, stop and version."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner
from support.commands import json_of, process_environment, run_in_process
from support.control_node import ScriptedNode, serving_in_thread

from meshd.cli import stopping
from meshd.cli.meshd import cli as meshd
from meshd.cli.starting import given_invitation
from meshd.config import Config
from meshd.daemon import StartOptions
from meshd.errors import StoreFailed
from meshd.home import Home, lock_home, open_home
from meshd.keyfile import read_seed
from wire.ids import MeshId, PeerId
from wire.membership import Invitation, invitation_text

# A daemon that is nothing but a control socket: it ends when it is told to, or refuses to.
FAKE_DAEMON = """
import sys, trio
from pathlib import Path
from support.control_node import ScriptedNode
from meshd.home import control_socket_path

async def main():
    node, stopped = ScriptedNode(), trio.Event()
    node.stop = stopped.set if sys.argv[2] == "obeys" else (lambda: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.server(control_socket_path(Path(sys.argv[1]))).run)
        print("ready", flush=True)
        await stopped.wait()
        nursery.cancel_scope.cancel()

trio.run(main)
"""


class Started:
    """What `meshd start` starts the daemon with, instead of starting one."""

    def __init__(self) -> None:
        self.config: Config | None = None
        self.seed = b""
        self.options: StartOptions | None = None
        self.fails_with: Exception | None = None

    def run(self, config: Config, seed: bytes, options: StartOptions) -> None:
        self.config, self.seed, self.options = config, seed, options
        structlog.get_logger().info("daemon.started", name=config.name)
        if self.fails_with is not None:
            raise self.fails_with
        options.ready("ready: kitchen")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    fake = Started()
    monkeypatch.setattr("meshd.daemon.run_daemon", fake.run)
    for name in os.environ:
        if name.startswith("MESHD_"):
            monkeypatch.delenv(name)
    return fake


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture(params=["obeys", "refuses"])
def daemon(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    tests = Path(__file__).parent.parent
    environ = process_environment(PYTHONPATH=f"{tests}:{tests.parent}")
    command = [sys.executable, "-c", FAKE_DAEMON, str(tmp_path), request.param]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def test_start_needs_no_configuration(started: Started, home: Path) -> None:
    result = run_in_process(meshd, home, "start")
    assert (result.exit_code, result.stdout) == (0, "ready: kitchen\n")
    assert started.config is not None
    assert started.config.profile == "lan"
    assert started.options is not None
    assert (started.options.home, started.options.join) == (Home(home), None)
    assert read_seed(home / "key", None) == started.seed


def test_the_same_home_starts_with_the_same_key_again(started: Started, home: Path) -> None:
    seeds = []
    for _ in range(2):
        assert run_in_process(meshd, home, "start").exit_code == 0
        seeds.append(started.seed)
    assert seeds[0] == seeds[1]


def test_every_flag_reaches_the_settings(started: Started, home: Path) -> None:
    words = (
        "--name kitchen --listen /ip4/127.0.0.1/tcp/0 --listen /ip4/127.0.0.1/tcp/4777"
        " --label camera=front --label room=hall --type camera --profile wan --log-format json"
    )
    result = run_in_process(meshd, home, "start", *words.split())
    assert result.exit_code == 0
    config = started.config
    assert config is not None
    assert (config.name, config.type, config.profile) == ("kitchen", "camera", "wan")
    assert config.listen == ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/4777")
    assert config.labels == {"camera": "front", "room": "hall"}
    assert config.log.format == "json"
    assert '"event": "daemon.started"' in result.stderr


def test_flags_win_over_the_environment_which_wins_over_the_file(
    started: Started, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_home(home).config.write_text('name = "file"\ntype = "file"\nregion = "file"\n')
    monkeypatch.setenv("MESHD_NAME", "environment")
    monkeypatch.setenv("MESHD_TYPE", "environment")
    assert run_in_process(meshd, home, "start", "--name", "flag").exit_code == 0
    config = started.config
    assert config is not None
    assert (config.name, config.type, config.region) == ("flag", "environment", "file")


@pytest.mark.parametrize("is_flag", [True, False])
def test_the_settings_may_lie_elsewhere(
    started: Started, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_flag: bool
) -> None:
    file = tmp_path / "elsewhere.toml"
    file.write_text('name = "elsewhere"\n')
    words = ["--config", str(file)] if is_flag else []
    if not is_flag:
        monkeypatch.setenv("MESHD_CONFIG", str(file))
    assert run_in_process(meshd, home, "start", *words).exit_code == 0
    assert started.config is not None
    assert started.config.name == "elsewhere"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--config", "missing.toml"], "missing.toml: no such file"),
        (["--name", " "], "--name"),
        (["--label", "novalue"], "NAME=VALUE"),
        (["--profile", "moon"], "'moon' is not one of"),
        (["--join", "@missing"], "invitation missing cannot be read"),
        (["--join", "-"], "no invitation on standard input"),
    ],
)
def test_wrong_settings_are_a_usage_error_in_one_line(
    started: Started, home: Path, words: list[str], text: str
) -> None:
    result = run_in_process(meshd, home, "start", *words)
    assert result.exit_code == 2
    assert text in result.stderr.splitlines()[0]
    assert result.stderr.startswith("meshd: ")
    assert started.config is None


def test_an_invitation_comes_by_file_by_pipe_or_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("meshd1abc\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"meshd1def\nmore")))
    given = [f"@{tmp_path / 'token'}", "-", "meshd1ghi"]
    assert [given_invitation(one) for one in given] == ["meshd1abc", "meshd1def", "meshd1ghi"]


def test_the_invitation_reaches_the_daemon(started: Started, home: Path) -> None:
    invitation = Invitation(
        mesh=MeshId(bytes(32)),
        network_key=bytes(32),
        issuer=PeerId(bytes(32)),
        addresses=("/ip4/127.0.0.1/tcp/4777",),
        secret=bytes(16),
        expires_wall_s=1,
    )
    token = invitation_text(invitation).encode()
    result = run_in_process(meshd, home, "start", "--join", "-", stdin=token + b"\n")
    assert result.exit_code == 0
    assert started.options is not None
    assert started.options.join == invitation


@pytest.mark.parametrize("given", ["hello", "meshd1abc", "", "meshd1" + "a" * 300])
def test_what_is_no_invitation_is_refused_before_a_home_is_made(
    started: Started, home: Path, given: str
) -> None:
    result = run_in_process(meshd, home / "fresh", "start", "--join", "-", stdin=given.encode())
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "invitation" in result.stderr
    assert started.config is None
    assert not (home / "fresh").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--listen", "nonsense"], "--listen: 'nonsense' is no address like /ip4/"),
        (["--listen", "/ip4/127.0.0.1/tcp/99999"], "is no address like /ip4/"),
        (["--listen", "/dns4/localhost/tcp/0"], "give an IP address, not a name"),
        (["--passphrase-file", "/nowhere"], "cannot read the passphrase file /nowhere"),
    ],
)
def test_a_wrong_word_is_refused_before_a_home_is_made(
    started: Started, home: Path, words: list[str], complaint: str
) -> None:
    result = run_in_process(meshd, home / "fresh", "start", *words)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert started.config is None
    assert not (home / "fresh").exists()


def test_a_key_that_was_lost_is_not_replaced(started: Started, home: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "mesh.db").touch()
    result = run_in_process(meshd, home, "start")
    assert result.exit_code == 1
    assert "key is missing, and this is not the first start" in result.stderr
    assert not (home / "key").exists()


def test_a_second_daemon_on_the_same_home_is_refused(started: Started, home: Path) -> None:
    lock = lock_home(open_home(home))
    try:
        result = run_in_process(meshd, home, "start")
    finally:
        lock.release()
    assert result.exit_code == 1
    assert f"is in use by process {os.getpid()}" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert started.config is None


def test_an_error_of_the_daemon_is_one_line_and_frees_the_home(
    started: Started, home: Path
) -> None:
    started.fails_with = StoreFailed("the disk is full; everything that was accepted is kept")
    result = run_in_process(meshd, home, "start")
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert last == "meshd: the disk is full; everything that was accepted is kept"
    lock_home(Home(home)).release()


def test_a_key_under_a_passphrase_needs_it(started: Started, home: Path, tmp_path: Path) -> None:
    (tmp_path / "pass").write_text("secret\n")
    words = ["start", "--passphrase-file", str(tmp_path / "pass")]
    assert run_in_process(meshd, home, *words).exit_code == 0
    seed = started.seed
    without = run_in_process(meshd, home, "start")
    assert without.exit_code == 2
    assert "under a passphrase" in without.stderr
    assert run_in_process(meshd, home, *words).exit_code == 0
    assert started.seed == seed


def test_the_log_goes_to_the_home_too(started: Started, home: Path) -> None:
    run_in_process(meshd, home, "start")
    assert '"event": "daemon.started"' in (home / "logs" / "meshd.log").read_text()


def test_settings_that_nobody_knows_are_told_in_the_log(
    started: Started, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHD_SERVICE_HOST", "10.0.0.1")
    result = run_in_process(meshd, home, "start")
    assert result.exit_code == 0
    assert "MESHD_SERVICE_HOST: no such setting" in result.stderr


def test_a_ready_line_that_nobody_reads_does_not_stop_the_daemon(
    started: Started, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_line: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("meshd.cli.starting.click.echo", fail)
    assert run_in_process(meshd, home, "start").exit_code == 0


@pytest.mark.parametrize("daemon", ["obeys"], indirect=True)
def test_stop_returns_when_the_process_has_ended(
    daemon: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    result = run_in_process(meshd, tmp_path, "stop")
    assert (result.exit_code, result.stdout) == (0, f"stopped (process {daemon.pid})\n")
    assert daemon.wait(0.5) == 0  # no zombie-to-be: it is over already
    assert not (tmp_path / "control.sock").exists()
    again = run_in_process(meshd, tmp_path, "stop")
    assert again.exit_code == 4


@pytest.mark.parametrize("daemon", ["refuses"], indirect=True)
def test_stop_that_takes_too_long_says_what_to_do(
    daemon: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "STOP_TIMEOUT_S", 0.1)
    result = run_in_process(meshd, tmp_path, "stop", "--output", "json")
    assert result.exit_code == 1
    assert f"`kill -9 {daemon.pid}`" in result.stderr
    assert json_of(result)["error"]["code"] == "still_running"
    assert daemon.poll() is None


def test_stop_asks_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_has_ended", lambda _process: True)
    node = ScriptedNode()
    with serving_in_thread(node, tmp_path):
        result = run_in_process(meshd, tmp_path, "stop", "--output", "json")
    assert json_of(result) == {"answer": "stopped", "pid": os.getpid()}
    assert node.stops == 1


def test_version_says_what_is_installed() -> None:
    result = CliRunner().invoke(meshd, ["version", "--output", "json"])
    answer = json_of(result)
    assert set(answer) == {"answer", "version", "control_protocol", "python"}
    assert CliRunner().invoke(meshd, ["version"]).stdout.startswith(f"meshd {answer['version']}, ")
