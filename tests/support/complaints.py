"""What a person sees when something is wrong: commands typed to their end, and what they complain.

A complaint is one line on standard error, perhaps with a second one that says what to do, and never
a traceback.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from support.daemons import BINARIES, LOOPBACK

PATIENCE_S = 90.0
_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S+ \[(info|warning|error|debug) *\] ")


@dataclass(frozen=True, slots=True)
class Typed:
    """A command that has ended. `stderr` is without the lines of a daemon's log."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def error(self) -> Mapping[str, Any]:
        """The error that was printed as JSON; its exit code is the command's own."""
        error: Mapping[str, Any] = json.loads(self.stdout)["error"]
        assert error["exit_code"] == self.code
        assert error["message"] in self.stderr
        assert error["code"]
        assert isinstance(error["closest"], list)
        return error

    def complaint(self, code: int, *parts: str) -> str:
        """Return the one line, and the hint after it; `parts` must be in them."""
        assert self.code == code, (self.code, self.stderr)
        lines = self.stderr.splitlines()
        assert 1 <= len(lines) <= 2, self.stderr
        assert re.match(r"mesh(d|ctl): \S", lines[0]), self.stderr
        assert all(line.startswith("  ") for line in lines[1:]), self.stderr
        assert "Traceback" not in self.stderr
        for part in parts:
            assert part in self.stderr, (part, self.stderr)
        return self.stderr


def typed(
    command: str,
    *arguments: str | bytes,
    home: Path | None = None,
    stdin: bytes | int = b"",
    stdout: IO[bytes] | int = subprocess.PIPE,
    environ: Mapping[str, str] | None = None,
    prefix: tuple[str, ...] = (),
) -> Typed:
    """Type `meshctl` or `meshd` and wait for its end."""
    words: list[str | bytes] = [*prefix, str(BINARIES / command)]
    words += [] if home is None else ["--home", str(home)]
    done = subprocess.run(
        [*words, *arguments],
        input=stdin if isinstance(stdin, bytes) else None,
        stdin=stdin if isinstance(stdin, int) else None,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=environment(environ or {}),
        timeout=PATIENCE_S,
        check=False,
    )
    told = done.stderr.decode("utf-8", "replace").splitlines(keepends=True)
    lines = "".join(line for line in told if not _LOG_LINE.match(line))
    return Typed(done.returncode, done.stdout or b"", lines)


def start(
    home: Path,
    *flags: str | bytes,
    join: str | None = None,
    environ: Mapping[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    listen: str = LOOPBACK,
) -> Typed:
    """Start a daemon that cannot run, and wait for its end."""
    settings = ("start", "--profile", "local", *(("--listen", listen) if listen else ()))
    if join is not None:
        flags = (*flags, "--join", "-")
    return typed(
        "meshd",
        *settings,
        *flags,
        home=home,
        stdin=(join or "").encode(),
        environ=environ,
        prefix=prefix,
    )


def closed(descriptor: int, command: str, home: Path, *arguments: str) -> Typed:
    """Type `meshctl` or `meshd` with one of its standard streams closed."""
    code = "import os, sys; os.close(int(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"
    words = [str(BINARIES / command), "--home", str(home), *arguments]
    done = subprocess.run(
        [sys.executable, "-c", code, str(descriptor), *words],
        capture_output=True,
        env=environment({}),
        timeout=PATIENCE_S,
        check=False,
    )
    return Typed(done.returncode, done.stdout, done.stderr.decode())


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without settings of ours, and with `more`."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("MESH")}
    return {**kept, **more}
