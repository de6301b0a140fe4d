"""Who has no papers gets nothing of a real daemon, and who misbehaves does it no harm."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from support.daemons import PATIENCE_S, Daemons, Device, await_ready, until
from support.hosts import receive_exactly, running
from support.linked import CODEC, wire_frame
from support.wasm import example

from meshd.client import TaskInput
from p2p.blob_messages import BLOB_PROTOCOL_ID
from p2p.errors import NetworkError, StreamBroken
from p2p.framing import FrameReader
from p2p.host import Host, HostConfig
from p2p.joining import redeem
from p2p.links import LINK_PROTOCOL_ID
from p2p.protocol_errors import InvitationUnknown, InvitationUsedUp
from p2p.streams import Stream
from wire.ids import PeerId, mesh_text, peer_from_text
from wire.keys import Ed25519Keys, Ed25519Verifier
from wire.membership import (
    Chain,
    Genesis,
    Invitation,
    JoinGranted,
    found_mesh,
    invitation_from_text,
    mesh_id_of,
)
from wire.messages import LINK_PROTOCOL, Hello, LinkRefused, RecordsGiven, RefusalReason
from wire.records import Capabilities, ProtocolRange, Record, RecordKind
from wire.signed import Signed, encode_body, sign

PING = "/ipfs/ping/1.0.0"
OTHER_PROTOCOL = ProtocolRange(9, 9)


@dataclass(slots=True)
class Stranger:
    """A device that is no daemon of ours: it says on a stream whatever a test makes it say."""

    host: Host
    keys: Ed25519Keys
    door: PeerId
    address: str

    async def connect(self) -> None:
        """Connect to the daemon."""
        await self.host.connect(self.door, (self.address,))

    async def open(self, protocol: str) -> Stream:
        """Open a stream to the daemon, connecting first if need be."""
        await self.connect()
        return await self.host.open_stream(self.door, protocol)

    async def greet(self, hello: Hello) -> tuple[Stream, object]:
        """Open a link with a Hello; return its stream and what came back."""
        stream = await self.open(LINK_PROTOCOL_ID)
        await stream.send_all(wire_frame(hello))
        return stream, await next_message(FrameReader(stream))


@pytest.fixture(scope="module")
def daemon(daemons: Daemons) -> Device:
    """Return a daemon that is alone in its mesh."""
    device = daemons.start("attic")
    await_ready(device)
    return device


@pytest.fixture(autouse=True)
def _stays_healthy(daemon: Device) -> Iterator[None]:
    """Check after each test that the daemon is the same, works, and never stumbled."""
    before = daemon.ask("status")
    yield
    (task,) = daemon.submit(example("faults/echo"), TaskInput(stdin=b"still here"))
    assert daemon.wait(task)["outcome"] == "result"
    assert daemon.result(task).endswith(b"still here")
    assert daemon.ask("status")["pid"] == before["pid"]
    # A member that was linked for a moment is known by its papers, and by nothing that it said.
    assert [peer["name"] for peer in daemon.ask("peers")["peers"] if peer["capabilities"]] == [
        "attic"
    ]
    until(lambda: daemon.ask("status")["links"] == 0, "a stranger is linked", daemon)
    assert "Traceback" not in daemon.log.read_text()


@asynccontextmanager
async def stranger(
    daemon: Device, number: int, *, network_key: bytes | None
) -> AsyncIterator[Stranger]:
    """Be device `number`, which knows where the daemon is and some network key."""
    seed = bytes([number]) * 32
    host = Host(
        HostConfig(
            identity_seed=seed,
            network_key=network_key,
            dht_prefix=f"/meshd/{daemon.ask('status')['mesh']}/kad",
            listen=("/ip4/127.0.0.1/tcp/0",),
        )
    )
    with trio.fail_after(PATIENCE_S):
        async with running(host):
            yield Stranger(host, Ed25519Keys(seed), peer_from_text(daemon.id), daemon.address)


def invitation_of(daemon: Device) -> Invitation:
    """Return an invitation, which holds the network key."""
    return invitation_from_text(daemon.invite(), Ed25519Verifier())


async def next_message(reader: FrameReader) -> object:
    """Return the next message of the daemon, None at the end of the stream."""
    frame = await reader.receive()
    return None if frame is None else CODEC.decode(frame)


def hello_of(
    genesis: Signed[Genesis], chain: Chain, *, protocol: ProtocolRange = LINK_PROTOCOL
) -> Hello:
    """Return a Hello with these papers."""
    return Hello(
        mesh=mesh_id_of(genesis), genesis=genesis, chain=chain, protocol=protocol, incarnation=1
    )


def own_papers(keys: Ed25519Keys) -> tuple[Signed[Genesis], Chain]:
    """Return the papers of a mesh that a stranger founded itself."""
    return found_mesh(keys, operator="nobody", recovery_key=keys.peer, nonce=bytes(16))


def counter(daemon: Device, name: str) -> int:
    """Return one of the daemon's counters."""
    return int(daemon.ask("status")["counters"][name])


async def await_counter(daemon: Device, name: str, above: int) -> None:
    """Wait until a counter rose: the daemon counts after it has answered."""
    while counter(daemon, name) <= above:  # noqa: ASYNC110 - another process gives no event
        await trio.sleep(0.05)


@pytest.mark.parametrize("network_key", [None, bytes(32)])
async def test_without_the_network_key_there_is_no_connection(
    daemon: Device, network_key: bytes | None
) -> None:
    async with stranger(daemon, 1, network_key=network_key) as nobody:
        with pytest.raises(NetworkError):
            await nobody.connect()
        assert not nobody.host.connected()


