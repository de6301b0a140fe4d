"""The file that holds a device's Ed25519 seed, plain or under a passphrase.

Layout: `meshdkey`, version (1), protection (0 plain, 1 Argon2id), then

- plain: the 32 bytes of the seed and their BLAKE3 checksum;
- Argon2id (RFC 9106): operations (u32), memory in bytes (u64), salt (16 bytes), then the seed under
  XChaCha20-Poly1305 (nonce, 32 bytes, tag) with all bytes before as associated data.

A key is created or replaced whole or not at all, and one that we cannot read is never replaced: it
is the device's identity. The passphrase comes from a file or from systemd's credentials, never from
the command line. These functions block, Argon2id on purpose: before the event loop, or in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nacl.exceptions
import nacl.pwhash.argon2id
import nacl.secret
from blake3 import blake3

from meshd.errors import (
    KeyFileError,
    KeyTooOpen,
    KeyUnreadable,
    PassphraseMissing,
    PassphraseWrong,
)
from meshd.home import PRIVATE_FILE, unusable

SEED_BYTES = 32
PASSPHRASE_BYTES_MAX = 4096
CREDENTIAL_NAME = "meshd-passphrase"

_MAGIC = b"meshdkey"
_VERSION = 1
_PLAIN = 0
_ARGON2ID = 1
_HEAD = struct.Struct(">8sBB")
_COST = struct.Struct(">IQ16s")
_SALT_BYTES = 16
_SEALED_BYTES = 24 + SEED_BYTES + 16
_FILE_BYTES_MAX = 1024
_CHECKSUM_CONTEXT = "meshd 2026 key file checksum"


@dataclass(frozen=True, slots=True)
class KeyCost:
    """What guessing a passphrase costs. More of either is slower for a thief and at every start.

    The defaults took 0.08 s on a desktop core; at 64 MiB a board of 512 MiB can still start.
    """

    operations: int = 3
    memory_bytes: int = 64 << 20


# What a file may ask for: a changed header must not keep a device busy or out of memory.
COST_MAX = KeyCost(operations=16, memory_bytes=1 << 30)


def load_or_create_seed(path: Path, passphrase: bytes | None, *, may_create: bool = True) -> bytes:
    """Return the device's seed, 32 bytes; the first start creates it.

    `may_create` is False where other files show that this is not the first start: a key that is
    missing then was lost. An existing plain key is put under `passphrase` if one is given. Raises
    KeyFileError (see its subclasses) or HomeUnusable. The caller holds the home's lock.
    """
    if not os.path.lexists(path):  # a dangling link is somebody's mistake, not a first start
        if not may_create:
            raise KeyUnreadable(
                f"{path} is missing, and this is not the first start: restore it from a backup, or"
                " move the whole home away to start as a new device with a new id"
            )
        seed = os.urandom(SEED_BYTES)
        write_seed(path, seed, passphrase)
        return seed
    seed, is_protected = _read(path, passphrase)
    if passphrase is not None and not is_protected:
        write_seed(path, seed, passphrase)
    return seed


def read_seed(path: Path, passphrase: bytes | None) -> bytes:
    """Return the seed in an existing file. Raises KeyFileError (see its subclasses)."""
    return _read(path, passphrase)[0]


def write_seed(
    path: Path, seed: bytes, passphrase: bytes | None, *, cost: KeyCost | None = None
) -> None:
    """Write the seed to `path`, 0600, replacing what is there in one step that survives a crash.

    Raises HomeUnusable, and KeyFileError if there is not the memory that `cost` asks for.
    """
    content = _plain(seed) if passphrase is None else _sealed(seed, passphrase, cost or KeyCost())
    fresh = path.with_name(path.name + ".new")
    try:
        fresh.unlink(missing_ok=True)  # of a crash; the caller holds the home's lock
        _write_new(fresh, content)
        fresh.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            fresh.unlink(missing_ok=True)
        raise unusable(path, error) from error


def read_passphrase(file: Path | None, environ: Mapping[str, str]) -> bytes | None:
    """Return the passphrase in `file`, else in `$CREDENTIALS_DIRECTORY/meshd-passphrase`, or None.

    One newline at the end is not part of it. Raises PassphraseMissing if `file` cannot be read, or
    either is empty or longer than 4 KiB.
    """
    if file is None:
        directory = environ.get("CREDENTIALS_DIRECTORY")
        file = Path(directory) / CREDENTIAL_NAME if directory else None
        if file is None or not file.exists():
            return None
    try:
        with file.open("rb") as stream:
            text = stream.read(PASSPHRASE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in its name, from a file
        reason = getattr(error, "strerror", None) or error
        raise PassphraseMissing(f"cannot read the passphrase file {file}: {reason}") from error
    if len(text) > PASSPHRASE_BYTES_MAX:
        raise PassphraseMissing(f"the passphrase in {file} is longer than 4096 bytes")
    passphrase = text.removesuffix(b"\n").removesuffix(b"\r")
    if not passphrase:
        raise PassphraseMissing(f"the passphrase file {file} is empty")
    return passphrase


def _read(path: Path, passphrase: bytes | None) -> tuple[bytes, bool]:
    """Return the seed, and whether a passphrase protects it."""
    content = _read_private(path)
    if len(content) < _HEAD.size or not content.startswith(_MAGIC):
        raise _damaged(path)
    _, version, protection = _HEAD.unpack_from(content)
    if version != _VERSION or protection not in (_PLAIN, _ARGON2ID):
        raise KeyUnreadable(
            f"{path} is a key of a newer meshd (version {version}.{protection}): install that"
        )
    if protection == _PLAIN:
        return _open_plain(path, content), False
    if passphrase is None:
        raise PassphraseMissing(
            f"{path} is under a passphrase: pass --passphrase-file FILE"
            f" or put it into $CREDENTIALS_DIRECTORY/{CREDENTIAL_NAME}"
        )
    return _open_sealed(path, content, passphrase), True


def _read_private(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            if found.st_mode & 0o077:
                raise KeyTooOpen(f"{path} can be used by others: type `chmod 600 {path}`")
            return stream.read(_FILE_BYTES_MAX)
    except OSError as error:
        hint = "restore it from a backup" if error.errno == errno.ENOENT else "check its owner"
        raise KeyUnreadable(f"cannot read {path}: {error.strerror}; {hint}") from error


def _plain(seed: bytes) -> bytes:
    body = _HEAD.pack(_MAGIC, _VERSION, _PLAIN) + seed
    return body + _checksum(body)


def _open_plain(path: Path, content: bytes) -> bytes:
    body = content[: _HEAD.size + SEED_BYTES]
    # Without the checksum a flipped bit would silently make this another device.
    if content != body + _checksum(body):
        raise _damaged(path)
    return body[_HEAD.size :]


def _sealed(seed: bytes, passphrase: bytes, cost: KeyCost) -> bytes:
    salt = os.urandom(_SALT_BYTES)
    header = _HEAD.pack(_MAGIC, _VERSION, _ARGON2ID)
    header += _COST.pack(cost.operations, cost.memory_bytes, salt)
    return header + nacl.secret.Aead(_derive(passphrase, salt, cost)).encrypt(seed, aad=header)


def _open_sealed(path: Path, content: bytes, passphrase: bytes) -> bytes:
    header = content[: _HEAD.size + _COST.size]
    box = content[len(header) :]
    if len(box) != _SEALED_BYTES:
        raise _damaged(path)
    operations, memory_bytes, salt = _COST.unpack_from(header, _HEAD.size)
    if operations > COST_MAX.operations or memory_bytes > COST_MAX.memory_bytes:
        raise _damaged(path)
    try:
        key = _derive(passphrase, salt, KeyCost(operations, memory_bytes))
        return nacl.secret.Aead(key).decrypt(box, aad=header)
    except nacl.exceptions.ValueError as error:  # a cost below what Argon2id takes
        raise _damaged(path) from error
    except nacl.exceptions.CryptoError as error:
        raise PassphraseWrong(
            f"the passphrase does not open {path} (or the file was changed): check the passphrase"
        ) from error


def _derive(passphrase: bytes, salt: bytes, cost: KeyCost) -> bytes:
    try:
        return nacl.pwhash.argon2id.kdf(
            nacl.secret.Aead.KEY_SIZE,
            passphrase,
            salt,
            opslimit=cost.operations,
            memlimit=cost.memory_bytes,
        )
    except (nacl.exceptions.RuntimeError, MemoryError) as error:
        raise KeyFileError(
            f"not enough memory to open the key: Argon2id needs {cost.memory_bytes >> 20} MiB free"
        ) from error


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    with open(descriptor, "wb") as stream:  # noqa: PTH123 - a descriptor has no path
        stream.write(content)
        stream.flush()
        os.fsync(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(body: bytes) -> bytes:
    return blake3(body, derive_key_context=_CHECKSUM_CONTEXT).digest()


def _damaged(path: Path) -> KeyUnreadable:
    return KeyUnreadable(
        f"{path} is damaged: restore it from a backup,"
        " or move the whole home away to start as a new device with a new id"
    )
