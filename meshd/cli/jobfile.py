"""Job files: what a command is given, in a file (docs/how-to/jobs.md).

The keys are the names of the command's options, beside `module` and `args`; each value goes through
its option, so a file says nothing that flags could not. Of YAML only the shape is read: no alias,
no tag, and a plain `yes` or `010` stays the text that it is until its option reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import click
import yaml

from meshd.cli import bounds
from meshd.cli.files import STANDARD, FileFailed, read_file
from meshd.cli.output import plain
from meshd.quantities import format_duration_us, format_size_bytes

JOB_BYTES_MAX: Final = 256 * 1024
DEPTH_MAX: Final = 3  # a mapping of lists or mappings; one more, to say what stands there
TEXT_LETTERS_MAX: Final = 4096  # of one argument, as the daemon takes it
_NOT_IN_FILES = frozenset({"job", "dry_run", "help"})
_MODULE, _ARGS = "module", "args"


class _Mark(Protocol):
    """A place in the text, counted from 0."""

    line: int
    column: int


RawValue: TypeAlias = str | bool | list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a job file says: `options` by the names that click has, as flags would give them."""

    module: str | None
    args: list[str]
    options: dict[str, RawValue]


@dataclass(frozen=True, slots=True)
class _Node:
    """A value with its place. Text that stood in quotes is not plain."""

    value: str | list[_Node] | dict[str, _Node]
    place: str
    is_plain: bool = False

    @property
    def kind(self) -> str:
        names: tuple[tuple[type, str], ...] = ((str, "one value"), (list, "a list"))
        return next((name for kind, name in names if isinstance(self.value, kind)), "a mapping")


def read_job(path: str, ctx: click.Context) -> Job:
    """Return the job in a file, for the command of `ctx`. Raises FileFailed with the place."""
    content = read_file(path, bytes_max=JOB_BYTES_MAX, what="job file")
    shown = "standard input" if path == STANDARD else path
    root = _parsed(content, shown)
    if not isinstance(root.value, dict):
        raise FileFailed(
            f"{root.place}: a job file is a mapping, not {root.kind}",
            hint="write it as `module: program.wasm`, and one line for each option",
        )
    base = Path() if path == STANDARD else Path(path).parent
    known = {_key(option): option for option in options_of(ctx.command)}
    options: dict[str, RawValue] = {}
    for key, node in root.value.items():
        if key in (_MODULE, _ARGS):
            continue
        if key not in known:
            names = " ".join(sorted({_MODULE, _ARGS, *known}))
            raise FileFailed(
                f"{node.place}: {plain(key)[:80]!r} is no key of a job file",
                hint=f"the keys are {names}",
            )
        option = known[key]
        options[str(option.name)] = _checked(option, key, node, ctx, base)
    return Job(
        module=_module(root.value.get(_MODULE), base),
        args=[_text(one, _ARGS) for one in _list(root.value.get(_ARGS), _ARGS)],
        options=options,
    )


def options_of(command: click.Command) -> Iterator[click.Option]:
    """Yield the options that a job file may give: those of this command alone."""
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name not in _NOT_IN_FILES:
            yield parameter


def filled_in(command: click.Command, given: Mapping[str, object]) -> dict[str, object]:
    """Return the job file of what was given, by flags or a file, with the daemon's defaults."""
    job: dict[str, object] = {}
    if given.get("module"):
        job[_MODULE] = _absolute(str(given["module"]))
    if given.get("arguments"):
        job[_ARGS] = given["arguments"]
    for option in options_of(command):
        name = str(option.name)
        value = given.get(name)
        value = bounds.DEFAULTS.get(name) if value is None else value
        if value not in (None, False) and value != () and value != {}:
            job[_key(option)] = _written(option, value)
    return job


def job_text(job: Mapping[str, object]) -> str:
    """Return a job file's text."""
    return str(yaml.safe_dump(dict(job), sort_keys=False, allow_unicode=True))


# --- YAML ---------------------------------------------------------------------------------------


