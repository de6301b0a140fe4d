"""js-libp2p against a real daemon: it may ring the doorbell, and is told no at the door.

The network key, which every invitation holds, gives a connection, ping and identify. All else wants
a certificate, and one that was copied from a member is none.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.daemons import Daemons, Device, await_ready
from support.js_client import Event, needs_js, run_client
from support.meshes import small_mesh

from meshd.membership import MembershipRow, load_membership
from meshd.store import Store
from p2p.blob_messages import BLOB_PROTOCOL_ID, ManifestWanted, blob_codec
from p2p.framing import FrameParser, framed
from p2p.links import LINK_PROTOCOL_ID
from wire.blobs import blob_ref
from wire.codec import FrameCodec
from wire.keys import Ed25519Verifier
from wire.membership import invitation_from_text
from wire.messages import LINK_PROTOCOL, MESSAGES, Hello, LinkRefused, RefusalReason

pytestmark = needs_js

ANSWERED_S_MAX = 20.0  # of a client that starts node, dials, pings and asks
CODEC = FrameCodec(MESSAGES, Ed25519Verifier())
WELCOME = ["connected", "ping", "ping", "ping", "identified"]
GARBAGE = framed(b"\xff" * 64)
STRANGERS = small_mesh(1)


@dataclass(frozen=True, slots=True)
class Door:
    """A daemon, what an invitation tells of it, and the papers that its members show."""

    device: Device
    network_key: bytes
    papers: MembershipRow

    @property
    def address(self) -> str:
        """Where a client dials."""
        return f"{self.device.address}/p2p/{self.device.id}"

    async def knock(self, scratch: Path, protocol: str, sent: bytes) -> Event:
        """Return what becomes of a stream after a client's pings, which are answered."""
        began_s = time.monotonic()
        events = await run_client(self.address, self.network_key, scratch, protocol, sent)
        assert time.monotonic() - began_s < ANSWERED_S_MAX
        assert [event["event"] for event in events] == [*WELCOME, "stream", "done"], events
        assert events[0]["peer"] == self.device.id
        assert events[0]["encryption"] == "/noise"
        return events[5]


@pytest.fixture(scope="module")
def door(daemons: Daemons) -> Door:
    """Return a daemon that has been stopped once, so that its papers could be copied."""
    device = daemons.start("attic")
    await_ready(device)
    invitation = invitation_from_text(device.invite(), Ed25519Verifier())
    device.stop()
    store = Store.open(device.home / "mesh.db")
    try:
        papers = load_membership(store)
    finally:
        store.close()
    assert papers is not None
    daemons.restart(device)
    await_ready(device)
    return Door(device, invitation.network_key, papers)


def hello(papers: MembershipRow) -> bytes:
    """Return the frame with which a device of a mesh introduces itself."""
    message = Hello(
        mesh=papers.mesh,
        genesis=papers.genesis,
        chain=papers.chain,
        protocol=LINK_PROTOCOL,
        incarnation=1,
    )
    return framed(CODEC.encode(message))


def refusal(stream: Event) -> LinkRefused:
    """Return the one frame that the daemon answered before it ended the stream."""
    assert stream["result"] == "ended", stream
    parser = FrameParser()
    parser.feed(bytes.fromhex(str(stream["received"])))
    frame = parser.take()
    assert frame is not None
    assert parser.buffered_bytes == 0
    refused = CODEC.decode(frame)
    assert isinstance(refused, LinkRefused)
    return refused


async def test_copied_papers_are_refused_since_they_name_another_device(
    door: Door, tmp_path: Path
) -> None:
    refused = refusal(await door.knock(tmp_path, LINK_PROTOCOL_ID, hello(door.papers)))
    assert refused.reason is RefusalReason.NOT_A_MEMBER
    assert refused.detail == f"certificate 0 is for {door.device.id}"
    assert list(door.device.peers()) == [door.device.name]


async def test_papers_of_a_mesh_of_ones_own_are_refused(door: Door, tmp_path: Path) -> None:
    own = MembershipRow(
        genesis=STRANGERS.genesis,
        chain=STRANGERS.devices[0].chain,
        network_key=door.network_key,
    )
    refused = refusal(await door.knock(tmp_path, LINK_PROTOCOL_ID, hello(own)))
    assert refused.reason is RefusalReason.OTHER_MESH
    assert refused.detail == "this device is of another mesh"


async def test_what_is_no_introduction_is_refused_as_malformed(door: Door, tmp_path: Path) -> None:
    refused = refusal(await door.knock(tmp_path, LINK_PROTOCOL_ID, GARBAGE))
    assert refused.reason is RefusalReason.MALFORMED


async def test_a_question_only_members_may_ask_is_reset_without_a_byte(
    door: Door, tmp_path: Path
) -> None:
    request = framed(blob_codec().encode(ManifestWanted(blob=blob_ref(b"any"))))
    stream = await door.knock(tmp_path, BLOB_PROTOCOL_ID, request)
    assert (stream["result"], stream["received"]) == ("reset", "")


@pytest.mark.parametrize("network_key", [bytes(32), None])
async def test_without_the_network_key_there_is_not_even_a_connection(
    door: Door, network_key: bytes | None, tmp_path: Path
) -> None:
    (failed,) = await run_client(door.address, network_key, tmp_path)
    assert failed["event"] == "failed"


async def test_none_of_it_shows_in_the_mesh_or_ends_the_daemon(door: Door, tmp_path: Path) -> None:
    events = await run_client(door.address, door.network_key, tmp_path)
    assert [event["event"] for event in events] == [*WELCOME, "done"]
    assert list(door.device.peers()) == [door.device.name]
    assert door.device.is_running
    assert not re.search(r"\[(error|critical)", door.device.log.read_text())
