"""Any device answers for any task: it asks those that keep it, and says so when none answers."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace
from support.task_mesh import SECOND_US, MeshHost, TaskMesh, executed

from scheduler.forwarding import FORWARDED_MAX, SILENT_TICKS_MAX
from scheduler.receipt import verify_receipt
from wire.answers import Accepted, ReceiptView, RefusalCode, Refused, ResultView, TaskView, WhyView
from wire.answers import Answer as AnswerValue
from wire.blobs import blob_ref
from wire.commands import CancelTask, GetReceipt, GetResult, GetTask, WaitTask, WhyTask
from wire.content import Content
from wire.effects import Fetch
from wire.events import AskedNoMore, Fetched, FetchFailed, Received
from wire.ids import peer_text, task_id_from_text
from wire.keys import Ed25519Verifier
from wire.messages import Question, TaskAnswer, TaskEnquiry
from wire.tasks import Durability

PATIENCE_US = (SILENT_TICKS_MAX + 5) * SECOND_US


@pytest.fixture
def mesh() -> TaskMesh:
    """Return five devices: three will keep a task, the last is none of them."""
    made = TaskMesh(5)
    made.settings[4] = {"capabilities": ()}
    made.start()
    return made


def kept(mesh: TaskMesh, **changes: object) -> tuple[str, list[MeshHost], MeshHost]:
    """Return a task of three stewards, them, and a device that is none of them."""
    request = mesh.ask(
        mesh.hosts[0], mesh.submission(mesh.hosts[0], 1, durability=Durability.MESH, **changes)
    )
    mesh.pass_time(5 * SECOND_US)
    accepted = mesh.hosts[0].answers[request][-1].value
    assert isinstance(accepted, Accepted), accepted
    stewards = [host for host in mesh.hosts if peer_text(host.peer) in accepted.stewards]
    assert len(stewards) == 3
    other = next(host for host in reversed(mesh.hosts) if host not in stewards)
    return accepted.tasks[0], stewards, other


def told(mesh: TaskMesh, host: MeshHost, command: object) -> AnswerValue:
    request = mesh.ask(host, command)  # type: ignore[arg-type]  # one of the commands
    mesh.pass_time(PATIENCE_US, until=lambda: bool(host.answers[request]))
    return host.answers[request][-1].value


def test_a_device_that_keeps_nothing_of_a_task_tells_of_it(mesh: TaskMesh) -> None:
    task, stewards, other = kept(mesh)
    view = told(mesh, other, GetTask(task))
    assert isinstance(view, TaskView)
    assert (view.id, view.state) == (task, "settled")
    # The names and ids are the steward's; all else is what it says itself.
    assert view == told(mesh, stewards[0], GetTask(task))


def test_its_receipt_is_had_anywhere_and_verifies(mesh: TaskMesh) -> None:
    task, _, other = kept(mesh)
    view = told(mesh, other, GetReceipt(task))
    assert isinstance(view, ReceiptView)
    assert view.box is None
    verdict = verify_receipt(view.receipt, verifier=Ed25519Verifier(), mesh=mesh.mesh.id)
    assert verdict.is_good


def test_its_result_is_for_those_with_a_key(mesh: TaskMesh) -> None:
    task, _, other = kept(mesh)
    refused = told(mesh, other, GetResult(task))
    assert isinstance(refused, Refused)
    assert (refused.code, "has no key to the task's output" in refused.message) == ("refused", True)
    assert "--reader" in str(refused.hint)
    with_key = told(mesh, other, GetReceipt(task, with_digest_key=True))
    assert isinstance(with_key, Refused)


def test_a_reader_that_the_contract_names_has_the_result_and_the_digest_key(
    mesh: TaskMesh,
) -> None:
    task, stewards, other = kept(mesh, readers=("device-4", "device-3", "device-1"))
    view = told(mesh, other, GetResult(task))
    assert isinstance(view, ResultView)
    own = told(mesh, stewards[0], GetResult(task))
    assert isinstance(own, ResultView)
    key = other.device.keys.unseal(view.box)
    assert key == stewards[0].device.keys.unseal(own.box)
    receipt = told(mesh, other, GetReceipt(task, with_digest_key=True))
    assert isinstance(receipt, ReceiptView)
    assert receipt.box is not None
    assert other.device.keys.unseal(receipt.box) == key


def test_a_reader_that_is_not_known_is_said_to_be(mesh: TaskMesh) -> None:
    host = mesh.hosts[0]
    refused = mesh.answer(host, mesh.submission(host, 1, readers=("nobody",)))
    assert isinstance(refused, Refused)
    assert "unknown device 'nobody'" in refused.message


@pytest.mark.parametrize("fails", [False, True])
def test_a_long_output_is_fetched_before_it_is_told(mesh: TaskMesh, fails: bool) -> None:
    blob = Content(blob=blob_ref(b"sealed" * 10_000))
    mesh.run = lambda _, effect: replace(executed(effect.run), output=blob)
    task, stewards, other = kept(mesh, readers=("device-4", "device-3"))
    fetched: list[Fetch] = []
    usual = mesh.fetch

    def fetch(host: MeshHost, effect: Fetch) -> Fetched | FetchFailed:
        if host is not other:
            return usual(host, effect)
        fetched.append(effect)
        return FetchFailed(effect.token, "gone") if fails else Fetched(effect.token)

    mesh.fetch = fetch
    value = told(mesh, other, GetResult(task))
    assert [one.content for one in fetched] == [blob]
    assert all(one.sources[0] in {host.peer for host in stewards} for one in fetched)
    if fails:
        assert isinstance(value, Refused)
        assert value.message == "the output could not be fetched: gone"
    else:
        assert isinstance(value, ResultView)


def told_by_hand(
    mesh: TaskMesh, host: MeshHost, steward: MeshHost, token: int, value: AnswerValue
) -> None:
    body = msgspec.msgpack.encode(value)
    mesh.tell(
        host, Received(steward.peer, TaskAnswer(token=token, offset=0, is_last=True, body=body))
    )


def test_why_is_told_by_who_leads_the_task(mesh: TaskMesh) -> None:
    mesh.run = lambda *_: None
    task, stewards, other = kept(mesh)
    view = told(mesh, other, WhyTask(task))
    assert isinstance(view, WhyView)
    assert (view.is_current, view.told_by) == (True, peer_text(stewards[0].peer))
    co_steward = told(mesh, stewards[1], WhyTask(task))
    assert isinstance(co_steward, WhyView)
    assert (co_steward.is_current, co_steward.told_by) == (True, peer_text(stewards[0].peer))


def test_why_is_told_by_a_steward_alone_when_who_leads_is_gone(mesh: TaskMesh) -> None:
    mesh.run = lambda *_: None
    task, stewards, _ = kept(mesh)
    for host in stewards[0], stewards[2]:
        mesh.crash(host)
    mesh.pass_time(SECOND_US)
    view = told(mesh, stewards[1], WhyTask(task))
    assert isinstance(view, WhyView)
    assert (view.is_current, view.told_by) == (False, peer_text(stewards[1].peer))
    assert sorted(one.state for one in view.stewards)[-1] == "self"
    assert all(one.is_self or one.place != "first" for one in view.devices if one.rule == "dead")


def test_who_waits_elsewhere_hears_changes_and_the_end(mesh: TaskMesh) -> None:
    mesh.run = lambda *_: None
    task, stewards, other = kept(mesh)
    request = mesh.ask(other, WaitTask(task))
    mesh.pass_time(5 * SECOND_US)
    (first,) = other.answers[request]
    assert (first.is_last, getattr(first.value, "state", None)) == (False, "executing")
    mesh.ask(stewards[0], CancelTask(task))
    mesh.pass_time(5 * SECOND_US)
    last = other.answers[request][-1]
    assert (last.is_last, getattr(last.value, "outcome", None)) == (True, "cancelled")


def test_who_waits_goes_on_through_the_death_of_a_steward(mesh: TaskMesh) -> None:
    mesh.run_us = 30 * SECOND_US
    task, stewards, other = kept(mesh)
    request = mesh.ask(other, WaitTask(task))
    mesh.pass_time(3 * SECOND_US)
    mesh.crash(stewards[0])
    mesh.pass_time(120 * SECOND_US, until=lambda: other.answers[request][-1].is_last)
    assert getattr(other.answers[request][-1].value, "outcome", None) == "result"


def test_when_none_of_its_stewards_answers_their_names_are_told(mesh: TaskMesh) -> None:
    task, stewards, other = kept(mesh)
    for host in stewards:
        mesh.crash(host)
    refused = told(mesh, other, GetTask(task))
    assert isinstance(refused, Refused)
    assert refused.code is RefusalCode.NOT_YET
    assert "none of the devices that keep the task answers: " in refused.message
    assert all(f"device-{host.number} (" in refused.message for host in stewards)


def test_a_beginning_of_an_id_is_not_asked_elsewhere(mesh: TaskMesh) -> None:
    task, _, other = kept(mesh)
    refused = mesh.answer(other, GetTask(task.partition(".")[0]))
    assert isinstance(refused, Refused)
    assert "of others the whole id is needed" in str(refused.hint)


def test_what_its_stewards_do_not_know_is_unknown(mesh: TaskMesh) -> None:
    task, _, other = kept(mesh)
    batch, _, rest = task.partition(".")
    refused = told(mesh, other, GetTask(f"{batch[:-1]}{'a' if batch[-1] != 'a' else 'q'}.{rest}"))
    assert isinstance(refused, Refused)
    assert refused.code is RefusalCode.NOT_FOUND


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x91" * 100_000, msgspec.msgpack.encode({"answer": "nonsense"})]
)
def test_an_answer_that_is_none_is_not_believed(mesh: TaskMesh, body: bytes) -> None:
    task, stewards, other = kept(mesh)
    mesh.loses = lambda *_: True
    request = mesh.ask(other, GetTask(task))
    for host in stewards * 3:  # who is asked is heard, one after the other
        mesh.tell(
            other, Received(host.peer, TaskAnswer(token=1, offset=0, is_last=True, body=body))
        )
    (answer,) = other.answers[request]
    assert isinstance(answer.value, Refused)
    assert answer.value.message == "a steward's answer is not understood"


def test_another_kind_of_answer_is_not_believed(mesh: TaskMesh) -> None:
    task, stewards, other = kept(mesh)
    view = told(mesh, stewards[0], GetTask(task))
    mesh.loses = lambda *_: True
    request = mesh.ask(other, GetReceipt(task))
    for host in stewards * 3:
        told_by_hand(mesh, other, host, 1, view)
    (answer,) = other.answers[request]
    assert isinstance(answer.value, Refused)


def test_who_was_not_asked_is_not_believed(mesh: TaskMesh) -> None:
    task, stewards, other = kept(mesh)
    view = told(mesh, stewards[0], GetTask(task))
    mesh.loses = lambda *_: True
    request = mesh.ask(other, GetTask(task))
    stranger = next(host for host in mesh.hosts if host not in stewards and host is not other)
    told_by_hand(mesh, other, stranger, 1, view)
    assert other.answers[request] == []


def test_parts_that_do_not_follow_each_other_are_dropped(mesh: TaskMesh) -> None:
    task, stewards, other = kept(mesh)
    mesh.loses = lambda *_: True
    request = mesh.ask(other, GetTask(task))
    part = TaskAnswer(token=1, offset=7, is_last=True, body=b"x")
    mesh.tell(other, Received(stewards[0].peer, part))
    assert other.answers[request] == []


def test_who_has_gone_is_not_answered_and_too_many_are_refused(mesh: TaskMesh) -> None:
    task, _, other = kept(mesh)
    mesh.loses = lambda *_: True
    first = mesh.ask(other, GetTask(task))
    mesh.tell(other, AskedNoMore(first))
    requests = [mesh.ask(other, GetTask(task)) for _ in range(FORWARDED_MAX + 1)]
    (refused,) = other.answers[requests[-1]]
    assert "are open already" in getattr(refused.value, "message", "")
    mesh.pass_time(PATIENCE_US)
    assert other.answers[first] == []
    assert len(other.answers[requests[0]]) == 1


def test_a_question_about_no_task_of_this_device_is_answered_as_unknown(mesh: TaskMesh) -> None:
    task, _, other = kept(mesh)
    enquiry = TaskEnquiry(token=9, task=task_id_from_text(task), question=Question.TASK)
    before = len(other.sent)
    mesh.tell(other, Received(mesh.hosts[0].peer, enquiry))
    ((peer, answer),) = [one for one in other.sent[before:] if isinstance(one[1], TaskAnswer)]
    assert peer == mesh.hosts[0].peer
    assert isinstance(answer, TaskAnswer)
    assert b"not_found" in answer.body
