"""What the daemon holds in memory stays there."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, resource
from meshd.secrecy import forbid_core_dumps
forbid_core_dumps()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_daemon_leaves_no_core_dump_and_its_memory_is_its_own() -> None:
    told = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
    assert told.stdout.decode().strip() == "0 (0, 0)"
