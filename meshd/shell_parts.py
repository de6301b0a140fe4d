"""What the shell asks of its parts: all that lies between a node's decisions and the outside.

The daemon gives it the real parts. A test may give it others, as the conformance tests do, whose
network, disk and sandbox are simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import trio

from meshd.store import Row as StoredRow
from wire.blobs import BlobRef
from wire.effects import (
    Answer,
    AnswerJoin,
    Effect,
    Execute,
    Fetch,
    FindProviders,
    Persist,
    RunId,
)
from wire.events import Event
from wire.ids import PeerId
from wire.messages import Message


class Decider(Protocol):
    """A node: `meshd.node.MeshNode`."""

    def handle(self, event: Event, now_us: int) -> Sequence[Effect]:
        """Return what is to be done about `event`."""
        ...


class LinkHands(Protocol):
    """Speaks to linked devices: `p2p.links.Links`."""

    def enqueue(self, peer: PeerId, message: Message) -> None:
        """Send, or drop and count: never wait."""
        ...

    async def dial(
        self, peer: PeerId, addresses: Sequence[str], via: Sequence[PeerId] = ()
    ) -> None:
        """Link to a device; the node hears LinkUp or DialFailed."""
        ...

    def hangup(self, peer: PeerId, reason: str) -> None:
        """End a link; the node hears LinkDown."""
        ...


class RowStore(Protocol):
    """Reads rows: `meshd.store.Store`."""

    async def load(self, kind: str, *, prefix: bytes, limit: int) -> list[StoredRow]:
        """Return at most `limit` rows whose key starts with `prefix`. Raises StoreError."""
        ...


class RowWriter(Protocol):
    """Writes rows and has the mailbox told when they are durable: `meshd.writer.Writer`."""

    waiting_rows_count: int

    def put(self, persist: Persist) -> None:
        """Write after all that was put before: never wait."""
        ...

    async def wait_idle(self) -> None:
        """Return when everything that was put is durable."""
        ...


class BlobKeeper(Protocol):
    """Keeps blobs for owners: `meshd.blobstore.BlobStore`."""

    def pin(self, ref: BlobRef, owner: bytes) -> None:
        """Keep a blob for `owner`."""
        ...

    def release(self, owner: bytes) -> None:
        """Let go of what is kept for `owner`."""
        ...


class ContentFetcher(Protocol):
    """Brings content here: `meshd.runs.Contents`."""

    async def fetch(self, fetch: Fetch) -> None:
        """Carry out one fetch; the node hears Fetched or FetchFailed."""
        ...


class ProgramRunner(Protocol):
    """Runs programs: `meshd.runs.Runs`."""

    def begin(self, execute: Execute, nursery: trio.Nursery) -> None:
        """Start a run in `nursery`; the node hears Executed or ExecutionFailed."""
        ...

    def kill(self, run: RunId) -> None:
        """Stop a run; one that is not there has ended."""
        ...


class ProviderFinder(Protocol):
    """Speaks to the DHT: `meshd.finding.Finding`."""

    def provide(self, key: str) -> None:
        """Announce `key` until it is withdrawn."""
        ...

    def withdraw(self, key: str) -> None:
        """Stop announcing `key`."""
        ...

    async def find(self, find: FindProviders) -> None:
        """Carry out one lookup; the node hears ProvidersFound."""
        ...


class AnswerDesk(Protocol):
    """Brings answers to whoever asked: `meshd.questions.Questions`."""

    def answer(self, answer: Answer) -> None:
        """Bring one answer, if somebody still waits for it."""
        ...

    def answer_join(self, answer: AnswerJoin) -> None:
        """Bring an answer to a joiner."""
        ...
