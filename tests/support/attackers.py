"""Devices that attack one daemon, each kind in a process of its own, bounded in rate and time.

An invitation comes on standard input, and another line when the attack shall begin: until then an
attacker joins and says `ready`. A line of JSON says what came of it. Each kind comes from an
address of loopback of its own, 127.0.1.x, since that is banned as well in the end.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio
from libp2p.abc import ISecureTransport
from libp2p.crypto.x25519 import create_new_key_pair as create_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.pubsub.pb import rpc_pb2
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import FLAG_SYN, TYPE_PING, YAMUX_HEADER_FORMAT
from support.hard_daemons import CODEC, bare_host, greet, hello

from p2p.addresses import parse_address
from p2p.errors import NetworkError
from p2p.framing import framed
from p2p.host import Host
from p2p.identity import key_pair, libp2p_id
from p2p.joining import redeem
from p2p.judge import Judge
from p2p.muxing import NoiseYamuxUpgrader
from p2p.transport import TcpConnection
from wire.codec import FRAME_BYTES_MAX, FRAME_VERSION, encode_envelope
from wire.ids import mesh_text
from wire.keys import Ed25519Keys, Ed25519Verifier
from wire.membership import Invitation, JoinGranted, invitation_from_text
from wire.messages import LINK_PROTOCOL, Heartbeat, Hello, RecordsGiven
from wire.records import Record, RecordKind
from wire.signed import Signed, sign

MESSAGES_PER_S = 10_000
BURST_COUNT = 100  # messages in one write
CONNECTIONS_COUNT = 500
SEGMENT_BYTES = 536  # what loopback's own segments are worth would be megabytes of buffers
UNHURRIED_PER_S = 800  # messages that a member may send
CROWD_ADDRESSES = [f"127.0.2.{number}" for number in range(1, 41)]
READY = "ready"
AGAIN_S = 0.1  # how soon one that was thrown out is back
SILENCE_S = 2.0  # a connection that lives this long was let in


@dataclass(slots=True)
class Attack:
    """One attacker: whom it attacks, and what came of it so far."""

    invitation: Invitation
    seconds: float
    ip: str
    started_s: float = 0
    sent_count: int = 0
    refused_count: int = 0
    shut_out_s: float | None = None  # when it was last let in, so it is banned since then
    hung_up_s: float | None = None  # how long it was borne with at most, if it may come back
    papers: JoinGranted | None = None
    _host: Host | None = field(default=None)

    async def begin(self) -> None:
        """Say that all is ready, and begin when told."""
        print(READY, flush=True)  # noqa: T201 - what the parent waits for
        await trio.to_thread.run_sync(sys.stdin.readline)
        self.started_s = trio.current_time()

    def report(self) -> dict[str, object]:
        """Return what came of it: seconds since the beginning, and counts."""
        return {
            "sent": self.sent_count,
            "refused": self.refused_count,
            "banned_s": None if self.shut_out_s is None else round(self.shut_out_s, 2),
            "hung_up_s": None if self.hung_up_s is None else round(self.hung_up_s, 2),
        }

    def note_let_in(self) -> None:
        """Note that the daemon took something."""
        self.shut_out_s = None

    def note_refused(self) -> None:
        """Note that the daemon takes nothing."""
        self.refused_count += 1
        if self.shut_out_s is None:
            self.shut_out_s = trio.current_time() - self.started_s

    @property
    def host(self) -> Host:
        """The attacker's host, if it is a member's."""
        assert self._host is not None
        return self._host

    async def as_member(self, send: Callable[[Attack], Awaitable[None]]) -> None:
        """Join, link, `send` until thrown out, and come back, until the time is over."""
        invitation = self.invitation
        async with bare_host(os.urandom(32), invitation) as host:
            self._host = host
            await host.admit(invitation.issuer)  # or it would be read as slowly as a stranger
            self.papers = await redeem(host, invitation, "attacker")
            await self.begin()
            with trio.move_on_after(self.seconds):
                while True:
                    try:
                        with trio.fail_after(5):
                            await host.connect(invitation.issuer, invitation.addresses)
                            _, answer = await greet(host, invitation.issuer, self.hello())
                        if not isinstance(answer, Hello):
                            raise NetworkError("refused")
                        self.note_let_in()
                        await send(self)
                    except (NetworkError, trio.TooSlowError):
                        self.note_refused()
                    await trio.sleep(AGAIN_S)

    def hello(self) -> Hello:
        """Return the first frame of the attacker, a certified member."""
        assert self.papers is not None
        return hello(self.papers.genesis, self.papers.chain, LINK_PROTOCOL)

    async def pour(
        self,
        send: Callable[[bytes], Awaitable[None]],
        burst: bytes,
        count: int = BURST_COUNT,
        *,
        per_s: float = MESSAGES_PER_S,
    ) -> None:
        """Send `burst`, of so many messages, again and again at the rate of the attack."""
        begun_s, sent_count = trio.current_time(), 0
        while True:
            await send(burst)
            sent_count += count
            self.sent_count += count
            await trio.sleep_until(begun_s + sent_count / per_s)


# --- without papers -------------------------------------------------------------------------------


async def _from_outside(attack: Attack, say: bytes, count: int) -> None:
    """Hold `count` connections, each of which says something; open a new one for each lost."""
    await attack.begin()
    address = parse_address(attack.invitation.addresses[0])

    async def one() -> None:
        while True:
            try:
                stream = await trio.open_tcp_stream(
                    address.host, address.port, local_address=attack.ip
                )
            except OSError:
                attack.note_refused()
                await trio.sleep(AGAIN_S)
                continue
            attack.sent_count += 1
            async with stream:
                opened_s = trio.current_time()
                with contextlib.suppress(trio.BrokenResourceError):
                    with trio.move_on_after(SILENCE_S):
                        if say:
                            await stream.send_all(say)
                        while await stream.receive_some(4_096):
                            pass
                    if trio.current_time() - opened_s >= SILENCE_S:
                        attack.note_let_in()
                        while await stream.receive_some(4_096):
                            pass
                if trio.current_time() - opened_s < SILENCE_S / 2:
                    attack.note_refused()
            await trio.sleep(AGAIN_S * 5)

    with trio.move_on_after(attack.seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)


async def garbage(attack: Attack) -> None:
    """Say what no libp2p says."""
    await _from_outside(attack, os.urandom(4_096), 100)


async def slow_dials(attack: Attack) -> None:
    """Connect and say nothing."""
    await _from_outside(attack, b"", 100)


async def connections(attack: Attack) -> None:
    """Open 500 connections at once, the first bytes right."""
    await _from_outside(attack, os.urandom(24), CONNECTIONS_COUNT)


async def crowd(attack: Attack) -> None:
    """Know the network key, and hold two connections from each of forty addresses."""
    await attack.begin()

    async def hold(ip: str) -> None:
        while True:
            with contextlib.suppress(Exception):  # however the daemon ended it
                await _hold(attack, ip)
            await trio.sleep(AGAIN_S * 5)

    with trio.move_on_after(attack.seconds):
        async with trio.open_nursery() as nursery:
            for ip in CROWD_ADDRESSES * 2:
                nursery.start_soon(hold, ip)


async def _hold(attack: Attack, ip: str) -> None:
    """Connect as a libp2p host that nobody knows, and then say nothing until thrown out."""
    invitation = attack.invitation
    address = parse_address(invitation.addresses[0])
    attack.sent_count += 1
    async with await trio.open_tcp_stream(address.host, address.port, local_address=ip) as stream:
        connection = TcpConnection(stream, (invitation.network_key,), remote=address)
        keys = key_pair(os.urandom(32))
        noise: ISecureTransport = NoiseTransport(keys, create_x25519_key_pair().private_key)
        upgrader = NoiseYamuxUpgrader(
            {TProtocol(NOISE_PROTOCOL): noise}, lambda peer: False, Judge()
        )
        daemon = libp2p_id(invitation.issuer)
        secured = await upgrader.upgrade_security(RawConnection(connection, True), True, daemon)
        await upgrader.upgrade_connection(secured, daemon)
        while await connection.read():
            pass
        attack.note_refused()


# --- on a link ------------------------------------------------------------------------------------


async def _on_link(attack: Attack, burst: bytes, count: int = BURST_COUNT) -> None:
    async def send(attack: Attack) -> None:
        link, answer = await greet(attack.host, attack.invitation.issuer, attack.hello())
        if not isinstance(answer, Hello):
            raise NetworkError("refused")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_read_all, link.stream.receive_some)
            await attack.pour(link.stream.send_all, burst, count)

    await attack.as_member(_unwrapped(send))


def _unwrapped(send: Callable[[Attack], Awaitable[None]]) -> Callable[[Attack], Awaitable[None]]:
    async def run(attack: Attack) -> None:
        try:
            await send(attack)
        except* NetworkError as group:
            raise NetworkError("thrown out") from group

    return run


async def _read_all(receive: Callable[[], Awaitable[bytes]]) -> None:
    while await receive():
        pass
    raise NetworkError("the daemon ended the stream")


async def forged_records(attack: Attack) -> None:
    """Give records that somebody else signed."""
    owner = Ed25519Keys(os.urandom(32)).peer
    record = Record(
        owner=owner, kind=RecordKind.PRESENCE, incarnation=1 << 40, counter=1, body=b"\x80"
    )
    true = sign(record, Ed25519Keys(os.urandom(32)))
    forged = Signed(body=record, received=true.received, signer=owner, signature=true.signature)
    frame = framed(CODEC.encode(RecordsGiven(records=(forged,))))
    await _on_link(attack, frame * BURST_COUNT)


async def heartbeats(attack: Attack) -> None:
    """Send good messages, far too many."""
    frame = framed(CODEC.encode(Heartbeat(token=1)))
    await _on_link(attack, frame * BURST_COUNT)


async def garbage_frames(attack: Attack) -> None:
    """Send frames that hold nothing."""
    await _on_link(attack, framed(b"\x01\x92\xa4what") * BURST_COUNT)


async def big_frames(attack: Attack) -> None:
    """Send frames of 1 MiB that a newer device might send."""
    envelope = encode_envelope("unheard_of", bytes(FRAME_BYTES_MAX - 32))
    frame = framed(bytes([FRAME_VERSION]) + envelope)
    await _on_link(attack, frame, 200)  # 50 a second


async def slow_reader(attack: Attack) -> None:
    """Ask as much as a member may, and take no answer from the socket."""
    trio.open_tcp_stream = functools.partial(_narrow_stream, attack.ip)
    frame = framed(CODEC.encode(Heartbeat(token=1)))
    peer = attack.invitation.issuer

    async def send(attack: Attack) -> None:
        link, answer = await greet(attack.host, peer, attack.hello())
        if not isinstance(answer, Hello):
            raise NetworkError("refused")
        for connection in attack.host._transport._open:
            connection._receive = trio.sleep_forever  # type: ignore[method-assign]
        begun_s = trio.current_time()
        try:
            await attack.pour(link.stream.send_all, frame * 20, 20, per_s=UNHURRIED_PER_S)
        finally:
            attack.hung_up_s = max(attack.hung_up_s or 0.0, trio.current_time() - begun_s)
            attack.host._transport.abort_all()
            with trio.move_on_after(1, shield=True):
                await attack.host.disconnect(peer)

    await attack.as_member(send)


async def _narrow_stream(ip: str, host: str, port: int) -> trio.SocketStream:
    """Connect with a small window that is never opened."""
    stream = trio.socket.socket()
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * SEGMENT_BYTES)
    await stream.bind((ip, 0))
    await stream.connect((host, port))
    return trio.SocketStream(stream)


# --- beside the link ------------------------------------------------------------------------------


async def _on_gossip(attack: Attack, burst: bytes, count: int) -> None:
    async def send(attack: Attack) -> None:
        stream = await attack.host.open_stream(attack.invitation.issuer, "/meshsub/1.1.0")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_read_all, stream.receive_some)
            await attack.pour(stream.send_all, burst, count)

    await attack.as_member(_unwrapped(send))


def _rpc(rpc: rpc_pb2.RPC) -> bytes:
    encoded = rpc.SerializeToString()
    length, rest = b"", len(encoded)
    while rest > 0x7F:
        length += bytes([rest & 0x7F | 0x80])
        rest >>= 7
    return length + bytes([rest]) + encoded


async def forged_gossip(attack: Attack) -> None:
    """Publish messages that somebody else signed."""
    topic = f"/meshd/{mesh_text(attack.invitation.mesh)}/presence"
    author = libp2p_id(Ed25519Keys(os.urandom(32)).peer)
    rpc = rpc_pb2.RPC()
    for number in range(BURST_COUNT):
        rpc.publish.append(
            rpc_pb2.Message(
                from_id=author.to_bytes(),
                seqno=number.to_bytes(8, "big"),
                topicIDs=[topic],
                data=bytes(100),
                signature=bytes(64),
            )
        )
    await _on_gossip(attack, _rpc(rpc), BURST_COUNT)


async def subscriptions(attack: Attack) -> None:
    """Subscribe to topics and leave them again, far too many."""
    rpc = rpc_pb2.RPC()
    for number in range(25):
        rpc.subscriptions.append(rpc_pb2.RPC.SubOpts(subscribe=True, topicid=f"{number}" * 20))
        rpc.subscriptions.append(rpc_pb2.RPC.SubOpts(subscribe=False, topicid=f"{number}" * 20))
    await _on_gossip(attack, _rpc(rpc) * 2, BURST_COUNT)


async def empty_rpcs(attack: Attack) -> None:
    """Send RPCs of GossipSub with nothing in them."""
    await _on_gossip(attack, b"\x00" * BURST_COUNT, BURST_COUNT)


async def yamux_pings(attack: Attack) -> None:
    """Ask below all streams whether somebody is there."""
    ping = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, FLAG_SYN, 0, 7)

    async def send(attack: Attack) -> None:
        peer = libp2p_id(attack.invitation.issuer)
        connections = attack.host._swarm.live_connections(peer)
        if not connections:
            raise NetworkError("not connected")
        muxed = connections[0].muxed_conn

        async def checked(burst: bytes) -> None:
            try:
                await muxed._write_frame(burst)  # type: ignore[attr-defined] # of Yamux
            except Exception as error:
                raise NetworkError("the daemon closed the connection") from error

        await attack.pour(checked, ping * BURST_COUNT)

    await attack.as_member(send)


async def pings(attack: Attack) -> None:
    """Ping on one stream."""

    async def send(attack: Attack) -> None:
        stream = await attack.host.open_stream(attack.invitation.issuer, "/ipfs/ping/1.0.0")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_read_all, stream.receive_some)
            await attack.pour(stream.send_all, bytes(32) * BURST_COUNT)

    await attack.as_member(_unwrapped(send))


async def identifies(attack: Attack) -> None:
    """Ask on one stream after the other who the daemon is."""

    async def send(attack: Attack) -> None:
        while True:
            async with trio.open_nursery() as nursery:
                for _ in range(16):
                    nursery.start_soon(identify, attack)

    async def identify(attack: Attack) -> None:
        attack.sent_count += 1
        stream = await attack.host.open_stream(attack.invitation.issuer, "/ipfs/id/1.0.0")
        while await stream.receive_some():
            pass
        await stream.aclose()

    await attack.as_member(_unwrapped(send))


KINDS: dict[str, Callable[[Attack], Awaitable[None]]] = {
    attack.__name__: attack
    for attack in (
        garbage,
        slow_dials,
        connections,
        crowd,
        forged_records,
        heartbeats,
        garbage_frames,
        big_frames,
        slow_reader,
        forged_gossip,
        subscriptions,
        empty_rpcs,
        yamux_pings,
        pings,
        identifies,
    )
}


# --- as processes ---------------------------------------------------------------------------------


@contextmanager
def attacking(kind: str, token: str, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Let an attacker run inside the block, where it attacks after `begin`."""
    tests = Path(__file__).parents[1]
    paths = [str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, "-m", "support.attackers", kind, str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert process.stdin is not None
    process.stdin.write(token + "\n")
    process.stdin.flush()
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


async def await_readiness(attacker: subprocess.Popen[str]) -> None:
    """Return when an attacker has its papers, if it needs any, and waits for `begin`."""
    assert attacker.stdout is not None
    while line := await trio.to_thread.run_sync(attacker.stdout.readline, abandon_on_cancel=True):
        if line.strip() == READY:
            return
    raise AssertionError("an attacker ended before its attack")


def begin(attacker: subprocess.Popen[str]) -> None:
    """Let an attacker that is ready attack."""
    assert attacker.stdin is not None
    attacker.stdin.write("begin\n")
    attacker.stdin.flush()


def report_of(attacker: subprocess.Popen[str]) -> dict[str, float | None]:
    """Return what an attacker that has ended says: `Attack.report`."""
    assert attacker.stdout is not None
    report: dict[str, float | None] = json.loads(attacker.stdout.read().splitlines()[-1])
    return report


def main() -> None:
    """Attack as told by the arguments: the kind, and for how many seconds."""
    kind, seconds = sys.argv[1], float(sys.argv[2])
    invitation = invitation_from_text(sys.stdin.readline().strip(), Ed25519Verifier())
    attack = Attack(invitation, seconds, ip=f"127.0.1.{1 + list(KINDS).index(kind)}")
    open_tcp_stream = trio.open_tcp_stream
    trio.open_tcp_stream = functools.partial(open_tcp_stream, local_address=attack.ip)
    # No attacker elsewhere takes the daemon's core: this one gets what nobody else wants.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    trio.run(KINDS[kind], attack)
    print(json.dumps(attack.report()))  # noqa: T201 - what the parent waits for


if __name__ == "__main__":
    main()
