"""`meshctl history`: every event of a task's life, from every device that touched it."""

from __future__ import annotations

import time

import click

from meshd.cli.exits import Exit
from meshd.cli.grammar import MeshCommand, Session, examples, pass_session
from meshd.cli.output import Cell, Column, note, print_json, print_table
from meshd.cli.references import task_argument
from meshd.control_frames import Frame

_COLUMNS = (
    Column("TIME", width_max=23),
    Column("DEVICE", width_max=14),
    Column("WHAT", width_max=14),
    Column("WITH", width_max=14),
    Column("DETAIL", width_max=80),
)


@click.command(cls=MeshCommand, epilog=examples("meshctl history ID", "meshctl history mrrw.0"))
@task_argument
@pass_session
def history(session: Session, task: str) -> int:
    """Tell what happened to a task, on all devices that it touched.

    Each device tells its own part, by its own clock; what cannot be asked is named.
    """
    with session.connect() as client:
        answer = client.ask({"command": "history", "task": task})
    if session.is_json:
        print_json(answer)
        return Exit.DONE
    print_table(_COLUMNS, map(_row, answer["events"]))
    for device in answer["silent"]:
        state = str(device["state"]).replace("_", " ")
        note(f"not heard: {device['name']} ({state}), which may know more")
    return Exit.DONE


def _row(event: Frame) -> list[Cell]:
    detail = event["detail"]
    return [
        _stamp(event["wall_us"]),
        event["device_name"],
        str(event["kind"]).replace("_", " "),
        event["peer_name"] or "",
        detail or "",
    ]


def _stamp(wall_us: int | None) -> str | None:
    if wall_us is None:
        return None
    seconds, rest_us = divmod(wall_us, 1_000_000)
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) + f".{rest_us // 1000:03}"
