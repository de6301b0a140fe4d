"""Lets trio run its tasks in an order that a seed decides. The only place that reaches into trio.

Trio shuffles runnable tasks on purpose. What decides the order is private: a source of randomness
`_r` of the module `trio._core._run`, and a flag that sorts a batch before it is shuffled, without
which the order depends on how each task was woken. `tests/conformance/test_stepped_trio.py` is
the canary that tells when a trio release changes this (trio issue 3089: no public way yet).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

from trio._core import _run

_FLAG = "_ALLOW_DETERMINISTIC_SCHEDULING"
_SOURCE = "_r"


class TrioChanged(AssertionError):
    """This trio keeps its scheduling somewhere else: look there and change this module."""


@contextmanager
def repeatable_order(seed: int) -> Iterator[None]:
    """Let `seed` decide the order of all tasks in here. Raises TrioChanged."""
    places = vars(_run)
    if not isinstance(places.get(_FLAG), bool) or not isinstance(
        places.get(_SOURCE), random.Random
    ):
        raise TrioChanged(f"trio._core._run has no {_FLAG} and {_SOURCE} any more")
    before = places[_FLAG], places[_SOURCE].getstate()
    setattr(_run, _FLAG, True)
    places[_SOURCE].seed(seed)
    try:
        yield
    finally:
        setattr(_run, _FLAG, before[0])
        places[_SOURCE].setstate(before[1])
