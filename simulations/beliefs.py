"""What devices have told of each other's lives: who holds whom for degraded or dead."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from simulations.host import SimulatedHost
from wire import effects as do
from wire import events as on
from wire.effects import Effect
from wire.events import Event
from wire.ids import PeerId, peer_text

_TOLD = {"member.alive": True, "member.degraded": False, "member.dead": False}


class Beliefs:
    """An observer of every device, which changes nothing. Those nobody spoke of are alive."""

    observed_events: tuple[type[Struct], ...] = (on.Restarted,)
    observed_effects: tuple[type[Struct], ...] = (do.Trace,)

    def __init__(self) -> None:
        self._doubted: dict[PeerId, set[str]] = {}

    def saw_event(self, host: SimulatedHost, event: Event) -> None:
        """A process that starts believes nothing yet."""
        self._doubted[host.peer] = set()

    def saw_effect(self, host: SimulatedHost, effect: Effect) -> None:
        """Note what a device says of another one."""
        if not isinstance(effect, do.Trace):
            return
        is_alive = _TOLD.get(effect.event)
        if is_alive is None:
            return
        doubted, peer = self._doubted[host.peer], str(effect.fields["peer_id"])
        if is_alive:
            doubted.discard(peer)
        else:
            doubted.add(peer)

    def are_all_alive(self, peers: Iterable[PeerId]) -> bool:
        """Say whether none of `peers` doubts another one of them."""
        texts = {peer: peer_text(peer) for peer in peers}
        return all(self._doubted.get(peer, set()).isdisjoint(texts.values()) for peer in texts)
