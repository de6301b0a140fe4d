"""Speaks with the local daemon over its control socket, without trio (docs/protocol/control.md).

Standard library and msgpack only, because `meshctl` starts with it. Answers are plain maps, as
`wire.answers` describes them. A connection carries one request at a time; leave one early and the
connection is of no further use.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from meshd.control_errors import (
    CommandRefused,
    ContactLost,
    NoDaemon,
    NotConfirmed,
    ProtocolMismatch,
)
from meshd.control_frames import (
    ANSWER_BYTES_MAX,
    LENGTH,
    PROTOCOL_HIGHEST,
    PROTOCOL_LOWEST,
    Frame,
    MalformedControlFrame,
    cut,
    decode_frame,
    encode_frame,
    frame_length,
)
from meshd.errors import HomeUnusable
from meshd.home import control_socket_path

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0

_PEER_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))

Sink = Callable[[str, bytes], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInput:
    """What one task of a submission is started with."""

    args: Sequence[str] = ()
    env: Mapping[str, str] | None = None
    stdin: bytes = b""

    def head(self) -> dict[str, object]:
        """Return it as `submit` announces it."""
        return {
            "args": list(self.args),
            "env": [list(pair) for pair in (self.env or {}).items()],
            "stdin_bytes": len(self.stdin),
        }


class ControlClient:
    """A connection to the daemon of `home`; a context manager.

    A request is a map with its `command` and the fields of that command. Making a client raises
    NoDaemon if nobody is there, ProtocolMismatch if it is of a release too far apart,
    CommandRefused if it does not want to hear us.
    """

    def __init__(self, home: Path) -> None:
        self._socket = _connected(home)
        self._received = self._socket.makefile("rb")
        try:
            self.release = self._greet()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ControlClient:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection, which withdraws a request that is not answered yet."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._received.close()
        self._socket.close()

    @property
    def daemon_pid(self) -> int:
        """The process that listens, as the kernel knows it; 0 if it is not of our namespace."""
        credentials = self._socket.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size
        )
        pid, _user, _group = _PEER_CREDENTIALS.unpack(credentials)
        return int(pid)

    def ask(self, request: Frame) -> Frame:
        """Return the last answer to `request`. Raises CommandRefused or ContactLost."""
        return _last(self.follow(request, timeout_s=ANSWER_TIMEOUT_S))

    def follow(self, request: Frame, *, timeout_s: float | None = None) -> Iterator[Frame]:
        """Yield every answer to `request` as it comes; `timeout_s` bounds the wait for each.

        Raises CommandRefused or ContactLost.
        """
        self._socket.settimeout(timeout_s)
        self._send(request)
        yield from self._answers(_ignore)

    def download(self, request: Frame, sink: Sink) -> Frame:
        """Return the answer to `result` or `receipt`; its streams go to `sink(name, chunk)`.

        Raises CommandRefused or ContactLost, and what `sink` raises.
        """
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        self._send(request)
        return _last(self._answers(sink))

    def submit(self, module: bytes, tasks: Sequence[TaskInput], **options: object) -> Frame:
        """Run `module` once for each of `tasks`; return the `accepted` answer.

        `options` are the fields of `wire.commands.Submit` beside module, tasks and key. Raises
        CommandRefused; NoDaemon if the daemon went away before it had everything, so that nothing
        was submitted; NotConfirmed if it did so afterwards.
        """
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        heads = [task.head() for task in tasks]
        head = {"command": "submit", "module_bytes": len(module), "tasks": heads, **options}
        try:
            self._send(head)
            self._await_proceed("module")
            self._upload([module])
            self._await_proceed("inputs")
            self._upload([task.stdin for task in tasks])
        except ContactLost as error:
            raise NoDaemon(
                f"{error}, before it had the whole task",
                hint="nothing was submitted: submit again when it runs",
            ) from error
        try:
            return _last(self._answers(_ignore))
        except ContactLost as error:
            raise NotConfirmed(
                "the daemon went away before it said whether it took the task",
                hint="start it again; `meshctl tasks` shows whether the task is there",
            ) from error

    def _greet(self) -> str:
        greeting = self._receive()
        if greeting.get("answer") == "refused":
            raise CommandRefused(greeting)
        lowest, highest = greeting.get("lowest"), greeting.get("highest")
        if greeting.get("greeting") != "meshd" or not (
            isinstance(lowest, int) and isinstance(highest, int)
        ):
            raise ProtocolMismatch("what listens at the control socket is not meshd")
        protocol = min(highest, PROTOCOL_HIGHEST)
        release = str(greeting.get("version"))
        if protocol < max(lowest, PROTOCOL_LOWEST):
            raise ProtocolMismatch(
                f"meshd {release} speaks control protocol {lowest} to {highest}, this meshctl"
                f" {PROTOCOL_LOWEST} to {PROTOCOL_HIGHEST}",
                hint="install the same release of both, then restart the daemon",
            )
        self._send({"greeting": "meshctl", "protocol": protocol})
        return release

    def _await_proceed(self, what: str) -> None:
        frame = self._receive_answer()
        if frame.get("proceed") != what:
            raise ContactLost(f"the daemon did not ask for the {what}")

    def _upload(self, contents: Sequence[bytes]) -> None:
        try:
            for content in contents:
                for chunk in cut(content):
                    self._send({"chunk": chunk})
        except ContactLost:
            # A daemon that refuses in the middle of an upload says why, then hangs up.
            self._receive_answer()
            raise

    def _answers(self, sink: Sink) -> Iterator[Frame]:
        while True:
            frame = self._receive_answer()
            if "answer" in frame:
                yield frame
            elif "stream" in frame:
                sink(str(frame["stream"]), bytes(frame["chunk"]))
            elif frame.get("end") is True:
                return
            else:
                raise ContactLost("the daemon sent a frame that this meshctl does not know")

    def _receive_answer(self) -> Frame:
        """Return the next frame, its parts joined. Raises CommandRefused for a refusal."""
        frame = self._receive()
        if "part" in frame:
            frame = self._join(frame)
        if frame.get("answer") == "refused":
            raise CommandRefused(frame)
        return frame

    def _join(self, frame: Frame) -> Frame:
        encoded = bytearray(frame["part"])
        while not frame.get("is_last"):
            frame = self._receive()
            encoded += frame["part"]
            if len(encoded) > ANSWER_BYTES_MAX:
                raise ContactLost(f"the daemon's answer is longer than {ANSWER_BYTES_MAX} bytes")
        return decode_frame(bytes(encoded))

    def _send(self, frame: Frame) -> None:
        try:
            encoded = encode_frame(frame)
        except MalformedControlFrame as error:
            refused = {"answer": "refused", "code": "bad_request", "message": str(error)}
            raise CommandRefused(refused) from error
        try:
            self._socket.sendall(encoded, socket.MSG_NOSIGNAL)
        except OSError as error:
            raise _lost(error) from error

    def _receive(self) -> Frame:
        try:
            length = frame_length(self._exactly(LENGTH.size))
            return decode_frame(self._exactly(length))
        except OSError as error:
            raise _lost(error) from error
        except MalformedControlFrame as error:
            raise ContactLost(f"the daemon sent what is no answer: {error}") from error

    def _exactly(self, count: int) -> bytes:
        received = self._received.read(count)
        if len(received) < count:
            raise ContactLost("the daemon went away")
        return received


def _last(answers: Iterator[Frame]) -> Frame:
    last: Frame | None = None
    for answer in answers:
        last = answer
    if last is None:
        raise ContactLost("the daemon gave no answer")
    return last


def _ignore(_name: str, _chunk: bytes) -> None:
    """Take a stream that nobody asked for."""


def _connected(home: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_TIMEOUT_S)
    try:
        connection.connect(str(control_socket_path(home)))
    except (OSError, HomeUnusable) as error:
        connection.close()
        raise _no_daemon(home, error) from error
    return connection


def _no_daemon(home: Path, error: OSError | HomeUnusable) -> NoDaemon:
    if isinstance(
        error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError | HomeUnusable
    ):
        return NoDaemon(
            f"no daemon is running in {home}",
            hint="start it with `meshd start`, or name its home with --home",
        )
    if isinstance(error, PermissionError):
        return NoDaemon(
            f"the daemon in {home} belongs to another user",
            hint="run the command as that user, or name your own home with --home",
        )
    if isinstance(error, TimeoutError | BlockingIOError):
        return NoDaemon(
            f"the daemon in {home} does not take connections",
            hint="it is too busy or stuck: see its log, or restart it",
        )
    return NoDaemon(f"the daemon in {home} cannot be reached: {error.strerror or error}")


def _lost(error: OSError) -> ContactLost:
    if isinstance(error, TimeoutError):
        return ContactLost(
            "the daemon does not answer", hint="see its log, or restart it with `meshd stop`"
        )
    return ContactLost("the daemon went away")
