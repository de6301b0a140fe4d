"""Points in what a node wants, at which something befalls it: between two effects of one event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta, Struct

from simulations.engine import Action
from wire.effects import Effect, Persist, Send, SetTimer, Trace


class EffectPoint(Struct, frozen=True, kw_only=True):
    """Just before or just after the `count`-th effect of a kind, counted from when it is watched.

    `kind` is the name of the effect's type. `detail` narrows it: of a `Send` the name of its
    message's type, of a `Persist` the kind of one of its rows, of a `SetTimer` the name of its
    key's type, of a `Trace` its event.
    """

    kind: str
    detail: str | None = None
    count: Annotated[int, Meta(ge=1)] = 1
    is_after: bool = False

    def is_of(self, effect: Effect) -> bool:
        """Say whether `effect` is of the kind."""
        return type(effect).__name__ == self.kind and (
            self.detail is None or self.detail in _details(effect)
        )


def _details(effect: Effect) -> tuple[str, ...]:
    match effect:
        case Send(message=message):
            return (type(message).__name__,)
        case Persist(rows=rows):
            return tuple(row.kind for row in rows)
        case SetTimer(key=key):
            return (type(key).__name__,)
        case Trace(event=event):
            return (event,)
        case _:
            return ()


@dataclass(eq=False, slots=True)
class _Trap:
    point: EffectPoint
    on_reached: Action
    left_count: int


class EffectWatch:
    """The points that a device has not come to yet."""

    def __init__(self) -> None:
        self._traps: list[_Trap] = []

    def __len__(self) -> int:
        """How many there are."""
        return len(self._traps)

    def add(self, point: EffectPoint, on_reached: Action) -> Action:
        """Do `on_reached` once, when the point is reached; return what gives it up."""
        trap = _Trap(point, on_reached, point.count)
        self._traps.append(trap)

        def give_up() -> None:
            if trap in self._traps:
                self._traps.remove(trap)

        return give_up

    def reached(self, effect: Effect) -> tuple[list[Action], list[Action]]:
        """Count `effect`; return what is done before it and what is done after it."""
        before: list[Action] = []
        after: list[Action] = []
        for trap in list(self._traps):
            if trap.point.is_of(effect):
                trap.left_count -= 1
                if trap.left_count == 0:
                    self._traps.remove(trap)
                    (after if trap.point.is_after else before).append(trap.on_reached)
        return before, after
