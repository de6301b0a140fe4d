"""The grammar that every command shares: `--home` and `--output` before or after the command, one
line for what went wrong and one for what to do, and the exit codes.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NoReturn, TypeAlias

import click

from meshd.cli import bounds
from meshd.cli.exits import Exit, TaskExit, exit_of_error
from meshd.cli.output import note, plain, print_json, wants_colour
from meshd.client import ControlClient
from meshd.control_errors import CommandRefused, ControlError
from meshd.control_frames import Frame
from meshd.errors import QuantityError
from meshd.home import home_path
from meshd.quantities import (
    format_duration_us,
    format_size_bytes,
    parse_duration_us,
    parse_size_bytes,
)
from wire.errors import MeshError

FORMATS = ("table", "json")

OptionCallback: TypeAlias = Callable[[click.Context, click.Parameter, str | None], int | None]


@dataclass(slots=True)
class Session:
    """What the common options say."""

    home_flag: str | None = None
    format: str = "table"

    @property
    def home(self) -> Path:
        """The home of the daemon that is spoken with. Raises HomeUnusable."""
        return home_path(self.home_flag, os.environ)

    @property
    def is_json(self) -> bool:
        """Whether the answer is wanted as JSON."""
        return self.format == "json"

    def connect(self) -> ControlClient:
        """Return a connection to the daemon. Raises NoDaemon."""
        return ControlClient(self.home)


@dataclass(slots=True, eq=False)
class CommandFailed(Exception):
    """A command ended in something foreseeable: what it was, what to do, and the exit code."""

    message: str
    exit_code: int
    hint: str | None = None
    code: str = "usage"
    answer: Frame = field(default_factory=dict)


class MeshCommand(click.Command):
    """A command with the common options."""

    is_of_task: ClassVar[bool] = False

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the parameters, the common options and `--help` last."""
        *own, help_option = super().get_params(ctx)
        return [*own, *COMMON_OPTIONS, help_option]

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: object,
    ) -> click.Context:
        """Parse `args`. Raises CommandFailed for what the person got wrong."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.ClickException as error:
            raise failure_of(error, is_of_task=self.is_of_task) from error

    def invoke(self, ctx: click.Context) -> object:
        """Run; typed errors become CommandFailed with the exit codes of this command."""
        try:
            return super().invoke(ctx)
        except (MeshError, click.ClickException) as error:
            raise failure_of(error, is_of_task=self.is_of_task) from error


class TaskCommand(MeshCommand):
    """`submit` or `wait`, which pass a program's own exit code through."""

    is_of_task = True


class MeshGroup(click.Group):
    """A set of commands that fail alike: no traceback for anything that can be foreseen."""

    command_class = MeshCommand
    # How the help sets commands apart: each name begins another paragraph of the list.
    paragraphs: tuple[str, ...] = ()

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the common options, `--version` and `--help`."""
        *own, help_option = super().get_params(ctx)
        return [*own, *COMMON_OPTIONS, VERSION_OPTION, help_option]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands as they were added: what is needed first stands first."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, in paragraphs of what belongs together."""
        names = self.list_commands(ctx)
        size = max(map(len, names))
        with formatter.section("Commands"):
            for number, name in enumerate(names):
                command = self.get_command(ctx, name)
                if command is None or command.hidden:
                    continue
                if number and name in self.paragraphs:
                    formatter.write_paragraph()
                text = command.get_short_help_str(formatter.width - 6 - size)
                formatter.write_dl([(name.ljust(size), text)])

    def main(  # type: ignore[override]  # it has no other modes: it always ends the process
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **_modes: object
    ) -> NoReturn:
        """Run the command that `args` name and end the process with its exit code."""
        given = list(sys.argv[1:] if args is None else args)
        name = str(self.name)
        try:
            code = super().main(given, prog_name=name, standalone_mode=False)
        except click.Abort:
            code = Exit.INTERRUPTED
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            code = Exit.USAGE
        except (CommandFailed, click.ClickException) as error:
            failed = (
                error
                if isinstance(error, CommandFailed)
                else failure_of(error, is_of_task=self._is_of_task(given))
            )
            report(failed, name=name, is_json=wants_json(given))
            code = failed.exit_code
        sys.exit(code if isinstance(code, int) else Exit.DONE)

    def _is_of_task(self, given: Sequence[str]) -> bool:
        """Say which exit codes are meant where the words before the command are wrong."""
        named = next((word for word in given if word in self.commands), "")
        return isinstance(self.commands.get(named), TaskCommand)


def duration_us(least: int, most: int) -> OptionCallback:
    """Return the callback of an option that gives a duration, in microseconds."""
    return _quantity(parse_duration_us, format_duration_us, least, most)


def size_bytes(least: int, most: int) -> OptionCallback:
    """Return the callback of an option that gives a size, in bytes."""
    return _quantity(parse_size_bytes, format_size_bytes, least, most)


