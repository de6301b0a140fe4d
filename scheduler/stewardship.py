"""What all parts of a steward share: who it is, what it keeps, and what it asks its node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from scheduler.batch import Batch
from scheduler.ledger import Ledger
from wire.effects import Effect
from wire.ids import BatchId, MeshId, PeerId, StoreId
from wire.membership import Chain, Role
from wire.signed import Signer
from wire.tasks import Epoch


@dataclass(slots=True, kw_only=True)
class Stewardship:
    """One steward, in the store it has. `wall_us` is 0 while the time is not known."""

    signer: Signer
    mesh: MeshId
    store: StoreId
    engine_profile: str
    may: Callable[[PeerId, Role], bool]
    chain_of: Callable[[PeerId], Chain | None]
    wall_us: Callable[[], int]
    on_changed: Callable[[Batch, Sequence[int]], list[Effect]]  # somebody may wait for them
    ledger: Ledger = field(default_factory=Ledger)
    round: int = 0
    is_stopping: bool = False

    @property
    def own(self) -> PeerId:
        """This device's id."""
        return self.signer.peer

    @property
    def epoch(self) -> Epoch:
        """The epoch in which this device leases and votes: it is the only steward, of rank 0."""
        return Epoch(0, self.round, 0)

    def batch(self, batch: BatchId) -> Batch | None:
        """Return a batch that is kept here."""
        return self.ledger.batches.get(batch)
