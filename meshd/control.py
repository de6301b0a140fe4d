"""The control socket: what `meshctl` speaks with (docs/protocol/control.md).

A connection carries one request at a time: the answers, what follows them in chunks, then `end`.
Only the daemon's own user and root are heard. A client that hangs up ends its request; one that
takes nothing, or says what no client says, loses its connection and nobody else notices.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol, TypeAlias

import msgspec
import structlog
import trio

from meshd.content import ContentGate, Output
from meshd.control_answers import (
    END,
    ReceiptHead,
    RecoveryKeyAnswer,
    ResultHead,
    Stopping,
    encode_answer,
    encode_stream,
    refusal_of,
)
from meshd.control_errors import ClientMisbehaved
from meshd.control_frames import PROTOCOL_HIGHEST, PROTOCOL_LOWEST, encode_frame
from meshd.control_listener import listen, remove, user_of
from meshd.control_requests import (
    EraseRecoveryKey,
    Request,
    RevealRecoveryKey,
    Stop,
    SubmitRequest,
    decode_greeting,
    decode_request,
)
from meshd.control_stream import UPLOAD_TIMEOUT_S, FrameStream
from meshd.control_upload import receive_submission
from meshd.version import version
from wire.answers import Answer, ReceiptView, RefusalCode, Refused, ResultView
from wire.commands import Command
from wire.errors import MeshError

CLIENTS_MAX = 64
UPLOADS_MAX = 2  # each holds one module or input in memory while it comes in

_DECODING_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

Ask: TypeAlias = Callable[[Command], AbstractAsyncContextManager[AsyncIterator[Answer]]]

log = structlog.get_logger()


class RecoveryKeeper(Protocol):
    """Holds the mesh's recovery key, if it is here: `meshd.recovery.RecoveryDesk`."""

    def reveal(self) -> RecoveryKeyAnswer:
        """Return it. Raises MeshError."""
        ...

    async def erase(self, public: str) -> RecoveryKeyAnswer:
        """Erase it from the home. Raises MeshError."""
        ...


