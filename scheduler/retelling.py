"""Tells another steward what was decided, from the store: it missed it, or has restarted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from scheduler.batch import DECISION_ROW, Batch, DecisionRow
from scheduler.register import proposed
from scheduler.stewardship import Stewardship
from wire.effects import Effect, Load
from wire.events import Loaded
from wire.ids import PeerId
from wire.membership import Role
from wire.messages import BatchUnknown, OutcomesWanted, Proposed
from wire.tasks import Epoch

READINGS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class RetellingToken:
    """Names a row on its way from the store to a steward."""

    peer: PeerId
    key: bytes
    promise: Epoch | None = None  # that it goes with


@dataclass(slots=True, kw_only=True)
class Retelling:
    """Rows on their way, READINGS_MAX at most: whoever wants more asks again."""

    office: Stewardship
    _reading: set[RetellingToken] = field(default_factory=set)

    def on_outcomes_wanted(self, peer: PeerId, wanted: OutcomesWanted) -> list[Effect]:
        """Tell a steward of the batch what it does not know."""
        batch = self.office.batch(wanted.batch)
        if batch is None:
            return self.office.send(peer, BatchUnknown(batch=wanted.batch))
        if peer not in batch.co_stewards() and not self.office.may(peer, Role.STEWARD):
            return []
        known = set(wanted.decided)
        open_there = (i for i in range(len(batch.progress)) if i not in known)
        return self.tell(peer, batch, open_there, moves_from=wanted.moves_count)

    def ask(self, peer: PeerId, batch: Batch) -> list[Effect]:
        """Ask another device for what is not known here of a batch."""
        wanted = OutcomesWanted(
            batch=batch.batch, decided=batch.decided_indices(), moves_count=len(batch.moves)
        )
        return self.office.send(peer, wanted)

    def tell(
        self,
        peer: PeerId,
        batch: Batch,
        indices: Iterable[int],
        *,
        promise: Epoch | None = None,
        moves_from: int | None = None,
    ) -> list[Effect]:
        """Tell how tasks were decided, those that were: a row at a time, as many as `rows_of`.

        And the moves from one on, first: by them the votes of later ones are known.
        """
        effects: list[Effect] = []
        for move in () if moves_from is None else batch.moves[moves_from:]:
            told = Proposed(votes=move.votes, chains=batch.chains, stewards=move.stewards)
            effects += self.office.send(peer, told)
        for key in rows_of(batch, indices):
            token = RetellingToken(peer, key, promise)
            if token not in self._reading and len(self._reading) < READINGS_MAX:
                self._reading.add(token)
                effects.append(Load(DECISION_ROW, key, 1, token))
        return effects

    def on_loaded(self, loaded: Loaded) -> list[Effect]:
        """A row came from the store."""
        token = loaded.token
        if not isinstance(token, RetellingToken):
            return []
        self._reading.discard(token)
        row = loaded.rows[0].value if loaded.rows else None
        if not isinstance(row, DecisionRow):
            return []  # the batch was forgotten meanwhile
        return self.office.send(token.peer, proposed(row, promise=token.promise))


def rows_of(batch: Batch, indices: Iterable[int]) -> list[bytes]:
    """Return the keys of the rows that decided tasks."""
    decided = (batch.progress[index].decided for index in indices)
    return list(dict.fromkeys(one.row for one in decided if one is not None))
