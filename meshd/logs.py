"""The daemon's log: text or JSON on standard error, JSON in rotating files of the home.

Events are `noun.verb` with key-values (structlog). What libraries say through `logging` goes the
same way, from warnings up. A log that cannot be written (full disk, closed terminal) never stops
the daemon: the line is dropped and counted. What is written is cleaned by `meshd.log_cleaning`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import logging.handlers
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor

from meshd.home import PRIVATE_FILE, unusable
from meshd.log_cleaning import clean, clean_exception

FILE_NAME = "meshd.log"

_OWN_LOGGER = "meshd"
_LIBP2P_LOGGER = "libp2p"
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
# What every line gets, ours and the libraries'.
_COMMON: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    clean,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """How to log. `directory` None: no files. They take `files_max` x `file_bytes_max` at most."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"
    directory: Path | None = None
    file_bytes_max: int = 8 << 20
    files_max: int = 5


class _Counting(logging.Handler):
    """Counts the lines that the disk or the terminal did not take, and goes on."""

    lost_count = 0

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        # ValueError: the stream was closed. Anything else is a bug of ours, which logging shows.
        if isinstance(sys.exc_info()[1], OSError | ValueError):
            self.lost_count += 1
        else:
            super().handleError(record)


class _Terminal(_Counting, logging.StreamHandler[TextIO]):
    """Writes to standard error."""


class _Files(_Counting, logging.handlers.RotatingFileHandler):
    """Writes to files that only their owner reads."""

    def _open(self) -> io.TextIOWrapper:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        descriptor = os.open(self.baseFilename, flags, PRIVATE_FILE)
        return open(descriptor, "a", encoding="utf-8")  # noqa: PTH123 - a descriptor has no path


@dataclass(frozen=True, slots=True)
class Logs:
    """The log while it is open."""

    _handlers: tuple[_Counting, ...]

    @property
    def lost_count(self) -> int:
        """How many lines could not be written somewhere."""
        return sum(handler.lost_count for handler in self._handlers)


@contextlib.contextmanager
def logging_to(options: LogOptions, *, stream: TextIO | None = None) -> Iterator[Logs]:
    """Send all logs of this process where `options` say, until the block ends.

    `stream` is standard error unless given. Raises HomeUnusable if no file can be opened.
    """
    handlers = _handlers(options, sys.stderr if stream is None else stream)
    root, own = logging.getLogger(), logging.getLogger(_OWN_LOGGER)
    libp2p = logging.getLogger(_LIBP2P_LOGGER)
    was_heard = libp2p.propagate
    own_level = own.level
    before = structlog.get_config()
    for handler in handlers:
        root.addHandler(handler)
    own.setLevel(_LEVELS[options.level])
    libp2p.propagate = True  # it cuts itself off when it is imported
    structlog.configure(
        processors=[
            *_COMMON,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[options.level]),
        logger_factory=_own_logger,
        cache_logger_on_first_use=False,
    )
    try:
        yield Logs(handlers)
    finally:
        structlog.configure(**before)
        own.setLevel(own_level)
        libp2p.propagate = was_heard
        for handler in handlers:
            root.removeHandler(handler)
            with contextlib.suppress(OSError):  # what a full disk has not taken by now is lost
                handler.close()


def bind_device(peer: str) -> None:
    """Add this device's id as `device` to the lines of this task and those it starts from now."""
    structlog.contextvars.bind_contextvars(device=peer)


def _handlers(options: LogOptions, stream: TextIO) -> tuple[_Counting, ...]:
    terminal = _Terminal(stream)
    terminal.setFormatter(
        _formatter(_json() if options.format == "json" else _text(is_coloured=stream.isatty()))
    )
    if options.directory is None:
        return (terminal,)
    path = options.directory / FILE_NAME
    try:
        files = _Files(
            path, maxBytes=options.file_bytes_max, backupCount=max(1, options.files_max - 1)
        )
    except OSError as error:
        raise unusable(path, error) from error
    files.setFormatter(_formatter(_json()))
    return terminal, files


def _formatter(renderer: Processor) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, _shorten_warning, *_COMMON],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,  # plain: prettier ones print local variables
            clean_exception,
            renderer,
        ],
    )


def _shorten_warning(_logger: object, level: str, line: EventDict) -> EventDict:
    """Name the error of a library's warning, without a traceback: the library got over it."""
    if level == "warning" and (exc_info := line.pop("exc_info", None)) and exc_info[0] is not None:
        kind, error, _ = exc_info
        line["error"] = f"{kind.__name__}: {error}"
    return line


def _json() -> Processor:
    return structlog.processors.JSONRenderer()


def _text(*, is_coloured: bool) -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=is_coloured, exception_formatter=structlog.dev.plain_traceback
    )


def _own_logger(*_names: object) -> logging.Logger:
    return logging.getLogger(_OWN_LOGGER)
