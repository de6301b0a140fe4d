"""A copy of what a device keeps: its database and its blobs."""

from __future__ import annotations

from dataclasses import dataclass

from simulations.blobs import BlobStore
from simulations.disk import DiskImage
from wire.ids import Digest


@dataclass(frozen=True, slots=True)
class BlobsImage:
    """The blobs of one device at one moment, and who kept each."""

    blobs: dict[Digest, bytes]
    keepers: dict[Digest, frozenset[bytes]]


@dataclass(frozen=True, slots=True)
class Backup:
    """Everything of one device that a backup holds; its key and papers it has for life."""

    disk: DiskImage
    blobs: BlobsImage


class HomeBlobs(BlobStore):
    """The blobs of one device, which can be backed up with its database."""

    def snapshot(self) -> BlobsImage:
        """Return what is here now."""
        keepers = {digest: frozenset(owners) for digest, owners in self._keepers.items()}
        return BlobsImage(dict(self._blobs), keepers)

    def restore(self, image: BlobsImage) -> None:
        """Bring back what was here then, and drop everything else."""
        self._blobs = dict(image.blobs)
        self._keepers = {digest: set(owners) for digest, owners in image.keepers.items()}
