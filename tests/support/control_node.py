"""A scripted node behind a real control socket, for tests of both sides of it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from pathlib import Path

import trio
from structlog.testing import capture_logs

from meshd.content import ContentGate
from meshd.control import ControlServer
from meshd.control_answers import RecoveryKeyAnswer
from meshd.home import control_socket_path
from meshd.recovery import RecoveryKeyGone
from meshd.recovery_key import recovery_file
from wire.answers import Answer, RefusalCode, Refused
from wire.blobs import BlobRef, blob_ref
from wire.commands import Command
from wire.ids import MeshId
from wire.keys import Ed25519Keys

KEYS = Ed25519Keys(bytes(range(32)))
MODULE = bytes.fromhex(  # the smallest program: an empty _start
    "0061736d0100000001040160000003020100070a01065f737461727400000a040102000b"
)


class MemoryBlobs:
    """Blobs in a dictionary."""

    def __init__(self) -> None:
        self.stored: dict[BlobRef, bytes] = {}

    def put(self, content: bytes) -> BlobRef:
        ref = blob_ref(content)
        self.stored[ref] = content
        return ref

    def read(self, ref: BlobRef) -> bytes:
        return self.stored[ref]


class ScriptedNode:
    """Answers each kind of command with its script, and remembers what was asked.

    A script that is followed by waiting (`hangs`) gives its answers and then none, for ever.
    """

    def __init__(self) -> None:
        self.blobs = MemoryBlobs()
        self.content = ContentGate(KEYS, self.blobs)
        self.asked: list[Command] = []
        self.scripts: dict[type, Sequence[Answer]] = {}
        self.hangs: set[type] = set()
        self.withdrawn: list[type] = []
        self.has_withdrawn = trio.Event()
        self.stops = 0
        self.recovery_erased: str | None = None
        self.fails_with: Exception | None = None

    def script(self, command: type, *answers: Answer, hangs: bool = False) -> None:
        """Let `command` be answered so from now on."""
        self.scripts[command] = answers
        if hangs:
            self.hangs.add(command)

    @contextlib.asynccontextmanager
    async def ask(self, command: Command) -> AsyncIterator[AsyncIterator[Answer]]:
        self.asked.append(command)
        try:
            async with contextlib.aclosing(self._answers(command)) as answers:
                yield answers
        except BaseException:
            self.withdrawn.append(type(command))
            self.has_withdrawn.set()
            raise

    async def _answers(self, command: Command) -> AsyncGenerator[Answer, None]:
        if self.fails_with is not None:
            raise self.fails_with
        unknown = Refused(code=RefusalCode.NOT_FOUND, message="there is no such thing")
        for answer in self.scripts.get(type(command), [unknown]):
            await trio.lowlevel.checkpoint()
            yield answer
        if type(command) in self.hangs:
            await trio.sleep_forever()

    def reveal(self) -> RecoveryKeyAnswer:
        """Give a recovery key until it was erased."""
        if self.recovery_erased is not None:
            raise RecoveryKeyGone("the recovery key is not in this home any more")
        return RecoveryKeyAnswer(
            mesh="mesh", public="public", file=recovery_file(b"r" * 32, MeshId(bytes(32)), "desk")
        )

    async def erase(self, public: str) -> RecoveryKeyAnswer:
        """Note what was to be erased."""
        self.recovery_erased = public
        return RecoveryKeyAnswer(mesh="mesh", public=public, file=None)

    def stop(self) -> None:
        self.stops += 1

    def server(self, path: Path) -> ControlServer:
        """Return a server in front of this node."""
        return ControlServer(
            path, ask=self.ask, content=self.content, recovery=self, stop=self.stop
        )


@contextlib.contextmanager
def serving_in_thread(node: ScriptedNode, home: Path) -> Iterator[None]:
    """Serve `node` at the control socket of `home` from a thread of its own."""
    home.mkdir(parents=True, exist_ok=True)
    ready = threading.Event()
    scopes: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = []

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(node.server(control_socket_path(home)).run)
            scopes.append((trio.lowlevel.current_trio_token(), nursery.cancel_scope))
            ready.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    try:
        assert ready.wait(10)
        with capture_logs():  # they would be printed where a test captures what is printed
            yield
    finally:
        for token, scope in scopes:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(scope.cancel)
        thread.join(10)
        assert not thread.is_alive()
