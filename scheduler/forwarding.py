"""Questions about tasks that other devices keep: asked there, and theirs answered here.

A task's id names its stewards, so any member finds who can tell. They are asked one after the
other, those that are linked first; one that says nothing within a second is not waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec
from msgspec.structs import replace

from scheduler.answer_parts import AnswerParts, answer_parts
from scheduler.enquiries import Enquiries, Enquiry
from scheduler.selection import Candidate
from wire.answers import Answer as AnswerValue
from wire.answers import ReceiptView, RefusalCode, Refused, ResultView, TaskView, WhyView
from wire.commands import CancelTask, GetReceipt, GetResult, GetTask, WaitTask, WhyTask
from wire.effects import Answer, Effect, Fetch, Send, SetTimer
from wire.errors import MalformedId
from wire.events import Fetched, FetchFailed
from wire.ids import PeerId, TaskId, steward_short, task_id_from_text
from wire.messages import Question, TaskAnswer, TaskEnquiry

FORWARDED_MAX = 256
ANSWERING_MAX = 256
TICK_US = 1_000_000
SILENT_TICKS_MAX = 10
FETCH_TICKS_MAX = 60

Forwardable: TypeAlias = GetTask | WaitTask | WhyTask | GetResult | GetReceipt
_Told: TypeAlias = TaskView | WhyView | ReceiptView | ResultView | Refused

_QUESTIONS: dict[type, Question] = {
    GetTask: Question.TASK,
    WaitTask: Question.TASK,
    WhyTask: Question.WHY,
    GetResult: Question.RESULT,
    GetReceipt: Question.RECEIPT,
}
_ANSWERS: dict[Question, type[_Told]] = {
    Question.TASK: TaskView,
    Question.WHY: WhyView,
    Question.RESULT: ResultView,
    Question.RECEIPT: ReceiptView,
}
_NO_ANSWER = Refused(code=RefusalCode.INTERNAL, message="a steward's answer is not understood")
_decode = msgspec.msgpack.Decoder[_Told](_Told).decode


@dataclass(frozen=True, slots=True)
class ForwardDue:
    """Timer: ask the next one, ask again, or give up."""

    token: int


@dataclass(frozen=True, slots=True)
class OutputToken:
    """Names an output that is fetched for somebody who asked here."""

    token: int


@dataclass(slots=True, kw_only=True)
class _Forwarded:
    """A question of a person's that others are asked."""

    request: int
    command: Forwardable
    task: TaskId
    peers: tuple[PeerId, ...]
    fallback: AnswerValue | None
    ticks: int = 0
    asked: list[PeerId] = field(default_factory=list)
    parts: AnswerParts = field(default_factory=AnswerParts)
    refused: Refused | None = None
    shown: TaskView | None = None
    result: ResultView | None = None  # whose output is being fetched


@dataclass(frozen=True, slots=True)
class _Asker:
    """Another device that asked here."""

    peer: PeerId
    token: int
    box: bytes | None  # the batch key, sealed to it


