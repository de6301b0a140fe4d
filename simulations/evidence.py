"""The signed parts inside messages and rows, wherever a node put them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from msgspec import Struct

from wire.signed import Signed, SignedBody
from wire.tasks import Receipt

Part: TypeAlias = Signed[SignedBody] | Receipt


def signed_parts(whole: object) -> Iterator[Part]:
    """Yield every signed part and receipt in a struct, the outer ones first."""
    stack = [whole]
    while stack:
        part = stack.pop()
        if isinstance(part, Signed):
            yield part
            stack.append(part.body)
        elif isinstance(part, Struct):
            if isinstance(part, Receipt):
                yield part
            stack.extend(getattr(part, name) for name in reversed(part.__struct_fields__))
        elif isinstance(part, list | tuple):
            stack.extend(reversed(part))
        elif isinstance(part, dict):
            stack.extend(reversed(list(part.values())))
