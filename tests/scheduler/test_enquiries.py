"""What people hear about tasks, and how they name them."""

from __future__ import annotations

import pytest
from support.stewards import EXECUTORS, MESH, OWN, StewardBench, runs

from scheduler.batch import Batch
from scheduler.enquiries import DOUBTFUL, Enquiries
from scheduler.references import resolve
from scheduler.waiters import WAITERS_MAX
from wire.answers import Answer as AnswerValue
from wire.answers import ReceiptView, Refused, ResultView, TaskList, TaskView
from wire.commands import (
    CancelTask,
    GetReceipt,
    GetResult,
    GetTask,
    ListTasks,
    WaitBatch,
    WaitTask,
)
from wire.effects import Answer, Effect, Load
from wire.events import Loaded
from wire.ids import PeerId
from wire.tasks import task_id_of

FIRST = EXECUTORS[0]


class EnquiriesBench:
    """Questions to a steward."""

    def __init__(self) -> None:
        self.steward = StewardBench().start()
        self.convicted: set[PeerId] = set()
        self.enquiries = Enquiries(
            own=OWN.peer,
            genesis=MESH.genesis,
            batches=self.steward.steward.batches,
            name_of=lambda peer: peer.hex()[:4],
            cancel=lambda batch, index: self.steward.do(
                self.steward.steward.on_cancel(batch, index)
            ),
            why=self.steward.why,
            is_convicted=lambda peer: peer in self.convicted,
        )

    def load(self, effects: list[Effect]) -> list[Effect]:
        """The store answers every question for rows, one after the other."""
        answers: list[Effect] = []
        while effects:
            effect = effects.pop(0)
            if not isinstance(effect, Load):
                answers.append(effect)
                continue
            rows = [
                row
                for (kind, key), row in self.steward.rows.items()
                if kind == effect.kind and key.startswith(effect.prefix) and row.value is not None
            ]
            loaded = Loaded(effect.token, tuple(rows[: effect.limit]))
            effects += self.enquiries.on_loaded(loaded)
        return answers

    def settle(self, batch: Batch) -> None:
        """Let all tasks of a batch end with a result."""
        while batch.waiting_count:
            for lease in self.steward.lease(FIRST):
                offered = self.steward.offer_results(lease, FIRST)
                self.steward.make_durable(self.steward.fetch_all(offered))


@pytest.fixture
def bench() -> EnquiriesBench:
    return EnquiriesBench()


def id_of(batch: Batch, index: int = 0) -> str:
    return str(task_id_of(batch.contract, index))


def values(effects: list[Effect]) -> list[tuple[AnswerValue, bool]]:
    return [(effect.value, effect.is_last) for effect in effects if isinstance(effect, Answer)]


def only(effects: list[Effect]) -> AnswerValue:
    ((value, is_last),) = values(effects)
    assert is_last
    return value


# --- names ------------------------------------------------------------------------------------


def test_a_task_is_found_by_its_id_and_by_an_unmistakable_beginning(
    bench: EnquiriesBench,
) -> None:
    one, three = bench.steward.submit(1), bench.steward.submit(3)
    batches = bench.steward.steward.batches

    assert resolve(batches, id_of(three, 2)) == (three, 2)
    assert resolve(batches, one.text) == (one, 0)
    assert resolve(batches, one.text[:8]) == (one, 0)
    assert resolve(batches, f"{three.text[:8]}.2") == (three, 2)


@pytest.mark.parametrize(
    "wrong", ["", "abc", "zzzzzzzz", "{id}.3", "{id}.x", "{id}.²", "{id}.-1", "{id}.99999999999"]
)
def test_what_names_no_task_is_not_found(bench: EnquiriesBench, wrong: str) -> None:
    batch = bench.steward.submit(3)
    found = resolve(bench.steward.steward.batches, wrong.format(id=batch.text))
    assert isinstance(found, Refused)
    assert found.code == "not_found"


