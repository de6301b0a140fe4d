"""Devices on one network find those of their mesh; nobody else learns which mesh it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.hosts import config, running, until

from p2p.host import Host
from p2p.mdns import read_claim, service_name
from wire.ids import MeshId, PeerId, mesh_text, peer_text

ROOT = Path(__file__).parents[2]
PEER = PeerId(bytes(range(32)))
MESH = MeshId(bytes(32))
# A network of its own, in which multicast reaches nobody else.
SCRIPT = """
ip link set lo up
ip link add lan0 type veth peer name lan1
ip link set lan1 up
ip address add 10.77.0.1/24 dev lan0
ip link set lan0 up multicast on
exec "$@"
"""


def in_a_namespace(*command: str) -> subprocess.CompletedProcess[str]:
    arguments = ["unshare", "--net", "sh", "-ec", SCRIPT, "lan", *command]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        arguments, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def why_no_namespace() -> str | None:
    for tool in ("unshare", "ip", "sh"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    tried = in_a_namespace("true")
    return f"no network namespace: {tried.stderr.strip()}" if tried.returncode else None


def test_two_devices_of_a_mesh_find_each_other_and_dial_nobody() -> None:
    if reason := why_no_namespace():
        pytest.skip(reason)
    finished = in_a_namespace(sys.executable, str(ROOT / "tests/support/lan_devices.py"))
    assert finished.returncode == 0, finished.stderr
    lines = [line.split() for line in finished.stdout.splitlines()]
    hosts = [tuple(words[1:]) for words in lines if words[0] == "host"]
    found = {tuple(words[1:]) for words in lines if words[0] == "found"}
    one, other, _ = hosts
    assert found == {(one[0], *other), (other[0], *one)}
    assert one[1].startswith("/ip4/10.77.0.1/tcp/")
    assert lines[-1] == ["connected", "0"]


async def test_a_host_without_multicast_runs_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**options: object) -> None:
        raise OSError("No such device")

    monkeypatch.setattr("p2p.mdns.Zeroconf", fail)
    host = Host(config(1, mdns_service=service_name(MESH)))
    with capture_logs() as logs:
        async with running(host):
            await until(lambda: bool(logs))
    assert logs[0]["event"] == "mdns.unavailable"


def test_the_service_name_is_a_valid_one_and_says_nothing_about_the_mesh() -> None:
    name = service_name(MESH)
    label = name.removesuffix("._udp.local.").removeprefix("_")
    assert len(label) <= 15  # RFC 6335
    assert label.isalnum()
    assert label == label.lower()
    assert service_name(MESH) == name != service_name(MeshId(bytes(31) + b"\x01"))
    assert mesh_text(MESH)[:6] not in name


def test_a_claim_is_read_and_nonsense_is_not() -> None:
    good: dict[bytes, bytes | None]
    good = {b"id": peer_text(PEER).encode(), b"a0": b"/ip4/10.0.0.1/tcp/4001", b"a1": None}
    assert read_claim(good) == (PEER, ("/ip4/10.0.0.1/tcp/4001",))
    assert read_claim({**good, b"a0": b"/ip4/0.0.0.0/tcp/4001"}) == (PEER, ())
    hostile: list[dict[bytes, bytes | None]] = [
        {},
        {b"id": None},
        {b"id": b"\xff"},
        {b"id": b"12D3KooW"},
        {**good, b"a7": b"/ip4/10.0.0.1/udp/1"},
        {**good, b"a0": b"\xff\xfe"},
    ]
    for claim in hostile:
        assert read_claim(claim) is None
