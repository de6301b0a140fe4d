"""What work costs a daemon in CPU time, and the one core that it has for it.

A node decides at once and is busy afterwards: whatever comes meanwhile waits. So a device that gets
more than it can do answers late, as a real one does. The figures are of two shared x86-64 cores
with Python 3.11; a slower device has a `speed_permille` below 1,000.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, TypeAlias, TypeVar, cast

from msgspec import Meta, Struct

from simulations.engine import Engine
from simulations.evidence import signed_parts
from wire import effects as do
from wire import events as on
from wire.effects import Effect
from wire.events import Event
from wire.ids import PeerId
from wire.signed import Signed, Signer

_MIB = 1 << 20


CostUs: TypeAlias = Annotated[int, Meta(ge=0, le=60_000_000)]


class CpuCosts(Struct, frozen=True, kw_only=True):
    """Microseconds of CPU on a device of speed 1,000, and where each figure comes from."""

    # MeshNode.handle, mean over the events of 30 linked devices, 13 to 120 by kind of event.
    handle_us: CostUs = 20
    # py-libp2p 0.8.1, one stream with Noise and Yamux, two processes: 1.1 to 1.4 ms for a write and
    # the read of its answer at any size up to 32 KiB. Split by the work: to encrypt, frame and
    # flush costs more than to take in.
    write_us: CostUs = 900
    read_us: CostUs = 300
    # Frames of the same moment share a write: 16 a write were 17,000 messages/s, one a write 1,000.
    # The links flush what is 2 to 5 ms old.
    flush_us: CostUs = 4_000
    # wire.codec.FrameCodec, one small message encoded and decoded.
    frame_us: CostUs = 4
    # A new stream costs 6 to 13 ms; a dial negotiates Noise, Yamux and the link's own protocol, and
    # checks two chains of certificates. Each end pays.
    dial_us: CostUs = 12_000
    # GossipSub, two processes, 40 to 200 messages/s: 1.2 to 2.5 ms for each delivery.
    gossip_us: CostUs = 1_500
    # Ed25519 by libsodium, 256 bytes: 22,000 to 27,000 signatures/s, 13,300 verifications/s.
    sign_us: CostUs = 40
    verify_us: CostUs = 75
    # Sealed boxes by libsodium, 32 bytes: 169 us to seal, 58 us to open.
    seal_us: CostUs = 170
    unseal_us: CostUs = 60
    # SQLite, WAL and synchronous FULL: 41,000 to 60,000 rows/s in large commits, 5,700 commits/s of
    # one row, most of which is the wait for the disk.
    sync_us: CostUs = 50
    row_us: CostUs = 20
    # Bulk over TCP, Noise and Yamux: 28 to 37 MB/s with a core at each end.
    mebibyte_us: CostUs = 30_000


class Cpu:
    """The core of one device's daemon: until when it is busy."""

    def __init__(self, costs: CpuCosts, engine: Engine, *, speed_permille: int) -> None:
        self.busy_until_us = 0
        self.spent_us = 0
        self._costs = costs
        self._engine = engine
        self._speed_permille = speed_permille
        self._written_until_us: dict[PeerId, int] = {}
        self._read_until_us: dict[PeerId, int] = {}

    def start(self) -> None:
        """Be idle: another process begins."""
        self.busy_until_us = 0
        self._written_until_us.clear()
        self._read_until_us.clear()

    def charge(self, cost_us: int) -> None:
        """Be busy for as long as the work costs, which begins now."""
        cost_us = cost_us * 1_000 // self._speed_permille
        self.spent_us += cost_us
        self.busy_until_us = self._engine.now_us + cost_us

    def handling_us(self, event: Event) -> int:
        """Return what it costs to take `event` in and to decide."""
        of_event = _OF_EVENT.get(type(event))
        return self._costs.handle_us + (0 if of_event is None else of_event(self, event))

    def effects_us(self, wanted: Sequence[Effect]) -> int:
        """Return what it costs to carry out effects."""
        total_us = 0
        for effect in wanted:
            of_effect = _OF_EFFECT.get(type(effect))
            if of_effect is not None:
                total_us += of_effect(self, effect)
        return total_us

    def keys_us(self, counts: KeyUse) -> int:
        """Return what the use of the device's key has cost, and forget it."""
        costs = self._costs
        total_us = counts.signed_count * costs.sign_us
        total_us += counts.sealed_count * costs.seal_us + counts.unsealed_count * costs.unseal_us
        counts.signed_count = counts.sealed_count = counts.unsealed_count = 0
        return total_us

    # Events.

    def of_received(self, event: on.Received) -> int:
        """A frame is read, decoded, and everything signed in it verified."""
        costs, now_us, peer = self._costs, self._engine.now_us, event.peer
        is_read_along = now_us < self._read_until_us.get(peer, 0)
        if not is_read_along:
            self._read_until_us[peer] = now_us + costs.flush_us
        return costs.frame_us + (0 if is_read_along else costs.read_us) + self._verify(event)

    def of_published(self, event: on.PublishedReceived) -> int:
        """Records come by GossipSub."""
        return self._costs.gossip_us + self._verify(event)

    def of_link(self, event: on.LinkUp) -> int:
        """A handshake is made, and the other's papers are checked."""
        return self._costs.dial_us + self._verify(event)

    def of_restart(self, event: on.Restarted) -> int:
        """Every row of the store is read, and what is signed in it verified."""
        return len(event.rows) * self._costs.row_us + self._verify(event)

    def of_transfer(self, event: on.TransferMeasured) -> int:
        """A blob was sent or received."""
        size_bytes = event.sent_bytes + event.received_bytes
        return self._costs.mebibyte_us * size_bytes // _MIB

    def _verify(self, event: Event) -> int:
        signed_count = sum(isinstance(part, Signed) for part in signed_parts(event))
        return signed_count * self._costs.verify_us

    # Effects.

    def of_send(self, effect: do.Send) -> int:
        """A frame joins a write that is not flushed yet, or makes one."""
        costs, now_us, peer = self._costs, self._engine.now_us, effect.peer
        if now_us < self._written_until_us.get(peer, 0):
            return costs.frame_us
        self._written_until_us[peer] = now_us + costs.flush_us
        return costs.frame_us + costs.write_us

    def of_publish(self, effect: do.Publish) -> int:
        """Records go out by GossipSub."""
        return self._costs.gossip_us

    def of_persist(self, effect: do.Persist) -> int:
        """Rows are encoded and handed to SQLite."""
        return self._costs.sync_us + len(effect.rows) * self._costs.row_us

    def of_execute(self, effect: do.Execute) -> int:
        """The batch key is opened; the program itself runs in a process of its own."""
        return self._costs.unseal_us