def pairs(
    ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    """Return what a repeatable option of the form NAME=VALUE gives; the last of a name counts."""
    found = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not equals or not name:
            text = f"{value!r} is not of the form NAME=VALUE"
            raise click.BadParameter(text, ctx=ctx, param=parameter)
        found[name] = rest
    return found


def capabilities(
    ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """Return capabilities as they are asked for; their kinds are up to the mesh."""
    for value in values:
        if not re.fullmatch(r"[a-z]+:\S+", value) or len(value) > bounds.CAPABILITY_LETTERS_MAX:
            text = f"{value!r} is no capability: write it as cpu:4, mem:4GiB or label:room=hall"
            raise click.BadParameter(text, ctx=ctx, param=parameter)
    if len(values) > bounds.CAPABILITIES_MAX:
        text = f"at most {bounds.CAPABILITIES_MAX} capabilities can be asked for at once"
        raise click.BadParameter(text, ctx=ctx, param=parameter)
    return values


def session_of(ctx: click.Context) -> Session:
    """Return what the common options of this run say so far."""
    ctx.color = wants_colour()
    return ctx.ensure_object(Session)


pass_session = click.make_pass_decorator(Session, ensure=True)


def examples(*lines: str) -> str:
    """Return the end of a help text: commands as they are typed."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def wants_json(args: Sequence[str]) -> bool:
    """Say whether `args` ask for JSON, also when they cannot be parsed."""
    ours = list(itertools.takewhile(lambda argument: argument != "--", args))
    chosen = [argument.partition("=")[2] for argument in ours if argument.startswith("--output=")]
    chosen += [value for name, value in itertools.pairwise(ours) if name == "--output"]
    return "json" in chosen


def failure_of(error: MeshError | click.ClickException, *, is_of_task: bool) -> CommandFailed:
    """Return how a command ends that met `error`."""
    if isinstance(error, click.ClickException):
        return CommandFailed(
            error.format_message(),
            TaskExit.USAGE if is_of_task else Exit.USAGE,
            hint=getattr(error, "hint", None) or _usage_hint(error),
        )
    return CommandFailed(
        str(error),
        exit_of_error(error, is_of_task=is_of_task),
        hint=error.hint if isinstance(error, ControlError) else None,
        code=_name_of(error),
        answer=error.answer if isinstance(error, CommandRefused) else {},
    )


def report(failed: CommandFailed, *, name: str, is_json: bool) -> None:
    """Print what went wrong: a line and a hint on standard error, JSON on standard output."""
    message = plain(" ".join(failed.message.split()))
    note(f"{name}: {message}")
    if failed.hint:
        note(f"  {' '.join(failed.hint.split())}")
    if is_json:
        error = {
            "code": failed.code,
            "message": message,
            "hint": failed.hint,
            "exit_code": int(failed.exit_code),
            "closest": failed.answer.get("closest", []),
        }
        print_json({"error": error})


def obey_pipes() -> None:
    """Let the process end silently when what reads its output has ended, as other filters do."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def _quantity(
    parse: Callable[[str], int], form: Callable[[int], str], least: int, most: int
) -> OptionCallback:
    def check(ctx: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
        if value is None:
            return None
        try:
            number = parse(value)
        except QuantityError as error:
            raise click.BadParameter(str(error), ctx=ctx, param=parameter) from error
        if not least <= number <= most:
            text = f"{value} is not between {form(least)} and {form(most)}"
            raise click.BadParameter(text, ctx=ctx, param=parameter)
        return number

    return check


def _take_home(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    session = session_of(ctx)
    if value == "":
        # A script's variable that was never set must not mean the person's own home.
        raise click.BadParameter("it is empty", ctx=ctx, param=parameter)
    if value is not None:
        session.home_flag = value


def _take_format(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    session = session_of(ctx)
    if value is not None:
        session.format = value


def _show_version(ctx: click.Context, _parameter: click.Parameter, is_wanted: bool) -> None:
    if is_wanted and not ctx.resilient_parsing:
        from meshd.cli.version import version_line  # what it needs is slow to import

        click.echo(version_line())
        ctx.exit()


COMMON_OPTIONS = (
    click.Option(
        ["--home"],
        metavar="DIRECTORY",
        type=click.Path(readable=False),
        help="The daemon's home directory; else $MESHD_HOME, else ~/.local/share/meshd.",
        expose_value=False,
        callback=_take_home,
    ),
    click.Option(
        ["--output"],
        type=click.Choice(FORMATS),
        help="A table for people (the default), or JSON.",
        expose_value=False,
        callback=_take_format,
    ),
)


VERSION_OPTION = click.Option(
    ["--version"],
    is_flag=True,
    is_eager=True,
    help="Show the version and exit.",
    expose_value=False,
    callback=_show_version,
)


def _usage_hint(error: click.ClickException) -> str | None:
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"see `{error.ctx.command_path} --help`"
    return None


def _name_of(error: MeshError) -> str:
    """Return the error's name as JSON has it, such as `no_daemon`."""
    if isinstance(error, CommandRefused):
        return error.code
    name = type(error).__name__
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)[1:]
