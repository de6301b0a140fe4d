"""Reads one table of a scenario into the struct that it describes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import TypeVar

import msgspec
from msgspec import Struct

from simulations.errors import BadScenario
from simulations.scenario_text import Path
from simulations.vocabulary import Form, Word, words_of
from simulations.written_values import NodeSets, read_duration_us, read_value

Table = Mapping[str, object]
Fail = Callable[[Path, str], BadScenario]

_S = TypeVar("_S", bound=Struct)

_FIELD = re.compile(r" - at `\$\.(\w+)[^`]*`$")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a table is read in: the size of the mesh, and where randomness comes from."""

    node_count: int
    draw: Callable[[str], Random]  # the source for a key of the table
    fail: Fail  # the error for a path and a reason


def read_table(kind: type[_S], table: Table, path: Path, around: Surroundings) -> _S:
    """Return what `table`, written at `path`, says. Raises the error that `around.fail` makes."""
    words = words_of(kind)
    written = _with_duration(dict(table), words, path, around)
    for key in written:
        if key not in words:
            allowed = [*words, "until"] if "for" in words else list(words)
            reason = f"there is no such key here: there are {', '.join(allowed)}"
            raise around.fail((*path, key), reason)
    for key, word in words.items():
        if word.is_required and key not in written:
            raise around.fail(path, f"{key} is missing: {word.form.value}")
    fields = _read_sets(words, written, path, around)
    for key, value in written.items():
        word = words[key]
        if word.field not in fields:
            with placed((*path, key), around):
                fields[word.field] = read_value(word, value, around.draw(key))
    return _convert(kind, fields, path, around)


def _with_duration(
    written: dict[str, object], words: Mapping[str, Word], path: Path, around: Surroundings
) -> dict[str, object]:
    """Return the table with `until` written as `for`, where something lasts."""
    if "for" not in words or "until" not in written:
        return written
    if "for" in written or "at" not in written or written.get("when_working") is True:
        raise around.fail((*path, "until"), "goes with `at`, without `for` and `when_working`")
    with placed((*path, "at"), around):
        at_us = read_duration_us(words["at"], written.pop("at"), around.draw("at"))
    with placed((*path, "until"), around):
        until_us = read_duration_us(words["at"], written.pop("until"), around.draw("until"))
    if until_us <= at_us:
        raise around.fail((*path, "until"), "is not after `at`")
    return {"at": f"{at_us}us", **written, "for": f"{until_us - at_us}us"}


def _read_sets(
    words: Mapping[str, Word], written: Table, path: Path, around: Surroundings
) -> dict[str, object]:
    """Return the fields that name devices: what one of them draws depends on the others."""
    sets = NodeSets(around.node_count, around.draw("devices"))
    fields: dict[str, object] = {}
    one_of = [key for key in written if words[key].form is Form.NODE]
    sets_of = [key for key in written if words[key].form is Form.NODES]
    groups_of = [key for key in written if words[key].form is Form.GROUPS]
    for key in one_of:
        with placed((*path, key), around):
            fields[words[key].field] = sets.node(words[key], written[key])
    with placed((*path, *sets_of[:1]), around):
        found = sets.sets([written[key] for key in sets_of])
    fields.update(zip((words[key].field for key in sets_of), found, strict=True))
    for key in groups_of:
        groups = written[key]
        with placed((*path, key), around):
            if not isinstance(groups, list):
                raise BadScenario(f"{groups!r} is not {Form.GROUPS.value}")
            fields[words[key].field] = sets.sets(groups)
    return fields


@contextmanager
def placed(path: Path, around: Surroundings) -> Iterator[None]:
    """Give what is wrong within it a place."""
    try:
        yield
    except BadScenario as error:
        raise around.fail(path, str(error)) from error


def _convert(kind: type[_S], fields: Table, path: Path, around: Surroundings) -> _S:
    """Return the struct. Bounds are those of its type."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        where = _FIELD.search(str(error))
        keys = [word.key for word in words_of(kind).values() if where and word.field == where[1]]
        reason = _FIELD.sub("", str(error)).replace("Expected `int`", "must be")
        raise around.fail((*path, *keys), reason) from error
