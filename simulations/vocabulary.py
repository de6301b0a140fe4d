"""The words of scenarios: every kind of fault, its keys, and what is written as their values.

One table for scenario files, the Python form and the checks of plans, derived from the types in
`simulations.steps` and `simulations.compound_faults`: a new step or field needs no line here. A key
is the field's name without its unit (`restart_after_us` is written `restart_after`), but for those
in `_KEYS`.
"""

from __future__ import annotations

import enum
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import cast

import msgspec
from msgspec import Struct
from msgspec.inspect import (
    BoolType,
    EnumType,
    Field,
    IntType,
    StrType,
    StructType,
    TupleType,
    Type,
    UnionType,
    VarTupleType,
)

from simulations.compound_faults import COMPOUND_FAULTS
from simulations.steps import AnyStep, Step

_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "arrivals_per_minute": "rate",
        "bytes_per_second": "bandwidth",
        "exercises_wire": "wire",
        "node_count": "nodes",
        "origins": "from",
        "queue_bytes_max": "queue_bytes_max",
        "targets": "to",
        "who": "node",
    }
)
_UNITS = ("_us", "_permille", "_bytes")


class Form(enum.Enum):
    """How a value is written."""

    DURATION = "a duration such as 250ms, 9s or 1m30s, or two to draw between: 1s..9s"
    SIZE = "a size such as 64kB or 2MiB, or two to draw between: 1kB..1MiB"
    SIZES = "a list of sizes"
    SHARE = "a share such as 2% or 0.5%, or two to draw between: 1%..5%"
    COUNT = "a number, or two to draw between: 1..9"
    RATE = "a rate such as 5/s or 30/m"
    FLAG = "true or false"
    TEXT = "text"
    TEXTS = "a list of texts"
    CHOICE = "one of several words, or a list of them to draw from"
    NODE = "a device's number, any, or any of 1..3"
    NODES = "a list of devices' numbers, 0..4, all, rest, some, any 2, or any 2 of 1..4"
    GROUPS = "a list of groups of devices"


_FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "absent": Form.NODES,
        "arrivals_per_minute": Form.RATE,
        "behind_nat": Form.NODES,
        "claimed": Form.NODES,
        "groups": Form.GROUPS,
        "left": Form.NODES,
        "liars": Form.NODES,
        "middle": Form.NODES,
        "node": Form.NODE,
        "nodes": Form.NODES,
        "origins": Form.NODES,
        "providers": Form.NODES,
        "right": Form.NODES,
        "submitters": Form.NODES,
        "targets": Form.NODES,
        "who": Form.NODE,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One key: the field it fills, and how its value is written."""

    key: str
    field: str
    form: Form
    is_required: bool
    choices: tuple[str, ...] = ()  # of Form.CHOICE; of Form.NODE: what is written beside numbers


@cache
def words_of(kind: type[Struct]) -> Mapping[str, Word]:
    """Return the words of a type by their keys, in the order of its fields.

    Fields that have no simple form (other structs, mappings) have no word.
    """
    described = cast(StructType, msgspec.inspect.type_info(kind))
    words = (_word_of(field) for field in described.fields)
    return MappingProxyType({word.key: word for word in words if word is not None})


def _word_of(field: Field) -> Word | None:
    form, choices = _form_of(field.name, field.type)
    if form is None:
        return None
    key = _KEYS.get(field.name) or _without_unit(field.name.removeprefix("is_"))
    return Word(key=key, field=field.name, form=form, is_required=field.required, choices=choices)


def _without_unit(name: str) -> str:
    for unit in _UNITS:
        name = f"{name.removesuffix(f'{unit}_max')}_max" if name.endswith(f"{unit}_max") else name
        name = name.removesuffix(unit)
    return name


def _form_of(name: str, kind: Type) -> tuple[Form | None, tuple[str, ...]]:
    types = kind.types if isinstance(kind, UnionType) else (kind,)
    choices = tuple(
        str(value)
        for one in types
        if isinstance(one, msgspec.inspect.LiteralType)
        for value in one.values
    )
    if name in _FORMS:
        return _FORMS[name], choices
    for one in types:
        match one:
            case IntType():
                return _form_of_number(name), choices
            case BoolType():
                return Form.FLAG, choices
            case EnumType(cls=cls):
                return Form.CHOICE, tuple(member.value for member in cls)
            case StrType():
                return Form.TEXT, choices
            case VarTupleType(item_type=StrType()):
                return Form.TEXTS, choices
            case TupleType() if "bytes" in name:
                return Form.SIZES, choices
    return None, choices


def _form_of_number(name: str) -> Form:
    unit = name.removesuffix("_max")
    if unit.endswith("_us"):
        return Form.DURATION
    if unit.endswith("_permille"):
        return Form.SHARE
    if unit.endswith("_bytes") or name.startswith("bytes_"):
        return Form.SIZE
    return Form.COUNT


def kind_of(step: type[Struct]) -> str:
    """Return the word for a kind of step."""
    return str(step.__struct_config__.tag)


STEPS: Mapping[str, type[Step]] = MappingProxyType(
    {kind_of(step): step for step in typing.get_args(AnyStep)}
)
WORK_KINDS = ("submit", "cancel", "find")
FAULTS: Mapping[str, type[Struct]] = MappingProxyType(
    {kind: step for kind, step in STEPS.items() if kind not in WORK_KINDS}
    | {kind_of(fault): fault for fault in COMPOUND_FAULTS}
)
