"""Which commit runs: a run is a function of its plan and of that.

Read from the checkout that this file is in; no git is needed. Changes that are not committed are
not seen.
"""

from __future__ import annotations

import re
from pathlib import Path

UNKNOWN = "unknown"
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_FILE_CHARACTERS_MAX = 16 << 20


def current_commit(checkout: Path = Path(__file__).parents[1]) -> str:
    """Return the commit that is checked out, UNKNOWN if this is not a checkout."""
    try:
        return _commit_of(_git_directory(checkout / ".git")) or UNKNOWN
    except (OSError, UnicodeDecodeError):
        return UNKNOWN  # an installed package, or a checkout that is not ours to read


def _git_directory(path: Path) -> Path:
    """Return where HEAD is. In a linked work tree `.git` is a file that says where."""
    if path.is_dir():
        return path
    return (path.parent / _read(path).removeprefix("gitdir:").strip()).resolve()


def _commit_of(directory: Path) -> str | None:
    head = _read(directory / "HEAD").strip()
    if not head.startswith("ref:"):
        return _checked(head)
    name = head.removeprefix("ref:").strip()
    for place in (directory, _common_directory(directory)):
        if (place / name).is_file():
            return _checked(_read(place / name).strip())
        packed = place / "packed-refs"
        for line in _read(packed).splitlines() if packed.is_file() else ():
            commit, _, ref = line.partition(" ")
            if ref == name:
                return _checked(commit)
    return None


def _common_directory(directory: Path) -> Path:
    """Return where the branches are, which linked work trees share."""
    common = directory / "commondir"
    return (directory / _read(common).strip()).resolve() if common.is_file() else directory


def _checked(text: str) -> str | None:
    return text if _COMMIT.fullmatch(text) else None


def _read(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.read(_FILE_CHARACTERS_MAX)
