"""Values as scenarios write them: parsed, and drawn where two bounds or a choice are written.

`9s` is nine seconds; `1s..9s` is drawn between the two, by the source of the place where it is
written, so that one more draw elsewhere changes nothing here. Sets of devices are drawn from those
that the same entry does not name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from random import Random

from meshd.errors import QuantityError
from meshd.quantities import parse_duration_us, parse_size_bytes
from simulations.errors import BadScenario
from simulations.vocabulary import Form, Word

TEXT_CHARACTERS_MAX = 200
SHARE_DECIMALS_MAX = 1

_RANGE = re.compile(r"(.+?)\s*\.\.\s*(.+)")
_SHARE = re.compile(rf"(\d{{1,3}}(?:\.\d{{1,{SHARE_DECIMALS_MAX}}})?)\s?%", re.ASCII)
_RATE = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)/(s|m)", re.ASCII)
_NUMBER = re.compile(r"-?\d{1,18}", re.ASCII)
_NODE_RANGE = re.compile(r"(\d{1,6})\.\.(\d{1,6})", re.ASCII)
_ANY = re.compile(r"any(?: (\d{1,6}))?(?: of (\d{1,6})\.\.(\d{1,6}))?", re.ASCII)

_NodeSet = tuple[int, ...]


def read_value(word: Word, value: object, rng: Random) -> object:
    """Return what a field is to be for what is written, but for sets of devices.

    Raises BadScenario with the reason alone.
    """
    match word.form:
        case Form.FLAG if isinstance(value, bool):
            return value
        case Form.TEXT if isinstance(value, str):
            return value
        case Form.TEXTS if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return value
        case Form.SIZES if isinstance(value, list):
            size = replace(word, form=Form.SIZE)
            return tuple(_quantity(size, one, rng) for one in value)
        case Form.CHOICE:
            return _choice(word, value, rng)
        case Form.DURATION | Form.SIZE | Form.SHARE | Form.COUNT | Form.RATE:
            return _quantity(word, value, rng)
    raise _unlike(word, value)


def read_duration_us(word: Word, value: object, rng: Random) -> int:
    """Return a duration. Raises BadScenario with the reason alone."""
    duration_us = _quantity(word, value, rng)
    if duration_us is None:
        raise _unlike(word, value)
    return duration_us


def _choice(word: Word, value: object, rng: Random) -> str:
    among = value if isinstance(value, list) else [value]
    for one in among:
        if one not in word.choices:
            raise BadScenario(f"{one!r} is none of {', '.join(word.choices)}")
    if not among:
        raise _unlike(word, value)
    return str(rng.choice(among))


def _quantity(word: Word, value: object, rng: Random) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        if word.form in (Form.COUNT, Form.SIZE):
            return value
        raise BadScenario(f"{value} has no unit: write {word.form.value}")
    if not isinstance(value, str) or len(value) > TEXT_CHARACTERS_MAX:
        raise _unlike(word, value)
    if word.field.endswith("offset_us") and value == "unknown":
        return None
    bounds = _RANGE.fullmatch(value)
    if bounds is None:
        return _one_quantity(word, value)
    low, high = _one_quantity(word, bounds[1]), _one_quantity(word, bounds[2])
    if low > high:
        raise BadScenario(f"{value!r} goes from more to less")
    return rng.randrange(low, high + 1)


def _one_quantity(word: Word, text: str) -> int:
    try:
        match word.form:
            case Form.DURATION:
                is_negative = text.startswith("-")
                duration_us = parse_duration_us(text.removeprefix("-"))
                return -duration_us if is_negative else duration_us
            case Form.SIZE:
                return parse_size_bytes(
                    text.removesuffix("/s") if word.key == "bandwidth" else text
                )
    except QuantityError as error:
        raise BadScenario(str(error)) from error
    if word.form is Form.COUNT and _NUMBER.fullmatch(text):
        return int(text)
    share, rate = _SHARE.fullmatch(text), _RATE.fullmatch(text)
    if word.form is Form.SHARE and share:
        return int(Fraction(share[1]) * 10)
    if word.form is Form.RATE and rate:
        per_minute = Fraction(rate[1]) * (60 if rate[2] == "s" else 1)
        if per_minute.denominator == 1:
            return int(per_minute)
        raise BadScenario(f"{text!r} is not a whole number of times a minute")
    raise _unlike(word, text)


def _unlike(word: Word, value: object) -> BadScenario:
    return BadScenario(f"{str(value)[:TEXT_CHARACTERS_MAX]!r} is not {word.form.value}")


class NodeSets:
    """The devices that one entry names, of `node_count`.

    What is explicit is taken first, then what is drawn, then the rest; within that in the order of
    what was asked.
    """

    def __init__(self, node_count: int, rng: Random) -> None:
        self._count = node_count
        self._rng = rng
        self._taken: dict[int, None] = {}

    def node(self, word: Word, value: object) -> int | str:
        """Return one device, or a word for one. Raises BadScenario with the reason alone."""
        if isinstance(value, str) and value in word.choices:
            return value
        if isinstance(value, str) and (drawn := _ANY.fullmatch(value)) and drawn[1] is None:
            value = self._draw(drawn)[0]
        if isinstance(value, int) and not isinstance(value, bool):
            self._taken[value] = None
            return value
        others = "".join(f", {choice}" for choice in word.choices)
        raise BadScenario(f"{value!r} is not {Form.NODE.value}{others}")

    def sets(self, values: Sequence[object]) -> list[_NodeSet]:
        """Return a set for each of `values`. Raises BadScenario with the reason alone."""
        found: dict[int, _NodeSet] = {}
        for read in (self._explicit, self._drawn, self._rest):
            for place, value in enumerate(values):
                nodes = read(value) if place not in found else None
                if nodes is not None:
                    found[place] = nodes
                    self._taken.update(dict.fromkeys(nodes))
        for place, value in enumerate(values):
            if place not in found:
                raise BadScenario(f"{value!r} is not {Form.NODES.value}")
        return [found[place] for place in range(len(values))]

    def _explicit(self, value: object) -> _NodeSet | None:
        if value == "all":
            return tuple(range(self._count))
        parts = value if isinstance(value, list) else [value]
        nodes: list[int] = []
        for part in parts:
            if isinstance(part, int) and not isinstance(part, bool):
                nodes.append(part)
            elif isinstance(part, str) and (bounds := _NODE_RANGE.fullmatch(part)):
                nodes += self._between(bounds[1], bounds[2])
            else:
                return None
        return tuple(dict.fromkeys(nodes))

    def _drawn(self, value: object) -> _NodeSet | None:
        if value == "some":
            pool = self._free(range(self._count))
            if len(pool) < 2:
                raise BadScenario("there are too few other devices to draw some and leave some")
            return tuple(sorted(self._rng.sample(pool, self._rng.randrange(1, len(pool)))))
        drawn = _ANY.fullmatch(value) if isinstance(value, str) else None
        return self._draw(drawn) if drawn else None

    def _rest(self, value: object) -> _NodeSet | None:
        return tuple(self._free(range(self._count))) if value == "rest" else None

    def _draw(self, drawn: re.Match[str]) -> _NodeSet:
        wanted_count = int(drawn[1] or 1)
        among = self._between(drawn[2], drawn[3]) if drawn[2] else range(self._count)
        pool = self._free(among)
        if wanted_count > len(pool):
            raise BadScenario(f"{drawn[0]!r}: there are only {len(pool)} to draw from")
        return tuple(sorted(self._rng.sample(pool, wanted_count)))

    def _between(self, low: str, high: str) -> range:
        if int(low) > int(high) or int(high) >= self._count:
            raise BadScenario(f"{low}..{high}: the devices are 0..{self._count - 1}")
        return range(int(low), int(high) + 1)

    def _free(self, among: Iterable[int]) -> list[int]:
        return [node for node in among if node not in self._taken]
