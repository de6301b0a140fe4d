"""What leaks out of a mesh, and what its members may do wrong before they are shut out."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from support.daemons import Daemons, Device, await_ready, meshctl
from support.hard_daemons import (
    ECHOED,
    PATIENCE_S,
    assert_healthy,
    bare_host,
    forger,
    greet,
    hello,
    invitation_of,
    reach,
)
from support.wasm import example

from meshd.client import TaskInput
from p2p.errors import StreamBroken
from p2p.host import Host
from p2p.joining import redeem
from scheduler.receipt import receipt_from_file, receipt_to_file
from wire.ids import MeshId, PeerId, mesh_text
from wire.keys import Ed25519Verifier
from wire.membership import JoinGranted
from wire.messages import (
    LINK_PROTOCOL,
    Heartbeat,
    HeartbeatAcknowledged,
    LinkRefused,
    RecordsGiven,
    RefusalReason,
)
from wire.records import Record, RecordKind
from wire.signed import Signed, sign

GOSSIP_S = 3.0  # how long silence is listened to
HANG_UP_S_MAX = 15.0  # a negotiation is given ten


@pytest.fixture(scope="module")
def house(daemons: Daemons) -> Device:
    """Return a daemon."""
    device = daemons.start("house", "--label", "home=house")
    await_ready(device)
    return device


@pytest.fixture(autouse=True)
def healthy(house: Device) -> Iterator[None]:
    """Hold the daemon to being as well after each test as before."""
    yield
    assert_healthy(house)


async def join(house: Device, host: Host) -> JoinGranted:
    """Make a host a certified member, in the way that devices become members."""
    invitation = await invitation_of(house)
    return await redeem(host, invitation, "guest")


async def listen_in(host: Host, topic: str, nursery: trio.Nursery) -> list[bytes]:
    """Return a list that grows by what the host hears on a topic."""
    heard: list[bytes] = []

    def deliver(author: PeerId, record: bytes) -> None:
        del author
        heard.append(record)

    await nursery.start(host.subscribe, topic, lambda author, record: True, deliver)
    return heard


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", id="HTTP"),
        pytest.param(b"\x13/multistream/1.0.0\n", id="libp2p in clear"),
        pytest.param(os.urandom(200_000), id="garbage"),
        pytest.param(bytes(5_000), id="zeros"),
    ],
)
def test_bytes_of_another_kind_are_hung_up_on(house: Device, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", house.port), HANG_UP_S_MAX) as connection:
        answered = b""
        try:
            connection.sendall(said)
            while part := connection.recv(4_096):
                answered += part
        except (ConnectionResetError, BrokenPipeError):
            pass  # that is one way to hang up
    # A nonce and an enciphered greeting at most: nothing says what listens here.
    assert len(answered) < 100
    assert b"libp2p" not in answered
    assert b"multistream" not in answered


async def test_gossip_reaches_members_and_no_stranger(daemons: Daemons, house: Device) -> None:
    invitation = await invitation_of(house)
    topic = f"/meshd/{mesh_text(invitation.mesh)}/presence"
    async with (
        bare_host(os.urandom(32), invitation) as stranger,
        bare_host(os.urandom(32), invitation) as member,
        trio.open_nursery() as nursery,
    ):
        heard = await listen_in(member, topic, nursery)
        overheard = await listen_in(stranger, topic, nursery)
        papers = await join(house, member)
        link, _ = await greet(
            member, invitation.issuer, hello(papers.genesis, papers.chain, LINK_PROTOCOL)
        )
        await reach(stranger, invitation)
        for host in (member, stranger):  # each would take what it gets
            await host.admit(invitation.issuer, invitation.addresses)
        await trio.sleep(1)  # for the subscriptions
        newcomer = await trio.to_thread.run_sync(lambda: daemons.start_joined(house, ["porch"])[0])
        with trio.move_on_after(PATIENCE_S):
            while not heard:  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.1)
        await trio.to_thread.run_sync(newcomer.stop)
        await trio.sleep(GOSSIP_S)
        assert heard, "not even a member heard anything"
        assert overheard == []
        await link.stream.aclose()
        nursery.cancel_scope.cancel()


def forged_record(owner: PeerId) -> Signed[Record]:
    """Return a record that says it is its owner's, signed by somebody else."""
    keys = forger()
    record = Record(
        owner=owner, kind=RecordKind.PRESENCE, incarnation=1 << 40, counter=1, body=b"\x80"
    )
    true = sign(record, keys)
    return Signed(body=record, received=true.received, signer=owner, signature=true.signature)


