"""The names of what is checked, as docs/simulation.md has them, each in a line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

INVARIANTS: Mapping[str, str] = MappingProxyType(
    {
        "S1": "what is accepted is durable first, and known afterwards",
        "S2": "a task has at most one outcome",
        "S3": "receipts are good, and outputs are what programs put out",
        "S4": "a quorum's results agree, and come from distinct executors",
        "S5": "no device works under too many leases, or starts a run twice",
        "S6": "states change only as they may",
        "S7": "no lease goes to a device whose breaker is open",
        "S8": "votes and leases bind the store that gave them",
        "S9": "logs only grow, and a fork is seen",
        "S10": "reputation is written by its owner only",
        "S11": "no device sends more than its budget",
        "S12": "nothing forged changes anything",
        "S13": "no executor works past its lease",
        "L1": "once mended, everybody is linked, known and alive again",
        "L2": "once mended, every accepted task is decided",
        "L3": "reputations agree in the end",
        "L4": "logs agree in the end",
        "L5": "nothing is held for ever",
        "L6": "what must happen sometimes did",
    }
)


def in_order(names: Iterable[str]) -> list[str]:
    """Return names as people count them: S2 before S10, safety first, then all others."""
    places = {name: place for place, name in enumerate(INVARIANTS)}
    return sorted(set(names), key=lambda name: (places.get(name, len(places)), name))
