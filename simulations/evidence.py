"""The signed parts inside messages and rows, wherever a node put them."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from functools import cache
from types import NoneType
from typing import Annotated, NewType, TypeAlias, get_args, get_origin, get_type_hints

from msgspec import Struct

from wire.signed import Signed, SignedBody
from wire.tasks import Receipt

Part: TypeAlias = Signed[SignedBody] | Receipt

_PLAIN = (int, float, str, bytes, enum.Enum, NoneType)


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
            stack.extend([getattr(part, name) for name in _holders(type(part))])
        elif isinstance(part, list | tuple):
            stack.extend(reversed(part))
        elif isinstance(part, dict):
            stack.extend(reversed(list(part.values())))


@cache
def _holders(kind: type[Struct]) -> tuple[str, ...]:
    """Return the fields of a struct that may hold signed parts, the last first.

    Most messages have none, and every message of a run comes by here.
    """
    hints = get_type_hints(kind)
    return tuple(name for name in reversed(kind.__struct_fields__) if not _is_plain(hints[name]))


def _is_plain(annotation: object) -> bool:
    """Say whether values of a type are, or are made of, numbers, texts and bytes alone."""
    if isinstance(annotation, NewType):
        return _is_plain(annotation.__supertype__)
    if isinstance(annotation, type) and issubclass(annotation, _PLAIN):
        return True
    if get_origin(annotation) is Annotated:
        return _is_plain(get_args(annotation)[0])
    parts = [part for part in get_args(annotation) if part is not ...]
    return bool(parts) and all(_is_plain(part) for part in parts)
