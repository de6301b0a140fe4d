"""The guards around py-libp2p: what it gets wrong, contained in one place.

Checked against one version, line by line; importing this module beside any other raises
UnsupportedLibp2p. Whatever of libp2p is private and touched anyway stands in `PRIVATE_NAMES`, and
`tests/p2p/test_guards.py` looks each of them up. Rules:

- Nothing a peer sends may end the process: handlers, validators and heartbeats are contained here.
- Nothing a peer sends may grow without bound.
- libp2p dials nobody by itself.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import structlog
import trio
from libp2p.abc import IMuxedStream, INetStream
from libp2p.host.basic_host import BasicHost
from libp2p.io.abc import Reader
from libp2p.io.exceptions import IncompleteReadError
from libp2p.network.connection import swarm_connection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.protocol_muxer import multiselect_communicator
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from libp2p.tools.anyio_service.exceptions import LifecycleError
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from p2p.errors import UnsupportedLibp2p
from p2p.prompt_lock import PromptLock

CHECKED_VERSION: Final = "0.8.1"
NEGOTIATION_BYTES_MAX: Final = 1_024
WINDOW_BYTES_MAX: Final = 1 << 20
NEGOTIATE_S: Final = 10
ROUND_TRIP_EVERY_S: Final = 300

log = structlog.get_logger()


class PrivateName(NamedTuple):
    """One private or monkey-patched name of libp2p, and why we touch it."""

    module: str
    name: str
    reason: str


PRIVATE_NAMES: Final = (
    PrivateName(
        "libp2p.network.swarm",
        "Swarm._handle_inbound_connection",
        "overridden: it holds an inbound slot until the host ends, so the 251st peer ever is deaf",
    ),
    PrivateName(
        "libp2p.host.basic_host",
        "BasicHost._schedule_identify",
        "overridden: identifying every peer feeds strangers' claims into the peerstore, in a task "
        "whose failure would end the process",
    ),
    PrivateName(
        "libp2p.stream_muxer.yamux.yamux",
        "Yamux._read_data_body",
        "overridden: a peer that ignores its window fills our memory",
    ),
    PrivateName(
        "libp2p.stream_muxer.yamux.yamux",
        "MAX_WINDOW_SIZE",
        "lowered: each stream of a peer that sends fast would get a window of 16 MiB",
    ),
    PrivateName(
        "libp2p.stream_muxer.yamux.yamux",
        "Yamux._write_frame",
        "overridden, with its `_write_lock`: a sender cancelled in the middle of a frame corrupts "
        "every other stream of its connection",
    ),
    PrivateName(
        "libp2p.stream_muxer.yamux.yamux",
        "YamuxStream._auto_tune_and_send_window_update",
        "replaced: it sends one window update, a frame of its own, for every read",
    ),
    PrivateName(
        "libp2p.stream_muxer.yamux.yamux",
        "YamuxStream.__init__",
        "wrapped: each frame takes four locks of a stream, and each costs a turn of trio's loop",
    ),
    PrivateName(
        "libp2p.network.stream.net_stream",
        "NetStream.__init__",
        "wrapped for the same reason: every read and write takes its `_state_lock`",
    ),
    PrivateName(
        "libp2p.stream_muxer.yamux.yamux",
        "RTT_MEASURE_INTERVAL",
        "raised: it sizes windows, and every half minute it was a seventh of an idle device's "
        "frames",
    ),
    PrivateName(
        "libp2p.protocol_muxer.multiselect_communicator",
        "read_delim",
        "replaced: it reads a line of any announced length into memory",
    ),
    PrivateName(
        "libp2p.network.connection.swarm_connection",
        "logging",
        "replaced by a logger: it logs to the root logger, which then prints on standard error",
    ),
    PrivateName(
        "libp2p.pubsub.pubsub",
        "Pubsub._handle_dead_peer",
        "overridden, with `_peer_is_connected` and `_peer_subscription_count`: after one broken "
        "stream a peer that is still there would never be sent anything again",
    ),
    PrivateName(
        "libp2p.kad_dht.kad_dht",
        "KadDHT._run_main_loop",
        "overridden: it announces every key again at its first tick, all at once",
    ),
)


def check_version(installed: str) -> None:
    """Raise UnsupportedLibp2p unless the guards were checked against this version."""
    if installed != CHECKED_VERSION:
        raise UnsupportedLibp2p(
            f"libp2p {installed} is installed, the guards were checked against {CHECKED_VERSION}: "
            f"install libp2p=={CHECKED_VERSION}"
        )


check_version(importlib.metadata.version("libp2p"))


async def _read_bounded_line(reader: Reader) -> bytes:
    """Read one line of a protocol negotiation, at most `NEGOTIATION_BYTES_MAX` bytes long."""
    line = await read_varint_prefixed_bytes_limited(reader, NEGOTIATION_BYTES_MAX)
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise IncompleteReadError("a protocol name that is no text") from error
    if not line.endswith(b"\n"):
        raise IncompleteReadError("a line of a negotiation without its end")
    return line[:-1]


_send_window_update = YamuxStream._auto_tune_and_send_window_update


async def _update_window_when_half_used(stream: YamuxStream, *, bytes_read: int = 0) -> None:
    # With no bytes told, libp2p waits until half the window is used, as yamux of Go always does.
    del bytes_read
    await _send_window_update(stream)


_new_yamux_stream = YamuxStream.__init__
_new_net_stream = NetStream.__init__


class _WriteLock(PromptLock):
    """Stands for libp2p's `ReadWriteLock`, of which streams use but this."""

    def write_lock(self) -> PromptLock:
        return self


