"""Answers to other devices, cut into messages and put together again."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from wire.effects import Effect, Send
from wire.ids import PeerId
from wire.messages import ANSWER_PART_BYTES_MAX, TaskAnswer

ANSWER_BYTES_MAX = 4 << 20


@dataclass(slots=True)
class AnswerParts:
    """The parts of one answer of each device, in order; others than the next are dropped."""

    _received: dict[PeerId, bytearray] = field(default_factory=dict)

    def take(self, peer: PeerId, answer: TaskAnswer) -> bytes | None:
        """Return a device's whole answer with its last part."""
        received = self._received.setdefault(peer, bytearray())
        if len(received) != answer.offset or answer.offset > ANSWER_BYTES_MAX:
            del self._received[peer]
            return None
        received += answer.body
        if not answer.is_last:
            return None
        del self._received[peer]
        return bytes(received)


def answer_parts(peer: PeerId, token: int, value: Struct) -> list[Effect]:
    """Return the messages that bring an answer."""
    body = msgspec.msgpack.encode(value)
    starts = range(0, len(body), ANSWER_PART_BYTES_MAX)
    return [
        Send(
            peer,
            TaskAnswer(
                token=token,
                offset=start,
                is_last=start == starts[-1],
                body=body[start : start + ANSWER_PART_BYTES_MAX],
            ),
        )
        for start in starts
    ]
