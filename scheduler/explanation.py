"""Why a device gets a task or does not: the rule that chose, outranked or excluded it.

Where a task would go is found by drawing with the real sampler, many times, from a generator of its
own: what is told cannot differ from what is done, and telling changes nothing.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from scheduler.placement import LASTING, Placement
from scheduler.selection import (
    Acceptance,
    Candidate,
    Exclusion,
    Sampler,
    choose,
    preferences_met,
)
from wire.answers import DeviceReason
from wire.ids import PeerId, peer_text
from wire.tasks import Contract, Strategy

DRAWS_MAX = 256
DRAWN_FROM_MAX = 50_000  # draws times devices: a plan among thousands must not take seconds
DETAIL_CHARACTERS_MAX = 256


class Place(enum.StrEnum):
    """Where a device stands with a task."""

    HAS_IT = "has_it"
    ASKED = "asked"  # an offer is out
    FIRST = "first"  # it would most likely get it
    OUTRANKED = "outranked"  # it could, but another is ahead
    EXCLUDED = "excluded"


class Rule(enum.StrEnum):
    """What outranks a device that is eligible; `Exclusion` has what excludes one."""

    LOCAL_FIRST = "local_first"
    PREFERENCE = "preference"
    STRATEGY = "strategy"
    CAPACITY = "capacity"
    NOT_ASKED = "not_asked"
    SILENT = "silent"
    DECIDED = "decided"


@dataclass(frozen=True, slots=True)
class Because:
    """A rule, what it says of this device, and what would change it, if anything."""

    rule: str
    detail: str
    change: str


Excluded = Mapping[PeerId, tuple[Exclusion, str]]

CHANGES: Mapping[Exclusion, str] = MappingProxyType(
    {
        Exclusion.NOT_EXECUTOR: "an admin can invite it again with --role executor",
        Exclusion.CONVICTED: "an admin lets it work again: `meshctl pardon` with its name",
        Exclusion.HAS_LEFT: "start it again with `meshd start`",
        Exclusion.DEAD: "see whether it is on and has a network: it is redialled until it answers",
        Exclusion.NOT_LINKED: "it is dialled when work waits for it; `meshctl peer` says why there"
        " is no link",
        Exclusion.CAPABILITY_MISSING: "require less, or let it provide it: labels are given with"
        " `meshd start --label`",
        Exclusion.NODE_TYPE: "leave out --type, or start it with that --type",
        Exclusion.ENGINE_PROFILE: "install the same release of meshd on both devices",
        Exclusion.BREAKER_OPEN: "it is tried again by itself after a pause; `meshctl peer` says"
        " what is wrong with it",
        Exclusion.ENGAGED: "each device has a task once: another one makes the next copy",
        Exclusion.FAILED_THIS_TASK: "it is asked again when all others have failed the task, too",
        Exclusion.REFUSED: "ask for less (--memory, --fuel, --timeout, --output-max), or raise its"
        " limits in its config.toml",
        Exclusion.REFUSED_RECENTLY: "it is asked again within a second",
    }
)


def placing(
    contract: Contract, eligible: Sequence[Candidate], excluded: Excluded, sampler: Sampler
) -> tuple[Candidate | None, dict[PeerId, tuple[Place, Because | None, float]]]:
    """Return who would most likely get a task, and for each device where it stands and why.

    The number is the share of such tasks that the device would get.
    """
    stands: dict[PeerId, tuple[Place, Because | None, float]] = {
        peer: (Place.EXCLUDED, because_excluded(*reason), 0.0) for peer, reason in excluded.items()
    }
    if not eligible:
        return None, stands
    shares = _shares(contract, eligible, sampler)
    first = max(eligible, key=lambda one: (shares[one.peer], one.health, one.peer))
    for one in eligible:
        place, because = Place.FIRST, None
        if one.peer != first.peer:
            place, because = Place.OUTRANKED, because_outranked(contract, one, first)
        stands[one.peer] = place, because, shares[one.peer]
    return first, stands


def because_excluded(reason: Exclusion, detail: str) -> Because:
    """Return why a device is not eligible."""
    return Because(reason, detail, CHANGES[reason])


def because_outranked(contract: Contract, candidate: Candidate, first: Candidate) -> Because:
    """Return why another device would rather get a task than `candidate`."""
    lacking = [key for key in contract.preferences if key not in candidate.capabilities]
    if preferences_met(contract, candidate) < preferences_met(contract, first):
        return Because(
            Rule.PREFERENCE,
            f"it lacks {' '.join(lacking)}, which is preferred",
            f"it is asked when {first.name} has no room, or without --prefer",
        )
    if first.is_self and first.workers_free != 0 and first.slots_free:
        return Because(
            Rule.LOCAL_FIRST,
            f"{first.name} is free: the task starts there before an offer would have come back",
            f"it is asked when {first.name} is busy",
        )
    if candidate.slots_free == 0 and first.slots_free != 0:
        return Because(Rule.CAPACITY, "it told that it has no room", "it finishes something")
    # The real rule decides; both are thought to start the task at once.
    both = [Acceptance(candidate=one, tasks_count=1, wait_us=0) for one in (candidate, first)]
    if choose(contract.strategy, both).candidate is first:
        return Because(Rule.STRATEGY, *_strategy_texts(contract.strategy, candidate, first))
    return Because(
        Rule.CAPACITY,
        f"devices are asked as often as free slots times speed weigh: {_capacity(candidate)},"
        f" {_capacity(first)} at {first.name}",
        "more free slots here, fewer there",
    )


def since_placed(
    placement: Placement, holder: PeerId | None, peer: PeerId
) -> tuple[Place, Because | None] | None:
    """Return where a device stands with a task that was offered so; None if it was not asked."""
    candidate = placement.asked.get(peer)
    if candidate is None:
        return None
    if peer == holder:
        return Place.HAS_IT, None
    refusal = placement.refused.get(peer)
    if refusal is not None:
        is_lasting = refusal.partition(" ")[0] in LASTING
        change = CHANGES[Exclusion.REFUSED if is_lasting else Exclusion.REFUSED_RECENTLY]
        return Place.EXCLUDED, Because(Exclusion.REFUSED, refusal, change)
    if holder is None:
        return Place.ASKED, None
    winner = placement.asked.get(holder)
    if peer in placement.accepted and winner is not None:
        waits = [placement.accepted[one].wait_us for one in (peer, holder)]
        detail, change = _strategy_texts(placement.strategy, candidate, winner)
        waited = f"it would have waited {waits[0] // 1000} ms, {waits[1] // 1000} ms there"
        return Place.OUTRANKED, Because(Rule.STRATEGY, f"{waited}; {detail}", change)
    return Place.OUTRANKED, Because(
        Rule.SILENT, "it did not answer the offer in time", "see whether it is overloaded"
    )


def device_reason(
    candidate: Candidate, place: Place, because: Because | None, share: float | None = None
) -> DeviceReason:
    """Return it as people and JSON have it."""
    return DeviceReason(
        id=peer_text(candidate.peer),
        name=candidate.name,
        is_self=candidate.is_self,
        place=str(place),
        rule=None if because is None else str(because.rule),
        detail=None if because is None else because.detail[:DETAIL_CHARACTERS_MAX] or None,
        change=None if because is None else because.change or None,
        share=None if share is None else round(share, 3),
    )


_ORDER = {place: number for number, place in enumerate(Place)}


def in_order(reasons: Sequence[DeviceReason]) -> list[DeviceReason]:
    """Return who has it first, then who could get it, then the others; each by share and name."""
    return sorted(
        reasons, key=lambda one: (_ORDER[Place(one.place)], -(one.share or 0.0), one.name, one.id)
    )


def _shares(
    contract: Contract, eligible: Sequence[Candidate], sampler: Sampler
) -> Mapping[PeerId, float]:
    drawn = sampler.twin(Random(0))  # noqa: S311 - nothing is kept secret with it
    draws_count = min(DRAWS_MAX, max(1, DRAWN_FROM_MAX // len(eligible)))
    counts: Counter[PeerId] = Counter({one.peer: 0 for one in eligible})
    for _ in range(draws_count):
        asked = drawn.sample(contract, eligible)
        accepted = [Acceptance(candidate=one, tasks_count=1, wait_us=0) for one in asked]
        counts[choose(contract.strategy, accepted).candidate.peer] += 1
    return {peer: count / draws_count for peer, count in counts.items()}


def _strategy_texts(strategy: Strategy, candidate: Candidate, first: Candidate) -> tuple[str, str]:
    match strategy:
        case Strategy.WEIGHTED:
            return (
                f"health {candidate.health:.2f}, {first.health:.2f} at {first.name}",
                "`meshctl peer` shows the four terms of its health",
            )
        case Strategy.LATENCY_AWARE:
            return (
                f"round trip {candidate.round_trip_us / 1000:.1f} ms,"
                f" {first.round_trip_us / 1000:.1f} ms at {first.name}",
                "a shorter way to it, or another --strategy",
            )
        case Strategy.LEAST_LOADED:
            return f"{first.name} starts it sooner", "less work there"
        case Strategy.ROUND_ROBIN:
            return f"it was the turn of {first.name}", "its turn comes"


def _capacity(candidate: Candidate) -> str:
    slots = "unknown" if candidate.slots_free is None else candidate.slots_free
    return f"{slots} x {candidate.speed}"
