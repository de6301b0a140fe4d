"""What a SWIM node believes of the others, and what changes that.

SWIM, Das et al. 2002, sections 4.2 and 4.3 (incarnations, suspicion); Lifeguard, Dadgar et al.
2018 (local health); `state.go` and `awareness.go` of memberlist at 1b4c746, whose function is named
where one is followed. The failed that memberlist forgets are kept as Serf keeps them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias

from msgspec import Struct

from benchmarks.membership.swim_broadcasts import Broadcasts
from benchmarks.membership.swim_messages import Address, Alive, Dead, Node, Suspect, Update
from benchmarks.membership.swim_suspicion import Suspicion, suspicion_us

_US_PER_S = 1_000_000
_US_PER_MS = 1_000


class SwimConfig(Struct, frozen=True, kw_only=True):
    """`DefaultLANConfig` of memberlist, and what Serf adds (`DefaultConfig`)."""

    probe_interval_us: int = _US_PER_S
    probe_timeout_us: int = 500 * _US_PER_MS
    indirect_checks: int = 3
    suspicion_multiplier: int = 4
    suspicion_max_multiplier: int = 6
    awareness_max: int = 8
    retransmit_multiplier: int = 4
    gossip_interval_us: int = 200 * _US_PER_MS
    gossip_nodes: int = 3
    gossip_to_the_dead_us: int = 30 * _US_PER_S
    push_pull_interval_us: int = 30 * _US_PER_S
    stream_timeout_us: int = 10 * _US_PER_S
    dead_node_reclaim_us: int = 0  # never: the dead keep their address until they are forgotten
    reconnect_interval_us: int = 30 * _US_PER_S  # Serf's
    join_retry_us: int = 30 * _US_PER_S  # `-retry-join` of Serf, which is not its default


class State(enum.IntEnum):
    """What is believed of a node."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2


class Awareness:
    """How slow this node itself seems to be, from 0 (well) up: Lifeguard's local health."""

    def __init__(self, maximum: int) -> None:
        self.score = 0
        self._maximum = maximum

    def add(self, delta: int) -> None:
        """Change by `delta`, within the bounds."""
        self.score = min(max(0, self.score + delta), self._maximum - 1)

    def scaled(self, interval_us: int) -> int:
        """Return how long something takes for a node in this state."""
        return interval_us * (self.score + 1)


@dataclass(slots=True, kw_only=True)
class Member:
    """What is believed of one node, and since when."""

    node: Node
    address: Address
    incarnation: int
    state: State
    changed_us: int
    suspicion: Suspicion | None = None


@dataclass(frozen=True, slots=True)
class SuspicionDue:
    """Timer: a suspect had its time, unless others confirmed meanwhile or it refuted."""

    node: Node


@dataclass(frozen=True, slots=True)
class Changed:
    """Something else is believed of a node from now on; None: it was not known before."""

    node: Node
    before: State | None
    after: State


@dataclass(frozen=True, slots=True)
class SuspicionTimer:
    """Look at a suspect again in `after_us`; replaces an earlier one for the same node."""

    due: SuspicionDue
    after_us: int


Believed: TypeAlias = Changed | SuspicionTimer


