"""What happens at one microsecond, in the order that the shell's mailbox gives it.

The engine carries out what is due at one time in the order in which it was scheduled. The daemon's
mailbox has another rule: what is durable comes before timers, and timers before events. So that a
run of the simulator can be compared with one of the shell, it follows the mailbox's rule in here.
It matters when a node sets a timer for now, which it does to place tasks, while messages wait that
came at the same microsecond, or during a stall. Nothing is due earlier or later for that.

Two devices that dial each other at the same microsecond draw from one count of packets, so that the
order in which their processes happen to run would decide both fates. In here the answer to what a
device began is drawn from the count of the way out.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pytest

from simulations import host as host_module
from simulations import world as world_module
from simulations.engine import Action, Engine
from simulations.errors import EventBudgetSpent
from simulations.host import SimulatedHost
from simulations.paths import Paths
from simulations.process import Process
from wire.effects import Effect, Persist, SetTimer
from wire.ids import PeerId

RANK_DURABLE, RANK_TIMER, RANK_EVENT = range(3)


class RankedEngine(Engine):
    """Carries out what is due at one time by rank, and each rank in the order it was scheduled.

    It stops between two times only: what is due at one microsecond belongs together.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rank = RANK_EVENT
        self._scheduled_count = 0
        self._due: list[tuple[int, int, int, Action]] = []

    def after(self, delay_us: int, action: Action) -> None:
        """Carry out `action` in `delay_us`."""
        self.at(self.now_us + delay_us, action)

    def at(self, due_us: int, action: Action) -> None:
        """Carry out `action` at `due_us`, among those of the current rank."""
        assert due_us >= self.now_us, f"{due_us} us is past, it is {self.now_us} us"
        self._scheduled_count += 1
        heapq.heappush(self._due, (due_us, self.rank, self._scheduled_count, action))

    @contextmanager
    def ranked(self, rank: int) -> Iterator[None]:
        """Schedule with another rank in here."""
        before, self.rank = self.rank, rank
        try:
            yield
        finally:
            self.rank = before

    def run(
        self, *, until_us: int, events_max: int, is_reached: Callable[[], bool] | None = None
    ) -> bool:
        """Do what `Engine.run` does."""
        events_stop = self.events_count + events_max
        while is_reached is None or not is_reached():
            due_us = self.next_due_us()
            if due_us is None or due_us > until_us:
                self.go_to(max(self.now_us, until_us))
                return False
            self.go_to(due_us)
            while self.next_due_us() == due_us:
                if self.events_count >= events_stop:
                    raise EventBudgetSpent(f"{events_max} events by {self.now_us} us: a storm")
                self.events_count += 1
                self.do_next()
        return True

    def next_due_us(self) -> int | None:
        """Return when something is to happen next, None if nothing is."""
        return self._due[0][0] if self._due else None

    def go_to(self, due_us: int) -> None:
        """Let the time be `due_us`."""
        self.now_us = due_us

    def do_next(self) -> None:
        """Carry out what is due first."""
        heapq.heappop(self._due)[-1]()


class MailboxOrderProcess(Process):
    """A process that has timers ring at once that are set for now while it does what waits."""

    def _catch_up(self, boot: int) -> None:
        """Do the first of what waits; what is due by then comes in before the rest."""
        if not self._is_able(boot):
            return
        waits = self._backlog
        if waits.durable:
            self._carry_out(waits.durable.popleft())
        elif waits.timers:
            self._handle_timer(waits.timers.popleft())
        elif waits.events:
            self._handle(waits.events.popleft())
        else:
            self._free_at_us = 0
            return
        self._engine.after(0, partial(self._catch_up, boot))


class MailboxOrderHost(SimulatedHost):
    """A device whose timers and durable writes come when the mailbox would give them out."""

    def _carry_out_all(self, wanted: Sequence[Effect]) -> None:
        engine = self.around.engine
        assert isinstance(engine, RankedEngine)
        for effect in wanted:
            with engine.ranked(rank_of(effect)):
                super()._carry_out_all((effect,))


def rank_of(effect: Effect) -> int:
    """Return the rank of what comes of an effect."""
    if isinstance(effect, Persist):
        return RANK_DURABLE
    return RANK_TIMER if isinstance(effect, SetTimer) else RANK_EVENT


@contextmanager
def answers_counted_apart() -> Iterator[None]:
    """Let what one device begins change nothing for one that begins the same at that time."""

    def round_trip_us(paths: Paths, lane: int, origin: PeerId, target: PeerId) -> int:
        return paths.delay_us(lane, origin, target) + paths.delay_us(lane, origin, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Paths, "round_trip_us", round_trip_us)
        yield


@contextmanager
def the_mailboxs_order() -> Iterator[None]:
    """Let every World made in here follow the mailbox's rule."""
    with pytest.MonkeyPatch.context() as patch, answers_counted_apart():
        patch.setattr(world_module, "Engine", RankedEngine)
        patch.setattr(world_module, "SimulatedHost", MailboxOrderHost)
        patch.setattr(host_module, "Process", MailboxOrderProcess)
        yield
