"""Devices that lie: the node that ships, with a hand between it and its host.

A liar holds its own key and what it heard, as any member that was taken over would; it cannot sign
for another. What it does is distorted on its way, so its own node never knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec.structs import replace

from simulations.device import Boot, Node, NodeFactory
from simulations.steps import Falsehood
from wire.effects import Effect, Persist, Publish, Send
from wire.events import Event, Executed, TimerDue
from wire.ids import Digest, PeerId
from wire.messages import (
    RECORDS_MAX,
    Heartbeat,
    Hello,
    Message,
    RecordsGiven,
    ResultsOffered,
    Settled,
)
from wire.records import (
    OBSERVATIONS_MAX,
    Capabilities,
    Observation,
    Observations,
    Record,
    RecordKind,
    decode_presence,
)
from wire.signed import Signed, Signer, encode_body, sign
from wire.tasks import Outcome, OutcomeKind, ProvenResult

WRONG_EXIT_CODE = 77
FLOOD_COUNT = 20
CLAIMED_DEVICES = 32
MUCH = 1 << 40


class Falsehoods:
    """How one device lies at present, whatever its process is."""

    def __init__(self) -> None:
        self.told: Counter[str] = Counter()  # `lie.` and how: how often it was really told
        self._lasting: Counter[Falsehood] = Counter()

    def add(self, how: Falsehood) -> None:
        """Begin a lie."""
        self._lasting[how] += 1

    def end(self, how: Falsehood) -> None:
        """End it; if it was begun twice it goes on."""
        self._lasting[how] -= 1

    def tells(self, how: Falsehood) -> bool:
        """Say whether the device lies so at present; it does, then, and that is counted."""
        if self._lasting[how] <= 0:
            return False
        self.told[f"lie.{how.value}"] += 1
        return True


class Liar:
    """A node whose words are distorted as its `falsehoods` say."""

    def __init__(
        self, node: Node, falsehoods: Falsehoods, *, signer: Signer, stranger: Signer
    ) -> None:
        self._node = node
        self._falsehoods = falsehoods
        self._signer = signer
        self._stranger = stranger  # a key that no certificate names
        self._linked: dict[PeerId, int] = {}
        self._first_results: ResultsOffered | None = None
        self._flood_count = 0

    def hello(self) -> Hello:
        """Say what the node says: a lie here would only keep the device out."""
        return self._node.hello()

    def handle(self, event: Event, now_us: int) -> Sequence[Effect]:
        """Return what the node wants, distorted."""
        if isinstance(event, Executed) and self._falsehoods.tells(Falsehood.WRONG_RESULT):
            event = _wrong(event)
        effects = self._distorted(self._node.handle(event, now_us))
        if isinstance(event, TimerDue) and self._falsehoods.tells(Falsehood.FLOOD):
            effects += self._flood()
        return effects

    def _distorted(self, effects: Sequence[Effect]) -> list[Effect]:
        return [lie for effect in effects for lie in self._distort(effect)]

    def _distort(self, effect: Effect) -> list[Effect]:
        match effect:
            case Send(peer, message):
                number = self._linked.setdefault(peer, len(self._linked))
                told = self._tell(message, is_odd=number % 2 == 1)
                return [] if told is None else [Send(peer, told)]
            case Publish(topic, records):
                return [Publish(topic, self._records(records, is_odd=False))]
            case Persist(rows, then):
                return [Persist(rows, tuple(self._distorted(then)))]
            case _:
                return [effect]

    def _tell(self, message: Message, *, is_odd: bool) -> Message | None:
        """Return what is said instead of `message`, None for nothing."""
        match message:
            case ResultsOffered():
                return self._results(message)
            case RecordsGiven():
                return self._records(message, is_odd=is_odd)
            case Settled() if self._falsehoods.tells(Falsehood.TWO_OUTCOMES):
                cancelled = Outcome(kind=OutcomeKind.CANCELLED)
                return replace(message, outcomes=dict.fromkeys(message.outcomes, cancelled))
            case _:
                return message

    def _results(self, offered: ResultsOffered) -> ResultsOffered | None:
        first = self._first_results = self._first_results or offered
        if self._falsehoods.tells(Falsehood.NO_RESULT):
            return None
        if offered is not first and self._falsehoods.tells(Falsehood.REPLAYED_RESULT):
            return replace(offered, results=first.results)
        if self._falsehoods.tells(Falsehood.FOREIGN_SIGNATURE):
            results = tuple(self._signed_by_stranger(proven) for proven in offered.results)
            return replace(offered, results=results)
        if self._falsehoods.tells(Falsehood.FORGED_SIGNATURE):
            return replace(offered, results=tuple(map(self._forged, offered.results)))
        return offered

    def _signed_by_stranger(self, proven: ProvenResult) -> ProvenResult:
        """A signature that is good, of a key that no certificate names: the node refuses it."""
        return replace(proven, root=sign(proven.root.body, self._stranger))

    def _forged(self, proven: ProvenResult) -> ProvenResult:
        """A signature under a name that did not give it: already the link refuses the frame."""
        root = proven.root
        strange = sign(root.body, self._stranger)
        forged = Signed(
            body=root.body,
            received=root.received,
            signer=root.signer,
            signature=strange.signature,
        )
        return replace(proven, root=forged)

    def _records(self, given: RecordsGiven, *, is_odd: bool) -> RecordsGiven:
        records = [self._record(record, is_odd=is_odd) for record in given.records]
        own = next((one.body for one in records if one.body.owner == self._signer.peer), None)
        if own is not None and self._falsehoods.tells(Falsehood.SLANDER):
            records = (records + self._slander(own))[:RECORDS_MAX]
        return replace(given, records=tuple(records))

    def _slander(self, own: Record) -> list[Signed[Record]]:
        """All others failed and cheated, this device says, and puts it into their mouths, too."""
        others = sorted(self._linked)[:OBSERVATIONS_MAX]
        slots = tuple(Observation(peer, "any", 0, MUCH, MUCH) for peer in others)
        told = replace(
            own, kind=RecordKind.OBSERVATIONS.value, body=encode_body(Observations(slots=slots))
        )
        foreign = (replace(told, owner=peer, incarnation=MUCH) for peer in others[:1])
        return [sign(one, self._signer) for one in (told, *foreign)]

    def _record(self, record: Signed[Record], *, is_odd: bool) -> Signed[Record]:
        """Distort an own record, under the version that it has."""
        body = record.body
        if body.owner != self._signer.peer:
            return record
        is_presence = body.kind == RecordKind.PRESENCE
        if is_presence and is_odd and self._falsehoods.tells(Falsehood.FORKED_RECORDS):
            forked = replace(decode_presence(body.body), name="another-name")
            return sign(replace(body, body=encode_body(forked)), self._signer)
        is_capabilities = body.kind == RecordKind.CAPABILITIES
        if is_capabilities and self._falsehoods.tells(Falsehood.FALSE_CAPABILITIES):
            claimed = tuple(sorted(f"label:device={number}" for number in range(CLAIMED_DEVICES)))
            return sign(replace(body, body=encode_body(Capabilities(keys=claimed))), self._signer)
        return record

    def _flood(self) -> list[Effect]:
        effects: list[Effect] = []
        for peer in self._linked:
            for _ in range(FLOOD_COUNT):
                self._flood_count += 1
                effects.append(Send(peer, Heartbeat(token=self._flood_count)))
        return effects


def lying(
    factory: NodeFactory, falsehoods: dict[int, Falsehoods], *, stranger: Signer
) -> NodeFactory:
    """Return a factory whose nodes lie where `falsehoods` has their device."""

    def make(boot: Boot) -> Node:
        node, own = factory(boot), falsehoods.get(boot.device.index)
        if own is None:
            return node
        return Liar(node, own, signer=boot.device.signer, stranger=stranger)

    return make


def _wrong(executed: Executed) -> Executed:
    """Return an end of a run that is not how it ended: every other one shows itself as wrong."""
    if executed.run.index % 2:
        digest = Digest(bytes(byte ^ 1 for byte in executed.output_digest))
        return replace(executed, output_digest=digest)
    return replace(executed, exit_code=WRONG_EXIT_CODE)
