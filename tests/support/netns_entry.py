"""Entering a network namespace, for the calling thread alone."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

NAMESPACES = Path("/run/netns")  # where `ip netns add` keeps them

_CLONE_NEWNET = 0x4000_0000
_libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12 only

Answer = TypeVar("Answer")


def enter_namespace(name: str) -> None:
    """Move the calling thread into a network namespace. Raises OSError. Nothing leads back."""
    with (NAMESPACES / name).open("rb") as namespace:
        if _libc.setns(namespace.fileno(), _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), name)


def inside(name: str, action: Callable[[], Answer]) -> Answer:
    """Return what `action` returns inside a namespace; a socket made there stays there.

    Raises what `action` raises, or OSError if there is no such namespace.
    """
    answers: list[Answer] = []
    failures: list[Exception] = []

    def act() -> None:
        try:
            enter_namespace(name)
            answers.append(action())
        except Exception as error:  # noqa: BLE001 - raised again by the caller's thread
            failures.append(error)

    thread = threading.Thread(target=act, name=f"inside {name}")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return answers[0]
