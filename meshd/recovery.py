"""The recovery key while it is still in the home: shown once to be written down, then erased.

The client writes the file, so that it lies where its user wants it and belongs to that user; only
when it is on the disk there does the client ask for the key to be erased here. So a crash between
the two leaves the key in both places, never in none.
"""

from __future__ import annotations

import structlog

from meshd.control_answers import RecoveryKeyAnswer
from meshd.control_errors import ControlError
from meshd.membership import Papers
from meshd.recovery_key import recovery_file
from wire.ids import PeerId, mesh_text, peer_text
from wire.keys import Ed25519Keys

log = structlog.get_logger()


class RecoveryKeyGone(ControlError):
    """The recovery key is not in this home: it was taken from it, or was never there."""


class RecoveryDesk:
    """Hands out the recovery key of the mesh that this device founded."""

    def __init__(self, papers: Papers, *, own: PeerId, name: str) -> None:
        self._papers = papers
        self._own = own
        self._name = name

    def warning(self) -> str | None:
        """Return what to tell the owner while the key is in the home."""
        if self._papers.row.recovery_seed is None:
            return None
        return (
            "the recovery key of the mesh is still in this home: whoever takes the device has it;"
            " type `meshctl recovery-key --to FILE` and keep that file offline"
        )

    def reveal(self) -> RecoveryKeyAnswer:
        """Return the key. Raises RecoveryKeyGone."""
        row, seed = self._papers.row, self._papers.row.recovery_seed
        if seed is None:
            raise self._gone()
        log.warning("recovery_key.shown")
        return RecoveryKeyAnswer(
            mesh=mesh_text(row.mesh),
            public=peer_text(Ed25519Keys(seed).peer),
            file=recovery_file(seed, row.mesh, self._name),
        )

    async def erase(self, public: str) -> RecoveryKeyAnswer:
        """Erase the key from the home, if it is the one meant. Raises RecoveryKeyGone, StoreError.

        No copy stays in the database or its log. What a disk keeps of blocks that were written over
        is out of anybody's reach.
        """
        row, seed = self._papers.row, self._papers.row.recovery_seed
        if seed is None or peer_text(Ed25519Keys(seed).peer) != public:
            raise self._gone()
        await self._papers.erase_recovery_seed()
        log.warning("recovery_key.erased")
        return RecoveryKeyAnswer(mesh=mesh_text(row.mesh), public=public, file=None)

    def _gone(self) -> RecoveryKeyGone:
        if self._papers.row.genesis.body.founder == self._own:
            return RecoveryKeyGone(
                "the recovery key is not in this home any more: it was written to a file",
                hint="look for the file that `meshctl recovery-key --to` was given",
            )
        return RecoveryKeyGone(
            "the recovery key was never in this home: another device founded the mesh",
            hint="type it there",
        )
