"""Nodes with one defect planted in them, for tests of what finds and shrinks failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simulations.device import Boot, Node
from simulations.mesh_node import MESH_NODE
from simulations.world import Blueprint
from wire import effects as do
from wire.effects import Effect
from wire.events import Event, Restarted
from wire.ids import StoreId
from wire.messages import Hello

Mutation = Callable[[Effect], Sequence[Effect]]


class MutantNode:
    """The node that ships, with what it wants changed on the way out."""

    def __init__(self, node: Node, mutate: Mutation) -> None:
        self._node = node
        self._mutate = mutate

    def hello(self) -> Hello:
        """Return what the node says."""
        return self._node.hello()

    def handle(self, event: Event, now_us: int) -> Sequence[Effect]:
        """Return what the mutation leaves of what the node wants."""
        wanted = self._node.handle(event, now_us)
        return [mutant for effect in wanted for mutant in self._mutate(effect)]


def planted(mutate: Mutation, *, from_boot: int = 1) -> Blueprint:
    """Return nodes that mutate effects, each from its process's so many-th start on."""

    def factory(boot: Boot) -> Node:
        node = MESH_NODE.factory(boot)
        return MutantNode(node, mutate) if boot.number >= from_boot else node

    return Blueprint(factory=factory, row_kinds=MESH_NODE.row_kinds)


def executes_twice(effect: Effect) -> Sequence[Effect]:
    """Begin every run a second time."""
    return [effect, effect] if isinstance(effect, do.Execute) else [effect]


def never_writes(kind: str) -> Mutation:
    """Forget to write one kind of row, and go on as if it were written."""

    def mutate(effect: Effect) -> Sequence[Effect]:
        if isinstance(effect, do.Persist) and any(row.kind == kind for row in effect.rows):
            kept = tuple(row for row in effect.rows if row.kind != kind)
            return [do.Persist(kept, effect.then)]
        return [effect]

    return mutate


def keeps_its_store_id() -> Blueprint:
    """Return nodes that take a disk that was lost for the one it replaces."""
    stores: dict[int, StoreId] = {}

    class Rolled(MutantNode):
        def __init__(self, boot: Boot) -> None:
            super().__init__(MESH_NODE.factory(boot), unchanged)
            self._index = boot.device.index

        def handle(self, event: Event, now_us: int) -> Sequence[Effect]:
            if isinstance(event, Restarted):
                store = stores.setdefault(self._index, event.store)
                event = Restarted(store=store, rows=event.rows)
            return super().handle(event, now_us)

    return Blueprint(factory=Rolled, row_kinds=MESH_NODE.row_kinds)


def forgets(kind: str) -> Blueprint:
    """Return nodes that restart without the rows of one kind that their disks kept."""

    class Forgetful(MutantNode):
        def handle(self, event: Event, now_us: int) -> Sequence[Effect]:
            if isinstance(event, Restarted):
                rows = tuple(row for row in event.rows if row.kind != kind)
                event = Restarted(store=event.store, rows=rows)
            return super().handle(event, now_us)

    def factory(boot: Boot) -> Node:
        return Forgetful(MESH_NODE.factory(boot), unchanged)

    return Blueprint(factory=factory, row_kinds=MESH_NODE.row_kinds)


def unchanged(effect: Effect) -> Sequence[Effect]:
    """Leave an effect as it is."""
    return [effect]
