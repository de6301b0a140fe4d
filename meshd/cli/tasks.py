"""What `meshctl` does with tasks that are there: list, show, wait, result, cancel."""

from __future__ import annotations

import time

import click

from meshd.cli import bounds
from meshd.cli.exits import Exit, exit_of_task
from meshd.cli.files import check_writable
from meshd.cli.following import (
    Interrupted,
    follow_task,
    interrupted,
    outcome_text,
)
from meshd.cli.grammar import MeshCommand, Session, TaskCommand, examples, pass_session
from meshd.cli.output import (
    Cell,
    Column,
    milliseconds,
    note,
    plain,
    print_fields,
    print_json,
    print_table,
    rough_duration,
    short_task,
)
from meshd.cli.program_output import give_output
from meshd.cli.references import task_argument
from meshd.control_frames import Frame

TASK_COLUMNS = (
    Column("TASK"),
    Column("STATE"),
    Column("DEVICE", width_max=14),
    Column("TRIES", is_number=True),
    Column("RAN", is_number=True),
    Column("SUBMITTED"),
    Column("HOW", width_max=80),
)


@click.command(
    cls=MeshCommand, epilog=examples("meshctl tasks", "meshctl tasks --limit 500 --output json")
)
@click.option(
    "--limit",
    type=click.IntRange(*bounds.TASKS_LISTED),
    metavar="N",
    default=50,
    show_default=True,
    help="How many at most.",
)
@pass_session
def tasks(session: Session, limit: int) -> int:
    """List the latest tasks submitted here, newest first.

    RAN is the time of the run alone, TRIES how many devices were given the task.
    """
    with session.connect() as client:
        answer = client.ask({"command": "tasks", "limit": limit})
    if session.is_json:
        print_json(answer)
        return Exit.DONE
    print_table(TASK_COLUMNS, map(_task_row, answer["tasks"]))
    if answer["is_truncated"]:
        note("there are more: see them with --limit")
    return Exit.DONE


@click.command(cls=MeshCommand, epilog=examples("meshctl task mrrwgzdfmzxw.0"))
@task_argument
@pass_session
def task(session: Session, task: str) -> int:
    """Show one task: its state, why it waits, or how it ended."""
    with session.connect() as client:
        answer = client.ask({"command": "task", "task": task})
    if session.is_json:
        print_json(answer)
    else:
        print_fields(_task_fields(answer))
    return Exit.DONE


@click.command(
    cls=TaskCommand, epilog=examples("meshctl wait mrrwgzdfmzxw.0", "meshctl wait ID && echo good")
)
@task_argument
@pass_session
def wait(session: Session, task: str) -> int:
    """Wait until a task is decided. Exits as `meshctl submit` would have.

    Its output is not printed: `meshctl result ID` has it.
    """
    with session.connect() as client:
        try:
            view = follow_task(client, task, is_quiet=session.is_json)
        except Interrupted as error:
            raise interrupted(task) from error
    if session.is_json:
        print_json(view)
    else:
        click.echo(plain(outcome_text(view)))
    return exit_of_task(view)


@click.command(
    cls=MeshCommand,
    epilog=examples("meshctl result mrrwgzdfmzxw.0", "meshctl result ID --to picture.png"),
)
@task_argument
@click.option(
    "--to",
    metavar="FILE",
    type=click.Path(readable=False),
    help="Where to, whole or not at all; else stdout.",
)
@pass_session
def result(session: Session, task: str, to: str | None) -> int:
    """Print what a task put out. Exits with 1 if it has not ended, or ended without a result."""
    if to is not None:
        check_writable(to)
    with session.connect() as client:
        answer = give_output(client, task, to=to, is_json=session.is_json)
    if session.is_json:
        print_json(answer)
    return Exit.DONE


@click.command(cls=MeshCommand, epilog=examples("meshctl cancel mrrwgzdfmzxw.0"))
@task_argument
@pass_session
def cancel(session: Session, task: str) -> int:
    """Stop a task. Exits with 1 if it ended in another way first."""
    with session.connect() as client:
        view = client.ask({"command": "cancel", "task": task})
    if session.is_json:
        print_json(view)
    elif view["outcome"] == "cancelled":
        click.echo(plain(outcome_text(view)))
    else:
        click.echo(plain(f"too late: {outcome_text(view)}"))
    return Exit.DONE if view["outcome"] == "cancelled" else Exit.NO


@click.command(cls=MeshCommand, epilog=examples("meshctl resubmit mrrwgzdfmzxw.0"))
@task_argument
@pass_session
def resubmit(session: Session, task: str) -> int:
    """Make a new task of one that is stuck.

    It is stuck when a majority of its stewards is gone. All tasks of its batch are submitted again,
    and the new contract names the old one. If the old one was decided before its stewards were
    gone, or they come back, two results exist.
    """
    with session.connect() as client:
        accepted = client.ask({"command": "resubmit", "task": task})
    if session.is_json:
        print_json(accepted)
        return Exit.DONE
    for one in accepted["tasks"]:
        click.echo(one)
    note("two results may exist: of the old task, if its stewards come back, and of the new one")
    return Exit.DONE


def _task_row(view: Frame) -> list[Cell]:
    return [
        short_task(view["id"]),
        view["state"],
        view["executor_name"],
        view["attempts"],
        milliseconds(view["run_us"])
        if (view["run_us"] or 0) < 1_000_000
        else rough_duration(view["run_us"]),
        _wall(view["submitted_wall_us"]),
        _how(view),
    ]


def _task_fields(view: Frame) -> list[tuple[str, Cell]]:
    return [
        ("task", view["id"]),
        ("state", view["state"]),
        ("why", view["reason"]),
        ("hint", view["hint"]),
        ("ended", outcome_text(view) if view["is_decided"] else None),
        ("device", view["executor_name"]),
        ("device id", view["executor"]),
        ("attempts", view["attempts"]),
        ("fuel used", view["fuel_used"]),
        ("submitted", _wall(view["submitted_wall_us"])),
        ("decided", _wall(view["decided_wall_us"])),
        ("durability", view["durability"]),
        ("module", view["module"]),
        ("output", view["output_digest"]),
    ]


def _how(view: Frame) -> str:
    """Return in a few words how a task ended, or what it waits for."""
    if view["outcome"] == "result" and view["status"] == "exited":
        return f"exited {view['exit_code']}"
    if view["outcome"] == "result":
        return str(view["status"]).replace("_", " ")
    return view["reason"] or ""


def _wall(wall_us: int | None) -> str | None:
    """Return a time of the wall clock as it is here."""
    if wall_us is None:
        return None
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall_us / 1_000_000))
