"""What becomes of messages and rows on their way: nothing, or what the daemon does to them.

By reference is fast and enough for most runs. Over the wire, each message is encoded, bounded,
decoded and verified as the daemon does it, so that what has no wire form is found here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import msgspec

from simulations.disk import RowForm
from wire.codec import Decoder, FrameCodec, UnknownMessage
from wire.effects import Row
from wire.messages import MESSAGES, Message
from wire.signed import Verifier, encode_body


class ByReference:
    """Messages pass as the objects they are: their structs are frozen."""

    def pack(self, message: Message) -> object:
        """Return the message itself."""
        return message

    def unpack(self, packed: object) -> Message | None:
        """Return the message itself."""
        return cast(Message, packed)


class OverTheWire:
    """Messages pass as frames of `/meshd/link/1`."""

    def __init__(self, verifier: Verifier) -> None:
        self.bytes_count = 0
        self._codec = FrameCodec(MESSAGES, verifier)

    def pack(self, message: Message) -> object:
        """Return the frame. Raises FrameTooLarge."""
        frame = self._codec.encode(message)
        self.bytes_count += len(frame)
        return frame

    def unpack(self, packed: object) -> Message | None:
        """Return the message in a frame, None for an unknown one. Raises MalformedFrame."""
        message = self._codec.decode(cast(bytes, packed))
        return None if isinstance(message, UnknownMessage) else cast(Message, message)


class EncodedRows(RowForm):
    """Rows lie on the disk as bytes, and come back decoded and verified."""

    def __init__(self, kinds: Mapping[str, type[msgspec.Struct]], verifier: Verifier) -> None:
        self._decoders = {kind: Decoder(struct, verifier) for kind, struct in kinds.items()}

    def freeze(self, row: Row) -> Row:
        """Return the row with its value as bytes. Raises KeyError for a kind nobody declared."""
        if row.value is None:
            return row
        self._decoders[row.kind]  # a kind that could not be read again must not be written
        return Row(row.kind, row.key, _Encoded(encode_body(row.value)))

    def thaw(self, row: Row) -> Row:
        """Return the row with its value decoded and verified."""
        received = cast(_Encoded, row.value).received
        return Row(row.kind, row.key, self._decoders[row.kind].decode(received))


class _Encoded(msgspec.Struct, frozen=True):
    received: bytes
