"""What waits for the node: events, due timers, and effects whose disk write is done.

One task takes from it, so the node handles one thing at a time. Events from outside wait for room,
messages of one peer also for its earlier ones, so that a flood delays its sender alone; what the
node itself caused (a write that is durable now) never waits, since the node bounds it.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TypeAlias

import trio

from wire.effects import Effect
from wire.events import Event, Received, TimerDue
from wire.ids import PeerId

WAITING_EVENTS_MAX = 1_024
WAITING_OF_PEER_MAX = 16  # some milliseconds of the node
STALE_TIMERS_ENOUGH = 256  # replaced timers are swept out when they are more, and the majority
US_PER_S = 1_000_000


@dataclass(frozen=True, slots=True)
class Durable:
    """The effects that waited for a write that is on the disk now."""

    then: tuple[Effect, ...]


Item: TypeAlias = Event | Durable


@dataclass(slots=True)
class Mailbox:
    """Times are trio's clock: seconds of boot time in the daemon, virtual ones in tests."""

    _events: deque[Event] = field(default_factory=deque)
    _durable: deque[Durable] = field(default_factory=deque)
    _timers: list[tuple[float, int, Hashable]] = field(default_factory=list)
    _current: dict[Hashable, int] = field(default_factory=dict)
    _versions: itertools.count[int] = field(default_factory=itertools.count)
    _something: trio.Event = field(default_factory=trio.Event)
    _room: trio.Condition = field(default_factory=trio.Condition)
    _waiting_for_room_count: int = 0
    _waiting_of: Counter[PeerId] = field(default_factory=Counter)  # messages of each peer

    @property
    def waiting_count(self) -> int:
        """How many events wait."""
        return len(self._events)

    async def post(self, event: Event) -> None:
        """Leave an event for the node.

        Waits while WAITING_EVENTS_MAX are there, or WAITING_OF_PEER_MAX messages of the same peer.
        """
        # Taking a lock costs a turn of the loop, so without need nobody does.
        if self._waiting_for_room_count or not self._has_room(event):
            await self._wait_for_room(event)
        self._events.append(event)
        if isinstance(event, Received):
            self._waiting_of[event.peer] += 1
        self._something.set()

    async def _wait_for_room(self, event: Event) -> None:
        self._waiting_for_room_count += 1
        try:
            async with self._room:
                while not self._has_room(event):
                    await self._room.wait()
        finally:
            self._waiting_for_room_count -= 1

    def _has_room(self, event: Event) -> bool:
        if isinstance(event, Received) and self._waiting_of[event.peer] >= WAITING_OF_PEER_MAX:
            return False
        return len(self._events) < WAITING_EVENTS_MAX

    def post_now(self, event: Event) -> None:
        """Leave an event beyond the bound: only for one that its sender bounds otherwise."""
        self._events.append(event)
        self._something.set()

    def post_durable(self, then: tuple[Effect, ...]) -> None:
        """Leave effects that may be carried out now."""
        self._durable.append(Durable(then))
        self._something.set()

    def set_timer(self, key: Hashable, after_us: int) -> None:
        """Leave a TimerDue in `after_us`; a timer of the same key is replaced."""
        version = next(self._versions)
        self._current[key] = version
        due_s = trio.current_time() + max(0, after_us) / US_PER_S
        heapq.heappush(self._timers, (due_s, version, key))
        if len(self._timers) > 2 * len(self._current) + STALE_TIMERS_ENOUGH:
            self._sweep()

    async def take(self) -> Item:
        """Return the next item: durable effects first, then timers that are due, then events."""
        if self._events or self._durable or self._next_due_s() <= trio.current_time():
            await trio.lowlevel.checkpoint()
        while (item := self._take_now()) is None:
            self._something = trio.Event()
            with trio.CancelScope(deadline=self._next_due_s()):
                await self._something.wait()
        return item

    async def after_event(self) -> None:
        """Tell those who wait for room that there is some."""
        if self._waiting_for_room_count:
            async with self._room:
                self._room.notify_all()  # the longest waiting may wait for its own messages

    def _take_now(self) -> Item | None:
        if self._durable:
            return self._durable.popleft()
        key = self._pop_due()
        if key is not None:
            return TimerDue(key)
        return self._pop_event() if self._events else None

    def _pop_event(self) -> Event:
        event = self._events.popleft()
        if isinstance(event, Received):
            self._waiting_of[event.peer] -= 1
            if not self._waiting_of[event.peer]:
                del self._waiting_of[event.peer]
        return event

    def _pop_due(self) -> Hashable | None:
        while self._timers and self._timers[0][0] <= trio.current_time():
            _, version, key = heapq.heappop(self._timers)
            if self._current.get(key) == version:
                del self._current[key]
                return key
        return None

    def _sweep(self) -> None:
        """Forget replaced timers: one that is set again and again far ahead leaves many."""
        self._timers = [timer for timer in self._timers if self._current.get(timer[2]) == timer[1]]
        heapq.heapify(self._timers)

    def _next_due_s(self) -> float:
        while self._timers and self._current.get(self._timers[0][2]) != self._timers[0][1]:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else float("inf")
