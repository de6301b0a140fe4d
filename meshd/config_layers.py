"""Where settings come from: defaults < profile < file < environment < flags, and who is to blame.

Every error is one line that names the source, the key and what is allowed.
"""

from __future__ import annotations

import difflib
import errno
import re
import socket
import tomllib
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from meshd.config import LEASES_MOST, PROFILES, Config
from meshd.errors import ConfigError, QuantityError
from meshd.home import HOME_VARIABLE
from meshd.quantities import parse_duration_us, parse_size_bytes
from p2p.addresses import parse_address
from p2p.errors import MalformedAddress

ENVIRONMENT_PREFIX = "MESHD_"
CONFIG_VARIABLE = "MESHD_CONFIG"
LEASES_VARIABLES = ("MAX_CONCURRENT_TASKS_PER_NODE", "MAX_ACTIVE_TASK_ATTACHMENTS_PER_NODE")
FILE_BYTES_MAX = 1 << 20
# With these it is the home that is none, which is told as such where it is opened.
_NO_HOME = frozenset({errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})

_SECRET_KEYS = frozenset({"join"})
_SHOWN_CHARACTERS = 60
_FIELDS = {field.encode_name: field for field in msgspec.structs.fields(Config)}
_LABEL = ENVIRONMENT_PREFIX + "LABEL"
_NOT_SETTINGS = frozenset({HOME_VARIABLE, CONFIG_VARIABLE})
_AT = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`\Z")
_UNKNOWN = re.compile(r"unknown field `(?P<field>[^`]*)`")
_Path = tuple[str, ...]


class LoadedConfig(msgspec.Struct, frozen=True):
    """The settings, and one line for each thing in the environment that was not used."""

    config: Config
    warnings: tuple[str, ...]


def load_config(
    *,
    file: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
    is_file_needed: bool = True,
) -> LoadedConfig:
    """Return the settings from `file` (None: none), the environment and `flags`.

    `flags` are by dotted key, such as ``{"log.format": "json"}``; None and empty ones were not
    given. A missing file is an error unless it is only the home's own, `is_file_needed` False.
    Raises ConfigError.
    """
    layers = Layers()
    if file is not None:
        layers.add_file(file, is_needed=is_file_needed)
    layers.add_environment(environ)
    layers.add_flags(flags)
    return LoadedConfig(layers.settle(), tuple(layers.warnings))


def labels_from_text(pairs: Iterable[str], source: str) -> dict[str, str]:
    """Return the labels written as KEY=VALUE. Raises ConfigError."""
    labels = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"{source}: {_shown(pair)} is no label: write KEY=VALUE")
        labels[key.strip()] = value.strip()
    return labels


def default_name() -> str:
    """Return the host's name as far as it is a device's name."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname().partition(".")[0]).strip("-")
    return name[:64] or "device"


class Layers:
    """Settings put over each other, each key with its source."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._values: dict[str, object] = {"name": default_name()}
        self._sources: dict[_Path, str] = {}

    def add_file(self, file: Path, *, is_needed: bool) -> None:
        """Put the TOML file over what is there. Raises ConfigError."""
        try:
            with file.open("rb") as stream:
                content = stream.read(FILE_BYTES_MAX + 1)
        except FileNotFoundError as error:
            if is_needed:
                raise ConfigError(f"{file}: no such file") from error
            return
        except OSError as error:
            if not is_needed and error.errno in _NO_HOME:
                return
            raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
        if len(content) > FILE_BYTES_MAX:
            raise ConfigError(f"{file}: longer than {FILE_BYTES_MAX} bytes")
        try:
            values = tomllib.loads(content.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"{file}: not TOML: {_one_line(str(error))}") from error
        self._merge(values, str(file))

    def add_environment(self, environ: Mapping[str, str]) -> None:
        """Put the MESHD_ variables, and those for the lease cap, over what is there."""
        self._add_lease_cap(environ)
        for variable in sorted(environ):
            text = environ[variable]
            if not variable.startswith(ENVIRONMENT_PREFIX) or variable in _NOT_SETTINGS or not text:
                continue
            source = f"environment {variable}"
            if variable == _LABEL:
                labels = labels_from_text(text.split(","), source)
                self._merge({"labels": labels}, source)
                continue
            path = tuple(variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"))
            if path[0] not in _FIELDS:
                # Not an error: an orchestrator sets its own, such as MESHD_SERVICE_HOST.
                self.warnings.append(f"{source}: no such setting, ignored")
                continue
            self._put(path, text.split(",") if path == ("listen",) else text, source)

    def add_flags(self, flags: Mapping[str, object]) -> None:
        """Put the command line's flags over what is there."""
        for key, value in flags.items():
            if value is not None and value not in ((), [], {}, ""):
                self._put(tuple(key.split(".")), value, _flag(key))

    def settle(self) -> Config:
        """Return the settings over their profile's defaults. Raises ConfigError."""
        profile = self._values.get("profile", "lan")
        under = next((changes for name, changes in PROFILES.items() if name == profile), {})
        merged = _over(under, self._values)
        try:
            config = msgspec.convert(self._read_units(merged, ()), Config, strict=False)
        except msgspec.ValidationError as error:
            raise self._blame(str(error)) from error
        weights = config.health.weights
        if not any((weights.bandwidth, weights.latency, weights.compute, weights.reputation)):
            source = self._source(("health", "weights"))
            raise ConfigError(f"{source}: health.weights: at least one must be above 0")
        self._check_listen(config.listen)
        return config

    def _check_listen(self, listen: Sequence[str]) -> None:
        for text in listen:
            try:
                address = parse_address(text)
            except MalformedAddress as error:
                raise ConfigError(f"{self._source(('listen',))}: {error}") from error
            if address.kind.startswith("dns"):
                raise ConfigError(
                    f"{self._source(('listen',))}: {text}: give an IP address, not a name"
                )

    def _add_lease_cap(self, environ: Mapping[str, str]) -> None:
        """Take the cap from the newest of its variables that holds a usable number."""
        for variable in LEASES_VARIABLES:
            text = environ.get(variable)
            if text is None:
                continue
            if text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= LEASES_MOST:
                self._put(("executor", "leases_max"), int(text), f"environment {variable}")
                return
            self.warnings.append(
                f"environment {variable}: {_shown(text)} is no number from 1 to {LEASES_MOST},"
                " ignored"
            )

    def _put(self, path: _Path, value: object, source: str) -> None:
        nested: object = value
        for part in reversed(path):
            nested = {part: nested}
        self._merge(typing.cast(dict[str, object], nested), source)

    def _merge(self, values: Mapping[str, object], source: str) -> None:
        self._values = _over(self._values, values)
        for path in _leaves(values, ()):
            self._sources.pop(path, None)  # so that the last source is last
            self._sources[path] = source

    def _read_units(self, values: object, path: _Path) -> object:
        """Return `values` with text such as "30s" read in the unit that its key names."""
        if isinstance(values, dict):
            return {key: self._read_units(value, (*path, key)) for key, value in values.items()}
        unit = _unit(path[-1]) if path and path[0] != "labels" else None
        if unit is None or not isinstance(values, str) or values.isdigit():
            return values
        try:
            if unit == "bytes":
                return parse_size_bytes(values)
            duration_us = parse_duration_us(values)
        except QuantityError as error:
            raise ConfigError(f"{self._source(path)}: {'.'.join(path)}: {error}") from error
        whole, rest = divmod(duration_us, 1 if unit == "us" else 1_000)
        return whole if rest == 0 else values  # "0.5ms" for a key in ms: refused by its type

    def _blame(self, message: str) -> ConfigError:
        at = _AT.search(message)
        path = tuple(re.findall(r"[^.\[\]]+", at["path"])) if at else ()
        # The last parts of `labels[...]` and `listen[0]` are not in the tree of types.
        while path and _type_at(path) is None:
            path = path[:-1]
        if unknown := _UNKNOWN.search(message):
            return self._unknown(path, unknown["field"])
        key = ".".join(path)
        value = "" if key in _SECRET_KEYS else f" = {_shown(self._value(path))}"
        return ConfigError(f"{self._source(path)}: {key}{value}: wanted {_allowed(path)}")

    def _unknown(self, path: _Path, name: str) -> ConfigError:
        known = sorted(_keys_at(path))
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {'.'.join((*path, close[0]))}?" if close else ""
        where = f"in {'.'.join(path)}" if path else "at the top"
        allowed = hint or f"{where} there are {', '.join(known)}"
        full = (*path, name)
        return ConfigError(f"{self._source(full)}: no setting {'.'.join(full)}: {allowed}")

    def _source(self, path: _Path) -> str:
        """Return the last source of anything at or below `path`."""
        found = [each for at, each in self._sources.items() if at[: len(path)] == path]
        above = [each for at, each in self._sources.items() if path[: len(at)] == at]
        return (found or above or ["settings"])[-1]

    def _value(self, path: _Path) -> object:
        value: object = self._values
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        return value


def _over(under: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    """Return both trees in one; where both have a value, the one of `over`."""
    merged = dict(under)
    for key, value in over.items():
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            merged[key] = _over(before, value)
        else:
            merged[key] = value
    return merged


def _leaves(values: Mapping[str, object], path: _Path) -> Iterable[_Path]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key)


def _unit(key: str) -> str | None:
    return next((unit for unit in ("us", "ms", "bytes") if unit in key.split("_")), None)


def _type_at(path: _Path) -> object:
    """Return the type of the setting at `path`, None if there is no such setting."""
    kind: object = Config
    for part in path:
        if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            return None
        kind = typing.get_type_hints(kind, include_extras=True).get(part)
    return kind


def _keys_at(path: _Path) -> Sequence[str]:
    kind = _type_at(path)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    return ()


def _allowed(path: _Path) -> str:
    """Return what the setting at `path` may be, for people."""
    kind = _type_at(path)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return f"a table of {', '.join(kind.__struct_fields__)}"
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(typing.get_args(kind))}"
    for extra in getattr(kind, "__metadata__", ()):
        if extra.description:
            return str(extra.description)
        if extra.ge is not None and extra.le is not None:
            return f"a number from {extra.ge} to {extra.le}"
    return "true or false"


def _flag(key: str) -> str:
    return "--label" if key == "labels" else "--" + key.replace(".", "-").replace("_", "-")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def _one_line(text: str) -> str:
    return " ".join(text.split())