@dataclass(slots=True, kw_only=True)
class Forwarding:
    """Asks and answers; what is told of a task is what its steward's `enquiries` say."""

    own: PeerId
    enquiries: Enquiries
    candidates: Callable[[], list[Candidate]]
    is_linked: Callable[[PeerId], bool]
    reach: Callable[[PeerId], list[Effect]]
    _open: dict[int, _Forwarded] = field(default_factory=dict)
    _askers: dict[int, _Asker] = field(default_factory=dict)
    _count: int = 0

    # --- asking -----------------------------------------------------------------------------

    def on_asked(self, request: int, command: Enquiry) -> list[Effect]:
        """Answer from here; where nothing is known of the task here, have its stewards tell."""
        effects = self.enquiries.on_asked(request, command)
        match effects:
            case [Answer(value=Refused(code=RefusalCode.NOT_FOUND))]:
                fallback = None
            case [Answer(value=WhyView(is_current=False) as view)]:
                fallback = view  # who leads it knows better
            case _:
                return effects
        task = _task_of(command)
        if task is None or not isinstance(command, Forwardable):
            return effects
        peers = self._stewards(task)
        if not peers:
            return effects
        if len(self._open) >= FORWARDED_MAX:
            text = f"{FORWARDED_MAX} questions to other devices are open already"
            return [Answer(request, Refused(code=RefusalCode.REFUSED, message=text))]
        self._count += 1
        self._open[self._count] = _Forwarded(
            request=request, command=command, task=task, peers=peers, fallback=fallback
        )
        return [*self._ask(self._count), SetTimer(ForwardDue(self._count), TICK_US)]

    def on_asked_no_more(self, request: int) -> None:
        """Whoever asked has gone."""
        for token in [token for token, one in self._open.items() if one.request == request]:
            del self._open[token]

    def on_due(self, due: ForwardDue) -> list[Effect]:
        """A second has passed."""
        one = self._open.get(due.token)
        if one is None:
            return []
        one.ticks += 1
        if one.result is not None:
            if one.ticks < FETCH_TICKS_MAX:
                return [SetTimer(due, TICK_US)]
            text = "the output could not be fetched in time"
            return self._end(due.token, _refused(RefusalCode.NOT_YET, text, "ask again"))
        if one.shown is not None:  # somebody waits for its end
            one.asked.clear()
        elif one.ticks >= SILENT_TICKS_MAX:
            return self._end(due.token, one.fallback or one.refused or self._silence(one))
        return [*self._ask(due.token), SetTimer(due, TICK_US)]

    def on_answer(self, peer: PeerId, answer: TaskAnswer) -> list[Effect]:
        """A part of an answer came."""
        one = self._open.get(answer.token)
        if one is None or peer not in one.asked:
            return []
        received = one.parts.take(peer, answer)
        if received is None:
            return []
        try:
            told = _decode(received)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            told = _NO_ANSWER
        if not isinstance(told, (Refused, _ANSWERS[_QUESTIONS[type(one.command)]])):
            told = _NO_ANSWER
        return self._on_told(answer.token, one, peer, told)

    def on_fetched(self, event: Fetched | FetchFailed) -> list[Effect]:
        """An output is here, or is not to be had."""
        token = event.token
        one = self._open.get(token.token) if isinstance(token, OutputToken) else None
        if one is None or one.result is None or not isinstance(token, OutputToken):
            return []
        if isinstance(event, FetchFailed):
            text = f"the output could not be fetched: {event.reason}"
            return self._end(token.token, _refused(RefusalCode.NOT_YET, text, "ask again"))
        return self._end(token.token, one.result)

    # --- answering --------------------------------------------------------------------------

    def on_enquiry(self, peer: PeerId, enquiry: TaskEnquiry) -> list[Effect]:
        """Another device asks about a task that this one may keep."""
        batch = self.enquiries.batches.get(enquiry.task.batch)
        keys = () if batch is None else batch.contract.body.keys
        asker = _Asker(
            peer, enquiry.token, next((one.box for one in keys if one.recipient == peer), None)
        )
        if len(self._askers) >= ANSWERING_MAX:
            busy = _refused(RefusalCode.REFUSED, "it answers too many questions already", None)
            return _parts(asker, busy)
        task = str(enquiry.task)
        needs_key = enquiry.question is Question.RESULT or enquiry.with_digest_key
        if batch is not None and needs_key and asker.box is None:
            return _parts(asker, self._not_for(enquiry))
        self._count += 1
        self._askers[-self._count] = asker
        command: Enquiry
        match enquiry.question:
            case Question.TASK:
                command = GetTask(task)
            case Question.WHY:
                command = WhyTask(task)
            case Question.RESULT:
                command = GetResult(task)
            case Question.RECEIPT:
                command = GetReceipt(task, enquiry.with_digest_key)
            case Question.HISTORY:
                raise AssertionError("histories are told elsewhere")
        return self.redirected(self.enquiries.on_asked(-self._count, command))

    def redirected(self, effects: Iterable[Effect]) -> list[Effect]:
        """Return effects of the enquiries, with answers to other devices on their way there."""
        sent: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Answer) and effect.request in self._askers:
                sent += _parts(self._askers.pop(effect.request), effect.value)
            else:
                sent.append(effect)
        return sent

    # --- details ----------------------------------------------------------------------------

    def _stewards(self, task: TaskId) -> tuple[PeerId, ...]:
        """Return the known devices that the id may mean, in its order."""
        known: dict[bytes, list[PeerId]] = {}
        for one in self.candidates():
            if not one.is_self:
                known.setdefault(steward_short(one.peer), []).append(one.peer)
        return tuple(peer for short in task.stewards for peer in known.get(short, ()))

    def _ask(self, token: int) -> list[Effect]:
        """Ask the next one that is linked; have links to the others."""
        one = self._open[token]
        left = [peer for peer in one.peers if peer not in one.asked]
        linked = next((peer for peer in left if self.is_linked(peer)), None)
        effects = [
            effect for peer in left if not self.is_linked(peer) for effect in self.reach(peer)
        ]
        if linked is None:
            return effects
        one.asked.append(linked)
        enquiry = TaskEnquiry(
            token=token,
            task=one.task,
            question=_QUESTIONS[type(one.command)],
            with_digest_key=isinstance(one.command, GetReceipt) and one.command.with_digest_key,
        )
        return [Send(linked, enquiry), *effects]

    def _on_told(self, token: int, one: _Forwarded, peer: PeerId, told: _Told) -> list[Effect]:
        match told:
            case Refused():
                if one.refused is None or one.refused.code is RefusalCode.NOT_FOUND:
                    one.refused = told
                if len(one.asked) == len(one.peers) and one.shown is None:
                    return self._end(token, one.fallback or one.refused)
                return self._ask(token)
            case TaskView() if isinstance(one.command, WaitTask) and not told.is_decided:
                is_news = told != one.shown
                one.shown = told
                return [Answer(one.request, told, is_last=False)] if is_news else []
            case WhyView(is_current=False) if len(one.asked) < len(one.peers):
                one.fallback = one.fallback or told  # who leads the task knows better
                return self._ask(token)
            case ResultView():
                return self._fetch(token, one, peer, told)
            case _:
                return self._end(token, told)

    def _fetch(self, token: int, one: _Forwarded, peer: PeerId, told: ResultView) -> list[Effect]:
        """Have the sealed output here before it is told: the shell opens it from its own disk."""
        if told.output.blob is None:
            return self._end(token, told)
        one.result = told
        return [Fetch(told.output, (peer,), OutputToken(token))]

    def _end(self, token: int, value: AnswerValue) -> list[Effect]:
        return [Answer(self._open.pop(token).request, value)]

    def _silence(self, one: _Forwarded) -> Refused:
        known = [found for found in self.candidates() if found.peer in one.peers]
        states = [f"{found.name} ({_reached(found)})" for found in known]
        return _refused(
            RefusalCode.NOT_YET,
            f"none of the devices that keep the task answers: {', '.join(states)}",
            "ask again when one of them is linked: `meshctl peers` shows which are",
        )

    def _not_for(self, enquiry: TaskEnquiry) -> Refused:
        name = self.enquiries.name_of(self.own)
        if enquiry.question is Question.RECEIPT:
            return _refused(
                RefusalCode.REFUSED,
                "the digest key is for the submitter, the task's stewards and its readers",
                f"ask without --with-digest-key, or on {name}",
            )
        return _refused(
            RefusalCode.REFUSED,
            "this device has no key to the task's output: only the submitter, the stewards and the"
            " readers that its contract names have one",
            f"ask on {name}, or submit it with --reader and this device's name",
        )


def _reached(steward: Candidate) -> str:
    if steward.is_dead:
        return "dead"
    return "no answer" if steward.is_linked else "no link"


def _task_of(command: Enquiry) -> TaskId | None:
    """Return the task, where its whole id is given: only that names its stewards."""
    reference = getattr(command, "task", None)
    if not isinstance(reference, str) or isinstance(command, CancelTask):
        return None
    try:
        return task_id_from_text(reference)
    except MalformedId:
        return None


def _parts(asker: _Asker, value: AnswerValue) -> list[Effect]:
    """Return the messages that bring an answer, with the asker's own box of the batch key."""
    if isinstance(value, ResultView) and asker.box is not None:
        value = replace(value, box=asker.box)
    if isinstance(value, ReceiptView) and value.box is not None:
        value = replace(value, box=asker.box)
    return answer_parts(asker.peer, asker.token, value)


def _refused(code: RefusalCode, message: str, hint: str | None) -> Refused:
    return Refused(code=code, message=message, hint=hint)
