"""Finds the line of each key in a TOML text, because `tomllib` keeps none.

For text that `tomllib` has accepted: this scanner knows just enough of TOML to skip what it must
(comments, strings of all four kinds, brackets in them) and leaves judging to it. A place is a path
of keys and positions: `("fault", 2, "node")` is `node` in the third `[[fault]]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Path = tuple[str | int, ...]

_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))[ \t]*""")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|' + r"'''.*?'{3,5}|" + r'"(?:[^"\\\n]|\\.)*"|' + r"'[^'\n]*'",
    re.DOTALL,
)
_BARE = re.compile(r"[^,\]}#\n]*")


def lines_of(text: str) -> Mapping[Path, int]:
    """Return the line, from 1, of every table and key in a valid TOML text."""
    return _Scanner(text).scan()


def line_of(lines: Mapping[Path, int], path: Path) -> int:
    """Return the line of a path, or of the nearest thing around it; 1 if there is none."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n")
        self._at = 0
        self._lines: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}  # of the tables in each array of tables
        self._line = 1
        self._line_until = 0  # the position up to which `_line` has counted

    def scan(self) -> Mapping[Path, int]:
        table: Path = ()
        while self._skip_space():
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._pair(table)
        return self._lines

    def _header(self) -> Path:
        is_array = self._text.startswith("[[", self._at)
        self._at += 2 if is_array else 1
        keys = self._keys()
        path: Path = ()
        for place, key in enumerate(keys):
            path = (*path, key)
            if is_array and place == len(keys) - 1:
                self._counts[path] = self._counts.get(path, -1) + 1
            if path in self._counts:
                path = (*path, self._counts[path])
        self._note(path)
        self._at += 2 if is_array else 1
        return path

    def _pair(self, table: Path) -> None:
        start = self._at
        path = (*table, *self._keys())
        if not self._text.startswith("=", self._at):
            self._at = start + 1  # whatever this is ends
            return
        self._note(path, start)
        self._at += 1
        self._value(path)

    def _keys(self) -> list[str]:
        keys: list[str] = []
        while match := _KEY.match(self._text, self._at):
            keys.append(next(key for key in match.groups() if key is not None))
            self._at = match.end()
            if not self._text.startswith(".", self._at):
                break
            self._at += 1
        return keys

    def _value(self, path: Path) -> None:
        self._skip_space()
        if self._text.startswith("[", self._at):
            self._array(path)
        elif self._text.startswith("{", self._at):
            self._at += 1
            while self._more("}"):
                self._pair(path)
        else:
            start = self._at
            self._skip(_STRING)
            if self._at == start:
                self._skip(_BARE)

    def _array(self, path: Path) -> None:
        self._at += 1
        place = 0
        while self._more("]"):
            start = self._at
            self._note((*path, place))
            self._value((*path, place))
            self._at = max(self._at, start + 1)  # whatever this is ends
            place += 1

    def _more(self, end: str) -> bool:
        """Skip to what comes next in brackets; past their end if nothing does."""
        self._skip_space()
        if self._text.startswith(",", self._at):
            self._at += 1
            self._skip_space()
        if self._at >= len(self._text):
            return False
        if self._text.startswith(end, self._at):
            self._at += 1
            return False
        return True

    def _skip_space(self) -> bool:
        self._skip(_SPACE)
        return self._at < len(self._text)

    def _skip(self, what: re.Pattern[str]) -> None:
        if match := what.match(self._text, self._at):
            self._at = match.end()

    def _note(self, path: Path, at: int | None = None) -> None:
        position = self._at if at is None else at
        self._line += self._text.count("\n", self._line_until, position)
        self._line_until = position
        self._lines.setdefault(path, self._line)
