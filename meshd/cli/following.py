"""Following a task to its end: what is said meanwhile, and what its end means."""

from __future__ import annotations

import sys

from meshd.cli.exits import TaskExit, exit_of_task
from meshd.cli.grammar import CommandFailed
from meshd.cli.output import milliseconds, note, plain, rough_duration, short_task
from meshd.client import ControlClient
from meshd.control_errors import ContactLost
from meshd.control_frames import Frame

_STATUS_TEXTS = {
    "trapped": "the program trapped",
    "out_of_fuel": "the program ran out of fuel",
    "out_of_memory": "the program ran out of memory",
    "out_of_time": "the program ran out of time",
    "out_of_output": "the program put out too much",
}
_STATUS_HINTS = {
    "out_of_fuel": "give it more with --fuel",
    "out_of_memory": "give it more with --memory",
    "out_of_time": "give it longer with --timeout",
    "out_of_output": "let it put out more with --output-max",
}


class Interrupted(Exception):
    """The person pressed Ctrl-C while a task was being followed. The task goes on."""


def follow_task(client: ControlClient, task: str, *, is_quiet: bool) -> Frame:
    """Return the view of the decided `task`, saying on a terminal what it waits for meanwhile.

    Raises Interrupted, ContactLost (the task goes on) or CommandRefused.
    """
    says = not is_quiet and sys.stderr.isatty()
    said = ""
    view: Frame = {}
    try:
        for view in client.follow({"command": "wait", "task": task}):
            if says and not view["is_decided"] and progress_text(view) != said:
                said = progress_text(view)
                note(said)
    except KeyboardInterrupt as error:
        raise Interrupted from error
    except ContactLost as error:
        raise ContactLost(str(error), hint=come_back(task)) from error
    if not view.get("is_decided"):
        raise ContactLost("the daemon stopped telling about the task", hint=come_back(task))
    return view


def come_back(task: str) -> str:
    """Return how to find a task again that goes on without us."""
    return f"the task goes on: `meshctl wait {task}`, then `meshctl result {task}`"


def interrupted(task: str) -> CommandFailed:
    """Return how a command ends that Ctrl-C ended: with how to come back."""
    return CommandFailed(
        "interrupted", TaskExit.LOST_CONTACT, hint=come_back(task), code="interrupted"
    )


def progress_text(view: Frame) -> str:
    """Return a line about a task that is not decided."""
    text = f"{short_task(view['id'])} {view['state']}"
    if view["executor_name"]:
        text += f" on {view['executor_name']}"
    if view["reason"]:
        text += f": {view['reason']}"
    return f"{text} ({view['hint']})" if view["hint"] else text


def outcome_text(view: Frame) -> str:
    """Return a line about a decided task: how it ended, where, and how long it ran."""
    if view["outcome"] == "cancelled":
        return "the task was cancelled" + _because(view["reason"])
    if view["outcome"] != "result":
        return "the task failed" + _because(view["reason"])
    if view["status"] == "exited":
        text = f"the program exited with {view['exit_code']}"
    else:
        text = _STATUS_TEXTS.get(view["status"], str(view["status"])) + _because(view["detail"])
    where = f"on {view['executor_name']} " if view["executor_name"] else ""
    return f"{text} ({where}after {_run_time(view['run_us'])})"


def explain_end(view: Frame) -> int:
    """Return the exit code of a decided task; say on standard error what it does not tell."""
    code = exit_of_task(view)
    if view["status"] == "exited" and code == view["exit_code"]:
        return code
    note(f"meshctl: {plain(outcome_text(view))}")
    if view["status"] == "exited" and view["outcome"] == "result":
        note(f"  {code} is given instead, since higher codes have meanings of their own")
    elif view["status"] in _STATUS_HINTS:
        note(f"  {_STATUS_HINTS[view['status']]}")
    elif view["hint"]:
        note(f"  {view['hint']}")
    return code


def _because(reason: str | None) -> str:
    return f": {reason}" if reason else ""


def _run_time(run_us: int | None) -> str:
    return (
        milliseconds(run_us)
        if run_us is not None and run_us < 1_000_000
        else rough_duration(run_us)
    )
