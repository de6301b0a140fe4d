"""The home directory of a device: where everything lies, who may use it, and one daemon at a time.

Standard library only, because the command line imports it. The layout is documented in
docs/home.md. Nothing here follows the person's mistake: a directory that others could change, or
that is not ours, is refused with what to type, never repaired behind their back.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meshd.errors import HomeInUse, HomeUnusable

HOME_VARIABLE = "MESHD_HOME"
SOCKET_NAME = "control.sock"
SOCKET_PATH_BYTES_MAX = 107  # sockaddr_un holds 108 with the closing zero (unix(7))
PRIVATE_DIRECTORY = 0o700
PRIVATE_FILE = 0o600

_PID_BYTES_MAX = 20
_TEXTS = {
    errno.EACCES: "is not writable: change its owner or mode, or choose another --home",
    errno.EPERM: "is not writable: change its owner or mode, or choose another --home",
    errno.EROFS: "is on a read-only file system: mount it for writing, or choose another --home",
    errno.ENOSPC: "is on a full disk: free some space, then start again",
    errno.EDQUOT: "is over your disk quota: free some space, then start again",
    errno.ENOTDIR: "is not a directory: choose another --home",
    errno.EEXIST: "is not a directory: choose another --home",
    errno.ELOOP: "is a loop of symbolic links: choose another --home",
    errno.ENAMETOOLONG: "is too long a path: choose another --home",
}


@dataclass(frozen=True, slots=True)
class Home:
    """The paths of one home. Making this object touches nothing; `open_home` does."""

    path: Path

    @property
    def key(self) -> Path:
        """The device's private key, 0600."""
        return self.path / "key"

    @property
    def database(self) -> Path:
        """Everything the device promised to remember."""
        return self.path / "mesh.db"

    @property
    def blobs(self) -> Path:
        """Modules, inputs and outputs by digest."""
        return self.path / "blobs"

    @property
    def cache(self) -> Path:
        """What can be made again, such as compiled modules."""
        return self.path / "cache"

    @property
    def logs(self) -> Path:
        """The rotating log files."""
        return self.path / "logs"

    @property
    def lock(self) -> Path:
        """Locked by the running daemon, and holds its process id."""
        return self.path / "lock"

    @property
    def config(self) -> Path:
        """Settings, if the person wrote any."""
        return self.path / "config.toml"


@dataclass(slots=True)
class HomeLock:
    """The right to be this home's daemon, until `release` or the end of the process."""

    _descriptor: int | None = field(repr=False)

    def release(self) -> None:
        """Give the home up. The file stays: removing it could hand one home to two daemons."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def home_path(flag: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Path:
    """Return the home to use: `flag`, else $MESHD_HOME, else the XDG data directory.

    Absolute, as the XDG Base Directory Specification 0.8 has it. Raises HomeUnusable when there is
    no home directory to put it in.
    """
    chosen = os.fspath(flag) if flag is not None else environ.get(HOME_VARIABLE)
    if chosen:
        return Path(os.path.abspath(_expanded(chosen)))  # noqa: PTH100 - collapses "..", Path keeps it
    data = environ.get("XDG_DATA_HOME", "")
    # The specification: a relative path in the variable is invalid and must be ignored.
    base = Path(data) if os.path.isabs(data) else Path(_expanded("~/.local/share"))  # noqa: PTH117
    return base / "meshd"


def open_home(path: Path) -> Home:
    """Return the home at `path`, made with its directories (0700) if it is not there yet.

    Raises HomeUnusable when it cannot be made or written, or when others could change it.
    """
    home = Home(path)
    for directory in (home.path, home.blobs, home.cache, home.logs):
        try:
            directory.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
            _refuse_what_others_can_change(directory)
            if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
                # access(2) says no more than that: owner and mode help nothing on such a mount.
                is_read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
                number = errno.EROFS if is_read_only else errno.EACCES
                raise OSError(number, os.strerror(number))
        except OSError as error:
            raise unusable(directory, error) from error
    return home


def lock_home(home: Home) -> HomeLock:
    """Lock `home` for this process, or raise HomeInUse, which names the process that has it.

    The lock is the kernel's (flock), so it ends with the process however that ends. Raises
    HomeUnusable when the lock file cannot be written.
    """
    descriptor = -1
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(home.lock, flags, PRIVATE_FILE)
        _take(descriptor, home)
        # The pid is for people; a full disk shows here first, before anything else is begun.
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        os.fsync(descriptor)
    except OSError as error:
        _close(descriptor)
        raise unusable(home.path, error) from error
    except HomeInUse:
        _close(descriptor)
        raise
    return HomeLock(descriptor)


def control_socket_path(home: Path) -> Path:
    """Return where the control socket of the home at `home` is bound and found.

    The socket always lies in the home, as `control.sock`. A Unix socket's address holds 107 bytes;
    for a longer path the home is named through a descriptor of this process, `/proc/self/fd/N`, so
    that no second directory (which others could occupy) is needed and both sides find it without
    asking. One descriptor a home stays open then. Raises HomeUnusable if a long home is not there.
    """
    plain = Path(os.path.realpath(home)) / SOCKET_NAME
    if len(os.fsencode(plain)) <= SOCKET_PATH_BYTES_MAX:
        return plain
    try:
        return Path(f"/proc/self/fd/{_directory_descriptor(home)}") / SOCKET_NAME
    except OSError as error:
        raise unusable(home, error) from error


def unusable(path: Path, error: OSError) -> HomeUnusable:
    """Return the one line that says what is wrong with `path` and what to do."""
    other = f"cannot be used ({error.strerror or error}): choose another --home"
    text = _TEXTS.get(error.errno or 0, other)
    return HomeUnusable(f"{path} {text}")


_descriptors: dict[tuple[int, int], int] = {}


def _directory_descriptor(home: Path) -> int:
    """Return an open descriptor of the directory, always the same for the same directory."""
    found = home.stat()
    identity = (found.st_dev, found.st_ino)
    if identity not in _descriptors:
        _descriptors[identity] = os.open(home, os.O_PATH | os.O_DIRECTORY)
    return _descriptors[identity]


def _expanded(path: str) -> str:
    expanded = os.path.expanduser(path)  # noqa: PTH111 - Path.expanduser raises what we would catch
    if expanded.startswith("~"):
        raise HomeUnusable(f"{path} names no home directory: pass --home or set {HOME_VARIABLE}")
    return expanded


def _refuse_what_others_can_change(directory: Path) -> None:
    found = directory.stat()
    ours = os.geteuid()
    # Root may run a daemon in a directory that a container's owner mounted.
    if ours not in (0, found.st_uid):
        raise HomeUnusable(
            f"{directory} belongs to user {found.st_uid}, you are {ours}: choose another --home"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise HomeUnusable(
            f"{directory} can be changed by others: type `chmod go-w {directory}`"
            " if it is meshd's alone, or choose another --home"
        )


def _take(descriptor: int, home: Home) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        text = os.pread(descriptor, _PID_BYTES_MAX, 0).strip()
        pid = int(text) if text.isdigit() else None
        who = f"process {pid}" if pid is not None else "another process"
        raise HomeInUse(
            f"{home.path} is in use by {who}: stop it with `meshd stop --home {home.path}`,"
            " or choose another --home",
            pid=pid,
        ) from error


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)
