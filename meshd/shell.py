"""Carries out what the node decides: one task takes what waits, hands it to the node, and acts.

Nothing here waits for the outside: what takes time goes to a task of its own and comes back as an
event, so the node is never late for one peer because of another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import structlog
import trio

from meshd.defects import NodeFailed
from meshd.errors import StoreError
from meshd.mailbox import Durable, Item, Mailbox
from meshd.shell_parts import (
    AnswerDesk,
    BlobKeeper,
    ContentFetcher,
    Decider,
    LinkHands,
    ProgramRunner,
    ProviderFinder,
    RowStore,
    RowWriter,
)
from meshd.writer import RowReader
from p2p.errors import NetworkError
from wire.effects import (
    Answer,
    AnswerJoin,
    Dial,
    Effect,
    Execute,
    Fetch,
    FindProviders,
    Hangup,
    Kill,
    Load,
    Offer,
    Persist,
    Provide,
    Publish,
    Release,
    Send,
    SetTimer,
    Trace,
    UseNetworkKeys,
    Withdraw,
)
from wire.events import Loaded, PersistFailed
from wire.messages import RecordsGiven

ROWS_BEHIND_MAX = 20_000
PUBLISH_S_MAX = 5.0

log = structlog.get_logger()


class Shell:
    """The hands of one node. `now_us` is the boot-time clock."""

    def __init__(
        self,
        *,
        node: Decider,
        mailbox: Mailbox,
        links: LinkHands,
        store: RowStore,
        writer: RowWriter,
        rows: RowReader,
        blobs: BlobKeeper,
        contents: ContentFetcher,
        runs: ProgramRunner,
        finding: ProviderFinder,
        questions: AnswerDesk,
        publish: Callable[[str, RecordsGiven], Awaitable[None]],
        use_network_keys: Callable[[tuple[bytes, ...]], None],
        now_us: Callable[[], int],
    ) -> None:
        self._node = node
        self._mailbox = mailbox
        self._links = links
        self._store = store
        self._writer = writer
        self._rows = rows
        self._blobs = blobs
        self._contents = contents
        self._runs = runs
        self._finding = finding
        self._questions = questions
        self._publish = publish
        self._use_network_keys = use_network_keys
        self._now_us = now_us

    async def run(self) -> None:
        """Feed the node one thing at a time until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                item = await self._mailbox.take()
                for effect in self._effects_of(item):
                    self._carry_out(effect, nursery)
                await self._mailbox.after_event()
                while self._writer.waiting_rows_count > ROWS_BEHIND_MAX:
                    await self._writer.wait_idle()  # the disk is behind: take in nothing more

    def _effects_of(self, item: Item) -> Sequence[Effect]:
        if isinstance(item, Durable):
            return item.then
        try:
            return self._node.handle(item, self._now_us())
        except Exception as error:
            raise NodeFailed(item) from error

    def _carry_out(self, effect: Effect, nursery: trio.Nursery) -> None:
        match effect:
            case Send(peer, message):
                self._links.enqueue(peer, message)
            case SetTimer(key, after_us):
                self._mailbox.set_timer(key, after_us)
            case Persist():
                self._writer.put(effect)
            case Answer():
                self._questions.answer(effect)
            case AnswerJoin():
                self._questions.answer_join(effect)
            case Trace(event, fields):
                log.info(event, **fields)
            case Dial(peer, addresses, via):
                nursery.start_soon(self._links.dial, peer, addresses, via)
            case Hangup(peer, reason):
                self._links.hangup(peer, reason)
            case _:
                self._carry_out_content(effect, nursery)

    def _carry_out_content(self, effect: Effect, nursery: trio.Nursery) -> None:
        match effect:
            case Execute():
                self._runs.begin(effect, nursery)
            case Kill(run):
                self._runs.kill(run)
            case Fetch():
                nursery.start_soon(self._contents.fetch, effect)
            case Offer(blob, owner):
                self._blobs.pin(blob, owner)
            case Release(owner):
                self._blobs.release(owner)
            case Load():
                nursery.start_soon(self._load, effect)
            case Provide(key):
                self._finding.provide(key)
            case Withdraw(key):
                self._finding.withdraw(key)
            case FindProviders():
                nursery.start_soon(self._finding.find, effect)
            case UseNetworkKeys(keys):
                self._use_network_keys(keys)
            case Publish():
                nursery.start_soon(self._publish_records, effect)
            case _:
                raise AssertionError(f"nobody carries out {type(effect).__name__}")

    async def _load(self, load: Load) -> None:
        try:
            found = await self._store.load(load.kind, prefix=load.prefix, limit=load.limit)
        except StoreError as error:
            await self._mailbox.post(PersistFailed(str(error)))
            return
        rows = (self._rows.read(load.kind, row.key, row.body) for row in found)
        await self._mailbox.post(Loaded(load.token, tuple(row for row in rows if row is not None)))

    async def _publish_records(self, publish: Publish) -> None:
        with trio.move_on_after(PUBLISH_S_MAX):
            try:
                await self._publish(publish.topic, publish.records)
            except NetworkError as error:
                log.info("publish.failed", topic=publish.topic, reason=str(error))
