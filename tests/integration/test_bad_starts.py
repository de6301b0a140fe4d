"""What people get wrong with `meshd start`: a clear line, its exit code, nothing half-written.

Every start here is a real one, with a home of its own on loopback.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
from support.complaints import environment, start, typed
from support.daemons import BINARIES, LOOPBACK, Daemons, Device, await_ready, until

from meshd.config import DEFAULT_PORT
from wire.ids import MeshId
from wire.keys import Ed25519Verifier
from wire.membership import Invitation, invitation_from_text, invitation_text

NOT_UTF8 = b"odd\xff\xfename"


@pytest.fixture(scope="module")
def issuer(daemons: Daemons) -> Device:
    """Return a mesh of one that lets others in."""
    started = daemons.start("attic")
    await_ready(started)
    return started


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return where a home may be made."""
    return tmp_path / "home"


@pytest.fixture(scope="module")
def first_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home that was started once."""
    made = tmp_path_factory.mktemp("first") / "home"
    start_and_stop(made)
    return made


@pytest.fixture
def used_home(first_home: Path, home: Path) -> Path:
    """Return a copy of a home that was started once."""
    shutil.copytree(first_home, home)
    return home


def begun(home: Path, *flags: str, stdin: bytes = b"") -> subprocess.Popen[bytes]:
    """Begin to start a daemon."""
    process = subprocess.Popen(
        [str(BINARIES / "meshd"), "start", "--home", str(home), "--profile", "local", *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment({}),
    )
    assert process.stdin is not None
    process.stdin.write(stdin)
    process.stdin.close()
    process.stdin = None
    return process


def start_and_stop(
    home: Path, *flags: str, listen: tuple[str, ...] = ("--listen", LOOPBACK)
) -> str:
    """Start a daemon that can run, and stop it; return its ready line, its log after it."""
    with begun(home, *listen, *flags) as process:
        assert process.stdout is not None
        ready = process.stdout.readline().decode()
        process.terminate()
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert ready.startswith("ready: "), stderr
    return ready + stderr.decode()


def ids_in(ready: str) -> list[str]:
    """Return device and mesh of a ready line."""
    words = ready.split()
    return [words[2], words[5].rstrip(",")]


# --- invitations ----------------------------------------------------------------------------------


def test_what_is_no_invitation_is_refused_before_a_home_is_made(
    issuer: Device, home: Path, tmp_path: Path
) -> None:
    token = issuer.invite()
    mistyped = token[:100] + ("b" if token[100] != "b" else "c") + token[101:]
    for wrong in ("hello", token[:200], mistyped, "meshd1" + "a" * 300):
        start(home, join=wrong).complaint(2, "meshctl invite")
    (tmp_path / "garbage").write_bytes(os.urandom(2000))
    (tmp_path / "long").write_bytes(b"a" * 20_000)
    for flag, part in (
        ("@/nowhere", "invitation /nowhere cannot be read: No such file"),
        (f"@{tmp_path}", "Is a directory"),
        (f"@{tmp_path / 'garbage'}", "not an invitation"),
        (f"@{tmp_path / 'long'}", "is longer than 8192 bytes"),
    ):
        start(home, "--join", flag).complaint(2, part)
    start(home, join="").complaint(2, "there is no invitation on standard input")
    start(home, b"--join", NOT_UTF8).complaint(2, "not an invitation")
    assert not home.exists()


def test_an_expired_invitation_says_so_and_the_home_can_be_used(issuer: Device, home: Path) -> None:
    token = str(issuer.ask("invite", ttl_us=1_000_000)["token"])
    time.sleep(1.2)  # real daemons have the real clock
    start(home, join=token).complaint(1, "the invitation has expired: ask for a new one")
    start_and_stop(home)


def test_an_invitation_is_used_up_for_all_but_who_used_it(
    daemons: Daemons, issuer: Device, home: Path
) -> None:
    token = issuer.invite()
    user = daemons.start("garage", join=token)
    await_ready(user)
    start(home, join=token).complaint(1, "used by others already: ask for a new one")
    assert user.stop() == 0
    again = daemons.start("garage", join=token)  # as when its answer was lost
    await_ready(again)
    assert again.stop() == 0


def test_an_invitation_to_another_mesh_is_refused_by_a_home_that_is_used(
    daemons: Daemons, issuer: Device
) -> None:
    other = daemons.start("shed")
    await_ready(other)
    token, own = issuer.invite(), other.invite()  # from now on it is no mesh that nobody needs
    assert other.stop() == 0
    start(other.home, join=token).complaint(1, "this home belongs to mesh", "another --home")
    daemons.restart(other)
    await_ready(other)
    assert other.ask("status")["mesh"] != issuer.ask("status")["mesh"]
    assert other.stop() == 0
    start(issuer.home, join=own).complaint(1, "is in use by process")


def test_an_issuer_that_is_gone_or_elsewhere_is_named(daemons: Daemons, home: Path) -> None:
    issuer = daemons.start("cellar")
    await_ready(issuer)
    token, address = issuer.invite(uses=2), issuer.address
    assert issuer.stop() == 0
    start(home, join=token).complaint(1, "does not answer: is it running", address, "refused")
    daemons.restart(issuer)
    await_ready(issuer)
    if issuer.address != address:
        start(home, join=token).complaint(1, "does not answer: is it running", address)
    invitation = invitation_from_text(token, Ed25519Verifier())
    moved = invitation_text(_changed(invitation, addresses=(issuer.address,)))
    wrong_key = _changed(invitation, addresses=(issuer.address,), network_key=bytes(32))
    start(home, join=invitation_text(wrong_key)).complaint(1, "ask for a new")
    wrong_mesh = _changed(invitation, addresses=(issuer.address,), mesh=MeshId(bytes(32)))
    start(home, join=invitation_text(wrong_mesh)).complaint(1, "ask for a new")
    joined = daemons.start("attic-2", join=moved)
    await_ready(joined)
    assert joined.stop() == 0
    assert issuer.stop() == 0


def test_ctrl_c_ends_a_start_that_waits_for_its_issuer(issuer: Device, home: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}"
        invitation = invitation_from_text(issuer.invite(), Ed25519Verifier())
        token = invitation_text(_changed(invitation, addresses=(address,)))
        process = begun(home, "--listen", LOOPBACK, "--join", "-", stdin=token.encode())
        silent.settimeout(60)
        connection, _ = silent.accept()  # it waits for an answer from now on
        with connection:
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=5)
    assert (process.returncode, stdout) == (0, b"")
    assert b"Traceback" not in stderr
    start_and_stop(home)


def _changed(invitation: Invitation, **changes: object) -> Invitation:
    fields = {name: getattr(invitation, name) for name in invitation.__struct_fields__}
    return Invitation(**{**fields, **changes})


# --- addresses and settings -----------------------------------------------------------------------


def test_a_port_that_was_asked_for_and_is_taken_is_an_error(issuer: Device, home: Path) -> None:
    start(home, listen=issuer.address).complaint(
        1, f"cannot listen on {issuer.address}: Address already in use", "another with --listen"
    )
    start(home, "--listen", issuer.address).complaint(1, f"cannot listen on {issuer.address}")
    start_and_stop(home)


def test_the_default_port_being_taken_is_none(home: Path) -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("127.0.0.1", DEFAULT_PORT))
            holder.listen()
        except OSError:
            pass  # somebody else has it, which is as good
        said = start_and_stop(home, listen=())
    ready, _, log = said.partition("\n")
    assert f"/tcp/{DEFAULT_PORT}," not in ready
    assert "listening on /ip4/127.0.0.1/tcp/" in ready
    assert "listen.elsewhere" in log
    assert f"cannot listen on /ip4/127.0.0.1/tcp/{DEFAULT_PORT}: Address already in use" in log


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("nonsense", "--listen: 'nonsense' is no address like /ip4/"),
        ("/ip4/1.2.3/tcp/0", "'1.2.3' is no IP address"),
        ("/ip4/127.0.0.1/udp/0/quic", "is no address like"),
        ("/ip4/127.0.0.1/tcp/99999", "is no address like"),
        ("/dns4/localhost/tcp/0", "give an IP address, not a name"),
    ],
)
def test_an_address_that_is_none_is_usage(home: Path, address: str, part: str) -> None:
    start(home, listen=address).complaint(2, part)
    assert not home.exists()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b'nmae = "x"', "no setting nmae: did you mean name?"),
        (b"name = 3", "name = 3: wanted 1 to 64 visible characters"),
        (b"name =", "not TOML"),
        (NOT_UTF8, "not TOML"),
        (b"[sandbox]\nworkers = 0", "sandbox.workers = 0: wanted a whole number from 1"),
        (b'[sandbox]\nmemory_bytes_max = "much"', "sandbox.memory_bytes_max: 'much' is no size"),
        (b"links = 3", "links = 3: wanted a table"),
        (b'passphrase_file = "/nowhere"', "cannot read the passphrase file /nowhere"),
        (b'passphrase_file = "a\\u0000b"', "cannot read the passphrase file"),
        (b'join = "@a\\u0000b"', "cannot be read"),
    ],
)
def test_a_setting_that_is_wrong_names_the_file_and_what_is_allowed(
    home: Path, tmp_path: Path, content: bytes, part: str
) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_bytes(content)
    said = start(home, "--config", str(settings)).complaint(2, part)
    assert str(settings) in said or "cannot" in part
    assert not home.exists()


def test_settings_that_cannot_be_read_are_told(home: Path, tmp_path: Path) -> None:
    for place, part in (("missing", "no such file"), (".", "cannot be read: Is a directory")):
        start(home, "--config", str(tmp_path / place)).complaint(2, part)
    start(home, environ={"MESHD_LOG__LEVEL": "loud"}).complaint(
        2, "environment MESHD_LOG__LEVEL: log.level = 'loud': wanted one of debug, info"
    )
    start(home, environ={"MESHD_CONFIG": "~nobody-at-all/x"}).complaint(2, "no such file")
    assert not home.exists()


# --- homes ----------------------------------------------------------------------------------------


def test_a_home_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "half").mkdir(mode=0o700)
    (tmp_path / "half" / "blobs").touch()
    for name, part in (
        ("file", "is not a directory: choose another --home"),
        ("file/below", "is not a directory: choose another --home"),
        ("loop", "choose another --home"),
        ("open", "can be changed by others: type `chmod go-w"),
        ("half", "blobs is not a directory: choose another --home"),
        ("x" * 300, "is too long a path: choose another --home"),
    ):
        start(tmp_path / name).complaint(1, part)
    assert list((tmp_path / "open").iterdir()) == []
    start(Path("/proc/nowhere")).complaint(1, "/proc/nowhere", "choose another --home")
    typed("meshd", "start", "--home", "").complaint(2, "it is empty")


def test_a_home_that_cannot_be_written_is_refused(used_home: Path) -> None:
    powerless: tuple[str, ...] = ()
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv(1): root may write everywhere")
        powerless = ("setpriv", "--bounding-set=-all")
    for name in ("blobs", "cache", "logs", "."):
        directory = used_home / name
        directory.chmod(0o500)
        start(used_home, prefix=powerless).complaint(
            1, f"{directory} is not writable: change its owner or mode"
        )
        directory.chmod(0o700)
    (used_home / "mesh.db").chmod(0o400)
    start(used_home, prefix=powerless).complaint(1, "mesh.db cannot be used", "check owner, mode")
    (used_home / "mesh.db").chmod(0o600)
    start_and_stop(used_home)


def test_what_lies_where_the_socket_belongs_is_not_removed(used_home: Path) -> None:
    (used_home / "control.sock").write_text("mine")
    start(used_home).complaint(1, "control.sock is in the way and is no socket: move it elsewhere")
    assert (used_home / "control.sock").read_text() == "mine"


# --- keys -----------------------------------------------------------------------------------------


def test_a_key_that_others_can_read_says_what_to_type(used_home: Path) -> None:
    key = used_home / "key"
    key.chmod(0o644)
    start(used_home).complaint(1, f"{key} can be used by others: type `chmod 600 {key}`")


def test_a_key_is_never_replaced(used_home: Path) -> None:
    key = used_home / "key"
    good = key.read_bytes()
    before = ids_in(start_and_stop(used_home))
    flipped = bytes([*good[:30], good[30] ^ 1, *good[31:]])
    for bad, part in (
        (os.urandom(len(good)), "key is damaged: restore it"),
        (good[:40], "key is damaged: restore it"),
        (b"", "key is damaged: restore it"),
        (flipped, "key is damaged: restore it"),
        (good[:8] + b"\x09" + good[9:], "key of a newer meshd"),
    ):
        key.write_bytes(bad)
        start(used_home).complaint(1, part)
        assert key.read_bytes() == bad
    key.unlink()
    start(used_home).complaint(1, "key is missing, and this is not the first start: restore it")
    assert not key.exists()
    key.write_bytes(good)
    key.chmod(0o600)
    assert ids_in(start_and_stop(used_home)) == before


def test_another_device_s_key_does_not_fit_the_store(used_home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    first, second = ids_in(start_and_stop(used_home)), ids_in(start_and_stop(other))
    shutil.copy(other / "key", used_home / "key")
    start(used_home).complaint(1, second[0], first[0], "restore the key that belongs to it")


def test_a_passphrase_that_is_wrong_or_missing_changes_nothing(
    used_home: Path, tmp_path: Path
) -> None:
    for name, content in (("right", b"secret\n"), ("wrong", b"guess\n"), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "long").write_bytes(b"a" * 5000)
    before = ids_in(start_and_stop(used_home, "--passphrase-file", str(tmp_path / "right")))
    sealed = (used_home / "key").read_bytes()
    start(used_home).complaint(2, "key is under a passphrase: pass --passphrase-file FILE")
    for name, code, part in (
        ("wrong", 1, "the passphrase does not open"),
        ("empty", 2, "is empty"),
        ("long", 2, "is longer than 4096 bytes"),
        ("missing", 2, "cannot read the passphrase file"),
        (".", 2, "cannot read the passphrase file"),
    ):
        file = str(tmp_path / name)
        said = start(used_home, "--passphrase-file", file).complaint(code, part)
        assert "guess" not in said
    assert (used_home / "key").read_bytes() == sealed
    assert ids_in(start_and_stop(used_home, "--passphrase-file", str(tmp_path / "right"))) == before


# --- stores ---------------------------------------------------------------------------------------


def test_a_store_that_is_damaged_is_left_as_it_is(used_home: Path) -> None:
    database = used_home / "mesh.db"
    before, good = ids_in(start_and_stop(used_home)), database.read_bytes()
    assert not (used_home / "mesh.db-wal").exists()
    for bad in (os.urandom(20_000), good[:10_000], good[:100]):
        database.write_bytes(bad)
        start(used_home).complaint(1, "mesh.db is damaged", "restore the home from a backup")
        assert database.read_bytes() == bad
        for name in ("mesh.db-wal", "mesh.db-shm"):
            (used_home / name).unlink(missing_ok=True)
    database.write_bytes(good)
    assert ids_in(start_and_stop(used_home)) == before


@pytest.mark.parametrize(
    ("statement", "part"),
    [
        ("PRAGMA user_version = 99", "was written by a newer meshd (schema 99"),
        ("PRAGMA application_id = 5", "is a database of another program: move it away"),
        ("DROP TABLE records", "mesh.db is damaged (no table records)"),
        (
            "UPDATE records SET body = x'00' WHERE kind = 'membership'",
            "is damaged",
        ),
    ],
)
def test_a_store_that_is_not_ours_any_more_is_refused(
    used_home: Path, statement: str, part: str
) -> None:
    with closing(sqlite3.connect(used_home / "mesh.db")) as connection:
        connection.execute(statement)
        connection.commit()
    start(used_home).complaint(1, part)


def test_a_second_daemon_on_a_home_names_the_first(issuer: Device) -> None:
    start(issuer.home).complaint(
        1, f"is in use by process {issuer.process.pid}", f"meshd stop --home {issuer.home}"
    )
    until(lambda: issuer.ask("status")["name"] == "attic", "it does not answer any more", issuer)
