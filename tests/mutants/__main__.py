"""`make mutants`: hunt every mutant, print what each took, and fail if one survives."""

from __future__ import annotations

import argparse
import sys

from mutants.hunt import Hunt, holds_without, hunt
from mutants.planted import MUTANTS

FOUND_CHARACTERS_MAX = 60


def main() -> None:
    """Hunt the mutants whose name contains what is asked for, by default all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names; by default all mutants")
    names = parser.parse_args().names
    wanted = [one for one in MUTANTS if not names or any(name in one.name for name in names)]
    hunts = []
    for mutant in wanted:
        broken = holds_without(mutant)
        if broken is not None:
            sys.exit(f"{mutant.name}: breaks without the defect too: {broken}")
        hunts.append(hunt(mutant))
        _tell(hunts[-1])
    survivors = [one.mutant.name for one in hunts if one.found is None]
    cpu_s = sum(one.cpu_s for one in hunts)
    _say(f"{len(hunts) - len(survivors)} of {len(hunts)} mutants found in {cpu_s:.1f} CPU s")
    if survivors or not hunts:
        sys.exit("survived: " + ", ".join(survivors or ["nothing was hunted"]))


def _tell(one: Hunt) -> None:
    found = "SURVIVED" if one.found is None else one.found[:FOUND_CHARACTERS_MAX]
    _say(f"{one.mutant.name:50} seeds {one.seeds_count:3} cpu {one.cpu_s:6.2f} s  {found}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
