"""What may stand in a log line: no secrets, and nothing that a terminal obeys.

Values under keys that name a secret are cut out at any depth, and invitations wherever they stand.
Control characters are escaped: names and reasons come from other devices, and a line must not turn
a reader's terminal over or pass for two lines. Long values are cut.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from structlog.typing import EventDict, WrappedLogger

from wire.membership import INVITATION_PREFIX

REDACTED = "[secret]"

_SECRET_WORDS = frozenset(
    {
        "credential",
        "credentials",
        "invitation",
        "join",
        "passphrase",
        "password",
        "psk",
        "secret",
        "seed",
        "token",
    }
)
_SECRET_KEYS = re.compile(r"(?:private|signing|network|batch|recovery|digest|box|device)_?keys?\Z")
_INVITATIONS = re.compile(rf"{INVITATION_PREFIX}[a-z2-7\s]{{24,}}", re.IGNORECASE)
_HIDDEN = re.compile(r"[^\x20-\x7e\xa1-\u200a\u2010-\u2027\u2030-\u2065\u2070-\ud7ff\uf900-\uffef]")
_DEPTH_MAX = 5
_ITEMS_MAX = 64
_BYTES_SHOWN = 32
_TRACEBACK_LINES_MAX = 400
_CHARACTERS_SHOWN = 2_048
# Filled by structlog itself, and rendered by it later.
_UNTOUCHED = frozenset({"exc_info", "_record", "_from_structlog"})


def clean(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Return the line as it may be written; a processor of structlog."""
    return {
        key: value if key in _UNTOUCHED else _entry(key, value, depth=0)
        for key, value in event.items()
    }


def clean_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Clean a traceback that structlog has made text of; its line ends stay."""
    if isinstance(event.get("exception"), str):
        lines = event["exception"].splitlines()[-_TRACEBACK_LINES_MAX:]
        event["exception"] = "\n".join(_text(line) for line in lines)
    return event


def is_secret(key: str) -> bool:
    """Say whether a value under `key` must not be written."""
    name = key.lower().replace("-", "_")
    return bool(_SECRET_WORDS.intersection(name.split("_"))) or bool(_SECRET_KEYS.search(name))


def _entry(key: str, value: object, *, depth: int) -> object:
    # What says nothing gives nothing away, and "no passphrase" is worth knowing.
    return REDACTED if is_secret(key) and value not in (None, True, False) else _value(value, depth)


def _value(value: object, depth: int) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray):
        shown = bytes(value[:_BYTES_SHOWN]).hex()
        return shown if len(value) <= _BYTES_SHOWN else f"{shown}... ({len(value)} bytes)"
    if depth < _DEPTH_MAX and isinstance(value, Mapping):
        items = list(value.items())[:_ITEMS_MAX]
        return {_text(str(key)): _entry(str(key), item, depth=depth + 1) for key, item in items}
    if depth < _DEPTH_MAX and isinstance(value, list | tuple | set | frozenset):
        return [_value(item, depth + 1) for item in list(value)[:_ITEMS_MAX]]
    return _text(str(value))


def _text(text: str) -> str:
    shown = text[:_CHARACTERS_SHOWN] + ("..." if len(text) > _CHARACTERS_SHOWN else "")
    shown = _INVITATIONS.sub(REDACTED, shown)
    return _HIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), shown)
