"""Ways to be hard on a real daemon: strangers that talk to it, and two networks that are cut apart.

A stranger is a bare libp2p host that follows our protocols only as far as a test wants.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import trio
from support.daemons import Device
from support.wasm import example

from meshd.client import TaskInput
from p2p.framing import FrameReader, framed
from p2p.host import Host, HostConfig
from p2p.streams import Stream
from wire.codec import FrameCodec
from wire.ids import PeerId, mesh_text
from wire.keys import Ed25519Keys, Ed25519Verifier
from wire.membership import Chain, Genesis, Invitation, invitation_from_text, mesh_id_of
from wire.messages import MESSAGES, Hello, Message
from wire.records import ProtocolRange
from wire.signed import Signed

LINK_PROTOCOL_ID = "/meshd/link/1"
PATIENCE_S = 30.0
CODEC = FrameCodec(MESSAGES, Ed25519Verifier())
ECHOED = b"argument 0: task\n"  # what faults/echo says before it echoes


# --- strangers ------------------------------------------------------------------------------------


async def invitation_of(device: Device, *, uses: int = 1) -> Invitation:
    """Return a fresh invitation to the daemon's mesh."""
    token = await trio.to_thread.run_sync(lambda: device.invite(uses))
    return invitation_from_text(token, Ed25519Verifier())


@asynccontextmanager
async def bare_host(
    keys_seed: bytes, invitation: Invitation, **changes: object
) -> AsyncIterator[Host]:
    """Run a host that knows what is in an invitation, with some of that changed."""
    settings: dict[str, object] = {
        "identity_seed": keys_seed,
        "network_key": invitation.network_key,
        "dht_prefix": f"/meshd/{mesh_text(invitation.mesh)}/kad",
        "listen": ("/ip4/127.0.0.1/tcp/0",),
        **changes,
    }
    host = Host(HostConfig(**settings))  # type: ignore[arg-type] # the tests' changes
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        yield host
        nursery.cancel_scope.cancel()


async def reach(host: Host, invitation: Invitation) -> None:
    """Connect a host to the daemon that made an invitation."""
    with trio.fail_after(PATIENCE_S):
        await host.connect(invitation.issuer, invitation.addresses)


def hello(genesis: Signed[Genesis], chain: Chain, protocol: ProtocolRange) -> Hello:
    """Return the first frame of a device that has, or stole, these papers."""
    return Hello(
        mesh=mesh_id_of(genesis), genesis=genesis, chain=chain, protocol=protocol, incarnation=1
    )


@dataclass(slots=True)
class RawLink:
    """A link whose other end does as a test wants."""

    stream: Stream
    reader: FrameReader

    async def send(self, message: Message) -> None:
        """Send a message."""
        await self.send_frame(CODEC.encode(message))

    async def send_frame(self, frame: bytes) -> None:
        """Send bytes as a frame, whatever they are."""
        await self.stream.send_all(framed(frame))

    async def receive(self) -> object | None:
        """Return the next message, None at the end. Raises StreamBroken."""
        with trio.fail_after(PATIENCE_S):
            frame = await self.reader.receive()
        return None if frame is None else CODEC.decode(frame)

    async def until(self, kind: type[Message]) -> Message | None:
        """Return the next message of a kind, None if the link ends before one comes."""
        while (message := await self.receive()) is not None:
            if isinstance(message, kind):
                return message
        return None


async def greet(host: Host, peer: PeerId, first: Hello) -> tuple[RawLink, object | None]:
    """Open a link with `first`; return it with what the daemon answered."""
    with trio.fail_after(PATIENCE_S):
        stream = await host.open_stream(peer, LINK_PROTOCOL_ID)
        link = RawLink(stream, FrameReader(stream))
        await link.send(first)
    return link, await link.receive()


def forger() -> Ed25519Keys:
    """Return keys of nobody."""
    return Ed25519Keys(os.urandom(32))


# --- health ---------------------------------------------------------------------------------------


def assert_healthy(device: Device) -> None:
    """Check that a daemon answers, works, and met nothing that it did not expect."""
    assert device.ask("status")["name"] == device.name
    (task,) = device.submit(
        example("faults/echo"), TaskInput(stdin=b"well"), requirements=[f"label:home={device.name}"]
    )
    assert device.wait(task)["executor_name"] == device.name
    assert device.result(task) == ECHOED + b"well"
    assert_calm(device)


def assert_calm(device: Device) -> None:
    """Check that the log of the current process holds no traceback."""
    log = device.log.read_text(errors="replace")
    assert "Traceback" not in log, log


def await_gone(processes: list[psutil.Process]) -> None:
    """Return when all processes have ended; nobody is spared who still runs after seconds."""
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert not alive, f"orphans: {alive}"


# --- networks -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TwoNetworks:
    """Two network namespaces with a cable between them. The addresses exist only inside."""

    names: tuple[str, str]
    hosts: tuple[str, str] = ("10.213.77.1", "10.213.77.2")

    def prefix(self, side: int) -> tuple[str, ...]:
        """Return what to put before a command that shall run on a side."""
        return ("ip", "netns", "exec", self.names[side])

    def listen(self, side: int) -> str:
        """Return the address to listen at on a side."""
        return f"/ip4/{self.hosts[side]}/tcp/0"

    def cut(self) -> None:
        """Pull the cable out: nothing is refused, all is lost."""
        _ip("-n", self.names[0], "link", "set", "mesh0", "down")

    def mend(self) -> None:
        """Plug the cable in."""
        _ip("-n", self.names[0], "link", "set", "mesh0", "up")


def why_no_networks() -> str | None:
    """Return why no network namespaces can be made here, None if they can."""
    if shutil.which("ip") is None:
        return "ip is not installed"
    name = f"meshd-try-{os.getpid()}"
    tried = subprocess.run(
        ["ip", "netns", "add", name], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        return f"no network namespace: {tried.stderr.strip()}"
    _ip("netns", "delete", name)
    return None


@contextmanager
def two_networks() -> Iterator[TwoNetworks]:
    """Make two networks, and take them away whatever happened."""
    networks = TwoNetworks((f"meshd-a-{os.getpid()}", f"meshd-b-{os.getpid()}"))
    first, second = networks.names
    try:
        for name in networks.names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        ends = ("mesh0", "type", "veth", "peer", "name", "mesh0", "netns", second)
        _ip("-n", first, "link", "add", *ends)
        for name, host in zip(networks.names, networks.hosts, strict=True):
            _ip("-n", name, "address", "add", f"{host}/24", "dev", "mesh0")
            _ip("-n", name, "link", "set", "mesh0", "up")
        yield networks
    finally:
        for name in networks.names:
            if Path("/run/netns", name).exists():
                _ip("netns", "delete", name)  # with the cable's end


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
