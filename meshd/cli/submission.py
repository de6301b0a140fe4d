"""`meshctl submit`: runs a program on the mesh as if it ran here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from meshd.cli import bounds
from meshd.cli.exits import Exit, TaskExit
from meshd.cli.files import STANDARD, FileFailed, check_writable, read_file
from meshd.cli.following import Interrupted, explain_end, follow_task, interrupted
from meshd.cli.grammar import (
    CommandFailed,
    Session,
    examples,
    pass_session,
)
from meshd.cli.output import print_json
from meshd.cli.program_output import give_output
from meshd.cli.program_words import ProgramCommand, env_option, job_option, program_words
from meshd.cli.terms import readers_option, terms_frame, terms_options
from meshd.client import ControlClient, TaskInput
from meshd.control_errors import CommandRefused, ContactLost
from meshd.control_frames import Frame

_Function = TypeVar("_Function", bound=Callable[..., Any])

_TOO_MUCH_INPUT = "split the work into tasks with less input each"

_OPTIONS = (
    job_option,
    click.option(
        "--input",
        "input_file",
        metavar="FILE|-",
        type=click.Path(readable=False),
        help="What the program reads from its standard input; nothing without it.",
    ),
    click.option(
        "--to",
        metavar="FILE",
        type=click.Path(readable=False),
        help="Where its standard output goes, whole or not at all; else to ours.",
    ),
    terms_options,
    readers_option,
    env_option,
    click.option("--detach", is_flag=True, help="Print the task's id and do not wait for it."),
)


def submission_options(function: _Function) -> _Function:
    """Give a command the options of `submit`, as `plan` takes them, too."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command(
    cls=ProgramCommand,
    context_settings={"ignore_unknown_options": True},
    epilog=examples(
        "meshctl submit wc.wasm --input README.md",
        "meshctl submit wc.wasm -l < /dev/null",
        "meshctl submit tool.wasm --to out.bin -- --input is-for-the-program",
        "meshctl submit render.wasm --require arch:aarch64 --memory 256MiB --detach",
        "meshctl submit -f job.yaml --deadline 2h",
    ),
)
@program_words
@submission_options
@click.option("--dry-run", is_flag=True, help="Print the job file of all this, and run nothing.")
@pass_session
@click.pass_context
def submit(
    ctx: click.Context,
    session: Session,
    /,
    *,
    dry_run: bool,
    module: str,
    arguments: list[str],
    input_file: str | None,
    to: str | None,
    env: dict[str, str],
    detach: bool,
    **terms: object,
) -> int:
    """Run a program on the mesh as if it ran here.

    Its output is our output, its exit code ours.

    MODULE.wasm is a WASI preview 1 command. Options of ours may stand anywhere; what we do not know
    after MODULE.wasm, and everything after --, is given to the program. Ctrl-C leaves the task
    running.

    Exits with the program's own code from 0 to 99 (99 for higher ones), or: 100 usage, 101 no
    daemon, 102 refused, 103 nobody eligible, 104 trap, 105 fuel, 106 memory, 107 time, 108
    cancelled, 109 disputed, 110 lost contact (the task goes on), 111 unconfirmed.
    """
    if dry_run:
        return _dry_run(session, ctx)
    if module == STANDARD and input_file == STANDARD:
        raise click.UsageError("module and input cannot both be standard input")
    if detach and to is not None:
        raise click.UsageError("--detach does not wait for an output: leave out --to")
    if to is not None:
        check_writable(to)
    with session.connect() as client:
        program = read_file(module, bytes_max=bounds.MODULE_BYTES_MAX, what="module")
        stdin = b""
        if input_file is not None:
            stdin = read_file(
                input_file, bytes_max=bounds.INPUT_BYTES_MAX, what="input", hint=_TOO_MUCH_INPUT
            )
        task = TaskInput(args=arguments, env=env, stdin=stdin)
        accepted = _submitted(client, program, task, terms_frame(terms))
        if detach:
            return _detached(session, accepted)
        return _attached(session, client, accepted["tasks"][0], to=to)


def _dry_run(session: Session, ctx: click.Context) -> int:
    from meshd.cli.jobfile import filled_in, job_text  # as `job_option` says

    job = filled_in(ctx.command, ctx.params)
    if session.is_json:
        print_json({"answer": "job", "job": job})
    else:
        click.echo(job_text(job), nl=False)
    return Exit.DONE


def _submitted(client: ControlClient, program: bytes, task: TaskInput, options: Frame) -> Frame:
    try:
        return client.submit(program, [task], **options)
    except KeyboardInterrupt as error:
        raise CommandFailed(
            "interrupted before the daemon said whether it took the task",
            TaskExit.UNCONFIRMED,
            hint="`meshctl tasks` shows whether the task is there",
            code="interrupted",
        ) from error


def _detached(session: Session, accepted: Frame) -> int:
    if session.is_json:
        print_json(accepted)
    else:
        click.echo(accepted["tasks"][0])
    return Exit.DONE


def _attached(session: Session, client: ControlClient, task: str, *, to: str | None) -> int:
    """Follow the task, give its output on, and return its exit code."""
    try:
        view = follow_task(client, task, is_quiet=session.is_json)
        answer: Frame = {"answer": "result", "task": view, "stdout": None, "stderr": None}
        if view["outcome"] == "result":
            answer = _output(client, task, to=to, is_json=session.is_json)
    except (Interrupted, KeyboardInterrupt) as error:
        raise interrupted(task) from error
    code = explain_end(view)
    if session.is_json:
        print_json({**answer, "exit_code": int(code)})
    return code


def _output(client: ControlClient, task: str, *, to: str | None, is_json: bool) -> Frame:
    try:
        return give_output(client, task, to=to, is_json=is_json)
    except CommandRefused as error:
        raise ContactLost(
            f"the task ended, but its output is not to be had: {error}",
            hint=f"try `meshctl result {task}`",
        ) from error
    except FileFailed as error:
        hint = f"the task has ended: `meshctl result {task} --to FILE` gives its output again"
        raise FileFailed(error.message, hint=hint) from error
