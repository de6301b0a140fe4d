"""The canonical trace: one order, one digest, whatever is kept of it."""

from __future__ import annotations

import json

import pytest
from blake3 import blake3

from simulations.trace import WORLD, TraceLevel, TraceLog, summary
from wire.events import LinkDown, Received
from wire.ids import PeerId
from wire.messages import Heartbeat, Traffic

PEER = PeerId(bytes(range(32)))


def filled(level: TraceLevel, *, moments_count: int = 1_000) -> TraceLog:
    trace = TraceLog(level)
    for time_us in range(0, 10 * moments_count, 10):
        trace.add(time_us, 2, "late", {"is_last": False, "what": "naïve\n"})
        trace.add_handled(time_us, 0, Received(PEER, Heartbeat(token=time_us)))
        trace.add(time_us, 2, "later", {})
        trace.add(time_us, WORLD, "heal", {})
    return trace


def test_lines_are_sorted_by_time_node_and_sequence_however_they_came() -> None:
    lines = [json.loads(line) for line in filled(TraceLevel.FULL, moments_count=3).lines()]
    places = [(line["time_us"], line["node"], line["sequence"]) for line in lines]
    assert places == sorted(places)
    assert [line["event"] for line in lines[:4]] == ["heal", "event.Received", "late", "later"]
    assert lines[1]["message"] == "Heartbeat"
    assert lines[2]["what"] == "naïve\n"


def test_the_digest_is_that_of_the_lines_and_the_same_when_none_is_kept() -> None:
    full, streamed = filled(TraceLevel.FULL), filled(TraceLevel.DIGEST)
    text = "".join(f"{line}\n" for line in full.lines())
    assert full.digest() == streamed.digest() == blake3(text.encode()).hexdigest()


def test_asking_for_the_digest_changes_nothing_about_it() -> None:
    asked, unasked = TraceLog(TraceLevel.DIGEST), TraceLog(TraceLevel.DIGEST)
    for trace in (asked, unasked):
        for node in (3, 1, 2):  # the last one comes before the first in the order of the trace
            trace.add(7, node, "event", {})
            if trace is asked:
                trace.digest()
    assert asked.digest() == unasked.digest()


@pytest.mark.parametrize("fields", [{"count": 1}, {"count": 2}, {"count": True}, {"count": "1"}])
def test_the_digest_tells_apart_what_differs_in_one_field(fields: dict[str, int | str]) -> None:
    digests = set[str]()
    for seen in (fields, {"count": None}):
        trace = TraceLog(TraceLevel.DIGEST)
        trace.add(1, 1, "event", seen)
        digests.add(trace.digest())
    assert len(digests) == 2


def test_a_trace_that_is_off_counts_and_has_neither_lines_nor_digest() -> None:
    off = filled(TraceLevel.OFF, moments_count=5)
    assert off.counts == filled(TraceLevel.FULL, moments_count=5).counts
    assert off.counts["event.Received"] == 5
    with pytest.raises(LookupError):
        list(off.lines())
    with pytest.raises(LookupError):
        off.digest()


def test_a_streamed_trace_keeps_no_lines() -> None:
    with pytest.raises(LookupError, match="digest"):
        list(filled(TraceLevel.DIGEST).lines())


def test_nothing_can_be_noted_before_what_was_noted_already() -> None:
    trace = TraceLog()
    trace.add(10, 0, "event", {})
    with pytest.raises(ValueError, match="past"):
        trace.add(9, 0, "event", {})


def test_a_summary_cuts_ids_and_names_the_type_of_what_is_not_plain() -> None:
    assert summary(Received(PEER, Heartbeat(token=1))) == {
        "peer": "000102030405",
        "message": "Heartbeat",
    }
    assert summary(LinkDown(PEER, "reset")) == {"peer": "000102030405", "reason": "reset"}
    assert summary(Received(PEER, Traffic.BULK))["message"] == 2  # type: ignore[arg-type]  # a number, not its name


def test_a_message_that_arrives_is_written_as_any_other_event_would_be() -> None:
    trace = TraceLog()
    event = Received(PeerId(bytes(range(32))), Heartbeat(token=7))
    trace.add_handled(5, 3, event)
    trace.add(5, 3, "event.Received", summary(event))
    written, expected = trace.lines()
    assert written == expected.replace('"sequence":2', '"sequence":1')
