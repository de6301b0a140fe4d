"""What this device thinks of each peer: its measurements, circuit breaker, reputation and health.

Whoever judges work tells it here: `on_results_kept` for valid results, `on_dispute` for one that
was shown to be wrong, `on_lease_ended` for a lease that the device itself failed. What a program
does (its exit code, a trap, a limit) is a valid result.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from random import Random

from scheduler.reputation import MEASUREMENT_ROW, Reputation
from scheduler.spot_checks import counted
from telemetry.breaker import Breaker, BreakerConfig, BreakerState, ProbeEnd
from telemetry.health import (
    DEFAULT_REFERENCES,
    DEFAULT_WEIGHTS,
    Health,
    HealthReferences,
    HealthWeights,
    health_of,
)
from telemetry.measurement import ANY_KIND, PEERS_MAX, MeasurementRecord, Measurements
from telemetry.sample import Sample
from wire.effects import Effect, Persist, Row, SetTimer
from wire.ids import PeerId


@dataclass(frozen=True, slots=True)
class BreakerDue:
    """Timer: a breaker's cooldown is over."""

    peer: PeerId


@dataclass(slots=True, kw_only=True)
class Standings:
    """The standing of every peer that was measured, as many as the measurements hold."""

    sample_of: Callable[[PeerId], Sample | None]
    rng: Random
    measurements: Measurements
    reputation: Reputation
    breaker_config: BreakerConfig = field(default_factory=BreakerConfig)
    weights: HealthWeights = DEFAULT_WEIGHTS
    references: HealthReferences = DEFAULT_REFERENCES
    _breakers: dict[PeerId, Breaker] = field(default_factory=dict)

    def on_restarted(self, rows: list[MeasurementRecord]) -> None:
        """Take up what was measured before."""
        for row in rows:
            self.measurements.from_record(row)

    def health(self, peer: PeerId) -> Health:
        """Return the health of a peer, from what was measured and what it claims."""
        return health_of(
            self.measurements.of(peer),
            self.sample_of(peer),
            self.reputation.evidence(peer),
            weights=self.weights,
            references=self.references,
        )

    def breaker(self, peer: PeerId) -> Breaker:
        """Return the breaker kept for a peer; of too many, old closed ones are dropped."""
        if peer not in self._breakers:
            if len(self._breakers) >= PEERS_MAX:
                self._drop_closed()
            self._breakers[peer] = Breaker(random=self.rng, config=self.breaker_config)
        return self._breakers[peer]

    def state(self, peer: PeerId) -> BreakerState:
        """Return whether a peer gets work from here; a peer without a breaker does."""
        breaker = self._breakers.get(peer)
        return BreakerState.CLOSED if breaker is None else breaker.state

    def allows_work(self, peer: PeerId) -> bool:
        """Say whether a peer may get a lease now."""
        breaker = self._breakers.get(peer)
        return breaker is None or breaker.allows_work

    def on_readings(self, peer: PeerId, *, now_us: int) -> list[Effect]:
        """A new sample or round trip of a peer is there."""
        breaker = self.breaker(peer)
        breaker.on_readings(self.measurements.of(peer), self.sample_of(peer), now_us=now_us)
        return self._timer(peer, breaker, now_us)

    def on_round_trip(self, peer: PeerId, round_trip_us: int, *, now_us: int) -> list[Effect]:
        """A round trip of a peer was measured: most say nothing that could move a breaker.

        One within the limit does not make the median slower, so a closed breaker stays closed.
        """
        is_fast = round_trip_us <= self.breaker_config.round_trip_us_max
        if is_fast and self.state(peer) is BreakerState.CLOSED:
            return []
        return self.on_readings(peer, now_us=now_us)

    def on_breaker_due(self, due: BreakerDue, *, now_us: int) -> list[Effect]:
        """Let a probe through if the peer has cooled down."""
        breaker = self.breaker(due.peer)
        breaker.on_timer_due(now_us=now_us)
        return self._timer(due.peer, breaker, now_us)

    def on_lease_granted(self, peer: PeerId, lease: Hashable, *, now_us: int) -> None:
        """A peer that `allows_work` got a lease."""
        self.breaker(peer).on_lease_granted(lease, now_us=now_us)

    def on_results_kept(
        self,
        peer: PeerId,
        lease: Hashable,
        *,
        count: int,
        task_kind: str = ANY_KIND,
        now_us: int,
    ) -> list[Effect]:
        """Note that results of a lease were chosen: each task counts as one success."""
        self.measurements.on_success(peer, task_kind=task_kind, count=count)
        return self._on_outcome(peer, lease, ProbeEnd.SUCCEEDED, now_us=now_us)

    def on_lease_ended(
        self,
        peer: PeerId,
        lease: Hashable,
        end: ProbeEnd,
        *,
        task_kind: str = ANY_KIND,
        now_us: int,
    ) -> list[Effect]:
        """Note how a lease ended; only the device's own failures count against it."""
        match end:
            case ProbeEnd.SUCCEEDED:
                self.measurements.on_success(peer, task_kind=task_kind)
            case ProbeEnd.DEVICE_FAILED:
                self.measurements.on_device_failure(peer, task_kind=task_kind)
            case ProbeEnd.INCONCLUSIVE:
                self.breaker(peer).on_lease_ended(lease, end, now_us=now_us)
                return self.on_readings(peer, now_us=now_us)
        return self._on_outcome(peer, lease, end, now_us=now_us)

    def valid_in_a_row(self, peer: PeerId) -> int:
        """Return how many results of a peer in a row stand, as spot checks count them."""
        return self.measurements.valid_in_a_row(peer)

    def on_valid(self, peer: PeerId, *, checked_count: int, unchecked_count: int) -> None:
        """Count results that were chosen, just before `on_results_kept` writes that down."""
        before = self.valid_in_a_row(peer)
        count = counted(before, checked_count=checked_count, unchecked_count=unchecked_count)
        self.measurements.on_valid_in_a_row(peer, count)

    def on_doubted(self, peer: PeerId) -> list[Effect]:
        """A peer said what cannot be compared, where others had a result: it is a stranger."""
        self.measurements.on_valid_in_a_row(peer, 0)
        return [self._row(peer)]

    def on_dispute(self, peer: PeerId, *, task_kind: str = ANY_KIND, now_us: int) -> list[Effect]:
        """A peer gave a wrong result."""
        self.measurements.on_dispute(peer, task_kind=task_kind)
        self.measurements.on_valid_in_a_row(peer, 0)
        return [*self.reputation.on_outcome(peer, now_us=now_us), self._row(peer)]

    def _on_outcome(
        self, peer: PeerId, lease: Hashable, end: ProbeEnd, *, now_us: int
    ) -> list[Effect]:
        self.breaker(peer).on_lease_ended(lease, end, now_us=now_us)
        return [
            *self.on_readings(peer, now_us=now_us),
            *self.reputation.on_outcome(peer, now_us=now_us),
            self._row(peer),
        ]

    def _row(self, peer: PeerId) -> Effect:
        return Persist((Row(MEASUREMENT_ROW, peer, self.measurements.to_record(peer)),))

    def _drop_closed(self) -> None:
        closed = [
            peer for peer, breaker in self._breakers.items() if breaker.state is BreakerState.CLOSED
        ]
        for peer in closed[: PEERS_MAX // 2]:
            del self._breakers[peer]

    def _timer(self, peer: PeerId, breaker: Breaker, now_us: int) -> list[Effect]:
        if breaker.due_us is None:
            return []
        return [SetTimer(BreakerDue(peer), max(1, breaker.due_us - now_us))]
