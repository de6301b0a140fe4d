"""Devices and the mesh as people see them: the answers to status, peers and find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from meshd.removed_views import removed_views
from meshd.reputation_view import reputation_view
from p2p.capability import missing
from p2p.directory import Directory, Member
from p2p.overlay import Overlay
from p2p.removals import Removals
from p2p.verdicts import Liveliness, Verdicts
from scheduler.standing import Standings
from telemetry.breaker import Breaker, BreakerState
from telemetry.health import Health
from wire.answers import Candidate, Found, HealthView, PeerList, PeerView, RefusalCode, Refused
from wire.errors import MalformedId
from wire.ids import MeshId, PeerId, did_key, mesh_text, peer_from_text, peer_text

PREFIX_LETTERS_MIN = 8
CLOSEST_MAX = 5


@dataclass(slots=True, kw_only=True)
class PeerViews:
    """Builds views of devices; it only reads."""

    own: PeerId
    mesh: MeshId
    directory: Directory
    links: dict[PeerId, object]
    overlay: Overlay
    standings: Standings
    verdicts: Verdicts
    own_breaker: Breaker
    removals: Removals
    name_of: Callable[[PeerId], str]

    def resolve(self, reference: str) -> Member | Refused:
        """Return the device that `reference` names: a name, an id, `did:key`, or an id's start."""
        try:
            member = self.directory.get(peer_from_text(reference))
            matching = [] if member is None else [member]
        except MalformedId:
            # Names are chosen by their devices: one that looks like the beginning of another's id
            # must not be taken for it.
            matching = [one for one in self.directory if _is_meant(one, reference)]
        if len(matching) == 1:
            return matching[0]
        if not matching:
            return Refused(
                code=RefusalCode.NOT_FOUND,
                message=f"unknown device {reference[:80]!r}",
                hint="`meshctl peers` lists those this device knows",
            )
        ids = " ".join(peer_text(one.peer) for one in matching[:CLOSEST_MAX])
        return Refused(
            code=RefusalCode.AMBIGUOUS,
            message=f"{reference!r} may be any of {len(matching)} devices",
            hint=f"use an id: {ids}",
        )

    def resolve_any(self, reference: str) -> PeerId | Refused:
        """Return the device that `reference` names, also one that is not known, by its whole id."""
        found = self.resolve(reference)
        if isinstance(found, Member):
            return found.peer
        try:
            return peer_from_text(reference)
        except MalformedId:
            return found

    def peers(self, *, now_us: int) -> PeerList:
        """Return all devices, this one first, then by name; last a hundred that were removed."""
        members = sorted(self.directory, key=lambda one: (one.peer != self.own, one.name, one.peer))
        views = [self.peer(member, now_us=now_us) for member in members]
        views += removed_views(self.removals, name_of=self.name_of)
        return PeerList(mesh=mesh_text(self.mesh), peers=views)

    def found(
        self, capabilities: tuple[str, ...], source: str, members: list[Member], *, now_us: int
    ) -> Found:
        """Return the devices that provide everything, or those that come closest."""
        lacking = sorted(
            (
                (missing(capabilities, member.capabilities), member)
                for member in self.directory
                if not member.has_left
            ),
            key=lambda pair: (len(pair[0]), pair[1].name),
        )
        closest = [
            Candidate(id=peer_text(member.peer), name=member.name, missing=keys)
            for keys, member in lacking[:CLOSEST_MAX]
        ]
        ranked = sorted(members, key=lambda one: -self.health(one.peer).score)
        return Found(
            capabilities=list(capabilities),
            source=source,
            peers=[self.peer(member, now_us=now_us) for member in ranked],
            closest=[] if members else closest,
        )

    def health(self, peer: PeerId) -> Health:
        """Return a device's health as this one scores it."""
        return self.standings.health(peer)

    def health_view(self, peer: PeerId) -> HealthView:
        """Return a device's health with its terms, rounded for people."""
        health = self.health(peer)
        terms = health.terms
        return HealthView(
            score=round(health.score, 4),
            bandwidth=_rounded(terms.bandwidth),
            latency=_rounded(terms.latency),
            compute=_rounded(terms.compute),
            reputation=_rounded(terms.reputation),
        )

    def peer_in_full(self, member: Member, *, now_us: int) -> PeerView:
        """Return one device, with what its reputation is made of."""
        view = reputation_view(self.standings.reputation, self.directory, member.peer)
        return replace(self.peer(member, now_us=now_us), reputation=view)

    def peer(self, member: Member, *, now_us: int) -> PeerView:
        """Return one device."""
        presence, sample = member.presence, member.sample
        measured = self.standings.measurements.of(member.peer)
        state, reason = self._state(member, now_us=now_us)
        carrier = self.overlay.ways.via(member.peer)
        is_self = member.peer == self.own
        breaker = self.own_breaker.state if is_self else self.standings.state(member.peer)
        rates = (measured.up_bits_per_second, measured.down_bits_per_second)
        versions = [signed.body.incarnation for signed in member.records.values()]
        return PeerView(
            id=peer_text(member.peer),
            did=did_key(member.peer),
            name=member.name,
            is_self=is_self,
            state=state,
            reason=reason,
            node_type="any" if presence is None else presence.node_type,
            region="" if presence is None else presence.region,
            roles=[str(role) for role in member.certificate.roles],
            operator=member.certificate.operator,
            addresses=[] if presence is None else list(presence.addresses),
            capabilities=sorted(member.capabilities),
            engine_profiles=[] if presence is None else list(presence.engine_profiles),
            incarnation=max(versions, default=0),
            health=self.health_view(member.peer),
            breaker=str(breaker),
            breaker_reason=self._breaker_reason(member.peer, breaker),
            round_trip_us=measured.round_trip_us,
            transfer_bits_per_s=min((rate for rate in rates if rate is not None), default=None),
            telemetry=None if sample is None else msgspec.to_builtins(sample),
            telemetry_age_us=(
                None if member.sample_heard_us is None else now_us - member.sample_heard_us
            ),
            successes=measured.successes_count,
            failures=measured.failures_count,
            leases_held=None if sample is None else sample.leases_count,
            via=None if carrier is None else self.name_of(carrier),
        )

    def _breaker_reason(self, peer: PeerId, state: BreakerState) -> str | None:
        if peer == self.own:
            return breaker_reason(self.own_breaker)
        if state is BreakerState.CLOSED:
            return None  # perhaps there is no breaker: looking at a device must not make one
        return breaker_reason(self.standings.breaker(peer))

    def _state(self, member: Member, *, now_us: int) -> tuple[str, str | None]:
        if member.peer == self.own:
            return "self", None
        if member.has_left:
            return "left", "it said goodbye"
        failure = self.overlay.last_failure.get(member.peer)
        verdict = self.verdicts.of(member.peer, now_us=now_us)
        if verdict.state is not Liveliness.ALIVE:
            reasons = [reason for reason in (verdict.reason, failure) if reason is not None]
            return str(verdict.state), "; ".join(reasons)
        if member.peer in self.links:
            return "linked", None
        if failure is not None:
            return "unreachable", failure
        return "known", "no link to it is needed" if self.links else "not dialled yet"


def breaker_reason(breaker: Breaker) -> str | None:
    """Return why a breaker is not closed, in words; None if it is."""
    parts = [f"{one.cause} {one.observed} > {one.limit}" for one in breaker.reasons]
    return ", ".join(parts) or None


def _is_meant(member: Member, reference: str) -> bool:
    if member.name == reference:
        return True
    return len(reference) >= PREFIX_LETTERS_MIN and peer_text(member.peer).startswith(reference)


def _rounded(term: float | None) -> float | None:
    return None if term is None else round(term, 4)
