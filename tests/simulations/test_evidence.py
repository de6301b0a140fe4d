"""Signed parts are found wherever they are, though fields that cannot hold any are passed over."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.strategies import values_of

from simulations.evidence import signed_parts
from wire.messages import MESSAGES
from wire.signed import Signed
from wire.tasks import Receipt


def found_everywhere(value: object) -> Iterator[object]:
    if isinstance(value, Signed | Receipt):
        yield value
    if isinstance(value, Signed):
        yield from found_everywhere(value.body)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from found_everywhere(getattr(value, name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from found_everywhere(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from found_everywhere(item)


@pytest.mark.parametrize("tag", MESSAGES)
@settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(drawn=st.data())
def test_no_signed_part_of_any_message_is_missed(tag: str, drawn: st.DataObject) -> None:
    message = drawn.draw(values_of(MESSAGES[tag]))

    found = [id(part) for part in signed_parts(message)]

    assert found == [id(part) for part in found_everywhere(message)]
