"""A shell or a mailbox with a defect does not leave the simulator's trace: each is planted here."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest
import trio
from support.conformance import simulated, under_shells

from meshd.defects import NodeFailed
from meshd.mailbox import Item, Mailbox
from meshd.shell import Shell
from simulations.errors import BadScenario, EventBudgetSpent, InvariantBroken, NotReached
from simulations.scenarios import scenario
from wire.effects import Effect, Hangup, Kill, Persist, Send
from wire.events import Event, TimerDue


class PromisesEarly(Shell):
    """Carries out what waits for the disk before it is durable."""

    def _carry_out(self, effect: Effect, nursery: trio.Nursery) -> None:
        if isinstance(effect, Persist):
            super()._carry_out(Persist(effect.rows), nursery)
            for each in effect.then:
                super()._carry_out(each, nursery)
        else:
            super()._carry_out(effect, nursery)


class ForgetsThen(Shell):
    """Carries out nothing of what waited for the disk."""

    def _carry_out(self, effect: Effect, nursery: trio.Nursery) -> None:
        if isinstance(effect, Persist):
            effect = Persist(effect.rows)
        super()._carry_out(effect, nursery)


class ReordersEffects(Shell):
    """Carries out the effects of one event backwards."""

    def _effects_of(self, item: Item) -> list[Effect]:
        return [*reversed(super()._effects_of(item))]


def deaf_to(kind: type[Effect]) -> type[Shell]:
    """Return a shell that never carries out one kind of effect."""

    class Deaf(Shell):
        def _carry_out(self, effect: Effect, nursery: trio.Nursery) -> None:
            if not isinstance(effect, kind):
                super()._carry_out(effect, nursery)

    return Deaf


class DropsATimer(Mailbox):
    """Forgets every thirtieth timer."""

    _set_count = 0

    def set_timer(self, key: Hashable, after_us: int) -> None:
        self._set_count += 1
        if self._set_count % 30:
            super().set_timer(key, after_us)


class RingsReplacedTimers(Mailbox):
    """Lets a timer ring that was replaced by a later one of the same key."""

    def _pop_due(self) -> Hashable | None:
        self._current.update({key: version for _, version, key in self._timers[:1]})
        return super()._pop_due()

    def _next_due_s(self) -> float:
        return self._timers[0][0] if self._timers else float("inf")


class RingsEarly(Mailbox):
    """Rounds timers down to milliseconds, those of less than one excepted: they would never end."""

    def set_timer(self, key: Hashable, after_us: int) -> None:
        super().set_timer(key, after_us // 1_000 * 1_000 or after_us)


class LastComesFirst(Mailbox):
    """Takes the latest event first."""

    def _take_now(self) -> Item | None:
        self._events.rotate(1)
        return super()._take_now()


class EventsBeforeTimers(Mailbox):
    """Lets timers wait while there are events."""

    def _pop_due(self) -> Hashable | None:
        return None if self._events else super()._pop_due()


class TellsTwice(Mailbox):
    """Leaves every fortieth event twice."""

    _posted_count = 0

    async def post(self, event: Event) -> None:
        await super().post(event)
        self._posted_count += 1
        if self._posted_count % 40 == 0:
            await super().post(event)


class DropsWhenWoken(Mailbox):
    """Loses the timer whose ringing woke it, now and then."""

    _rung_count = 0

    def _take_now(self) -> Item | None:
        item = super()._take_now()
        if isinstance(item, TimerDue):
            self._rung_count += 1
            if self._rung_count % 30 == 0:
                return super()._take_now()
        return item


@pytest.mark.parametrize(
    "shell",
    [PromisesEarly, ForgetsThen, ReordersEffects, deaf_to(Send), deaf_to(Hangup), deaf_to(Kill)],
    ids=["promises-early", "forgets-then", "reorders", "no-send", "no-hangup", "no-kill"],
)
def test_a_defect_of_the_shell_shows(shell: Callable[..., Shell]) -> None:
    assert is_caught(shell=shell)


@pytest.mark.parametrize(
    "mailbox",
    [
        DropsATimer,
        RingsReplacedTimers,
        RingsEarly,
        LastComesFirst,
        EventsBeforeTimers,
        TellsTwice,
        DropsWhenWoken,
    ],
)
def test_a_defect_of_the_mailbox_shows(mailbox: Callable[[], Mailbox]) -> None:
    assert is_caught(mailbox=mailbox)


def is_caught(
    *, shell: Callable[..., Shell] = Shell, mailbox: Callable[[], Mailbox] = Mailbox
) -> bool:
    """Say whether a run leaves another trace than the simulator's, or its node or checks raise."""
    # Of these seeds of `cancel`, five programs are killed in the third.
    for name, seed in (("calm", 1), ("cancel", 3), ("one-way-cut", 1), ("executor-crash", 1)):
        plan = scenario(name).plan(seed)
        expected = simulated(plan)
        try:
            if under_shells(plan, seed, shell=shell, mailbox=mailbox) != expected:
                return True
        except BadScenario:
            raise  # the hosts refuse it, whatever is planted
        except (InvariantBroken, NotReached, EventBudgetSpent):
            return True
        except ExceptionGroup as group:
            # One that raises by itself, since it no longer fits the mailbox, proves nothing.
            others = group.split((InvariantBroken, NodeFailed))[1]
            if others is not None:
                raise others from None
            return True
    return False


def test_without_a_defect_nothing_is_caught() -> None:
    assert not is_caught()
