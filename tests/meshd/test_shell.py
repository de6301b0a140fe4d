"""Every effect is carried out, in order, and nothing slow holds the node up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import pytest
import trio
from structlog.testing import capture_logs
from support.answer_views import task_view
from support.cancel_everywhere import cancel_everywhere
from support.meshes import keys_of, small_mesh
from support.tasks import contract_of, tasks_of
from trio.testing import MockClock, wait_all_tasks_blocked

from meshd import shell as shell_module
from meshd.defects import NodeFailed
from meshd.errors import StoreFailed
from meshd.mailbox import Mailbox
from meshd.node import MeshNode
from meshd.shell import PUBLISH_S_MAX, Shell
from meshd.store import Row as StoredRow
from meshd.store import Store, Write
from meshd.writer import RowReader, Writer
from p2p.errors import RecordTooLarge
from p2p.own_records import INCARNATION_ROW, IncarnationRow
from wire.blobs import blob_ref
from wire.content import Content
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
    Row,
    RunId,
    Send,
    SetTimer,
    Trace,
    UseNetworkKeys,
    Withdraw,
)
from wire.events import Event, Listening, Loaded, PersistFailed, TimerDue
from wire.keys import Ed25519Verifier
from wire.limits import Limits
from wire.membership import JoinRefusal, JoinRefused
from wire.messages import Heartbeat, RecordsGiven
from wire.signed import encode_body
from wire.tasks import Epoch, batch_id_of

PEER = keys_of(1).peer
RELAY = keys_of(2).peer
BLOB = blob_ref(b"blob")
RUN = RunId(batch_id_of(contract_of(small_mesh(1), tasks_of(1))), 0, Epoch(0, 1, 0), 1)
START = Listening(("/start",))
GOOD_ROW = encode_body(IncarnationRow(incarnation=3))
ROW = Row(INCARNATION_ROW, b"own", IncarnationRow(incarnation=3))

EFFECTS: tuple[Effect, ...] = (
    Send(PEER, Heartbeat(token=1)),
    Publish("topic", RecordsGiven(records=())),
    Dial(PEER, ("/address",), (RELAY,)),
    Hangup(PEER, "why"),
    SetTimer("timer", 1_000_000),
    Persist((ROW,), (SetTimer("durable", 0),)),
    Load(INCARNATION_ROW, b"o", 5, "load"),
    Provide("key"),
    Withdraw("key"),
    FindProviders("key", "found"),
    Fetch(Content(blob=BLOB), (PEER,), "fetched"),
    Offer(BLOB, b"owner"),
    Release(b"owner"),
    Execute(
        run=RUN,
        module=BLOB,
        input=Content(blob=BLOB),
        sources=(PEER,),
        box=b"box",
        limits=Limits(),
        seed=b"",
    ),
    Kill(RUN),
    Answer(7, task_view()),
    AnswerJoin(8, JoinRefused(reason=JoinRefusal.BUSY)),
    Trace("thing.happened", {"count": 3}),
    UseNetworkKeys((b"k" * 32,)),
)

# What each effect makes of the parts: (part, method, arguments without nurseries).
CARRIED_OUT: dict[type, Callable[[Any], tuple[object, ...]]] = {
    Send: lambda e: ("links", "enqueue", e.peer, e.message),
    Publish: lambda e: ("publish", e.topic, e.records),
    Dial: lambda e: ("links", "dial", e.peer, e.addresses, e.via),
    Hangup: lambda e: ("links", "hangup", e.peer, e.reason),
    SetTimer: lambda e: ("node", TimerDue(e.key)),
    Persist: lambda _: ("store", "persist", Write(INCARNATION_ROW, b"own", GOOD_ROW)),
    Load: lambda e: ("node", Loaded(e.token, (ROW,))),
    Provide: lambda e: ("finding", "provide", e.key),
    Withdraw: lambda e: ("finding", "withdraw", e.key),
    FindProviders: lambda e: ("finding", "find", e),
    Fetch: lambda e: ("contents", "fetch", e),
    Offer: lambda e: ("blobs", "pin", e.blob, e.owner),
    Release: lambda e: ("blobs", "release", e.owner),
    Execute: lambda e: ("runs", "begin", e),
    Kill: lambda e: ("runs", "kill", e.run),
    Answer: lambda e: ("questions", "answer", e),
    AnswerJoin: lambda e: ("questions", "answer_join", e),
    Trace: lambda e: ("log", e.event, e.fields["count"]),
    UseNetworkKeys: lambda e: ("network_keys", e.keys),
}


# Those that wait for something, in tasks of their own; and those that are done in their turn.
SLOW_KINDS = (Dial, Fetch, FindProviders, Load, Publish)
SLOW_CALLS = ("dial", "fetch", "find", "load", "topic")
CALLED_AT_ONCE = tuple(
    kind for kind in CARRIED_OUT if kind not in (*SLOW_KINDS, SetTimer, Persist, Trace)
)


@dataclass
class Parts:
    """All parts of a shell: they note their calls, and wait while they should be slow."""

    mailbox: Mailbox = field(default_factory=Mailbox)
    calls: list[tuple[object, ...]] = field(default_factory=list)
    answers: dict[Event, Sequence[Effect]] = field(default_factory=dict)
    slow: set[str] = field(default_factory=set)
    errors: dict[str, Exception] = field(default_factory=dict)
    stored: list[StoredRow] = field(
        default_factory=lambda: [
            StoredRow(2, b"own", GOOD_ROW),
            StoredRow(1, b"odd", b"\xc1"),
        ]
    )
    writer: Writer = field(init=False)
    shell: Shell = field(init=False)

    def __post_init__(self) -> None:
        """Put the shell together."""
        self.writer = Writer(
            cast(Store, _Part(self, "store")),
            on_durable=self.mailbox.post_durable,
            on_failed=lambda _: None,
        )
        self.shell = Shell(
            node=cast(MeshNode, self),
            mailbox=self.mailbox,
            writer=self.writer,
            rows=RowReader(Ed25519Verifier()),
            publish=lambda topic, records: self.called("publish", topic, records),
            use_network_keys=lambda keys: self.calls.append(("network_keys", keys)),
            now_us=lambda: 42,
            **{
                name: cast(Any, _Part(self, name))
                for name in ("links", "store", "blobs", "contents", "runs", "finding", "questions")
            },
        )

    def handle(self, event: Event, now_us: int) -> Sequence[Effect]:
        """Be the node."""
        assert now_us == 42
        self.calls.append(("node", event))
        if "node" in self.errors:
            raise self.errors["node"]
        return self.answers.get(event, ())

    async def called(self, part: str, *arguments: object) -> None:
        """Note a call and wait if it is to be slow."""
        self.calls.append((part, *arguments))
        await trio.lowlevel.checkpoint()
        if part in self.slow or arguments[:1] == (part,):
            await trio.sleep_forever()
        if part in self.errors:
            raise self.errors[part]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[trio.Nursery]:
        """Run shell and writer."""
        with trio.fail_after(1_000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.shell.run)
                nursery.start_soon(self.writer.run)
                yield nursery
                nursery.cancel_scope.cancel()


class _Part:
    """One part: whatever is called of it is noted."""

    def __init__(self, parts: Parts, name: str) -> None:
        self._parts, self._name = parts, name

    # Synchronous ones.
    def _noted(self, method: str, *arguments: object) -> None:
        kept = (each for each in arguments if not isinstance(each, trio.Nursery))
        self._parts.calls.append((self._name, method, *kept))

    def __getattr__(self, method: str) -> Callable[..., object]:
        if method in ("dial", "fetch", "find"):
            return lambda *arguments: self._parts.called(self._name, method, *arguments)
        return lambda *arguments: self._noted(method, *arguments)

    async def persist(self, writes: Sequence[Write]) -> None:
        """Write."""
        await self._parts.called("store", "persist", *writes)

    async def load(self, kind: str, *, prefix: bytes, limit: int) -> list[StoredRow]:
        """Read."""
        await self._parts.called("store", "load", kind, prefix, limit)
        return self._parts.stored


def test_this_file_knows_every_effect() -> None:
    assert {type(effect) for effect in EFFECTS} == set(get_args(Effect)) == set(CARRIED_OUT)


@pytest.mark.parametrize("kind", get_args(Effect), ids=lambda kind: kind.__name__)
async def test_every_effect_is_carried_out(kind: type, autojump_clock: MockClock) -> None:
    [effect] = (each for each in EFFECTS if type(each) is kind)
    parts = Parts(answers={START: [effect]})
    with capture_logs() as logs:
        async with parts.running():
            await parts.mailbox.post(START)
            await trio.sleep(2)
    parts.calls += [("log", line["event"], line.get("count")) for line in logs]
    assert CARRIED_OUT[kind](effect) in parts.calls


async def test_effects_are_carried_out_in_the_order_they_were_decided(
    autojump_clock: MockClock,
) -> None:
    effects: list[Effect] = [
        Provide("a"),
        Send(PEER, Heartbeat(token=1)),
        Kill(RUN),
        Send(PEER, Heartbeat(token=2)),
        Withdraw("a"),
    ]
    parts = Parts(answers={START: effects})
    async with parts.running():
        await parts.mailbox.post(START)
        await wait_all_tasks_blocked()
    assert parts.calls[1:] == [CARRIED_OUT[type(effect)](effect) for effect in effects]


async def test_nothing_is_sent_before_its_records_are_durable(autojump_clock: MockClock) -> None:
    send = Send(PEER, Heartbeat(token=1))
    parts = Parts(answers={START: [Persist((ROW,), (send,))]}, slow={"store"})
    async with parts.running():
        await parts.mailbox.post(START)
        await trio.sleep(60)
        assert ("links", "enqueue", PEER, Heartbeat(token=1)) not in parts.calls
    parts = Parts(answers={START: [Persist((ROW,), (send,))]})
    async with parts.running():
        await parts.mailbox.post(START)
        await wait_all_tasks_blocked()
        assert parts.calls[-1] == ("links", "enqueue", PEER, Heartbeat(token=1))


async def test_nothing_slow_holds_the_node_up(autojump_clock: MockClock) -> None:
    slow: list[Effect] = [
        effect for effect in EFFECTS if type(effect) in (Dial, Fetch, FindProviders, Publish)
    ]
    parts = Parts(
        answers={START: [*slow, Persist((ROW,)), Load(INCARNATION_ROW, b"", 1, "load")]},
        slow={"links", "contents", "finding", "publish", "store"},
    )
    async with parts.running():
        await parts.mailbox.post(START)
        await parts.mailbox.post(Listening(("/next",)))
        await wait_all_tasks_blocked()
        assert ("node", Listening(("/next",))) in parts.calls
        assert all(CARRIED_OUT[type(effect)](effect) in parts.calls for effect in slow)


async def test_while_the_disk_is_behind_nothing_more_is_taken_in(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell_module, "ROWS_BEHIND_MAX", 2)
    parts = Parts(answers={START: [Persist((ROW,) * 3)]})
    released = trio.Event()

    async def persist(writes: Sequence[Write]) -> None:
        del writes
        await released.wait()

    monkeypatch.setattr(_Part, "persist", lambda _, writes: persist(writes))
    async with parts.running():
        await parts.mailbox.post(START)
        await parts.mailbox.post(Listening(("/next",)))
        await trio.sleep(60)
        assert parts.calls == [("node", START)]
        released.set()
        await wait_all_tasks_blocked()
        assert parts.calls == [("node", START), ("node", Listening(("/next",)))]


async def test_a_store_that_cannot_be_read_is_told_to_the_node(autojump_clock: MockClock) -> None:
    parts = Parts(
        answers={START: [Load(INCARNATION_ROW, b"", 1, "load")]},
        errors={"store": StoreFailed("disk I/O error")},
    )
    async with parts.running():
        await parts.mailbox.post(START)
        await wait_all_tasks_blocked()
        assert parts.calls[-1] == ("node", PersistFailed("disk I/O error"))


@pytest.mark.parametrize("trouble", ["fails", "hangs"])
async def test_publishing_that_fails_or_hangs_is_given_up(
    autojump_clock: MockClock, trouble: str
) -> None:
    parts = Parts(answers={START: [Publish("topic", RecordsGiven(records=()))]})
    if trouble == "fails":
        parts.errors = {"publish": RecordTooLarge("too large")}
    else:
        parts.slow = {"publish"}
    with capture_logs() as logs:
        async with parts.running() as nursery:
            before = len(nursery.child_tasks)
            await parts.mailbox.post(START)
            await trio.sleep(PUBLISH_S_MAX + 1)
            [shell_task, _] = sorted(nursery.child_tasks, key=lambda task: "Writer" in task.name)
            assert len(nursery.child_tasks) == before
            assert not shell_task.child_nurseries[0].child_tasks
    assert [line["event"] for line in logs] == (["publish.failed"] if trouble == "fails" else [])


async def test_a_node_that_raises_ends_the_shell_and_nothing_is_carried_out(
    autojump_clock: MockClock,
) -> None:
    parts = Parts(answers={START: [Provide("a")]}, errors={"node": ValueError("a defect")})
    await parts.mailbox.post(START)
    with pytest.RaisesGroup(pytest.RaisesExc(NodeFailed), flatten_subgroups=True):
        await parts.shell.run()
    assert parts.calls == [("node", START)]


async def test_what_was_posted_late_is_handled_after_what_is_durable(
    autojump_clock: MockClock,
) -> None:
    parts = Parts()
    await parts.mailbox.post(START)
    parts.mailbox.post_durable((Provide("first"),))
    async with parts.running():
        await wait_all_tasks_blocked()
    assert parts.calls == [("finding", "provide", "first"), ("node", START)]


async def test_a_shell_cancelled_anywhere_has_carried_out_all_of_an_event_or_nothing(
    autojump_clock: MockClock,
) -> None:
    """And nothing that it started is shielded, swallows a cancel, or goes on."""
    following = Listening(("/next",))
    at_once = [effect for effect in EFFECTS if type(effect) not in SLOW_KINDS]
    runs: list[Parts] = []

    async def work() -> None:
        parts = Parts(
            answers={START: EFFECTS, TimerDue("timer"): [Provide("b")], following: at_once},
            slow={"links", "contents", "finding", "publish"},
        )
        runs.append(parts)
        async with parts.running() as nursery:
            nursery.start_soon(parts.mailbox.post, START)
            await parts.mailbox.post(following)
            await trio.sleep(2)

    def check(was_cancelled: bool) -> None:
        parts = runs[-1]
        calls = [call for call in parts.calls if call[1] not in SLOW_CALLS]
        for event, effects in parts.answers.items():
            wanted = [
                CARRIED_OUT[type(each)](each) for each in effects if type(each) in CALLED_AT_ONCE
            ]
            if ("node", event) in calls:
                begin = calls.index(("node", event)) + 1
                assert calls[begin : begin + len(wanted)] == wanted
        write = CARRIED_OUT[Persist](None)[2]  # the writes of both events may be in one call
        is_persisted = any(call[:2] == ("store", "persist") and write in call for call in calls)
        assert is_persisted or ("node", TimerDue("durable")) not in calls
        assert was_cancelled or {("node", TimerDue("durable")), ("node", following)} <= {*calls}

    with capture_logs():
        assert await cancel_everywhere(work, check) > 30


async def test_rows_go_to_a_real_disk_and_come_back(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "mesh.db")
    rows = tuple(
        Row(INCARNATION_ROW, f"own{number}".encode(), IncarnationRow(incarnation=number))
        for number in range(3)
    )
    load = Load(INCARNATION_ROW, b"own", 2, "load")
    parts = Parts(answers={START: [Persist(rows, (SetTimer("durable", 0),))]})
    parts.answers[TimerDue("durable")] = [load]
    parts.writer._store = parts.shell._store = store
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        async with parts.running():
            await parts.mailbox.post(START)
            with trio.fail_after(5):
                while len(parts.calls) < 3:  # noqa: ASYNC110 - some of it happens in threads
                    await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    store.close()
    assert parts.calls[-1] == ("node", Loaded("load", rows[:0:-1]))
