"""Keeps what the daemon holds in memory out of files and other processes.

The device's key, the network key and opened inputs are in memory while it runs. A core dump would
write them to a disk, where they outlive it and end up in backups and reports.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """Let this process leave no core dump, and other processes of its user not read its memory.

    prctl(2), PR_SET_DUMPABLE: a limit alone does not stop a dump that is piped to a handler, such
    as systemd's. Elsewhere than on Linux the limit is all there is.
    """
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        zero = ctypes.c_ulong(0)
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, zero, zero, zero, zero)
