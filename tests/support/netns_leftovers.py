"""Names of a run's network namespaces, and an end to those of runs that were killed.

A name holds the id of the process that made it. A run that was killed took nothing down: the next
one does, and ends what still runs in there. Namespaces of living processes are never touched.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from support.netns_entry import NAMESPACES

PREFIX = "meshd-net"
_NAME = re.compile(rf"{PREFIX}-(\d+)-\d+-\w+")
_serial = itertools.count()


def new_name() -> str:
    """Return what all names of a new network begin with."""
    return f"{PREFIX}-{os.getpid()}-{next(_serial)}"


def namespaces_of(name: str) -> list[str]:
    """Return the namespaces of a network that are there."""
    return [one for one in _all() if one.startswith(f"{name}-")]


def sweep() -> list[str]:
    """Remove the namespaces of runs that are over; return their names."""
    dead = [name for name in _all() if not Path("/proc", _maker(name)).exists()]
    for name in dead:
        remove(name)
    return dead


def remove(name: str) -> None:
    """Kill what runs in a namespace, and remove it with all its interfaces."""
    listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, check=False)
    for pid in listed.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    # Another run may sweep at the same time.
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _all() -> list[str]:
    if not NAMESPACES.is_dir():
        return []
    return sorted(one.name for one in NAMESPACES.iterdir() if _NAME.fullmatch(one.name))


def _maker(name: str) -> str:
    match = _NAME.fullmatch(name)
    assert match is not None
    return match[1]
