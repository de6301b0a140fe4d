"""Who sees what the nodes of a run handle and want, as it happens, and changes nothing.

An observer says what it looks at, so that the many events that nobody looks at cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from msgspec import Struct

from wire.effects import Effect, Send
from wire.events import Event

if TYPE_CHECKING:
    from simulations.host import SimulatedHost

SawEvent: TypeAlias = "Callable[[SimulatedHost, Event], None]"
SawEffect: TypeAlias = "Callable[[SimulatedHost, Effect], None]"


class Observer(Protocol):
    """Sees the kinds of events and effects that it names, of all devices."""

    @property
    def observed_events(self) -> tuple[type[Struct], ...]:
        """The kinds of events that it looks at."""
        ...

    @property
    def observed_effects(self) -> tuple[type[Struct], ...]:
        """The kinds of effects that it looks at; of what is sent, the kinds of messages."""
        ...

    def saw_event(self, host: SimulatedHost, event: Event) -> None:
        """`event` is about to be handled."""
        ...

    def saw_effect(self, host: SimulatedHost, effect: Effect) -> None:
        """`effect` is about to be carried out."""
        ...


class Observers:
    """Those of one run, in the order in which they are told. By kind: whom to tell."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self.of_event: dict[type[Struct], tuple[SawEvent, ...]] = {}
        self.of_effect: dict[type[Struct], tuple[SawEffect, ...]] = {}
        for observer in observers:
            self.add(observer)

    def add(self, observer: Observer) -> None:
        """Tell one more, after the others."""
        for event in observer.observed_events:
            self.of_event[event] = (*self.of_event.get(event, ()), observer.saw_event)
        for effect in observer.observed_effects:
            self.of_effect[effect] = (*self.of_effect.get(effect, ()), observer.saw_effect)

    def saw_event(self, host: SimulatedHost, event: Event) -> None:
        """Tell those who look at such events."""
        for saw in self.of_event.get(type(event), ()):
            saw(host, event)

    def saw_effect(self, host: SimulatedHost, effect: Effect) -> None:
        """Tell those who look at such effects."""
        for saw in self.of_effect.get(observed_kind(effect), ()):
            saw(host, effect)


def observed_kind(effect: Effect) -> type[Struct]:
    """Return by what an effect is looked at: most are heartbeats sent, which nobody looks at."""
    return type(effect.message) if type(effect) is Send else type(effect)
