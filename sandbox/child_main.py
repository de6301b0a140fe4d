"""How a child process begins: its end of the socketpair, and its place behind the daemon."""

from __future__ import annotations

import os
import signal
import socket
import sys

from sandbox.engine import check_version


def connect_to_pool(*, niceness: int) -> tuple[socket.socket, int]:
    """Return the socket named in the arguments, and the id of the process to die with.

    A terminal or a service manager may signal the whole group; when a child ends is the daemon's to
    decide, which may still want its results. Raises ChildBroken if the engine is the wrong one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(niceness)  # heartbeats come before tasks
    check_version()
    descriptor, parent_pid = int(sys.argv[1]), int(sys.argv[2])
    return socket.socket(fileno=descriptor), parent_pid