def _parsed(content: bytes, path: str) -> _Node:
    try:
        events = yaml.parse(content.decode("utf-8"), Loader=yaml.SafeLoader)
        return _document(events, path)
    except UnicodeDecodeError as error:
        raise FileFailed(
            f"{path}: it is not UTF-8: {error.reason} at byte {error.start}"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise FileFailed(f"{_place(path, mark)}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:  # a character that YAML does not have
        raise FileFailed(f"{path}: {' '.join(str(error).split())}") from error


def _document(events: Iterator[yaml.Event], path: str) -> _Node:
    root: _Node | None = None
    for event in events:
        if isinstance(event, yaml.NodeEvent):
            if root is not None:
                raise FileFailed(f"{_place(path, event.start_mark)}: a file has one job only")
            root = _node(event, events, path, depth=0)
    if root is None:
        raise FileFailed(f"{path}: it is empty", hint="write `module: program.wasm` into it")
    return root


def _node(event: yaml.NodeEvent, events: Iterator[yaml.Event], path: str, *, depth: int) -> _Node:
    place = _place(path, event.start_mark)
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        raise FileFailed(f"{place}: a job file has no anchors and aliases: write the value again")
    if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
        raise FileFailed(f"{place}: a job file has no tags such as {plain(str(event.tag))[:80]}")
    if isinstance(event, yaml.ScalarEvent):
        return _Node(event.value, place, is_plain=event.style is None)
    if depth == DEPTH_MAX:
        raise FileFailed(f"{place}: it is nested too deep")
    if isinstance(event, yaml.SequenceStartEvent):
        items: list[_Node] = []
        while isinstance(inner := next(events), yaml.NodeEvent):
            items.append(_node(inner, events, path, depth=depth + 1))
        return _Node(items, place)
    mapping: dict[str, _Node] = {}
    while isinstance(inner := next(events), yaml.NodeEvent):
        key = _node(inner, events, path, depth=depth + 1)
        if not isinstance(key.value, str):
            raise FileFailed(f"{key.place}: a key is a text, not {key.kind}")
        if key.value in mapping:
            raise FileFailed(f"{key.place}: {plain(key.value)[:80]!r} stands there twice")
        value = next(events)
        assert isinstance(value, yaml.NodeEvent), "the parser gives a value for each key"  # noqa: S101
        mapping[key.value] = _node(value, events, path, depth=depth + 1)
    return _Node(mapping, place)


def _place(path: str, mark: _Mark | None) -> str:
    return path if mark is None else f"{path}:{mark.line + 1}:{mark.column + 1}"


# --- values -------------------------------------------------------------------------------------


def _checked(
    option: click.Option, key: str, node: _Node, ctx: click.Context, base: Path
) -> RawValue:
    """Return the value of an option as flags would give it, once the option takes it."""
    if option.is_flag:
        return _flag(node, key)
    if option.multiple:
        parts = _list_or_pairs(option, node, key)
        for one in parts:
            _ask_option(option, (one.value,), key, one, ctx)
        texts = [str(one.value) for one in parts]
        is_path = isinstance(option.type, click.Path)
        return [_from(base, text) for text in texts] if is_path else texts
    text = _text(node, key)
    if isinstance(option.type, click.Path):
        return _from(base, text)
    _ask_option(option, text, key, node, ctx)
    return text


def _ask_option(
    option: click.Option, value: object, key: str, node: _Node, ctx: click.Context
) -> None:
    try:
        option.process_value(ctx, value)
    except click.UsageError as error:
        raise FileFailed(f"{node.place}: {key}: {error.message}") from error


def _list_or_pairs(option: click.Option, node: _Node, key: str) -> list[_Node]:
    """Return the texts of a repeatable option; NAME=VALUE ones are written as a mapping."""
    if option.metavar != "NAME=VALUE":
        items = _list(node, key)
        return [_Node(_text(one, key), one.place) for one in items]
    if not isinstance(node.value, dict):
        raise _wrong(node, key, "a mapping of names to values")
    return [
        _Node(f"{name}={_text(one, f'{key}.{name}')}", one.place)
        for name, one in node.value.items()
    ]


def _list(node: _Node | None, key: str) -> list[_Node]:
    if node is None:
        return []
    if not isinstance(node.value, list):
        raise _wrong(node, key, "a list")
    return node.value


def _text(node: _Node, key: str) -> str:
    if not isinstance(node.value, str):
        raise _wrong(node, key, "one value")
    if node.is_plain and node.value in ("", "~", "null"):
        raise FileFailed(f"{node.place}: {key} has no value: give it one, or leave the key out")
    if len(node.value) > TEXT_LETTERS_MAX:
        raise FileFailed(f"{node.place}: {key} is longer than {TEXT_LETTERS_MAX} letters")
    return node.value


def _flag(node: _Node, key: str) -> bool:
    if not node.is_plain or node.value not in ("true", "false"):
        raise _wrong(node, key, "true or false")
    return node.value == "true"


def _wrong(node: _Node, key: str, wanted: str) -> FileFailed:
    shown = f"{plain(node.value)[:40]!r}" if isinstance(node.value, str) else node.kind
    return FileFailed(f"{node.place}: {key} is {wanted}, not {shown}")


def _module(node: _Node | None, base: Path) -> str | None:
    return None if node is None else _from(base, _text(node, _MODULE))


def _from(base: Path, path: str) -> str:
    """Return a path of the file as it is from here: they are meant from where the file is."""
    return path if path == STANDARD else str(base / path)


def _absolute(path: str) -> str:
    return path if path == STANDARD else str(Path(path).absolute())


def _key(option: click.Option) -> str:
    return option.opts[0].lstrip("-")


def _written(option: click.Option, value: object) -> object:
    name = str(option.name)
    if isinstance(value, int) and name.endswith("_bytes"):
        return format_size_bytes(value)
    if isinstance(value, int) and name.endswith("_us"):
        return format_duration_us(value)
    if isinstance(option.type, click.Path):
        return _absolute(str(value))
    return list(value) if isinstance(value, tuple) else value
