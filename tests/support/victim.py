"""One node under attack: what it wants is done or answered, and watched for what must never be.

Links, disk, sandbox and blobs are played here, in virtual time. Whatever the node sends must be
readable by others, whatever it keeps must be readable after a restart, no run is started twice, and
no task ever has two outcomes.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from random import Random

from msgspec import Struct
from support.meshes import Device, SmallMesh

from meshd.node import ROW_KINDS, MeshNode
from meshd.settings import NodeSettings
from scheduler.batch import DecisionRow
from wire import effects as do
from wire import events as on
from wire.answers import Accepted
from wire.codec import Decoder, FrameCodec
from wire.ids import BatchId, PeerId
from wire.keys import Ed25519Verifier
from wire.limits import Limits
from wire.messages import MESSAGES, Message
from wire.signed import encode_body
from wire.tasks import Outcome

WALL_US = 1_800_000_000_000_000

_codec = FrameCodec(MESSAGES, Ed25519Verifier())
_decoders: dict[str, Decoder[Struct]] = {
    kind: Decoder(struct, Ed25519Verifier()) for kind, struct in ROW_KINDS.items()
}


@dataclass(slots=True, kw_only=True)
class Victim:
    """A device of `mesh` with its node. `sent` holds what it said to each peer, oldest first."""

    mesh: SmallMesh
    device: Device
    settings: NodeSettings
    seed: int
    now_us: int = 0
    node: MeshNode = field(init=False)
    sent: list[tuple[PeerId, Message]] = field(default_factory=list)
    runs: dict[do.RunId, do.Execute] = field(default_factory=dict)
    executed: list[do.Execute] = field(default_factory=list)
    fetches: list[do.Fetch] = field(default_factory=list)
    answers: list[do.Answer] = field(default_factory=list)
    accepted: list[Accepted] = field(default_factory=list)
    hung_up: list[PeerId] = field(default_factory=list)
    linked: set[PeerId] = field(default_factory=set)
    rows: dict[tuple[str, bytes], bytes] = field(default_factory=dict)
    outcomes: dict[tuple[BatchId, int], Outcome] = field(default_factory=dict)
    _timers: dict[Hashable, int] = field(default_factory=dict)
    _heap: list[tuple[int, int, Hashable]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        """Start the device for the first time."""
        self.start()

    def start(self) -> None:
        """Start, or restart after a crash: what is not on the disk is gone."""
        self.seed += 1
        self.node = MeshNode(
            settings=self.settings,
            signer=self.device.keys,
            genesis=self.mesh.genesis,
            chain=self.device.chain,
            network_key=b"n" * 32,
            rng=Random(self.seed),
        )
        self.runs, self.fetches, self._timers, self._heap = {}, [], {}, []
        self.linked = set()
        rows = tuple(
            do.Row(kind, key, _decoders[kind].decode(body))
            for (kind, key), body in self.rows.items()
        )
        self.handle(on.Restarted(store=self.device.store, rows=rows))
        self.handle(on.WallClockRead(WALL_US + self.now_us, 1_000_000))
        self.handle(on.Listening(("/ip4/127.0.0.1/tcp/4777",)))
        self.pass_time(1_000)  # what waits for the disk only

    def handle(self, event: on.Event) -> None:
        """Let the node handle `event`, and do what it wants."""
        for effect in self.node.handle(event, self.now_us):
            self._carry_out(effect)

    def pass_time(self, passed_us: int) -> None:
        """Let time pass, timer by timer."""
        until_us = self.now_us + passed_us
        while self._heap and self._heap[0][0] <= until_us:
            due_us, number, key = heapq.heappop(self._heap)
            if self._timers.get(key) == number:
                del self._timers[key]
                self.now_us = max(self.now_us, due_us)
                self.handle(on.TimerDue(key))
        self.now_us = until_us

    def _carry_out(self, effect: do.Effect) -> None:
        match effect:
            case do.Send(peer, message):
                assert peer != self.device.peer, "a message to itself left the node"
                _codec.decode(_codec.encode(message))  # else others would take us for hostile
                self.sent.append((peer, message))
            case do.SetTimer(key, after_us):
                number = self._timers[key] = next(self._numbers)
                heapq.heappush(self._heap, (self.now_us + max(0, after_us), number, key))
            case do.Persist(rows, then):
                self._write(rows)
                for following in then:
                    self._carry_out(following)
            case do.Execute():
                assert effect.run not in self.runs, "a run that is under way is started again"
                assert _is_within(effect.limits, self.settings.caps), "more than the owner allows"
                self.runs[effect.run] = effect
                self.executed.append(effect)
            case do.Kill(run):
                self.runs.pop(run, None)
            case do.Fetch():
                self.fetches.append(effect)
            case do.Answer():
                self.answers.append(effect)
                if isinstance(effect.value, Accepted):
                    self.accepted.append(effect.value)
            case do.Hangup(peer):
                self.hung_up.append(peer)
            case do.Load(kind, key, _, token):
                body = self.rows.get((kind, key))
                row = None if body is None else do.Row(kind, key, _decoders[kind].decode(body))
                self.handle(on.Loaded(token, () if row is None else (row,)))
            case do.FindProviders(_, token):
                self.handle(on.ProvidersFound(token, ()))
            case do.Dial(peer):
                self.handle(on.DialFailed(peer, "nobody is there"))
            case _:
                pass

    def _write(self, rows: Iterable[do.Row]) -> None:
        for row in rows:
            if row.value is None:
                self.rows.pop((row.kind, row.key), None)
                continue
            body = encode_body(row.value)
            _decoders[row.kind].decode(body)  # else it would be lost at the next restart
            self.rows[row.kind, row.key] = body
            if isinstance(row.value, DecisionRow):
                self._note_outcomes(row.value)

    def _note_outcomes(self, decision: DecisionRow) -> None:
        for index, outcome in decision.outcomes.items():
            known = self.outcomes.setdefault((decision.batch, index), outcome)
            assert known == outcome, f"task {index} has two outcomes"


def _is_within(limits: Limits, caps: Limits) -> bool:
    return all(getattr(limits, name) <= getattr(caps, name) for name in Limits.__struct_fields__)
