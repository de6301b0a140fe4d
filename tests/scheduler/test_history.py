"""What happened to a task, on every device that touched it: kept on disk, bounded, gathered."""

from __future__ import annotations

import msgspec
import pytest
from support.stewards import EXECUTORS, StewardBench
from support.task_mesh import SECOND_US, MeshHost, TaskMesh

from scheduler.history import (
    BATCH_EVENTS_MAX,
    HISTORY_ROW,
    OPEN_BATCHES_MAX,
    ROW_EVENTS_MAX,
    ROWS_MAX,
    History,
    HistoryRow,
)
from wire.answers import HistoryView, RefusalCode, Refused, TaskEventView
from wire.commands import CancelTask, GetHistory
from wire.effects import Persist, Row
from wire.events import Received
from wire.ids import BatchId, PeerId, peer_text, task_id_from_text
from wire.messages import LeaseEnded, LeaseRef, Question, Settled, TaskAnswer, TaskEnquiry
from wire.tasks import Durability, Epoch

BATCH = BatchId(bytes(20))
PEER = PeerId(bytes([7]) * 32)


def a_history() -> History:
    return History(wall_us=lambda: 5)


def written(history: History) -> list[Row]:
    return [row for one in history.on_due() if isinstance(one, Persist) for row in one.rows]


def number(count: int) -> BatchId:
    return BatchId(count.to_bytes(20, "big"))


def test_what_happens_to_many_tasks_within_a_second_is_one_event() -> None:
    history = a_history()
    for index in range(100):
        history.note(BATCH, "ran", (index,), detail="exited")
        history.note(BATCH, "executing", (index,), peer=PEER)
    (row,) = written(history)
    assert isinstance(row.value, HistoryRow)
    assert [(one.kind, len(one.indices)) for one in row.value.events] == [
        ("ran", 100),
        ("executing", 100),
    ]
    history.note(BATCH, "ran", (7,), detail="exited")
    (later,) = written(history)
    assert isinstance(later.value, HistoryRow)
    assert (later.key, len(later.value.events)) == (row.key, 3)


def test_it_wants_a_timer_once_and_writes_nothing_without_news() -> None:
    history = a_history()
    assert not history.wants_timer
    history.note(BATCH, "kept", ())
    assert history.wants_timer
    history.timer()
    history.note(BATCH, "ran", (1,))
    assert not history.wants_timer
    assert len(written(history)) == 1
    assert (history.wants_timer, history.on_due()) == (False, [])


def test_a_full_row_is_followed_by_another_and_all_are_told_in_order() -> None:
    history, rows = a_history(), dict[bytes, Row]()
    for count in range(ROW_EVENTS_MAX + 10):
        history.note(BATCH, "ran", (0,), detail=str(count))
        rows |= {row.key: row for row in written(history)}
    assert len(rows) == 2
    history.note(BATCH, "ran", (0,), detail="of this second")
    told = [one.detail for one in history.merged(BATCH, list(reversed(rows.values())))]
    assert told == [*map(str, range(ROW_EVENTS_MAX + 10)), "of this second"]


def test_a_batch_has_so_many_events_but_its_end_is_never_left_out() -> None:
    history, rows = a_history(), dict[bytes, Row]()
    for count in range(BATCH_EVENTS_MAX + 50):
        history.note(BATCH, "ran", (0,), detail=str(count))
        rows |= {row.key: row for row in written(history)}
    history.note(BATCH, "settled", (0,))
    told = history.merged(BATCH, list(rows.values()))
    assert len(told) <= BATCH_EVENTS_MAX + 3
    assert "settled" in {one.kind for one in told}
    assert "50 further events were too many to be kept" in {one.detail for one in told}


def test_the_oldest_rows_make_room_and_a_restart_goes_on_after_the_last() -> None:
    history, disk = a_history(), dict[bytes, Row]()

    def to_disk(one: History) -> None:
        for row in written(one):
            disk[row.key] = row
            if row.value is None:
                del disk[row.key]

    for count in range(ROWS_MAX + 20):
        history.note(number(count), "ran", (0,))
        to_disk(history)
    assert len(disk) == ROWS_MAX
    assert not any(key.startswith(number(19)) for key in disk)
    assert any(key.startswith(number(20)) for key in disk)

    again = a_history()
    again.on_restarted([(key, row.value) for key, row in disk.items()])  # type: ignore[misc]  # rows have values
    again.note(number(ROWS_MAX + 19), "ran", (1,))
    to_disk(again)
    assert len(disk) == ROWS_MAX
    assert len([key for key in disk if key.startswith(number(ROWS_MAX + 19))]) == 2


