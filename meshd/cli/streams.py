"""The standard streams as commands can rely on them, whatever they were started with.

A closed one would be the number of the next file that is opened, and what is printed would go into
that: so each gets /dev/null, which refuses what matters (reading input, writing output) and takes
what does not (notes). Output that cannot be written is an error with a line, never half of a file
and exit code 0.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

from meshd.cli.files import FileFailed

if TYPE_CHECKING:
    from typing_extensions import Buffer

_REPLACEMENTS = ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDWR))


def prepare_streams() -> None:
    """Open what was closed, and let a standard output that fails say so. Once, at the start."""
    for descriptor, flags in _REPLACEMENTS:
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest number that is free, which is this one: those below are open.
            os.open(os.devnull, flags)
    # Python sets those that were closed to None.
    sys.stdin = sys.stdin or io.TextIOWrapper(io.BufferedReader(_file(0, "r")), "utf-8", "replace")
    sys.stderr = sys.stderr or io.TextIOWrapper(io.BufferedWriter(_file(2, "w")), "utf-8")
    before = sys.stdout
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(1, "w", closefd=False)),
        encoding=before.encoding if before else "utf-8",
        errors=before.errors if before else "replace",
        line_buffering=before is not None and before.isatty(),
    )


def silence(descriptor: int) -> None:
    """Send what is still written to `descriptor` nowhere, so that the process can end in peace."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


class _Output(io.FileIO):
    """Standard output. What cannot be written is told once; what comes after it is dropped."""

    def write(self, content: Buffer, /) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:
            raise  # nobody reads any more: no mistake of the person's
        except OSError as error:
            silence(self.fileno())
            reason = error.strerror or str(error)
            raise FileFailed(f"standard output cannot be written: {reason}") from error


def _file(descriptor: int, mode: str) -> io.FileIO:
    return io.FileIO(descriptor, mode, closefd=False)