class ControlServer:
    """Serves the control socket at `path`.

    `ask` puts a command to the node; leaving its context before the last answer withdraws the
    question. `content` seals what comes in and opens what goes out. `recovery` has the
    mesh's recovery key. `stop` begins to stop the
    daemon and returns at once.
    """

    def __init__(
        self,
        path: Path,
        *,
        ask: Ask,
        content: ContentGate,
        recovery: RecoveryKeeper,
        stop: Callable[[], None],
    ) -> None:
        self._path = path
        self._ask = ask
        self._content = content
        self._recovery = recovery
        self._stop = stop
        self._client_count = 0
        self._uploads = trio.CapacityLimiter(UPLOADS_MAX)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started once clients can connect. Raises ControlSocketInUse."""
        listener = listen(self._path)
        inode = os.lstat(self._path).st_ino
        try:
            task_status.started()
            await trio.serve_listeners(self._serve, [listener])
        finally:
            remove(self._path, inode)

    async def _serve(self, stream: trio.SocketStream) -> None:
        """Serve one client. Nothing that goes wrong with it leaves this function."""
        self._client_count += 1
        try:
            async with stream:
                await self._converse(FrameStream(stream), user_of(stream))
        except ClientMisbehaved as error:
            log.debug("control.client_dropped", reason=str(error))
        finally:
            self._client_count -= 1

    async def _converse(self, frames: FrameStream, user: int) -> None:
        refused = self._unwelcome(user)
        if refused is not None:
            return await frames.send_each(encode_answer(refused))
        await frames.send(encode_frame(_greeting()))
        refused = _mismatch(await _receive_greeting(frames))
        if refused is not None:
            return await frames.send_each(encode_answer(refused))
        while (received := await frames.receive()) is not None:
            await self._answer(frames, received)
        return None

    def _unwelcome(self, user: int) -> Refused | None:
        if user not in (0, os.geteuid()):
            log.warning("control.client_refused", user=user)
            return _refused("this daemon belongs to another user")
        if self._client_count > CLIENTS_MAX:
            return _refused(f"{CLIENTS_MAX} clients are connected, which is the most: try later")
        return None

    async def _answer(self, frames: FrameStream, received: bytes) -> None:
        """Answer one request and end the answer, whatever became of it."""
        request: Request | None = None
        try:
            request = decode_request(received)
            await self._carry_out(frames, request)
        except _DECODING_ERRORS as error:
            await self._send(frames, _bad_request(f"the request is not understood: {error}"))
        except ClientMisbehaved:
            raise
        except MeshError as error:
            await self._send(frames, refusal_of(error))
        except Exception:
            # A defect in answering one client must not end the daemon, so this is where it stops.
            log.exception("control.answer_failed")
            await self._send(frames, _INTERNAL)
        await frames.send(END)
        if isinstance(request, Stop):
            self._stop()

    async def _carry_out(self, frames: FrameStream, request: Request) -> None:
        match request:
            case Stop():
                await frames.send_each(encode_answer(Stopping(pid=os.getpid())))
            case SubmitRequest():
                await self._submit(frames, request)
            case RevealRecoveryKey():
                await frames.send_each(encode_answer(self._recovery.reveal()))
            case EraseRecoveryKey(public):
                await frames.send_each(encode_answer(await self._recovery.erase(public)))
            case _:
                await frames.answer_with(lambda: self._relay(frames, request))

    async def _submit(self, frames: FrameStream, request: SubmitRequest) -> None:
        too_much = request.over_limit()
        if too_much is not None:
            return await self._send(frames, _bad_request(too_much))
        try:
            async with self._uploads:
                command = await receive_submission(frames, request, self._content)
        except ClientMisbehaved:
            raise
        except MeshError as error:
            await self._send(frames, refusal_of(error))
            await frames.send(END)
            # What it may still be sending would be taken for requests.
            raise ClientMisbehaved("was refused during its upload") from error
        return await frames.answer_with(lambda: self._relay(frames, command))

    async def _relay(self, frames: FrameStream, command: Command) -> None:
        async with self._ask(command) as answers:
            async for answer in answers:
                await self._send(frames, answer)

    async def _send(self, frames: FrameStream, answer: Answer) -> None:
        """Send an answer and what follows it. Raises ClientMisbehaved and what opening raises."""
        match answer:
            case ResultView():
                output = await self._content.open_result(answer)
                await frames.send_each(encode_answer(_result_head(answer, output)))
                await frames.send_each(encode_stream("stdout", output.stdout))
                await frames.send_each(encode_stream("stderr", output.stderr))
            case ReceiptView():
                receipt = await self._content.finish_receipt(answer)
                head = ReceiptHead(task=answer.task, receipt_bytes=len(receipt))
                await frames.send_each(encode_answer(head))
                await frames.send_each(encode_stream("receipt", receipt))
            case _:
                await frames.send_each(encode_answer(answer))


def _result_head(view: ResultView, output: Output) -> ResultHead:
    return ResultHead(
        task=view.task, stdout_bytes=len(output.stdout), stderr_bytes=len(output.stderr)
    )


def _greeting() -> dict[str, object]:
    return {
        "greeting": "meshd",
        "version": version(),
        "lowest": PROTOCOL_LOWEST,
        "highest": PROTOCOL_HIGHEST,
    }


async def _receive_greeting(frames: FrameStream) -> int:
    """Return the version of the protocol that the client chose. Raises ClientMisbehaved."""
    with trio.move_on_after(UPLOAD_TIMEOUT_S):
        try:
            return decode_greeting(await frames.receive() or b"").protocol
        except _DECODING_ERRORS as error:
            raise ClientMisbehaved(f"sent no greeting: {error}") from error
    raise ClientMisbehaved(f"did not greet for {UPLOAD_TIMEOUT_S} s")


def _mismatch(protocol: int) -> Refused | None:
    if PROTOCOL_LOWEST <= protocol <= PROTOCOL_HIGHEST:
        return None
    return _bad_request(
        f"meshd {version()} speaks control protocol {PROTOCOL_LOWEST} to {PROTOCOL_HIGHEST}, not"
        f" {protocol}: install the same release of meshd and meshctl"
    )


def _bad_request(message: str) -> Refused:
    return Refused(code=RefusalCode.BAD_REQUEST, message=message)


def _refused(message: str) -> Refused:
    return Refused(code=RefusalCode.REFUSED, message=message)


_INTERNAL = Refused(
    code=RefusalCode.INTERNAL,
    message="the daemon made a mistake and could not answer",
    hint="its log, in the home's directory `logs`, has the details: please report them",
)
