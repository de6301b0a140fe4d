"""What the commands of the simulator share: their exit codes, and the values of their options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

import click

from meshd.cli.exits import Exit
from meshd.cli.grammar import CommandFailed, MeshCommand
from simulations.errors import BadScenario
from simulations.trace_lines import BadTrace

SEED_MAX = (1 << 63) - 1
_SEEDS = re.compile(r"(\d{1,19})(?:\.\.(\d{1,19}))?", re.ASCII)


class SimCommand(MeshCommand):
    """A command for which a scenario, plan or trace that is none is a mistake of usage."""

    def invoke(self, ctx: click.Context) -> object:
        """Run; what cannot be run at all becomes CommandFailed with the code for usage."""
        try:
            return super().invoke(ctx)
        except CommandFailed as failed:
            match failed.__cause__:  # `MeshCommand` chains what it translates
                case BadScenario():
                    failed.exit_code = Exit.USAGE
                    failed.message = "; ".join(failed.message.splitlines())
                    failed.hint = failed.hint or "`meshctl sim list` names the scenarios there are"
                case BadTrace():
                    failed.exit_code = Exit.USAGE
                    failed.hint = "a trace is a trace.jsonl, as `meshctl sim run --out` writes it"
            raise


def seeds(_ctx: click.Context, parameter: click.Parameter, value: str) -> Sequence[int]:
    """Return the seeds that `0..999` or `7` name."""
    match = _SEEDS.fullmatch(value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not of the form 0..999", param=parameter)
    first, last = int(match[1]), int(match[2] or match[1])
    if not first <= last <= SEED_MAX:
        raise click.BadParameter(f"{value}: there is no seed in it", param=parameter)
    return range(first, last + 1)


def command_text(*words: str | int) -> str:
    """Return a command as a person types it."""
    return shlex.join(["meshctl", "sim", *map(str, words)])
