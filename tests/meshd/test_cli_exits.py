"""The exit codes, for everything that an answer can say."""

from __future__ import annotations

import pytest

from meshd.cli import exits
from meshd.cli.exits import Exit, TaskExit, exit_of_error, exit_of_task
from meshd.control_errors import CommandRefused, ContactLost, NoDaemon, NotConfirmed
from meshd.control_frames import Frame
from meshd.errors import ConfigError, HomeUnusable
from wire.answers import RefusalCode
from wire.execution import ExecutionStatus
from wire.tasks import OutcomeKind


def view(**changes: object) -> Frame:
    return {"outcome": "result", "status": "exited", "exit_code": 0, "reason": None, **changes}


def test_the_codes_are_those_that_were_promised() -> None:
    codes = (Exit.DONE, Exit.NO, Exit.USAGE, Exit.NOT_DETERMINISTIC, Exit.NO_DAEMON)
    assert codes == (0, 1, 2, 3, 4)
    names = [
        "usage no_daemon refused nobody_eligible trapped out_of_fuel out_of_memory out_of_time",
        "cancelled disputed lost_contact unconfirmed",
    ]
    promised = " ".join(names).upper().split()
    assert {name: TaskExit[name].value for name in promised} == {
        name: 100 + place for place, name in enumerate(promised)
    }


@pytest.mark.parametrize(
    ("exit_code", "expected"), [(0, 0), (1, 1), (99, 99), (100, 99), (255, 99), (2**32 - 1, 99)]
)
def test_a_programs_own_code_passes_through_up_to_99(exit_code: int, expected: int) -> None:
    assert exit_of_task(view(exit_code=exit_code)) == expected


@pytest.mark.parametrize("status", [one for one in ExecutionStatus if one != "exited"])
def test_every_other_end_of_a_program_has_a_code(status: ExecutionStatus) -> None:
    expected = {
        "trapped": 104,
        "out_of_fuel": 105,
        "out_of_memory": 106,
        "out_of_time": 107,
        "out_of_output": 104,
    }[status]
    assert exit_of_task(view(status=str(status))) == expected
    assert str(status) in exits.STATUS_EXITS


@pytest.mark.parametrize("outcome", [one for one in OutcomeKind if one != "moved"])
def test_every_outcome_that_ends_a_task_has_a_code(outcome: OutcomeKind) -> None:
    expected = {"result": 0, "cancelled": 108, "failed": 102}[outcome]
    assert exit_of_task(view(outcome=str(outcome))) == expected


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("deadline passed while pending: waiting for a device", 107),
        ("disputed: no two devices agree", 109),
        ("no majority after 5 runs", 109),
        ("retries spent after 9 attempts: worker_died", 102),
        ("unsupported_module: it imports env.f", 102),
        (None, 102),
    ],
)
def test_a_failed_task_tells_why_by_its_code(reason: str | None, expected: int) -> None:
    assert exit_of_task(view(outcome="failed", status=None, reason=reason)) == expected


@pytest.mark.parametrize("code", list(RefusalCode))
def test_every_refusal_has_a_code_in_both_tables(code: RefusalCode) -> None:
    refused = CommandRefused({"code": str(code), "message": "no"})
    usage = code in (RefusalCode.BAD_REQUEST, RefusalCode.AMBIGUOUS)
    of_task = 103 if code is RefusalCode.NOBODY_ELIGIBLE else 102
    assert exit_of_error(refused, is_of_task=False) == (2 if usage else 1)
    assert exit_of_error(refused, is_of_task=True) == (100 if usage else of_task)
    assert str(code) in exits.REFUSAL_EXITS
    assert str(code) in exits.TASK_REFUSAL_EXITS


@pytest.mark.parametrize(
    ("error", "plain", "of_task"),
    [
        (NoDaemon("x"), 4, 101),
        (ContactLost("x"), 4, 110),
        (NotConfirmed("x"), 4, 111),
        (ConfigError("x"), 2, 2),
        (HomeUnusable("x"), 1, 102),
        (CommandRefused({"code": "of_a_newer_daemon"}), 1, 102),
    ],
)
def test_every_error_has_a_code(error: Exception, plain: int, of_task: int) -> None:
    assert exit_of_error(error, is_of_task=False) == plain
    assert exit_of_error(error, is_of_task=True) == of_task
