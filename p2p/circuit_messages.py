"""The messages that set up a circuit: libp2p/specs, relay, *Circuit Relay v2*, its two protocols.

Who wants a circuit asks the relay on `HOP` to connect it; the relay tells the other device on
`STOP` who that is; each is answered with a status, and after an OK the stream is the circuit. There
are no reservations. Only libp2p's generated messages are used, and nothing else of its relay.
"""

from __future__ import annotations

from typing import Final, TypeVar

from google.protobuf.message import DecodeError
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Status, StopMessage
from libp2p.relay.circuit_v2.pb.circuit_pb2 import PeerId as PeerMessage
from libp2p.utils.varint import encode_varint_prefixed

from p2p.errors import ForeignKey, MalformedCircuit, StreamBroken
from p2p.identity import libp2p_id, peer_of
from p2p.streams import Stream
from wire.ids import PeerId

HOP: Final = "/libp2p/circuit/relay/0.2.0/hop"
STOP: Final = "/libp2p/circuit/relay/0.2.0/stop"
MESSAGE_BYTES_MAX: Final = 4_096  # as the specification wants
_LENGTH_BITS: Final = 7

_Message = TypeVar("_Message", HopMessage, StopMessage)

OK: Final = int(Status.OK)
RESOURCE_LIMIT_EXCEEDED: Final = int(Status.RESOURCE_LIMIT_EXCEEDED)
PERMISSION_DENIED: Final = int(Status.PERMISSION_DENIED)
CONNECTION_FAILED: Final = int(Status.CONNECTION_FAILED)
NO_RESERVATION: Final = int(Status.NO_RESERVATION)
MALFORMED_MESSAGE: Final = int(Status.MALFORMED_MESSAGE)


def hop_connect(target: PeerId) -> bytes:
    """Return what asks a relay for a circuit to `target`."""
    peer = PeerMessage(id=libp2p_id(target).to_bytes())
    return _delimited(HopMessage(type=HopMessage.CONNECT, peer=peer))


def stop_connect(source: PeerId) -> bytes:
    """Return what tells a device that a circuit from `source` is here."""
    peer = PeerMessage(id=libp2p_id(source).to_bytes())
    return _delimited(StopMessage(type=StopMessage.CONNECT, peer=peer))


def hop_status(status: int) -> bytes:
    """Return a relay's answer."""
    return _delimited(HopMessage(type=HopMessage.STATUS, status=Status.ValueType(status)))


def stop_status(status: int) -> bytes:
    """Return the answer of the device that a circuit leads to."""
    return _delimited(StopMessage(type=StopMessage.STATUS, status=Status.ValueType(status)))


async def read_hop_connect(stream: Stream) -> PeerId:
    """Return to whom a circuit is wanted. Raises MalformedCircuit, StreamBroken."""
    message = _parsed(HopMessage(), await _read(stream))
    if message.type != HopMessage.CONNECT:
        raise MalformedCircuit("no CONNECT: there are no reservations here")
    return _peer(message.peer.id)


async def read_stop_connect(stream: Stream) -> PeerId:
    """Return from whom a circuit comes, as the relay says. Raises what `read_hop_connect` does."""
    message = _parsed(StopMessage(), await _read(stream))
    if message.type != StopMessage.CONNECT:
        raise MalformedCircuit("no CONNECT")
    return _peer(message.peer.id)


async def read_hop_status(stream: Stream) -> int:
    """Return what a relay answers. Raises MalformedCircuit, StreamBroken."""
    message = _parsed(HopMessage(), await _read(stream))
    if message.type != HopMessage.STATUS:
        raise MalformedCircuit("no STATUS")
    return int(message.status)


async def read_stop_status(stream: Stream) -> int:
    """Return what a device answers to a relay. Raises MalformedCircuit, StreamBroken."""
    message = _parsed(StopMessage(), await _read(stream))
    if message.type != StopMessage.STATUS:
        raise MalformedCircuit("no STATUS")
    return int(message.status)


def status_text(status: int) -> str:
    """Return a status in the specification's words."""
    try:
        return Status.Name(Status.ValueType(status))
    except ValueError:
        return f"status {status}"


def _delimited(message: HopMessage | StopMessage) -> bytes:
    return encode_varint_prefixed(message.SerializeToString())


def _parsed(message: _Message, body: bytes) -> _Message:
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise MalformedCircuit("no message of a circuit") from error
    return message


def _peer(raw: bytes) -> PeerId:
    try:
        return peer_of(ID(raw))
    except ForeignKey as error:
        raise MalformedCircuit("no id of a device") from error


async def _read(stream: Stream) -> bytes:
    """Return the next message, and read no byte of what follows: that is the circuit's."""
    size_bytes = await _read_length(stream)
    body = b""
    while len(body) < size_bytes:
        received = await stream.receive_some(size_bytes - len(body))
        if not received:
            raise StreamBroken("it ended in the middle of a message")
        body += received
    return body


async def _read_length(stream: Stream) -> int:
    size_bytes = 0
    for place in range(2):
        byte = await stream.receive_some(1)
        if not byte:
            raise StreamBroken("it ended before a message")
        size_bytes |= (byte[0] & 0x7F) << (_LENGTH_BITS * place)
        if byte[0] < 1 << _LENGTH_BITS:
            break
    else:
        raise MalformedCircuit("a message that is too long")
    if not 0 < size_bytes <= MESSAGE_BYTES_MAX:
        raise MalformedCircuit(f"a message of {size_bytes} bytes")
    return size_bytes
