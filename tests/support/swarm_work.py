"""What worker processes of swarm tests do with a seed. They import it, so it is no test module."""

from __future__ import annotations

import os
import signal
import time

DEADLY = 3
SLOW_S = 60


def square(seed: int) -> int:
    return seed * seed


def square_or_die(seed: int) -> int:
    """Be killed with one of the seeds, as by the kernel when memory is short."""
    if seed == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    return square(seed)


def never_done(seed: int) -> int:
    time.sleep(SLOW_S)
    return seed


def defective(seed: int) -> int:
    raise LookupError(f"a defect at {seed}")