def test_batches_in_memory_are_bounded_and_unwritten_ones_are_not_lost() -> None:
    history = a_history()
    for count in range(3 * OPEN_BATCHES_MAX):
        history.note(number(count), "ran", (0,))
    assert len(written(history)) == 3 * OPEN_BATCHES_MAX
    for count in range(3 * OPEN_BATCHES_MAX):
        history.note(number(10_000 + count), "ran", (0,))
        written(history)
    assert not history.knows(number(0))


def test_a_steward_notes_where_a_task_comes_and_not_that_it_stays() -> None:
    bench, history = StewardBench().start(), a_history()
    batch = bench.submit(2)
    history.on_changed(batch, (0, 1))
    bench.lease(EXECUTORS[0])
    history.on_changed(batch, (0, 1))
    history.on_changed(batch, (0, 1))
    (event,) = history.merged(batch.batch, [])
    assert (event.kind, event.indices, event.peer) == ("assigned", (0, 1), EXECUTORS[0].peer)


# --- real nodes ---------------------------------------------------------------------------------


@pytest.fixture
def mesh() -> TaskMesh:
    made = TaskMesh(5)
    made.start()
    return made


def kept(mesh: TaskMesh) -> tuple[str, list[MeshHost], MeshHost]:
    """Return a task that is settled, its three stewards, and a device that had no part in it."""
    host = mesh.hosts[0]
    changes = {"durability": Durability.MESH, "requirements": ("label:number=1",)}
    request = mesh.ask(host, mesh.submission(host, 1, **changes))
    mesh.pass_time(8 * SECOND_US)
    accepted = msgspec.to_builtins(host.answers[request][-1].value)
    stewards = [one for one in mesh.hosts if peer_text(one.peer) in accepted["stewards"]]
    others = [one for one in mesh.hosts[2:] if one not in stewards]
    return accepted["tasks"][0], stewards, others[0]


def history_at(mesh: TaskMesh, host: MeshHost, task: str) -> HistoryView:
    request = mesh.ask(host, GetHistory(task))
    mesh.pass_time(5 * SECOND_US)
    ((view, is_last),) = [(one.value, one.is_last) for one in host.answers[request]]
    assert isinstance(view, HistoryView), view
    assert is_last
    return view


def kinds_by_device(view: HistoryView) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in view.events:
        found.setdefault(one.device_name, []).append(one.kind)
    return found


def test_a_device_without_a_part_in_it_tells_the_whole_life_of_a_task(mesh: TaskMesh) -> None:
    task, stewards, other = kept(mesh)
    view = history_at(mesh, other, task)
    told = kinds_by_device(view)
    assert view.silent == []
    assert told["device-0"] == ["kept", "assigned", "executing", "verifying", "settled"]
    assert {"lease_held", "ran", "outcome_heard"} <= set(told["device-1"])
    assert all("kept" in told[f"device-{host.number}"] for host in stewards)
    assert all("settled" in told[f"device-{host.number}"] for host in stewards)
    stamps = [one.wall_us or 0 for one in view.events]
    assert stamps == sorted(stamps)


def test_a_history_outlives_restarts(mesh: TaskMesh) -> None:
    task, _, other = kept(mesh)
    before = history_at(mesh, other, task)
    for host in mesh.hosts:
        mesh.crash(host)
    for host in mesh.hosts:
        mesh.boot(host)
    mesh.pass_time(20 * SECOND_US)
    after = history_at(mesh, other, task)
    assert [one for one in after.events if one in before.events] == before.events


def test_devices_that_cannot_be_asked_are_named(mesh: TaskMesh) -> None:
    task, stewards, other = kept(mesh)
    gone = stewards[-1]
    mesh.crash(gone)
    mesh.pass_time(SECOND_US)
    view = history_at(mesh, other, task)
    (silent,) = view.silent
    assert (silent.name, silent.id) == (f"device-{gone.number}", peer_text(gone.peer))
    assert silent.state in {"not_linked", "dead"}
    assert view.events


def test_alone_in_a_partition_a_steward_tells_its_part(mesh: TaskMesh) -> None:
    task, stewards, _ = kept(mesh)
    alone = stewards[-1]
    for host in mesh.hosts:
        if host is not alone:
            mesh.crash(host)
    mesh.pass_time(SECOND_US)
    view = history_at(mesh, alone, task)
    assert set(kinds_by_device(view)) == {f"device-{alone.number}"}
    assert {one.name for one in view.silent} >= {f"device-{host.number}" for host in stewards[:-1]}


