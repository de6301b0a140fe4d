"""The files of a run: its trace, its numbers, its picture, and the plan that repeats it."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from meshd.cli.files import FileFailed, writing
from simulations.plan_file import Repro, repro_to_json
from simulations.runs import Run
from simulations.summary import Summary

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
    _write_pictures(directory, lines, title=f"{summary.scenario}, seed {summary.seed}")
    if run.error is not None:
        write_repro(directory / REPRO, run, commit=summary.commit)


def write_repro(path: Path, run: Run, *, commit: str) -> None:
    """Write the plan of a run that broke. Raises FileFailed."""
    broke = None if run.error is None else str(run.error)
    _write(path, repro_to_json(Repro(plan=run.runner.plan, broke=broke, commit=commit)))


def _write_pictures(directory: Path, lines: tuple[str, ...], *, title: str) -> None:
    from simulations.png import png_of  # what draws is slow to import
    from simulations.svg import svg_of
    from simulations.timeline import timeline

    drawing = timeline(lines, title)
    _write(directory / "timeline.svg", svg_of(drawing).encode())
    _write(directory / "timeline.png", png_of(drawing))


def _json(summary: Summary) -> bytes:
    return msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"


def _write(path: Path, content: bytes) -> None:
    with writing(str(path)) as file:
        file.write(content)