def test_what_may_name_several_tasks_is_not_guessed(bench: EnquiriesBench) -> None:
    batch = bench.steward.submit(3)
    found = resolve(bench.steward.steward.batches, batch.text[:9])
    assert isinstance(found, Refused)
    assert (found.code, "3 tasks" in found.message) == ("ambiguous", True)


def test_what_was_asked_is_shown_without_its_control_characters(bench: EnquiriesBench) -> None:
    found = resolve(bench.steward.steward.batches, "\x1b[31mred")
    assert isinstance(found, Refused)
    assert "\x1b" not in found.message


def test_a_batch_is_not_there_before_it_is_durable(bench: EnquiriesBench) -> None:
    batch = bench.steward.submit(1)
    batch.is_durable = False
    assert isinstance(resolve(bench.steward.steward.batches, id_of(batch)), Refused)
    assert only(bench.enquiries.on_asked(1, ListTasks())) == TaskList(tasks=[], is_truncated=False)


# --- waiting ----------------------------------------------------------------------------------


def test_whoever_waits_hears_each_change_and_the_end_once(bench: EnquiriesBench) -> None:
    batch = bench.steward.submit(1)
    assert [last for _, last in values(bench.enquiries.on_asked(7, WaitTask(id_of(batch))))] == [
        False
    ]
    assert [last for _, last in values(bench.enquiries.on_changed(batch, (0,)))] == [False]

    bench.settle(batch)

    ((view, is_last),) = values(bench.enquiries.on_changed(batch, (0,)))
    assert isinstance(view, TaskView)
    assert (view.state, is_last) == ("settled", True)
    assert bench.enquiries.on_changed(batch, (0,)) == []
    assert [last for _, last in values(bench.enquiries.on_asked(8, WaitTask(id_of(batch))))] == [
        True
    ]


def test_who_waits_for_a_batch_hears_all_tasks_that_end_at_once(bench: EnquiriesBench) -> None:
    batch, other = bench.steward.submit(3), bench.steward.submit(3)
    started = values(bench.enquiries.on_asked(7, WaitBatch(id_of(batch))))
    assert [last for _, last in started] == [False] * 3
    bench.settle(batch)

    assert bench.enquiries.on_changed(other, (0, 1, 2)) == []
    ended = values(bench.enquiries.on_changed(batch, (0, 1, 2)))

    assert [view.index for view, _ in ended if isinstance(view, TaskView)] == [0, 1, 2]
    assert [last for _, last in ended] == [False, False, True]


def test_who_has_gone_hears_nothing_more(bench: EnquiriesBench) -> None:
    batch = bench.steward.submit(1)
    bench.enquiries.on_asked(7, WaitTask(id_of(batch)))
    bench.enquiries.on_asked_no_more(7)
    assert bench.enquiries.on_changed(batch, (0,)) == []


def test_one_waiter_too_many_is_told_so(bench: EnquiriesBench) -> None:
    batch = bench.steward.submit(1)
    for number in range(WAITERS_MAX):
        bench.enquiries.on_asked(number, WaitTask(id_of(batch)))
    assert isinstance(only(bench.enquiries.on_asked(9_999, WaitTask(id_of(batch)))), Refused)
    bench.enquiries.on_asked_no_more(3)
    ((view, _),) = values(bench.enquiries.on_asked(9_999, WaitTask(id_of(batch))))
    assert isinstance(view, TaskView)


# --- results and receipts ---------------------------------------------------------------------


def test_result_and_receipt_come_from_the_store(bench: EnquiriesBench) -> None:
    batch = bench.steward.submit(2)
    bench.settle(batch)

    result = only(bench.load(bench.enquiries.on_asked(1, GetResult(id_of(batch, 1)))))
    receipt = only(bench.load(bench.enquiries.on_asked(2, GetReceipt(id_of(batch, 1)))))
    with_key = only(bench.load(bench.enquiries.on_asked(3, GetReceipt(id_of(batch, 1), True))))

    assert isinstance(result, ResultView)
    assert result.task.id == id_of(batch, 1)
    assert isinstance(receipt, ReceiptView)
    assert receipt.box is None
    assert isinstance(with_key, ReceiptView)
    assert with_key.box == batch.own_key(OWN.peer)