class KeyUse:
    """A device's key as its node holds it; counts how often it is used."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self.signed_count = 0
        self.sealed_count = 0
        self.unsealed_count = 0

    @property
    def peer(self) -> PeerId:
        """The device's id."""
        return self._signer.peer

    def sign(self, message: bytes) -> bytes:
        """Return the signature of `message`."""
        self.signed_count += 1
        return self._signer.sign(message)

    def seal(self, secret: bytes, recipient: PeerId) -> bytes:
        """Return `secret` in a box for `recipient`."""
        self.sealed_count += 1
        return self._signer.seal(secret, recipient)

    def unseal(self, box: bytes) -> bytes:
        """Return the secret in a `box`. Raises CannotUnseal."""
        self.unsealed_count += 1
        return self._signer.unseal(box)


_SomeEvent = TypeVar("_SomeEvent", bound=Struct)
_SomeEffect = TypeVar("_SomeEffect", bound=Struct)


def _event(
    kind: type[_SomeEvent], cost: Callable[[Cpu, _SomeEvent], int]
) -> tuple[type[Struct], Callable[[Cpu, Event], int]]:
    return kind, cast(Callable[[Cpu, Event], int], cost)


def _effect(
    kind: type[_SomeEffect], cost: Callable[[Cpu, _SomeEffect], int]
) -> tuple[type[Struct], Callable[[Cpu, Effect], int]]:
    return kind, cast(Callable[[Cpu, Effect], int], cost)


_OF_EVENT = dict(
    [
        _event(on.Received, Cpu.of_received),
        _event(on.PublishedReceived, Cpu.of_published),
        _event(on.LinkUp, Cpu.of_link),
        _event(on.Restarted, Cpu.of_restart),
        _event(on.TransferMeasured, Cpu.of_transfer),
    ]
)
_OF_EFFECT = dict(
    [
        _effect(do.Send, Cpu.of_send),
        _effect(do.Publish, Cpu.of_publish),
        _effect(do.Persist, Cpu.of_persist),
        _effect(do.Execute, Cpu.of_execute),
    ]
)
