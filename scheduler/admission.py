"""What an executor takes on: it alone admits work to its device, whatever others think of it.

An offer that is accepted reserves room for two seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from scheduler.errors import MoveNotProven
from scheduler.fair_share import FairShare
from scheduler.held_leases import HeldLeases
from scheduler.moves import steward_sets
from scheduler.own_breaker import OwnBreaker
from wire.effects import Effect, Send, SetTimer
from wire.ids import BatchId, MeshId, PeerId
from wire.limits import Limits
from wire.membership import Role
from wire.messages import Offer, OfferAccepted, OfferRefusal, OfferRejected
from wire.records import Record
from wire.signed import Signed
from wire.tasks import batch_id_of

LEASES_MAX = 50
RESERVATION_US = 2_000_000
DETAIL_CHARACTERS_MAX = 256
_NO_ROOM = frozenset({OfferRefusal.SLOTS_FULL, OfferRefusal.LEASES_FULL})
_CAPPED = ("memory_bytes", "fuel", "wall_us", "output_bytes", "table_elements")


@dataclass(frozen=True, slots=True)
class ReservationEnds:
    """Timer: an offer that was accepted was not taken up."""

    steward: PeerId
    offer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorSettings:
    """What the device's owner allows. `caps` bounds the limits of every task."""

    engine_profile: str
    workers_count: int
    task_slots: int
    caps: Limits
    leases_max: int = LEASES_MAX


@dataclass(frozen=True, slots=True)
class Reservation:
    """Room for some tasks of a batch, and since when: the lease counts from there."""

    batch: BatchId  # whose contract was looked at: a lease of another one has no room here
    submitter: PeerId
    tasks_count: int
    accepted_us: int


@dataclass(slots=True, kw_only=True)
class Admission:
    """Answers offers. The rules are tried in order, and the first that applies is the answer."""

    own: PeerId
    mesh: MeshId
    settings: ExecutorSettings
    held: HeldLeases
    breaker: OwnBreaker
    may: Callable[[PeerId, Role], bool]
    lacks: Callable[[Iterable[str]], list[str]]  # which of these capabilities are not here
    telemetry: Callable[[int], Signed[Record]]
    is_stopping: bool = False
    shares: FairShare = field(init=False)
    _reservations: dict[tuple[PeerId, int], Reservation] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Share the slots."""
        self.shares = FairShare(task_slots=self.settings.task_slots)

    @property
    def slots_free(self) -> int:
        """How many more tasks the device would take now."""
        reserved = sum(reservation.tasks_count for reservation in self._reservations.values())
        return max(0, self.settings.task_slots - self.held.runs_count - reserved)

    def on_offer(self, steward: PeerId, offer: Offer, *, now_us: int) -> list[Effect]:
        """Reserve room for two seconds, or say why not."""
        self._reservations.pop((steward, offer.offer), None)  # asked again: counted once
        submitter, held = offer.contract.signer, self._slots_held()
        room = self.shares.slots_of(submitter, held, now_us=now_us) - held[submitter]
        refusal = self._refusal(steward, offer)
        if refusal is not None and refusal[0] in _NO_ROOM:
            self.shares.on_refused(submitter, held, now_us=now_us)
        elif refusal is None and room <= 0:
            detail = f"others wait: its submitter has its share of {self.settings.task_slots} slots"
            refusal = OfferRefusal.SLOTS_FULL, detail
        telemetry = self.telemetry(now_us)
        if refusal is not None:
            reason, detail = refusal
            rejected = OfferRejected(
                offer=offer.offer,
                reason=reason,
                detail=detail[:DETAIL_CHARACTERS_MAX],
                telemetry=telemetry,
            )
            return [Send(steward, rejected)]
        tasks_count = min(offer.tasks_count, self.slots_free, room)
        self.shares.on_accepted(submitter)
        batch = batch_id_of(offer.contract)
        reservation = Reservation(batch, submitter, tasks_count, now_us)
        self._reservations[steward, offer.offer] = reservation
        accepted = OfferAccepted(
            offer=offer.offer,
            tasks_count=tasks_count,
            wait_us=self.held.wait_us(self.settings.workers_count),
            telemetry=telemetry,
        )
        ends = SetTimer(ReservationEnds(steward, offer.offer), RESERVATION_US)
        return [Send(steward, accepted), ends]

    def _slots_held(self) -> Counter[PeerId]:
        counts = self.held.slots_held()
        for reservation in self._reservations.values():
            counts[reservation.submitter] += reservation.tasks_count
        return counts

    def on_reservation_ends(self, ends: ReservationEnds, *, now_us: int) -> None:
        """Nobody came: the room is free again."""
        reservation = self._reservations.get((ends.steward, ends.offer))
        if reservation is not None and now_us >= reservation.accepted_us + RESERVATION_US:
            del self._reservations[ends.steward, ends.offer]

    def take(self, steward: PeerId, offer: int) -> Reservation | None:
        """Return what was reserved for an offer; it is reserved no longer."""
        return self._reservations.pop((steward, offer), None)

    def _refusal(self, steward: PeerId, offer: Offer) -> tuple[OfferRefusal, str] | None:
        settings, signed, contract = self.settings, offer.contract, offer.contract.body
        pairs = [
            (name, getattr(contract.limits, name), getattr(settings.caps, name)) for name in _CAPPED
        ]
        over = [f"{name} {wanted} > {cap}" for name, wanted, cap in pairs if wanted > cap]
        lacking = self.lacks(contract.requirements)
        leases_count = len(self.held) + len(self._reservations)
        rules = (
            (self.is_stopping, OfferRefusal.STOPPING, ""),
            (
                not self.may(self.own, Role.EXECUTOR),
                OfferRefusal.NOT_EXECUTOR,
                "its certificate lacks executor",
            ),
            (
                contract.mesh != self.mesh,
                OfferRefusal.BAD_CONTRACT,
                "the contract is of another mesh",
            ),
            (
                not self.may(signed.signer, Role.SUBMITTER),
                OfferRefusal.NOT_A_SUBMITTER,
                "the contract's signer may not submit",
            ),
            (
                not _is_by_steward(steward, offer) or not self.may(steward, Role.STEWARD),
                OfferRefusal.BAD_CONTRACT,
                "the offer is not from a steward of the contract",
            ),
            (
                settings.engine_profile not in contract.engine_profiles,
                OfferRefusal.ENGINE_PROFILE,
                settings.engine_profile,
            ),
            (bool(lacking), OfferRefusal.CAPABILITY_MISSING, " ".join(lacking)),
            (bool(over), OfferRefusal.OVER_DEVICE_LIMIT, ", ".join(over)),
            (
                not self.breaker.allows_work
                or (self.breaker.is_probing and bool(self._reservations)),
                OfferRefusal.BREAKER_OPEN,
                "",
            ),
            (
                leases_count >= settings.leases_max,
                OfferRefusal.LEASES_FULL,
                f"{settings.leases_max} leases",
            ),
            (
                self.slots_free == 0,
                OfferRefusal.SLOTS_FULL,
                f"{settings.task_slots} task slots",
            ),
        )
        return next(((reason, detail) for applies, reason, detail in rules if applies), None)


def _is_by_steward(steward: PeerId, offer: Offer) -> bool:
    try:
        stewards = steward_sets(offer.contract, offer.moves)[-1]
    except MoveNotProven:
        return False
    return steward in {named.peer for named in stewards}
