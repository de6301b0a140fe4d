"""Where the control socket lies: bound for its owner alone, left over by nobody."""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path

import trio

from meshd.control_errors import ControlSocketInUse

_BACKLOG = 64
_PEER_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


def listen(path: Path) -> trio.SocketListener:
    """Return a listening socket that only its owner can connect to."""
    _clear_away(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Between bind and chmod nobody else may connect. 0o077 and not 0o177: a directory that another
    # thread makes meanwhile must stay usable.
    mask = os.umask(0o077)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ControlSocketInUse(f"{path} cannot be listened on: {error.strerror}") from error
    finally:
        os.umask(mask)
    return trio.SocketListener(trio.socket.from_stdlib_socket(listener))


def remove(path: Path, inode: int) -> None:
    """Remove the socket we bound, unless another has taken its place."""
    try:
        if os.lstat(path).st_ino == inode:
            path.unlink()
    except FileNotFoundError:
        pass


def user_of(stream: trio.SocketStream) -> int:
    """Return the user id of the process at the other end, as the kernel knows it."""
    credentials = stream.socket.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size
    )
    _pid, user, _group = _PEER_CREDENTIALS.unpack(credentials)
    return int(user)


def _clear_away(path: Path) -> None:
    """Remove the socket of a daemon that died. Raises ControlSocketInUse for anything else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ControlSocketInUse(f"{path} is in the way and is no socket: move it elsewhere")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # it listens, and is busy
    raise ControlSocketInUse(f"another daemon listens at {path}: stop it first")