def _init_yamux_stream(
    stream: YamuxStream, stream_id: int, conn: Yamux, is_initiator: bool
) -> None:
    _new_yamux_stream(stream, stream_id, conn, is_initiator)
    stream.window_lock = PromptLock()  # type: ignore[assignment] # all that is used of a lock
    stream.rw_lock = _WriteLock()  # type: ignore[assignment] # likewise


def _init_net_stream(
    stream: NetStream,
    muxed_stream: IMuxedStream,
    swarm_conn: SwarmConn | None,
    metric_send_channel: trio.MemorySendChannel[object] | None,
) -> None:
    _new_net_stream(stream, muxed_stream, swarm_conn, metric_send_channel)
    stream._state_lock = PromptLock()  # type: ignore[assignment] # likewise


def install() -> None:
    """Replace the stateless names of `PRIVATE_NAMES`; a second time changes nothing."""
    multiselect_communicator.read_delim = _read_bounded_line  # type: ignore[attr-defined]
    YamuxStream._auto_tune_and_send_window_update = (  # type: ignore[method-assign]
        _update_window_when_half_used  # type: ignore[assignment] # its `self` is annotated twice
    )
    YamuxStream.__init__ = _init_yamux_stream  # type: ignore[method-assign, assignment]
    NetStream.__init__ = _init_net_stream  # type: ignore[method-assign, assignment]
    yamux.MAX_WINDOW_SIZE = WINDOW_BYTES_MAX
    yamux.RTT_MEASURE_INTERVAL = ROUND_TRIP_EVERY_S
    quiet = logging.getLogger("libp2p.network.connection.swarm_connection")
    swarm_connection.logging = quiet  # type: ignore[attr-defined, assignment] # same methods
    # Without a handler of its own the library's warnings, some with tracebacks, go to the terminal.
    logging.getLogger("libp2p").addHandler(logging.NullHandler())


install()


async def contained(handler: Callable[[INetStream], Awaitable[None]], stream: INetStream) -> None:
    """Run `handler`; whatever it raises resets its stream, and nothing else.

    In libp2p an exception of any stream handler ends the host, and with it the process.
    """
    try:
        await handler(stream)
    except Exception as error:  # noqa: BLE001 - the boundary that keeps one stream's failure its own
        log.warning(
            "stream.handler_failed",
            peer_id=str(stream.muxed_conn.peer_id),
            protocol=stream.get_protocol(),
            error=repr(error),
        )
        await stream.reset()


def accepts(validator: Callable[[], bool]) -> bool:
    """Return what `validator` says; False if it raises, which in libp2p would end the process."""
    try:
        return validator()
    except Exception as error:  # noqa: BLE001 - the boundary that keeps one message's failure its own
        log.warning("gossip.validator_failed", error=repr(error))
        return False


def is_benign_at_shutdown(error: BaseException) -> bool:
    """Say whether `error` is libp2p starting a task after its service was stopped.

    Exactly the two ways in which it does so; anything else raised during a shutdown is a bug.
    """
    if isinstance(error, LifecycleError):
        return str(error) == "Cannot schedule task after service has stopped"
    return type(error) is RuntimeError and str(error) == "Nursery is closed to new arrivals"


class SilentHost(BasicHost):
    """A host that answers identify, and asks nobody."""

    def _schedule_identify(self, peer_id: ID, *, reason: str) -> None:
        del peer_id, reason
