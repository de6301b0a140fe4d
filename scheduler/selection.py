"""Which devices to offer tasks to, and which of those that accept to take.

The health score ranks and never admits: picking the top score from gossip sends everybody to the
same device. So candidates are filtered, two are sampled by free capacity, both are asked, and the
strategy decides among those who accept (Mitzenmacher 2001, *the power of two choices*; Ousterhout
et al. 2013, *Sparrow*). The executor alone admits.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from telemetry.breaker import BreakerState
from wire.ids import PeerId
from wire.tasks import Contract, Strategy

OFFERS_PER_PLACEMENT = 2
OFFERS_WHEN_URGENT = 3
URGENT_PRIORITY = 2
WAIT_BUCKET_US = 100_000
RING_PLACES_MAX = 64


class Exclusion(enum.StrEnum):
    """Why a device is not asked."""

    NOT_EXECUTOR = "not_executor"
    CONVICTED = "convicted"
    HAS_LEFT = "has_left"
    DEAD = "dead"
    NOT_LINKED = "not_linked"
    CAPABILITY_MISSING = "capability_missing"
    NODE_TYPE = "node_type"
    ENGINE_PROFILE = "engine_profile"
    BREAKER_OPEN = "breaker_open"
    ENGAGED = "engaged"
    FAILED_THIS_TASK = "failed_this_task"
    REFUSED = "refused"
    REFUSED_RECENTLY = "refused_recently"


# What waiting does not change: only another device, or another label on this one, does.
PERMANENT = frozenset(
    {
        Exclusion.NOT_EXECUTOR,
        Exclusion.CONVICTED,
        Exclusion.CAPABILITY_MISSING,
        Exclusion.NODE_TYPE,
        Exclusion.ENGINE_PROFILE,
        Exclusion.REFUSED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A device as selection sees it. `health` is in [0, 1]; `slots_free` None if not told.

    `workers_free` is how many tasks would start at once, None if not known: slots also count the
    places in which a task waits for a worker.
    """

    peer: PeerId
    name: str
    is_self: bool
    is_linked: bool
    is_executor: bool
    has_left: bool
    is_dead: bool = False  # to the mesh: enough of its observers do not hear it
    is_convicted: bool = False  # of a wrong result, and no admin has pardoned it
    operator: str | None = None  # whose it is, by its certificate
    capabilities: frozenset[str]
    node_type: str | None
    engine_profiles: tuple[str, ...]
    breaker: BreakerState
    allows_work: bool
    health: float
    slots_free: int | None
    slots_total: int | None
    workers_free: int | None = None
    speed: int
    round_trip_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """A device that would take some of the tasks, and how soon."""

    candidate: Candidate
    tasks_count: int
    wait_us: int


def exclusion(contract: Contract, candidate: Candidate) -> tuple[Exclusion, str] | None:
    """Return why a device is not eligible, with what is missing; None if it is."""
    lacking = [key for key in contract.requirements if key not in candidate.capabilities]
    profiles = set(contract.engine_profiles)
    rules: Sequence[tuple[bool, Exclusion, str]] = (
        (not candidate.is_executor, Exclusion.NOT_EXECUTOR, "its certificate lacks executor"),
        (candidate.is_convicted, Exclusion.CONVICTED, "it signed a wrong result"),
        (bool(lacking), Exclusion.CAPABILITY_MISSING, " ".join(lacking)),
        (
            contract.node_type not in (None, candidate.node_type),
            Exclusion.NODE_TYPE,
            f"it is of type {candidate.node_type}",
        ),
        (
            profiles.isdisjoint(candidate.engine_profiles),
            Exclusion.ENGINE_PROFILE,
            f"it runs {' '.join(candidate.engine_profiles) or 'no engine'}",
        ),
        (candidate.has_left, Exclusion.HAS_LEFT, "it said goodbye"),
        (candidate.is_dead, Exclusion.DEAD, "its observers do not hear it"),
        (
            not (candidate.is_linked or candidate.is_self),
            Exclusion.NOT_LINKED,
            "no link to it now",
        ),
        (not candidate.allows_work, Exclusion.BREAKER_OPEN, f"breaker {candidate.breaker}"),
    )
    for is_excluded, reason, detail in rules:
        if is_excluded:
            return reason, detail
    return None


