"""Two hosts on one network that find each other by mDNS alone; run by the test of `p2p.mdns`.

Run as a program inside a network namespace of its own, since it multicasts. Prints what was found.
"""

from __future__ import annotations

import sys

import trio

from p2p.host import Host, HostConfig
from p2p.mdns import service_name
from wire.ids import MeshId, PeerId, peer_text

_PATIENCE_S = 20.0


async def main() -> None:
    """Start two devices of one mesh and one of another, and wait until the two found each other."""
    ours, theirs = service_name(MeshId(bytes(32))), service_name(MeshId(bytes(range(32))))
    found: set[tuple[str, str]] = set()
    hosts = []

    def device(number: int, service: str) -> Host:
        def discovered(peer: PeerId, addresses: tuple[str, ...]) -> None:
            found.add((peer_text(host.peer), f"{peer_text(peer)} {' '.join(addresses)}"))
            if len(found) == 2:
                done.set()

        host = Host(
            HostConfig(
                identity_seed=number.to_bytes(32, "big"),
                network_key=bytes(32),
                dht_prefix="/meshd/test/kad",
                listen=("/ip4/0.0.0.0/tcp/0",),
                mdns_service=service,
            ),
            on_discovered=discovered,
        )
        return host

    done = trio.Event()
    hosts = [device(1, ours), device(2, ours), device(3, theirs)]
    async with trio.open_nursery() as nursery:
        for host in hosts:
            await nursery.start(host.run)
        with trio.fail_after(_PATIENCE_S):
            await done.wait()
        await trio.sleep(1)  # for what should not come
        connected = [len(host.connected()) for host in hosts]
        nursery.cancel_scope.cancel()
    for host in hosts:
        sys.stdout.write(f"host {peer_text(host.peer)} {' '.join(host.addresses)}\n")
    for finder, claim in sorted(found):
        sys.stdout.write(f"found {finder} {claim}\n")
    sys.stdout.write(f"connected {sum(connected)}\n")


if __name__ == "__main__":
    trio.run(main)
