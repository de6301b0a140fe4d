"""Memory that was freed goes back to the system."""

from __future__ import annotations

import sys

import psutil
import pytest

from meshd.heap import heap_trimmer

BLOCK_BYTES = 8 * 1024  # too big for Python's own allocator
BLOCKS_COUNT = 8 * 1024


def resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_what_was_freed_between_blocks_in_use_goes_back_to_the_system() -> None:
    trim = heap_trimmer()
    assert trim is not None
    blocks = [bytes([1]) * BLOCK_BYTES for _ in range(BLOCKS_COUNT)]
    kept = blocks[::16]
    del blocks
    before_bytes = resident_bytes()
    trim()
    assert before_bytes - resident_bytes() > BLOCKS_COUNT * BLOCK_BYTES // 4
    assert len(kept) == BLOCKS_COUNT // 16
