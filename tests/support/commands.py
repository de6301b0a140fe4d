"""Runs `meshctl` and `meshd` as click's runner does, and as real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner, Result


def run_in_process(group: click.Group, home: Path, *args: str, stdin: bytes = b"") -> Result:
    """Run a command as this process; its exit code, stdout and stderr are in the result."""
    result = CliRunner().invoke(group, ["--home", str(home), *args], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def json_of(result: Result) -> Any:  # noqa: ANN401 - what JSON holds
    """Return the one JSON value that a command printed."""
    return json.loads(result.stdout)


def command_line(command: str, home: Path, *args: str) -> list[str]:
    """Return how to start `command` (meshctl or meshd) as the installed script does."""
    code = f"from meshd.cli.{command} import main; main()"
    return [sys.executable, "-c", code, "--home", str(home), *args]


def process_environment(**more: str) -> dict[str, str]:
    """Return an environment without settings of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MESH")}
    return {**kept, **more}


def run_process(
    command: str,
    home: Path,
    *args: str,
    stdin: bytes = b"",
    environ: Mapping[str, str] | None = None,
    timeout_s: float = 30,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command as a process of its own, to its end."""
    return subprocess.run(
        command_line(command, home, *args),
        input=stdin,
        capture_output=True,
        timeout=timeout_s,
        check=False,
        env=process_environment(**(environ or {})),
    )


@contextmanager
def running_process(command: str, home: Path, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command as a process of its own until the block ends."""
    process = subprocess.Popen(
        command_line(command, home, *args),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=process_environment(),
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
