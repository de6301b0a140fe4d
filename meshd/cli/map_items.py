"""What `meshctl map` maps over: files or numbers, each with the name of its output."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meshd.cli import bounds
from meshd.cli.files import FileFailed, read_file
from meshd.client import TaskInput

ITEMS_MAX: Final = 100_000
# One batch: as the daemon takes it, and not more of the inputs in memory than this.
BATCH_ITEMS_MAX: Final = 1_024
BATCH_BYTES_MAX: Final = 64 << 20
BATCH_SMALL_BYTES_MAX: Final = 6 << 20  # of inputs and texts that travel within messages
BATCH_TEXT_BYTES_MAX: Final = 512 * 1024
SMALL_BYTES: Final = 32 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One task of a map. `stamp` changes when its input does."""

    index: int
    name: str  # of its output, in the directory of outputs
    path: str | None = None
    size_bytes: int = 0
    stamp: str = ""


def items_of_files(patterns: Sequence[str], *, suffix: str) -> list[Item]:
    """Return an item for each file that a pattern matches, by name. Raises FileFailed."""
    found: dict[str, None] = {}
    for pattern in patterns:
        # Not Path.glob, whose `*` takes hidden files, too, as no shell does.
        paths = glob.glob(pattern, recursive=True)  # noqa: PTH207
        matched = [one for one in paths if Path(one).is_file()]
        if not matched:
            raise FileFailed(
                f"--inputs {pattern} matches no file",
                hint="quote the pattern so that the shell leaves it alone: --inputs 'tiles/*.json'",
            )
        found |= dict.fromkeys(matched)
    _check_count(len(found))
    taken: dict[str, str] = {}
    items = []
    for index, path in enumerate(sorted(found)):
        name = Path(path).stem + suffix
        if name in taken:
            raise FileFailed(
                f"{taken[name]} and {path} would both put out {name}",
                hint="map them into two directories, or name the files differently",
            )
        taken[name] = path
        items.append(_item_of_file(index, name, path))
    return items


def items_of_count(count: int, *, suffix: str) -> list[Item]:
    """Return as many items, named by their numbers. Raises FileFailed."""
    _check_count(count)
    digits = max(4, len(str(count - 1)))
    return [Item(index=index, name=f"{index:0{digits}}{suffix}") for index in range(count)]


def batches_of(items: Sequence[Item], *, text_bytes: int) -> Iterator[list[Item]]:
    """Yield items in batches that the daemon takes; each has `text_bytes` of words beside."""
    batch: list[Item] = []
    sums = (0, 0, 0)
    most = (BATCH_BYTES_MAX, BATCH_SMALL_BYTES_MAX, BATCH_TEXT_BYTES_MAX)
    for item in items:
        small_bytes = item.size_bytes + text_bytes
        small_bytes = small_bytes if small_bytes <= SMALL_BYTES else 0
        added = (item.size_bytes, small_bytes, text_bytes)
        after = tuple(one + more for one, more in zip(sums, added, strict=True))
        is_over = any(one > bound for one, bound in zip(after, most, strict=True))
        if batch and (is_over or len(batch) == BATCH_ITEMS_MAX):
            yield batch
            batch, after = [], added
        batch.append(item)
        sums = (after[0], after[1], after[2])
    if batch:
        yield batch


def task_input(item: Item, args: Sequence[str], env: dict[str, str], *, count: int) -> TaskInput:
    """Return what the task of an item is started with. Raises FileFailed."""
    stdin = b""
    if item.path is not None:
        stdin = read_file(item.path, bytes_max=bounds.INPUT_BYTES_MAX, what="input")
    own = {"index": str(item.index), "count": str(count), "name": Path(item.name).stem}
    told = {f"MAP_{name.upper()}": value for name, value in own.items()}
    return TaskInput(args=[_filled(arg, own) for arg in args], env={**told, **env}, stdin=stdin)


def _filled(arg: str, own: Mapping[str, str]) -> str:
    """Return an argument with what stands for this task; other braces are the program's."""
    return re.sub(r"\{(index|count|name)\}", lambda found: own[found[1]], arg)


def _item_of_file(index: int, name: str, path: str) -> Item:
    try:
        found = Path(path).stat()
    except OSError as error:
        raise FileFailed(f"input {path} cannot be read: {error.strerror}") from error
    if found.st_size > bounds.INPUT_BYTES_MAX:
        raise FileFailed(
            f"input {path} is longer than {bounds.INPUT_BYTES_MAX} bytes, the most that is taken",
            hint="split it into several files",
        )
    stamp = f"{found.st_size} {found.st_mtime_ns}"
    return Item(index=index, name=name, path=path, size_bytes=found.st_size, stamp=stamp)


def _check_count(count: int) -> None:
    if count > ITEMS_MAX:
        raise FileFailed(
            f"these are {count} tasks, {ITEMS_MAX} is the most of one map",
            hint="map them in parts, each into a directory of its own",
        )