@dataclass(slots=True, kw_only=True)
class Sampler:
    """Draws the devices to ask. Only `round-robin` remembers anything: where its ring stands."""

    rng: Random
    _ring: list[PeerId] = field(default_factory=list)

    def twin(self, rng: Random) -> Sampler:
        """Return one that stands where this one does and draws from `rng`, to see what it would."""
        return Sampler(rng=rng, _ring=list(self._ring))

    def sample(self, contract: Contract, eligible: Sequence[Candidate]) -> list[Candidate]:
        """Return the devices to ask: two, three for urgent tasks, or only this one if it is free.

        Weights are free slots times speed. `round-robin` takes the next of a shuffled ring in
        which each device stands as often as it has slots. Only those are drawn from that have most
        of what is preferred.
        """
        eligible = preferred(contract, eligible)
        free_here = [own for own in eligible if own.is_self and _starts_at_once(own)]
        if free_here:
            return free_here  # it starts here before an offer would have come back
        urgent = contract.priority >= URGENT_PRIORITY
        count = min(OFFERS_WHEN_URGENT if urgent else OFFERS_PER_PLACEMENT, len(eligible))
        if contract.strategy is Strategy.ROUND_ROBIN:
            return self._next_of_ring(eligible, count)
        return self._weighted(eligible, count)

    def _weighted(self, eligible: Sequence[Candidate], count: int) -> list[Candidate]:
        pool = sorted(eligible, key=_by_peer)
        chosen: list[Candidate] = []
        while len(chosen) < count:
            weights = [_capacity_weight(candidate) for candidate in pool]
            picked = self.rng.choices(range(len(pool)), weights)[0]
            chosen.append(pool.pop(picked))
        return chosen

    def _next_of_ring(self, eligible: Sequence[Candidate], count: int) -> list[Candidate]:
        by_peer = {candidate.peer: candidate for candidate in eligible}
        chosen: dict[PeerId, Candidate] = {}
        while len(chosen) < count:
            if not self._ring:
                self._ring = [
                    candidate.peer
                    for candidate in sorted(eligible, key=_by_peer)
                    for _ in range(min(candidate.slots_total or 1, RING_PLACES_MAX))
                ]
                self.rng.shuffle(self._ring)
            peer = self._ring.pop()
            if peer in by_peer:
                chosen[peer] = by_peer[peer]
        return list(chosen.values())


def preferences_met(contract: Contract, candidate: Candidate) -> int:
    """Return how much a device has of what is preferred, but not required."""
    return sum(key in candidate.capabilities for key in contract.preferences)


def preferred(contract: Contract, eligible: Sequence[Candidate]) -> Sequence[Candidate]:
    """Return those that have most of what is preferred, of those that have room; else all."""
    with_room = [one for one in eligible if one.slots_free != 0]
    if not contract.preferences or not with_room:
        return eligible
    most = max(preferences_met(contract, one) for one in with_room)
    return [one for one in with_room if preferences_met(contract, one) == most]


def choose(strategy: Strategy, accepted: Sequence[Acceptance]) -> Acceptance:
    """Return the best of those who accepted, at least one, in the order they were asked."""
    match strategy:
        case Strategy.WEIGHTED:
            return min(accepted, key=_no_wait_then_health)
        case Strategy.LEAST_LOADED:
            return min(accepted, key=lambda acceptance: acceptance.wait_us)
        case Strategy.LATENCY_AWARE:
            return min(accepted, key=_time_to_start_us)
        case Strategy.ROUND_ROBIN:
            return accepted[0]


def _starts_at_once(candidate: Candidate) -> bool:
    return (candidate.slots_free or 0) > 0 and candidate.workers_free != 0


def _capacity_weight(candidate: Candidate) -> int:
    slots = 1 if candidate.slots_free is None else candidate.slots_free
    # A device that told it is full keeps a little weight: what it told is seconds old.
    return 1 + 16 * slots * max(1, candidate.speed)


def _no_wait_then_health(acceptance: Acceptance) -> tuple[int, float]:
    return acceptance.wait_us // WAIT_BUCKET_US, -acceptance.candidate.health


def _time_to_start_us(acceptance: Acceptance) -> int:
    return acceptance.candidate.round_trip_us + acceptance.wait_us


def _by_peer(candidate: Candidate) -> PeerId:
    return candidate.peer
