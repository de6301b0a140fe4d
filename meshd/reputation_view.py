"""What a device's reputation is made of, as people see it; it only reads."""

from __future__ import annotations

from collections.abc import Mapping

from p2p.directory import Directory
from scheduler.reputation import Reputation
from telemetry.outcomes import Counts
from wire.answers import ObserverView, OutcomesView, RememberedView, ReputationView
from wire.ids import PeerId, peer_text

OBSERVERS_SHOWN_MAX = 32


def reputation_view(
    reputation: Reputation, directory: Directory, subject: PeerId
) -> ReputationView:
    """Return what `subject` is thought of, and why."""
    evidence = reputation.evidence(subject)
    own, weight = evidence.own, evidence.others_weight
    counted = {one.observer: one.weight for one in reputation.heard(subject)}
    observers = sorted(
        _told_of(directory, subject).items(), key=lambda told: (-counted.get(told[0], 0), told[0])
    )
    held = reputation.measurements.outcomes_of(subject)
    return ReputationView(
        score=round(reputation.reputation(subject), 4),
        own=_views({kind: outcomes.counts for kind, outcomes in held.items()}),
        remembered=RememberedView(
            valid=round(own.valid, 2),
            failed=round(own.failed, 2),
            disputed=round(own.disputed, 2),
        ),
        others_rate=round(evidence.others_rate, 4) if weight else None,
        others_weight=round(weight, 4),
        observers=[
            ObserverView(
                id=peer_text(observer),
                name=_name(directory, observer),
                weight=round(counted.get(observer, 0.0), 4),
                outcomes=_views(by_kind),
            )
            for observer, by_kind in observers[:OBSERVERS_SHOWN_MAX]
        ],
        observers_count=len(observers),
    )


def _told_of(directory: Directory, subject: PeerId) -> dict[PeerId, dict[str, Counts]]:
    """Return what members told of a device, by who tells it and kind of task."""
    told: dict[PeerId, dict[str, Counts]] = {}
    for member in directory:
        counts = {} if member.observed is None else member.observed.counts
        by_kind = {kind: one for (about, kind), one in counts.items() if about == subject}
        if by_kind and member.peer != directory.own:
            told[member.peer] = by_kind
    return told


def _name(directory: Directory, peer: PeerId) -> str:
    member = directory.get(peer)
    return peer_text(peer)[:12] if member is None else member.name


def _views(by_kind: Mapping[str, Counts]) -> list[OutcomesView]:
    return [
        OutcomesView(
            kind=kind,
            valid=counts.valid_count,
            failed=counts.failed_count,
            disputed=counts.disputed_count,
        )
        for kind, counts in sorted(by_kind.items())
    ]
