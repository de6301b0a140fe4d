"""A process that writes to a store until it is killed, and says what was acknowledged.

`python store_writer.py DATABASE ROUND`: 20 tasks each persist pairs of rows for ever; every call's
number is printed once it is durable.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import trio

from meshd.store import Store, Write

TASKS_COUNT = 20
BODY = bytes(400)


async def _write_for_ever(store: Store, round_number: int, writer: int) -> None:
    for count in itertools.count():
        name = b"%d.%d.%d" % (round_number, writer, count)
        await store.persist([Write("left", name, BODY + name), Write("right", name, name)])
        os.write(sys.stdout.fileno(), name + b"\n")


async def _main(path: Path, round_number: int) -> None:
    store = Store.open(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        for writer in range(TASKS_COUNT):
            nursery.start_soon(_write_for_ever, store, round_number, writer)


if __name__ == "__main__":
    trio.run(_main, Path(sys.argv[1]), int(sys.argv[2]))
