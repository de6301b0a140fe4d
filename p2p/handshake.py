"""The handshake of a link: papers both ways before anything else is answered.

Who dialled sends its `Hello` at once; the other checks it and answers with its own, which says that
it accepts, or with `LinkRefused`. So the dialler knows when it is let in, and why when it is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from p2p.framing import FrameReader, framed
from p2p.protocol_errors import LinkLost, LinkNotAccepted, RefusedByPeer
from p2p.streams import Stream
from wire.codec import FrameCodec
from wire.errors import MalformedFrame, NotAMember
from wire.ids import PeerId
from wire.membership import Chain, Genesis, check_chain, mesh_id_of
from wire.messages import LINK_PROTOCOL, Hello, LinkRefused, RefusalReason
from wire.signed import Signed

HANDSHAKE_BYTES_MAX = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """What a device shows, and what it wants to see."""

    codec: FrameCodec
    hello: Callable[[], Hello]
    genesis: Signed[Genesis]
    objection: Callable[[PeerId, Chain], LinkRefused | None]  # to one whose papers are in order

    async def greet(self, stream: Stream, reader: FrameReader) -> Hello:
        """Introduce ourselves to a device we dialled; return its papers, which are good.

        Raises what `await_hello` raises.
        """
        await self._send(stream, self.hello())
        return await self.await_hello(stream, reader)

    async def await_hello(self, stream: Stream, reader: FrameReader) -> Hello:
        """Return the papers of the device at the other end, which are good.

        Who was dialled calls this first, and `welcome` once it takes the link. Raises LinkError
        (LinkNotAccepted after telling it why) and StreamBroken.
        """
        try:
            return self.check(stream.peer, await self._receive_hello(reader))
        except LinkNotAccepted as error:
            await self.refuse(stream, error.refusal)
            raise

    async def welcome(self, stream: Stream) -> None:
        """Tell a device whose papers were good that it is let in. Raises StreamBroken."""
        await self._send(stream, self.hello())

    async def refuse(self, stream: Stream, refusal: LinkRefused) -> None:
        """Tell a device that, and why, it is not let in. Raises StreamBroken."""
        await self._send(stream, refusal)

    async def _receive_hello(self, reader: FrameReader) -> Hello:
        reader.allow(HANDSHAKE_BYTES_MAX)
        try:
            frame = await reader.receive()
            if frame is None:
                raise LinkLost("the device closed the stream during the handshake")
            message = self.codec.decode(frame)
        except MalformedFrame as error:
            raise LinkNotAccepted(RefusalReason.MALFORMED, str(error)) from error
        if isinstance(message, LinkRefused):
            raise RefusedByPeer(message)
        if not isinstance(message, Hello):
            detail = f"{type(message).__name__} before Hello"
            raise LinkNotAccepted(RefusalReason.MALFORMED, detail)
        return message

    def check(self, peer: PeerId, hello: Hello) -> Hello:
        """Return `hello` if it makes `peer` a member of our mesh. Raises LinkNotAccepted."""
        mesh = mesh_id_of(self.genesis)
        if hello.mesh != mesh or mesh_id_of(hello.genesis) != mesh:
            # Whoever is in another mesh holds no more than our network key: it is not told ours.
            raise LinkNotAccepted(RefusalReason.OTHER_MESH, "this device is of another mesh")
        try:
            check_chain(hello.chain, genesis=self.genesis, subject=peer)
        except NotAMember as error:
            raise LinkNotAccepted(RefusalReason.NOT_A_MEMBER, str(error)) from error
        if (objection := self.objection(peer, hello.chain)) is not None:
            raise LinkNotAccepted(objection.reason, objection.detail, objection.removals)
        if LINK_PROTOCOL.common_with(hello.protocol) is None:
            ours, theirs = LINK_PROTOCOL, hello.protocol
            raise LinkNotAccepted(
                RefusalReason.NO_COMMON_VERSION,
                f"we speak link versions {ours.lowest} to {ours.highest}, "
                f"you {theirs.lowest} to {theirs.highest}",
            )
        return hello

    async def _send(self, stream: Stream, message: Hello | LinkRefused) -> None:
        await stream.send_all(framed(self.codec.encode(message)))
