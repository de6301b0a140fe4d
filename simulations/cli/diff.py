"""`meshctl sim diff`: where two runs came apart."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from meshd.cli.exits import Exit
from meshd.cli.files import FileFailed
from meshd.cli.grammar import Session, examples, pass_session
from meshd.cli.output import plain, print_json
from simulations.cli.files import TRACE
from simulations.cli.grammar import SimCommand
from simulations.trace_diff import Difference, difference_text, first_difference
from simulations.trace_lines import BadTrace, TraceLine

trace_path = click.Path(path_type=Path, readable=False)


@click.command(
    cls=SimCommand,
    epilog=examples("meshctl sim diff before/trace.jsonl after/trace.jsonl"),
)
@click.argument("one", metavar="A", type=trace_path)
@click.argument("other", metavar="B", type=trace_path)
@pass_session
def diff(session: Session, one: Path, other: Path) -> int:
    """Show the first event that differs between the traces A and B.

    Each is a trace.jsonl, or a directory that `meshctl sim run --out` wrote. Exits with 0 if they
    are the same, 1 if not.
    """
    names = (str(one), str(other))
    with _lines(one) as lines, _lines(other) as other_lines:
        found = first_difference(lines, other_lines, names=names)
    if session.is_json:
        print_json({"answer": "difference", "is_same": found is None, **_json(found)})
    elif found is None:
        click.echo("the traces are the same")
    else:
        for line in difference_text(found, names=names).splitlines():
            click.echo(plain(line))
    return Exit.DONE if found is None else Exit.NO


@contextlib.contextmanager
def _lines(path: Path) -> Iterator[Iterator[str]]:
    """Give the lines of a trace file. Raises FileFailed, and BadTrace for what is no text."""
    file = path / TRACE if path.is_dir() else path
    try:
        with file.open(encoding="utf-8") as lines:
            yield (line.rstrip("\n") for line in lines)
    except OSError as error:
        raise FileFailed(f"trace {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadTrace(f"{file}: not UTF-8") from error


def _json(found: Difference | None) -> dict[str, object]:
    if found is None:
        return {}
    return {
        "same_count": found.same_count,
        "time_us": found.line.time_us,
        "node": found.line.node,
        "a": _event(found.a),
        "b": _event(found.b),
        "fields": [msgspec.to_builtins(field) for field in found.fields],
    }


def _event(line: TraceLine | None) -> object:
    return None if line is None else msgspec.to_builtins(line)
