"""Addresses: one spelling each, nothing that cannot be dialled, wildcards made concrete."""

from __future__ import annotations

import contextlib
import socket
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2p.addresses import Address, expand_wildcard, from_socket, parse_address
from p2p.errors import MalformedAddress
from p2p.kad_query import dialable


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("/ip4/127.0.0.1/tcp/4001", "/ip4/127.0.0.1/tcp/4001"),
        ("/ip6/2001:DB8:0::1/tcp/1", "/ip6/2001:db8::1/tcp/1"),
        ("/dns4/device.example/tcp/65535", "/dns4/device.example/tcp/65535"),
        ("/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/tcp/0"),
    ],
)
def test_an_address_has_one_spelling(text: str, canonical: str) -> None:
    assert str(parse_address(text)) == canonical
    assert parse_address(canonical) == parse_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:4001",
        "/ip4/127.0.0.1/udp/4001",
        "/ip4/127.0.0.1/tcp/65536",
        "/ip4/127.0.0.1/tcp/04001",
        "/ip4/127.0.0.1/tcp/4001/ws",
        "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooW",
        "/ip4/127.0.0.256/tcp/1",
        "/ip4/::1/tcp/1",
        "/ip6/127.0.0.1/tcp/1",
        "/ip6/fe80::1%eth0/tcp/1",
        "/dns4/a b/tcp/1",
        "/dns4/" + "a" * 300 + "/tcp/1",
    ],
)
def test_what_cannot_be_dialled_is_refused(text: str) -> None:
    with pytest.raises(MalformedAddress):
        parse_address(text)


@given(
    st.text(max_size=60) | st.from_regex(r"/(ip4|ip6|dns)/[0-9a-f:.%]*/tcp/[0-9]*", fullmatch=True)
)
@example("/ip6/::ffff:1.2.3.4/tcp/1")
def test_any_text_parses_to_itself_or_is_malformed(text: str) -> None:
    with contextlib.suppress(MalformedAddress):
        address = parse_address(text)
        assert parse_address(str(address)) == address


@given(st.lists(st.binary(max_size=40), max_size=12))
@example([bytes.fromhex("047f000001060fa1")])
def test_packed_addresses_of_peers_are_read_or_left_out(packed: list[bytes]) -> None:
    for address in dialable(packed):
        assert parse_address(str(address)) == address


def test_a_socket_that_carries_ipv4_inside_ipv6_is_ipv4() -> None:
    assert from_socket("::ffff:192.0.2.7", 9) == Address("ip4", "192.0.2.7", 9)
    assert from_socket("fe80::1%eth0", 9) == Address("ip6", "fe80::1", 9)


def test_a_wildcard_is_every_interface_that_others_can_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interface(address: str) -> SimpleNamespace:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return SimpleNamespace(family=family, address=address)

    found = {"lo": [interface("127.0.0.1"), interface("::1")]}
    monkeypatch.setattr("psutil.net_if_addrs", lambda: found)
    everything = parse_address("/ip4/0.0.0.0/tcp/7")
    assert expand_wildcard(everything) == (Address("ip4", "127.0.0.1", 7),)
    found["eth0"] = [
        interface("192.0.2.7"),
        interface("169.254.1.1"),
        interface("2001:db8::7"),
        interface("fe80::7%eth0"),
    ]
    assert expand_wildcard(everything) == (Address("ip4", "192.0.2.7", 7),)
    assert expand_wildcard(parse_address("/ip6/::/tcp/7")) == (Address("ip6", "2001:db8::7", 7),)
    named = parse_address("/ip4/127.0.0.1/tcp/7")
    assert expand_wildcard(named) == (named,)
