"""The tables of docs/protocol/, drawn from the code: a page and the code cannot differ.

A page holds markers, ``<!-- fields: Contract -->`` ... ``<!-- end -->`` and the like; what is
between them is written by `tests/wire/make_pages.py` and compared by a test.
"""

from __future__ import annotations

import enum
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from telemetry.sample import Gpu, Sample
from wire.blobs import Manifest
from wire.content import Invocation
from wire.membership import (
    JOIN_MESSAGES,
    Certificate,
    Genesis,
    Invitation,
    NetworkKeyRoll,
    Removal,
)
from wire.messages import MESSAGES
from wire.records import Capabilities, Observation, Observations, Presence, Record, Watch
from wire.signed import Signed
from wire.tasks import Contract, Lease, Receipt, Result, ResultRoot, Task, Vote
from wire.text import CAPABILITY_PATTERN, NAME_PATTERN, VISIBLE_ASCII_PATTERN

PAGES = Path(__file__).parent.parent.parent / "docs" / "protocol"

SIGNED_BODIES = (
    Genesis,
    Certificate,
    Removal,
    NetworkKeyRoll,
    Record,
    Contract,
    Lease,
    ResultRoot,
    Vote,
)
PLAIN_BODIES = (
    *(Task, Result, Receipt, Invocation, Invitation),
    *(Presence, Capabilities, Watch, Observations, Observation, Sample, Gpu, Manifest),
)
_PATTERNS = {NAME_PATTERN: "name", CAPABILITY_PATTERN: "capability", VISIBLE_ASCII_PATTERN: "ASCII"}
_MARKED = re.compile(r"(<!-- (\w+)(?:: (\w+))? -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """Return `page` with what belongs between its markers."""

    def fill(match: re.Match[str]) -> str:
        return f"{match[1]}\n{_TABLES[match[2]](match[3])}\n{match[4]}"

    return _MARKED.sub(fill, page)


def marked(page: str, kind: str) -> set[str]:
    """Return the names in all markers of a kind on `page`."""
    return {name for _, found, name, _ in _MARKED.findall(page) if found == kind}


def write_all() -> None:
    """Fill all pages anew."""
    for path in sorted(PAGES.glob("*.md")):
        path.write_text(filled(path.read_text("utf-8")), encoding="utf-8")


def all_kinds() -> dict[str, type[msgspec.Struct]]:
    """Return every struct that is on the wire, in a signed body or in a file, by name."""
    roots = [*MESSAGES.values(), *JOIN_MESSAGES.values(), *SIGNED_BODIES, *PLAIN_BODIES]
    found = {kind.__name__: kind for root in roots for kind in _within(root)}
    return dict(sorted(found.items()))


def all_enums() -> dict[str, type[enum.Enum]]:
    """Return every enumeration among the fields of those, by name."""
    hints = [hint for kind in all_kinds().values() for hint in _hints(kind).values()]
    found = {kind.__name__: kind for hint in hints for kind in _enums_within(hint)}
    return dict(sorted(found.items()))


def _within(kind: object) -> Iterator[type[msgspec.Struct]]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
        for hint in _hints(kind).values():
            yield from _within(hint)
    for argument in typing.get_args(kind):
        yield from _within(argument)


def _enums_within(hint: object) -> Iterator[type[enum.Enum]]:
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        yield hint
    for argument in typing.get_args(hint):
        yield from _enums_within(argument)


def _hints(kind: type[msgspec.Struct]) -> dict[str, object]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {name: hints[name] for name in kind.__struct_fields__}


def _fields_table(name: str) -> str:
    kind = all_kinds()[name]
    is_array = kind.__struct_config__.array_like
    first = "place" if is_array else "field"
    rows = [f"| {first} | type | default |", "|---|---|---|"]
    for place, field in enumerate(msgspec.structs.fields(kind)):
        label = f"{place}: {field.encode_name}" if is_array else f"`{field.encode_name}`"
        rows.append(
            f"| {label} | {_type_text(_hints(kind)[field.name])} | {_default_text(field)} |"
        )
    return "\n".join(rows)


def _default_text(field: msgspec.structs.FieldInfo) -> str:
    if field.default is msgspec.NODEFAULT:
        return "required" if field.default_factory is msgspec.NODEFAULT else "empty"
    default = field.default
    if default is None:
        return "nil"
    if default in ((), b"", ""):
        return "empty"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _type_text(hint: object, metas: tuple[msgspec.Meta, ...] = ()) -> str:
    if isinstance(hint, typing.NewType):
        return hint.__name__
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _type_text(args[0], (*metas, *args[1:]))
    if origin in (typing.Union, types.UnionType):
        return " or ".join("nil" if arg is types.NoneType else _type_text(arg) for arg in args)
    if origin is Signed:
        return f"signed {args[0].__name__}"
    if origin is tuple and args[-1] is ...:
        return f"array of {_count_text(metas)} {_type_text(args[0])}".replace("  ", " ")
    if origin is tuple:
        return "[" + ", ".join(_type_text(arg) for arg in args) + "]"
    if origin is dict:
        return f"map of {_count_text(metas)} {_type_text(args[0])} to {_type_text(args[1])}"
    assert isinstance(hint, type), hint
    if hint is int:
        return f"int {_range_text(metas)}".strip()
    if hint in (str, bytes):
        return f"{hint.__name__} {_count_text(metas)} {_pattern_text(metas)}".strip()
    return hint.__name__


def _first(metas: tuple[msgspec.Meta, ...], name: str) -> typing.Any:  # noqa: ANN401 - any of Meta
    return next((value for meta in metas if (value := getattr(meta, name)) is not None), None)


def _count_text(metas: tuple[msgspec.Meta, ...]) -> str:
    least, most = _first(metas, "min_length"), _first(metas, "max_length")
    if most is None:
        return "" if least is None else f"{least} or more"
    return f"{most}" if least == most else f"{least or 0}..{most}"


def _range_text(metas: tuple[msgspec.Meta, ...]) -> str:
    last = _first(metas, "le")
    last = _first(metas, "lt") - 1 if last is None and _first(metas, "lt") is not None else last
    least = _first(metas, "ge")
    return "" if last is None else f"{least}..{_power_text(last)}"


def _power_text(number: int) -> str:
    for value, text in ((number, ""), (number + 1, " - 1")):
        if value >= 1 << 31 and value & (value - 1) == 0:
            return f"2^{value.bit_length() - 1}{text}"
    return str(number)


def _pattern_text(metas: tuple[msgspec.Meta, ...]) -> str:
    pattern = _first(metas, "pattern")
    return "" if pattern is None else f"({_PATTERNS[pattern]})"


def _tags_table(protocol: str) -> str:
    found: Mapping[str, type] = MESSAGES if protocol == "link" else JOIN_MESSAGES
    rows = ["| tag | message | class | says |", "|---|---|---|---|"]
    for tag, kind in found.items():
        traffic = getattr(kind, "TRAFFIC", None)
        label = "-" if traffic is None else traffic.name.lower()
        rows.append(f"| `{tag}` | {kind.__name__} | {label} | {_summary(kind)} |")
    return "\n".join(rows)


def _domains_table(_: str) -> str:
    rows = [
        f"| `{kind.DOMAIN.decode()}` | {kind.__name__} | {_summary(kind)} |"
        for kind in SIGNED_BODIES
    ]
    return "\n".join(["| domain | body | says |", "|---|---|---|", *rows])


def _values_table(name: str) -> str:
    return ", ".join(f"`{member.value}`" for member in all_enums()[name])


def _summary(kind: type) -> str:
    return (kind.__doc__ or "").split("\n\n")[0].replace("\n", " ").strip()


_TABLES: dict[str, Callable[[str], str]] = {
    "fields": _fields_table,
    "tags": _tags_table,
    "domains": _domains_table,
    "values": _values_table,
}
