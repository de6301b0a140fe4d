"""A process that puts rows for ever as a busy node does, and says what it put and what is durable.

`python row_writer.py DATABASE FIRST`: each `Persist` has a number, from FIRST on, and writes rows
of its own and the one row `newest`. Its standard output has a line `put N` when it was put, and
`durable N` when what waited for it was carried out.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

from meshd.store import Store
from meshd.writer import Writer
from p2p.own_records import INCARNATION_ROW, IncarnationRow
from wire.effects import Effect, Persist, Row, Trace

NEWEST = b"newest"
ROWS_COUNT_MAX = 5
AT_ONCE_COUNT = 7  # bursts and pauses, so that calls of many sizes are made
PAUSE_S = 0.001
ROWS_BEHIND_MAX = 10_000


def own_rows_count(number: int) -> int:
    """Return how many rows a `Persist` has beside the one that all write."""
    return number % ROWS_COUNT_MAX + 1


def own_key(number: int, index: int) -> bytes:
    """Return the key of one of them."""
    return b"%d.%d" % (number, index)


def persist(number: int) -> Persist:
    """Return the `Persist` with that number."""
    value = IncarnationRow(incarnation=number)
    keys = [own_key(number, index) for index in range(own_rows_count(number))]
    rows = tuple(Row(INCARNATION_ROW, key, value) for key in [*keys, NEWEST])
    return Persist(rows, (Trace("durable", {"number": number}),))


def say(what: str, number: int) -> None:
    """Say it in one write, which is there whole even if the next thing is the end."""
    os.write(sys.stdout.fileno(), f"{what} {number}\n".encode())


def on_durable(then: tuple[Effect, ...]) -> None:
    """Say what may be told to others now."""
    for effect in then:
        assert isinstance(effect, Trace)
        number = effect.fields["number"]
        assert isinstance(number, int)
        say("durable", number)


def on_failed(reason: str) -> None:
    """End: nothing here should make the disk fail."""
    raise SystemExit(reason)


async def _main(path: Path, number: int) -> None:
    store = Store.open(path)
    writer = Writer(store, on_durable=on_durable, on_failed=on_failed)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        nursery.start_soon(writer.run)
        while True:
            if writer.waiting_rows_count < ROWS_BEHIND_MAX:
                for _ in range(AT_ONCE_COUNT):
                    writer.put(persist(number))
                    say("put", number)
                    number += 1
            await trio.sleep(PAUSE_S)


if __name__ == "__main__":
    trio.run(_main, Path(sys.argv[1]), int(sys.argv[2]))
