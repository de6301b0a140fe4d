"""The directory of compiled modules: private, bounded in bytes, the least recently used go first.

It holds `key`, which authenticates the entries, `*.native`, the entries, and `*.draft`, entries
being made. All of it can be deleted at any time; modules are compiled again then.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sandbox.cache_entry import KEY_BYTES, entry_name, seal_entry
from sandbox.errors import UnusableCache
from wire.ids import Digest


@dataclass(slots=True)
class NativeCache:
    """Compiled modules on disk, at most `bytes_max` of them, but always the newest."""

    directory: Path
    bytes_max: int
    key: bytes = field(default=b"", repr=False)

    def open(self) -> None:
        """Make the directory ready. Raises UnusableCache."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.directory.stat()
            if status.st_uid != os.geteuid():
                raise UnusableCache(f"{self.directory} belongs to user {status.st_uid}, not to us")
            if stat.S_IMODE(status.st_mode) != 0o700:
                self.directory.chmod(0o700)
            for draft in self.directory.glob("*.draft"):
                draft.unlink()
            self.key = self._read_key() or self._make_key()
        except OSError as error:
            raise UnusableCache(f"cannot use {self.directory} for compiled modules: {error}") from (
                error
            )

    def has(self, module: Digest) -> bool:
        """Say whether there is an entry; it may still turn out to be damaged."""
        return self._path(module).exists()

    def open_entry(self, module: Digest) -> int | None:
        """Return a descriptor of an entry, the caller's to close, and note its use."""
        try:
            descriptor = os.open(self._path(module), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        with contextlib.suppress(OSError):  # a full disk must not stop a run
            os.utime(descriptor)
        return descriptor

    def forget(self, module: Digest) -> None:
        """Remove an entry."""
        with contextlib.suppress(OSError):
            self._path(module).unlink()

    @contextlib.contextmanager
    def draft(self) -> Iterator[Draft]:
        """Open a new entry, which is removed unless it was put in place. Raises UnusableCache."""
        try:
            descriptor, name = tempfile.mkstemp(suffix=".draft", dir=self.directory)
        except OSError as error:
            raise UnusableCache(f"cannot write to {self.directory}: {error}") from error
        try:
            yield Draft(descriptor, Path(name))
        finally:
            os.close(descriptor)
            Path(name).unlink(missing_ok=True)

    def put(self, draft: Draft, module: Digest) -> None:
        """Authenticate what the compiler wrote and make it the module's entry. May take long.

        Raises UnusableCache.
        """
        try:
            seal_entry(draft.descriptor, module, self.key)
            draft.path.rename(self._path(module))
        except OSError as error:
            raise UnusableCache(f"cannot write to {self.directory}: {error}") from error
        self._evict(keep=entry_name(module))

    def _evict(self, *, keep: str) -> None:
        entries = []
        for path in self.directory.glob("*.native"):
            with contextlib.suppress(OSError):
                status = path.stat()
                entries.append((status.st_mtime_ns, status.st_size, path))
        total_bytes = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total_bytes <= self.bytes_max:
                return
            if path.name != keep:
                path.unlink(missing_ok=True)
                total_bytes -= size

    def _path(self, module: Digest) -> Path:
        return self.directory / entry_name(module)

    def _read_key(self) -> bytes | None:
        path = self.directory / "key"
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                key = file.read(KEY_BYTES + 1)
        except FileNotFoundError:
            return None
        is_private = status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == 0o600
        return key if is_private and len(key) == KEY_BYTES else None

    def _make_key(self) -> bytes:
        """Write a new key; entries of another key are found out and compiled again."""
        key = secrets.token_bytes(KEY_BYTES)
        descriptor, name = tempfile.mkstemp(suffix=".draft", dir=self.directory)  # mode 0600
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
        Path(name).rename(self.directory / "key")
        return key


@dataclass(frozen=True, slots=True)
class Draft:
    """An entry being made: an open file that the compiler writes to."""

    descriptor: int
    path: Path
