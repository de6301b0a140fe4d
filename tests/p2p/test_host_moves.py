"""A host whose addresses change while it runs: it says so, and announces itself anew."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import trio
from structlog.testing import capture_logs
from support.hosts import config, running, until

from p2p.errors import NoMulticast
from p2p.host import Host
from wire.ids import PeerId

EVERYWHERE = "/ip4/0.0.0.0/tcp/0"


class Interfaces:
    """What psutil says of this machine, as a test has it."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    def __call__(self) -> dict[str, list[SimpleNamespace]]:
        found = [
            SimpleNamespace(family=socket.AF_INET, address=address) for address in self.addresses
        ]
        return {"lo": [SimpleNamespace(family=socket.AF_INET, address="127.0.0.1")], "eth0": found}


@pytest.fixture
def interfaces(monkeypatch: pytest.MonkeyPatch) -> Interfaces:
    """Return one interface at 192.0.2.1, looked at all the time."""
    made = Interfaces("192.0.2.1")
    monkeypatch.setattr("psutil.net_if_addrs", made)
    monkeypatch.setattr("p2p.host.LOOK_EVERY_S", 0.01)
    return made


def hosts_of(addresses: Sequence[str]) -> list[str]:
    return [address.split("/")[2] for address in addresses]


async def test_a_host_that_listens_everywhere_says_where_it_is_now(interfaces: Interfaces) -> None:
    told: list[tuple[str, ...]] = []
    host = Host(config(1, listen=(EVERYWHERE,)), on_moved=told.append)
    async with running(host):
        assert hosts_of(host.addresses) == ["192.0.2.1"]
        interfaces.addresses = ("192.0.2.2", "198.51.100.1")
        await until(lambda: bool(told))
        assert hosts_of(host.addresses) == ["192.0.2.2", "198.51.100.1"]
        await trio.sleep(0.1)
        assert told == [host.addresses]  # once, although it looked again since


async def test_a_host_without_a_network_stands_by_what_it_said(interfaces: Interfaces) -> None:
    told: list[tuple[str, ...]] = []
    host = Host(config(1, listen=(EVERYWHERE,)), on_moved=told.append)
    async with running(host):
        interfaces.addresses = ()
        await trio.sleep(0.1)
        assert hosts_of(host.addresses) == ["192.0.2.1"]
        assert told == []


async def test_a_host_that_started_before_its_network_says_where_it_is_then(
    interfaces: Interfaces,
) -> None:
    interfaces.addresses = ()
    host = Host(config(1, listen=(EVERYWHERE,)))
    async with running(host):
        assert hosts_of(host.addresses) == ["127.0.0.1"]
        interfaces.addresses = ("192.0.2.1",)
        await until(lambda: hosts_of(host.addresses) == ["192.0.2.1"])


async def test_addresses_that_were_chosen_stay_as_they_are(interfaces: Interfaces) -> None:
    told: list[tuple[str, ...]] = []
    chosen = Host(config(1), on_moved=told.append)
    announced = Host(
        config(2, listen=(EVERYWHERE,), announce=("/dns4/device.example/tcp/4001",)),
        on_moved=told.append,
    )
    async with running(chosen, announced):
        interfaces.addresses = ("192.0.2.2",)
        await trio.sleep(0.1)
        assert hosts_of(chosen.addresses) == ["127.0.0.1"]
        assert hosts_of(announced.addresses) == ["device.example"]
        assert told == []


async def test_a_host_that_moved_announces_itself_anew(
    interfaces: Interfaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[list[str]] = []
    ended: list[list[str]] = []

    async def announce(
        service: str,
        peer: PeerId,
        addresses: Sequence[str],
        discovered: Callable[[PeerId, tuple[str, ...]], None],
    ) -> None:
        begun.append(hosts_of(addresses))
        if len(begun) == 1:  # there is no network yet
            raise NoMulticast("no such device")
        try:
            await trio.sleep_forever()
        finally:
            ended.append(hosts_of(addresses))

    monkeypatch.setattr("p2p.host.run_mdns", announce)
    with capture_logs() as logs:
        host = Host(config(1, listen=(EVERYWHERE,), mdns_service="_m._udp.local."))
        async with running(host):
            for number in (2, 3):
                await until(lambda number=number: len(begun) == number - 1)  # type: ignore[misc]
                interfaces.addresses = (f"192.0.2.{number}",)
            await until(lambda: len(begun) == 3)
            assert ended == [["192.0.2.2"]]
    assert begun == [["192.0.2.1"], ["192.0.2.2"], ["192.0.2.3"]]
    assert [log["event"] for log in logs].count("mdns.unavailable") == 1
