"""Answers `history`: every event of a task's life, from every device that touched it.

Its stewards are asked, and whoever is named in what they tell: each for its own events. Who cannot
be asked is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from scheduler.answer_parts import AnswerParts, answer_parts
from scheduler.explainer import steward_state
from scheduler.history import HISTORY_ROW, History, HistoryEvent
from scheduler.selection import Candidate
from wire.answers import HistoryView, RefusalCode, Refused, SilentDevice, TaskEventView
from wire.effects import Answer, Effect, Load, Send, SetTimer
from wire.events import Loaded
from wire.ids import PeerId, TaskId, peer_text, steward_short
from wire.messages import Question, TaskAnswer, TaskEnquiry

GATHERINGS_MAX = 64
READINGS_MAX = 256
ROWS_PER_BATCH_MAX = 64
ASKED_MAX = 64  # devices, for one history
EVENTS_MAX = 10_000
OWN_EVENTS_MAX = 2_000
TICK_US = 500_000
TICKS_MAX = 6

_decode = msgspec.msgpack.Decoder(HistoryView).decode


@dataclass(frozen=True, slots=True)
class GatheringDue:
    """Timer: ask those that are linked by now; after three seconds answer with what came."""

    token: int


@dataclass(frozen=True, slots=True)
class HistoryToken:
    """Names the events of this device on their way from the store."""

    number: int


@dataclass(frozen=True, slots=True)
class _Reading:
    """Who wants the events of this device: a gathering of its own, or another device."""

    task: TaskId
    gathering: int | None
    asker: PeerId | None
    token: int


@dataclass(slots=True)
class _Gathering:
    request: int
    task: TaskId
    ticks: int = 0
    wanted: dict[PeerId, None] = field(default_factory=dict)  # devices, in the order of discovery
    asked: set[PeerId] = field(default_factory=set)
    heard: set[PeerId] = field(default_factory=set)
    parts: AnswerParts = field(default_factory=AnswerParts)
    events: list[TaskEventView] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Histories:
    """Gathers histories for people here, and tells this device's part to others."""

    own: PeerId
    history: History
    candidates: Callable[[], list[Candidate]]
    is_linked: Callable[[PeerId], bool]
    reach: Callable[[PeerId], list[Effect]]
    name_of: Callable[[PeerId], str]
    _open: dict[int, _Gathering] = field(default_factory=dict)
    _readings: dict[int, _Reading] = field(default_factory=dict)
    _count: int = 1 << 32  # no token of `Forwarding`, whose answers come in the same messages

    # --- asking -----------------------------------------------------------------------------

    def on_asked(self, request: int, task: TaskId) -> list[Effect]:
        """Begin with what is known here, and ask the stewards."""
        if len(self._open) >= GATHERINGS_MAX or len(self._readings) >= READINGS_MAX:
            text = f"{GATHERINGS_MAX} histories are being gathered already"
            return [Answer(request, Refused(code=RefusalCode.REFUSED, message=text))]
        self._count += 1
        token = self._count
        gathering = self._open[token] = _Gathering(request, task)
        for one in self.candidates():
            if steward_short(one.peer) in task.stewards:
                gathering.wanted[one.peer] = None
        gathering.wanted[self.own] = None
        gathering.asked.add(self.own)
        reading = self._read(_Reading(task, token, None, 0))
        return [*reading, *self._ask(token, gathering), SetTimer(GatheringDue(token), TICK_US)]

    def on_asked_no_more(self, request: int) -> None:
        """Whoever asked has gone."""
        for token in [token for token, one in self._open.items() if one.request == request]:
            del self._open[token]

    def on_due(self, due: GatheringDue) -> list[Effect]:
        """Half a second has passed."""
        gathering = self._open.get(due.token)
        if gathering is None:
            return []
        gathering.ticks += 1
        if gathering.ticks >= TICKS_MAX:
            return self._end(due.token)
        return [*self._ask(due.token, gathering), SetTimer(due, TICK_US)]

    def on_answer(self, peer: PeerId, answer: TaskAnswer) -> list[Effect]:
        """A part of a device's events came."""
        gathering = self._open.get(answer.token)
        if gathering is None or peer not in gathering.asked or peer in gathering.heard:
            return []
        received = gathering.parts.take(peer, answer)
        if received is None:
            return []
        try:
            told = _decode(received)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return []  # it stays among those that did not tell
        return self._on_told(answer.token, gathering, peer, told.events)

    # --- telling ----------------------------------------------------------------------------

    def on_enquiry(self, peer: PeerId, enquiry: TaskEnquiry) -> list[Effect]:
        """Another device wants this one's events."""
        if len(self._readings) >= READINGS_MAX:
            return []  # it names this device as one that did not tell
        return self._read(_Reading(enquiry.task, None, peer, enquiry.token))

    def on_loaded(self, loaded: Loaded) -> list[Effect]:
        """This device's events came from the store."""
        token = loaded.token
        if not isinstance(token, HistoryToken):
            return []
        reading = self._readings.pop(token.number, None)
        if reading is None:
            return []
        events = self.history.merged(reading.task.batch, loaded.rows)
        views = [self._view(one) for one in events if _is_about(one, reading.task.index)]
        if reading.asker is not None:
            own = HistoryView(task=str(reading.task), events=views[-OWN_EVENTS_MAX:], silent=[])
            return answer_parts(reading.asker, reading.token, own)
        gathering = self._open.get(reading.gathering or 0)
        if gathering is None:
            return []
        return self._on_told(reading.gathering or 0, gathering, self.own, views)

    # --- details ----------------------------------------------------------------------------

    def _read(self, reading: _Reading) -> list[Effect]:
        self._count += 1
        self._readings[self._count] = reading
        token = HistoryToken(self._count)
        return [Load(HISTORY_ROW, reading.task.batch, ROWS_PER_BATCH_MAX, token)]

    def _ask(self, token: int, gathering: _Gathering) -> list[Effect]:
        effects: list[Effect] = []
        for peer in gathering.wanted:
            if peer in gathering.asked:
                continue
            if not self.is_linked(peer):
                effects += self.reach(peer)
                continue
            gathering.asked.add(peer)
            enquiry = TaskEnquiry(token=token, task=gathering.task, question=Question.HISTORY)
            effects.append(Send(peer, enquiry))
        return effects

    def _on_told(
        self, token: int, gathering: _Gathering, peer: PeerId, events: Sequence[TaskEventView]
    ) -> list[Effect]:
        gathering.heard.add(peer)
        room = EVENTS_MAX - len(gathering.events)
        told = [msgspec.structs.replace(one, device=peer_text(peer)) for one in events[:room]]
        named = self.name_of(peer)
        gathering.events += [msgspec.structs.replace(one, device_name=named) for one in told]
        known = {peer_text(one.peer): one.peer for one in self.candidates()}
        for one in told:  # whoever is named had to do with it
            if one.peer in known and len(gathering.wanted) < ASKED_MAX:
                gathering.wanted.setdefault(known[one.peer])
        if gathering.heard >= gathering.wanted.keys():
            return self._end(token)
        return self._ask(token, gathering)

    def _end(self, token: int) -> list[Effect]:
        gathering = self._open.pop(token)
        known = {one.peer: one for one in self.candidates()}
        silent = [
            SilentDevice(
                id=peer_text(peer),
                name=self.name_of(peer),
                state=steward_state(known.get(peer)),
            )
            for peer in gathering.wanted
            if peer not in gathering.heard
        ]
        missing = _unknown_stewards(gathering.task, known)
        silent += [SilentDevice(id="", name=short, state="unknown") for short in missing]
        if not gathering.events and gathering.heard == {self.own}:
            where = ", ".join(f"{one.name} ({one.state})" for one in silent)
            silence = f", and not heard: {where}" if where else ""
            text = f"nothing is known of this task here{silence}"
            refused = Refused(
                code=RefusalCode.NOT_FOUND,
                message=text,
                hint="ask again when a device that keeps it is linked: `meshctl peers`",
            )
            return [Answer(gathering.request, refused)]
        events = sorted(gathering.events, key=lambda one: one.wall_us or 0)
        view = HistoryView(task=str(gathering.task), events=events, silent=silent)
        return [Answer(gathering.request, view)]

    def _view(self, event: HistoryEvent) -> TaskEventView:
        return TaskEventView(
            wall_us=event.wall_us or None,
            device=peer_text(self.own),
            device_name=self.name_of(self.own),
            kind=event.kind,
            peer=None if event.peer is None else peer_text(event.peer),
            peer_name=None if event.peer is None else self.name_of(event.peer),
            detail=event.detail or None,
        )


def _is_about(event: HistoryEvent, index: int) -> bool:
    return not event.indices or index in event.indices


def _unknown_stewards(task: TaskId, known: Iterable[PeerId]) -> list[str]:
    shorts = {steward_short(peer) for peer in known}
    texts = str(task).split(".")[2:]
    return [text for text, short in zip(texts, task.stewards, strict=True) if short not in shorts]
