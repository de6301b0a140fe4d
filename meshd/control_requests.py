"""What a client may ask on the control socket: the commands of `wire.commands`, and two more.

`submit` differs from `wire.commands.Submit`: it announces the sizes of a module and of inputs that
follow in chunks, so that no frame is large and what is too much is refused before it is sent.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Struct

from wire.commands import (
    CancelTask,
    Find,
    GetHistory,
    GetPeer,
    GetReceipt,
    GetResult,
    GetStatus,
    GetTask,
    Invite,
    ListPeers,
    ListTasks,
    PardonDevice,
    Plan,
    Reference,
    Rekey,
    Remove,
    Resubmit,
    Terms,
    WaitBatch,
    WaitTask,
    WhyTask,
)
from wire.content import Invocation
from wire.ids import BATCH_TASKS_MAX
from wire.limits import CONTENT_BYTES_MAX, MODULE_BYTES_MAX
from wire.tasks import READERS_MAX

INPUTS_BYTES_MAX = 4 * CONTENT_BYTES_MAX
INVOCATION_EXTRA_BYTES = 64 * 1024  # what arguments and environment may add to a standard input

ByteCount = Annotated[int, Meta(ge=0, lt=1 << 62)]


class TaskUpload(Struct, frozen=True, kw_only=True):
    """How one task's program is started; its standard input follows in chunks."""

    args: Annotated[tuple[Annotated[str, Meta(max_length=4096)], ...], Meta(max_length=256)] = ()
    env: Annotated[
        tuple[
            tuple[Annotated[str, Meta(max_length=256)], Annotated[str, Meta(max_length=4096)]], ...
        ],
        Meta(max_length=256),
    ] = ()
    stdin_bytes: ByteCount = 0

    def __post_init__(self) -> None:
        """Refuse what no program can be started with. Raises ValueError."""
        Invocation(args=self.args, env=self.env)

    @property
    def text_bytes(self) -> int:
        """How many bytes arguments and environment take."""
        words = [*self.args, *(word for pair in self.env for word in pair)]
        return sum(len(word.encode()) + 5 for word in words)


class SubmitRequest(Terms, frozen=True, kw_only=True, tag_field="command", tag="submit"):
    """Run a batch. The module and the inputs follow when the daemon says `proceed`."""

    module_bytes: ByteCount
    tasks: Annotated[tuple[TaskUpload, ...], Meta(min_length=1, max_length=BATCH_TASKS_MAX)]
    readers: Annotated[tuple[Reference, ...], Meta(max_length=READERS_MAX)] = ()

    def over_limit(self) -> str | None:
        """Return what is too much about it, as a sentence, or None."""
        if self.module_bytes > MODULE_BYTES_MAX:
            return f"the module has {self.module_bytes} bytes, at most {MODULE_BYTES_MAX} are taken"
        for index, task in enumerate(self.tasks):
            if task.stdin_bytes > CONTENT_BYTES_MAX - INVOCATION_EXTRA_BYTES:
                limit = CONTENT_BYTES_MAX - INVOCATION_EXTRA_BYTES
                return f"input {index} has {task.stdin_bytes} bytes, at most {limit} are taken"
            if task.text_bytes > INVOCATION_EXTRA_BYTES:
                return (
                    f"arguments and environment of task {index} have {task.text_bytes} bytes,"
                    f" at most {INVOCATION_EXTRA_BYTES} are taken"
                )
        total = sum(task.stdin_bytes for task in self.tasks)
        if total > INPUTS_BYTES_MAX:
            return f"the inputs have {total} bytes, at most {INPUTS_BYTES_MAX} are taken at once"
        return None


class Stop(Struct, frozen=True, tag_field="command", tag="stop"):
    """Stop the daemon. Answered by `stopping` with its process id."""


class RevealRecoveryKey(Struct, frozen=True, tag_field="command", tag="recovery_key"):
    """Give the mesh's recovery key, to be written to a file. Answered by `recovery_key`."""


class EraseRecoveryKey(Struct, frozen=True, tag_field="command", tag="erase_recovery_key"):
    """Erase the recovery key from the home: it is safe elsewhere. Answered by `recovery_key`."""

    public: Annotated[str, Meta(max_length=128)]


class ClientGreeting(Struct, frozen=True, kw_only=True):
    """The first frame of a client: the version of the protocol that it chose."""

    protocol: int


class ChunkGiven(Struct, frozen=True, kw_only=True):
    """A piece of a module or an input."""

    chunk: bytes


Request: TypeAlias = (
    GetStatus
    | ListPeers
    | GetPeer
    | Find
    | Invite
    | SubmitRequest
    | Resubmit
    | Plan
    | ListTasks
    | GetTask
    | WhyTask
    | GetHistory
    | WaitTask
    | WaitBatch
    | GetResult
    | CancelTask
    | GetReceipt
    | PardonDevice
    | Remove
    | Rekey
    | RevealRecoveryKey
    | EraseRecoveryKey
    | Stop
)

decode_request = msgspec.msgpack.Decoder[Request](Request).decode
decode_greeting = msgspec.msgpack.Decoder(ClientGreeting).decode
decode_chunk = msgspec.msgpack.Decoder(ChunkGiven).decode
