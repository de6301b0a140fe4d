"""The health score: one number in [0, 1] that ranks devices. It never admits them.

    health = 0.4 * bandwidth + 0.3 * latency + 0.2 * compute + 0.1 * reputation

A term that is not known leaves the sum, and the weights of the others are scaled to sum to one.
What the scorer measured itself outranks what the peer claims. docs/health.md explains each term.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from telemetry.measurement import Measured
from telemetry.outcomes import Remembered
from telemetry.sample import Sample

NOTHING_KNOWN_SCORE = 0.5

Weight = Annotated[float, Meta(ge=0, le=1_000)]
Share = Annotated[float, Meta(ge=0, le=1)]


class HealthWeights(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much each term counts. Only their ratios matter, since they are renormalised."""

    bandwidth: Weight = 0.4
    latency: Weight = 0.3
    compute: Weight = 0.2
    reputation: Weight = 0.1


class HealthReferences(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a term is measured against.

    `bandwidth_bits_per_second` scores 1 and more is not better. `round_trip_us` scores 0 and more
    is not worse. Each dispute costs `dispute_cost`, all together at most `dispute_cost_max`. A
    device without any outcome has `reputation_new`.
    """

    bandwidth_bits_per_second: Annotated[int, Meta(ge=1)] = 1_000_000_000
    round_trip_us: Annotated[int, Meta(ge=1)] = 100_000
    dispute_cost: Share = 0.05
    dispute_cost_max: Share = 0.3
    reputation_new: Share = 0.5


class Evidence(Struct, frozen=True, kw_only=True):
    """What speaks for and against a device: own outcomes, and what others say of theirs.

    All that others say is one rate in [0, 1], which weighs as much as `others_weight` own outcomes.
    """

    own: Remembered = Remembered()
    others_rate: Share = 0.0
    others_weight: Share = 0.0


class Terms(Struct, frozen=True, kw_only=True):
    """The four terms of a score, each in [0, 1], or None if not known."""

    bandwidth: float | None = None
    latency: float | None = None
    compute: float | None = None
    reputation: float | None = None


class Health(Struct, frozen=True, kw_only=True):
    """A device's score in [0, 1] and the terms it was made of, for people who ask why."""

    score: float
    terms: Terms


DEFAULT_WEIGHTS = HealthWeights()
DEFAULT_REFERENCES = HealthReferences()


def health_of(
    measured: Measured,
    claimed: Sample | None,
    evidence: Evidence = Evidence(),  # noqa: B008 - it is frozen
    *,
    weights: HealthWeights = DEFAULT_WEIGHTS,
    references: HealthReferences = DEFAULT_REFERENCES,
) -> Health:
    """Return a peer's health from what we `measured`, what it `claimed`, and how it did.

    `claimed` is None as long as it told nothing.
    """
    sample = Sample() if claimed is None else claimed
    terms = Terms(
        bandwidth=_bandwidth(measured, sample, references),
        latency=_latency(measured, references),
        compute=_compute(sample),
        reputation=reputation_of(evidence, references),
    )
    return Health(score=score_of(terms, weights), terms=terms)


def score_of(terms: Terms, weights: HealthWeights = DEFAULT_WEIGHTS) -> float:
    """Return the weighted mean of the known terms, in [0, 1].

    0.5 if no known term has a weight: nothing speaks for the device and nothing against it.
    """
    weighted = [
        (weight, term)
        for weight, term in (
            (weights.bandwidth, terms.bandwidth),
            (weights.latency, terms.latency),
            (weights.compute, terms.compute),
            (weights.reputation, terms.reputation),
        )
        if term is not None
    ]
    weight_sum = sum(weight for weight, _ in weighted)
    if weight_sum == 0:
        return NOTHING_KNOWN_SCORE
    # Divided first: a product of tiny weights would be rounded to zero.
    return _clamped(sum(weight / weight_sum * term for weight, term in weighted))


def reputation_of(evidence: Evidence, references: HealthReferences = DEFAULT_REFERENCES) -> float:
    """Return the success rate less the cost of disputes, in [0, 1].

    A device about which nobody knows as much as one outcome counts as new for the rest of that one.
    """
    own, weight = evidence.own, evidence.others_weight
    unknown = max(0.0, 1.0 - own.count - weight)
    good = own.valid + weight * evidence.others_rate + unknown * references.reputation_new
    success_rate = good / (own.count + weight + unknown)
    cost = min(references.dispute_cost * own.disputed, references.dispute_cost_max)
    return _clamped(success_rate - cost)


def _bandwidth(measured: Measured, sample: Sample, references: HealthReferences) -> float | None:
    up = _first_known(measured.up_bits_per_second, sample.network_up_bits_per_second)
    down = _first_known(measured.down_bits_per_second, sample.network_down_bits_per_second)
    known = [rate for rate in (up, down) if rate is not None]
    return _clamped(min(known) / references.bandwidth_bits_per_second) if known else None


def _latency(measured: Measured, references: HealthReferences) -> float | None:
    # Nobody can claim a round trip: it depends on who asks.
    if measured.round_trip_us is None:
        return None
    return _clamped(1 - measured.round_trip_us / references.round_trip_us)


def _compute(sample: Sample) -> float | None:
    shares = [] if sample.cpu_idle_permille is None else [sample.cpu_idle_permille / 1_000]
    if sample.memory_total_bytes and sample.memory_free_bytes is not None:
        shares.append(sample.memory_free_bytes / sample.memory_total_bytes)
    # With both known this is (idle % + free %) / 200; with one, that one alone.
    return _clamped(sum(shares) / len(shares)) if shares else None


def _first_known(measured: int | None, claimed: int | None) -> int | None:
    return claimed if measured is None else measured


def _clamped(value: float) -> float:
    return min(1.0, max(0.0, value))
