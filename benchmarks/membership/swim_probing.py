"""How a SWIM node probes others, one at a time, and helps others to probe.

SWIM, Das et al. 2002, section 3.1; Lifeguard's self-awareness (nacks) and buddy system (a suspect
hears of it with the next ping); `probeNode` and `handleIndirectPing` of memberlist at 1b4c746.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.membership.swim_effects import (
    Effect,
    OpenStream,
    ProbeEnd,
    ProbeTimeout,
    RelayEnd,
    SendPacket,
    SetTimer,
)
from benchmarks.membership.swim_members import Member, Members, State
from benchmarks.membership.swim_messages import (
    PACKET_BYTES_MAX,
    SIZES,
    Ack,
    Address,
    IndirectPing,
    Message,
    Nack,
    Node,
    Ping,
    StreamPing,
    Suspect,
)


@dataclass(slots=True)
class Probe:
    """A probe that is under way."""

    sequence: int
    node: Node
    address: Address
    incarnation: int
    nacks_expected: int = 0
    nacks_count: int = 0
    is_contacted: bool = False  # over TCP


@dataclass(frozen=True, slots=True)
class Relay:
    """Someone wants to hear whether a node answers this one."""

    sequence: int
    reply_to: Address


@dataclass(slots=True, kw_only=True)
class Probing:
    """The probe of this node, and the probes of others that go through it."""

    members: Members
    _sequence: int = 0
    _probe: Probe | None = None
    _is_tick_missed: bool = False
    _relays: dict[int, Relay] = field(default_factory=dict)

    def packet(self, address: Address, first: Message) -> SendPacket:
        """Return a packet with as many updates along with it as fit: `sendMsg`."""
        members = self.members
        room_bytes = PACKET_BYTES_MAX - SIZES[type(first)] - 2
        extra = members.broadcasts.take(room_bytes, len(members))
        return SendPacket(address, (first, *extra))

    # The probe of this node.

    def on_tick(self, now_us: int) -> list[Effect]:
        """Begin the next probe, after the one that is under way: a ticker keeps one tick."""
        if self._probe is not None:
            self._is_tick_missed = True
            return []
        member = self.members.next_to_probe(now_us)
        return [] if member is None else self._begin(member)

    def _begin(self, member: Member) -> list[Effect]:
        members = self.members
        probe = Probe(self._next(), member.node, member.address, member.incarnation)
        self._probe = probe
        ping = Ping(probe.sequence, member.node, members.address)
        if member.state is State.ALIVE:
            packet = self.packet(member.address, ping)
        else:
            suspect = Suspect(member.node, member.incarnation, members.own)
            packet = SendPacket(member.address, (ping, suspect))
        interval_us = members.awareness.scaled(members.config.probe_interval_us)
        return [
            packet,
            SetTimer(ProbeTimeout(probe.sequence), members.config.probe_timeout_us),
            SetTimer(ProbeEnd(probe.sequence), interval_us),
        ]

    def on_timeout(self, due: ProbeTimeout) -> list[Effect]:
        """Let others ping the silent node, and try it over TCP."""
        probe, members = self._probe, self.members
        if probe is None or probe.sequence != due.sequence:
            return []
        helpers = members.sample(
            members.config.indirect_checks,
            lambda one: one.node != probe.node and one.state is State.ALIVE,
        )
        probe.nacks_expected = len(helpers)
        ask = IndirectPing(probe.sequence, probe.node, probe.address, members.address)
        asked: list[Effect] = [self.packet(helper.address, ask) for helper in helpers]
        return [*asked, OpenStream(probe.address, StreamPing(probe.node), probe.sequence)]

    def on_stream_answer(self, sequence: int) -> None:
        """The silent node answers over TCP."""
        if self._probe is not None and self._probe.sequence == sequence:
            self._probe.is_contacted = True

    def on_end(self, due: ProbeEnd, now_us: int) -> tuple[list[Effect], Suspect | None]:
        """Return what to do next, and whom to suspect: nobody helped this node to an answer."""
        probe, awareness = self._probe, self.members.awareness
        if probe is None or probe.sequence != due.sequence:
            return [], None
        if probe.is_contacted:
            return self._succeed(now_us), None
        missing_count = probe.nacks_expected - probe.nacks_count
        awareness.add(missing_count if probe.nacks_expected else 1)
        suspect = Suspect(probe.node, probe.incarnation, self.members.own)
        return self._end(now_us), suspect

    def _succeed(self, now_us: int) -> list[Effect]:
        self.members.awareness.add(-1)
        return self._end(now_us)

    def _end(self, now_us: int) -> list[Effect]:
        self._probe = None
        if not self._is_tick_missed:
            return []
        self._is_tick_missed = False
        return self.on_tick(now_us)

    def on_ack(self, ack: Ack, now_us: int) -> list[Effect]:
        """A node has answered: to this one, or to one for which it was pinged."""
        relay = self._relays.pop(ack.sequence, None)
        if relay is not None:
            return [self.packet(relay.reply_to, Ack(relay.sequence))]
        if self._probe is not None and self._probe.sequence == ack.sequence:
            return self._succeed(now_us)
        return []

    def on_nack(self, nack: Nack) -> None:
        """One that was asked for help is well, so this node's own network is."""
        if self._probe is not None and self._probe.sequence == nack.sequence:
            self._probe.nacks_count += 1

    # Those of others.

    def on_ping(self, ping: Ping) -> list[Effect]:
        """Answer, unless another node was meant."""
        if ping.target != self.members.own:
            return []
        return [self.packet(ping.reply_to, Ack(ping.sequence))]

    def on_indirect_ping(self, ask: IndirectPing) -> list[Effect]:
        """Ping in the name of another."""
        sequence = self._next()
        self._relays[sequence] = Relay(ask.sequence, ask.reply_to)
        ping = Ping(sequence, ask.target, self.members.address)
        timeout_us = self.members.config.probe_timeout_us
        return [self.packet(ask.address, ping), SetTimer(RelayEnd(sequence), timeout_us)]

    def on_relay_end(self, due: RelayEnd) -> list[Effect]:
        """Say that this node was not answered either."""
        relay = self._relays.pop(due.sequence, None)
        return [] if relay is None else [self.packet(relay.reply_to, Nack(relay.sequence))]

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence
