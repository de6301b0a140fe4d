"""js-libp2p as a member of a mesh: runs `tests/interop/member.mjs`, which takes commands."""

from __future__ import annotations

import functools
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pytest
from support.daemons import until
from support.js_client import INTEROP, Event

ANSWER_S_MAX = 60.0  # of a machine that is busy with anything else
STOP_S_MAX = 15.0


@dataclass(slots=True, kw_only=True)
class JsMember:
    """One process; what it tells goes into a file. A context manager that ends it."""

    name: str
    out: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, directory: Path, name: str) -> JsMember:
        """Start the process, which waits for its first command."""
        out = directory / f"{name}.events"
        with out.open("wb") as told, (directory / f"{name}.errors").open("wb") as errors:
            process = subprocess.Popen(
                ["node", "--import", "./polyfill.mjs", "member.mjs"],
                cwd=INTEROP,
                stdin=subprocess.PIPE,
                stdout=told,
                stderr=errors,
            )
        return cls(name=name, out=out, process=process)

    def __enter__(self) -> JsMember:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End its input, and so the process: politely, then by force."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def tell(self, command: str, **fields: object) -> None:
        """Give it one command."""
        assert self.process.stdin is not None
        line = json.dumps({"do": command, **fields})
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def events(self, kind: str, /, **fields: object) -> list[Event]:
        """Return what it has told so far of this kind and with these fields."""
        whole_lines = self.out.read_bytes().rpartition(b"\n")[0].splitlines()
        events: list[Event] = [json.loads(line) for line in whole_lines]
        wanted = {"event": kind, **fields}
        return [event for event in events if wanted.items() <= event.items()]

    def told(self, kind: str, /, **fields: object) -> Event:
        """Return the first event of this kind and with these fields, once it is there."""
        first = functools.partial(self._first, kind, **fields)
        return until(first, f"{self.name} told no {kind} {fields}", within_s=ANSWER_S_MAX)

    def _first(self, kind: str, /, **fields: object) -> Event | None:
        found = self.events(kind, **fields)
        if not found and (failed := self.events("failed")):
            pytest.fail(f"{self.name} failed: {failed}")
        if not found and self.process.poll() is not None:
            pytest.fail(f"{self.name} ended: {self.out.with_suffix('.errors').read_text()}")
        return found[0] if found else None
