"""Blobs on this device's disk: found by digest, within a budget, checked when read back.

Pinned blobs belong to live tasks and stay. The others are a cache: the least recently used go when
room is needed. A blob under way survives a restart and goes on where it stopped. Pins are not kept
on the disk: after a start the node pins what its live tasks need before anything is put.

Methods block and may be called from several threads at once. Contents are read and written outside
the lock, so `has`, `pin`, `unpin` and `release` are quick enough for the event loop.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from meshd import blobfile
from meshd.blobindex import BlobEntry, BlobIndex
from meshd.errors import BlobBudgetExceeded, BlobCorrupt, BlobMissing, BlobStorageFailed
from meshd.home import PRIVATE_DIRECTORY, unusable
from meshd.quantities import format_size_bytes
from wire.blobs import BLOB_BYTES_MAX, BlobRef, blob_digest, manifest_of
from wire.errors import MalformedFrame, MalformedId
from wire.ids import Digest, digest_from_text, digest_text
from wire.signed import encode_body

_PARTIAL = ".part"
_TEMPORARY = ".tmp"
_Read = TypeVar("_Read")


class BlobStore:
    """The blobs in one directory."""

    def __init__(self, directory: Path, budget_bytes: int) -> None:
        """Open the store in `directory`, made if missing, and sweep the rests of a crash.

        Blobs beyond a budget that was lowered stay until room is needed. Raises HomeUnusable.
        """
        self.directory = directory
        self.evicted_count = 0
        self.corrupt_count = 0
        self._index = BlobIndex(budget_bytes)
        self._lock = threading.Lock()  # of the index: held for moments
        self._changing = threading.Lock()  # of the files under way: held while one begins or ends
        self._serial = itertools.count()
        try:
            directory.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
            self._scan()
        except OSError as error:
            raise unusable(directory, error) from error

    @property
    def budget_bytes(self) -> int:
        """What all blobs may take of the disk."""
        return self._index.budget_bytes

    @property
    def used_bytes(self) -> int:
        """What all blobs take of the disk, those under way at their full size."""
        return self._index.used_bytes

    @property
    def blobs_count(self) -> int:
        """How many blobs are here or under way."""
        return len(self._index.entries)

    def has(self, ref: BlobRef) -> bool:
        """Say whether the whole blob is here, as far as is known without reading it."""
        with self._lock:
            entry = self._index.entries.get(ref.digest)
            return entry is not None and entry.is_complete

    def pin(self, ref: BlobRef, owner: bytes) -> None:
        """Keep the blob, here or to come, until `owner` unpins it."""
        with self._lock:
            self._index.pin(ref.digest, owner)

    def unpin(self, ref: BlobRef, owner: bytes) -> None:
        """Undo `pin`; without it nothing happens."""
        with self._lock:
            self._index.unpin(ref.digest, owner)

    def release(self, owner: bytes) -> None:
        """Undo every `pin` of `owner`."""
        with self._lock:
            self._index.release(owner)

    def put(self, content: bytes, *, owner: bytes | None = None) -> BlobRef:
        """Keep `content`, pinned for `owner` if given; durable on return.

        Raises BlobBudgetExceeded (also for more than BLOB_BYTES_MAX) or BlobStorageFailed.
        """
        if len(content) > BLOB_BYTES_MAX:
            raise BlobBudgetExceeded(f"a blob holds at most {format_size_bytes(BLOB_BYTES_MAX)}")
        manifest = encode_body(manifest_of(content))
        ref = BlobRef(blob_digest(manifest), len(content))
        with self._writing(ref, manifest, owner) as entry:
            path = self._path(ref.digest)
            if not entry.is_complete or not path.exists():
                temporary = path.with_name(f"{path.name}.{next(self._serial)}{_TEMPORARY}")
                blobfile.write_blob(path, temporary, manifest, content)
                with self._changing:
                    self._complete(ref.digest, entry)
        return ref

    def put_manifest(
        self, ref: BlobRef, manifest: bytes, *, owner: bytes | None = None
    ) -> frozenset[int]:
        """Begin or resume the blob `ref` and return which chunks are missing; none: it is here.

        Its whole size is taken from the budget at once. Raises MalformedFrame if `manifest` is not
        the blob's, BlobBudgetExceeded or BlobStorageFailed.
        """
        blobfile.open_manifest(manifest, ref)
        with self._writing(ref, manifest, owner) as entry:
            with self._changing:
                if not entry.is_complete and entry.missing is None:
                    missing = self._resume(ref, manifest)
                    with self._lock:
                        entry.manifest, entry.missing = manifest, missing
            return self._missing_or_finish(ref.digest, entry)

    def put_chunk(self, ref: BlobRef, index: int, chunk: bytes) -> int:
        """Keep one chunk of a begun blob; return how many are missing. 0: it is here, durable.

        Raises MalformedFrame if it is not that chunk, BlobMissing if the blob was not begun or has
        been evicted since, or BlobStorageFailed.
        """
        with self._lock:
            entry = self._index.entries.get(ref.digest)
            manifest = entry.manifest if entry is not None else b""
            if entry is None or not (entry.is_complete or manifest):
                raise BlobMissing(f"{_name(ref)} was not begun, or was evicted")
        with self._writing(ref, manifest, None) as entry:
            if entry.is_complete:
                return 0
            if not blobfile.open_manifest(manifest, ref).accepts(index, chunk):
                raise MalformedFrame(f"this is not chunk {index} of {_name(ref)}")
            try:
                blobfile.write_chunk(self._path(ref.digest, _PARTIAL), len(manifest), index, chunk)
            except FileNotFoundError as error:
                with self._changing:
                    if entry.is_complete:  # it came whole in the meantime
                        return 0
                raise BlobMissing(f"{_name(ref)} was removed from the disk") from error
            with self._lock:
                if entry.missing is None and not entry.is_complete:
                    raise BlobMissing(f"{_name(ref)} was evicted")
                if entry.missing is not None:
                    entry.missing.discard(index)
            return len(self._missing_or_finish(ref.digest, entry))

    def read(self, ref: BlobRef) -> bytes:
        """Return the content. Raises BlobMissing, or BlobCorrupt, which removes it."""
        return self._read(ref, lambda path: blobfile.read_content(path, ref))

    def read_manifest(self, ref: BlobRef) -> bytes:
        """Return the encoded manifest. Raises BlobMissing, or BlobCorrupt, which removes it."""
        return self._read(ref, lambda path: blobfile.read_manifest(path, ref))

    def read_chunk(self, ref: BlobRef, index: int) -> bytes:
        """Return one chunk, as `read`; BlobMissing too when the blob has no such chunk."""
        return self._read(ref, lambda path: blobfile.read_chunk(path, ref, index))

    def _scan(self) -> None:
        """Learn what is here, in the order of last use that the files' times tell."""
        found: list[tuple[int, Digest, BlobEntry]] = []
        for file in self.directory.iterdir():
            if file.suffix == _TEMPORARY:
                file.unlink()
                continue
            try:
                digest = digest_from_text(file.name.removesuffix(_PARTIAL))
            except MalformedId:
                continue  # not ours: a person put it there
            is_complete = file.suffix != _PARTIAL
            if not is_complete and self._path(digest).exists():
                file.unlink()  # the blob came whole in the meantime
                continue
            stat = file.stat()
            size = blobfile.disk_bytes_of(stat)
            entry = BlobEntry(disk_bytes=size, is_complete=is_complete)
            found.append((stat.st_mtime_ns, digest, entry))
        for _, digest, entry in sorted(found, key=lambda each: each[:2]):
            self._index.add(digest, entry)

    @contextlib.contextmanager
    def _writing(self, ref: BlobRef, manifest: bytes, owner: bytes | None) -> Iterator[BlobEntry]:
        """Keep a place for the blob while it is written, and pin it if that went well."""
        try:
            entry = self._enter(ref, manifest)
            try:
                yield entry
                if owner is not None:
                    self.pin(ref, owner)
            finally:
                self._leave(ref.digest, entry)
        except OSError as error:
            text = error.strerror or str(error)
            raise BlobStorageFailed(f"{self.directory} cannot hold {_name(ref)}: {text}") from error

    def _enter(self, ref: BlobRef, manifest: bytes) -> BlobEntry:
        with self._lock:
            entry = self._index.entries.get(ref.digest)
            if entry is None:
                size = blobfile.disk_bytes(len(manifest), ref.size_bytes)
                for victim in self._index.victims_for(size):
                    self._forget(victim)
                    self.evicted_count += 1
                entry = BlobEntry(disk_bytes=size)
                self._index.add(ref.digest, entry)
            self._index.touch(ref.digest)
            entry.writers_count += 1
            return entry

    def _leave(self, digest: Digest, entry: BlobEntry) -> None:
        """End a write; if nothing came of it and no other goes on, its place is free again."""
        with self._lock:
            entry.writers_count -= 1
            if entry.is_complete or entry.writers_count:
                return
            is_begun = entry.missing is not None and self._path(digest, _PARTIAL).exists()
            if not is_begun and self._index.entries.get(digest) is entry:
                self._forget(digest)

    def _forget(self, digest: Digest) -> None:
        """Remove a blob; whoever reads it at this moment still has the open file."""
        for suffix in ("", _PARTIAL):
            self._path(digest, suffix).unlink(missing_ok=True)
        self._index.remove(digest)

    def _resume(self, ref: BlobRef, manifest: bytes) -> set[int]:
        """Return the chunks that the file under way lacks; it is begun if it is not there."""
        part = self._path(ref.digest, _PARTIAL)
        try:
            return blobfile.missing_chunks(part, ref)
        except (FileNotFoundError, MalformedFrame):
            blobfile.start_partial(part, manifest, ref.size_bytes)
            return set(range(blobfile.open_manifest(manifest, ref).chunk_count))

    def _missing_or_finish(self, digest: Digest, entry: BlobEntry) -> frozenset[int]:
        """Return what is missing; when that is nothing, the blob is whole and durable."""
        with self._lock:
            missing = frozenset(entry.missing or ())
        if not missing:
            with self._changing:
                if not entry.is_complete:
                    blobfile.publish(self._path(digest, _PARTIAL), self._path(digest))
                    self._complete(digest, entry)
        return missing

    def _complete(self, digest: Digest, entry: BlobEntry) -> None:
        self._path(digest, _PARTIAL).unlink(missing_ok=True)
        with self._lock:
            entry.is_complete, entry.missing, entry.manifest = True, None, b""

    def _read(self, ref: BlobRef, read: Callable[[Path], _Read]) -> _Read:
        path = self._path(ref.digest)
        if not self.has(ref):
            raise BlobMissing(f"{_name(ref)} is not here")
        try:
            found = read(path)
            os.utime(path)  # so that the order of use outlives a restart
        except IndexError as error:
            raise BlobMissing(f"{_name(ref)} has no chunk {error}") from error
        except blobfile.WrongReference as error:  # not the disk's fault: nothing is removed
            raise BlobMissing(f"{_name(ref)} is not here: {error}") from error
        except MalformedFrame as error:
            raise self._corrupt(ref, str(error)) from error
        except FileNotFoundError as error:  # evicted at this moment, or removed by a person
            raise self._gone(ref) from error
        except OSError as error:
            if error.errno == errno.EIO:
                raise self._corrupt(ref, "the disk failed") from error
            raise BlobStorageFailed(f"cannot read {_name(ref)}: {error.strerror}") from error
        with self._lock:
            self._index.touch(ref.digest)
        return found

    def _corrupt(self, ref: BlobRef, reason: str) -> BlobCorrupt:
        self.corrupt_count += 1
        with self._lock, contextlib.suppress(OSError):  # a disk that fails may refuse this too
            if ref.digest in self._index.entries:
                self._forget(ref.digest)
        return BlobCorrupt(f"{_name(ref)} was damaged and is removed: {reason}")

    def _gone(self, ref: BlobRef) -> BlobMissing:
        with self._lock:
            entry = self._index.entries.get(ref.digest)
            if entry is not None and entry.is_complete and not self._path(ref.digest).exists():
                self._index.remove(ref.digest)
        return BlobMissing(f"{_name(ref)} is not here")

    def _path(self, digest: Digest, suffix: str = "") -> Path:
        return self.directory / (digest_text(digest) + suffix)


def _name(ref: BlobRef) -> str:
    return f"blob {digest_text(ref.digest)}"
