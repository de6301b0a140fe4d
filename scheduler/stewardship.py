"""What all parts of a steward share: who it is, what it keeps, and what it asks its node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from scheduler.batch import Batch
from scheduler.ledger import Ledger
from wire.effects import Effect, Send
from wire.ids import BatchId, MeshId, PeerId, StoreId
from wire.membership import Chain, Role
from wire.messages import Message
from wire.signed import Signer
from wire.tasks import Epoch, Steward


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
    is_linked: Callable[[PeerId], bool] = lambda _: True
    reach: Callable[[PeerId], list[Effect]] = lambda _: []  # have a link for a while
    ledger: Ledger = field(default_factory=Ledger)
    round: int = 0
    is_stopping: bool = False

    @property
    def own(self) -> PeerId:
        """This device's id."""
        return self.signer.peer

    @property
    def named(self) -> Steward:
        """How contracts name this steward."""
        return Steward(self.own, self.store)

    @property
    def first_epoch(self) -> Epoch:
        """The epoch of a batch that is made now, by this device."""
        return Epoch(0, self.round, 0)

    def batch(self, batch: BatchId) -> Batch | None:
        """Return a batch that is kept here."""
        return self.ledger.batches.get(batch)

    def chains_of(
        self, peers: Iterable[PeerId], before: tuple[Chain, ...] = ()
    ) -> tuple[Chain, ...]:
        """Return the chains of devices, those known now or else those of `before`."""
        kept = {chain[0].body.subject: chain for chain in before}
        chains = (self.chain_of(peer) or kept.get(peer) for peer in dict.fromkeys(peers))
        return tuple(chain for chain in chains if chain is not None)

    def send(self, peer: PeerId, message: Message) -> list[Effect]:
        """Send to another steward; without a link, have one soon: what matters is told again."""
        if self.is_linked(peer):
            return [Send(peer, message)]
        return self.reach(peer)
