"""Files that commands read and write: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

SPOOL_BYTES = 1 << 20
STANDARD = "-"


class FileFailed(click.ClickException):
    """A file that the person named cannot be read or written: a usage error."""

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def read_file(path: str, *, bytes_max: int, what: str, hint: str | None = None) -> bytes:
    """Return the content of a file, or of standard input for `-`.

    Raises FileFailed; for a file that is too long, with `hint`.
    """
    if not path:
        raise FileFailed(f"the name of the {what} is empty")
    try:
        with _opened(path) as file:
            content = file.read(bytes_max + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in a name, from a file
        reason = getattr(error, "strerror", None) or error
        raise FileFailed(f"{what} {path} cannot be read: {reason}") from error
    if len(content) > bytes_max:
        raise FileFailed(
            f"{what} {path} is longer than {bytes_max} bytes, which is the most that is taken",
            hint=hint,
        )
    return content


def check_writable(path: str) -> None:
    """Raise FileFailed if `path` cannot be written, before work is begun that ends in it."""
    if path == STANDARD:
        return
    if not path:
        raise FileFailed("the name of the file to write is empty")
    target = Path(path)
    directory = target.resolve().parent
    if target.is_dir():
        raise FileFailed(f"{path} is a directory", hint="give the name of a file with --to")
    if not directory.is_dir():
        raise FileFailed(f"{directory} is not there", hint=f"type `mkdir -p {directory}` first")
    if not os.access(target if target.exists() else directory, os.W_OK):
        raise FileFailed(f"{path} is not writable")


@contextlib.contextmanager
def writing(path: str) -> Iterator[BinaryIO]:
    """Give a file to write; it appears at `path` when the block ends well, whole, or not at all.

    `-` is standard output. What is not a regular file (a pipe, /dev/null) is written directly.
    Raises FileFailed.
    """
    if path == STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(path).resolve()  # a symbolic link stays one
    try:
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            with target.open("wb") as file:
                yield file
            return
        with _replacing(target) as file:
            yield file
    except OSError as error:
        raise FileFailed(f"{path} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def spooled() -> Iterator[tempfile.SpooledTemporaryFile[bytes]]:
    """Give a file that is in memory while it is short. Raises FileFailed when the disk is full."""
    try:
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as file:
            yield file
    except OSError as error:
        raise FileFailed(
            f"{tempfile.gettempdir()} cannot hold what was fetched: {error.strerror}",
            hint="free some space there, or name another directory in $TMPDIR",
        ) from error


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        _give_usual_mode(Path(temporary), target)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _give_usual_mode(temporary: Path, target: Path) -> None:
    """Give `temporary` the mode that `target` has, or that a new file would have."""
    if target.exists():
        temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        return
    mask = os.umask(0o022)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    if path == STANDARD:
        yield sys.stdin.buffer
    else:
        with Path(path).open("rb") as file:
            yield file
