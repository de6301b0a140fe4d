"""What happens at one microsecond, in the order that the shell's mailbox gives it.

The engine carries out what is due at one time in the order in which it was scheduled. The daemon's
mailbox has another rule: what is durable comes before timers, and timers before events. So that a
run of the simulator can be compared with one of the shell, it follows the mailbox's rule in here.
Nothing is due earlier or later for that.

Two devices that dial each other at the same microsecond draw from one count of packets, so that the
order in which their processes happen to run would decide both fates. In here the answers to what a
device began are counted for themselves.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import pytest

from simulations import world as world_module
from simulations.engine import Action, Engine
from simulations.host import SimulatedHost
from simulations.paths import Paths
from wire.effects import Effect, Row
from wire.ids import PeerId

RANK_DURABLE, RANK_TIMER, RANK_EVENT = range(3)
SEQUENCE_BITS = 48
ANSWERS = 8  # added to a lane: the answers to what was begun on it


class RankedEngine(Engine):
    """Carries out what is due at one time by rank, and each rank in the order it was scheduled."""

    def __init__(self) -> None:
        super().__init__()
        self.rank = RANK_EVENT

    def at(self, due_us: int, action: Action) -> None:
        """Carry out `action` at `due_us`, among those of the current rank."""
        self._sequence += 1
        count, self._sequence = self._sequence, (self.rank << SEQUENCE_BITS) + self._sequence - 1
        super().at(due_us, action)
        self._sequence = count

    @contextmanager
    def ranked(self, rank: int) -> Iterator[None]:
        """Schedule with another rank in here."""
        before, self.rank = self.rank, rank
        yield
        self.rank = before


class MailboxOrderHost(SimulatedHost):
    """A device whose timers and durable writes come when the mailbox would give them out."""

    def _set_timer(self, key: Hashable, after_us: int) -> None:
        with self._ranked(RANK_TIMER):
            super()._set_timer(key, after_us)

    def _persist(self, rows: Sequence[Row], then: Sequence[Effect]) -> None:
        with self._ranked(RANK_DURABLE):
            super()._persist(rows, then)

    def _ranked(self, rank: int) -> AbstractContextManager[None]:
        engine = self.around.engine
        assert isinstance(engine, RankedEngine)
        return engine.ranked(rank)


@contextmanager
def answers_counted_apart() -> Iterator[None]:
    """Let what one device begins change nothing for one that begins the same at that time."""

    def round_trip_us(paths: Paths, lane: int, origin: PeerId, target: PeerId) -> int:
        out_us = paths.delay_us(lane, origin, target)
        return out_us + paths.delay_us(lane + ANSWERS, target, origin)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Paths, "round_trip_us", round_trip_us)
        yield


@contextmanager
def the_mailboxs_order() -> Iterator[None]:
    """Let every World made in here follow the mailbox's rule."""
    with pytest.MonkeyPatch.context() as patch, answers_counted_apart():
        patch.setattr(world_module, "Engine", RankedEngine)
        patch.setattr(world_module, "SimulatedHost", MailboxOrderHost)
        yield
