"""The part of a lane that says whom a device held for degraded or dead, as it judged itself.

Times are rounded to columns. So a verdict that lasted a moment is seen, and however often verdicts
changed, there are only as many marks as there are columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from simulations.doubts import Doubt
from simulations.drawing import GRAY, SILVER, Mark, Rect, Text, readable_on, text_width
from simulations.story import Story
from simulations.timeline_lane import ROOMY, SMALL, Lane, peers_text
from simulations.timeline_scale import MARK_WIDTH_MIN, Scale, Section, seconds

COLUMN = MARK_WIDTH_MIN
PARTING = 0.75  # of bars with words
DEGRADED, DEAD = SILVER, GRAY


def doubt_bars(lane: Lane, top: float) -> Section:
    """Return a bar for each time in which the device doubted the same others; maybe no row."""
    spans = [*_spans(lane.device.doubts.all, lane.scale)]
    marks = [mark for span in spans for mark in _bar(lane, span, top)]
    return Section(marks, top + lane.form.doubts if spans else top)


@dataclass(frozen=True, slots=True)
class _Span:
    """From where to where a device had these doubts; there is at least one."""

    start: float
    end: float
    doubts: Sequence[Doubt]

    @property
    def dead(self) -> list[str]:
        """Return the peers that were held for dead."""
        return [doubt.peer for doubt in self.doubts if doubt.is_dead]

    @property
    def degraded(self) -> list[str]:
        """Return the peers that were held for degraded; those that died in this column are not."""
        dead = set(self.dead)
        return [doubt.peer for doubt in self.doubts if doubt.peer not in dead]


def _spans(doubts: Sequence[Doubt], scale: Scale) -> Iterator[_Span]:
    """Yield spans that do not overlap, in order; those without a doubt are left out."""
    begun: dict[int, list[tuple[int, Doubt]]] = {}  # by column: until which column, and what
    columns: set[int] = set()
    for doubt in doubts:
        first = round(scale.x(doubt.start_us) / COLUMN)
        end = max(first + 1, round(scale.x(_end_us(doubt, scale)) / COLUMN))
        begun.setdefault(first, []).append((end, doubt))
        columns |= {first, end}
    lasting: list[tuple[int, Doubt]] = []
    for column, following in pairwise(sorted(columns)):
        lasting = [one for one in lasting if one[0] > column] + begun.get(column, [])
        if lasting:
            some = [doubt for _, doubt in lasting]
            yield _Span(column * COLUMN, following * COLUMN, some)


def _bar(lane: Lane, span: _Span, y: float) -> Iterator[Mark]:
    """Yield a bar, dark if anybody was dead; its lower edge is light if others were degraded."""
    fill = DEAD if span.dead else DEGRADED
    width, height = span.end - span.start, lane.form.doubts - 1
    if lane.form is ROOMY:
        width -= PARTING
    tooltip = _tooltip(span, lane.story)
    yield Rect(x=span.start, y=y, width=width, height=height, fill=fill, tooltip=tooltip)
    if span.dead and span.degraded:
        edge = height / 4
        bottom = y + height - edge
        yield Rect(x=span.start, y=bottom, width=width, height=edge, fill=DEGRADED, tooltip=tooltip)
    if lane.form is ROOMY:
        text = _fitting(span, lane.story, width - 8)
        yield Text(x=span.start + 4, y=y + 8.5, text=text, size=SMALL, fill=readable_on(fill))


def _fitting(span: _Span, story: Story, width: float) -> str:
    """Return who was doubted, or as much of it as fits: the colour says the worst word too."""
    found = [("dead", span.dead), ("degraded", span.degraded)]
    parts = [(word, peers_text(peers, story)) for word, peers in found if peers]
    texts = [f"{word}: {peers}" for word, peers in parts]
    shorter = ("; ".join(texts), texts[0], parts[0][1])
    return next((text for text in shorter if text_width(text, SMALL) <= width), "")


def _tooltip(span: _Span, story: Story) -> str:
    """Return who was doubted since when; those with the same reason are told as one."""
    same: dict[tuple[bool, int, str], list[str]] = {}
    for doubt in span.doubts:
        same.setdefault((not doubt.is_dead, doubt.start_us, doubt.reason), []).append(doubt.peer)
    return "; ".join(
        f"holds {peers_text(peers, story)} for {'degraded' if is_degraded else 'dead'}"
        f" from {seconds(start_us)}, {reason}"
        for (is_degraded, start_us, reason), peers in sorted(same.items())
    )


def _end_us(doubt: Doubt, scale: Scale) -> int:
    return doubt.end_us if doubt.end_us is not None else scale.end_us
