"""When a simulated process does what: at once, or later because it is busy, stalled or asleep.

What an earlier boot began never reaches a later one. A process that cannot do something now does it
later, in the order of `simulations.backlog`: when it is no longer busy (if its CPU is counted), no
longer frozen (it stalls, its kernel still answers), no longer suspended (the whole device sleeps).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from simulations.backlog import MAILBOX_EVENTS_MAX, Backlog
from simulations.cpu import Cpu
from simulations.engine import Action, Engine
from simulations.timers import Timer
from simulations.trace import Field
from wire.effects import Effect
from wire.events import Event

_NEVER_US = 1 << 62


class Process:
    """The process of one device, in all its boots: `boot` says how many there were."""

    def __init__(
        self,
        engine: Engine,
        *,
        cpu: Cpu | None,
        rest_of_sleep_us: Callable[[], int],
        handle: Callable[[Event], None],
        handle_timer: Callable[[Timer], None],
        carry_out: Callable[[Sequence[Effect]], None],
        note: Callable[[str, Mapping[str, Field]], None],
    ) -> None:
        self.boot = 0
        self.is_running = False
        self.is_frozen = False
        self.is_suspended = False
        self.cpu = cpu
        self._engine = engine
        self._rest_of_sleep_us = rest_of_sleep_us
        self._handle = handle
        self._handle_timer = handle_timer
        self._carry_out = carry_out
        self._note = note
        self._backlog = Backlog()
        self._held: list[Action] = []  # what a process that stalls does first when it goes on
        self._free_at_us = _NEVER_US  # never: something waits already, or must wait
        self._is_asleep = False  # resumed, and has not noticed
        self._is_backlog_noted = False

    @property
    def is_stalled(self) -> bool:
        """Whether the process, if it exists, does nothing."""
        return self.is_frozen or self.is_suspended

    @property
    def backlog_count(self) -> int:
        """How many events, timers and durable writes wait."""
        return len(self._backlog)

    # Its life.

    def start(self) -> None:
        """Begin another boot, in which nothing waits. Raises LookupError if it runs."""
        if self.is_running:
            raise LookupError("the process runs already")
        self.boot += 1
        self.is_running = True
        self.is_frozen = self.is_suspended = self._is_asleep = self._is_backlog_noted = False
        self._free_at_us = 0
        if self.cpu is not None:
            self.cpu.start()

    def end(self) -> None:
        """Die: nothing that waits is ever done."""
        self.is_running = False
        self._backlog.clear()
        self._held.clear()

    def freeze(self) -> None:
        """Do nothing until it is thawed."""
        self.is_frozen = True
        self._free_at_us = _NEVER_US

    def thaw(self) -> None:
        """Go on: do first what came meanwhile."""
        self.is_frozen = False
        self._go_on()

    def suspend(self) -> None:
        """Do nothing until some time after the device is resumed."""
        self.is_suspended = True
        self._free_at_us = _NEVER_US

    def resume(self) -> None:
        """Go on when something comes, or when the sleep ends in which the device was suspended."""
        if self.is_suspended:
            self.is_suspended = False
            self._is_asleep = True
            self._engine.after(self._rest_of_sleep_us(), partial(self._wake, self.boot))

    # What it does, and when.

    def deliver(self, event: Event) -> None:
        """Handle `event` as soon as possible; a dead process hears nothing."""
        if self._engine.now_us >= self._free_at_us:
            if self.is_running:
                self._handle(event)
        elif self.is_running:
            self._backlog.events.append(event)
            self._wait()
            if self._is_asleep:
                self._wake(self.boot)

    def ring(self, timer: Timer) -> None:
        """Handle a timer that is due as soon as possible."""
        if self._engine.now_us >= self._free_at_us:
            self._handle_timer(timer)
        else:
            self._backlog.timers.append(timer)
            self._wait()

    def carry_on(self, then: Sequence[Effect]) -> None:
        """Carry out as soon as possible what waited for the disk."""
        if self._engine.now_us >= self._free_at_us:
            self._carry_out(then)
        else:
            self._backlog.durable.append(then)
            self._wait()

    def later(self, delay_us: int, action: Action) -> None:
        """Do `action` in a while, unless the process is another one by then."""
        self._engine.after(delay_us, partial(self._act, self.boot, action))

    def of_this_boot(self, action: Action) -> Action:
        """Return `action` as something that does nothing in a later boot, and waits if stalled."""
        return partial(self._act, self.boot, action)

    def charge(self, cost_us: int) -> None:
        """Be busy for a while with what is done now, if the CPU is counted."""
        if self.cpu is None:
            return
        self.cpu.charge(cost_us)
        if self._free_at_us != _NEVER_US:
            self._free_at_us = self.cpu.busy_until_us

    # Within.

    def _act(self, boot: int, action: Action) -> None:
        if self.boot != boot or not self.is_running:
            return
        if self.is_stalled:
            self._held.append(action)
        else:
            action()

    def _wait(self) -> None:
        """Something waits: see to it that it is done when the process is free."""
        if not self._is_backlog_noted and len(self._backlog) > MAILBOX_EVENTS_MAX:
            self._is_backlog_noted = True
            self._note("process.behind", {"waiting_count": len(self._backlog)})
        if self._free_at_us != _NEVER_US:
            self._engine.at(self._free_at_us, partial(self._catch_up, self.boot))
            self._free_at_us = _NEVER_US

    def _wake(self, boot: int) -> None:
        if self.boot == boot and self._is_asleep:
            self._is_asleep = False
            self._go_on()

    def _is_able(self, boot: int) -> bool:
        """Say whether it is the same process, and nothing stalls it."""
        is_alive = self.boot == boot and self.is_running
        return is_alive and not (self.is_frozen or self.is_suspended or self._is_asleep)

    def _go_on(self) -> None:
        """Do what a stalled process would have done, if nothing stalls it any more."""
        boot, held = self.boot, self._held
        if not self._is_able(boot):
            return
        self._held = []
        for action in held:
            if self._is_able(boot):
                action()
        self._catch_up(boot)

    def _catch_up(self, boot: int) -> None:
        """Do what waits until the process is busy again; what comes meanwhile waits behind it."""
        if not self._is_able(boot):
            return
        backlog, cpu = self._backlog, self.cpu
        while backlog and (cpu is None or cpu.busy_until_us <= self._engine.now_us):
            if backlog.durable:
                self._carry_out(backlog.durable.popleft())
            elif backlog.timers:
                self._handle_timer(backlog.timers.popleft())
            else:
                self._handle(backlog.events.popleft())
            if not self._is_able(boot):
                return
        self._free_at_us = 0 if cpu is None else cpu.busy_until_us
        if backlog:
            self._wait()
