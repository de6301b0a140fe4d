"""The files of a run: its trace, its numbers, its picture, and the plan that repeats it."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from meshd.cli.files import FileFailed, writing
from meshd.cli.output import note
from simulations.plan_file import Repro, repro_to_json
from simulations.runs import Run
from simulations.summary import Summary
from simulations.trace_lines import trace_lines

REPRO = "repro.json"
TRACE = "trace.jsonl"


def directory_of(run: Run) -> Path:
    """Return where the plan of a run that broke goes if nobody says where."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", run.runner.plan.name).strip("-.") or "plan"
    return Path(f"meshd-sim-{name}-{run.runner.plan.seed}")


def make_directory(path: Path) -> None:
    """Make a directory, before a run whose files go there. Raises FileFailed."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileFailed(f"{path} cannot be made: {error.strerror}") from error


def write_files(directory: Path, run: Run, summary: Summary) -> None:
    """Write everything there is about a run. Raises FileFailed."""
    lines = run.lines
    _write(directory / TRACE, "".join(f"{line}\n" for line in lines).encode())
    _write(directory / "summary.json", _json(summary))
    if run.error is not None:
        write_repro(directory / REPRO, run, commit=summary.commit)
    _write_pictures(directory, lines, summary)


def write_repro(path: Path, run: Run, *, commit: str) -> None:
    """Write the plan of a run that broke. Raises FileFailed."""
    broke = None if run.error is None else str(run.error)
    _write(path, repro_to_json(Repro(plan=run.runner.plan, broke=broke, commit=commit)))


def _write_pictures(directory: Path, lines: tuple[str, ...], summary: Summary) -> None:
    from simulations.png import png_of  # what draws is slow to import
    from simulations.svg import svg_of
    from simulations.timeline import Title, timeline

    title = Title(
        scenario=summary.scenario,
        seed=summary.seed,
        digest=summary.digest,
        broken=summary.breach.message if summary.breach else None,
        broken_at_us=summary.breach.at_us if summary.breach else None,
    )
    drawing = timeline(trace_lines(lines), title)
    _write(directory / "timeline.svg", svg_of(drawing).encode())
    try:
        picture = png_of(drawing)
    except ValueError as error:  # it has a bound, which a mesh of thousands is beyond
        note(f"timeline.png is left out: {error}")
    else:
        _write(directory / "timeline.png", picture)


def _json(summary: Summary) -> bytes:
    return msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"


def _write(path: Path, content: bytes) -> None:
    with writing(str(path)) as file:
        file.write(content)
