"""A task's output, fetched whole and then given on: to standard output, a file, or as JSON.

It is spooled first, so that a pager that waits does not keep the daemon waiting, and so that nobody
ever gets the first half of an output whose second half cannot be had.
"""

from __future__ import annotations

import base64
import shutil
import sys
from pathlib import Path
from typing import IO

from meshd.cli.files import STANDARD, spooled, writing
from meshd.cli.streams import silence
from meshd.client import ControlClient
from meshd.control_errors import ContactLost
from meshd.control_frames import Frame


def give_output(client: ControlClient, task: str, *, to: str | None, is_json: bool) -> Frame:
    """Fetch the output of `task` and give it on; return its JSON.

    Without JSON, standard output goes `to` a file or our own, and standard error to our own. Raises
    CommandRefused, ContactLost or FileFailed.
    """
    with spooled() as stdout, spooled() as stderr:
        head = _fetch(client, task, stdout, stderr)
        if to is not None:
            with writing(to) as file:
                shutil.copyfileobj(stdout, file)
            stdout.seek(0)
        elif not is_json:
            with writing(STANDARD) as file:
                shutil.copyfileobj(stdout, file)
        if not is_json:
            _copy_to_stderr(stderr)
            return head
        answer: Frame = {"answer": "result", "task": head["task"]}
        answer["stdout"] = _described(stdout, file=to)
        answer["stderr"] = _described(stderr, file=None)
        return answer


def save_output(client: ControlClient, task: str, target: Path) -> None:
    """Fetch the output of `task` into a file, whole or not at all.

    Raises CommandRefused, ContactLost or FileFailed.
    """
    with spooled() as stdout, spooled() as stderr:
        _fetch(client, task, stdout, stderr)
        with writing(str(target)) as file:
            shutil.copyfileobj(stdout, file)


def _fetch(client: ControlClient, task: str, stdout: IO[bytes], stderr: IO[bytes]) -> Frame:
    streams = {"stdout": stdout, "stderr": stderr}
    head = client.download(
        {"command": "result", "task": task}, lambda name, chunk: streams[name].write(chunk)
    )
    for name, stream in streams.items():
        if stream.tell() != head[f"{name}_bytes"]:
            raise ContactLost(f"the daemon sent another {name} than it announced")
        stream.seek(0)
    return head


def _described(stream: IO[bytes], *, file: str | None) -> Frame:
    """Return a stream as JSON: its size, and the file it is in, its text, or its bytes."""
    content = stream.read()
    described: Frame = {"bytes": len(content)}
    if file not in (None, STANDARD):
        return {**described, "file": file}
    try:
        return {**described, "text": content.decode("utf-8")}
    except UnicodeDecodeError:
        return {**described, "base64": base64.b64encode(content).decode("ascii")}


def _copy_to_stderr(stream: IO[bytes]) -> None:
    try:
        sys.stderr.flush()
        shutil.copyfileobj(stream, sys.stderr.buffer)
        sys.stderr.buffer.flush()
    except OSError:
        silence(sys.stderr.fileno())