async def test_a_member_that_forges_signatures_is_banned_after_the_second(house: Device) -> None:
    invitation = await invitation_of(house)
    async with bare_host(os.urandom(32), invitation) as guest:
        papers = await join(house, guest)
        papers_shown = hello(papers.genesis, papers.chain, LINK_PROTOCOL)
        link, answer = await greet(guest, invitation.issuer, papers_shown)
        assert isinstance(answer, type(papers_shown))
        forged = RecordsGiven(records=(forged_record(invitation.issuer),))
        await link.send(forged)
        await link.send(Heartbeat(token=7))
        alive = await link.until(HeartbeatAcknowledged)
        assert alive == HeartbeatAcknowledged(token=7), "one forgery is not the end"
        await link.send(forged)
        refused = await link.until(LinkRefused)
        assert isinstance(refused, LinkRefused)
        assert refused.reason is RefusalReason.MALFORMED
        with trio.fail_after(PATIENCE_S):
            while invitation.issuer in guest.connected():  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.1)
        await reach(guest, invitation)
        with pytest.raises(StreamBroken):
            await greet(guest, invitation.issuer, papers_shown)
    assert (await trio.to_thread.run_sync(house.ask, "status"))["incarnation"] < 1 << 40


async def test_a_member_that_sends_garbage_frames_is_banned_in_the_end(house: Device) -> None:
    invitation = await invitation_of(house)
    async with bare_host(os.urandom(32), invitation) as guest:
        papers = await join(house, guest)
        link, _ = await greet(
            guest, invitation.issuer, hello(papers.genesis, papers.chain, LINK_PROTOCOL)
        )
        for _ in range(5):
            await link.send_frame(b"\x01\x92\xa4what")
        refused = await link.until(LinkRefused)
        assert isinstance(refused, LinkRefused)
        assert refused.reason is RefusalReason.MALFORMED


def test_what_was_tampered_with_is_not_verified(house: Device, tmp_path: Path) -> None:
    (task,) = house.submit(example("faults/echo"), TaskInput(stdin=b"as it was"))
    house.wait(task)
    good = house.receipt(task)
    mesh = str(house.ask("status")["mesh"])
    receipt_file, result_file = tmp_path / "task.receipt", tmp_path / "result"

    def verify(receipt: bytes, result: bytes, of_mesh: str = mesh) -> tuple[int, str]:
        receipt_file.write_bytes(receipt)
        result_file.write_bytes(result)
        ended = meshctl(
            tmp_path / "no-home",
            *("verify", str(receipt_file), "--result", str(result_file), "--mesh", of_mesh),
        )
        assert ended.stderr == ""
        return ended.returncode, ended.stdout

    output = house.result(task)
    assert output == ECHOED + b"as it was"
    assert verify(good, output)[0] == 0
    # The result is another one.
    code, said = verify(good, output.replace(b"was", b"is"))
    assert code == 1
    assert "output" in said
    # A signature was changed, or the receipt says something that nobody signed.
    receipt = receipt_from_file(good, Ed25519Verifier())
    signature = receipt.contract.signature
    assert good.count(signature) == 1
    code, said = verify(good.replace(signature, signature[::-1]), output)
    assert code == 1
    assert "Contract is not signed by" in said
    # Parts that are good one by one do not make a good receipt.
    (other,) = house.submit(example("faults/echo"), TaskInput(stdin=b"another"))
    house.wait(other)
    borrowed = receipt_from_file(house.receipt(other), Ed25519Verifier())
    mixed = replace(receipt, result=borrowed.result, lease=borrowed.lease)
    code, said = verify(receipt_to_file(mixed), output)
    assert code == 1
    assert "BAD" in said
    # It is good, and of another mesh.
    code, said = verify(good, output, mesh_text(MeshId(bytes(32))))
    assert code == 1
    assert "mesh" in said
