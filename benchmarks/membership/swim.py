"""Plain SWIM with Lifeguard, as HashiCorp's memberlist with its defaults for LANs: a core.

Das et al. 2002, *SWIM*; Dadgar et al. 2018, *Lifeguard*; memberlist at 1b4c746 and, for what brings
failed nodes back, Serf at a24f620 (`reconnect`, `handleRejoin`). Times are microseconds. Left out:
leaving, encryption, compression, and what Serf sends on top.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from benchmarks.membership.swim_broadcasts import Broadcasts
from benchmarks.membership.swim_effects import (
    Effect,
    GossipDue,
    JoinDue,
    OpenStream,
    ProbeEnd,
    ProbeTick,
    ProbeTimeout,
    PushPullDue,
    ReconnectDue,
    RelayEnd,
    SendPacket,
    SetTimer,
    StreamTimeout,
    TimerKey,
)
from benchmarks.membership.swim_members import (
    Awareness,
    Believed,
    Member,
    Members,
    State,
    SuspicionDue,
    SuspicionTimer,
    SwimConfig,
)
from benchmarks.membership.swim_messages import (
    COMPOUND_HEADER_BYTES,
    PACKET_BYTES_MAX,
    Ack,
    Address,
    Alive,
    Dead,
    IndirectPing,
    Message,
    Nack,
    Node,
    Ping,
    PushPull,
    StreamMessage,
    StreamPing,
    Suspect,
)
from benchmarks.membership.swim_probing import Probing

_PUSH_PULL_SCALE_THRESHOLD = 32


class Swim:
    """One node. It hears what came and what is due, and returns what it wants done."""

    def __init__(self, own: Node, address: Address, *, config: SwimConfig, rng: Random) -> None:
        self.own = own
        self._config = config
        self._rng = rng
        self.awareness = Awareness(config.awareness_max)
        self.members = Members(
            own=own,
            address=address,
            config=config,
            rng=rng,
            awareness=self.awareness,
            broadcasts=Broadcasts(config.retransmit_multiplier),
        )
        self._probing = Probing(members=self.members)
        self._gossip_phase_us = rng.randrange(config.gossip_interval_us)
        self._is_gossip_set = False
        self._streams_count = 0
        self._joining: list[Address] = []  # not tried yet
        self._known: tuple[Address, ...] = ()
        self._join_token: int | None = None  # of the try that is under way

    def start(self, known: Sequence[Address], now_us: int) -> list[Effect]:
        """Begin; join the first of the `known` addresses that answers, in this order."""
        config, rng = self._config, self._rng
        self.members.start(now_us)
        self._known = tuple(known)
        wanted: list[Effect] = [
            SetTimer(ProbeTick(), rng.randrange(config.probe_interval_us)),
            SetTimer(PushPullDue(), rng.randrange(config.push_pull_interval_us)),
            SetTimer(ReconnectDue(), config.reconnect_interval_us),
        ]
        return self._gossiping(wanted + self._join_again(), now_us)

    def on_packet(self, parts: Sequence[Message], now_us: int) -> list[Effect]:
        """Take in a datagram."""
        wanted: list[Effect] = []
        for part in parts:
            wanted += self._on_message(part, now_us)
        return self._gossiping(wanted, now_us)

    def _on_message(self, message: Message, now_us: int) -> list[Effect]:
        match message:
            case Alive() | Suspect() | Dead():  # nearly all are: the cheapest pattern first
                believed = self.members.apply(message, now_us)
                return _as_effects(believed) if believed else []
            case Ping():
                return self._probing.on_ping(message)
            case Ack():
                return self._probing.on_ack(message, now_us)
            case IndirectPing():
                return self._probing.on_indirect_ping(message)
            case Nack():
                self._probing.on_nack(message)
                return []

    def on_stream(
        self, message: StreamMessage, now_us: int
    ) -> tuple[StreamMessage | None, list[Effect]]:
        """Return the answer to a message on a stream, and what else to do."""
        match message:
            case StreamPing(target):
                return (message if target == self.own else None), []
            case PushPull(states):
                answer = PushPull(self.members.states())
                wanted = _as_effects(self.members.merge(states, now_us))
                return answer, self._gossiping(wanted, now_us)

    def on_stream_answer(self, token: int, answer: StreamMessage, now_us: int) -> list[Effect]:
        """The other end of a stream has answered."""
        if isinstance(answer, StreamPing):
            self._probing.on_stream_answer(token)
            return []
        if token == self._join_token:
            self._join_token = None
            self._joining.clear()
        wanted = _as_effects(self.members.merge(answer.states, now_us))
        return self._gossiping(wanted, now_us)

    def on_stream_failed(self, token: int, now_us: int) -> list[Effect]:
        """Nobody listens there, or no answer came in time."""
        if token != self._join_token:
            return []
        self._join_token = None
        return self._join_next()

    def on_timer(self, key: TimerKey, now_us: int) -> list[Effect]:
        """Something is due."""
        return self._gossiping(self._on_due(key, now_us), now_us)

    def _on_due(self, key: TimerKey, now_us: int) -> list[Effect]:
        match key:
            case GossipDue():
                return self._gossip(now_us)
            case ProbeTick():
                again = SetTimer(key, self._config.probe_interval_us)
                return [again, *self._probing.on_tick(now_us)]
            case ProbeTimeout():
                return self._probing.on_timeout(key)
            case ProbeEnd():
                wanted, suspect = self._probing.on_end(key, now_us)
                if suspect is not None:
                    wanted += _as_effects(self.members.apply(suspect, now_us))
                return wanted
            case RelayEnd():
                return self._probing.on_relay_end(key)
            case SuspicionDue():
                return _as_effects(self.members.on_suspicion_due(key, now_us))
            case PushPullDue():
                return self._push_pull(key)
            case ReconnectDue():
                return self._reconnect(key)
            case JoinDue():
                return self._join_again()
            case StreamTimeout(token):
                return self.on_stream_failed(token, now_us)

    # Gossip.

    def _gossiping(self, wanted: list[Effect], now_us: int) -> list[Effect]:
        """See to it that what waits goes out at the next tick: a tick with nothing is no event."""
        if self._is_gossip_set or not self.members.broadcasts:
            return wanted
        self._is_gossip_set = True
        interval_us = self._config.gossip_interval_us
        wait_us = interval_us - (now_us - self._gossip_phase_us) % interval_us
        return [*wanted, SetTimer(GossipDue(), wait_us)]

    def _gossip(self, now_us: int) -> list[Effect]:
        self._is_gossip_set = False
        dead_us = now_us - self._config.gossip_to_the_dead_us

        def may_hear(member: Member) -> bool:
            return member.state is not State.DEAD or member.changed_us >= dead_us

        wanted: list[Effect] = []
        for member in self.members.sample(self._config.gossip_nodes, may_hear):
            updates = self.members.broadcasts.take(
                PACKET_BYTES_MAX - COMPOUND_HEADER_BYTES, len(self.members)
            )
            if not updates:
                break
            wanted.append(SendPacket(member.address, tuple(updates)))
        return wanted

    # Exchanges of all state.

    def _push_pull(self, key: PushPullDue) -> list[Effect]:
        again = SetTimer(key, self._push_pull_interval_us())
        others = self.members.sample(1, lambda one: one.state is State.ALIVE)
        return [again, *(self._exchange(other.address) for other in others)]

    def _push_pull_interval_us(self) -> int:
        """Return the time to the next: the more nodes, the longer (`pushPullScale`)."""
        interval_us, count = self._config.push_pull_interval_us, len(self.members)
        if count <= _PUSH_PULL_SCALE_THRESHOLD:
            return interval_us
        scale = math.ceil(math.log2(count) - math.log2(_PUSH_PULL_SCALE_THRESHOLD)) + 1
        return scale * interval_us

    def _exchange(self, address: Address) -> OpenStream:
        self._streams_count += 1
        return OpenStream(address, PushPull(self.members.states()), -self._streams_count)

    def _reconnect(self, key: ReconnectDue) -> list[Effect]:
        """Try one of the failed, so that each is tried about once an interval: `reconnect`."""
        again = SetTimer(key, self._config.reconnect_interval_us)
        failed = self.members.failed
        if not failed:
            return [again]
        alive_count = sum(1 for state in self.members.states() if state.node not in failed)
        if self._rng.random() > len(failed) / max(1, alive_count):
            return [again]
        node = self._rng.choice(list(failed))
        return [again, self._exchange(failed[node])]

    # Joining.

    def _join_again(self) -> list[Effect]:
        self._joining = list(reversed(self._known))
        return self._join_next()

    def _join_next(self) -> list[Effect]:
        """Try the next address; when none is left, all again in a while."""
        if not self._joining:
            return [SetTimer(JoinDue(), self._config.join_retry_us)] if self._known else []
        stream = self._exchange(self._joining.pop())
        self._join_token = stream.token
        timeout_us = self._config.stream_timeout_us
        return [stream, SetTimer(StreamTimeout(stream.token), timeout_us)]


def _as_effects(believed: list[Believed]) -> list[Effect]:
    return [
        SetTimer(one.due, one.after_us) if isinstance(one, SuspicionTimer) else one
        for one in believed
    ]
