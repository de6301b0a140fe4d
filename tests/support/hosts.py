"""Real hosts on loopback, for tests of what only libp2p itself can show."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from p2p.host import Connected, Disconnected, Host, HostConfig
from p2p.streams import Stream

NETWORK_KEY = bytes(range(32))
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
_PATIENCE_S = 10.0


def config(number: int, **changes: object) -> HostConfig:
    """Return the configuration of test device `number`, on a free port of loopback."""
    settings: dict[str, object] = {
        "identity_seed": number.to_bytes(32, "big"),
        "network_key": NETWORK_KEY,
        "dht_prefix": "/meshd/test/kad",
        "listen": (LOOPBACK,),
        **changes,
    }
    return HostConfig(**settings)  # type: ignore[arg-type] # the tests' changes are checked there


class Watched:
    """A host, and what it said about its connections."""

    def __init__(self, host_config: HostConfig) -> None:
        self.events: list[Connected | Disconnected] = []
        self.host = Host(
            host_config, on_connected=self.events.append, on_disconnected=self.events.append
        )


@asynccontextmanager
async def running(*hosts: Host) -> AsyncIterator[None]:
    """Run `hosts` inside the block, and stop them in an orderly way after it."""
    async with trio.open_nursery() as nursery:
        for host in hosts:
            await nursery.start(host.run)
        yield
        nursery.cancel_scope.cancel()


async def connect(dialler: Host, listener: Host) -> None:
    """Connect two running hosts."""
    with trio.fail_after(_PATIENCE_S):
        await dialler.connect(listener.peer, listener.addresses)


async def befriend(dialler: Host, listener: Host) -> None:
    """Connect two running hosts and let each admit the other."""
    await connect(dialler, listener)
    await dialler.admit(listener.peer, listener.addresses)
    await listener.admit(dialler.peer, dialler.addresses)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds; what libp2p does by itself gives nothing to wait for."""
    with trio.fail_after(_PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - see above
            await trio.sleep(0.01)


async def echo(stream: Stream) -> None:
    """Send back what arrives until the peer has finished."""
    while received := await stream.receive_some():
        await stream.send_all(received)


async def receive_exactly(stream: Stream, count: int) -> bytes:
    """Return `count` bytes of `stream`."""
    received = b""
    while len(received) < count:
        part = await stream.receive_some()
        assert part, f"the stream ended after {len(received)} of {count} bytes"
        received += part
    return received
