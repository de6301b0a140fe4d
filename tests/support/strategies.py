"""Hypothesis strategies for everything on the wire, drawn from the types themselves.

A new message or field is covered without a line here; only types whose fields depend on each other
have a maker of their own.
"""

from __future__ import annotations

import enum
import functools
import types
import typing
from collections.abc import Callable

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from support.meshes import keys_of, store_of

from wire.blobs import BlobRef
from wire.content import Content, Invocation
from wire.ids import Digest
from wire.records import ProtocolRange
from wire.signed import Signed, sign
from wire.tasks import (
    Contract,
    Durability,
    Index,
    KeyFor,
    Lease,
    Outcome,
    OutcomeKind,
    Steward,
)
from wire.text import CAPABILITY_PATTERN, NAME_PATTERN, VISIBLE_ASCII_PATTERN

ITEMS_MAX = 3  # of any collection, however many are allowed
BYTES_MAX = 100

_NAMES = st.text("abcXYZ09 -_.é日本🛰", min_size=1, max_size=12).filter(
    lambda name: name == name.strip()
)
_TEXTS = {
    NAME_PATTERN: _NAMES,
    CAPABILITY_PATTERN: st.builds(
        "{}:{}".format, st.text("az", min_size=1), st.text("8G=é", min_size=1)
    ),
    VISIBLE_ASCII_PATTERN: st.text("/ip4127.0!~", min_size=1, max_size=40),
}


class _Bounds(typing.NamedTuple):
    ge: int | None = None
    le: int | None = None
    min_length: int = 0
    max_length: int | None = None
    pattern: str | None = None


def values_of(kind: object) -> SearchStrategy[typing.Any]:
    """Return a strategy of valid values of a wire type, signed by devices 0, 1 and 2."""
    return _values(kind, _Bounds())


@functools.cache
def _values(kind: object, bounds: _Bounds) -> SearchStrategy[typing.Any]:
    if isinstance(kind, typing.NewType):
        return _values(kind.__supertype__, bounds)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _values(args[0], _bounded(bounds, args[1:]))
    if origin in (typing.Union, types.UnionType):
        return st.one_of([_values(arg, _Bounds()) for arg in args])
    if origin is Signed:
        signers = st.sampled_from([keys_of(0), keys_of(1), keys_of(2)])
        return st.builds(sign, values_of(args[0]), signers)
    if origin is tuple:
        return _tuples(args, bounds)
    if origin is dict:
        keys, items = values_of(args[0]), values_of(args[1])
        return st.dictionaries(keys, items, min_size=bounds.min_length, max_size=ITEMS_MAX)
    if isinstance(kind, type):
        return _values_of_class(kind, bounds)
    raise TypeError(f"no strategy for {kind!r}")


def _bounded(bounds: _Bounds, metas: tuple[object, ...]) -> _Bounds:
    for meta in metas:
        assert isinstance(meta, msgspec.Meta)
        assert (meta.gt, meta.multiple_of) == (None, None), "not used on the wire until now"
        last = meta.le if meta.lt is None else meta.lt - 1
        bounds = _Bounds(
            ge=bounds.ge if meta.ge is None else int(meta.ge),
            le=bounds.le if last is None else int(last),
            min_length=meta.min_length or bounds.min_length,
            max_length=meta.max_length or bounds.max_length,
            pattern=meta.pattern or bounds.pattern,
        )
    return bounds


def _tuples(args: tuple[object, ...], bounds: _Bounds) -> SearchStrategy[tuple[object, ...]]:
    if args[-1] is not ...:
        return st.tuples(*map(values_of, args))
    largest = max(bounds.min_length, min(ITEMS_MAX, bounds.max_length or ITEMS_MAX))
    return st.lists(values_of(args[0]), min_size=bounds.min_length, max_size=largest).map(tuple)


