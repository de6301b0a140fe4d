"""What a simulated host does with each effect that its node wants, by the effect's type.

Nothing here calls the node: answers come as later events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from msgspec import Struct

from simulations.blobs import BlobStore
from simulations.contents import Contents
from simulations.dht import Dht
from simulations.disk import Disk
from simulations.engine import Action, Engine
from simulations.errors import UnknownEffect
from simulations.gossipsub import publish
from simulations.network import Network
from simulations.timers import Timers
from simulations.trace import Field
from simulations.writing import Writing
from wire import effects as do
from wire import events as on
from wire.effects import Effect
from wire.events import Event
from wire.ids import PeerId


@dataclass(slots=True, kw_only=True)
class Hands:
    """Carries out the effects of one device's node."""

    peer: PeerId
    engine: Engine
    network: Network
    dht: Dht
    timers: Timers
    writing: Writing
    contents: Contents
    blobs: BlobStore
    disk: Disk
    load_us: int
    later: Callable[[int, Action], None]
    deliver: Callable[[Event], None]
    note: Callable[[str, dict[str, Field]], None]
    drops: str | None = None  # messages of this type are not sent

    def carry_out(self, effect: Effect) -> None:
        """Do what the node wants. Raises UnknownEffect."""
        carry_out = _BY_TYPE.get(type(effect))
        if carry_out is None:
            raise UnknownEffect(f"{type(effect).__name__}, wanted by {self.peer.hex()}")
        carry_out(self, effect)

    def send(self, effect: do.Send) -> None:
        """Put a message on a link."""
        if self.drops is None or type(effect.message).__name__ != self.drops:
            self.network.send(self.peer, effect.peer, effect.message)

    def publish(self, effect: do.Publish) -> None:
        """Publish records to all."""
        publish(self.engine, self.network, self.peer, effect.records)

    def dial(self, effect: do.Dial) -> None:
        """Open a link."""
        self.network.dial(self.peer, effect.peer, effect.addresses, effect.via)

    def hang_up(self, effect: do.Hangup) -> None:
        """Close a link."""
        self.network.hang_up(self.peer, effect.peer, effect.reason)

    def set_timer(self, effect: do.SetTimer) -> None:
        """Ring in a while."""
        self.timers.set(effect.key, effect.after_us)

    def persist(self, effect: do.Persist) -> None:
        """Write rows, and what waits for them later."""
        self.writing.put(effect)

    def load(self, effect: do.Load) -> None:
        """Read rows."""

        def read() -> None:
            rows = self.disk.load(effect.kind, effect.prefix, effect.limit)
            self.deliver(on.Loaded(effect.token, rows))

        self.later(self.load_us, read)

    def provide(self, effect: do.Provide) -> None:
        """Keep a provider record published."""
        self.dht.provide(self.peer, effect.key)

    def withdraw(self, effect: do.Withdraw) -> None:
        """Publish a provider record no more."""
        self.dht.withdraw(self.peer, effect.key)

    def find_providers(self, effect: do.FindProviders) -> None:
        """Look a capability up."""

        def tell(providers: tuple[on.Provider, ...]) -> None:
            self.deliver(on.ProvidersFound(effect.token, providers))

        self.dht.find(self.peer, effect.key, is_thorough=effect.is_thorough, then=tell)

    def fetch(self, effect: do.Fetch) -> None:
        """Bring content here."""
        self.contents.fetch(effect)

    def offer(self, effect: do.Offer) -> None:
        """Keep a blob."""
        self.blobs.keep(effect.blob, effect.owner)

    def release(self, effect: do.Release) -> None:
        """Keep blobs no longer."""
        self.blobs.release(effect.owner)

    def execute(self, effect: do.Execute) -> None:
        """Run a program."""
        self.contents.execute(effect)

    def kill(self, effect: do.Kill) -> None:
        """End a program."""
        self.contents.kill(effect.run)

    def trace(self, effect: do.Trace) -> None:
        """Write a line into the trace."""
        self.note(effect.event, effect.fields)

    def use_network_keys(self, effect: do.UseNetworkKeys) -> None:
        """Do nothing: whoever has some key of the mesh is let up to the handshake."""

    def answer(self, effect: do.Answer) -> None:
        """Do nothing: the world collects answers by observing effects."""

    def answer_join(self, effect: do.AnswerJoin) -> None:
        """Likewise."""


_SomeEffect = TypeVar("_SomeEffect", bound=Struct)
_Hand = Callable[[Hands, Effect], None]


def _hand(
    kind: type[_SomeEffect], carry_out: Callable[[Hands, _SomeEffect], None]
) -> tuple[type[Struct], _Hand]:
    return kind, cast(_Hand, carry_out)


_BY_TYPE = dict(
    [
        _hand(do.Send, Hands.send),
        _hand(do.Publish, Hands.publish),
        _hand(do.Dial, Hands.dial),
        _hand(do.Hangup, Hands.hang_up),
        _hand(do.SetTimer, Hands.set_timer),
        _hand(do.Persist, Hands.persist),
        _hand(do.UseNetworkKeys, Hands.use_network_keys),
        _hand(do.Load, Hands.load),
        _hand(do.Provide, Hands.provide),
        _hand(do.Withdraw, Hands.withdraw),
        _hand(do.FindProviders, Hands.find_providers),
        _hand(do.Fetch, Hands.fetch),
        _hand(do.Offer, Hands.offer),
        _hand(do.Release, Hands.release),
        _hand(do.Execute, Hands.execute),
        _hand(do.Kill, Hands.kill),
        _hand(do.Trace, Hands.trace),
        _hand(do.Answer, Hands.answer),
        _hand(do.AnswerJoin, Hands.answer_join),
    ]
)
