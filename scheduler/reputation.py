"""How devices did, for this device and for others, and what follows for each: its reputation.

Own outcomes outrank what others say: all of that together weighs as much as one own outcome, at
most. Others count by their own standing here, from own outcomes alone: EigenTrust's sums over
everybody (Kamvar et al. 2003) could be bought with identities. So a device that never did any work
for this one has no say, however many they are; nobody has a say about itself.

What others saw is remembered from when it was heard, and forgotten like own outcomes. Weights are
worked out anew every minute: until then an own outcome only changes what is thought of its device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec.structs import replace

from p2p.observations import Observed
from telemetry.health import DEFAULT_REFERENCES, Evidence, HealthReferences, reputation_of
from telemetry.measurement import Measurements
from telemetry.outcomes import AgeH, Outcomes, Remembered
from wire.effects import Effect, Persist, Row, SetTimer
from wire.ids import PeerId
from wire.records import OBSERVATIONS_MAX, Observation, Observations
from wire.signed import encode_body

AGE_ROW = "age"
MEASUREMENT_ROW = "measurement"
HOUR_US = 3_600_000_000
TELL_SOON_US = 5_000_000  # what came at once is told at once
TELL_EVERY_US = 60_000_000
TELL_EVERY_PER_MEMBER_US = 500_000  # a whole mesh tells twice a second, however large it is
OBSERVATIONS_BYTES_MAX = 4 * 1024
OBSERVERS_MAX = 256
# So many outcomes with somebody, or of somebody, are half of the trust there is to have.
OUTCOMES_HALF = 10
_KEY = b"own"


class AgeRow(Struct, frozen=True, kw_only=True):
    """For how many hours this device's daemon ran, in all its life."""

    hours: AgeH


@dataclass(frozen=True, slots=True)
class AgeDue:
    """Timer: this device is an hour older, so what it remembers counts less."""


@dataclass(frozen=True, slots=True)
class ObservationsDue:
    """Timer: tell others how devices did."""


