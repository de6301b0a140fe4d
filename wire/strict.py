"""MessagePack that means the same to every reader, or is refused.

msgspec lets the last of two equal keys win, other decoders the first: one signed body would be two
votes. So everything is walked once before it is decoded by type: keys are unique, there are no
extension types, and no array or map is longer than anything we have. The walk costs a tenth of
verifying a signature.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

import msgpack
import msgspec

from wire.errors import MalformedFrame

ARRAY_LENGTH_MAX = 16_384
MAP_LENGTH_MAX = 4_096

_Struct = TypeVar("_Struct")


def decode_strictly(
    decoder: msgspec.msgpack.Decoder[_Struct], received: bytes, what: str = "body"
) -> _Struct:
    """Return the struct in `received`.

    Raises MalformedFrame, and what the decoder's hook raises on purpose. `what` names the bytes in
    the message.
    """
    try:
        msgpack.unpackb(
            received,
            use_list=False,
            strict_map_key=False,
            object_pairs_hook=_refuse_equal_keys,
            max_array_len=ARRAY_LENGTH_MAX,
            max_map_len=MAP_LENGTH_MAX,
            max_ext_len=0,
        )
        return decoder.decode(received)
    except (ValueError, msgspec.MsgspecError, msgpack.UnpackException, RecursionError) as error:
        # UnicodeDecodeError and msgpack's own errors are ValueErrors.
        raise MalformedFrame(f"{what}: {str(error).strip() or type(error).__name__}") from error


def _refuse_equal_keys(pairs: list[tuple[Hashable, object]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a field is given twice")
