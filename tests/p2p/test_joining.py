"""Redeeming invitations between hosts in memory, and every way it can fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from msgspec.structs import replace
from support.memory_host import MemoryHost, MemoryNetwork
from support.meshes import keys_of, small_mesh
from trio.testing import MockClock

from p2p.errors import PeerUnreachable, StreamBroken, WrongNetwork, WrongPeer
from p2p.framing import FrameReader, framed
from p2p.join_messages import PAGES_MAX, join_codec, joined_pages, pages_of
from p2p.joining import JOIN_PROTOCOL_ID, JoinServer, JoinServerSettings, JoinSettings, redeem
from p2p.protocol_errors import (
    DeviceRemoved,
    InvitationExpired,
    InvitationUnknown,
    InvitationUsedUp,
    IssuerBusy,
    IssuerNotAdmin,
    IssuerOnOtherNetwork,
    IssuerUnreachable,
    JoinBroken,
    JoinError,
    WrongMesh,
)
from p2p.rate_limit import Rate
from p2p.streams import Stream
from wire.answers import JoinAnswer
from wire.ids import PeerId
from wire.membership import (
    ALL_ROLES,
    Invitation,
    JoinGranted,
    JoinRefusal,
    JoinRefused,
    JoinRequest,
    Removal,
    issue_certificate,
)
from wire.signed import sign

MESH = small_mesh(3)
ISSUER, NEWCOMER = MESH.devices[0], keys_of(50)
INVITATION = Invitation(
    mesh=MESH.id,
    network_key=bytes(32),
    issuer=ISSUER.peer,
    addresses=("/ip4/192.0.2.1/tcp/4001", "/ip4/198.51.100.1/tcp/4001"),
    secret=b"sixteen secrets!",
    expires_wall_s=2_000_000_000,
)
CODEC = join_codec()
GRANTED = JoinGranted(
    genesis=MESH.genesis,
    chain=issue_certificate(
        ISSUER.keys,
        mesh=MESH.id,
        subject=NEWCOMER.peer,
        roles=ALL_ROLES,
        operator="home",
        issuer_chain=ISSUER.chain,
    ),
)
REMOVAL = sign(Removal(mesh=MESH.id, subject=MESH.devices[1].peer, chain=ISSUER.chain), ISSUER.keys)


class Desk:
    """The node behind a join server: answers what it is told, and remembers who asked."""

    def __init__(self, *answers: JoinAnswer) -> None:
        self.answers = list(answers) or [GRANTED]
        self.asked: list[tuple[PeerId, JoinRequest]] = []
        self.under_way = 0
        self.open = trio.Event()
        self.open.set()

    async def ask_join(self, peer: PeerId, join: JoinRequest) -> JoinAnswer:
        self.asked.append((peer, join))
        self.under_way += 1
        await self.open.wait()
        self.under_way -= 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@asynccontextmanager
async def issuing(
    desk: Desk, settings: JoinServerSettings | None = None
) -> AsyncIterator[tuple[MemoryHost, MemoryHost]]:
    """Run an issuer and a newcomer that is no member of anything."""
    net = MemoryNetwork()
    issuer, newcomer = net.host(ISSUER.peer), net.host(NEWCOMER.peer)
    async with trio.open_nursery() as nursery:
        await nursery.start(issuer.run)
        JoinServer(issuer, desk.ask_join, settings).serve()
        yield issuer, newcomer
        nursery.cancel_scope.cancel()
    assert not issuer.handler_errors


async def test_an_invitation_is_redeemed_for_papers(autojump_clock: MockClock) -> None:
    desk = Desk()
    async with issuing(desk) as (_, newcomer):
        assert await redeem(newcomer, INVITATION, "kitchen") == GRANTED
        request = JoinRequest(secret=INVITATION.secret, name="kitchen")
        assert desk.asked == [(NEWCOMER.peer, request)]


async def test_ten_thousand_removals_arrive_in_pages() -> None:
    # On the real clock: the pages are decoded in threads.
    granted = replace(GRANTED, removals=(REMOVAL,) * 10_000)
    pages = pages_of(granted)
    assert max(len(CODEC.encode(page)) for page in pages) < 1 << 19
    assert joined_pages(pages) == granted
    async with issuing(Desk(replace(GRANTED, removals=(REMOVAL,) * 700))) as (_, newcomer):
        redeemed = await redeem(newcomer, INVITATION, "kitchen")
        assert redeemed.removals == (REMOVAL,) * 700


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (JoinRefusal.UNKNOWN, InvitationUnknown),
        (JoinRefusal.EXPIRED, InvitationExpired),
        (JoinRefusal.USED_UP, InvitationUsedUp),
        (JoinRefusal.NOT_ADMIN, IssuerNotAdmin),
        (JoinRefusal.REMOVED, DeviceRemoved),
    ],
)
async def test_each_refusal_is_an_error_with_one_line_and_is_not_retried(
    reason: JoinRefusal, kind: type[JoinError], autojump_clock: MockClock
) -> None:
    desk = Desk(JoinRefused(reason=reason))
    async with issuing(desk) as (_, newcomer):
        with pytest.raises(kind) as caught:
            await redeem(newcomer, INVITATION, "kitchen")
        assert str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(desk.asked) == 1


async def test_a_busy_issuer_is_asked_again_ever_later(autojump_clock: MockClock) -> None:
    busy = JoinRefused(reason=JoinRefusal.BUSY)
    desk = Desk(busy, busy, GRANTED)
    async with issuing(desk) as (_, newcomer):
        began_s = trio.current_time()
        assert await redeem(newcomer, INVITATION, "kitchen") == GRANTED
        assert 1.5 < trio.current_time() - began_s < 5


async def test_an_issuer_that_stays_busy_is_given_up(autojump_clock: MockClock) -> None:
    desk = Desk(JoinRefused(reason=JoinRefusal.BUSY))
    # So that the server's own limits say nothing.
    settings = JoinServerSettings(rate_per_peer=Rate(per_s=100, burst=100))
    async with issuing(desk, settings) as (_, newcomer):
        with pytest.raises(IssuerBusy, match="try again"):
            await redeem(newcomer, INVITATION, "kitchen")
        assert len(desk.asked) == 5


# Reaching the issuer


class FailingHost(MemoryHost):
    """A host whose every connection fails alike."""

    def __init__(self, failures: list[Exception]) -> None:
        super().__init__(NEWCOMER.peer, MemoryNetwork())
        self.failures = failures
        self.tried: list[str] = []

    async def connect(self, peer: PeerId, addresses: object) -> None:
        assert isinstance(addresses, list)
        self.tried += addresses
        await trio.lowlevel.checkpoint()
        raise self.failures.pop(0)


MANY = tuple(f"/ip4/192.0.2.{number}/tcp/4001" for number in range(1, 15))


@pytest.mark.parametrize(
    ("failures", "kind"),
    [
        ([PeerUnreachable("refused"), WrongPeer("another")], IssuerUnreachable),
        ([WrongNetwork("key"), PeerUnreachable("refused")], IssuerUnreachable),
        ([WrongNetwork("key"), WrongNetwork("key")], IssuerOnOtherNetwork),
    ],
)
async def test_every_address_is_tried_before_the_issuer_counts_as_unreachable(
    failures: list[Exception], kind: type[JoinError]
) -> None:
    host = FailingHost(failures)
    with pytest.raises(kind):
        await redeem(host, replace(INVITATION, addresses=("no address", *MANY)), "kitchen")
    assert host.tried == list(MANY)


async def test_an_invitation_without_usable_addresses_says_so() -> None:
    with pytest.raises(IssuerUnreachable, match="no usable address"):
        await redeem(FailingHost([]), replace(INVITATION, addresses=("x",)), "kitchen")


async def test_a_silent_address_is_given_up_in_time(autojump_clock: MockClock) -> None:
    class SilentHost(MemoryHost):
        async def connect(self, peer: PeerId, addresses: object) -> None:
            await trio.sleep_forever()

    with pytest.raises(IssuerUnreachable, match="no answer in time"):
        await redeem(SilentHost(NEWCOMER.peer, MemoryNetwork()), INVITATION, "kitchen")


async def test_an_issuer_without_the_protocol_is_another_version(
    autojump_clock: MockClock,
) -> None:
    net = MemoryNetwork()
    issuer = net.host(ISSUER.peer)
    async with trio.open_nursery() as nursery:
        await nursery.start(issuer.run)
        with pytest.raises(JoinBroken, match="another version"):
            await redeem(net.host(NEWCOMER.peer), INVITATION, "kitchen")
        nursery.cancel_scope.cancel()


# Answers that are none


OTHER_MESH = small_mesh(3, nonce=9)
OTHER_CHAIN = issue_certificate(
    ISSUER.keys,
    mesh=OTHER_MESH.id,
    subject=NEWCOMER.peer,
    roles=ALL_ROLES,
    operator="home",
    issuer_chain=OTHER_MESH.devices[0].chain,
)


@pytest.mark.parametrize(
    "granted",
    [
        JoinGranted(genesis=OTHER_MESH.genesis, chain=OTHER_CHAIN),  # good papers, elsewhere
        replace(GRANTED, genesis=OTHER_MESH.genesis),
        replace(GRANTED, chain=MESH.devices[1].chain),  # another device's papers
        replace(GRANTED, chain=GRANTED.chain[:1]),
    ],
)
async def test_papers_of_another_mesh_or_device_are_refused(
    granted: JoinGranted, autojump_clock: MockClock
) -> None:
    async with issuing(Desk(granted)) as (_, newcomer):
        with pytest.raises(WrongMesh):
            await redeem(newcomer, INVITATION, "kitchen")


async def answering_with(junk: bytes, stream: Stream) -> None:
    await stream.send_all(junk)


@pytest.mark.parametrize(
    ("junk", "reason"),
    [
        (framed(b"\x01junk"), "no proper answer"),
        ((1 << 30).to_bytes(4, "big"), "no proper answer"),
        (framed(CODEC.encode(JoinRequest(secret=bytes(16), name="x"))), "no proper answer"),
        (framed(CODEC.encode(GRANTED)) * (PAGES_MAX + 1), "no proper answer"),
        (framed(CODEC.encode(GRANTED))[:-1], "did not answer"),
        (b"", "did not answer"),
    ],
)
async def test_an_issuer_that_answers_nonsense_is_broken(
    junk: bytes, reason: str, autojump_clock: MockClock
) -> None:
    async with issuing(Desk()) as (issuer, newcomer):

        async def handle(stream: Stream) -> None:
            await answering_with(junk, stream)

        issuer.serve(JOIN_PROTOCOL_ID, handle, members_only=False)
        with pytest.raises(JoinBroken, match=reason):
            await redeem(newcomer, INVITATION, "kitchen")


async def test_an_issuer_that_never_answers_is_given_up(autojump_clock: MockClock) -> None:
    desk = Desk()
    desk.open = trio.Event()
    settings = JoinSettings(tries_count_max=2)
    async with issuing(desk) as (_, newcomer):
        with pytest.raises(JoinBroken, match="no answer in time"):
            await redeem(newcomer, INVITATION, "kitchen", settings)


# The server


async def answer_to(host: MemoryHost, sent: bytes) -> object:
    stream = await host.open_stream(ISSUER.peer, JOIN_PROTOCOL_ID)
    await stream.send_all(sent)
    frame = await FrameReader(stream).receive()
    return None if frame is None else CODEC.decode(frame)


REQUEST = framed(CODEC.encode(JoinRequest(secret=bytes(16), name="x")))
BUSY = JoinRefused(reason=JoinRefusal.BUSY)


@pytest.mark.parametrize(
    "junk",
    [
        framed(b"\x01junk"),
        (1_025).to_bytes(4, "big"),
        framed(CODEC.encode(BUSY)),
    ],
)
async def test_a_request_that_is_none_is_reset_and_reaches_nobody(
    junk: bytes, autojump_clock: MockClock
) -> None:
    desk = Desk()
    async with issuing(desk) as (_, newcomer):
        await newcomer.connect(ISSUER.peer, MANY)
        began_s = trio.current_time()
        with pytest.raises(StreamBroken):
            await answer_to(newcomer, junk)
        assert trio.current_time() - began_s < 1
        assert desk.asked == []
        assert await answer_to(newcomer, REQUEST) == GRANTED


async def test_a_silent_newcomer_is_given_up_in_time(autojump_clock: MockClock) -> None:
    async with issuing(Desk()) as (_, newcomer):
        await newcomer.connect(ISSUER.peer, MANY)
        stream = await newcomer.open_stream(ISSUER.peer, JOIN_PROTOCOL_ID)
        began_s = trio.current_time()
        with pytest.raises(StreamBroken):
            await stream.receive_some()
        assert trio.current_time() - began_s < 11


async def test_one_peer_may_ask_a_few_times_and_then_slowly(autojump_clock: MockClock) -> None:
    desk = Desk()
    async with issuing(desk) as (_, newcomer):
        await newcomer.connect(ISSUER.peer, MANY)
        answers = [await answer_to(newcomer, REQUEST) for _ in range(7)]
        assert answers == [GRANTED] * 5 + [BUSY] * 2
        await trio.sleep(2)
        assert await answer_to(newcomer, REQUEST) == GRANTED
        assert len(desk.asked) == 6


async def test_new_keys_do_not_help_at_one_address(autojump_clock: MockClock) -> None:
    desk = Desk()
    async with issuing(desk) as (issuer, _):
        issuer.seen_at = lambda peer: ("/ip4/203.0.113.9/tcp/50000",)  # type: ignore[method-assign]
        answers = []
        for number in range(100, 125):
            guesser = issuer.network.host(keys_of(number).peer)
            await guesser.connect(ISSUER.peer, MANY)
            answers.append(await answer_to(guesser, REQUEST))
        assert answers == [GRANTED] * 20 + [BUSY] * 5


async def test_requests_under_way_are_bounded(autojump_clock: MockClock) -> None:
    desk = Desk()
    desk.open = trio.Event()
    answers: list[object] = []
    settings = JoinServerSettings(requests_count_max=2)

    async def ask(host: MemoryHost) -> None:
        await host.connect(ISSUER.peer, MANY)
        answers.append(await answer_to(host, REQUEST))

    async with issuing(desk, settings) as (issuer, _), trio.open_nursery() as nursery:
        for number in range(100, 104):
            nursery.start_soon(ask, issuer.network.host(keys_of(number).peer))
        await trio.sleep(1)
        assert answers == [BUSY, BUSY]
        assert desk.under_way == 2
        desk.open.set()
        await trio.sleep(1)
        assert answers == [BUSY, BUSY, GRANTED, GRANTED]


async def test_redeeming_cancelled_anywhere_leaves_nothing_open(
    autojump_clock: MockClock,
) -> None:
    is_done = False
    for step in range(200):
        async with issuing(Desk()) as (issuer, newcomer):
            is_done = await cancelled_after(newcomer, step)
            await trio.sleep(30)
            for _, stream in newcomer.streams:
                assert stream.outgoing.is_finished or stream.outgoing.is_broken
            assert await redeem(newcomer, INVITATION, "again") == GRANTED
            assert not issuer.handler_errors
        if is_done:
            break
    assert is_done


async def cancelled_after(host: MemoryHost, steps: int) -> bool:
    is_done = False

    async def run() -> None:
        nonlocal is_done
        await redeem(host, INVITATION, "kitchen")
        is_done = True

    host.network.latency_s = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    return is_done
