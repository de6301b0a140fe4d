"""The picture of a run: what can be read off it, and that it can be read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pytest
from support.told import S, Telling

from simulations.drawing import (
    BAD,
    BLUE,
    GOOD,
    GRAY,
    INK,
    ORANGE,
    SKY,
    VERMILLION,
    WHITE,
    Drawing,
    Rect,
    Shape,
    Text,
    text_width,
)
from simulations.mesh_node import MESH_NODE
from simulations.png import png_of
from simulations.runs import carry_out
from simulations.scenarios import scenario
from simulations.svg import svg_of
from simulations.timeline import Title, timeline
from simulations.timeline_scale import LEFT, MARGIN, RIGHT, WIDTH, Scale, rows
from simulations.trace_lines import TraceLine, trace_lines

TITLE = Title(scenario="made up", seed=7, digest="0123456789abcdef")
DARK = {INK, GRAY, GOOD, BAD}  # all that may be written on white
SCENARIOS = ("calm", "split", "executor-crash", "total-outage", "flapping-link", "random")


def texts(drawing: Drawing) -> list[str]:
    return [mark.text for mark in drawing.marks if isinstance(mark, Text) and mark.text]


def place_of(drawing: Drawing, text: str) -> Text:
    return next(mark for mark in drawing.marks if isinstance(mark, Text) and mark.text == text)


def tooltips(drawing: Drawing) -> list[str]:
    return [mark.tooltip for mark in drawing.marks if mark.tooltip]


def split_mesh() -> Telling:
    """Three devices, of which device 1 is cut off from 5 s to 15 s while its task is leased."""
    told = Telling(node_count=3)
    for node in range(3):
        for other in range(3):
            if node != other:
                told.link(1 * S, node, other)
    told.accept(3 * S, 1, "b")
    told.lease(4 * S, "b", "0", to=0)
    told.begin(4 * S, 0, "b", 0)
    told.fault("split", "0 1 2", "1 | 0 2", at=5 * S, until=15 * S)
    told.link(8 * S, 0, 1, is_up=False)
    told.link(9 * S, 1, 0, is_up=False)
    told.link(9 * S, 1, 2, is_up=False)
    told.end(6 * S, 0, "b", 0, "exited")
    told.link(16 * S, 0, 1)
    told.decide(17 * S, "b", 0)
    told.tell(18 * S, 1, "b", 0, decided=True)
    told.line(20 * S, -1, "mended")
    return told


def test_it_tells_who_was_cut_off_from_whom_who_knew_it_when_and_what_became_of_the_task() -> None:
    picture = timeline(split_mesh().lines(), TITLE)
    scale = Scale(20 * S)
    shown = texts(picture)
    assert "made up, seed 7" in shown
    assert "3 devices, 1 tasks, 20.000 s of virtual time, digest 0123456789ab" in shown
    assert "split: 1 | 0, 2" in shown
    assert [text for text in shown if text.startswith("cannot")] == [
        "cannot reach 1",
        "cannot reach 0, 2",
        "cannot reach 1",
    ]
    assert place_of(picture, "lost 1").x == pytest.approx(scale.x(8 * S), abs=10)
    assert place_of(picture, "lost all").x == pytest.approx(scale.x(9 * S), abs=10)
    assert place_of(picture, "cannot reach 0, 2").x == pytest.approx(scale.x(5 * S), abs=10)
    assert {"held", "everything mended, 20.000 s", "batch 1, task 0", "result"} <= set(shown)
    assert "runs on 0 from 4.000 s to 6.000 s, exited" in tooltips(picture)
    assert "result, decided at 17.000 s" in tooltips(picture)
    assert "told at 18.000 s" in tooltips(picture)


def doubted_mesh() -> Telling:
    """Device 0 holds device 1 for dead from 4 s to 16 s, and meanwhile device 2 for less."""
    told = Telling(node_count=4)
    told.judge(2 * S, 0, 1, "degraded", "not heard by 1 of its 3 observers")
    told.judge(4 * S, 0, 1, "dead", "not heard by 3 of its 3 observers")
    told.judge(8 * S, 0, 2, "degraded", "not heard by 2 of its 3 observers")
    told.judge(12 * S, 0, 2, "alive")
    told.judge(16 * S, 0, 1, "alive")
    told.line(20 * S, -1, "mended")
    return told


def doubt_bars(drawing: Drawing) -> list[Rect]:
    return [
        mark
        for mark in drawing.marks
        if isinstance(mark, Rect) and mark.tooltip.startswith("holds ")
    ]


def test_it_tells_whom_a_device_held_for_degraded_and_for_dead_when_and_why() -> None:
    picture = timeline(doubted_mesh().lines(), TITLE)
    x = Scale(20 * S).x
    words = ("degraded: 1", "dead: 1", "dead: 1; degraded: 2")
    assert [text for text in texts(picture) if text.endswith((": 1", ": 2"))] == [
        *words,
        "dead: 1",
    ]
    for text, at in zip(words, (2, 4, 8), strict=True):
        assert place_of(picture, text).x == pytest.approx(x(at * S), abs=6)
    light, dark, mixed, edge, last = doubt_bars(picture)
    assert light.fill == edge.fill != dark.fill == mixed.fill == last.fill
    assert edge.y + edge.height == mixed.y + mixed.height
    assert edge.height < mixed.height / 2
    assert last.x + last.width == pytest.approx(x(16 * S), abs=2)
    assert light.tooltip == "holds 1 for degraded from 2.000 s, not heard by 1 of its 3 observers"
    assert mixed.tooltip == (
        "holds 1 for dead from 4.000 s, not heard by 3 of its 3 observers; "
        "holds 2 for degraded from 8.000 s, not heard by 2 of its 3 observers"
    )
    assert_legible(picture)


def test_the_signs_say_what_the_shades_of_doubt_mean_if_there_was_any() -> None:
    signs = {"holds somebody for degraded", "holds somebody for dead"}
    assert signs <= set(texts(timeline(doubted_mesh().lines(), TITLE)))
    assert signs.isdisjoint(texts(timeline(split_mesh().lines(), TITLE)))
    told = Telling(node_count=2)
    told.judge(1 * S, 0, 1, "degraded")
    told.line(2 * S, -1, "mended")
    assert signs & {*texts(timeline(told.lines(), TITLE))} == {"holds somebody for degraded"}


def test_a_doubt_too_short_for_its_words_says_less_or_nothing_and_is_still_seen() -> None:
    told = Telling(node_count=3)
    for at, lasts_us in ((10, 2 * S), (20, S), (30, 1)):
        told.judge(at * S, 0, 1, "dead")
        told.judge(at * S + lasts_us, 0, 1, "alive")
    told.line(40 * S, -1, "mended")
    picture = timeline(told.lines(), TITLE)
    assert [text for text in texts(picture) if text in ("dead: 1", "1")] == ["dead: 1", "1"]
    assert [bar.width > 1 for bar in doubt_bars(picture)] == [True] * 3


def test_verdicts_that_change_ten_thousand_times_are_drawn_as_few_bars() -> None:
    told = Telling(node_count=2)
    for at in range(10_000):
        told.judge(at * S, 0, 1, "dead")
        told.judge(at * S + S // 2, 0, 1, "alive")
    picture = timeline(told.lines(), TITLE)
    assert 0 < len(doubt_bars(picture)) <= (RIGHT - LEFT) / 2 + 1


@pytest.mark.parametrize("node_count", [2, 12, 13, 60])
def test_doubts_of_many_devices_are_words_while_lanes_are_high_and_thin_bars_then(
    node_count: int,
) -> None:
    told = Telling(node_count=node_count)
    for node in range(node_count):
        for other in range(node):
            told.judge((5 + other % 7) * S, node, other, "degraded", "not heard by 1 of its 6")
            told.judge((9 + other % 5) * S, node, other, "dead", "not heard by 3 of its 6")
    told.line(20 * S, -1, "mended")
    picture = timeline(told.lines(), TITLE)
    bars = doubt_bars(picture)
    worded = [text for text in texts(picture) if "dead: " in text]
    assert bool(worded) is (node_count <= 12)
    assert max(bar.height for bar in bars) == (12 if node_count <= 12 else 3)
    assert max(len(bar.tooltip) for bar in bars) < 2_000
    assert_legible(picture)


def test_a_stretch_that_is_too_short_for_its_words_says_less_or_nothing() -> None:
    told = split_mesh()
    for at, node in ((10 * S, 0), (11 * S, 1)):
        told.crash(at, node, power=False)
    told.start(10 * S + S // 10, 0, boot=2)
    told.start(12 * S, 1, boot=2)
    told.crash(13 * S, 2, power=False)
    picture = timeline(told.lines(), TITLE)
    assert [text for text in texts(picture) if "down" in text] == ["down", "down, no power"]
    assert_legible(picture)


def test_a_run_in_vain_is_crossed_out_and_a_good_one_is_not() -> None:
    told = Telling(node_count=1)
    told.accept(1 * S, 0, "b", count=2)
    for index, how in enumerate(("exited", "trapped")):
        told.begin(2 * S, 0, "b", index)
        told.end(3 * S, 0, "b", index, how)
    picture = timeline(told.lines(), TITLE)
    crosses = [
        mark.tooltip
        for mark in picture.marks
        if isinstance(mark, Shape) and mark.stroke == VERMILLION and mark.tooltip
    ]
    assert crosses == ["runs on 0 from 2.000 s to 3.000 s, trapped"] * 2


def test_what_broke_is_a_red_line_with_its_name_at_its_time() -> None:
    title = Title(scenario="s", seed=1, digest="0", broken="S2: two outcomes", broken_at_us=10 * S)
    picture = timeline(split_mesh().lines(), title)
    assert "broken" in texts(picture)
    label = place_of(picture, "S2: two outcomes, 10.000 s")
    x = Scale(20 * S).x(10 * S)
    red = [
        mark
        for mark in picture.marks
        if isinstance(mark, Shape) and mark.stroke == BAD and mark.points[0][0] == x
    ]
    assert label.fill == BAD
    assert max(mark.points[1][1] - mark.points[0][1] for mark in red) > picture.height / 2


def test_a_run_that_broke_later_than_its_last_line_is_drawn_until_then() -> None:
    title = Title(scenario="s", seed=1, digest="0", broken="L2: undecided", broken_at_us=80 * S)
    assert "80 s" in texts(timeline(split_mesh().lines(), title))


def test_each_side_of_a_cut_has_a_colour_of_its_own() -> None:
    picture = timeline(split_mesh().lines(), TITLE)
    strips = [
        mark.fill
        for mark in picture.marks
        if isinstance(mark, Rect) and mark.tooltip.startswith("cannot")
    ]
    assert strips[0] == strips[2] != strips[1]


def test_an_empty_trace_gives_a_picture_too() -> None:
    assert "made up, seed 7" in texts(timeline([], TITLE))


def busy_mesh(node_count: int, batches_count: int, tasks_count: int) -> Telling:
    """Many of everything."""
    told = Telling(node_count=node_count)
    for node in range(node_count):
        for other in range(max(0, node - 20), node):
            told.link((node + other) * S // 20, node, other)
    halves = " ".join(map(str, range(node_count // 2)))
    everybody = " ".join(map(str, range(node_count)))
    for at in range(5, 45, 2):
        told.fault("split", everybody, halves, at=at * S, until=(at + 1) * S)
    for number in range(30):
        told.fault(f"kind_{number}", str(number), at=10 * S, until=20 * S)
    for batch in range(batches_count):
        name = f"batch{batch}"
        told.accept(batch * S // 4, batch % node_count, name, count=tasks_count)
        for index in range(tasks_count):
            at = batch * S // 4 + index * S
            told.lease(at + 1, name, str(index), to=index % node_count)
            told.begin(at + 2, index % node_count, name, index)
            told.end(at + S, index % node_count, name, index, "exited")
            told.decide(at + S, name, index)
            told.tell(at + S, batch % node_count, name, index, decided=True)
    told.crash(30 * S, node_count - 1)
    return told


def test_of_many_devices_and_batches_those_that_matter_are_drawn_and_the_others_counted() -> None:
    picture = timeline(busy_mesh(60, 50, 2).lines(), TITLE)
    shown = texts(picture)
    lanes = [text for text in shown if text.startswith("device ")]
    assert len(lanes) == 40
    assert "device 59" in lanes  # it crashed
    assert "device 45" not in lanes
    assert "and 20 more devices" in shown
    assert sum(text.startswith("batch ") for text in shown) == 40
    assert "and 10 more batches, with less trouble" in shown
    assert "split: 0-29 | 30-59, 20 times" in shown
    assert any(text.endswith("more faults") for text in shown)


def test_tasks_have_rows_of_their_own_while_they_are_few() -> None:
    few = texts(timeline(busy_mesh(3, 2, 10).lines(), TITLE))
    assert "batch 2, task 9" in few
    many = texts(timeline(busy_mesh(3, 2, 11).lines(), TITLE))
    assert {"batch 2", "11 tasks of device 1", "11 of 11"} <= set(many)
    single = texts(timeline(busy_mesh(3, 30, 1).lines(), TITLE))
    assert "batch 30, task 0" in single


def test_a_fault_that_comes_ten_thousand_times_is_drawn_as_few_bars() -> None:
    told = Telling(node_count=2)
    for at in range(10_000):
        told.fault("split", "0 1", "0", at=at * S, until=at * S + S // 2)
    picture = timeline(told.lines(), TITLE)
    assert len(picture.marks) < 100


def test_the_batches_with_trouble_come_before_those_without() -> None:
    told = Telling(node_count=1)
    for batch in range(60):
        told.accept(batch, 0, f"b{batch}", count=2)
        if batch != 55:
            told.decide(10 * S, f"b{batch}", 0)
            told.decide(10 * S, f"b{batch}", 1)
    shown = texts(timeline(told.lines(), TITLE))
    assert {"batch 56", "0 of 2"} <= set(shown)
    assert "batch 60" not in shown


def lines_of_a_run(name: str) -> list[TraceLine]:
    run = carry_out(scenario(name).plan(7), MESH_NODE, repeat_with="no command")
    return [*trace_lines(run.lines)]


@pytest.fixture(scope="module", params=SCENARIOS)
def run_lines(request: pytest.FixtureRequest) -> list[TraceLine]:
    return lines_of_a_run(request.param)


def boxes(drawing: Drawing) -> Iterator[tuple[str, float, float, float, float]]:
    """Yield each text with where it begins and ends."""
    for mark in drawing.marks:
        if isinstance(mark, Text) and mark.text:
            width = text_width(mark.text, mark.size)
            left = {"start": mark.x, "middle": mark.x - width / 2, "end": mark.x - width}
            x = left[mark.anchor]
            yield mark.text, x, x + width, mark.y - 0.7 * mark.size, mark.y


def overlaps(drawing: Drawing) -> list[tuple[str, str]]:
    return [
        (a[0], b[0])
        for a, b in combinations(boxes(drawing), 2)
        if a[1] < b[2] and b[1] < a[2] and a[3] < b[4] and b[3] < a[4]
    ]


def assert_legible(drawing: Drawing) -> None:
    assert overlaps(drawing) == []
    assert {mark.fill for mark in drawing.marks if isinstance(mark, Text)} <= DARK | {WHITE}
    for text, left, right, top, bottom in boxes(drawing):
        assert 0 <= left <= right <= WIDTH, text
        assert 0 <= top <= bottom <= drawing.height, text
    for mark in drawing.marks:
        if isinstance(mark, Rect):
            assert mark.width >= 0
            assert mark.x >= MARGIN
            assert mark.x + mark.width <= WIDTH


def test_no_text_of_a_run_hides_another_and_all_is_on_the_picture(
    run_lines: list[TraceLine],
) -> None:
    assert_legible(timeline(run_lines, TITLE))


@pytest.mark.parametrize("tell", [(60, 50, 2), (12, 3, 40), (3, 2, 10), (200, 1, 1)])
def test_no_text_of_a_busy_mesh_hides_another(tell: tuple[int, int, int]) -> None:
    title = Title(scenario="s" * 300, seed=1 << 62, digest="0" * 64, broken="S2: " + "x" * 900)
    assert_legible(timeline(busy_mesh(*tell).lines(), title))


def test_a_run_shows_its_tasks_as_they_really_went(run_lines: list[TraceLine]) -> None:
    accepted_count = sum(
        line.number("count") or 0 for line in run_lines if line.event == "batch.accepted"
    )
    decided_count = sum(line.event == "task.decided" for line in run_lines)
    assert accepted_count > 0
    shown = timeline(run_lines, TITLE)
    named = [text for text in texts(shown) if ", task " in text]
    assert len(named) == accepted_count
    assert sum(", decided at " in text for text in tooltips(shown)) == decided_count


def test_the_same_trace_gives_the_same_bytes() -> None:
    lines = lines_of_a_run("split")
    one, two = timeline(lines, TITLE), timeline(iter(lines_of_a_run("split")), TITLE)
    assert svg_of(one) == svg_of(two)
    assert png_of(one) == png_of(two)
    assert len(png_of(one)) < 150_000


@pytest.mark.parametrize("end_us", [1, 999, 1_000_000, 22_200_521, 75 * S, 3_600 * S, 10**14])
def test_the_axis_has_round_times_and_not_too_many(end_us: int) -> None:
    ticks = Scale(end_us).ticks()
    assert 1 <= len(ticks) <= 13
    assert ticks[0] == (LEFT, ticks[0][1])
    assert all(LEFT <= x <= RIGHT for x, _ in ticks)
    labels = [label for _, label in ticks]
    assert len(dict.fromkeys(labels)) == len(labels)


def test_rows_keep_their_gap_and_their_number() -> None:
    extents = [(0.0, 10.0), (5.0, 15.0), (12.0, 20.0), (6.0, 8.0)]
    assert rows(extents, gap=1, rows_max=9) == [0, 1, 0, 2]
    assert rows(extents, gap=3, rows_max=9) == [0, 1, 2, 2]
    assert rows([*extents, (7.0, 8.0)], gap=1, rows_max=2) == [0, 1, 0, 2, 2]


def test_devices_that_run_tasks_have_colours_of_their_own() -> None:
    picture = timeline(busy_mesh(3, 1, 3).lines(), TITLE)
    swatches = [
        mark.fill
        for mark in picture.marks
        if isinstance(mark, Rect) and mark.tooltip == "tasks run here"
    ]
    assert swatches == [ORANGE, BLUE, "#cc79a7"]
    assert SKY not in swatches
