"""Names hide nothing: what a device calls itself is safe to print, to type and to compare."""

from __future__ import annotations

import re

import msgspec
import pytest

from wire.errors import MalformedId
from wire.text import (
    CAPABILITY_PATTERN,
    NAME_LETTERS_MAX,
    Address,
    CapabilityKey,
    Name,
    NameOrNothing,
    name_from_text,
    visible,
)

HIDDEN = {
    "escape": "\x1b[31m",
    "newline": "\n",
    "carriage return": "\r",
    "zero": "\0",
    "delete": "\x7f",
    "C1": "\x9b31m",
    "no-break space": "\xa0",
    "zero width space": "\u200b",
    "zero width joiner": "\u200d",
    "right-to-left override": "\u202e",
    "isolate": "\u2066",
    "line separator": "\u2028",
    "byte order mark": "\ufeff",
    "soft hyphen": "\xad",
    "Hangul filler": "\u3164",
    "variation selector": "\ufe0f",
    "tag": "\U000e0041",
}


@pytest.mark.parametrize("name", ["a", "Küche 2", "日本語", "sam's laptop", "🛰 roof", "x" * 64])
def test_a_visible_name_is_a_name(name: str) -> None:
    assert name_from_text(name) == name
    assert msgspec.convert(name, Name) == name


@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
def test_a_name_with_something_hidden_is_refused_by_people_and_peers(hidden: str) -> None:
    for name in (hidden, f"a{hidden}", f"a{hidden}b"):
        with pytest.raises(MalformedId, match="is not a name"):
            name_from_text(name)
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(name, Name)


@pytest.mark.parametrize("name", ["", " ", " a", "a ", "x" * (NAME_LETTERS_MAX + 1)])
def test_a_name_is_one_to_sixty_four_letters_without_space_at_the_ends(name: str) -> None:
    with pytest.raises(MalformedId):
        name_from_text(name)


def test_a_region_may_be_missing_but_not_hidden() -> None:
    assert msgspec.convert("", NameOrNothing) == ""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert("eu\x1b", NameOrNothing)


@pytest.mark.parametrize("key", ["cpu:8", "runtime:wasi-p1", "label:camera=front", "region:東京"])
def test_a_capability_is_a_type_and_a_value(key: str) -> None:
    assert msgspec.convert(key, CapabilityKey) == key


@pytest.mark.parametrize(
    "key", ["cpu", ":8", "cpu:", "CPU:8", "cpu:8\n", "cpu: 8", "a:\x1b[2J", "a:\u200b", "a:\u2028"]
)
def test_a_capability_with_anything_else_is_refused(key: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(key, CapabilityKey)


@pytest.mark.parametrize("address", ["/ip4/127.0.0.1/tcp/4001", "memory:3"])
def test_an_address_is_visible_ascii(address: str) -> None:
    assert msgspec.convert(address, Address) == address


@pytest.mark.parametrize("address", ["", "/ip4/1 2", "/dns/é/tcp/1", "/ip4/\n", "/" * 129])
def test_an_address_with_anything_else_is_refused(address: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(address, Address)


@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
def test_text_of_others_is_made_visible_before_it_is_printed(hidden: str) -> None:
    shown = visible(f"a{hidden}b")
    assert shown == "a" + ascii(hidden)[1:-1] + "b"
    assert visible("Küche 2: 日本語") == "Küche 2: 日本語"


def test_the_patterns_take_linear_time_on_hostile_text() -> None:
    # 100,000 letters and no match: a pattern that tried every split would not come back.
    assert re.search(CAPABILITY_PATTERN, "a" * 100_000) is None