@dataclass(frozen=True, slots=True)
class ObservationsDurable:
    """Timer of no delay: what is to be told is on disk, so that no count falls after a crash."""

    told: Observations


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What one observer says of one device, and how much that counts here."""

    observer: PeerId
    weight: float
    remembered: Remembered
    rate: float


@dataclass(slots=True, kw_only=True)
class Reputation:
    """What is known of how devices did. Own outcomes are in the measurements."""

    own: PeerId
    measurements: Measurements
    observed_by: Callable[[PeerId], Observed | None]
    members_count: Callable[[], int]
    references: HealthReferences = DEFAULT_REFERENCES
    _observers: dict[PeerId, None] = field(default_factory=dict)
    # By subject: what each observer with a say told, by kind of task.
    _about: dict[PeerId, dict[PeerId, dict[str, Outcomes]]] = field(default_factory=dict)
    _weights: dict[PeerId, float] = field(default_factory=dict)
    _evidence: dict[PeerId, Evidence] = field(default_factory=dict)
    _lately: dict[PeerId, None] = field(default_factory=dict)  # had an outcome, the last the latest
    _told: Observations | None = None
    _told_us: int | None = None
    _is_due: bool = False  # its timer is set

    def on_restarted(self, rows: list[AgeRow]) -> list[Effect]:
        """Take up the age that this device had, and begin to count hours."""
        self.measurements.age_h = max((row.hours for row in rows), default=0)
        for subject in self.measurements.peers()[-OBSERVATIONS_MAX:]:
            self._lately[subject] = None
        effects: list[Effect] = [SetTimer(AgeDue(), HOUR_US)]
        if self._lately:
            self._is_due = True
            effects.append(SetTimer(ObservationsDue(), TELL_SOON_US))
        return effects

    def on_age_due(self) -> list[Effect]:
        """Remember everything a little less."""
        self.measurements.age_h += 1
        self._forget_conclusions()
        row = Row(AGE_ROW, _KEY, AgeRow(hours=self.measurements.age_h))
        return [Persist((row,)), SetTimer(AgeDue(), HOUR_US)]

    def on_outcome(self, subject: PeerId, *, now_us: int) -> list[Effect]:
        """The measurements count one more outcome of a device: tell others, but not too often."""
        self._evidence.pop(subject, None)
        self._lately.pop(subject, None)
        if subject == self.own:
            return []
        self._lately[subject] = None
        if len(self._lately) > OBSERVATIONS_MAX:
            del self._lately[next(iter(self._lately))]
        if subject not in self._observers:
            self.on_observed(subject)
        if self._is_due:
            return []
        self._is_due = True
        pause_us = TELL_SOON_US
        if self._told_us is not None:
            every_us = max(TELL_EVERY_US, TELL_EVERY_PER_MEMBER_US * self.members_count())
            pause_us = max(pause_us, self._told_us + every_us - now_us)
        return [SetTimer(ObservationsDue(), pause_us)]

    def on_observations_due(self, *, now_us: int) -> list[Effect]:
        """Make durable what is to be told to others, if it is news."""
        self._is_due, self._told_us = False, now_us
        self._forget_conclusions()
        before = self._told or Observations()
        told = Observations(generation=before.generation, slots=self._latest())
        if _falls(before, told):
            told = replace(told, generation=before.generation + 1)
        if told == before:
            return []
        self._told = told
        subjects = dict.fromkeys(one.subject for one in told.slots)
        rows = (
            Row(MEASUREMENT_ROW, subject, self.measurements.to_record(subject))
            for subject in subjects
        )
        return [Persist(tuple(rows), (SetTimer(ObservationsDurable(told), 0),))]

    def on_observed(self, observer: PeerId) -> None:
        """Take up what a device told last, if it has a say here."""
        observed = self.observed_by(observer)
        if observed is None or observer == self.own or not self._may_speak(observer):
            return
        age_h = self.measurements.age_h
        told: dict[PeerId, dict[str, Outcomes]] = {}
        for (subject, kind), counts in observed.counts.items():
            held = self._about.get(subject, {}).get(observer, {}).get(kind, Outcomes())
            told.setdefault(subject, {})[kind] = held.counted(counts, age_h=age_h)
        self._drop(observer)
        self._observers[observer] = None
        for subject, by_kind in told.items():
            if subject != observer:
                self._about.setdefault(subject, {})[observer] = by_kind
        self._evidence.clear()

    def evidence(self, subject: PeerId) -> Evidence:
        """Return what speaks for and against a device."""
        known = self._evidence.get(subject)
        if known is None:
            known = self._evidence[subject] = self._weigh(subject)
        return known

    def reputation(self, subject: PeerId) -> float:
        """Return the reputation of a device, in [0, 1]."""
        return reputation_of(self.evidence(subject), self.references)

    def weight(self, observer: PeerId) -> float:
        """Return how much an observer's word counts, in [0, 1]: by how it did here itself."""
        known = self._weights.get(observer)
        if known is None:
            own = self.measurements.remembered(observer)
            rate = reputation_of(Evidence(own=own), self.references)
            known = self._weights[observer] = rate * _trust(own.count) if own.count else 0.0
        return known

    def heard(self, subject: PeerId) -> list[Heard]:
        """Return what others say of a device, those who count most first."""
        age_h = self.measurements.age_h
        found = []
        for observer, by_kind in self._about.get(subject, {}).items():
            if self.observed_by(observer) is None:
                continue  # it is no member any more
            total = Remembered()
            for outcomes in by_kind.values():
                total = total.plus(outcomes.remembered(age_h=age_h))
            rate = reputation_of(Evidence(own=total), self.references)
            weight = self.weight(observer) * _trust(total.count + total.disputed)
            found.append(Heard(observer=observer, weight=weight, remembered=total, rate=rate))
        return sorted(found, key=lambda one: (-one.weight, one.observer))

    def _weigh(self, subject: PeerId) -> Evidence:
        own = self.measurements.remembered(subject)
        heard = self.heard(subject)
        weight = sum(one.weight for one in heard)
        if weight <= 0:
            return Evidence(own=own)
        rate = sum(one.weight * one.rate for one in heard) / weight
        return Evidence(own=own, others_rate=min(1.0, rate), others_weight=min(1.0, weight))

    def _may_speak(self, observer: PeerId) -> bool:
        """Say whether a device did any work for this one, and there is room to listen to it."""
        if observer in self._observers:
            return True
        if not self.measurements.outcomes_of(observer):
            return False
        if len(self._observers) >= OBSERVERS_MAX:
            for known in [one for one in self._observers if self.observed_by(one) is None]:
                self._drop(known)
        return len(self._observers) < OBSERVERS_MAX

    def _drop(self, observer: PeerId) -> None:
        self._observers.pop(observer, None)
        for subject in [one for one, told in self._about.items() if observer in told]:
            del self._about[subject][observer]
            if not self._about[subject]:
                del self._about[subject]

    def _latest(self) -> tuple[Observation, ...]:
        """Return the observations of the devices that had outcomes last, as many as may be told."""
        slots: list[Observation] = []
        for subject in reversed(self._lately):
            kinds = self.measurements.outcomes_of(subject)
            about = [
                Observation(
                    subject,
                    kind,
                    outcomes.counts.valid_count,
                    outcomes.counts.failed_count,
                    outcomes.counts.disputed_count,
                )
                for kind, outcomes in kinds.items()
            ]
            both = sorted((*slots, *about), key=lambda one: one.slot)
            if len(both) > OBSERVATIONS_MAX or _size(both) > OBSERVATIONS_BYTES_MAX:
                break
            slots = both
        return tuple(slots)

    def _forget_conclusions(self) -> None:
        self._weights.clear()
        self._evidence.clear()


def _trust(count: float) -> float:
    return count / (count + OUTCOMES_HALF)


def _falls(before: Observations, after: Observations) -> bool:
    """Say whether a slot went, or a count of one fell."""
    held = {one.slot: one for one in after.slots}
    for one in before.slots:
        now = held.get(one.slot)
        if now is None or (
            now.valid_count < one.valid_count
            or now.failed_count < one.failed_count
            or now.disputed_count < one.disputed_count
        ):
            return True
    return False


def _size(slots: list[Observation]) -> int:
    return len(encode_body(Observations(slots=tuple(slots))))
