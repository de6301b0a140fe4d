"""The exit codes of both commands, in one place (docs/cli.md lists them for people).

`submit` and `wait` pass the program's own code through, 0 to 99, so their own codes begin at 100.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from meshd.control_errors import CommandRefused, ContactLost, NoDaemon, NotConfirmed
from meshd.control_frames import Frame
from meshd.errors import ConfigError, PassphraseMissing


class Exit(enum.IntEnum):
    """Of every command except `submit` and `wait`."""

    DONE = 0
    NO = 1
    USAGE = 2
    NOT_DETERMINISTIC = 3  # of the simulator
    NO_DAEMON = 4
    INTERRUPTED = 130  # 128 + SIGINT, as shells count


class TaskExit(enum.IntEnum):
    """Of `submit` and `wait`."""

    PROGRAM_MAX = 99
    USAGE = 100
    NO_DAEMON = 101
    REFUSED = 102
    NOBODY_ELIGIBLE = 103
    TRAPPED = 104
    OUT_OF_FUEL = 105
    OUT_OF_MEMORY = 106
    OUT_OF_TIME = 107
    CANCELLED = 108
    DISPUTED = 109
    LOST_CONTACT = 110
    UNCONFIRMED = 111


REFUSAL_EXITS: Mapping[str, Exit] = {
    "bad_request": Exit.USAGE,
    "ambiguous": Exit.USAGE,
    "not_found": Exit.NO,
    "nobody_eligible": Exit.NO,
    "refused": Exit.NO,
    "not_yet": Exit.NO,
    "storage_full": Exit.NO,
    "stopping": Exit.NO,
    "internal": Exit.NO,
}
TASK_REFUSAL_EXITS: Mapping[str, TaskExit] = {
    "bad_request": TaskExit.USAGE,
    "ambiguous": TaskExit.USAGE,
    "not_found": TaskExit.REFUSED,
    "nobody_eligible": TaskExit.NOBODY_ELIGIBLE,
    "refused": TaskExit.REFUSED,
    "not_yet": TaskExit.REFUSED,
    "storage_full": TaskExit.REFUSED,
    "stopping": TaskExit.REFUSED,
    "internal": TaskExit.REFUSED,
}
STATUS_EXITS: Mapping[str, TaskExit] = {
    "trapped": TaskExit.TRAPPED,
    "out_of_fuel": TaskExit.OUT_OF_FUEL,
    "out_of_memory": TaskExit.OUT_OF_MEMORY,
    "out_of_time": TaskExit.OUT_OF_TIME,
    "out_of_output": TaskExit.TRAPPED,  # the program was stopped for what it did
}
# A failed task says why in words; these begin those that have a code of their own.
FAILURE_EXITS: Mapping[str, TaskExit] = {
    "deadline passed": TaskExit.OUT_OF_TIME,
    "disputed": TaskExit.DISPUTED,
    "no majority": TaskExit.DISPUTED,
}


def exit_of_task(task: Frame) -> int:
    """Return the exit code for a decided task, as `wire.answers.TaskView` describes it."""
    if task.get("outcome") == "cancelled":
        return TaskExit.CANCELLED
    if task.get("outcome") != "result":
        return _exit_of_failure(str(task.get("reason") or ""))
    if task.get("status") == "exited":
        return min(int(task.get("exit_code") or 0), TaskExit.PROGRAM_MAX)
    return STATUS_EXITS.get(str(task.get("status")), TaskExit.TRAPPED)


def exit_of_error(error: Exception, *, is_of_task: bool) -> int:
    """Return the exit code when a command ends in a typed error."""
    if isinstance(error, CommandRefused):
        if is_of_task:
            return TASK_REFUSAL_EXITS.get(error.code, TaskExit.REFUSED)
        return REFUSAL_EXITS.get(error.code, Exit.NO)
    if isinstance(error, ConfigError | PassphraseMissing):
        return Exit.USAGE
    if isinstance(error, NoDaemon):
        return TaskExit.NO_DAEMON if is_of_task else Exit.NO_DAEMON
    if is_of_task and isinstance(error, NotConfirmed):
        return TaskExit.UNCONFIRMED
    if is_of_task and isinstance(error, ContactLost):
        return TaskExit.LOST_CONTACT
    if isinstance(error, ContactLost | NotConfirmed):
        return Exit.NO_DAEMON
    return TaskExit.REFUSED if is_of_task else Exit.NO


def _exit_of_failure(reason: str) -> int:
    for beginning, code in FAILURE_EXITS.items():
        if reason.startswith(beginning):
            return code
    return TaskExit.REFUSED
