"""Blobs of simulated devices: who has which bytes, who keeps them for whom, and how they move.

Blobs lie on the disk and are durable once stored. What nobody keeps is evicted at the next start,
or when its last keeper releases it, whichever is first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from simulations.endpoint import Endpoint
from simulations.engine import US_PER_S, Engine
from simulations.network import Network
from simulations.paths import LANE_TRANSFER
from wire.blobs import BlobRef, blob_ref
from wire.events import TransferMeasured
from wire.ids import Digest, PeerId

SILENT_SOURCE_US = 10 * US_PER_S


class BlobStore:
    """The blobs of one device."""

    def __init__(self) -> None:
        self._blobs: dict[Digest, bytes] = {}
        self._keepers: dict[Digest, set[bytes]] = {}

    def put(self, content: bytes) -> BlobRef:
        """Store `content`, kept by nobody yet."""
        ref = blob_ref(content)
        self._blobs[ref.digest] = content
        return ref

    def take(self, ref: BlobRef, content: bytes) -> None:
        """Store a blob that came from another device, checked chunk by chunk as it came."""
        self._blobs[ref.digest] = content

    def get(self, ref: BlobRef) -> bytes | None:
        """Return a blob's bytes, None if it is not here."""
        return self._blobs.get(ref.digest)

    def keep(self, ref: BlobRef, owner: bytes) -> None:
        """Keep a blob for `owner`, whether or not it is here yet."""
        self._keepers.setdefault(ref.digest, set()).add(owner)

    def release(self, owner: bytes) -> None:
        """Let go of what `owner` kept."""
        for digest, owners in list(self._keepers.items()):
            owners.discard(owner)
            if not owners:
                del self._keepers[digest]
                self._blobs.pop(digest, None)

    def evict(self) -> None:
        """Drop what nobody keeps."""
        self._blobs = {
            digest: blob for digest, blob in self._blobs.items() if digest in self._keepers
        }

    def clear(self) -> None:
        """Lose everything: the disk is gone."""
        self._blobs.clear()
        self._keepers.clear()


class BlobHolder(Endpoint, Protocol):
    """A device with a blob store."""

    @property
    def blobs(self) -> BlobStore:
        """Its blobs."""
        ...


class Transfers:
    """Moves blobs between devices."""

    def __init__(self, engine: Engine, network: Network) -> None:
        self._engine = engine
        self._network = network
        self._holders: dict[PeerId, BlobHolder] = {}

    def attach(self, holder: BlobHolder) -> None:
        """Let a device take part."""
        self._holders[holder.peer] = holder

    def fetch(
        self,
        receiver: PeerId,
        ref: BlobRef,
        sources: Sequence[PeerId],
        done: Callable[[str | None], None],
    ) -> None:
        """Bring a blob to `receiver` from the first source that has it.

        `done` hears None, or why no source gave it. It is never called before this returns.
        """
        if self._holders[receiver].blobs.get(ref) is not None:
            self._engine.after(0, partial(done, None))
        else:
            wanted = [peer for peer in sources if peer != receiver and peer in self._holders]
            self._engine.after(0, partial(self._try, receiver, ref, wanted, done))

    def _try(
        self,
        receiver: PeerId,
        ref: BlobRef,
        sources: Sequence[PeerId],
        done: Callable[[str | None], None],
    ) -> None:
        if not sources:
            done("no source has it, or none can be reached")
            return
        source, others = sources[0], sources[1:]
        if not self._network.can_reach(receiver, source):
            next_source = partial(self._try, receiver, ref, others, done)
            self._engine.after(SILENT_SOURCE_US, next_source)
            return
        duration_us = self._network.paths.round_trip_us(LANE_TRANSFER, receiver, source)
        bytes_per_second = self._network.paths.path(source, receiver).bytes_per_second
        has_it = self._holders[source].blobs.get(ref) is not None
        if has_it and bytes_per_second is not None:
            duration_us += ref.size_bytes * US_PER_S // bytes_per_second
        boots = self._holders[receiver].boot, self._holders[source].boot
        arrive = partial(self._arrive, receiver, ref, source, others, boots, duration_us, done)
        self._engine.after(duration_us, arrive)

    def _arrive(
        self,
        receiver: PeerId,
        ref: BlobRef,
        source: PeerId,
        others: Sequence[PeerId],
        boots: tuple[int, int],
        duration_us: int,
        done: Callable[[str | None], None],
    ) -> None:
        here, there = self._holders[receiver], self._holders[source]
        if here.boot != boots[0]:
            return
        content = there.blobs.get(ref)
        if (
            content is None
            or there.boot != boots[1]
            or not self._network.can_reach(receiver, source)
        ):
            self._try(receiver, ref, others, done)
            return
        here.blobs.take(ref, content)
        for end, other, sent, received in (
            (here, source, 0, ref.size_bytes),
            (there, receiver, ref.size_bytes, 0),
        ):
            end.deliver(TransferMeasured(other, sent, received, duration_us))
        done(None)
