"""Whether a database file is still the one this device wrote: the evidence behind its store id.

A device votes on the outcomes of tasks, so it must never vote from a copy or a backup that has
forgotten earlier votes. The machine, the inode and the birth time of the file are compared with
those recorded in it: a copied or restored file differs in at least one of them.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

MACHINE_ID_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))

_MACHINE_CONTEXT = "meshd 2026 machine id"
_AT_FDCWD = -100
_STATX_BTIME = 0x800
_STATX_BYTES = 256
_MASK_OFFSET = 0
_BIRTH_OFFSET = 80  # struct statx, stx_btime: seconds (s64), nanoseconds (u32)


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells a file from its copies. `birth_ns` is 0 where the file system keeps none."""

    machine: bytes
    inode: int
    birth_ns: int

    def to_bytes(self) -> bytes:
        """Return the form that is kept in the database."""
        return self.machine + struct.pack(">QQ", self.inode, self.birth_ns)

    def differences(self, recorded: bytes) -> list[str]:
        """Name what differs from the `recorded` form; empty when nothing does."""
        if len(recorded) != 48:
            return ["record"]
        inode, birth_ns = struct.unpack(">QQ", recorded[32:])
        pairs = {
            "machine id": (self.machine, recorded[:32]),
            "inode": (self.inode, inode),
            "birth time": (self.birth_ns, birth_ns),
        }
        return [name for name, (now, then) in pairs.items() if now != then]


def file_identity(path: Path) -> FileIdentity:
    """Return the identity of the file at `path`. Raises OSError."""
    return FileIdentity(machine=_machine(), inode=path.stat().st_ino, birth_ns=_birth_ns(path))


def _machine() -> bytes:
    """Return a digest of the machine's id; machine-id(5) asks not to show the id itself."""
    text = b""
    for file in MACHINE_ID_FILES:
        try:
            text = file.read_bytes().strip()
        except OSError:
            continue  # a container without one: inode and birth time remain as evidence
        if text:
            break
    return blake3(text, derive_key_context=_MACHINE_CONTEXT).digest()


def _birth_ns(path: Path) -> int:
    """Return when the file was made, by the file system: os.stat shows it on Linux from 3.15 on."""
    statx = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)
    if statx is None:  # a C library before glibc 2.28 or musl 1.2.5
        return 0
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    if statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, buffer) != 0:
        return 0
    (mask,) = struct.unpack_from("=I", buffer, _MASK_OFFSET)
    if not mask & _STATX_BTIME:
        return 0
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, _BIRTH_OFFSET)
    return max(0, int(seconds) * 1_000_000_000 + int(nanoseconds))
