"""Where two traces come apart: the first event that differs, and what is no trace at all."""

from __future__ import annotations

import json
from typing import TypeAlias

import pytest

from simulations.trace import TraceLog
from simulations.trace_diff import LOOKAHEAD_LINES, difference_text, first_difference
from simulations.trace_lines import BadTrace, trace_lines

Written: TypeAlias = tuple[int, int, int, str, dict[str, str]]


def lines(*events: Written) -> list[str]:
    return [
        json.dumps(
            {"time_us": time_us, "node": node, "sequence": sequence, "event": event} | fields
        )
        for time_us, node, sequence, event, fields in events
    ]


START: Written = (0, 0, 1, "process.started", {})
OFFER = (1_000_000, 0, 2, "event.Received", {"message": "Offer", "peer": "51c2"})
OTHER_OFFER = (1_000_000, 0, 2, "event.Received", {"message": "Offer", "peer": "0f4c", "by": "me"})
LATE_OFFER = (2_500_000, 0, 2, "event.Received", {"message": "Offer", "peer": "51c2"})
BEAT = (2_000_000, 1, 1, "event.TimerDue", {"key": "HeartbeatDue"})


def test_equal_traces_have_no_difference_whatever_their_spacing() -> None:
    a = lines(START, OFFER, BEAT)
    spaced = [json.dumps(json.loads(line), indent=1) for line in a]
    assert first_difference(a, spaced) is None
    assert first_difference([], []) is None


def test_a_field_that_differs_is_named_with_both_values() -> None:
    found = first_difference(lines(START, OFFER, BEAT), lines(START, OTHER_OFFER, BEAT))
    assert found is not None
    assert (found.same_count, found.line.place) == (1, (1_000_000, 0, 2))
    assert [(one.name, one.in_a, one.in_b) for one in found.fields] == [
        ("peer", "51c2", "0f4c"),
        ("by", "-", "me"),
    ]
    assert found.instead is None
    assert [line.event for line in found.context] == ["process.started"]


def test_an_event_that_came_later_is_found_where_it_went() -> None:
    a, b = lines(START, OFFER, BEAT), lines(START, BEAT, LATE_OFFER)
    for first, second, times in ((a, b, ["1000000", "2500000"]), (b, a, ["2500000", "1000000"])):
        found = first_difference(first, second)
        assert found is not None
        assert [[one.name, one.in_a, one.in_b] for one in found.fields] == [["time_us", *times]]


def test_an_event_that_only_one_trace_has_is_told_with_what_the_other_goes_on_with() -> None:
    found = first_difference(lines(START, BEAT), lines(START, OFFER, BEAT))
    assert found is not None
    assert found.a is None
    assert found.b is not None
    assert found.instead is not None
    assert (found.b.event, found.instead.event) == ("event.Received", "event.TimerDue")
    text = difference_text(found, names=("one", "two"))
    assert "one  (has no such line; it goes on with 2.000000 s  device 1" in text
    assert "two  1.000000 s  device 0" in text


def test_a_trace_that_ends_early_is_the_difference() -> None:
    found = first_difference(lines(START, OFFER), lines(START))
    assert found is not None
    assert found.a is not None
    assert (found.b, found.instead) == (None, None)
    assert "B  (ends here)" in difference_text(found)


def test_no_more_is_read_of_the_other_trace_than_its_bound() -> None:
    beats: list[Written] = [
        (index, 1, index, "event.TimerDue", {}) for index in range(1, LOOKAHEAD_LINES + 100)
    ]
    rest = iter(lines(*beats))
    found = first_difference(lines((0, 0, 1, "process.started", {})), rest)
    assert found is not None
    assert found.b is None
    assert len(list(rest)) == 98


def test_the_text_says_where_and_what_and_cuts_what_is_long() -> None:
    long = (1_000_000, 0, 2, "event.Received", {"message": "Offer", "peer": "5" * 4_000})
    found = first_difference(lines(START, OFFER), lines(START, long))
    assert found is not None
    text = difference_text(found)
    assert text.startswith("1 line is the same. Then, at 1.000000 s, device 0, its line 2:\n")
    assert "  peer  A  51c2\n" in text
    assert "5...\n" in text
    assert len(text) < 5_000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 2: no JSON object"),
        ('{"time_us":1', "line 2: no JSON object"),
        ("[1]", "line 2: no JSON object"),
        ("[" * 5_000, "line 2: no JSON object"),
        ('{"time_us":1,"node":0,"sequence":1,"event":"e","x":[]}', "line 2: no JSON object"),
        ('{"version":9,"seed":7}', "line 2: a file of version 9, and no trace line"),
        ('{"time_us":1,"node":0}', "line 2: without sequence, event"),
        ('{"time_us":-1,"node":0,"sequence":1,"event":"e"}', "line 2: time_us and sequence"),
        ('{"time_us":1,"node":0,"sequence":true,"event":"e"}', "line 2: time_us and sequence"),
        ('{"time_us":1,"node":0,"sequence":1,"event":7}', "line 2: time_us and sequence"),
        ('{"time_us":1,"node":-2,"sequence":1,"event":"e"}', "line 2: node is a number"),
        ('{"time_us":0,"node":0,"sequence":1,"event":"e"}', "line 2: not sorted"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line_and_the_reason(text: str, reason: str) -> None:
    good = lines(START, BEAT)
    with pytest.raises(BadTrace, match=f"mine, {reason}"):
        first_difference([*lines(START), text], good, names=("mine", "yours"))
    with pytest.raises(BadTrace, match=f"mine, {reason}"):
        first_difference(good, [*lines(START), text], names=("yours", "mine"))


def test_what_a_run_writes_is_read_back() -> None:
    log = TraceLog()
    log.add(5, 1, "link.down", {"reason": 'a "quoted"\nline', "count": 3, "is_new": True})
    log.add(5, -1, "mended", {})
    world, down = trace_lines(log.lines())
    assert (world.event, world.node, dict(world.fields)) == ("mended", -1, {})
    assert dict(down.fields) == {"count": 3, "is_new": True, "reason": 'a "quoted"\nline'}
    assert (down.number("count"), down.text("reason")[:1], down.text("absent")) == (3, "a", "")