@dataclass(slots=True, kw_only=True)
class Members:
    """All nodes that this one knows, itself included."""

    own: Node
    address: Address
    config: SwimConfig
    rng: Random
    awareness: Awareness
    broadcasts: Broadcasts
    failed: dict[Node, Address] = field(default_factory=dict)
    _known: dict[Node, Member] = field(default_factory=dict)
    _order: list[Member] = field(default_factory=list)
    _probe_index: int = 0

    def __len__(self) -> int:
        """How many are not forgotten: `estNumNodes`."""
        return len(self._order)

    def start(self, now_us: int) -> None:
        """Be alive: `setAlive`."""
        self._welcome(Alive(self.own, 1, self.address), now_us)
        self.broadcasts.queue(Alive(self.own, 1, self.address))
        self._known[self.own].state = State.ALIVE

    def get(self, node: Node) -> Member | None:
        """Return what is believed of a node, None of one that is not known or forgotten."""
        return self._known.get(node)

    def sample(self, count: int, is_wanted: Callable[[Member], bool]) -> list[Member]:
        """Return at most `count` others at random: `kRandomNodes`."""
        order = self._order
        if len(order) < 3 * count:
            wanted = [one for one in order if one.node != self.own and is_wanted(one)]
            return self.rng.sample(wanted, min(count, len(wanted)))
        found: list[Member] = []
        for _ in range(3 * len(order)):
            member = order[self.rng.randrange(len(order))]
            if member.node != self.own and member not in found and is_wanted(member):
                found.append(member)
                if len(found) == count:
                    break
        return found

    def next_to_probe(self, now_us: int) -> Member | None:
        """Return whose turn it is, each once a round in an order of its own: `probe`."""
        for _ in range(len(self._order) + 1):
            if self._probe_index >= len(self._order):
                self._begin_round(now_us)
            member = self._order[self._probe_index]
            self._probe_index += 1
            if member.node != self.own and member.state is not State.DEAD:
                return member
        return None

    def _begin_round(self, now_us: int) -> None:
        """Forget those that died some time ago, and shuffle: `resetNodes`."""
        oldest_us = now_us - self.config.gossip_to_the_dead_us
        for member in self._order:
            if member.state is State.DEAD and member.changed_us < oldest_us:
                del self._known[member.node]
        self._order = [member for member in self._order if member.node in self._known]
        self.rng.shuffle(self._order)
        self._probe_index = 0

    def states(self) -> tuple[Update, ...]:
        """Return all that is believed, for a push-pull."""
        return tuple(self._told(member) for member in self._order)

    def _told(self, member: Member) -> Update:
        if member.state is State.ALIVE:
            return Alive(member.node, member.incarnation, member.address)
        return Suspect(member.node, member.incarnation, self.own)

    def merge(self, states: tuple[Update, ...], now_us: int) -> list[Believed]:
        """Take in all that another believes; its dead are suspects here first: `mergeState`."""
        believed: list[Believed] = []
        for update in states:
            is_alive = isinstance(update, Alive)
            suspect = Suspect(update.node, update.incarnation, self.own)
            believed += self.apply(update if is_alive else suspect, now_us)
        return believed

    def apply(self, update: Update, now_us: int) -> list[Believed]:
        """Take in one update, and pass it on if it is news."""
        if isinstance(update, Alive):
            return self._on_alive(update, now_us)
        member = self._known.get(update.node)
        if member is None or update.incarnation < member.incarnation:
            return []
        if isinstance(update, Suspect):
            return self._on_suspect(member, update, now_us)
        return self._on_dead(member, update, now_us)

    def _on_alive(self, alive: Alive, now_us: int) -> list[Believed]:
        """`aliveNode`."""
        member = self._known.get(alive.node)
        if member is None:
            member = self._welcome(alive, now_us)
            before = None if alive.node not in self.failed else State.DEAD
        elif alive.node == self.own:
            if alive.incarnation > member.incarnation or (
                alive.incarnation == member.incarnation and alive.address != self.address
            ):
                self._refute(member, alive.incarnation)
            return []
        else:
            if alive.address == member.address:
                if alive.incarnation <= member.incarnation:
                    return []
            elif not self._may_move(member, now_us):
                return []
            before = member.state
        self.broadcasts.queue(alive)
        self.failed.pop(alive.node, None)
        member.suspicion = None
        member.incarnation = alive.incarnation
        member.address = alive.address
        if before is State.ALIVE:
            return []
        member.state = State.ALIVE
        member.changed_us = now_us
        return [Changed(alive.node, before, State.ALIVE)]

    def _welcome(self, alive: Alive, now_us: int) -> Member:
        """Put a new node at a random place of the round."""
        member = Member(
            node=alive.node,
            address=alive.address,
            incarnation=alive.incarnation,
            state=State.DEAD,
            changed_us=now_us,
        )
        self._known[alive.node] = member
        offset = self.rng.randrange(len(self._order)) if self._order else 0
        self._order.append(member)
        self._order[offset], self._order[-1] = self._order[-1], self._order[offset]
        return member

    def _may_move(self, member: Member, now_us: int) -> bool:
        """Say whether a known node may be elsewhere: the name of the living is taken."""
        reclaim_us = self.config.dead_node_reclaim_us
        is_reclaimed = 0 < reclaim_us < now_us - member.changed_us
        return member.state is State.DEAD and is_reclaimed

    def _on_suspect(self, member: Member, suspect: Suspect, now_us: int) -> list[Believed]:
        """`suspectNode`."""
        suspicion = member.suspicion
        if suspicion is not None:
            if not suspicion.confirm(suspect.origin):
                return []
            self.broadcasts.queue(suspect)
            return [self._timer(member.node, suspicion, now_us)]
        if member.state is not State.ALIVE:
            return []
        if member.node == self.own:
            self._refute(member, suspect.incarnation)
            return []
        self.broadcasts.queue(suspect)
        member.incarnation = suspect.incarnation
        member.state = State.SUSPECT
        member.changed_us = now_us
        member.suspicion = suspicion = self._new_suspicion(suspect.origin, now_us)
        changed = Changed(member.node, State.ALIVE, State.SUSPECT)
        return [changed, self._timer(member.node, suspicion, now_us)]

    def _new_suspicion(self, origin: Node, now_us: int) -> Suspicion:
        config, confirmations_max = self.config, self.config.suspicion_multiplier - 2
        if len(self) - 2 < confirmations_max:
            confirmations_max = 0
        min_us = suspicion_us(config.suspicion_multiplier, len(self), config.probe_interval_us)
        return Suspicion(
            since_us=now_us,
            confirmations_max=confirmations_max,
            min_us=min_us,
            max_us=min_us * config.suspicion_max_multiplier,
            origins={origin},
        )

    def _timer(self, node: Node, suspicion: Suspicion, now_us: int) -> SuspicionTimer:
        return SuspicionTimer(SuspicionDue(node), max(0, suspicion.due_us() - now_us))

    def on_suspicion_due(self, due: SuspicionDue, now_us: int) -> list[Believed]:
        """Declare a suspect dead, unless it is none any more or has more time."""
        member = self._known.get(due.node)
        if member is None or member.suspicion is None:
            return []
        if now_us < member.suspicion.due_us():
            return [self._timer(due.node, member.suspicion, now_us)]
        return self.apply(Dead(due.node, member.incarnation, self.own), now_us)

    def _on_dead(self, member: Member, dead: Dead, now_us: int) -> list[Believed]:
        """`deadNode`."""
        member.suspicion = None
        if member.state is State.DEAD:
            return []
        if member.node == self.own:
            self._refute(member, dead.incarnation)
            return []
        self.broadcasts.queue(dead)
        before, member.state = member.state, State.DEAD
        member.incarnation = dead.incarnation
        member.changed_us = now_us
        self.failed[member.node] = member.address
        return [Changed(member.node, before, State.DEAD)]

    def _refute(self, member: Member, accused_incarnation: int) -> None:
        """Say that this node lives; that it had to makes it doubt its own health: `refute`."""
        member.incarnation = max(member.incarnation, accused_incarnation) + 1
        self.awareness.add(1)
        self.broadcasts.queue(Alive(self.own, member.incarnation, self.address))
