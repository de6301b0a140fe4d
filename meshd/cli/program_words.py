"""The words of a command that runs a program: ours, MODULE.wasm, and the program's own."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, ClassVar

import click
from click.shell_completion import CompletionItem

from meshd.cli.files import STANDARD
from meshd.cli.grammar import TaskCommand, pairs

if TYPE_CHECKING:
    from meshd.cli.jobfile import Job


class ProgramCommand(TaskCommand):
    """Takes our options anywhere before `--`; every other word after MODULE is the program's."""

    needs_module: ClassVar[bool] = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Divide the words. Raises click.UsageError, also for what looks like a slip of ours."""
        place = args.index("--") if "--" in args else len(args)
        rest = super().parse_args(ctx, self._with_long_name(ctx, args[:place]))
        ours = list(ctx.params.pop("words"))
        words = [*ours, *args[place + 1 :]]
        job: Job | None = ctx.params.pop("job", None)
        if not words and job is not None and job.module is not None:
            words = [job.module, *job.args]
        if not ctx.resilient_parsing:
            self._check(ctx, ours, words)
        ctx.params["module"], ctx.params["arguments"] = (words or [""])[0], words[1:]
        return rest

    def _with_long_name(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Return the words with `-f` as --job where it stands before MODULE.

        After it, and within other letters, it is the program's: `tar.wasm -xf archive` is usual.
        """
        takes_value = {
            name: isinstance(one, click.Option) and not one.is_flag
            for one in self.get_params(ctx)
            for name in one.opts
        }
        place = 0
        while place < len(args) and args[place] not in ("-", ""):
            word = args[place]
            if word == "-f" and "--job" in takes_value:
                return [*args[:place], "--job", *args[place + 1 :]]
            if not word.startswith("-"):
                break
            place += 2 if takes_value.get(word, False) else 1
        return args

    def _check(self, ctx: click.Context, ours: list[str], words: list[str]) -> None:
        if not words and self.needs_module:
            raise click.UsageError("Missing argument 'MODULE.wasm'.", ctx)
        if ours and ours[0].startswith("-") and ours[0] != STANDARD:
            raise click.NoSuchOption(ours[0].partition("=")[0], ctx=ctx)
        known = [name for parameter in self.get_params(ctx) for name in parameter.opts]
        for word in ours:
            name = word.partition("=")[0]
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            if name.startswith("--") and close:
                raise click.UsageError(
                    f"{name} is much like {close[0]}: put `--` before it if it is the program's",
                    ctx,
                )


def _complete_module(
    _ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="file")]


def _take_job(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> Job | None:
    """Let the options have what the file says where no flag says otherwise."""
    if value is None or ctx.resilient_parsing:
        return None
    from meshd.cli.jobfile import read_job  # it needs YAML, which nothing else does

    job = read_job(value, ctx)
    ctx.default_map = {**job.options}
    return job


job_option = click.option(
    "--job",
    metavar="FILE|-",
    type=click.Path(readable=False),
    is_eager=True,
    callback=_take_job,
    help="Take what is not given here from a job file; `-f FILE` is short for it before MODULE.",
)

program_words = click.argument(
    "words",
    metavar="MODULE.wasm [ARGS]...",
    nargs=-1,
    type=click.UNPROCESSED,
    shell_complete=_complete_module,
)

env_option = click.option(
    "--env",
    metavar="NAME=VALUE",
    multiple=True,
    callback=pairs,
    help="A variable of its environment; repeatable.",
)
