"""Answers as the control socket carries them: as maps, the bulky bytes in chunks after them."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import Struct

from meshd.control_errors import ControlError
from meshd.control_frames import FRAME_BYTES_MAX, cut, encode_frame, with_length
from meshd.errors import BlobBudgetExceeded, BlobMissing, BlobStorageFailed
from sandbox.errors import UnsupportedModule
from wire.answers import Answer, RefusalCode, Refused, TaskView
from wire.errors import CannotUnseal, MeshError

PART_BYTES = FRAME_BYTES_MAX // 2


class ResultHead(Struct, frozen=True, kw_only=True, tag_field="answer", tag="result"):
    """What comes before the chunks of a task's output: its streams `stdout` and `stderr`."""

    task: TaskView
    stdout_bytes: int
    stderr_bytes: int  # the end of what the program wrote there, as long as the executor keeps


class ReceiptHead(Struct, frozen=True, kw_only=True, tag_field="answer", tag="receipt"):
    """What comes before the chunks of a receipt's file, its stream `receipt`."""

    task: str
    receipt_bytes: int


class Stopping(Struct, frozen=True, kw_only=True, tag_field="answer", tag="stopping"):
    """The daemon will end; `pid` is its process, for whoever waits until it has."""

    pid: int


class RecoveryKeyAnswer(Struct, frozen=True, kw_only=True, tag_field="answer", tag="recovery_key"):
    """The mesh's recovery key: `file` is what to write, null once it is erased from the home."""

    mesh: str
    public: str  # the key's public half, as a peer id
    file: str | None

    def __repr__(self) -> str:
        """Name the key: the rest is secret."""
        return f"RecoveryKeyAnswer({self.public})"


Head = Answer | ResultHead | ReceiptHead | Stopping | RecoveryKeyAnswer

END = encode_frame({"end": True})

_REFUSALS: tuple[tuple[type[MeshError], RefusalCode, str | None], ...] = (
    (UnsupportedModule, RefusalCode.BAD_REQUEST, None),
    (
        BlobBudgetExceeded,
        RefusalCode.STORAGE_FULL,
        "wait until tasks are settled, or raise the disk budget of blobs in config.toml",
    ),
    (BlobStorageFailed, RefusalCode.STORAGE_FULL, "free space on the disk that holds the home"),
    (BlobMissing, RefusalCode.NOT_YET, "try again: it is fetched from the device that has it"),
    (CannotUnseal, RefusalCode.REFUSED, "ask on the device that submitted the task"),
)


def encode_answer(answer: Head) -> Iterator[bytes]:
    """Yield the frames of `answer`: itself, or its parts when it is longer than a frame may be."""
    encoded = msgspec.msgpack.encode(answer)
    if len(encoded) <= PART_BYTES:
        yield with_length(encoded)
        return
    for start in range(0, len(encoded), PART_BYTES):
        is_last = start + PART_BYTES >= len(encoded)
        yield encode_frame({"part": encoded[start : start + PART_BYTES], "is_last": is_last})


def encode_stream(name: str, content: bytes) -> Iterator[bytes]:
    """Yield the frames of a stream that follows an answer."""
    for chunk in cut(content):
        yield encode_frame({"stream": name, "chunk": chunk})


def refusal_of(error: MeshError) -> Refused:
    """Return what to answer when a part of the daemon refuses with a typed error."""
    for kind, code, hint in _REFUSALS:
        if isinstance(error, kind):
            return Refused(code=code, message=str(error), hint=hint)
    hint = error.hint if isinstance(error, ControlError) else None
    return Refused(code=RefusalCode.REFUSED, message=str(error), hint=hint)
