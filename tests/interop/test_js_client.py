"""A foreign implementation with the network key can ping and identify a host, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.hosts import NETWORK_KEY, config, echo, running
from support.js_client import needs_js, run_client

from p2p.host import Host
from p2p.streams import Stream
from wire.ids import peer_text

pytestmark = needs_js
LINK = "/meshd/link/1"


def full_address(host: Host) -> str:
    return f"{host.addresses[0]}/p2p/{peer_text(host.peer)}"


async def test_with_the_network_key_it_pings_and_is_told_no_to_the_rest(tmp_path: Path) -> None:
    host = Host(config(1))
    host.serve(LINK, echo, members_only=True)
    async with running(host):
        events = await run_client(full_address(host), NETWORK_KEY, tmp_path, LINK)
    assert [event["event"] for event in events] == [
        "connected",
        *["ping"] * 3,
        "identified",
        "stream",
        "done",
    ]
    assert events[0]["peer"] == peer_text(host.peer)
    assert events[0]["encryption"] == "/noise"
    assert events[5]["result"] == "reset"


async def test_a_protocol_for_everybody_is_served_to_it(tmp_path: Path) -> None:
    host = Host(config(1))

    async def greet(stream: Stream) -> None:
        await stream.send_all(await stream.receive_some())

    host.serve("/meshd/join/1", greet, members_only=False)
    async with running(host):
        events = await run_client(full_address(host), NETWORK_KEY, tmp_path, "/meshd/join/1")
    assert events[5] == {
        "event": "stream",
        "protocol": "/meshd/join/1",
        "result": "ended",
        "received": b"\5hello".hex(),
    }


@pytest.mark.parametrize("network_key", [bytes(32), None])
async def test_with_another_or_no_network_key_it_gets_nothing(
    network_key: bytes | None, tmp_path: Path
) -> None:
    host = Host(config(1))
    async with running(host):
        events = await run_client(full_address(host), network_key, tmp_path)
        assert not host.connected()
    assert [event["event"] for event in events] == ["failed"]
