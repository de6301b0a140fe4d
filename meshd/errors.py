"""Errors of the daemon's own parts, by what the caller can do about them.

The text of each is one line that a person can act on: commands print it as it is.
"""

from __future__ import annotations

from wire.errors import MeshError


class DaemonError(MeshError):
    """Base of the errors of home, key, store, blobs and configuration."""


class QuantityError(DaemonError, ValueError):
    """A person wrote a duration or a size that we cannot read: show the message."""


class ConfigError(DaemonError):
    """File, environment or flags hold a setting we do not accept: show the message and stop."""


class InvitationUnreadable(ConfigError):
    """What was given as an invitation is none, or was cut: show the message and stop."""


class HomeError(DaemonError):
    """Base of the errors of the home directory."""


class HomeUnusable(HomeError):
    """The home cannot be made, written or trusted: the person must change it or choose another."""


class HomeInUse(HomeError):
    """Another daemon holds this home. `pid` is its process, or None when it has not said yet."""

    def __init__(self, message: str, *, pid: int | None) -> None:
        super().__init__(message)
        self.pid = pid


class KeyFileError(DaemonError):
    """Base of the errors of the device key's file. We never replace a key that we cannot read."""


class KeyUnreadable(KeyFileError):
    """The key file is missing, damaged, or of a newer version: restore it from a backup."""


class KeyTooOpen(KeyFileError):
    """Others can read the key file: the message holds the command that closes it."""


class PassphraseMissing(KeyFileError):
    """The key is encrypted and no passphrase, or an empty or unreadable one, was given."""


class PassphraseWrong(KeyFileError):
    """The passphrase does not open the key, or the key file was changed."""


class StoreError(DaemonError):
    """Base of the errors of the database."""


class StoreCorrupt(StoreError):
    """The database is damaged or is not ours: it is left as it is, the person must move it away."""


class StoreTooNew(StoreError):
    """A newer meshd wrote the database: install that version."""


class StoreFailed(StoreError):
    """The disk refused a read or a write: promise nothing, drain, restart from disk."""


class RecordTooLarge(StoreError):
    """We tried to persist more than one call may hold: a bug on our side. Nothing was written."""


class BlobError(DaemonError):
    """Base of the errors of the blob store."""


class BlobMissing(BlobError):
    """The blob, or the chunk asked for, is not here: fetch it from a provider."""


class BlobCorrupt(BlobMissing):
    """The disk gave back other bytes than were stored. The blob was removed: fetch it again."""


class BlobBudgetExceeded(BlobError):
    """Pinned content leaves no room in the disk budget: refuse the work, or raise the budget."""


class BlobStorageFailed(BlobError):
    """The disk refused a blob (full, read-only): chunks kept before stay, nothing else does."""
