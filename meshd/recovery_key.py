"""The recovery key as text: one line that a person keeps offline, checked before it is used.

`meshdrecovery1` and the base32 of a checksum of four bytes, the first four of the mesh id, and the
seed of 32 bytes. Lines that begin with `#` are for people.
"""

from __future__ import annotations

from blake3 import blake3

from meshd.errors import DaemonError
from wire.errors import MalformedId
from wire.ids import MeshId, base32_text, bytes_from_base32, mesh_text

RECOVERY_PREFIX = "meshdrecovery1"
RECOVERY_FILE_BYTES_MAX = 4_096

_CONTEXT = "meshd 2026 recovery key checksum"
_CHECKSUM_BYTES = 4
_MESH_BYTES = 4
_SEED_BYTES = 32


class RecoveryKeyUnreadable(DaemonError):
    """What was given as a recovery key is none, or was cut or mistyped: give the right file."""


def recovery_text(seed: bytes, mesh: MeshId) -> str:
    """Return the line that stands for the seed of a mesh's recovery key."""
    body = mesh[:_MESH_BYTES] + seed
    return RECOVERY_PREFIX + base32_text(_checksum(body) + body)


def recovery_file(seed: bytes, mesh: MeshId, name: str) -> str:
    """Return the content of a file that holds the recovery key, and says what it is."""
    return (
        f"# The recovery key of the meshd mesh {mesh_text(mesh)},\n"
        f"# founded on {name}. Whoever has it can put any device out of the mesh, for good.\n"
        "# Keep it offline. To use it: meshctl remove DEVICE --recovery-key THIS_FILE\n"
        f"{recovery_text(seed, mesh)}\n"
    )


def seed_of_recovery_text(text: str) -> bytes:
    """Return the seed in the content of such a file. Raises RecoveryKeyUnreadable."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    typed = "".join("".join(lines).split()).lower()
    if not typed.startswith(RECOVERY_PREFIX):
        raise RecoveryKeyUnreadable(f"not a recovery key: it begins with {RECOVERY_PREFIX!r}")
    try:
        raw = bytes_from_base32(typed.removeprefix(RECOVERY_PREFIX))
    except MalformedId as error:
        raise RecoveryKeyUnreadable("the recovery key was cut or mistyped") from error
    checksum, body = raw[:_CHECKSUM_BYTES], raw[_CHECKSUM_BYTES:]
    if checksum != _checksum(body) or len(body) != _MESH_BYTES + _SEED_BYTES:
        raise RecoveryKeyUnreadable("the recovery key was cut or mistyped")
    return body[_MESH_BYTES:]


def _checksum(body: bytes) -> bytes:
    return blake3(body, derive_key_context=_CONTEXT).digest(_CHECKSUM_BYTES)
