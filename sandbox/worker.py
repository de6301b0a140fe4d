"""A worker: one process that runs one program at a time, for a pool that may kill it at any moment.

Started as `python -m sandbox.worker DESCRIPTOR PARENT`: the number of its end of a socketpair, and
the id of the process to die with. It loads the engine, gives up what it does not need, says that it
is ready, and then answers frames until the pool has gone.
"""

from __future__ import annotations

import os
import socket
from collections import OrderedDict

import msgspec

from sandbox.cache_entry import read_entry
from sandbox.child_main import connect_to_pool
from sandbox.engine import Engine, Program
from sandbox.errors import JobFailed, UnusableNativeCode
from sandbox.frames import (
    DETAIL_LETTERS_MAX,
    Ended,
    Ready,
    Refused,
    Run,
    Started,
    ToWorker,
    Unusable,
    receive,
    send,
)
from sandbox.hardening import harden
from sandbox.profile import ENGINE_PROFILE
from wire.ids import Digest
from wire.limits import MIB

NICENESS = 5
LOADED_COUNT_MAX = 16
LOADED_BYTES_MAX = 128 * MIB


class LoadedPrograms:
    """The programs this worker used last, ready to run. The oldest go when there are too many."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._programs: OrderedDict[Digest, Program] = OrderedDict()

    def get(self, module: Digest, entry: int, cache_key: bytes) -> Program:
        """Return the program of `module`, from the open cache `entry` if it is not loaded.

        Raises UnusableNativeCode or JobFailed.
        """
        if module not in self._programs:
            self._programs[module] = self.engine.load(read_entry(entry, module, cache_key))
        self._programs.move_to_end(module)
        self._forget_oldest()
        return self._programs[module]

    def _forget_oldest(self) -> None:
        while len(self._programs) > 1 and (
            len(self._programs) > LOADED_COUNT_MAX
            or sum(program.native_bytes for program in self._programs.values()) > LOADED_BYTES_MAX
        ):
            self._programs.popitem(last=False)


def answer(run: Run, entry: int, programs: LoadedPrograms, pool: socket.socket) -> None:
    """Run one job and send what came of it."""
    job = run.job
    try:
        try:
            program = programs.get(job.module, entry, run.cache_key)
        finally:
            os.close(entry)
        send(pool, Started())
        send(pool, Ended(programs.engine.run(program, job)))
    except UnusableNativeCode as error:
        send(pool, Unusable(str(error)[:DETAIL_LETTERS_MAX]))
    except JobFailed as failure:
        send(pool, Refused(failure.reason, failure.detail[:DETAIL_LETTERS_MAX]))


def main() -> None:
    """Serve the pool at the other end of the descriptor until it goes."""
    pool, parent_pid = connect_to_pool(niceness=NICENESS)
    programs = LoadedPrograms(Engine())
    decoder = msgspec.msgpack.Decoder(ToWorker)
    enforced = harden(parent_pid=parent_pid)
    send(pool, Ready(ENGINE_PROFILE, enforced))
    while (received := receive(pool, decoder)) is not None:
        answer(*received, programs, pool)


if __name__ == "__main__":
    main()
