"""What SWIM nodes say to each other, and how many bytes each message has.

The messages are memberlist's (`net.go`, v0.6), the sizes those of its encoding: a type byte and
a MessagePack map with the names of the fields. Payloads are not compressed here, as memberlist's
are where that makes them shorter: with the names of few nodes it hardly does.
"""

from __future__ import annotations

from typing import NewType, TypeAlias

import msgpack
from msgspec import Struct

Node = NewType("Node", int)  # a node for life: what memberlist calls its name
Address = NewType("Address", int)  # where a node can be reached; a node may get another one

PACKET_BYTES_MAX = 1_400  # `UDPBufferSize`
COMPOUND_HEADER_BYTES = 2
COMPOUND_PART_BYTES = 2


class Alive(Struct, frozen=True, gc=False):
    """A node says that it lives, at an address."""

    node: Node
    incarnation: int
    address: Address


class Suspect(Struct, frozen=True, gc=False):
    """`origin` has had no answer from a node."""

    node: Node
    incarnation: int
    origin: Node


class Dead(Struct, frozen=True, gc=False):
    """`origin` has waited long enough for a refutation."""

    node: Node
    incarnation: int
    origin: Node


class Ping(Struct, frozen=True, gc=False):
    """Are you there?"""

    sequence: int
    target: Node
    reply_to: Address


class IndirectPing(Struct, frozen=True, gc=False):
    """Please ping `target` for me, and tell me too if it does not answer."""

    sequence: int
    target: Node
    address: Address
    reply_to: Address


class Ack(Struct, frozen=True, gc=False):
    """The answer to a ping, also one that was passed on."""

    sequence: int


class Nack(Struct, frozen=True, gc=False):
    """I am well, and the node that you asked me to ping has not answered me."""

    sequence: int


class StreamPing(Struct, frozen=True, gc=False):
    """A ping over TCP, which is answered with itself."""

    target: Node


class PushPull(Struct, frozen=True, gc=False):
    """All that a node holds, which is answered in kind."""

    states: tuple[Alive | Suspect | Dead, ...]


Update: TypeAlias = Alive | Suspect | Dead
Message: TypeAlias = Update | Ping | IndirectPing | Ack | Nack
StreamMessage: TypeAlias = StreamPing | PushPull

_ADDRESS = b"\x0a\x00\x00\x01"
_PORT = 7_946
_NAME = "device-100"
_VERSIONS = bytes((1, 5, 2, 2, 5, 4))
_INCARNATION = 3
_SEQUENCE = 70_000
_SOURCE: dict[str, str | int | bytes | bool] = {
    "SourceAddr": _ADDRESS,
    "SourcePort": _PORT,
    "SourceNode": _NAME,
}


def _bytes_of(fields: dict[str, str | int | bytes | bool]) -> int:
    return 1 + len(msgpack.packb(fields))


SIZES: dict[type[Message], int] = {
    Alive: _bytes_of(
        {
            "Incarnation": _INCARNATION,
            "Node": _NAME,
            "Addr": _ADDRESS,
            "Port": _PORT,
            "Meta": b"",
            "Vsn": _VERSIONS,
        }
    ),
    Suspect: _bytes_of({"Incarnation": _INCARNATION, "Node": _NAME, "From": _NAME}),
    Dead: _bytes_of({"Incarnation": _INCARNATION, "Node": _NAME, "From": _NAME}),
    Ping: _bytes_of({"SeqNo": _SEQUENCE, "Node": _NAME, **_SOURCE}),
    IndirectPing: _bytes_of(
        {
            "SeqNo": _SEQUENCE,
            "Target": _ADDRESS,
            "Port": _PORT,
            "Node": _NAME,
            "Nack": True,
            **_SOURCE,
        }
    ),
    Ack: _bytes_of({"SeqNo": _SEQUENCE, "Payload": b""}),
    Nack: _bytes_of({"SeqNo": _SEQUENCE}),
}
STATE_BYTES = _bytes_of(
    {
        "Name": _NAME,
        "Addr": _ADDRESS,
        "Port": _PORT,
        "Meta": b"",
        "Incarnation": _INCARNATION,
        "State": 0,
        "Vsn": _VERSIONS,
    }
)


def packet_bytes(parts: tuple[Message, ...]) -> int:
    """Return the bytes of a datagram, without the headers of UDP and IP."""
    size_bytes = sum(SIZES[type(part)] for part in parts)
    if len(parts) == 1:
        return size_bytes
    return size_bytes + COMPOUND_HEADER_BYTES + COMPOUND_PART_BYTES * len(parts)


def stream_bytes(message: StreamMessage) -> int:
    """Return the bytes of a message on a stream, without the headers of TCP and IP."""
    if isinstance(message, PushPull):
        return STATE_BYTES * len(message.states)
    return SIZES[Ping]
