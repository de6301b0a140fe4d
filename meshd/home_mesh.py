"""Which mesh a home belongs to, read from its database whether or not its daemon runs.

For `meshctl verify`, so without trio: `meshd.membership` is the daemon's way to the same row.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from meshd.home import Home
from wire.codec import Decoder
from wire.errors import MalformedFrame
from wire.ids import MeshId
from wire.keys import Ed25519Verifier
from wire.membership import Genesis, mesh_id_of
from wire.signed import Signed

ROW_KIND = "membership"
ROW_KEY = b"own"

_QUERY = "SELECT body FROM records WHERE kind = ? AND key = ?"


class _Papers(Struct, frozen=True):
    """The part of the row that says which mesh it is."""

    genesis: Signed[Genesis]


def mesh_of_home(path: Path) -> MeshId | None:
    """Return the mesh of the home at `path`, None if there is none or it cannot be read."""
    database = Home(path).database
    if not database.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            row = connection.execute(_QUERY, (ROW_KIND, ROW_KEY)).fetchone()
        return None if row is None else mesh_id_of(_decoder.decode(bytes(row[0])).genesis)
    except (sqlite3.Error, MalformedFrame):
        return None  # a damaged home is not what was asked about


_decoder = Decoder(_Papers, Ed25519Verifier())
