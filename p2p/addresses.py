"""Addresses as text, the way people and records write them: `/ip4/192.0.2.7/tcp/4001`.

They are libp2p's multiaddrs, restricted to TCP over IPv4, IPv6 or a DNS name, without `/p2p/...`:
a device's id travels beside its addresses, never inside them.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

import psutil

from p2p.errors import MalformedAddress

ADDRESS_LENGTH_MAX = 300
_PATTERN = re.compile(r"/(ip4|ip6|dns|dns4|dns6)/([^/\s]{1,253})/tcp/(0|[1-9]\d{0,4})")
_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """One TCP address. `kind` is `ip4`, `ip6`, `dns`, `dns4` or `dns6`."""

    kind: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"/{self.kind}/{self.host}/tcp/{self.port}"

    @property
    def is_wildcard(self) -> bool:
        """Say whether this means every interface, which nobody can dial."""
        return self.host in _WILDCARDS

    @property
    def is_loopback(self) -> bool:
        """Say whether this means another device wherever it is read."""
        return self.kind.startswith("ip") and ipaddress.ip_address(self.host).is_loopback


def parse_address(text: str) -> Address:
    """Return the address written as `text`, IP addresses in their canonical form.

    Raises MalformedAddress.
    """
    match = _PATTERN.fullmatch(text) if len(text) <= ADDRESS_LENGTH_MAX else None
    if match is None or int(match[3]) > 65_535:
        raise MalformedAddress(f"{text[:80]!r} is no address like /ip4/192.0.2.7/tcp/4001")
    kind, host = match[1], match[2]
    if kind.startswith("ip"):
        try:
            ip = ipaddress.ip_address(host)
        except ValueError as error:
            raise MalformedAddress(f"{text[:80]!r}: {host!r} is no IP address") from error
        if f"ip{ip.version}" != kind or "%" in host:
            raise MalformedAddress(f"{text[:80]!r}: {host!r} is no {kind} address without a zone")
        host = str(ip)
    return Address(kind, host, int(match[3]))


def from_socket(ip: str, port: int) -> Address:
    """Return the address of a socket's end; IPv4 inside IPv6 becomes IPv4."""
    if ":" not in ip:
        return Address("ip4", ip, port)
    parsed = ipaddress.ip_address(ip.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return Address(f"ip{parsed.version}", str(parsed), port)


def expand_wildcard(address: Address) -> tuple[Address, ...]:
    """Return the addresses that others can dial if we listen on `address`.

    A wildcard becomes every interface's address of its family: never a link-local one (it needs a
    zone), and loopback only if there is nothing else, because elsewhere it means another device.
    """
    if not address.is_wildcard:
        return (address,)
    family = socket.AF_INET if address.kind == "ip4" else socket.AF_INET6
    found = {
        ipaddress.ip_address(interface.address.partition("%")[0])
        for interfaces in psutil.net_if_addrs().values()
        for interface in interfaces
        if interface.family == family
    }
    usable = {ip for ip in found if not ip.is_link_local}
    chosen = {ip for ip in usable if not ip.is_loopback} or usable
    return tuple(Address(address.kind, text, address.port) for text in sorted(map(str, chosen)))
