"""What an idle host costs: CPU and memory of a bare py-libp2p host, or of ours, with some peers.

    python benchmarks/idle_host.py [--kind bare|walking|ours] [--peers 2] [--seconds 30]

The measured process holds one host with GossipSub (one topic), Kademlia and `--peers` connections;
the peers live in a second process. A `walking` host is a bare one whose Kademlia looks for random
keys, every two minutes, as that of go-libp2p does; py-libp2p's default is not to. Prints one line;
CPU is the share of one core. With `--hold`
it says `ready` and lives until its standard input ends, for whoever measures it from outside
(`benchmarks/membership/idle.py`).
"""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import psutil
import trio

SETTLE_S = 5.0
TOPIC = "/meshd/benchmark/idle"
NETWORK_KEY = bytes(32)


@asynccontextmanager
async def bare_host(
    seed: int, target: str | None, *, is_walking: bool = False
) -> AsyncIterator[str]:
    """Run a py-libp2p host as its documentation makes one, connected to `target` if given."""
    from libp2p import new_host
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.custom_types import TProtocol
    from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
    from libp2p.network.config import ConnectionConfig
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from libp2p.pubsub.gossipsub import GossipSub
    from libp2p.pubsub.pubsub import Pubsub
    from libp2p.tools.anyio_service import background_trio_service
    from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types

    listen = [Multiaddr("/ip4/127.0.0.1/tcp/0")]
    host = new_host(
        key_pair=create_new_key_pair(seed.to_bytes(32, "big")),
        listen_addrs=listen,
        connection_config=ConnectionConfig(min_connections=0, low_watermark=0),
    )
    router = GossipSub([TProtocol("/meshsub/1.1.0")], 4, 3, 6, heartbeat_interval=1)
    pubsub = Pubsub(host, router)
    dht = KadDHT(host, DHTMode.SERVER, enable_random_walk=is_walking)
    async with (
        host.run(listen),
        background_trio_service(pubsub),
        background_trio_service(router),
        background_trio_service(dht),
    ):
        await pubsub.subscribe(TOPIC)
        if target is not None:
            info = info_from_p2p_addr(Multiaddr(target))
            await host.connect(info)
            await dht.add_peer(info.peer_id)
        yield str(host.get_addrs()[0])


@asynccontextmanager
async def our_host(seed: int, target: str | None) -> AsyncIterator[str]:
    """Run one of our hosts that admits everybody, connected to `target` if given."""
    from p2p.doorway import DoorwaySettings
    from p2p.host import Connected, Host, HostConfig
    from wire.ids import peer_from_text, peer_text

    send, arrivals = trio.open_memory_channel[Connected](100)
    config = HostConfig(
        identity_seed=seed.to_bytes(32, "big"),
        network_key=NETWORK_KEY,
        dht_prefix="/meshd/benchmark/kad",
        listen=("/ip4/127.0.0.1/tcp/0",),
        doorway=DoorwaySettings(connections_max=64),
    )
    host = Host(config, on_connected=send.send_nowait)

    async def admit_all() -> None:
        async for event in arrivals:
            await host.admit(event.peer)

    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        nursery.start_soon(admit_all)
        await nursery.start(host.subscribe, TOPIC, lambda *_: True, lambda *_: None)
        if target is not None:
            address, _, peer = target.partition("/p2p/")
            await host.connect(peer_from_text(peer), [address])
        yield f"{host.addresses[0]}/p2p/{peer_text(host.peer)}"
        nursery.cancel_scope.cancel()


HOSTS: dict[str, Callable[[int, str | None], AbstractAsyncContextManager[str]]] = {
    "bare": bare_host,
    "walking": functools.partial(bare_host, is_walking=True),
    "ours": our_host,
}


async def be_peers(kind: str, count: int, target: str) -> None:
    """Run `count` hosts connected to `target` until standard input ends."""

    async def be_one(seed: int) -> None:
        async with HOSTS[kind](seed, target):
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for seed in range(2, count + 2):
            nursery.start_soon(be_one, seed)
        await input_ends()
        nursery.cancel_scope.cancel()


async def input_ends() -> None:
    """Wait until nobody can write to our standard input: whoever started us is gone, or done."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
        async for _ in stdin:
            pass


@asynccontextmanager
async def host_with_peers(kind: str, peers_count: int) -> AsyncIterator[None]:
    """Run one host here and its peers in another process, until they have settled and then on."""
    async with HOSTS[kind](1, None) as address, trio.open_nursery() as nursery:
        command = [sys.executable, __file__, "--kind", kind, "--peers", str(peers_count)]
        command += ["--target", address]
        run = functools.partial(trio.run_process, command, stdin=subprocess.PIPE)
        peers = await nursery.start(run)
        await trio.sleep(SETTLE_S + peers_count / 2)
        yield
        await peers.stdin.aclose()


async def hold(kind: str, peers_count: int) -> None:
    """Run one host with peers in another process until standard input ends."""
    async with host_with_peers(kind, peers_count):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await input_ends()


async def measure(kind: str, peers_count: int, seconds: float) -> None:
    """Run one host with peers in another process, and print what it cost."""
    me = psutil.Process()
    async with host_with_peers(kind, peers_count):
        before = me.cpu_times()
        await trio.sleep(seconds)
        after = me.cpu_times()
        connections = sum(one.status == "ESTABLISHED" for one in me.net_connections("tcp"))
    cpu_s = after.user + after.system - before.user - before.system
    sys.stdout.write(
        f"{kind}: {connections} of {peers_count} peers, {100 * cpu_s / seconds:.2f} % of one core "
        f"over {seconds:.0f} s, {me.memory_info().rss / 2**20:.0f} MiB\n"
    )


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=sorted(HOSTS), default="bare")
    parser.add_argument("--peers", type=int, default=2, dest="peers_count")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--hold", action="store_true", help="measure nothing, live on")
    parser.add_argument("--target", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hold:
        trio.run(hold, options.kind, options.peers_count)
    elif options.target is None:
        trio.run(measure, options.kind, options.peers_count, options.seconds)
    else:
        trio.run(be_peers, options.kind, options.peers_count, options.target)


if __name__ == "__main__":
    main()
