"""What befalls the devices of a soak, and who gives work when: a function of its seed alone."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from random import Random

RECOVERY_S = 5.0  # after a device is back, until the next one goes


class Kind(enum.Enum):
    """What happens to devices."""

    KILL = "killed"
    KILL_SUBMITTER = "killed as soon as its submit returned"
    FREEZE = "frozen"
    SPLIT = "split off"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that befalls `nodes`, from `at_s` on for `for_s`."""

    at_s: float
    kind: Kind
    nodes: tuple[int, ...]
    for_s: float

    def __str__(self) -> str:
        """Return it as a person reads it."""
        who = ", ".join(f"d{node}" for node in self.nodes)
        return f"at {self.at_s:6.1f} s: {who} {self.kind.value}, for {self.for_s:.1f} s"


@dataclass(frozen=True, slots=True)
class Submission:
    """A batch of `count` tasks, given to the first of `nodes` that runs at `at_s`."""

    at_s: float
    nodes: tuple[int, ...]
    count: int


@dataclass(frozen=True, slots=True)
class SoakPlan:
    """All that is to happen in `duration_s`."""

    seed: int
    nodes_count: int
    duration_s: float
    faults: tuple[Fault, ...]
    submissions: tuple[Submission, ...]


def plan_of(
    seed: int, *, nodes_count: int, duration_s: float, every_s: float = 1.0, can_split: bool = True
) -> SoakPlan:
    """Return the plan of a seed. A submit comes every `every_s` on average.

    Of processes one fault comes after another, splits come beside them; all end in time.
    """
    rng = Random(seed)
    faults = _process_faults(rng, nodes_count, duration_s)
    if can_split:
        faults += _splits(rng, nodes_count, duration_s)
    submissions = []
    at_s = rng.uniform(0, every_s)
    while at_s < duration_s:
        nodes = tuple(rng.sample(range(nodes_count), nodes_count))
        submissions.append(Submission(at_s, nodes, rng.randint(1, 4)))
        at_s += rng.uniform(0.2, 1.8) * every_s
    return SoakPlan(
        seed=seed,
        nodes_count=nodes_count,
        duration_s=duration_s,
        faults=tuple(sorted(faults, key=lambda fault: fault.at_s)),
        submissions=tuple(submissions),
    )


def _process_faults(rng: Random, nodes_count: int, duration_s: float) -> list[Fault]:
    faults: list[Fault] = []
    at_s = rng.uniform(0.5, 2)
    while True:
        kind = rng.choice((Kind.KILL, Kind.KILL, Kind.KILL_SUBMITTER, Kind.FREEZE))
        count = 2 if kind is not Kind.KILL_SUBMITTER and rng.random() < 0.2 else 1
        nodes = tuple(sorted(rng.sample(range(nodes_count), count)))
        for_s = rng.uniform(1, 10 if kind is Kind.FREEZE else 6)
        if at_s + for_s > duration_s:
            return faults
        faults.append(Fault(at_s, kind, nodes, for_s))
        at_s += for_s + RECOVERY_S + rng.uniform(0, 4)


def _splits(rng: Random, nodes_count: int, duration_s: float) -> list[Fault]:
    faults: list[Fault] = []
    at_s = rng.uniform(3, 12)
    while True:
        nodes = tuple(sorted(rng.sample(range(nodes_count), rng.randint(1, nodes_count // 2))))
        for_s = rng.uniform(3, 15)
        if at_s + for_s > duration_s:
            return faults
        faults.append(Fault(at_s, Kind.SPLIT, nodes, for_s))
        at_s += for_s + rng.uniform(5, 20)