def test_of_a_task_that_nobody_knows_there_is_no_history(mesh: TaskMesh) -> None:
    task, _, other = kept(mesh)
    batch, _, rest = task.partition(".")
    unknown = f"{batch[:-1]}{'a' if batch[-1] != 'a' else 'q'}.{rest}"
    request = mesh.ask(other, GetHistory(unknown))
    mesh.pass_time(5 * SECOND_US)
    value = other.answers[request][-1].value
    if isinstance(value, Refused):
        assert value.code is RefusalCode.NOT_FOUND
    else:
        assert isinstance(value, HistoryView)
        assert value.events == []


def test_what_was_cancelled_has_its_end_in_it(mesh: TaskMesh) -> None:
    mesh.run = lambda *_: None
    accepted = mesh.submit(mesh.hosts[0], 1)
    mesh.pass_time(SECOND_US)
    mesh.ask(mesh.hosts[0], CancelTask(accepted.tasks[0]))
    mesh.pass_time(3 * SECOND_US)
    view = history_at(mesh, mesh.hosts[0], accepted.tasks[0].partition(".")[0])
    assert view.events[-1].kind in {"cancelled", "lease_ended"}
    assert "cancelled" in {one.kind for one in view.events}


def test_messages_about_what_this_device_has_no_part_in_leave_no_rows(mesh: TaskMesh) -> None:
    host, peer = mesh.hosts[0], mesh.hosts[1].peer
    for count in range(50):
        ref = LeaseRef(number(count), Epoch(0, 1, 0), 1)
        mesh.tell(host, Received(peer, LeaseEnded(lease=ref, indices=(0,), reason="x")))
        mesh.tell(host, Received(peer, Settled(batch=number(count), outcomes={0: None})))
    mesh.pass_time(3 * SECOND_US)
    assert not any(kind == HISTORY_ROW for kind, _ in host.rows)


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x91" * 50_000, msgspec.msgpack.encode({})])
def test_a_part_that_is_none_counts_as_not_told(mesh: TaskMesh, body: bytes) -> None:
    task, stewards, other = kept(mesh)
    mesh.loses = lambda *_: True
    request = mesh.ask(other, GetHistory(task))
    token = next(one.token for _, one in reversed(other.sent) if isinstance(one, TaskEnquiry))
    for host in stewards:
        answer = TaskAnswer(token=token, offset=0, is_last=True, body=body)
        mesh.tell(other, Received(host.peer, answer))
    mesh.pass_time(5 * SECOND_US)
    assert isinstance(other.answers[request][-1].value, Refused)


def test_a_device_tells_only_of_itself(mesh: TaskMesh) -> None:
    task, stewards, other = kept(mesh)
    mesh.loses = lambda *_: True
    request = mesh.ask(other, GetHistory(task))
    token = next(one.token for _, one in reversed(other.sent) if isinstance(one, TaskEnquiry))
    liar = stewards[0]
    forged = TaskEventView(
        wall_us=1,
        device=peer_text(stewards[1].peer),
        device_name="device-1",
        kind="ran",
        peer=None,
        peer_name=None,
        detail=None,
    )
    body = msgspec.msgpack.encode(HistoryView(task=task, events=[forged], silent=[]))
    answer = TaskAnswer(token=token, offset=0, is_last=True, body=body)
    mesh.tell(other, Received(liar.peer, answer))
    mesh.pass_time(5 * SECOND_US)
    view = other.answers[request][-1].value
    assert isinstance(view, HistoryView)
    (event,) = view.events
    assert (event.device, event.device_name) == (peer_text(liar.peer), f"device-{liar.number}")


def test_another_device_hears_only_the_events_of_this_one(mesh: TaskMesh) -> None:
    task, stewards, _ = kept(mesh)
    enquiry = TaskEnquiry(token=3, task=task_id_from_text(task), question=Question.HISTORY)
    before = len(stewards[0].sent)
    mesh.tell(stewards[0], Received(stewards[1].peer, enquiry))
    mesh.pass_time(SECOND_US)
    (answer,) = [one for _, one in stewards[0].sent[before:] if isinstance(one, TaskAnswer)]
    told = msgspec.msgpack.decode(answer.body, type=HistoryView)
    assert {one.device for one in told.events} == {peer_text(stewards[0].peer)}
