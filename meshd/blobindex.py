"""Which blobs have a place on the disk, who needs them, and which go when room is needed.

Accounting only: no file is touched here, and the caller holds a lock.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TypeVar

from meshd.errors import BlobBudgetExceeded
from meshd.quantities import format_size_bytes
from wire.ids import Digest

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(slots=True, kw_only=True, eq=False)
class BlobEntry:
    """A blob that has a place in the budget: whole, or under way.

    `missing` holds the chunks still to come, and is None until that is known; `manifest` is kept
    with it.
    """

    disk_bytes: int
    is_complete: bool = False
    writers_count: int = 0
    manifest: bytes = b""
    missing: set[int] | None = None


@dataclass(slots=True)
class BlobIndex:
    """The entries, least recently used first, and the pins. Sizes: bytes on the disk."""

    budget_bytes: int
    used_bytes: int = 0
    entries: OrderedDict[Digest, BlobEntry] = field(default_factory=OrderedDict)
    _owners: dict[Digest, set[bytes]] = field(default_factory=dict)
    _pinned: dict[bytes, set[Digest]] = field(default_factory=dict)

    def add(self, digest: Digest, entry: BlobEntry) -> None:
        """Take `entry` in as the most recently used."""
        self.entries[digest] = entry
        self.used_bytes += entry.disk_bytes

    def remove(self, digest: Digest) -> None:
        """Give the place of a blob back; its pins stay, for when it comes again."""
        self.used_bytes -= self.entries.pop(digest).disk_bytes

    def touch(self, digest: Digest) -> None:
        """Make a blob, if it is here, the most recently used."""
        if digest in self.entries:
            self.entries.move_to_end(digest)

    def victims_for(self, wanted_bytes: int) -> list[Digest]:
        """Return what must go, least recently used first, so that `wanted_bytes` fit.

        Raises BlobBudgetExceeded if that cannot be, and then nothing need go.
        """
        excess = self.used_bytes + wanted_bytes - self.budget_bytes
        victims = []
        for digest, entry in self.entries.items():
            if excess <= 0:
                break
            if not self.is_kept(digest):
                victims.append(digest)
                excess -= entry.disk_bytes
        if excess > 0:
            reason = (
                "wait for the tasks that hold the rest, or raise"
                if wanted_bytes <= self.budget_bytes
                else "raise"
            )
            raise BlobBudgetExceeded(
                f"no room for {format_size_bytes(wanted_bytes)} within the"
                f" {format_size_bytes(self.budget_bytes)} for blobs: {reason}"
                " storage.blobs_bytes_max"
            )
        return victims

    def is_kept(self, digest: Digest) -> bool:
        """Say whether a blob may not be evicted: it is pinned, or being written."""
        return digest in self._owners or self.entries[digest].writers_count > 0

    def pin(self, digest: Digest, owner: bytes) -> None:
        """Keep a blob, here or to come, until `owner` unpins it."""
        self._owners.setdefault(digest, set()).add(owner)
        self._pinned.setdefault(owner, set()).add(digest)

    def unpin(self, digest: Digest, owner: bytes) -> None:
        """Undo `pin`; without it nothing happens."""
        _discard(self._owners, digest, owner)
        _discard(self._pinned, owner, digest)

    def release(self, owner: bytes) -> None:
        """Undo every `pin` of `owner`."""
        for digest in self._pinned.pop(owner, ()):
            _discard(self._owners, digest, owner)


def _discard(index: dict[_Key, set[_Value]], key: _Key, value: _Value) -> None:
    """Take `value` out of the set under `key`, and the set with it when that was its last."""
    values = index.get(key, set())
    values.discard(value)
    if not values:
        index.pop(key, None)
