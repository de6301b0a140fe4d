"""`make soak`: ten minutes of submits against five daemons that are killed, frozen and split."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from random import SystemRandom

from support.netns import why_no_fabric

from soak.plan import plan_of
from soak.run import soak

SEED_BITS = 32


def main() -> None:
    """Run one soak, print what came of it, and fail if anything was lost or decided twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--seed", type=int, default=None, help="by default another every time")
    parser.add_argument("--quiet", action="store_true", help="do not tell each fault")
    options = parser.parse_args()
    seed = SystemRandom().getrandbits(SEED_BITS) if options.seed is None else options.seed
    why_not = why_no_fabric()
    if why_not:
        _say(f"nothing is split: {why_not}")
    plan = plan_of(
        seed, nodes_count=options.nodes, duration_s=options.seconds, can_split=not why_not
    )
    _say(f"seed {seed}: the same faults again with `make soak SEED={seed}`")
    directory = Path(tempfile.mkdtemp(prefix="meshd-soak-"))
    say = (lambda _: None) if options.quiet else _say
    report = soak(plan, directory, is_split=not why_not, say=say)
    for line in report.lines():
        _say(line)
    if not report.is_good:
        sys.exit(f"logs and homes are kept in {directory}")
    shutil.rmtree(directory)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
