"""`meshctl map`: one program over many inputs, one task each, their outputs in a directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import click

from meshd.cli import bounds
from meshd.cli.exits import Exit
from meshd.cli.files import read_file
from meshd.cli.grammar import CommandFailed, Session, examples, pass_session
from meshd.cli.map_items import ITEMS_MAX, Item, items_of_count, items_of_files
from meshd.cli.map_progress import progress
from meshd.cli.map_run import MapRun
from meshd.cli.map_state import MapState
from meshd.cli.output import plain, print_json
from meshd.cli.program_words import ProgramCommand, env_option, job_option, program_words
from meshd.cli.terms import readers_option, terms_frame, terms_options
from meshd.control_errors import ControlError
from meshd.control_frames import Frame

FAILURES_SHOWN_MAX = 10
AGAIN_MAX = 100


class MapCommand(ProgramCommand):
    """Takes the words of a program; its exit codes are ours alone, as many programs run."""

    is_of_task = False


@click.command(
    "map",
    cls=MapCommand,
    context_settings={"ignore_unknown_options": True},
    epilog=examples(
        "meshctl map wc.wasm --inputs 'texts/*.txt' --outputs counts",
        "meshctl map mandelbrot.wasm 1920 1080 {index} 32 1000 --count 32 --outputs tiles",
        "meshctl map wc.wasm --inputs 'texts/*.txt' --outputs counts --resume",
    ),
)
@program_words
@job_option
@click.option(
    "--inputs",
    metavar="PATTERN",
    multiple=True,
    type=click.Path(readable=False),
    help="Files, one task for each, as its standard input; quoted, such as 'a/*.txt'; repeatable.",
)
@click.option(
    "--count",
    type=click.IntRange(1, ITEMS_MAX),
    metavar="N",
    help="As many tasks, told apart by MAP_INDEX in their environment.",
)
@click.option(
    "--outputs",
    metavar="DIRECTORY",
    required=True,
    type=click.Path(readable=False),
    help="Where the outputs go, each whole or not at all.",
)
@click.option(
    "--suffix",
    metavar="TEXT",
    default=".out",
    show_default=True,
    help="How the names of outputs end, in place of those of the inputs.",
)
@click.option(
    "--again",
    type=click.IntRange(0, AGAIN_MAX),
    metavar="N",
    default=2,
    show_default=True,
    help="How often a task that failed, and may go better, is submitted anew.",
)
@click.option("--resume", is_flag=True, help="Go on with the map that the directory holds.")
@terms_options
@readers_option
@env_option
@pass_session
def map_(
    session: Session,
    /,
    *,
    module: str,
    arguments: list[str],
    inputs: tuple[str, ...],
    count: int | None,
    outputs: str,
    suffix: str,
    again: int,
    resume: bool,
    env: dict[str, str],
    **terms: object,
) -> int:
    """Run a program once for each of many inputs.

    The output of the task for texts/a.txt is DIRECTORY/a.out. In ARGS, {index}, {count} and {name}
    stand for the number of the task, how many there are, and `a`; the environment has them, too, as
    MAP_INDEX, MAP_COUNT and MAP_NAME.

    Whatever happens, the same command with --resume does only what is missing.

    Exits with 0 if all outputs are there, 1 if tasks failed, 2 usage, 4 no daemon or it went away,
    130 Ctrl-C: the tasks go on.
    """
    if bool(inputs) == (count is not None):
        raise click.UsageError("give either --inputs or --count")
    if "/" in suffix or "\0" in suffix or len(suffix) > 100:
        raise click.UsageError("--suffix is the end of a file's name, such as .out")
    items = (
        items_of_count(count, suffix=suffix)
        if count is not None
        else items_of_files(inputs, suffix=suffix)
    )
    program = read_file(module, bytes_max=bounds.MODULE_BYTES_MAX, what="module")
    frame = terms_frame(terms)
    job = [hashlib.sha256(program).hexdigest(), arguments, sorted(env.items()), frame]
    with MapState(Path(outputs)) as state:
        names = [item.name for item in items]
        state.open(_fingerprint(job, items), names=names, resumes=resume)
        before = len(state.done)
        with progress(total=len(items), done=before, is_quiet=session.is_json) as told:
            _run(
                MapRun(
                    connect=session.connect,
                    module=program,
                    args=arguments,
                    env=env,
                    terms=frame,
                    items=items,
                    state=state,
                    again_max=again,
                    progress=told,
                )
            )
        return _report(session, state, items, before=before)


def _run(run: MapRun) -> None:
    """Run the map; whatever ends it too soon says how to go on."""
    resume = "the same command with --resume goes on with what is missing"
    try:
        run.run()
    except KeyboardInterrupt as error:
        raise CommandFailed(
            f"interrupted, {run.done_count} of {len(run.items)} done",
            Exit.INTERRUPTED,
            hint=f"tasks that were submitted go on: {resume}",
            code="interrupted",
        ) from error
    except ControlError as error:
        error.hint = f"{error.hint}; then {resume}" if error.hint else resume
        raise


def _report(session: Session, state: MapState, items: Sequence[Item], *, before: int) -> int:
    failed = [
        {"name": items[index].name, "task": state.tasks.get(index), "reason": reason}
        for index, reason in sorted(state.failed.items())
    ]
    answer: Frame = {
        "answer": "map",
        "outputs": str(state.directory),
        "count": len(items),
        "done": len(state.done),
        "done_before": before,
        "failed": failed,
    }
    if session.is_json:
        print_json(answer)
    else:
        click.echo(plain(f"{len(state.done)} of {len(items)} done, in {state.directory}"))
        for one in failed[:FAILURES_SHOWN_MAX]:
            click.echo(plain(f"  failed: {one['name']}: {one['reason']}"))
        if len(failed) > FAILURES_SHOWN_MAX:
            click.echo(f"  and {len(failed) - FAILURES_SHOWN_MAX} more")
        if failed:
            click.echo("  the same command with --resume tries those again")
    return Exit.NO if failed else Exit.DONE


def _fingerprint(job: Sequence[object], items: Sequence[Item]) -> str:
    """Return what is the same only for the same module, words, terms and inputs."""
    inputs = [(item.name, item.path, item.stamp) for item in items]
    return hashlib.sha256(json.dumps([job, inputs]).encode()).hexdigest()
