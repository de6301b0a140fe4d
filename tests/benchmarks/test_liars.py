"""The table of liars measures what it says: it sees lies where nothing is checked."""

from __future__ import annotations

from unittest import mock

from benchmarks.liars.__main__ import FLOORS_PERMILLE, line_of, misses_of
from benchmarks.liars.mesh import LiarFigures, LiarSettings, figures_of
from benchmarks.liars.plot import curve_of
from scheduler.agreement import Tally
from scheduler.spot_checks import Draw, SpotChecks
from simulations.svg import svg_of


def settings(honest_count: int | None) -> LiarSettings:
    return LiarSettings(honest_count=honest_count, devices_count=40, tasks_count=20_000)


def test_liars_are_convicted_and_what_they_got_accepted_is_marked() -> None:
    figures = figures_of(settings(10))
    assert figures.liars_convicted_count == 8
    assert 0 < figures.wrong_count < 400
    assert figures.unmarked_count <= 2
    assert misses_of(settings(0), figures_of(settings(0))) == []


def test_where_nothing_is_checked_every_fifth_result_is_wrong() -> None:
    with mock.patch.object(SpotChecks, "draw", return_value=Draw.TAKE):
        figures = figures_of(settings(0))
    assert 0.18 < figures.wrong_count / figures.tasks_count < 0.22
    assert figures.extra == 0
    assert "wrong when accepted" in misses_of(settings(0), figures)[0]


def test_without_convictions_nothing_is_marked() -> None:
    with mock.patch.object(Tally, "convicted", return_value=[]):
        figures = figures_of(settings(100))
    assert figures.liars_convicted_count == 0
    assert figures.unmarked_count == figures.wrong_count > 0


def test_the_same_seed_gives_the_same_table_and_picture() -> None:
    assert figures_of(settings(0)) == figures_of(settings(0))
    figures = LiarFigures(tasks_count=100, wrong_count=1, runs_count=110)
    assert "1.000%" in line_of(settings(None), figures)
    drawing = curve_of(FLOORS_PERMILLE, {0: [figures] * len(FLOORS_PERMILLE)})
    assert svg_of(drawing).count("<polyline") == 7
