"""A steward without a node: its parts with real keys, a clock that stands, devices made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from support.candidates import candidate
from support.meshes import Device, small_mesh
from support.standing import standings_of
from support.tasks import BATCH_KEY, ENGINE_PROFILE, NO_CHANGES, proven_results, result_of, tasks_of

from scheduler.batch import Batch, DecisionRow
from scheduler.explainer import Explainer
from scheduler.leases import GrantedLeaseEnds, LeaseBook
from scheduler.placement import Placements
from scheduler.register import DecisionDurable
from scheduler.selection import Candidate, Sampler
from scheduler.spot_checks import SpotChecks
from scheduler.steward import RoundRow, Steward
from scheduler.stewardship import Stewardship
from scheduler.submission import BatchDurable
from telemetry.measurement import Measurements
from wire.answers import WhyView
from wire.blobs import blob_ref
from wire.commands import Submit
from wire.convictions import Conviction
from wire.effects import Effect, Fetch, Persist, Row, Send, SetTimer
from wire.events import Fetched
from wire.ids import BatchId, PeerId
from wire.membership import Chain
from wire.messages import LeaseGranted, LeaseRef, Message, Offer, OfferAccepted, ResultsOffered
from wire.signed import Signed
from wire.tasks import Lease

MESH = small_mesh(4)
OWN, *EXECUTORS = MESH.devices
WRONG = {"exit_code": 77}


class StewardBench:
    """Feeds one steward; what it wants is kept. Disk writes happen when a test says so."""

    def __init__(
        self, *, candidates: Sequence[Candidate] | None = None, spot_checks: bool = False
    ) -> None:
        self.now_us = 1_000_000
        self.wall_us = 1_700_000_000_000_000
        self.candidates = list(
            candidates
            if candidates is not None
            else (
                candidate(number, peer=device.peer, slots_free=64, slots_total=64)
                for number, device in enumerate(MESH.devices)
                if device is not OWN
            )
        )
        self.barred: set[PeerId] = set()
        self.changed: list[tuple[BatchId, int]] = []
        self.effects: list[Effect] = []
        self.convictions: list[Conviction] = []
        self.rows: dict[tuple[str, bytes], Row] = {}
        self.measurements = Measurements()
        self.standings = standings_of(self.measurements)
        self.checks = SpotChecks(
            valid_in_a_row=self.standings.valid_in_a_row, is_enabled=spot_checks
        )
        self.leases = LeaseBook()
        self.office = Stewardship(
            signer=OWN.keys,
            mesh=MESH.id,
            store=OWN.store,
            engine_profile=ENGINE_PROFILE,
            may=lambda peer, _: peer not in self.barred,
            chain_of=self._chain_of,
            wall_us=lambda: self.wall_us,
            on_changed=self._on_changed,
        )
        placements = Placements(sampler=Sampler(rng=Random(3)))
        self.explainer = Explainer(
            office=self.office,
            placements=placements,
            candidates=lambda: self.candidates,
            name_of=lambda peer: peer.hex()[:4],
        )
        self.steward = Steward(
            self.office,
            standings=self.standings,
            placements=placements,
            leases=self.leases,
            candidates=lambda: self.candidates,
            colleagues=lambda: [],
            checks=self.checks,
            convict=self._convict,
        )

    def start(self) -> StewardBench:
        """Start with an empty store."""
        self.do(
            self.steward.on_restarted(
                rounds=[RoundRow(round=6)], batches=[], promises=[], decisions=[]
            )
        )
        self.do(self.steward.on_round_durable(now_us=self.now_us))
        return self

    def do(self, effects: list[Effect]) -> list[Effect]:
        """Note what the steward wants."""
        self.effects += effects
        for effect in effects:
            if isinstance(effect, Persist):
                for row in effect.rows:
                    self.rows[row.kind, row.key] = row
        return effects

    def submit(self, tasks_count: int, **changes: object) -> Batch:
        """Take in a batch; it is durable at once."""
        fields: dict[str, object] = {
            "module": blob_ref(b"\0asm\1\0\0\0"),
            "tasks": tasks_of(tasks_count),
            "key": OWN.keys.seal(BATCH_KEY, OWN.peer),
        }
        submit = Submit(**{**fields, **changes})  # type: ignore[arg-type]  # msgspec's init
        self.do(self.steward.on_submit(1, submit))
        batch = list(self.steward.batches.values())[-1]
        self.do(self.steward.on_batch_durable(BatchDurable(batch.batch, 1), now_us=self.now_us))
        return batch

    def why(self, batch: Batch, index: int) -> WhyView:
        """Return why a task is where it is."""
        return self.explainer.why(batch, index, now_us=self.now_us)

    def review(self) -> list[tuple[PeerId, Offer]]:
        """Let it offer what waits; return the offers."""
        wanted = self.do(self.steward.on_placement_review(now_us=self.now_us))
        return [
            (effect.peer, effect.message)
            for effect in wanted
            if isinstance(effect, Send) and isinstance(effect.message, Offer)
        ]

    def accept(self, peer: PeerId, offer: Offer, *, tasks_count: int | None = None) -> list[Effect]:
        """A device takes what it is offered."""
        accepted = OfferAccepted(
            offer=offer.offer,
            tasks_count=tasks_count or offer.tasks_count,
            wait_us=0,
            telemetry=None,  # type: ignore[arg-type]  # the node reads it, the steward does not
        )
        return self.do(self.steward.on_offer_accepted(peer, accepted, now_us=self.now_us))

    def lease(self, executor: Device, *, tasks_count: int | None = None) -> list[Signed[Lease]]:
        """Let only `executor` be eligible and lease it all it is offered now."""
        number = MESH.devices.index(executor)
        self.candidates = [candidate(number, peer=executor.peer, slots_free=64, slots_total=64)]
        leases: list[Signed[Lease]] = []
        for peer, offer in self.review():
            leases += leases_in(self.accept(peer, offer, tasks_count=tasks_count))
        return leases

    def offer_results(
        self,
        lease: Signed[Lease],
        executor: Device,
        indices: Sequence[int] | None = None,
        *,
        sender: PeerId | None = None,
        output: bytes = b"output",
        changes: Mapping[str, object] = NO_CHANGES,
    ) -> list[Effect]:
        """Results of a lease come."""
        results = [
            result_of(lease.body, index, output, changes=changes)
            for index in (lease.body.indices if indices is None else indices)
        ]
        offered = ResultsOffered(results=proven_results(results, executor.keys), lease=lease)
        return self.do(
            self.steward.on_results_offered(sender or executor.peer, offered, now_us=self.now_us)
        )

    def progress_of(self, batch: Batch) -> list[bool]:
        """Return of each task whether it still waits for its first device."""
        return [not task.engaged and task.is_open for task in batch.progress]

    def run_out_of(self, ref: LeaseRef) -> list[Effect]:
        """A lease runs out."""
        return self.do(self.steward.on_granted_lease_ends(GrantedLeaseEnds(ref), now_us=1 << 50))

    def fetch_all(self, effects: list[Effect]) -> list[Effect]:
        """All outputs that are to be fetched are here and good; then the tick comes."""
        for effect in effects:
            if isinstance(effect, Fetch):
                self.do(self.steward.on_fetched(Fetched(effect.token)))
        return self.do(self.steward.on_decision_tick(now_us=self.now_us))

    def make_durable(self, effects: list[Effect]) -> list[Effect]:
        """What was to be written is on the disk."""
        told: list[Effect] = []
        for effect in effects:
            for then in effect.then if isinstance(effect, Persist) else ():
                if isinstance(then, SetTimer) and isinstance(then.key, DecisionDurable):
                    told += self.steward.on_decision_durable(then.key, now_us=self.now_us)
        return self.do(told)

    def _convict(self, conviction: Conviction) -> list[Effect]:
        self.convictions.append(conviction)
        return []

    def _chain_of(self, peer: PeerId) -> Chain | None:
        found = [device.chain for device in MESH.devices if device.peer == peer]
        return found[0] if found else None

    def _on_changed(self, batch: Batch, indices: Sequence[int]) -> list[Effect]:
        self.changed += [(batch.batch, index) for index in indices]
        return []


def leases_in(effects: list[Effect]) -> list[Signed[Lease]]:
    """Return the leases that are sent."""
    return [message.lease for message in messages_in(effects) if isinstance(message, LeaseGranted)]


def messages_in(effects: list[Effect]) -> list[Message]:
    """Return what is sent."""
    return [effect.message for effect in effects if isinstance(effect, Send)]


def runs(
    bench: StewardBench, device: Device, *, changes: Mapping[str, object] = NO_CHANGES
) -> list[Effect]:
    """Let a device have what is offered to it and bring results of that."""
    effects: list[Effect] = []
    for lease in bench.lease(device):
        offered = bench.offer_results(lease, device, changes=changes)
        effects += bench.fetch_all(offered)
    return effects


def rows_in(effects: list[Effect]) -> list[DecisionRow]:
    rows = [row for effect in effects if isinstance(effect, Persist) for row in effect.rows]
    return [row.value for row in rows if isinstance(row.value, DecisionRow)]