def _values_of_class(kind: type, bounds: _Bounds) -> SearchStrategy[typing.Any]:
    if issubclass(kind, enum.Enum):
        return st.sampled_from(kind)
    if issubclass(kind, msgspec.Struct):
        return _structs(kind)
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(bounds.ge, bounds.le)
    if kind is str:
        return _texts(bounds)
    if kind is bytes:
        largest = max(bounds.min_length, min(BYTES_MAX, bounds.max_length or BYTES_MAX))
        return st.binary(min_size=bounds.min_length, max_size=largest)
    if kind is types.NoneType:
        return st.none()
    raise TypeError(f"no strategy for {kind!r}")


def _texts(bounds: _Bounds) -> SearchStrategy[str]:
    if bounds.pattern is not None:
        texts = _TEXTS[bounds.pattern]
        return texts if bounds.min_length else st.just("") | texts
    largest = min(40, bounds.max_length or 40)
    return st.text(st.characters(codec="utf-8"), min_size=bounds.min_length, max_size=largest)


def _structs(kind: type[msgspec.Struct]) -> SearchStrategy[typing.Any]:
    special = _SPECIAL.get(kind)
    return special() if special is not None else st.builds(kind, **_fields(kind))


def _fields(
    kind: type[msgspec.Struct], *, without: tuple[str, ...] = ()
) -> dict[str, SearchStrategy[typing.Any]]:
    hints = typing.get_type_hints(kind, include_extras=True)
    names = [name for name in kind.__struct_fields__ if name not in without]
    return {name: values_of(hints[name]) for name in names}


def _contents() -> SearchStrategy[Content]:
    inline = st.builds(Content, inline=st.binary(max_size=BYTES_MAX))
    return inline | st.builds(Content, blob=values_of(BlobRef))


def _invocations() -> SearchStrategy[Invocation]:
    words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
    names = words.filter(lambda name: name and "=" not in name)
    env = st.dictionaries(names, words, max_size=ITEMS_MAX).map(lambda env: tuple(env.items()))
    stdin = st.binary(max_size=BYTES_MAX)
    return st.builds(Invocation, args=st.lists(words).map(tuple), env=env, stdin=stdin)


def _outcomes() -> SearchStrategy[Outcome]:
    without = st.sampled_from([OutcomeKind.CANCELLED, OutcomeKind.FAILED])
    results = st.builds(Outcome, kind=st.just(OutcomeKind.RESULT), result=values_of(Digest))
    return results | st.builds(Outcome, kind=without, reason=st.text("why \n?", max_size=20))


def _leases() -> SearchStrategy[Lease]:
    indices = st.lists(values_of(Index), min_size=1, max_size=ITEMS_MAX, unique=True).map(tuple)
    return st.builds(Lease, indices=indices, **_fields(Lease, without=("indices",)))


def _ranges() -> SearchStrategy[ProtocolRange]:
    ends = st.tuples(st.integers(1, 1_000), st.integers(1, 1_000))
    return ends.map(lambda pair: ProtocolRange(min(pair), max(pair)))


def _contracts() -> SearchStrategy[Contract]:
    dependent = ("stewards", "durability", "keys", "replicas", "quorum")
    return st.builds(
        _contract,
        st.sampled_from([1, 3, 5]),
        st.sampled_from([(1, 1), (3, 2), (7, 7)]),
        st.fixed_dictionaries(_fields(Contract, without=dependent)),
    )


def _contract(
    stewards_count: int, replicas_and_quorum: tuple[int, int], fields: dict[str, typing.Any]
) -> Contract:
    numbers = range(stewards_count)
    return Contract(
        stewards=tuple(Steward(keys_of(number).peer, store_of(number)) for number in numbers),
        keys=tuple(KeyFor(keys_of(number).peer, b"b" * 80) for number in numbers),
        durability=Durability.LOCAL if stewards_count == 1 else Durability.MESH,
        replicas=replicas_and_quorum[0],
        quorum=replicas_and_quorum[1],
        **fields,
    )


_SPECIAL: dict[type, Callable[[], SearchStrategy[typing.Any]]] = {
    Content: _contents,
    Contract: _contracts,
    Invocation: _invocations,
    Lease: _leases,
    Outcome: _outcomes,
    ProtocolRange: _ranges,
}
