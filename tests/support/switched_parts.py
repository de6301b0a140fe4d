"""The parts of a shell on simulated surroundings: each has the interface of the daemon's part.

Nearly all that the shell asks of a part is one effect of its node again, and goes to the simulated
hands as that. What a packet suffers is decided when the node wants it sent, not when trio gets
round to the task that sends it: otherwise two lookups begun at once would swap their delays with
the task order.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import trio

from meshd.mailbox import Item, Mailbox
from meshd.store import Row as StoredRow
from wire import effects as do
from wire.blobs import BlobRef
from wire.events import Event
from wire.ids import PeerId
from wire.messages import Message, RecordsGiven
from wire.signed import encode_body

if TYPE_CHECKING:
    from support.shell_host import ShellHost

INCOMING_MAX = 100_000


class Incoming:
    """What comes from outside, on its way to the mailbox: one task waits there for room."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Event](INCOMING_MAX)

    def put(self, event: Event) -> None:
        """Leave an event; the simulation bounds how many there are."""
        self._send.send_nowait(event)

    async def pass_on(self, mailbox: Mailbox) -> None:
        """Post what comes, until cancelled."""
        with self._send, self._receive:
            async for event in self._receive:
                await mailbox.post(event)


class StallingMailbox:
    """A mailbox as the shell has it, from which nothing can be taken while the process stalls.

    A shell does everything else without waiting, so this is where a stalled one stands.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._taking = trio.CancelScope()
        self._may_take = trio.Event()
        self._may_take.set()
        self.post = mailbox.post
        self.set_timer = mailbox.set_timer
        self.after_event = mailbox.after_event

    def stall(self) -> None:
        """Let nothing be taken, by whoever waits for it already neither."""
        self._may_take = trio.Event()
        self._taking.cancel()

    def go_on(self) -> None:
        """Let everything be taken again."""
        self._may_take.set()

    async def take(self) -> Item:
        """Return the next item when the process does not stall."""
        while True:
            await self._may_take.wait()
            with trio.CancelScope() as self._taking:
                return await self._mailbox.take()


class SimulatedParts:
    """All parts of one shell but the mailbox and the store: what it asks of them are effects."""

    def __init__(self, host: ShellHost) -> None:
        self._host = host

    # Links.

    def enqueue(self, peer: PeerId, message: Message) -> None:
        """Send."""
        self._host.carry_out(do.Send(peer, message))

    def dial(
        self, peer: PeerId, addresses: Sequence[str], via: Sequence[PeerId] = ()
    ) -> Coroutine[Any, Any, None]:
        """Try to open a link; how it ended comes as an event."""
        return self._begin(do.Dial(peer, tuple(addresses), tuple(via)))

    def hangup(self, peer: PeerId, reason: str) -> None:
        """Close a link."""
        self._host.carry_out(do.Hangup(peer, reason))

    # The disk.

    @property
    def waiting_rows_count(self) -> int:
        """How far the disk is behind."""
        return self._host.disk.unsynced_count

    def put(self, persist: do.Persist) -> None:
        """Write; what waits for it comes back through the mailbox."""
        self._host.carry_out(persist)

    async def wait_idle(self) -> None:
        """Return when nothing waits for a sync."""
        while self._host.disk.unsynced_count:
            await self._host.wait_us(self._host.settings.sync_us)

    # Blobs, contents and programs.

    def pin(self, ref: BlobRef, owner: bytes) -> None:
        """Keep a blob."""
        self._host.carry_out(do.Offer(ref, owner))

    def release(self, owner: bytes) -> None:
        """Let go of an owner's blobs."""
        self._host.carry_out(do.Release(owner))

    def fetch(self, fetch: do.Fetch) -> Coroutine[Any, Any, None]:
        """Begin; how it ended comes as an event."""
        return self._begin(fetch)

    def begin(self, execute: do.Execute, nursery: trio.Nursery) -> None:
        """Start a program; how it ended comes as an event."""
        del nursery
        self._host.carry_out(execute)

    def kill(self, run: do.RunId) -> None:
        """Stop a program."""
        self._host.carry_out(do.Kill(run))

    # Kademlia and GossipSub.

    def provide(self, key: str) -> None:
        """Announce a key."""
        self._host.carry_out(do.Provide(key))

    def withdraw(self, key: str) -> None:
        """Stop announcing a key."""
        self._host.carry_out(do.Withdraw(key))

    def find(self, find: do.FindProviders) -> Coroutine[Any, Any, None]:
        """Look a key up; what was found comes as an event."""
        return self._begin(find)

    async def publish(self, topic: str, records: RecordsGiven) -> None:
        """Publish to whoever can be reached."""
        self._host.carry_out(do.Publish(topic, records))

    def use_network_keys(self, keys: tuple[bytes, ...]) -> None:
        """Accept other network keys."""
        self._host.carry_out(do.UseNetworkKeys(keys))

    # Whoever asked.

    def answer(self, answer: do.Answer) -> None:
        """Show an answer to the observers; the world among them gives it to whoever asked."""
        self._host.carry_out(answer)

    def answer_join(self, answer: do.AnswerJoin) -> None:
        """Show a joiner's answer."""
        self._host.carry_out(answer)

    def _begin(self, effect: do.Effect) -> Coroutine[Any, Any, None]:
        """Begin something now; return what its task does, which is nothing more."""
        self._host.carry_out(effect)
        return _begun()


class DiskStore:
    """The rows of a simulated disk."""

    def __init__(self, host: ShellHost) -> None:
        self._host = host

    async def load(self, kind: str, *, prefix: bytes, limit: int) -> list[StoredRow]:
        """Return rows, as bytes, after the time that this takes."""
        await self._host.wait_us(self._host.settings.load_us)
        rows = self._host.disk.load(kind, prefix, limit)
        return [StoredRow(0, row.key, encode_body(row.value)) for row in rows if row.value]


async def _begun() -> None:
    """Be the task of something that has begun already and ends as an event."""
    await trio.lowlevel.checkpoint()
