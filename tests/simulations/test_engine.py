"""Virtual time goes on in order, and storms are found."""

from __future__ import annotations

import pytest

from simulations.engine import Engine
from simulations.errors import EventBudgetSpent


def test_what_is_due_first_happens_first_and_equals_in_the_order_they_were_scheduled() -> None:
    engine, happened = Engine(), list[str]()
    engine.at(20, lambda: happened.append("late"))
    engine.at(10, lambda: happened.append("first of two"))
    engine.at(10, lambda: happened.append("second of two"))
    engine.run(until_us=30, events_max=10)
    assert happened == ["first of two", "second of two", "late"]
    assert engine.now_us == 30


def test_an_action_may_schedule_another_for_the_same_time() -> None:
    engine, happened = Engine(), list[int]()
    engine.at(5, lambda: engine.after(0, lambda: happened.append(engine.now_us)))
    engine.run(until_us=5, events_max=10)
    assert happened == [5]


def test_time_stops_when_what_is_waited_for_is_reached() -> None:
    engine, happened = Engine(), list[int]()
    for due_us in (10, 20, 30):
        engine.at(due_us, lambda: happened.append(engine.now_us))
    assert engine.run(until_us=100, events_max=10, is_reached=lambda: len(happened) == 2)
    assert engine.now_us == 20
    assert not engine.run(until_us=100, events_max=10, is_reached=lambda: len(happened) == 9)
    assert engine.now_us == 100


def test_actions_that_set_off_each_other_for_ever_spend_the_budget() -> None:
    engine = Engine()

    def again() -> None:
        engine.after(0, again)

    engine.after(0, again)
    with pytest.raises(EventBudgetSpent, match="storm"):
        engine.run(until_us=1, events_max=1_000)


def test_nothing_can_be_scheduled_in_the_past() -> None:
    engine = Engine()
    engine.run(until_us=10, events_max=1)
    with pytest.raises(ValueError, match="past"):
        engine.at(9, lambda: None)
