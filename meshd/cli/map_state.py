"""The state of a map, in a file beside its outputs: what was submitted, what is done, what failed.

Lines of JSON are appended, so that a map which is killed loses at most a torn last line. An output
is there, whole, before the line that says so.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, TextIO

from meshd.cli.files import FileFailed
from meshd.control_frames import Frame

STATE_NAME: Final = ".meshctl-map"
VERSION: Final = 1
_REMAINS = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}")


@dataclass(slots=True)
class MapState:
    """One map's state; a context manager that nobody else holds meanwhile."""

    directory: Path
    tasks: dict[int, str] = field(default_factory=dict)  # the latest of each item
    # By the id of its first task: the ids of a batch, by item.
    batches: dict[str, dict[int, str]] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    failed: dict[int, str] = field(default_factory=dict)  # with the reason
    _file: TextIO | None = None

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.directory / STATE_NAME

    def open(self, fingerprint: str, *, names: Sequence[str], resumes: bool) -> None:
        """Take up what is there, or begin. Raises FileFailed."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+", encoding="utf-8")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileFailed(
                f"another meshctl maps into {self.directory} now",
                hint="wait for it, or name another directory with --outputs",
            ) from error
        except OSError as error:
            raise FileFailed(
                f"{self.directory} cannot be written: {error.strerror}",
                hint="name another directory with --outputs",
            ) from error
        lines = self._lines()
        if lines and not resumes:
            raise FileFailed(
                f"{self.directory} holds a map already",
                hint="go on with it by --resume, or name another directory with --outputs",
            )
        if not lines:
            self._begin(fingerprint, names)
        else:
            self._take_up(lines, fingerprint)
        self._remove_remains(frozenset(names))

    def on_submitted(self, indices: Sequence[int], tasks: Sequence[str]) -> None:
        """Note the tasks of a batch: from here a resumed map finds them again."""
        self._note_batch(indices, tasks)
        self._write({"batch": list(indices), "tasks": list(tasks)}, is_durable=True)

    def on_done(self, index: int) -> None:
        """Note that an output is there."""
        self.done.add(index)
        self.failed.pop(index, None)
        self._write({"done": index})

    def on_failed(self, index: int, reason: str) -> None:
        """Note that a task ended without an output."""
        self.failed[index] = reason
        self._write({"failed": index, "reason": reason})

    def on_unknown(self, index: int) -> None:
        """Forget the task of an item: it is to have another one."""
        self.tasks.pop(index, None)

    def __enter__(self) -> MapState:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let others have it."""
        if self._file is not None:
            self._file.close()

    # --- the file -------------------------------------------------------------------------------

    def _lines(self) -> list[str]:
        """Return the whole lines; a torn one at the end, of a map that was killed, is cut off."""
        assert self._file is not None, "it is open"  # noqa: S101 - `open` calls this
        try:
            self._file.seek(0)
            text = self._file.read()
        except (OSError, ValueError) as error:
            raise self._damaged("it cannot be read") from error
        whole, newline, torn = text.rpartition("\n")
        if torn:
            self._file.truncate(len((whole + newline).encode("utf-8")))
        return whole.split("\n") if whole else []

    def _begin(self, fingerprint: str, names: Sequence[str]) -> None:
        there = next((name for name in names if (self.directory / name).exists()), None)
        if there is not None:
            self.path.unlink()
            raise FileFailed(
                f"{self.directory / there} is there already",
                hint="name another directory with --outputs",
            )
        self._write({"map": VERSION, "of": fingerprint, "count": len(names)})

    def _take_up(self, lines: Sequence[str], fingerprint: str) -> None:
        head, *others = (self._parsed(line) for line in lines)
        if head.get("map") != VERSION:
            raise self._damaged("it is of another version")
        if head.get("of") != fingerprint:
            raise FileFailed(
                f"{self.directory} holds a map of another module, other inputs or options",
                hint="type the same as before with --resume, or name another directory",
            )
        try:
            for line in others:
                self._take_line(line)
        except (ValueError, IndexError, TypeError) as error:
            raise self._damaged("a line says what no map writes") from error

    def _take_line(self, line: Frame) -> None:
        match line:
            case {"batch": [*indices], "tasks": [*tasks]}:
                self._note_batch([int(one) for one in indices], [str(one) for one in tasks])
            case {"done": int(index)}:
                self.done.add(index)
                self.failed.pop(index, None)
            case {"failed": int(index), "reason": str(reason)}:
                self.failed[index] = reason
            case _:
                raise ValueError(f"a line of a map with {' '.join(line)}")

    def _note_batch(self, indices: Sequence[int], tasks: Sequence[str]) -> None:
        batch = self.batches[tasks[0]] = dict(zip(indices, tasks, strict=True))
        for index, task in batch.items():
            self.tasks[index] = task
            self.failed.pop(index, None)

    def _parsed(self, line: str) -> Frame:
        try:
            value = json.loads(line)
        except ValueError as error:
            raise self._damaged("a line is no JSON") from error
        if not isinstance(value, dict):
            raise self._damaged("a line is no object")
        return value

    def _damaged(self, what: str) -> FileFailed:
        return FileFailed(
            f"the state of the map in {self.path} is damaged: {what}",
            hint="map into another directory; outputs that are here stay good",
        )

    def _write(self, line: Mapping[str, object], *, is_durable: bool = False) -> None:
        assert self._file is not None, "it is open"  # noqa: S101 - it is written while it is held
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            if is_durable:  # the others are found out again
                os.fsync(self._file.fileno())
        except OSError as error:
            raise FileFailed(
                f"{self.path} cannot be written: {error.strerror}",
                hint="free space there; then the same command with --resume goes on",
            ) from error

    def _remove_remains(self, names: frozenset[str]) -> None:
        """Remove what a killed map had begun to write."""
        for path in self.directory.iterdir():
            remains = _REMAINS.fullmatch(path.name)
            if remains is not None and remains["name"] in names:
                path.unlink(missing_ok=True)
