"""A disk for one database that is slow, hangs on demand, and forgets what was never synced.

It is a library (`slow_disk.c`, built with the C compiler that the examples are built with) which
stands before `fsync` in a real process: what that promises can be held against what a power cut
would leave, which no `kill -9` shows, for the kernel keeps what a dead process has written.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


@dataclass(frozen=True, slots=True)
class SlowDisk:
    """The disk below `database` and its log, for processes started with `environ`."""

    library: Path
    database: Path
    state: Path
    delay_us: int

    @classmethod
    def build(cls, directory: Path, database: Path, *, delay_us: int = 0) -> SlowDisk:
        """Build the library in `directory`, which keeps the state too. Takes some seconds."""
        library, state = directory / "slow_disk.so", directory / "disk"
        state.mkdir()
        compiler = [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O2"]
        options = ["-Wall", "-Wextra", "-Werror", "-o", str(library), str(SOURCE)]
        subprocess.run([*compiler, *options], check=True)
        return cls(library, database, state, delay_us)

    @property
    def environ(self) -> dict[str, str]:
        """What to put into the environment of a process."""
        return {
            "LD_PRELOAD": str(self.library),
            "SLOW_DISK_FILE": str(self.database),
            "SLOW_DISK_STATE": str(self.state),
            "SLOW_DISK_DELAY_US": str(self.delay_us),
        }

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Let no sync end inside the block; see `is_held`."""
        (self.state / "held").unlink(missing_ok=True)
        (self.state / "hold").touch()
        try:
            yield
        finally:
            (self.state / "hold").unlink()

    @property
    def is_held(self) -> bool:
        """Whether a process has been waiting for a sync since the disk began to hang."""
        return (self.state / "held").exists()

    def settle(self) -> None:
        """Take all that is there as synced: before a process starts, if others wrote meanwhile."""
        for file, synced in self._files():
            synced.unlink(missing_ok=True)
            if file.exists():
                synced.write_bytes(file.read_bytes())

    def cut_power(self) -> None:
        """Put every file back to what was synced last. The processes must have been killed.

        In place: the file stays the one that its owner wrote.
        """
        Path(f"{self.database}-shm").unlink(missing_ok=True)  # it is in memory
        for file, synced in self._files():
            if synced.exists():
                file.write_bytes(synced.read_bytes())
            else:
                file.unlink(missing_ok=True)

    def _files(self) -> list[tuple[Path, Path]]:
        """Return the database and its log, each with the copy of what was synced."""
        names = (self.database.name, f"{self.database.name}-wal")
        return [(self.database.with_name(one), self.state / f"{one}.synced") for one in names]
