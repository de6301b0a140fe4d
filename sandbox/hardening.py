"""What a worker gives up before it touches anything hostile.

Each step is tried by itself and named in what is returned if the kernel took it: a device without
Landlock still runs programs, and its status says so. Nothing here fails on import or on another
system; nothing can be taken back afterwards, so what needs files (imports above all) comes first.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path

UNPRIVILEGED_ID = 65_534  # "nobody" on Linux
OPEN_FILES_MAX = 64
OOM_SCORE = 500  # of 1,000: the kernel, short of memory, ends a worker before the daemon

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_LANDLOCK_CREATE_RULESET = 444  # the same numbers on every architecture
_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_CREATE_RULESET_VERSION = 1


def harden(*, parent_pid: int) -> tuple[str, ...]:
    """Give up what running a program does not need, and return the names of what was enforced.

    `parent_pid` is the process without which this one must not live: it exits if that is gone.
    """
    os.umask(0o077)
    steps: list[tuple[str, Callable[[], None]]] = [
        ("oom_first", _be_ended_first),
        ("unprivileged", _drop_root),
        # After the change of user, which clears it.
        ("dies_with_parent", lambda: _die_with(parent_pid)),
        ("no_new_privileges", lambda: _prctl(_PR_SET_NO_NEW_PRIVS, 1)),
        ("few_files", _limit_files),
        ("no_core", lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0))),
    ]
    enforced = [name for name, step in steps if _try(step)]
    with contextlib.suppress(OSError):
        enforced.extend(_restrict_with_landlock())
    return tuple(enforced)


def _try(step: Callable[[], None]) -> bool:
    try:
        step()
    except (OSError, ValueError):
        return False
    return True


def _be_ended_first() -> None:
    Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def _drop_root() -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
        os.setresuid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)


def _die_with(parent_pid: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before it was asked for
        raise SystemExit("the parent is gone")


def _limit_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(OPEN_FILES_MAX, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


def _restrict_with_landlock() -> list[str]:
    """Deny every file access, TCP and signals to others, as far as the kernel can.

    Source: *Documentation/userspace-api/landlock.rst*. A ruleset that handles a kind of access and
    has no rule denies all of it. Files that are open stay usable. Raises OSError.
    """
    version = _syscall(
        _LANDLOCK_CREATE_RULESET, None, 0, ctypes.c_uint(_LANDLOCK_CREATE_RULESET_VERSION)
    )
    file_rights = (1 << 13) - 1
    for first_version, right in ((2, 1 << 13), (3, 1 << 14), (5, 1 << 15)):
        file_rights |= right if version >= first_version else 0
    handled = struct.pack("=Q", file_rights)
    enforced = ["no_files"]
    if version >= 4:
        handled += struct.pack("=Q", 0b11)  # bind and connect
        enforced.append("no_tcp")
    if version >= 6:
        handled += struct.pack("=Q", 0b11)  # abstract sockets and signals
        enforced.append("no_signals")
    ruleset = _syscall(
        _LANDLOCK_CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), ctypes.c_uint(0)
    )
    try:
        _syscall(_LANDLOCK_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0))
    finally:
        os.close(ruleset)
    return enforced


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    _checked(_libc().prctl(option, ctypes.c_ulong(value), zero, zero, zero))


def _syscall(number: int, *arguments: object) -> int:
    return _checked(_libc().syscall(ctypes.c_long(number), *arguments))


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _libc() -> ctypes.CDLL:
    if sys.platform != "linux":
        raise OSError("only Linux has these calls")
    return ctypes.CDLL(None, use_errno=True)
