"""The parts of a shell on simulated surroundings: each has the interface of the daemon's part.

What a packet suffers is decided when the node wants it sent, not when trio gets round to the task
that sends it: otherwise two lookups begun at once would swap their delays with the task order.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import trio

from meshd.mailbox import Mailbox
from meshd.store import Row as StoredRow
from simulations.gossipsub import publish
from wire import effects as do
from wire.blobs import BlobRef
from wire.events import Event, ProvidersFound
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


class SwitchedLinks:
    """Links of the simulated network."""

    def __init__(self, host: ShellHost) -> None:
        self._host = host
        self._network = host.around.network

    def enqueue(self, peer: PeerId, message: Message) -> None:
        """Send."""
        self._host.wants(do.Send(peer, message))
        self._network.send(self._host.peer, peer, message)

    def dial(self, peer: PeerId, addresses: Sequence[str]) -> Coroutine[Any, Any, None]:
        """Try to open a link; how it ended comes as an event."""
        self._host.wants(do.Dial(peer, tuple(addresses)))
        self._network.dial(self._host.peer, peer, addresses)
        return _begun()

    def hangup(self, peer: PeerId, reason: str) -> None:
        """Close a link."""
        self._host.wants(do.Hangup(peer, reason))
        self._network.hang_up(self._host.peer, peer, reason)


class DiskStore:
    """The rows of a simulated disk."""

    def __init__(self, host: ShellHost) -> None:
        self._host = host

    async def load(self, kind: str, *, prefix: bytes, limit: int) -> list[StoredRow]:
        """Return rows, as bytes, after the time that this takes."""
        await self._host.wait_us(self._host.settings.load_us)
        rows = self._host.disk.load(kind, prefix, limit)
        return [StoredRow(0, row.key, encode_body(row.value)) for row in rows if row.value]


class DiskWriter:
    """Writes to a simulated disk, whose syncs take their time."""

    def __init__(self, host: ShellHost) -> None:
        self._host = host

    @property
    def waiting_rows_count(self) -> int:
        """How far the disk is behind."""
        return self._host.disk.unsynced_count

    def put(self, persist: do.Persist) -> None:
        """Write; what waits for it comes back through the mailbox."""
        self._host.wants(persist)
        self._host.persist(persist)

    async def wait_idle(self) -> None:
        """Return when nothing waits for a sync."""
        while self._host.disk.unsynced_count:
            await self._host.wait_us(self._host.settings.sync_us)


class KeptBlobs:
    """Who keeps which simulated blob."""

    def __init__(self, host: ShellHost) -> None:
        self._host = host

    def pin(self, ref: BlobRef, owner: bytes) -> None:
        """Keep a blob."""
        self._host.wants(do.Offer(ref, owner))
        self._host.blobs.keep(ref, owner)

    def release(self, owner: bytes) -> None:
        """Let go of an owner's blobs."""
        self._host.wants(do.Release(owner))
        self._host.blobs.release(owner)


class FetchedContents:
    """Content from other simulated devices."""

    def __init__(self, host: ShellHost) -> None:
        self._host = host

    def fetch(self, fetch: do.Fetch) -> Coroutine[Any, Any, None]:
        """Begin; how it ended comes as an event."""
        self._host.wants(fetch)
        self._host.start_fetch(fetch)
        return _begun()


class SimulatedRuns:
    """Programs of the simulated sandbox."""

    def __init__(self, host: ShellHost) -> None:
        self._host = host

    def begin(self, execute: do.Execute, nursery: trio.Nursery) -> None:
        """Start a program; how it ended comes as an event."""
        del nursery
        self._host.wants(execute)
        self._host.start_run(execute)

    def kill(self, run: do.RunId) -> None:
        """Stop a program."""
        self._host.wants(do.Kill(run))
        self._host.kill_run(run)


class DhtFinding:
    """The simulated Kademlia."""

    def __init__(self, host: ShellHost, mailbox: Mailbox) -> None:
        self._host = host
        self._dht = host.around.dht
        self._mailbox = mailbox

    def provide(self, key: str) -> None:
        """Announce a key."""
        self._host.wants(do.Provide(key))
        self._dht.provide(self._host.peer, key)

    def withdraw(self, key: str) -> None:
        """Stop announcing a key."""
        self._host.wants(do.Withdraw(key))
        self._dht.withdraw(self._host.peer, key)

    def find(self, find: do.FindProviders) -> Coroutine[Any, Any, None]:
        """Look a key up."""
        self._host.wants(find)
        return self._find(find, self._dht.lookup_us(self._host.peer, find.key))

    async def _find(self, find: do.FindProviders, lookup_us: int) -> None:
        await self._host.wait_us(lookup_us)
        providers = self._dht.providers(self._host.peer, find.key)
        await self._mailbox.post(ProvidersFound(find.token, providers))


class CollectedAnswers:
    """Answers go to the observers, the world among them, which gives them to whoever asked."""

    def __init__(self, host: ShellHost) -> None:
        self._host = host

    def answer(self, answer: do.Answer) -> None:
        """Show an answer."""
        self._host.wants(answer)

    def answer_join(self, answer: do.AnswerJoin) -> None:
        """Show a joiner's answer."""
        self._host.wants(answer)


class Publication:
    """The simulated GossipSub."""

    def __init__(self, host: ShellHost) -> None:
        self._host = host

    async def __call__(self, topic: str, records: RecordsGiven) -> None:
        """Publish to whoever can be reached."""
        self._host.wants(do.Publish(topic, records))
        publish(self._host.around.engine, self._host.around.network, self._host.peer, records)


async def _begun() -> None:
    """Be the task of something that has begun already and ends as an event."""
    await trio.lowlevel.checkpoint()
