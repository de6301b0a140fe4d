"""Finding the other devices of a mesh on the local network by multicast DNS (RFC 6762, RFC 6763).

Our own use of zeroconf: libp2p's tells every host of a process about every peer, and dials them by
itself. What is announced is visible to everybody on the network: a service name made from the mesh
id by a one-way function, the device's id and its addresses. Never the network key, the mesh id or
a name. What is found is a claim: dial it, and Noise and the certificates tell who is there.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Final

import structlog
import trio
from blake3 import blake3
from zeroconf import IPVersion, ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

from p2p.addresses import parse_address
from p2p.errors import MalformedAddress, NoMulticast
from wire.errors import MalformedId
from wire.ids import MeshId, PeerId, peer_from_text, peer_text

ADDRESSES_MAX: Final = 8
FOUND_WAITING_MAX: Final = 64
_PURPOSE: Final = b"meshd/mdns/1\0"
_LOOKUP_MS: Final = 3_000
_PORT: Final = 9  # the discard port: the addresses stand in the text record
_CLOSE_S: Final = 3.0
_LOOPBACK: Final = bytes([127, 0, 0, 1])

log = structlog.get_logger()

Discovered = tuple[PeerId, tuple[str, ...]]


def service_name(mesh: MeshId) -> str:
    """Return the mesh's DNS-SD service, `_m<13 characters>._udp.local.`: 65 bits of a digest.

    Devices of one mesh find each other by it; nobody can tell from it which mesh it is.
    """
    digest = blake3(_PURPOSE + mesh).digest()
    label = base64.b32encode(digest).decode("ascii").lower()[:13]
    return f"_m{label}._udp.local."


async def run_mdns(
    service: str,
    peer: PeerId,
    addresses: Sequence[str],
    discovered: Callable[[PeerId, tuple[str, ...]], None],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Announce `peer` at `addresses` and report the others until cancelled.

    `discovered` gets a device's id and addresses, again whenever it announces itself. With more
    than `FOUND_WAITING_MAX` reports waiting the newest are dropped: announcements repeat.
    """
    send, receive = trio.open_memory_channel[Discovered](FOUND_WAITING_MAX)
    token = trio.lowlevel.current_trio_token()

    def report(found: Discovered) -> None:
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
            send.send_nowait(found)

    def report_from_thread(found: Discovered) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(report, found)

    zeroconf = await trio.to_thread.run_sync(
        _start, service, peer, tuple(addresses)[:ADDRESSES_MAX], report_from_thread
    )
    try:
        task_status.started()
        async for found, found_addresses in receive:
            if found != peer:
                discovered(found, found_addresses)
    finally:
        with trio.move_on_after(_CLOSE_S, shield=True):
            await trio.to_thread.run_sync(zeroconf.close, abandon_on_cancel=True)


def _start(
    service: str, peer: PeerId, addresses: tuple[str, ...], found: Callable[[Discovered], None]
) -> Zeroconf:
    try:
        zeroconf = Zeroconf(ip_version=IPVersion.V4Only)
    except OSError as error:
        raise NoMulticast(f"multicast DNS cannot start: {error}") from error
    instance = secrets.token_hex(8)  # a name that says nothing and differs at every start
    info = ServiceInfo(
        service,
        f"{instance}.{service}",
        port=_PORT,
        properties={
            "id": peer_text(peer),
            **{f"a{number}": text for number, text in enumerate(addresses)},
        },
        server=f"{instance}.local.",
        # Without an address record zeroconf takes an announcement for incomplete, so ours come here
        # too; only those in the text record, which have ports, are used.
        addresses=_packed(addresses) or [_LOOPBACK],
    )
    zeroconf.register_service(info)

    def changed(
        zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change is ServiceStateChange.Removed:
            return
        answer = zeroconf.get_service_info(service_type, name, _LOOKUP_MS)
        if answer is not None and (claim := read_claim(answer.properties)) is not None:
            found(claim)

    ServiceBrowser(zeroconf, service, handlers=[changed])
    return zeroconf


def _packed(addresses: tuple[str, ...]) -> list[bytes]:
    parsed = [parse_address(text) for text in addresses]
    return [ip_address(address.host).packed for address in parsed if address.kind == "ip4"]


def read_claim(properties: dict[bytes, bytes | None]) -> Discovered | None:
    """Return what an announcement's text record claims; None if it makes no sense."""
    try:
        peer = peer_from_text((properties.get(b"id") or b"").decode("ascii"))
        texts = [properties.get(b"a%d" % number) or b"" for number in range(ADDRESSES_MAX)]
        addresses = [parse_address(text.decode("ascii")) for text in texts if text]
    except (MalformedId, MalformedAddress, UnicodeDecodeError) as error:
        log.info("mdns.refused", reason=str(error))
        return None
    return peer, tuple(str(address) for address in addresses if not address.is_wildcard)
