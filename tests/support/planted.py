"""Nodes with one defect planted in them, for tests of what finds and shrinks failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simulations.device import Boot, Node
from simulations.mesh_node import MESH_NODE
from simulations.world import Blueprint
from wire import effects as do
from wire.effects import Effect
from wire.events import Event
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
