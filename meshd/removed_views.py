"""Devices that were removed, as `peers` lists them: what remains of them, within a bound."""

from __future__ import annotations

from collections.abc import Callable

from p2p.removals import Removals
from wire.answers import HealthView, PeerView
from wire.ids import PeerId, did_key, peer_text

REMOVED_SHOWN_MAX = 100

_NO_HEALTH = HealthView(score=0.0, bandwidth=None, latency=None, compute=None, reputation=None)


def removed_views(removals: Removals, *, name_of: Callable[[PeerId], str]) -> list[PeerView]:
    """Return the first of the removed devices, by name."""
    named = sorted(
        (sentence.name or peer_text(peer)[:12], peer, sentence)
        for peer, sentence in removals.sentences().items()
    )
    recovery_key = removals.genesis.body.recovery_key
    views = []
    for name, peer, sentence in named[:REMOVED_SHOWN_MAX]:
        signers = [
            "the recovery key" if signer == recovery_key else name_of(signer)
            for signer in sentence.signers
        ]
        views.append(_view(peer, name, f"removed by {' and '.join(signers)}"))
    return views


def _view(peer: PeerId, name: str, reason: str) -> PeerView:
    return PeerView(
        id=peer_text(peer),
        did=did_key(peer),
        name=name,
        is_self=False,
        state="removed",
        reason=reason,
        node_type="any",
        region="",
        roles=[],
        operator="",
        addresses=[],
        capabilities=[],
        engine_profiles=[],
        incarnation=0,
        health=_NO_HEALTH,
        breaker="closed",
        breaker_reason=None,
        round_trip_us=None,
        transfer_bits_per_s=None,
        telemetry=None,
        telemetry_age_us=None,
        successes=0,
        failures=0,
        leases_held=None,
    )
