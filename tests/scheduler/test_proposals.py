"""Rows that wait for outputs: for a vote, and for this device to propose them again."""

from __future__ import annotations

import pytest
from support.stewards import EXECUTORS, OWN, StewardBench, rows_in, runs

from scheduler import proposals as module
from scheduler.batch import Batch, DecisionRow
from scheduler.proposals import Proposals
from scheduler.register import Register
from scheduler.retelling import Retelling
from wire.effects import Effect, Fetch, Trace
from wire.events import Fetched, FetchFailed

FIRST, *_ = EXECUTORS


class Bench:
    """Proposals of a batch, one of whose rows is known but not its output."""

    def __init__(self) -> None:
        stewards = StewardBench().start()
        self.batch = stewards.submit(2)
        self.row, *_ = rows_in(runs(stewards, FIRST))
        office = stewards.office
        self.proposals = Proposals(
            office=office, register=Register(office=office), retelling=Retelling(office=office)
        )
        self.said: list[str] = []

    def fetch(self, purpose: str, *, leads: bool = False) -> list[Fetch]:
        def say(what: str) -> list[Effect]:
            self.said.append(f"{purpose} {what}")
            return []

        def taken(batch: Batch, row: DecisionRow) -> list[Effect]:
            return say("taken")

        def lost(batch: Batch, row: DecisionRow) -> list[Effect]:
            return say("lost")

        effects = self.proposals.fetch(
            (OWN.peer,),
            self.batch,
            self.row,
            taken=taken,
            lost=lost,
            led_in=self.batch.epoch if leads else None,
        )
        return [effect for effect in effects if isinstance(effect, Fetch)]


def test_who_leads_hears_of_an_output_that_was_being_fetched_for_a_vote_already() -> None:
    bench = Bench()
    for_vote, to_lead = bench.fetch("vote"), bench.fetch("lead", leads=True)
    assert {fetch.token for fetch in for_vote}.isdisjoint(fetch.token for fetch in to_lead)

    [failed] = bench.proposals.on_fetch_failed(FetchFailed(to_lead[0].token, "gone"))
    for fetch in for_vote:
        bench.proposals.on_fetched(Fetched(fetch.token))

    assert isinstance(failed, Trace)
    assert bench.said == ["lead lost", "vote taken"]


def test_a_row_that_comes_twice_is_fetched_once() -> None:
    bench = Bench()
    assert bench.fetch("vote")
    assert bench.fetch("vote") == []


def test_who_leads_hears_that_there_is_no_room_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROPOSALS_MAX", 0)
    bench = Bench()
    assert bench.fetch("lead", leads=True) == []
    assert bench.said == ["lead lost"]


def test_who_stands_down_leaves_no_task_waiting_for_an_output_that_has_not_come() -> None:
    bench = StewardBench().start()
    batch = bench.submit(2)
    batch.begin_deciding([0])
    assert [task.is_open for task in batch.progress] == [False, True]

    Register(office=bench.office).stand_down(batch)

    assert [task.is_open for task in batch.progress] == [True, True]