def test_a_task_without_an_outcome_has_no_result_yet_and_a_cancelled_one_never(
    bench: EnquiriesBench,
) -> None:
    batch = bench.steward.submit(1)
    early = only(bench.enquiries.on_asked(1, GetResult(id_of(batch))))
    assert isinstance(early, Refused)
    assert early.code == "not_yet"

    cancelling = bench.enquiries.on_asked(2, CancelTask(id_of(batch)))
    bench.steward.make_durable(cancelling)
    late = only(bench.enquiries.on_asked(3, GetResult(id_of(batch))))
    assert isinstance(late, Refused)
    assert (late.code, "cancelled" in late.message) == ("refused", True)
    receipt = only(bench.load(bench.enquiries.on_asked(4, GetReceipt(id_of(batch)))))
    assert isinstance(receipt, ReceiptView)


def test_what_was_forgotten_while_it_was_read_is_said_to_be(bench: EnquiriesBench) -> None:
    batch = bench.steward.submit(1)
    bench.settle(batch)
    reading = bench.enquiries.on_asked(1, GetResult(id_of(batch)))
    bench.steward.rows.clear()

    gone = only(bench.load(reading))

    assert isinstance(gone, Refused)
    assert gone.code == "not_found"


def test_an_answer_that_nobody_waits_for_any_more_is_dropped(bench: EnquiriesBench) -> None:
    batch = bench.steward.submit(1)
    bench.settle(batch)
    reading = bench.enquiries.on_asked(1, GetResult(id_of(batch)))
    bench.enquiries.on_asked_no_more(1)
    assert bench.load(reading) == []


# --- lists ------------------------------------------------------------------------------------


def test_tasks_are_listed_newest_batch_first_up_to_a_limit(bench: EnquiriesBench) -> None:
    old, new = bench.steward.submit(2), bench.steward.submit(2)
    listed = only(bench.enquiries.on_asked(1, ListTasks(limit=3)))
    assert isinstance(listed, TaskList)
    assert [view.id for view in listed.tasks] == [id_of(new), id_of(new, 1), id_of(old)]
    assert listed.is_truncated


def test_tasks_are_counted_by_state(bench: EnquiriesBench) -> None:
    bench.settle(bench.steward.submit(2))
    batch = bench.steward.submit(3)
    bench.steward.make_durable(bench.steward.do(bench.steward.steward.on_cancel(batch, 1)))

    counts = {state: count for state, count in bench.enquiries.counts().items() if count}

    assert counts == {"settled": 2, "cancelled": 1, "pending": 2}
    view = only(bench.enquiries.on_asked(1, GetTask(id_of(batch, 1))))
    assert isinstance(view, TaskView)
    assert (view.state, view.is_decided) == ("cancelled", True)


def test_what_a_convicted_device_did_alone_is_doubtful_and_what_others_ran_too_is_not() -> None:
    bench = EnquiriesBench()
    batches = [bench.steward.submit(1), bench.steward.submit(1, replicas=2)]
    for device in EXECUTORS[:2]:
        bench.steward.make_durable(runs(bench.steward, device))
    assert all(batch.is_decided for batch in batches)
    first = {one.executor for batch in batches for one in batch.progress if one.executor}

    def reasons() -> list[str]:
        (answer,) = bench.enquiries.on_asked(1, ListTasks())
        assert isinstance(answer, Answer)
        assert isinstance(answer.value, TaskList)
        return sorted(view.reason or "" for view in answer.value.tasks)

    assert reasons() == ["", ""]
    bench.convicted |= first
    assert reasons() == ["", DOUBTFUL]
