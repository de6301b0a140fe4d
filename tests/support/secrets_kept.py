"""Looks for secrets where they must not be: in every form that a log or a command line may have."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from meshd.rows import ROW_KINDS
from wire.codec import Decoder
from wire.keys import Ed25519Keys, Ed25519Verifier

LETTERS_MIN = 12  # of a form that is looked for: a shorter one may be there by chance


def forms_of(secret: bytes) -> Iterator[bytes]:
    """Yield how `secret` may be written, each without what its beginning or end shares."""
    hexed, thirty_two = secret.hex().encode(), base64.b32encode(secret).rstrip(b"=")
    yield secret
    yield hexed
    yield hexed.upper()
    yield thirty_two
    yield thirty_two.lower()
    for alphabet in (base64.b64encode, base64.urlsafe_b64encode):
        # In the middle of something longer, base64 has one of three forms.
        for shift in range(3):
            yield alphabet(bytes(shift) + secret)[4 if shift else 0 :].rstrip(b"=")[:-2]
    shown = repr(secret)[2:-1].encode()
    yield shown
    yield shown.replace(b"\\", b"\\\\")  # as JSON, or shown once more
    yield ", ".join(map(str, secret)).encode()  # of a list or a tuple


def find(secrets: dict[str, bytes], text: bytes) -> list[str]:
    """Return the names of the secrets that `text` holds, in any form."""
    return [
        name
        for name, secret in secrets.items()
        if any(form in text for form in forms_of(secret) if len(form) >= LETTERS_MIN)
    ]


def batch_keys(database: Path, keys: Ed25519Keys) -> list[bytes]:
    """Return the keys of all batches in the database of the device that submitted them."""
    decoder = Decoder(ROW_KINDS["batch"], Ed25519Verifier())
    found = []
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        for (body,) in connection.execute("SELECT body FROM records WHERE kind = 'batch'"):
            contract = decoder.decode(bytes(body)).contract.body  # type: ignore[attr-defined]
            found += [keys.unseal(key.box) for key in contract.keys if key.recipient == keys.peer]
    return found
