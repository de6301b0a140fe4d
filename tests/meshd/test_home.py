"""The home directory: layout, permissions, one daemon at a time, the control socket's address."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.small_disk import fill, small_disk

from meshd.errors import HomeInUse, HomeUnusable
from meshd.home import (
    SOCKET_PATH_BYTES_MAX,
    Home,
    control_socket_path,
    home_path,
    lock_home,
    open_home,
)


def test_the_flag_outranks_the_environment_which_outranks_the_default(tmp_path: Path) -> None:
    environ = {"MESHD_HOME": "/somewhere", "XDG_DATA_HOME": "/data"}
    assert home_path("/flag", environ) == Path("/flag")
    assert home_path(None, environ) == Path("/somewhere")
    assert home_path(None, {"XDG_DATA_HOME": "/data"}) == Path("/data/meshd")
    assert home_path(None, {"MESHD_HOME": ""}) == Path.home() / ".local/share/meshd"
    assert home_path(None, {"XDG_DATA_HOME": "relative"}) == Path.home() / ".local/share/meshd"


def test_a_relative_home_becomes_absolute_and_a_tilde_is_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert home_path("./a/../b", {}) == tmp_path / "b"
    assert home_path("~/b", {}) == Path.home() / "b"


def test_a_user_without_a_home_directory_is_told_what_to_set() -> None:
    with pytest.raises(HomeUnusable, match="MESHD_HOME"):
        home_path("~no-such-user-of-this-machine/x", {})


def test_a_new_home_is_private_and_has_its_directories(tmp_path: Path) -> None:
    home = open_home(tmp_path / "deep" / "home")
    for directory in (home.path, home.blobs, home.cache, home.logs):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert home.key.parent == home.database.parent == home.config.parent == home.path


def test_opening_a_home_again_changes_nothing_in_it(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home")
    home.key.write_bytes(b"kept")
    assert open_home(home.path) == home
    assert home.key.read_bytes() == b"kept"


def test_a_file_in_the_way_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(HomeUnusable, match="is not a directory"):
        open_home(tmp_path / "home")
    with pytest.raises(HomeUnusable, match="is not a directory"):
        open_home(tmp_path / "home" / "below")


def test_a_home_that_others_can_change_is_refused_with_the_command_to_type(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(HomeUnusable, match=f"chmod go-w {shared}"):
        open_home(shared)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o777  # not repaired behind the person's back
    assert list(shared.iterdir()) == []


def test_a_home_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from meshd.errors import HomeUnusable; from meshd.home import open_home\n"
        "os.geteuid() or os.setuid(65534)\n"
        "try: open_home(Path(sys.argv[1]))\n"
        "except HomeUnusable as error: print(error)\n"
    )
    os.chown(locked, 65534 if os.geteuid() == 0 else -1, -1)
    for parent in locked.parents[:3]:
        parent.chmod(0o755)  # pytest's own are 0700
    done = subprocess.run(
        [sys.executable, "-c", code, str(locked)], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        f"{locked} is not writable: change its owner or mode, or choose another --home"
    ]


def test_a_home_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4_242)
    with pytest.raises(HomeUnusable, match="belongs to user"):
        open_home(tmp_path)


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_bytes=128 * 1024) as disk:
        home = open_home(disk)
        fill(disk)
        with pytest.raises(HomeUnusable, match="full disk: free some space"):
            lock_home(home)


def test_a_second_daemon_is_refused_and_told_the_first_ones_pid(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home")
    code = (
        "import sys; from pathlib import Path; from meshd.home import Home, lock_home\n"
        "lock = lock_home(Home(Path(sys.argv[1]))); print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(home.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"locked\n"
        with pytest.raises(HomeInUse, match=f"process {first.pid}") as refused:
            lock_home(home)
        assert refused.value.pid == first.pid
        first.kill()
    lock_home(home).release()  # the kernel gave it back, although nobody cleaned up


def test_a_released_home_can_be_locked_again(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home")
    first = lock_home(home)
    with pytest.raises(HomeInUse):
        lock_home(home)
    first.release()
    second = lock_home(home)
    assert home.lock.read_text() == f"{os.getpid()}\n"
    second.release()


def test_a_lock_whose_holder_has_not_said_its_pid_is_still_refused(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home")
    lock = lock_home(home)
    os.truncate(home.lock, 0)
    with pytest.raises(HomeInUse, match="another process") as refused:
        lock_home(home)
    assert refused.value.pid is None
    lock.release()


def test_the_lock_does_not_follow_a_symbolic_link(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home")
    precious = tmp_path / "precious"
    precious.write_text("kept")
    home.lock.symlink_to(precious)
    with pytest.raises(HomeUnusable):
        lock_home(home)
    assert precious.read_text() == "kept"


def test_the_control_socket_of_a_short_home_lies_in_it(tmp_path: Path) -> None:
    link = tmp_path / "link"
    (tmp_path / "h").mkdir()
    link.symlink_to(tmp_path / "h")
    assert control_socket_path(link) == control_socket_path(tmp_path / "h")
    assert control_socket_path(tmp_path / "h") == tmp_path / "h" / "control.sock"


@pytest.mark.parametrize("length", [107, 108, 3_000])
def test_a_client_reaches_the_socket_of_a_home_of_any_length(tmp_path: Path, length: int) -> None:
    home = _home_with_socket_path_of(tmp_path, length)
    address = control_socket_path(home)
    assert len(os.fsencode(address)) <= SOCKET_PATH_BYTES_MAX
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(address))
        server.listen(1)
        address.chmod(0o600)
        assert stat.S_ISSOCK((home / "control.sock").stat().st_mode)
        code = (
            "import socket, sys; from pathlib import Path\n"
            "from meshd.home import control_socket_path\n"
            "client = socket.socket(socket.AF_UNIX)\n"
            "client.connect(str(control_socket_path(Path(sys.argv[1])))); client.send(b'hello')"
        )
        subprocess.run([sys.executable, "-c", code, str(home)], check=True)
        connection, _ = server.accept()
        with connection:
            assert connection.recv(5) == b"hello"


def test_a_long_home_that_was_made_anew_is_not_mistaken_for_the_old_one(tmp_path: Path) -> None:
    home = _home_with_socket_path_of(tmp_path, 150)
    old = control_socket_path(home)
    assert control_socket_path(home) == old
    home.rename(home.with_name("old"))
    home.mkdir()
    assert control_socket_path(home) != old


def test_a_long_home_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(HomeUnusable, match="No such file"):
        control_socket_path(tmp_path / ("x" * 120))


def test_naming_the_paths_of_a_home_touches_nothing(tmp_path: Path) -> None:
    assert Home(tmp_path / "none").database == tmp_path / "none" / "mesh.db"
    assert not (tmp_path / "none").exists()


def _home_with_socket_path_of(tmp_path: Path, length: int) -> Path:
    """Return a new directory in which the path of `control.sock` is `length` bytes long."""
    home = tmp_path
    left = length - len(os.fsencode(tmp_path)) - len("/control.sock")
    while left > 0:
        part = left - 1 if left <= 101 else min(100, left - 3)
        home /= "d" * part
        left -= part + 1
    home.mkdir(parents=True, exist_ok=True)
    assert len(os.fsencode(home / "control.sock")) == length
    return home