async def test_with_the_key_alone_there_is_an_answer_to_ping_and_nothing_for_members(
    daemon: Device,
) -> None:
    invitation = invitation_of(daemon)
    async with stranger(daemon, 2, network_key=invitation.network_key) as nobody:
        ping = await nobody.open(PING)
        payload = bytes(range(32))
        await ping.send_all(payload)
        assert await receive_exactly(ping, 32) == payload
        for protocol in (
            BLOB_PROTOCOL_ID,
            "/meshsub/1.1.0",
            f"/meshd/{mesh_text(invitation.mesh)}/kad/1.0.0",
        ):
            stream = await nobody.open(protocol)
            with pytest.raises(StreamBroken):
                await stream.receive_some()
        for protocol in ("/ipfs/id/push/1.0.0", "/ipfs/kad/1.0.0", "/meshd/link/9"):
            with pytest.raises(NetworkError):
                await nobody.open(protocol)


async def test_with_the_key_and_no_certificate_the_link_is_refused_with_the_reason(
    daemon: Device,
) -> None:
    invitation = invitation_of(daemon)
    refused = counter(daemon, "meshd_links_refused_total")
    async with stranger(daemon, 3, network_key=invitation.network_key) as member:
        granted = await redeem(member.host, invitation, "insider")
        member_chain = granted.chain
    keys = Ed25519Keys(bytes([4]) * 32)
    genesis, chain = own_papers(keys)
    for reason, hello in (
        (RefusalReason.OTHER_MESH, hello_of(genesis, chain)),
        (RefusalReason.NOT_A_MEMBER, hello_of(granted.genesis, chain)),  # signed by itself
        (RefusalReason.NOT_A_MEMBER, hello_of(granted.genesis, member_chain)),  # of another
        (RefusalReason.NOT_A_MEMBER, hello_of(granted.genesis, (*chain, *member_chain))),
    ):
        async with stranger(daemon, 4, network_key=invitation.network_key) as nobody:
            stream, answer = await nobody.greet(hello)
            assert isinstance(answer, LinkRefused)
            assert answer.reason == reason
            assert answer.detail
            with pytest.raises(StreamBroken):
                await more_of(stream)
    await await_counter(daemon, "meshd_links_refused_total", refused + 3)


async def test_an_invitation_works_once_and_a_made_up_one_never(daemon: Device) -> None:
    invitation = invitation_of(daemon)
    made_up = Invitation(
        mesh=invitation.mesh,
        network_key=invitation.network_key,
        issuer=invitation.issuer,
        addresses=invitation.addresses,
        secret=bytes(16),
        expires_wall_s=invitation.expires_wall_s,
    )
    async with stranger(daemon, 5, network_key=invitation.network_key) as first:
        with pytest.raises(InvitationUnknown):
            await redeem(first.host, made_up, "first")
        granted: JoinGranted = await redeem(first.host, invitation, "first")
        again = await redeem(first.host, invitation, "first")
        assert again.chain[0].body == granted.chain[0].body
    async with stranger(daemon, 6, network_key=invitation.network_key) as second:
        with pytest.raises(InvitationUsedUp):
            await redeem(second.host, invitation, "second")


async def test_a_member_that_speaks_another_protocol_version_is_told_so(daemon: Device) -> None:
    invitation = invitation_of(daemon)
    async with stranger(daemon, 7, network_key=invitation.network_key) as newer:
        granted = await redeem(newer.host, invitation, "newer")
        hello = hello_of(granted.genesis, granted.chain, protocol=OTHER_PROTOCOL)
        _, answer = await newer.greet(hello)
        assert isinstance(answer, LinkRefused)
        assert answer.reason == RefusalReason.NO_COMMON_VERSION
        assert "1 to 1" in answer.detail
        assert "9 to 9" in answer.detail


async def test_a_member_that_signs_wrongly_is_counted_and_banned(daemon: Device) -> None:
    invitation = invitation_of(daemon)
    malformed = counter(daemon, "meshd_frames_malformed_total")
    banned = counter(daemon, "meshd_peers_banned_total")
    async with stranger(daemon, 8, network_key=invitation.network_key) as forger:
        granted = await redeem(forger.host, invitation, "forger")
        hello = hello_of(granted.genesis, granted.chain)
        stream, answer = await forger.greet(hello)
        assert isinstance(answer, Hello)
        for number in range(3):
            await stream.send_all(forged_capabilities(forger.keys, number))
        with pytest.raises(StreamBroken):
            await read_to_the_end(stream)
        await await_counter(daemon, "meshd_peers_banned_total", banned)
        assert counter(daemon, "meshd_frames_malformed_total") >= malformed + 2
        with pytest.raises(NetworkError):  # nor does it come back
            await forger.greet(hello)
    log = daemon.log.read_text()
    assert "frame.refused" in log
    assert "peer.banned" in log


def forged_capabilities(keys: Ed25519Keys, number: int) -> bytes:
    """Return a frame with a record whose body was changed after it was signed."""
    body = encode_body(Capabilities(keys=(f"label:number={number}",)))
    record = Record(
        owner=keys.peer, kind=RecordKind.CAPABILITIES, incarnation=1, counter=number, body=body
    )
    frame = bytearray(wire_frame(RecordsGiven(records=(sign(record, keys),), chains=())))
    frame[frame.index(b"label:number")] ^= 0x20
    return bytes(frame)


async def read_to_the_end(stream: Stream) -> None:
    """Read until the daemon ends the stream. Raises StreamBroken."""
    while await more_of(stream):
        pass


async def more_of(stream: Stream) -> bytes:
    """Return some bytes of the daemon. Raises StreamBroken at the end, however it came."""
    received = await stream.receive_some()
    if not received:
        raise StreamBroken("ended")
    return received
